"""What rollouts without an end get: the paper's penalty (GRACE, arXiv 2510.04506, Eq. 28), ours, and DAPO's.

Knows rewards and lengths only.
"""

from __future__ import annotations

import inspect
import logging
import math
from typing import Literal, get_args

import torch
from torch import Tensor

from grace_train.tensor_checks import require_choice, require_floats, require_mask

LengthPenalty = Literal["below_group", "replace", "none"]

LENGTH_PENALTIES: tuple[LengthPenalty, ...] = get_args(LengthPenalty)
"""The names of the penalties of rollouts that are not finished."""

_logger = logging.getLogger(__name__)
_warned: set[tuple[str, int]] = set()


def apply_length_penalty(
    rewards: Tensor, finished: Tensor, penalty: LengthPenalty = "below_group", gamma: float = 1.0
) -> Tensor:
    """The rewards, with those of rollouts that reached the cap without EOS replaced.

    Args:
        rewards: ``[B, K]``, scaled.
        finished: ``[B, K]`` bool; False where a rollout reached the cap without EOS.
        penalty: ``"below_group"``: the lowest reward among the group's finished rollouts, minus gamma (-gamma where
            none is finished), so that an unfinished rollout never has the highest reward while one is finished.
            ``"replace"``: -gamma, Eq. 28. That penalises only while the other rewards are above -gamma: a warning
            through `logging`, once for each place of call, tells where their mean is below. ``"none"``: nothing.
        gamma: In the unit of the rewards, above 0.

    Returns:
        ``[B, K]``.

    Raises:
        ValueError: A shape, dtype or option that does not fit.
    """
    require_choice("length penalty", penalty, LENGTH_PENALTIES)
    require_floats("rewards", rewards, "[B, K]")
    require_mask("finished", finished, tuple(rewards.shape), "[B, K]")
    if not (math.isfinite(gamma) and gamma > 0):
        raise ValueError(f"gamma must be a number > 0, got {gamma}: to switch the penalty off, use penalty='none'")
    if penalty == "none":
        return rewards
    if penalty == "replace":
        level = rewards.mean().item()
        if level < -gamma:
            _warn_once(level, gamma)
        return torch.where(finished, rewards, -gamma)
    lowest = rewards.masked_fill(~finished, math.inf).amin(dim=1, keepdim=True)
    lowest = torch.where(finished.any(dim=1, keepdim=True), lowest, 0.0)
    return torch.where(finished, rewards, lowest - gamma)


def soft_overlong_penalty(lengths: Tensor, max_new_tokens: int, buffer: int) -> Tensor:
    """DAPO's soft over-length punishment (arXiv 2503.14476, Eq. 13), to be added to rewards of comparable size.

    0 up to ``max_new_tokens - buffer`` tokens, then falling linearly to -1 at ``max_new_tokens``.

    Args:
        lengths: ``[B, K]``, in tokens, EOS included.
        max_new_tokens: The cap.
        buffer: Over how many tokens below the cap the punishment grows.

    Returns:
        ``[B, K]`` float32, in [-1, 0].

    Raises:
        ValueError: ``lengths`` is not ``[B, K]``, or the buffer is not between 1 and the cap.
    """
    if lengths.ndim != 2:
        raise ValueError(f"lengths must be [B, K], got {list(lengths.shape)}")
    if not 1 <= buffer <= max_new_tokens:
        raise ValueError(f"buffer must be from 1 to max_new_tokens = {max_new_tokens}, got {buffer}")
    return ((max_new_tokens - buffer - lengths.float()) / buffer).clamp(min=-1.0, max=0.0)


def _warn_once(level: float, gamma: float) -> None:
    frame = inspect.currentframe()
    caller = frame.f_back.f_back if frame is not None and frame.f_back is not None else None
    place = ("", 0) if caller is None else (caller.f_code.co_filename, caller.f_lineno)
    if place in _warned:
        return
    _warned.add(place)
    _logger.warning(
        "length_penalty='replace' gives unfinished rollouts the reward %g, and the mean reward is %.3g: it pays to be "
        "unfinished. Use 'below_group', or a larger gamma",
        -gamma,
        level,
        stacklevel=3,
    )
