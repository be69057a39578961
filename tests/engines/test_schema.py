from __future__ import annotations

import pytest

from grace_train.config_files import bundled_names, load_config
from grace_train.options import ConfigError
from grace_train.verl_engine.overrides import compose, derived


@pytest.mark.parametrize("name", [name for name in bundled_names() if name.startswith("verl-")])
def test_the_bundled_configurations_satisfy_verl(name: str) -> None:
    """What verl itself checks before it starts, with the dataclasses that its workers read."""
    from verl.trainer.ppo.utils import need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    config = load_config(name, ["output=o", "data.train=t.jsonl"])
    made = compose(derived(config, "o/training/start", 1024, 2048))
    validate_config(config=made, use_reference_policy=need_reference_policy(made), use_critic=False)
    workers = made.actor_rollout_ref
    for section in (workers.actor, workers.ref, workers.rollout, workers.rollout.checkpoint_engine):
        omega_conf_to_dataclass(section)
    assert workers.actor.fsdp_config.mixed_precision.param_dtype == "bf16"
    assert made.trainer.n_gpus_per_node * made.trainer.nnodes == config.cluster.world_size


def test_a_section_that_verl_does_not_have_is_refused() -> None:
    change = "verl.actor_rollout_ref.rolout.top_p=1"
    config = load_config("verl-lora", ["output=o", "data.train=t.jsonl", change])
    with pytest.raises(ConfigError, match=r"did you mean verl\.actor_rollout_ref\.rollout\.top_p"):
        compose(derived(config, "x", 512, 256))
