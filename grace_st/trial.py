"""Whether a causal LM can be encoded in one pass: tried on three short texts, before anything is written."""

from __future__ import annotations

import torch

from grace_st.engines.base import NonFiniteVectorError, PromptTokens, Sampling
from grace_st.engines.forward import CausalForward
from grace_st.module import GenerateThenPool


def try_module(module: GenerateThenPool, name: str) -> None:
    """Encode a little, and refuse a model whose vectors would be wrong.

    Looks whether later tokens change earlier states (an encoder's would), and whether pooling while generating gives
    what a forward over the finished text gives, for prompts of different lengths decoded side by side.

    Args:
        module: The model as it would be used.
        name: What messages call it.

    Raises:
        ValueError: It is not causal, gives NaN or infinity, or cannot be decoded one token at a time.
    """
    architecture = type(module.model).__name__
    prompts = module.prompts_of(["a", "a longer text, for comparison", ""])
    try:
        _refuse_non_causal(module, prompts[0], name)
        rollouts = module.rollouts(prompts, Sampling(max_new_tokens=3))
        again = module.rollouts(prompts, rationales=[rollout.ids for rollout in rollouts])
    except NonFiniteVectorError as error:
        raise ValueError(
            f"{name} gives NaN or infinity: its weights are damaged, or overflow in {module.model.dtype}"
        ) from error
    except (RuntimeError, IndexError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{name} ({architecture}) cannot be decoded one token at a time: {type(error).__name__}: {error}"
        ) from error
    for one_pass, two_passes in zip(rollouts, again, strict=True):
        # Loose, since half precision is: a wrong position or mask is far outside.
        if torch.cosine_similarity(one_pass.vector, two_passes.vector, dim=0) < 0.98:
            raise ValueError(
                f"{name} ({architecture}) gives other states one token at a time than at once, so it cannot be "
                "encoded in one pass"
            )


def _refuse_non_causal(module: GenerateThenPool, prompt: PromptTokens, name: str) -> None:
    forward = CausalForward(module.model, "mean", module.config.pad_token_id)
    ids = torch.tensor([[*prompt.ids, prompt.ids[0], prompt.ids[-1]]], device=module.model.device)
    changed = ids.clone()
    changed[0, -1] = (ids[0, -1] + 1) % forward.vocabulary_size
    mask = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        states, others = (
            forward.feed(item, mask, 0, None, want_logits=False)[0][:, :-1].float() for item in (ids, changed)
        )
    if bool(states.isfinite().all()) and not torch.allclose(states, others, rtol=0, atol=1e-4):
        raise ValueError(
            f"{name} is not causal: its states depend on later tokens, as an encoder's do. GRACE needs a decoder-only "
            "causal LM"
        )
