"""Our configuration in verl's terms, and what of it the verl engine cannot do.

Pure: `derived` and `check` need neither verl nor Ray. `compose` merges with verl's own configuration.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from grace_train.config import TrainConfig
from grace_train.options import ConfigError
from grace_train.verl_engine.agent_names import AGENT_LOOP

_LOOPS = Path(__file__).with_name("agent_loops.yaml")
_ACTOR, _SERVED = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
# What verl would ignore, or what would then mean something else to verl than to us; and our own setting for it.
_OURS = {
    "actor_rollout_ref.model.path": "model",
    "actor_rollout_ref.model.lora_rank": "lora.rank",
    "actor_rollout_ref.model.lora_alpha": "lora.alpha",
    "actor_rollout_ref.model.target_modules": "lora.target_modules",
    f"{_ACTOR}.strategy": "cluster.fsdp",
    f"{_ACTOR}.ppo_mini_batch_size": "batch_size and algorithm.updates_per_batch",
    f"{_ACTOR}.ppo_epochs": "algorithm.updates_per_batch",
    f"{_ACTOR}.clip_ratio": "algorithm.clip_low and algorithm.clip_high",
    f"{_ACTOR}.loss_agg_mode": "algorithm.aggregation",
    f"{_ACTOR}.entropy_coeff": "algorithm.entropy",
    f"{_ACTOR}.kl_loss": "algorithm.kl",
    f"{_ACTOR}.use_kl_loss": "algorithm.kl and eval.kl",
    f"{_ACTOR}.grad_clip": "optimizer.max_grad_norm",
    f"{_ACTOR}.optim.clip_grad": "optimizer.max_grad_norm",
    f"{_ACTOR}.optim.lr": "optimizer.learning_rate, optimizer.schedule and optimizer.warmup_steps",
    f"{_SERVED}.temperature": "rollout.temperature",
    f"{_SERVED}.prompt_length": "prompt.max_seq_length",
    f"{_SERVED}.response_length": "prompt.max_new_tokens",
    f"{_SERVED}.n": "rollout.group_size",
    "algorithm.": "algorithm.*",
    "data.": "data.* and batch_size",
    "reward": "reward.*",
    "trainer.n_gpus_per_node": "cluster.gpus",
    "trainer.nnodes": "cluster.nodes",
    "trainer.total_": "steps or epochs",
    "trainer.save_freq": "checkpoint.every",
    "trainer.test_freq": "eval.every",
    "trainer.val_": "eval.*",
    "trainer.resume": "--resume",
    "trainer.default_local_dir": "output",
    "trainer.logger": "cluster.loggers",
}
# Whole names, where the table above holds beginnings.
_EXACT = (f"{_SERVED}.n", f"{_SERVED}.temperature")
_REFUSED = {
    f"{_SERVED}.top_p": "the loss is that of sampling from the whole distribution",
    f"{_SERVED}.top_k": "the loss is that of sampling from the whole distribution",
    "actor_rollout_ref.model.use_fused_kernels": "they replace the pass that vectors are pooled from",
}
# Sections that take any key.
_OPEN = ("override_config", "engine_kwargs", "override_optimizer_config", "ray_init", "runtime_env", "env_vars")
_MAX_LORA_RANK = 512


def check(config: TrainConfig) -> None:
    """Refuse settings that mean nothing to this engine.

    Raises:
        ConfigError: Names the setting and what to use instead.
    """
    if config.compute.device is not None:
        raise ConfigError(
            f"compute.device={config.compute.device!r} is for engine=local; verl takes the GPUs of cluster.gpus and "
            "cluster.nodes: leave it out"
        )
    if config.rollout.slots is not None:
        raise ConfigError(
            "rollout.slots is for engine=local; here vLLM decides: leave it out, or set "
            "verl.actor_rollout_ref.rollout.max_num_seqs"
        )
    if config.optimizer.weight_decay > 0:
        raise ConfigError(
            "optimizer.weight_decay spares vectors, and verl's optimiser does not: set it to 0, or set "
            "verl.actor_rollout_ref.actor.optim.weight_decay, which decays everything"
        )
    if config.lora.rank > _MAX_LORA_RANK:
        raise ConfigError(f"lora.rank={config.lora.rank}: vLLM serves ranks up to {_MAX_LORA_RANK}")
    if config.compute.precision == "fp32" and config.cluster.attention == "flash_attention_2":
        raise ConfigError(
            "cluster.attention=flash_attention_2 computes in half precision and compute.precision is fp32: set "
            "cluster.attention=sdpa"
        )
    for key, value in flat(config.verl):
        _check_own(key, value)


def _check_own(key: str, value: Any) -> None:
    """Refuse a setting of verl that is decided elsewhere."""
    if key.endswith("ulysses_sequence_parallel_size") and value != 1:
        raise ConfigError(
            f"verl.{key}={value!r}: sequences are pooled whole, so they cannot be split over GPUs: leave it at 1 "
            "and lower compute.tokens_per_microbatch if memory is short"
        )
    if key in _REFUSED:
        raise ConfigError(f"verl.{key} cannot be changed: {_REFUSED[key]}")
    for start, ours in _OURS.items():
        if key == start or (start not in _EXACT and key.startswith(start)):
            raise ConfigError(f"verl.{key} is decided by our own settings: use {ours}")


def flat(values: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested mappings."""
    for key, value in values.items():
        place = f"{at}.{key}" if at else str(key)
        if isinstance(value, Mapping) and value:
            yield from flat(value, place)
        else:
            yield place, value


def derived(config: TrainConfig, start: str, max_seq_length: int, max_new_tokens: int) -> dict[str, Any]:
    """Verl's settings by their dotted names.

    Args:
        config: The run.
        start: Folder of the start model, as plain transformers files.
        max_seq_length: Longest prompt.
        max_new_tokens: Budget of a rationale.
    """
    cluster, rollout = config.cluster, config.rollout
    half = config.compute.precision != "fp32"
    packed = cluster.attention == "flash_attention_2"
    longest = max_seq_length + max_new_tokens
    tokens = max(config.compute.tokens_per_microbatch, longest)
    actor, served = _ACTOR, _SERVED
    passes = {"param_dtype": "bf16" if half else "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
    values: dict[str, Any] = {
        # Model: weights and optimiser states in fp32, passes in half precision.
        "actor_rollout_ref.model.path": start,
        "actor_rollout_ref.model.use_remove_padding": packed,
        "actor_rollout_ref.model.enable_gradient_checkpointing": config.compute.gradient_checkpointing,
        "actor_rollout_ref.model.override_config.attn_implementation": cluster.attention,
        "actor_rollout_ref.model.lora_rank": config.lora.rank,
        "actor_rollout_ref.model.lora_alpha": config.lora.alpha or 2 * config.lora.rank,
        "actor_rollout_ref.model.target_modules": (
            config.lora.target_modules
            if isinstance(config.lora.target_modules, str)
            else list(config.lora.target_modules)
        ),
        # Updates. The loss, the learning rate's schedule and the batches are ours; these are what verl checks.
        f"{actor}.strategy": cluster.fsdp,
        f"{actor}.ppo_mini_batch_size": config.batch_size,
        f"{actor}.use_dynamic_bsz": True,
        f"{actor}.ppo_max_token_len_per_gpu": tokens,
        f"{actor}.grad_clip": config.optimizer.max_grad_norm,
        f"{actor}.optim.lr": config.optimizer.learning_rate,
        f"{actor}.optim.betas": list(config.optimizer.betas),
        f"{actor}.optim.clip_grad": config.optimizer.max_grad_norm,
        f"{actor}.optim.weight_decay": 0.0,
        f"{actor}.optim.override_optimizer_config": {"eps": config.optimizer.eps},
        f"{actor}.fsdp_config.model_dtype": "fp32",
        f"{actor}.fsdp_config.mixed_precision": passes,
        f"{actor}.fsdp_config.param_offload": cluster.offload,
        f"{actor}.fsdp_config.optimizer_offload": cluster.offload,
        f"{actor}.fsdp_config.seed": abs(config.seed),
        f"{actor}.use_torch_compile": False,
        f"{actor}.fsdp_config.use_torch_compile": False,
        # The start model beside it, for KL; with LoRA it is the same weights without adapters.
        f"{actor}.use_kl_loss": config.keeps_reference and config.lora.rank == 0,
        "actor_rollout_ref.ref.fsdp_config.param_offload": True,
        "actor_rollout_ref.ref.fsdp_config.model_dtype": "bf16" if half else "fp32",
        "actor_rollout_ref.ref.fsdp_config.mixed_precision": passes,
        "actor_rollout_ref.ref.use_torch_compile": False,
        "actor_rollout_ref.ref.fsdp_config.use_torch_compile": False,
        # Rollouts.
        f"{served}.name": "vllm",
        f"{served}.n": rollout.group_size,
        f"{served}.temperature": rollout.temperature,
        f"{served}.top_p": 1.0,
        f"{served}.top_k": -1,
        f"{served}.logprobs_mode": "raw_logprobs",
        f"{served}.calculate_log_probs": True,
        f"{served}.dtype": "bfloat16" if half else "float32",
        f"{served}.gpu_memory_utilization": cluster.gpu_memory,
        f"{served}.tensor_model_parallel_size": cluster.tensor_parallel,
        f"{served}.prompt_length": max_seq_length,
        f"{served}.response_length": max_new_tokens,
        f"{served}.max_model_len": longest,
        # The first weights come from the trainer; with LoRA the base weights are read once from the folder.
        f"{served}.load_format": "safetensors" if config.lora.rank else "dummy",
        f"{served}.agent.num_workers": cluster.agent_workers,
        f"{served}.agent.agent_loop_config_path": str(_LOOPS),
        f"{served}.agent.default_agent_loop": AGENT_LOOP,
        # The run. Data, validation, checkpoints and logs are ours.
        "algorithm.adv_estimator": "grpo",
        "data.train_batch_size": config.batch_size,
        "data.max_prompt_length": max_seq_length,
        "data.max_response_length": max_new_tokens,
        "reward.num_workers": 1,
        "trainer.n_gpus_per_node": cluster.gpus,
        "trainer.nnodes": cluster.nodes,
        "trainer.logger": list(cluster.loggers),
        "trainer.resume_mode": "disable",
        "trainer.val_before_train": False,
        "trainer.test_freq": -1,
        "trainer.save_freq": -1,
        "transfer_queue.enable": True,
        "ray_kwargs.ray_init.address": cluster.address,
        "ray_kwargs.ray_init.log_to_driver": False,
        "ray_kwargs.ray_init.include_dashboard": False,
    }
    return {**values, **dict(flat(config.verl))}


def lines(values: Mapping[str, Any]) -> list[str]:
    """Settings as ``key=value``, one each, to be read."""
    return [f"{key}={_text(value)}" for key, value in values.items()]


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    return json.dumps(value) if isinstance(value, (dict, list, tuple)) else str(value)


def _is_checked(key: str, known: Sequence[str]) -> bool:
    """Whether a dataclass of verl will refuse what it does not know: its YAML does not hold all fields."""
    parent, _, _ = key.rpartition(".")
    return key.startswith("actor_rollout_ref.") and any(
        name.startswith(f"{parent}.") or name == parent for name in known
    )


def compose(values: Mapping[str, Any]) -> Any:
    """Verl's configuration with these settings in it.

    Raises:
        ConfigError: verl has no such setting; the message names the nearest key there is.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    GlobalHydra.instance().clear()
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = hydra_compose("ppo_trainer")
    known = [key for key, _ in flat(OmegaConf.to_container(config, resolve=False))]
    OmegaConf.set_struct(config, False)
    for key, value in values.items():
        if key not in known and not any(f".{name}." in f".{key}" for name in _OPEN) and not _is_checked(key, known):
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean verl.{near[0]}?" if near else ""
            raise ConfigError(f"verl has no setting {key!r}{hint}")
        OmegaConf.update(config, key, value, force_add=True)
    return config
