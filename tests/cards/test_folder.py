"""``grace-st card DIR``: written anew from the folder, and nothing that people or tools wrote is lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from sentence_transformers import SentenceTransformer

import grace_st
from grace_st.cards import CardError, render_folder, write_folder_card
from grace_st.cards.blocks import blocks_of, with_block
from grace_st.cli import main
from tests.conftest import GraceFolder


@pytest.fixture
def folder(grace_folder: GraceFolder, tmp_path: Path) -> Path:
    return Path(shutil.copytree(grace_folder("qwen2"), tmp_path / "mine"))


def card(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def edit(folder: Path, old: str, new: str) -> None:
    text = card(folder)
    assert old in text
    (folder / "README.md").write_text(text.replace(old, new, 1), encoding="utf-8")


def write_record(folder: Path, **changes: Any) -> None:
    """What a training run leaves."""
    estimate = {"mean": 0.5, "low": 0.4, "high": 0.6}
    values = {
        "method": "grace",
        "mode": "supervised",
        "reward": "per_rollout",
        "steps": 7,
        "kept_step": 5,
        "before": {"dev": {"queries": 9, "ndcg@10": {**estimate, "mean": 0.45}}},
        "after": {"dev": {"queries": 9, "ndcg@10": estimate}},
        "model": "org/base",
        "recipe": "model: org/base\nsteps: 7\n",
        **changes,
    }
    (folder / "training").mkdir(exist_ok=True)
    (folder / "training/summary.json").write_text(json.dumps(values), encoding="utf-8")


def test_writing_again_changes_nothing(folder: Path) -> None:
    assert main(["card", str(folder)]) == 0
    once = card(folder)
    assert "# qwen2-grace\n" in once and "It was made from `qwen2-chatml" in once and "**Nothing was trained**" in once
    assert main(["card", str(folder)]) == 0
    assert card(folder) == once


def test_what_people_and_tools_wrote_stays(folder: Path) -> None:
    notes = "## Ours\n\nFor *internal* use.\n\n\n\n    four  blank lines above"
    text = with_block(with_block(card(folder), "notes", notes), "faithfulness", "## It matters")
    text = text.replace("library_name:", "license: mit\nlanguage:\n- de\nco2_eq_emissions: 3\nlibrary_name:", 1)
    text = text.replace("- grace\n", "- grace\n- finance\n", 1)
    (folder / "README.md").write_text(text, encoding="utf-8")
    config = json.loads((folder / "grace_config.json").read_text())
    (folder / "grace_config.json").write_text(json.dumps({**config, "max_new_tokens": 9}))
    write_folder_card(folder)
    made = card(folder)
    assert blocks_of(made)["notes"] == notes and blocks_of(made)["faithfulness"] == "## It matters"
    assert "| rationale, at most | 9 tokens" in made
    data = ModelCard(made).data
    assert (data.license, data.language, data.co2_eq_emissions) == ("mit", ["de"], 3)
    assert "finance" in data.tags and data.tags.count("grace") == 1
    write_folder_card(folder)
    assert card(folder) == made


def test_a_card_that_was_changed_by_hand_is_not_replaced(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(folder, "## Intended use and limits", "## Our own words")
    before = card(folder)
    assert main(["card", str(folder)]) == 2
    said = capsys.readouterr().err
    assert "was changed by hand" in said and "<!-- notes: begin -->" in said and "--force" in said
    assert card(folder) == before
    edit(folder, "<!-- notes: end -->", "kept\n<!-- notes: end -->")
    assert main(["card", str(folder), "--force"]) == 0
    assert "## Our own words" not in card(folder) and blocks_of(card(folder))["notes"] == "kept"


def test_a_card_of_other_origin_is_not_replaced(folder: Path) -> None:
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# By hand\n", encoding="utf-8")
    with pytest.raises(CardError, match="was not written by grace-st"):
        render_folder(folder)
    assert "license: mit" in render_folder(folder, force=True)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("<!-- notes: end -->", "", "notes: begin"),
        ("<!-- notes: begin -->", "<!-- notes: begin -->\n<!-- notes: begin -->", "notes: begin"),
        ("library_name: sentence-transformers", "library_name: [", "cannot be read as a model card"),
    ],
)
def test_a_damaged_card_is_named(folder: Path, old: str, new: str, said: str) -> None:
    edit(folder, old, new)
    with pytest.raises(CardError, match=said) as error:
        render_folder(folder, force=True)
    assert str(folder / "README.md") in str(error.value)


def test_line_ends_of_windows_are_no_change(folder: Path) -> None:
    before = card(folder)
    (folder / "README.md").write_bytes(b"\xef\xbb\xbf" + before.replace("\n", "\r\n").encode())
    write_folder_card(folder)
    assert card(folder) == before


def test_a_trained_folder_says_what_trained_it(folder: Path) -> None:
    write_record(folder)
    write_folder_card(folder, base_model="Qwen/Qwen2.5-3B-Instruct")
    text = card(folder)
    training = blocks_of(text)["training"]
    assert "Trained from `org/base` with GRACE, supervised, reward `per_rollout`, 7 steps" in training
    assert "steps: 7" in training and "| dev, 9 queries, ndcg@10 | 0.450" in training
    assert "**Nothing was trained**" not in text
    # The licence and the paper's figures are those of the backbone, and the figures are no results of this model.
    data = ModelCard(text).data
    assert (data.license, data.license_name, data.base_model) == ("other", "qwen-research", "Qwen/Qwen2.5-3B-Instruct")
    assert "not measured by us" in text and "54.74" in text and data.eval_results is None


def test_a_copy_without_the_runs_folder_keeps_that(folder: Path, tmp_path: Path) -> None:
    write_record(folder)
    write_folder_card(folder)
    training = blocks_of(card(folder))["training"]
    grace_st.load(folder, device="cpu").save_pretrained(str(tmp_path / "copy"))
    assert not (tmp_path / "copy/training").exists()
    write_folder_card(tmp_path / "copy")
    assert blocks_of(card(tmp_path / "copy"))["training"] == training


def test_weights_that_did_not_change_are_not_called_trained(folder: Path) -> None:
    write_record(folder, kept_step=0)
    assert "**none was better, so nothing is changed**" in render_folder(folder)


def test_a_damaged_record_is_named(folder: Path) -> None:
    write_record(folder)
    (folder / "training/summary.json").write_text('{"steps": 3}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"summary\.json is no record of a training run"):
        render_folder(folder)


def test_the_card_of_a_saved_model_is_of_the_same_template(folder: Path, tmp_path: Path) -> None:
    (folder / "README.md").unlink()
    grace_st.load(folder, device="cpu").save_pretrained(str(tmp_path / "copy"))
    saved = card(tmp_path / "copy")
    write_folder_card(tmp_path / "copy")  # so it is one of ours
    made = card(tmp_path / "copy")
    for line in ("| architecture | Qwen2ForCausalLM |", "| dimension | 32 |", "## The rationale", "## Measured"):
        assert line in saved and line in made


def test_the_head_and_the_place_may_be_given(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--title", "best", "--license", "mit", "--base-model", "org/base", "--output", str(tmp_path / "card.md")]
    before = card(folder)
    assert main(["card", str(folder), *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"path": str(tmp_path / "card.md")}
    made = ModelCard.load(tmp_path / "card.md")
    assert (made.data.license, made.data.base_model) == ("mit", "org/base") and "# best\n" in made.text
    assert card(folder) == before
    # The title stays until another is given.
    assert main(["card", str(folder), "--title", "best"]) == main(["card", str(folder)]) == 0
    assert "# best\n" in card(folder)


def test_a_conversion_is_not_called_by_a_reserved_name(grace_folder: GraceFolder, tmp_path: Path) -> None:
    grace_st.convert(grace_folder("qwen2"), tmp_path / "grace-3b", max_seq_length=128, max_new_tokens=24)
    assert "# grace-3b (not trained)\n" in card(tmp_path / "grace-3b")
    write_record(tmp_path / "grace-3b")
    write_folder_card(tmp_path / "grace-3b", name="grace-3b")
    assert "# grace-3b\n" in card(tmp_path / "grace-3b")


def test_a_model_that_writes_nothing_says_so(folder: Path) -> None:
    config = json.loads((folder / "grace_config.json").read_text())
    (folder / "grace_config.json").write_text(json.dumps({**config, "max_new_tokens": 0}))
    write_folder_card(folder)
    assert "This model embeds the prompt alone" in card(folder)


def test_the_licence_of_a_backbone_is_whole(folder: Path) -> None:
    made = ModelCard(render_folder(folder, base_model="Qwen/Qwen2.5-3B-Instruct", license="other"))
    assert (made.data.license, made.data.license_name) == ("other", "qwen-research")
    assert "Qwen2.5-3B-Instruct/blob/main/LICENSE" in made.data.license_link


def test_a_folder_that_is_no_grace_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert main(["card", str(tmp_path)]) == 2
    assert "is not a GRACE model folder" in capsys.readouterr().err


def test_the_example_of_the_card_loads_the_folder(folder: Path) -> None:
    write_folder_card(folder)
    assert "trust_remote_code=True" in card(folder)
    assert SentenceTransformer(str(folder), trust_remote_code=True, device="cpu").encode(["a"]).shape == (1, 32)
