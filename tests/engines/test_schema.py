from __future__ import annotations

import importlib.metadata

import pytest

from grace_train.config_files import bundled_names, load_config
from grace_train.options import ConfigError
from grace_train.verl_engine import cpu_support
from grace_train.verl_engine.overrides import compose, derived

RENAMED = {
    "log_prob_micro_batch_size": "ppo_micro_batch_size",
    "log_prob_micro_batch_size_per_gpu": "ppo_micro_batch_size_per_gpu",
    "log_prob_use_dynamic_bsz": "use_dynamic_bsz",
    "log_prob_max_token_len_per_gpu": "ppo_max_token_len_per_gpu",
}


@pytest.mark.parametrize("name", [name for name in bundled_names() if name.startswith("verl-")])
def test_the_bundled_configurations_satisfy_verl(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What verl itself checks before it starts, with the dataclasses that its workers read."""
    from omegaconf import open_dict
    from verl.trainer.ppo.utils import need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    monkeypatch.setattr(importlib.metadata, "version", importlib.metadata.version)  # put back at the end
    cpu_support._vllm_has_another_name()
    config = load_config(name, ["output=o", "data.train=t.jsonl"])
    made = compose(derived(config, "o/training/start", 1024, 2048))
    validate_config(config=made, use_reference_policy=need_reference_policy(made), use_critic=False)
    workers = made.actor_rollout_ref
    # As verl's worker reads the section of the reference model.
    with open_dict(workers.ref):
        for name in list(workers.ref):
            if name.startswith("log_prob_"):
                workers.ref[RENAMED[name]] = workers.ref.pop(name)
        workers.ref.ppo_mini_batch_size = workers.actor.ppo_mini_batch_size
    for section in (workers.actor, workers.ref, workers.rollout, workers.rollout.checkpoint_engine):
        omega_conf_to_dataclass(section)
    assert workers.actor.fsdp_config.mixed_precision.param_dtype == "bf16"
    assert made.trainer.n_gpus_per_node * made.trainer.nnodes == config.cluster.world_size


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "verl.actor_rollout_ref.rolout.max_num_seqs=1",
            r"did you mean verl\.actor_rollout_ref\.rollout\.max_num_seqs",
        ),
        ("verl.trainer.project_nam=mine", r"did you mean verl\.trainer\.project_name"),
    ],
)
def test_a_setting_that_verl_does_not_have_is_refused(change: str, message: str) -> None:
    config = load_config("verl-lora", ["output=o", "data.train=t.jsonl", change])
    with pytest.raises(ConfigError, match=message):
        compose(derived(config, "x", 512, 256))
