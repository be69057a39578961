"""Whether a result that is there is the result of a run: a hash of what its figures depend on.

The code itself is not among it, or nothing could ever be mended without making every run again: a run's file names the
version of the package instead.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import torch
import transformers

from grace_st import __version__
from grace_train.config_files import load_config

_ELSEWHERE = ("model", "output")  # places; what is in them counts
_NEWER = (("reward", "repetition", 0.0), ("reward", "repetition_ngram", 3))
"""Settings that came after the first records, left out at the values at which they do nothing."""


def run_digest(changes: Sequence[str] | None, start_revision: str, **more: Any) -> str:
    """The digest of a run.

    Args:
        changes: To the configuration ``nano``; None where nothing is trained. All settings count, those that are at
            their defaults as well, but for `_NEWER`.
        start_revision: Hash of the start model's whole folder, `grace_st.fingerprint.folder_revision`.
        more: JSON values: what is measured, and on which data.

    Returns:
        16 hexadecimal digits.
    """
    config: dict[str, Any] | None = None
    if changes is not None:
        every = load_config("nano", changes).to_dict()
        config = {name: value for name, value in every.items() if name not in _ELSEWHERE}
        if config["reward"]["lambda_hard"] is None:  # without rollouts it means nothing; the records have a number
            config["reward"]["lambda_hard"] = 0.2
        for section, name, neutral in _NEWER:
            if config[section][name] == neutral:
                del config[section][name]
    content = {"config": config, "start": start_revision, **more}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def sha256_of(*texts: str) -> str:
    """Of some texts, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{len(text)}\0{text}".encode())
    return digest.hexdigest()[:16]


def versions() -> dict[str, str]:
    """What a run's file says about the code that made it."""
    return {"grace-st": __version__, "torch": torch.__version__, "transformers": transformers.__version__}
