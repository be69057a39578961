"""Presets made quick."""

from __future__ import annotations

from dataclasses import replace

from grace_train.nano.presets import Preset


def small(preset: Preset) -> Preset:
    """The same model with a tokenizer of few samples and short rationales: an untrained one ends none by itself."""
    return replace(preset, tokenizer_samples=1000, max_new_tokens=8)
