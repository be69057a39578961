"""Running lm-evaluation-harness on a model folder, which any program loads as a causal LM."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from grace_eval.general.suites import TASK_FOLDER, GeneralTask


class MissingHarnessError(ImportError, ValueError):
    """lm-evaluation-harness is not installed."""


class MissingGeneralDataError(FileNotFoundError):
    """Data sets of general tasks are not here."""


def check_harness() -> None:
    """Refuse to start without lm-evaluation-harness.

    Raises:
        MissingHarnessError: Names the command that installs it.
    """
    if find_spec("lm_eval") is None:
        raise MissingHarnessError("general tasks need lm-evaluation-harness: pip install 'grace-st[eval]'")


def check_data(tasks: Sequence[GeneralTask], what: str) -> None:
    """When the hub may not be asked (``HF_HUB_OFFLINE``), refuse tasks whose data sets are not prepared in the cache.

    Raises:
        MissingGeneralDataError: Each data set is named, with what to do.
    """
    import datasets
    from huggingface_hub import constants

    if not (constants.HF_HUB_OFFLINE or datasets.config.HF_DATASETS_OFFLINE):
        return
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    missing = [task for task in tasks if not (cache / task.dataset.replace("/", "___")).is_dir()]
    if missing:
        named = ", ".join(f"{task.label} needs {task.dataset}" for task in missing)
        names = ",".join(task.task for task in missing)
        raise MissingGeneralDataError(
            f"{what}: data of general tasks are not in the cache, and the hub may not be asked (HF_HUB_OFFLINE): "
            f"{named}. With a network: lm-eval run --model dummy --tasks {names} --limit 1 "
            f"--include_path {TASK_FOLDER} --confirm_run_unsafe_code fetches them; or copy that machine's "
            "HF_DATASETS_CACHE"
        )


def check_code(tasks: Sequence[GeneralTask], what: str) -> None:
    """Refuse tasks that run code which the model has written, unless ``HF_ALLOW_CODE_EVAL=1`` says that they may.

    Raises:
        PermissionError: It does not say so.
    """
    running = [task.label for task in tasks if task.unsafe]
    if running and not code_is_allowed():
        raise PermissionError(
            f"{what}: {', '.join(running)} runs code that the model has written. In a sandbox, set HF_ALLOW_CODE_EVAL=1"
        )


def code_is_allowed() -> bool:
    """Whether the user has allowed code that models write, as the package ``evaluate`` asks for it."""
    return os.environ.get("HF_ALLOW_CODE_EVAL") == "1"


def evaluate(
    folder: str,
    tasks: Sequence[str | Mapping[str, Any]],
    *,
    device: str | None = None,
    system_message: str | None = None,
    limit: int | None = None,
    batch_size: int | str = "auto",
) -> dict[str, dict[str, Any]]:
    """Evaluate a model folder as a causal LM behind its chat template, greedily.

    Args:
        folder: The folder.
        tasks: Names of tasks, ours among them, or their configurations.
        device: Where to run; None is the best there is.
        system_message: For the chat template; None is the template's own.
        limit: Most rows of each task.
        batch_size: Rows at once.

    Returns:
        The harness's results, by task.

    Raises:
        MissingHarnessError: lm-evaluation-harness is not installed.
    """
    check_harness()
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    precision = "float32" if chosen == "cpu" else "auto"
    with _silence():
        model = HFLM(pretrained=folder, device=chosen, dtype=precision, batch_size=batch_size)
        found = simple_evaluate(
            model=model,
            tasks=list(tasks),
            task_manager=TaskManager(include_path=str(TASK_FOLDER)),
            system_instruction=system_message,
            apply_chat_template=True,
            limit=limit,
            bootstrap_iters=0,
            log_samples=False,
            confirm_run_unsafe_code=code_is_allowed(),
        )
    assert found is not None  # None is for processes other than the first
    results: dict[str, dict[str, Any]] = {**found.get("groups", {}), **found["results"]}
    return results


@contextmanager
def _silence() -> Iterator[None]:
    """Nothing on stderr: the harness's bars cannot be switched off, and it asks git, which may complain.

    Errors are raised all the same.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nothing, redirect_stderr(io.StringIO()):
            os.dup2(nothing.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
