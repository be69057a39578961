"""Runs verl and vLLM without a GPU, for the tests in tests/engines. Nothing imports this module.

It is loaded into every process of a run by verl itself, through ``VERL_USE_EXTERNAL_MODULES``; `ENVIRONMENT` and
`SETTINGS` are what such a run needs beside it. It registers a platform "cpu" with verl and mends what
assumes a GPU. Not for training: vLLM on a CPU is a build by a third party, and slow.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import sys
import types
from collections.abc import Iterator
from typing import Any

import torch

ENVIRONMENT = {
    "VERL_USE_EXTERNAL_MODULES": "grace_train.verl_engine.cpu_support",
    "VERL_PLATFORM": "cpu",
    "VERL_ENGINE_DEVICE": "cuda",  # the name under which verl registers its FSDP engines
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}

SETTINGS: dict[str, Any] = {
    "trainer.device": "cpu",
    "actor_rollout_ref.rollout.enforce_eager": True,
    "actor_rollout_ref.rollout.free_cache_engine": False,
    "actor_rollout_ref.rollout.enable_sleep_mode": False,
    # A seeded request whose prompt is read in pieces ends vLLM on a CPU ("CPU Generator does not use offset").
    "actor_rollout_ref.rollout.enable_chunked_prefill": False,
    "actor_rollout_ref.rollout.max_num_seqs": 32,
    "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes": 64,
    "transfer_queue.backend.SimpleStorage.num_data_storage_units": 1,
    "ray_kwargs.ray_init.num_cpus": 16,
    "ray_kwargs.ray_init.num_gpus": 1,
}


def _vllm_has_another_name() -> None:
    """Verl asks for the version of "vllm"; the distribution for CPUs is called "vllm-cpu"."""
    original = importlib.metadata.version

    def version(name: str) -> str:
        try:
            return original(name)
        except importlib.metadata.PackageNotFoundError:
            if name != "vllm":
                raise
            return original("vllm-cpu") + "+cpu"

    importlib.metadata.version = version  # type: ignore[assignment]


class _CpuModule(types.ModuleType):
    """Stands for ``torch.cuda``."""

    Stream = torch.cpu.Stream
    stream = staticmethod(torch.cpu.stream)
    current_stream = staticmethod(torch.cpu.current_stream)

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> torch.device:
        return torch.device("cpu")

    def get_device_name(self, *_: Any) -> str:
        return "cpu"

    def mem_get_info(self, *_: Any) -> tuple[int, int]:
        import psutil

        memory = psutil.virtual_memory()
        return memory.available, memory.total

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def get_rng_state(self, *_: Any) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, *_: Any) -> None:
        torch.set_rng_state(state)

    def _nothing(self, *_: Any, **__: Any) -> None:
        return None

    def _zero(self, *_: Any) -> int:
        return 0

    synchronize = empty_cache = ipc_collect = set_device = reset_peak_memory_stats = _nothing
    memory_allocated = memory_reserved = max_memory_allocated = max_memory_reserved = _zero


def _register_platform() -> None:
    from verl.plugin.platform.platform_base import PlatformBase
    from verl.plugin.platform.platform_manager import PlatformRegistry

    module = _CpuModule("grace_cpu")

    @PlatformRegistry.register(platform="cpu")
    class CpuPlatform(PlatformBase):
        """A CPU as verl sees an accelerator."""

        device_name = "cpu"
        vendor_name = "cpu"
        device_module = module

        def is_available(self) -> bool:
            return True

        def device_count(self) -> int:
            return 1

        def current_device(self) -> torch.device:
            return torch.device("cpu")

        def set_device(self, *_: Any) -> None:
            return None

        synchronize = empty_cache = set_allocator_settings = profiler_start = profiler_stop = cudart = set_device

        def manual_seed(self, seed: int) -> None:
            torch.manual_seed(seed)

        manual_seed_all = manual_seed

        def get_device_capability(self, *_: Any) -> tuple[None, None]:
            return None, None

        def communication_backend_name(self) -> str:
            return "gloo"

        def visible_devices_envvar(self) -> str:
            return "CUDA_VISIBLE_DEVICES"

        @contextlib.contextmanager
        def nvtx_range(self, *_: Any) -> Iterator[None]:
            yield

        def ray_resource_name(self) -> str:
            return "GPU"  # Ray counts logical ones, as many as it is told to

        def ray_noset_envvars(self) -> list[str]:
            return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

        def is_ipc_supported(self) -> bool:
            return False  # weights go to vLLM through shared memory


def _only_gloo() -> None:
    """Verl asks for gloo and an accelerator's backend together."""
    import verl.utils.distributed as distributed

    original = distributed.initialize_global_process_group_ray

    def initialize(timeout_second: int | None = None, backend: str | None = None) -> Any:
        return original(timeout_second=timeout_second, backend=backend or "gloo")

    distributed.initialize_global_process_group_ray = initialize


def _no_pinned_memory() -> None:
    """Verl keeps the reference model in pinned memory, which only an accelerator's driver gives."""
    from torch.distributed.fsdp import CPUOffloadPolicy

    original = CPUOffloadPolicy.__init__

    def initialize(self: Any, pin_memory: bool = False) -> None:
        original(self, pin_memory=False)

    CPUOffloadPolicy.__init__ = initialize  # type: ignore[method-assign]


def _plain_linear_layers() -> None:
    """VLLM re-packs weights for CPUs, and then a new weight has no place to go: an update would hang."""
    if "vllm" not in sys.modules:
        return
    import vllm.model_executor.layers.utils as layers

    def plain(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    layers.dispatch_cpu_unquantized_gemm = plain


if os.environ.get("VERL_PLATFORM") == "cpu":
    _vllm_has_another_name()
    _register_platform()
    _only_gloo()
    _no_pinned_memory()
    _plain_linear_layers()
