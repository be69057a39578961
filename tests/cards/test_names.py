"""The names of the paper's models, and the committed cards."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from grace_st.cards import MODELS, planned, render_planned
from grace_st.cards.blocks import blocks_of
from grace_st.cards.names import PlannedModel, reserved
from grace_st.cards.paper import SUPERVISED, UNSUPERVISED
from grace_st.cli import main
from grace_train.config_files import load_config

ROOT = Path(__file__).parent.parent.parent
CARDS = ROOT / "model_cards"


@pytest.mark.parametrize("name", MODELS)
def test_the_committed_card_is_what_the_command_renders(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["card", "--name", name]) == 0
    rendered = capsys.readouterr().out
    assert (CARDS / f"{name}.md").read_text(encoding="utf-8") == rendered, (
        f"write it anew: grace-st card --name {name} --output model_cards/{name}.md"
    )


def test_there_is_a_card_for_each_backbone_and_setting_and_no_other() -> None:
    assert {path.stem for path in CARDS.glob("*.md")} == set(MODELS)
    assert {(model.backbone.title, model.mode) for model in MODELS.values()} == {
        *((row.model, "supervised") for row in SUPERVISED),
        *((row.model, "unsupervised") for row in UNSUPERVISED),
    }


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.name)
def test_its_commands_train_what_the_card_says(model: PlannedModel) -> None:
    text = render_planned(model)
    for command, engine in ((model.command, "verl"), (model.small_command, "local")):
        assert f"    {command}\n" in text
        program, action, name, *changes = command.split()
        assert (program, action) == ("grace-st", "train")
        config = load_config(name, changes)
        assert (config.model, config.mode, config.engine) == (model.backbone.hub_name, model.mode, engine)
        assert config.method == "grace"
    paper = load_config(model.config, ["data.train=x", "output=y"])
    assert paper.prompt.max_seq_length == model.max_seq_length
    assert paper.prompt.max_new_tokens == model.max_new_tokens


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.name)
def test_a_card_goes_through_huggingface_hub_and_back(model: PlannedModel, tmp_path: Path) -> None:
    text = render_planned(model)
    card = ModelCard(text)
    card.save(tmp_path / "README.md")
    again = ModelCard.load(tmp_path / "README.md")
    assert (again.data.to_dict(), again.text) == (card.data.to_dict(), card.text)
    assert str(again) == text
    data = again.data
    assert data.base_model == model.backbone.hub_name and data.license == model.backbone.licence.identifier
    assert data.license_name == model.backbone.licence.name


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.name)
def test_the_papers_figures_are_marked_and_no_result_of_ours(model: PlannedModel) -> None:
    text = render_planned(model)
    assert "**Not trained yet.**" in text and "not measured by us" in text
    assert "model-index" not in ModelCard(text).data.to_dict() and ModelCard(text).data.eval_results is None
    assert blocks_of(text)["measured"].startswith("Nothing yet.")
    wanted = "GRACE" if model.mode == "supervised" else "GRACE (unsupervised)"
    rows = SUPERVISED if model.mode == "supervised" else UNSUPERVISED
    (row,) = [row for row in rows if row.model == model.backbone.title and row.method == wanted]
    figures = " | ".join(f"{value:.2f}" for value in (*row.columns.values(), row.average))
    assert f"| {wanted} | {figures} |" in text
    for licence_text in (model.backbone.licence.terms, model.backbone.licence.title):
        assert licence_text in text


def test_names_are_found_and_reserved() -> None:
    assert planned("grace-3b").backbone.hub_name == "Qwen/Qwen2.5-3B-Instruct"
    assert planned("grace-3b", unsupervised=True) is MODELS["grace-3b-unsupervised"]
    assert planned("grace-3b-unsupervised", unsupervised=True) is MODELS["grace-3b-unsupervised"]
    assert reserved("GRACE-3B") is MODELS["grace-3b"]
    assert reserved("Llama-grace-3b") is reserved("grace-llama-3b") is MODELS["grace-llama-3b"]
    assert reserved("grace-3b-mine") is None


def test_the_names_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["card", "--name", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(MODELS)
    assert all(model.command in line for model, line in zip(MODELS.values(), lines, strict=True))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give a model folder, or --name NAME"),
        (["folder", "--name", "grace-3b"], "give a model folder, or --name NAME"),
        (["--name", "grace-3"], "did you mean 'grace-3b'?"),
        (["--name", "grace-3b", "--results", "r"], "--results is for a model folder"),
        (["--name", "grace-3b", "--force"], "--force is for a model folder"),
        (["folder", "--unsupervised"], "--unsupervised goes with --name"),
        (["no-such-folder"], "no-such-folder is not a folder"),
        (["grace-nano"], "the bundled model has its card already"),
        (["--name", "grace-3b", "--output", "no-such-folder/card.md"], "there is no folder no-such-folder"),
    ],
)
def test_misuse_is_one_line(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["card", *words]) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1 and said in output.err
