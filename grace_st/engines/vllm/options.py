"""Options of the vLLM engine, checked before anything is started."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from typing import Any

LEAST_TOKENS = 32
_LIMITS = ("start_limit", "step_limit")


@dataclass(frozen=True, kw_only=True)
class VllmOptions:
    """How vLLM runs. None leaves a value to vLLM.

    Attributes:
        two_pass: Pool in a second pass over prompt and rationale, instead of while generating: slower, leans on fewer
            of vLLM's internals, and is the way with speculative decoding.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``; None computes in float32 on a CPU and in the
            checkpoint's dtype elsewhere.
        tensor_parallel_size: GPUs that share the weights.
        gpu_memory_utilization: Share of a GPU's memory for weights and cache, in (0, 1].
        max_model_len: Longest prompt with its rationale, in tokens; None takes what the model folder's limits need, and
            at least 4,096 where the context allows it.
        max_num_seqs: Texts decoded at once.
        max_num_batched_tokens: Tokens of one step, at least 32.
        enforce_eager: Neither compile the model nor record CUDA graphs: starts faster, runs slower.
        enable_chunked_prefill: Read long prompts in pieces. On a CPU off unless asked for, since vLLM cannot then
            sample with seeds there.
        quantization: vLLM's name of a quantization.
        kv_cache_dtype: Of the cache, e.g. ``"fp8"``.
        cpu_cache_gib: Size of the cache on a CPU, in GiB; None takes ``VLLM_CPU_KVCACHE_SPACE``, or 4.
        speculative_config: vLLM's speculative decoding, e.g. ``{"method": "ngram", ...}``; needs ``two_pass``.
        start_limit: Seconds that starting may take.
        step_limit: Seconds that vLLM may go on without having made a step.

    Raises:
        ValueError: A value is out of range, or two do not go together.
    """

    two_pass: bool = False
    dtype: str | None = None
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    enforce_eager: bool | None = None
    enable_chunked_prefill: bool | None = None
    quantization: str | None = None
    kv_cache_dtype: str | None = None
    cpu_cache_gib: int | None = None
    speculative_config: Mapping[str, Any] | None = None
    start_limit: float = 1800.0
    step_limit: float = 300.0

    def __post_init__(self) -> None:
        for name in ("tensor_parallel_size", "cpu_cache_gib", "max_model_len", "max_num_seqs"):
            self._check_whole(name)
        self._check_whole("max_num_batched_tokens")
        if self.max_num_batched_tokens is not None and self.max_num_batched_tokens < LEAST_TOKENS:
            raise ValueError(
                f"engine option max_num_batched_tokens must be at least {LEAST_TOKENS}, got "
                f"{self.max_num_batched_tokens}: the check at the start reads that many at once"
            )
        for name in ("two_pass", "enforce_eager", "enable_chunked_prefill"):
            value = getattr(self, name)
            if not isinstance(value, bool) and (name == "two_pass" or value is not None):
                raise ValueError(f"engine option {name} must be true or false, got {value!r}")
        for name in ("quantization", "kv_cache_dtype"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise ValueError(f"engine option {name} must be a name of vLLM's, got {value!r}")
        if self.dtype not in (None, "float32", "bfloat16", "float16"):
            raise ValueError(f"engine option dtype must be float32, bfloat16 or float16, got {self.dtype!r}")
        share = self.gpu_memory_utilization
        if share is not None and (not isinstance(share, Real) or isinstance(share, bool) or not 0 < float(share) <= 1):
            raise ValueError(f"engine option gpu_memory_utilization must be a share in (0, 1], got {share!r}")
        for name in _LIMITS:
            value = getattr(self, name)
            if not isinstance(value, Real) or isinstance(value, bool) or not 0 < float(value) < float("inf"):
                raise ValueError(f"engine option {name} must be a number of seconds > 0, got {value!r}")
        if self.speculative_config is not None:
            if not isinstance(self.speculative_config, Mapping):
                raise ValueError(
                    f"engine option speculative_config must be a dictionary of vLLM's, got {self.speculative_config!r}"
                )
            if not self.two_pass:
                raise ValueError(
                    "speculative decoding computes states of tokens that are then rejected, so it cannot pool while it "
                    "generates: add the engine option two_pass=true"
                )
        if self.two_pass and self.enable_chunked_prefill:
            raise ValueError(
                "two_pass=true reads each text with its rationale in one piece, so enable_chunked_prefill=true does "
                "not go with it: leave one of them out"
            )

    def _check_whole(self, name: str) -> None:
        value = getattr(self, name)
        if value is None:
            return
        if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < 1:
            raise ValueError(f"engine option {name} must be an integer >= 1, got {value!r}")

    @classmethod
    def of(cls, options: Mapping[str, Any] | None) -> VllmOptions:
        """Options from a dictionary.

        Raises:
            ValueError: One is unknown (the closest known is named), or see the class.
        """
        known = [field.name for field in fields(cls)]
        for name in options or ():
            if name in known:
                continue
            if name == "enable_prefix_caching":
                raise ValueError(
                    "engine option enable_prefix_caching is not known: vLLM does not compute states of cached tokens, "
                    "and they are pooled, so that cache stays off"
                )
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f": did you mean {close[0]}?" if close else f"; known are {', '.join(known)}"
            raise ValueError(f"unknown engine option {name!r} of vllm{hint}")
        return cls(**(options or {}))

    def fingerprint(self) -> dict[str, Any]:
        """What vectors may depend on: all but the limits of waiting."""
        values = {name: value for name, value in asdict(self).items() if name not in _LIMITS and value is not None}
        return dict(sorted(values.items()))
