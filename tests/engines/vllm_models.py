"""Tiny model folders for the real vLLM, and the reference: this package's own engine on the same weights."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

import grace_st
from grace_st.engines.base import PromptTokens, Rollout, Sampling
from grace_st.engines.torch_engine import TorchEngine
from grace_st.engines.vllm.engine import VllmEngine
from grace_st.engines.vllm.options import VllmOptions
from tests import tiny

# Heads of 32 dimensions are the smallest that vLLM computes on a CPU.
SHAPE = {
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
OPTIONS: dict[str, Any] = {"cpu_cache_gib": 1, "enforce_eager": True, "max_num_seqs": 8, "start_limit": 300}
STOPS = tuple(range(5, 20))
CONTEXT = 512


def checkpoint(folder: Path, architecture: str) -> Path:
    """A random model of a shape."""
    tiny.save_checkpoint(folder, architecture, **SHAPE)
    return folder


def model_folder(root: Path, architecture: str) -> Path:
    """A GRACE model folder of a shape."""
    grace_st.convert(checkpoint(root / "plain", architecture), root / "grace", max_seq_length=128, max_new_tokens=24)
    return root / "grace"


def engine(folder: Path, *, pooling: Any = "mean", longest: int = 200, **options: Any) -> VllmEngine:
    """vLLM over a checkpoint, not yet started."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    return VllmEngine(
        folder,
        eos_token_ids=STOPS,
        vocabulary_size=model.config.vocab_size,
        context_length=CONTEXT,
        longest=longest,
        pooling=pooling,
        options=VllmOptions.of({**OPTIONS, **options}),
    )


def reference(folder: Path, pooling: Any = "mean") -> TorchEngine:
    """The same weights with transformers."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return TorchEngine(model, eos_token_ids=STOPS, pad_token_id=0, pooling=pooling)


def prompts(*lengths: int, vocabulary: int = 400) -> list[PromptTokens]:
    """Random prompts; a third of each is not pooled."""
    generator = torch.Generator().manual_seed(len(lengths))
    return [
        PromptTokens(tuple(torch.randint(0, vocabulary, (length,), generator=generator).tolist()), length // 3)
        for length in lengths
    ]


def assert_same(found: list[Rollout], wanted: list[Rollout]) -> None:
    """Equal tokens, vectors and log-probabilities to 1e-4."""
    assert [(one.ids, one.stop_id) for one in found] == [(one.ids, one.stop_id) for one in wanted]
    for one, two in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one.vector, two.vector, atol=1e-4)
        if two.logprobs is not None:
            assert one.logprobs is not None
            np.testing.assert_allclose(one.logprobs, two.logprobs, atol=1e-4)


def assert_consistent(torch_engine: TorchEngine, work: list[PromptTokens], found: list[Rollout], samples: int) -> None:
    """Vectors are those of the tokens that were sampled."""
    repeated = [prompt for prompt in work for _ in range(samples)]
    for one, two in zip(found, torch_engine.embed(repeated, [rollout.ids for rollout in found]), strict=True):
        np.testing.assert_allclose(one.vector, two.vector, atol=1e-4)


@contextmanager
def in_one_process() -> Iterator[None]:
    """vLLM's engine in the host's own process: starts sooner than in one more."""
    before = os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING")
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"]
        else:
            os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = before


def processes(group: int) -> dict[int, str]:
    """The living processes of a group, and what they call themselves."""
    listed = subprocess.run(
        ["ps", "-eww", "-o", "pid=,pgid=,stat=,args="], capture_output=True, text=True, check=True
    ).stdout
    found = {}
    for line in listed.splitlines():
        pid, own, state, args = line.split(maxsplit=3)
        if int(own) == group and not state.startswith("Z"):
            found[int(pid)] = args
    return found


def wait_until_gone(group: int, seconds: float = 20) -> None:
    """Wait until no process of a group lives."""
    deadline = time.monotonic() + seconds
    while left := processes(group):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


LENGTHS = (5, 40, 17, 90, 33, 8, 64, 21, 50, 3, 2, 12)
GREEDY = Sampling(max_new_tokens=20, logprobs=True)
