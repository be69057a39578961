"""The card of a run's folder."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from huggingface_hub import ModelCard

from grace_st.cards.blocks import blocks_of, with_block
from grace_train.config import TrainConfig
from grace_train.local.recipe import recipe_of, shareable
from grace_train.local.trainer import train
from tests.train.local.conftest import MakeConfig


def test_a_run_writes_its_card_and_keeps_what_people_added(make_config: MakeConfig) -> None:
    config = make_config("eval.keep=last", "eval.every=0", "eval.dev=null")
    train(config, quiet=True)
    path = Path(config.output) / "README.md"
    text = path.read_text(encoding="utf-8")
    training = blocks_of(text)["training"]
    assert "with GRACE, supervised, reward `per_rollout`, 3 steps; the weights of step 3 are kept" in training
    assert str(Path(config.output).parent) not in text  # no folder of this machine
    path.write_text(
        with_block(with_block(text, "notes", "mine"), "measured", "old figures").replace(
            "library_name", "license: mit\nlibrary_name", 1
        ),
        encoding="utf-8",
    )
    train(make_config("eval.keep=last", "eval.every=0", "eval.dev=null", "steps=4"), resume=True, quiet=True)
    again = path.read_text(encoding="utf-8")
    assert blocks_of(again)["notes"] == "mine" and ModelCard(again).data.license == "mit"
    # Other weights: figures of the earlier ones are gone.
    assert "old figures" not in again and "4 steps" in blocks_of(again)["training"]
    assert not (Path(config.output) / "training/README-before.md").exists()
    # What was written by hand is put aside, not lost.
    path.write_text("# By hand\n", encoding="utf-8")
    train(make_config("eval.keep=last", "eval.every=0", "eval.dev=null", "steps=5"), resume=True, quiet=True)
    assert (Path(config.output) / "training/README-before.md").read_text() == "# By hand\n"
    assert "5 steps" in path.read_text(encoding="utf-8")


def test_the_recipe_trains_the_same_again(make_config: MakeConfig) -> None:
    config = make_config("reward.variant=symmetric", "rollout.query_group_size=2")
    values = yaml.safe_load(recipe_of(config))
    text = json.dumps(values)
    assert "output" not in values and str(Path(config.output).parent) not in text and config.model not in text
    again = TrainConfig.from_dict({**values, "output": config.output})
    assert (again.steps, again.reward, again.rollout, again.optimizer) == (
        config.steps,
        config.reward,
        config.rollout,
        config.optimizer,
    )
    assert again.data.train == Path(str(config.data.train)).name


def test_names_on_the_hub_stay_whole(tmp_path: Path) -> None:
    assert shareable("Qwen/Qwen2.5-1.5B-Instruct") == "Qwen/Qwen2.5-1.5B-Instruct"
    assert shareable({"a": [str(tmp_path), "~/x/y.jsonl", 3, None, ""]}) == {
        "a": [tmp_path.name, "y.jsonl", 3, None, ""]
    }
