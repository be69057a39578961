from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from grace_train.config import TrainConfig
from grace_train.config_files import (
    apply_change,
    bundled_names,
    differences,
    documented,
    dump,
    load_config,
    read_values,
)
from grace_train.options import ConfigError, keys_of

BASE = ("model=m", "output=o", "data.train=t.jsonl")


def make(*changes: str) -> TrainConfig:
    values: dict[str, object] = {}
    for change in (*BASE, *changes):
        apply_change(values, change)
    return TrainConfig.from_dict(values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["rollout.group_size=1"], "rollout.group_size=1 leaves grpo nothing to compare"),
        (["rollout.group_size=1", "algorithm.name=rloo"], "leaves rloo nothing"),
        (["rollout.group_size=1", "algorithm.name=remax"], "no other rollout to be consistent with"),
        (["rollout.query_group_size=1", "reward.variant=symmetric"], "rollout.query_group_size=1 leaves grpo nothing"),
        (["batch_size=1"], "batch_size=1 has no other instances for the hard-negative term"),
        (["batch_size=1", "reward.variant=infonce", "data.negatives=0"], "makes the infonce reward 0"),
        (["batch_size=2", "algorithm.updates_per_batch=3"], "updates_per_batch=3 parts cannot be made"),
        (["algorithm.name=rloo", "algorithm.normalize_std=true"], "normalize_std is an option of grpo"),
        (["optimizer.learning_rate=0"], "optimizer.learning_rate must be a number > 0, at most 1e9, got 0"),
        (["optimizer.betas=[0.9]"], "optimizer.betas must be two numbers"),
        (["steps=0"], "steps must be an integer >= 1"),
        (["algorithm.clip_low=1.5"], "algorithm.clip_low must be between 0 and 1"),
        (["reward.gamma=0"], "reward.gamma must be a number > 0"),
        (["reward.repetition=-1"], "reward.repetition must be a number from 0 to 1e6, got -1"),
        (["reward.repetition=1", "reward.repetition_ngram=0"], "reward.repetition_ngram must be an integer >= 1"),
        (["reward.repetition_ngram=4"], "repetition_ngram is an option of reward.repetition, which is 0: set that"),
        (["reward.variant=paper", "reward.hard_reduction=max"], "hard_reduction=max has no meaning for the variant"),
        (["reward.other_positives=true"], "other_positives is an option of infonce"),
        (["lr=1e-5"], "unknown key 'lr'"),
        (["learning_rate=1e-5"], "did you mean 'optimizer.learning_rate'"),
        (["reward.varaint=paper"], "did you mean 'reward.variant'"),
        (["rewrd.variant=paper"], "did you mean 'reward'"),
        (["reward.variant=per_rolout"], "did you mean 'per_rollout'"),
        (["engine=verll"], "engine must be one of"),
        (["method=cl", "engine=verl"], "method=cl trains in this process: use engine=local"),
        (["method=cl", "mode=unsupervised"], "method=cl trains on pairs: use mode=supervised, or method=simcse"),
        (["method=cl", "batch_size=1", "data.negatives=0"], "batch_size=1 leaves method=cl without negatives"),
        (["method=simcse", "batch_size=1"], "batch_size=1 leaves method=simcse without negatives"),
        (["contrastive.temperature=0.1"], "contrastive.temperature is an option of method=cl and simcse"),
        (["method=cl", "contrastive.dropout=0.2"], "contrastive.dropout is an option of method=simcse, and method is"),
        (["method=simcse", "contrastive.dropout=1"], "contrastive.dropout must be between 0 and 1"),
        (["method=cl", "contrastive.temperature=0"], "contrastive.temperature must be a number from 1e-4"),
        (
            ["reward.soft_buffer=3"],
            "reward.soft_buffer is an option of reward.length_penalty=soft, which is below_group",
        ),
        (["rollout.query_group_size=3"], "rollout.query_group_size is an option of reward.variant=symmetric"),
        (["eval.patience=3"], "eval.patience counts evaluations on dev, and there are none"),
        (["rollout.temperature=1e-9"], "rollout.temperature must be a number from 0.01 to 100"),
        (["reward.scale=1e300"], "reward.scale must be a number > 0, at most 1e6, or null"),
        (["optimizer.learning_rate=1e39"], "optimizer.learning_rate must be a number > 0, at most 1e9"),
        (["compute.threads=100000"], "compute.threads must be an integer from 1 to 1024"),
        (["data.holdout=5", "eval.dev=d.jsonl"], r"kept out of training for nothing: leave one out \(eval.dev=null\)"),
        (['output=""'], "output must be the folder to write, got ''"),
        (['model=" "'], "model must be a folder"),
        (['eval.dev=""'], "eval.dev must be a file"),
        (['prompt.system_prompt=""'], "prompt.system_prompt must be a text, or null"),
        (['compute.device=""'], "compute.device must be the name of a device"),
        (['data.cache=""'], "data.cache must be a folder, or null"),
        (["epochs=1e300"], "epochs must be a number > 0, at most 1e9"),
        ([f"optimizer.learning_rate=1{'0' * 400}"], "optimizer.learning_rate must be a number, got 1000"),
        (["data.train=[{paht: a}]"], r"^unknown key 'data.train\[0\].paht'; did you mean 'data.train\[0\].path'\?$"),
        (["data.train=3"], "must be a string, got 3; or data.train must be a list"),
    ],
)
def test_what_cannot_work_is_refused(changes: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(*changes)


def test_small_groups_are_fine_where_nothing_compares_them() -> None:
    make("rollout.group_size=1", "algorithm.name=remax", "reward.lambda_consistency=0")
    make("batch_size=1", "reward.lambda_hard=0")


def test_the_algorithm_decides_what_is_left_open() -> None:
    assert (make().clip_high, make().length_penalty, make().min_spread) == (0.2, "below_group", None)
    dapo = make("algorithm.name=dapo")
    assert (dapo.clip_high, dapo.length_penalty, dapo.min_spread) == (0.28, "soft", 1e-3)
    assert (make().lambda_hard, make("reward.lambda_hard=0").lambda_hard) == (0.2, 0)
    alone = [make("mode=unsupervised", *changes).lambda_hard for changes in ([], ["reward.lambda_hard=0.2"])]
    assert alone == [3, 0.2]
    own = make("algorithm.name=dapo", "algorithm.clip_high=0.3", "reward.length_penalty=none", "algorithm.min_spread=0")
    assert (own.clip_high, own.length_penalty, own.min_spread) == (0.3, "none", None)


def test_query_rollouts() -> None:
    assert make().query_rollouts == 1
    assert make("reward.variant=symmetric").query_rollouts == 8
    assert make("reward.variant=symmetric", "rollout.query_group_size=4").query_rollouts == 4
    assert not make("reward.variant=symmetric", "mode=unsupervised").is_symmetric


@pytest.mark.parametrize("name", bundled_names())
def test_bundled_configurations_are_valid_and_documented(name: str) -> None:
    values = read_values(name)
    needed = [f"{key}=x" for key in ("model", "output") if key not in values]
    if "train" not in values["data"]:
        needed.append("data.train=x.jsonl")
    config = load_config(name, needed)
    page = documented(name)
    shown = yaml.safe_load(page)
    for key in keys_of(TrainConfig):
        place = shown
        for part in key.split("."):
            place = place[part]  # every key is there
    for key, old, new in differences(config.to_dict(), shown):
        assert new == "???", (key, old, new)
    lines = page.splitlines()
    for number, line in enumerate(lines):
        assert line.lstrip().startswith("#") or not line or lines[number - 1].lstrip().startswith("#"), line


def test_the_papers_settings() -> None:
    config = load_config("paper", ["output=o", "data.train=t.jsonl"])
    assert (config.batch_size, config.rollout.group_size, config.epochs) == (64, 8, 2)
    assert (config.optimizer.learning_rate, config.optimizer.schedule) == (1e-6, "constant")
    assert (config.reward.lambda_consistency, config.reward.lambda_hard, config.reward.scale) == (0.2, 0.2, 10)
    assert (config.algorithm.name, config.algorithm.normalize_std, config.algorithm.kl) == ("grpo", False, 0)


def test_a_configuration_survives_yaml(tmp_path: Path) -> None:
    config = make("optimizer.betas=[0.8, 0.9]", "data.train=[a.jsonl, {path: b.jsonl, weight: 2}]")
    path = tmp_path / "run.yaml"
    path.write_text(dump(config), encoding="utf-8")
    assert load_config(str(path)) == config


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("nanno", [], "there is no configuration 'nanno', as a file or by name; did you mean 'nano'"),
        ("nano", ["steps"], "'steps' is not key=value"),
        ("nano", ["=3"], "is not key=value"),
        ("nano", ["model.name=3"], "model is 'grace-nano', which has no keys"),
        ("nano", ["steps=[1"], "is not valid YAML"),
        ("nano", ["output=2024-99-99"], "output=2024-99-99 has a value that YAML cannot take .*put it in quotes"),
        ("nano", ["output=???"], r"output is \?\?\?, which stands for what is yet to be given"),
    ],
)
def test_a_wrong_name_or_change_is_named(name: str, changes: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(name, changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"- 1\n", "must hold keys and values, got list"),
        (b"a: [", "not valid"),
        (b"steps: 3\nmodel: m\nsteps: 4\n", "the key 'steps' is there twice, again in line 3"),
        (b"eval:\n  every: 1\n  every: 2\n", "the key 'every' is there twice, again in line 3"),
        (b"output: caf\xe9\n", r"run.yaml is not UTF-8 .*: save it as UTF-8"),
        (b"a: " + b"[" * 5000 + b"]" * 5000, "nested too deeply"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(text)
    with pytest.raises(ConfigError, match=message):
        load_config(str(path))
