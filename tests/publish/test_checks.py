"""What may be published: each kind of bad folder is refused, with what is wrong and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import EvalResult
from safetensors.numpy import load_file, save_file

from grace_st.cards import MODELS, write_folder_card
from grace_st.cards.folder import Measured
from grace_st.cards.names import PlannedModel
from grace_st.cli import main
from grace_st.fingerprint import folder_revision
from grace_st.publish import PublishError, check_folder, check_loading
from tests.cards.test_folder import card, edit, write_record

NAME = "me/my-model"


def problems(folder: Path, name: str = NAME) -> str:
    return "\n".join(check_folder(folder, name).problems)


def test_a_ready_folder(folder: Path) -> None:
    ready = check_folder(folder, NAME)
    assert ready.problems == [] and ready.notes == []
    assert ready.left_out == ["training"] and "model.safetensors" in ready.files
    assert not any(name.startswith("training") for name in ready.files)
    assert ready.files["config.json"] == (folder / "config.json").stat().st_size
    assert check_loading(folder, device="cpu").passed


def _file(name: str, content: bytes = b"x") -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    return spoil


def _link(folder: Path) -> None:
    (folder / "vocab.json").symlink_to("/etc/hostname")


def _huge(folder: Path) -> None:
    with (folder / "merges.txt").open("wb") as file:
        file.truncate(10**9)  # sparse


def _text(name: str, old: str, new: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        text = (folder / name).read_text(encoding="utf-8")
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1), encoding="utf-8")

    return spoil


def _truncated(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_file("pytorch_model.bin"), "pytorch_model.bin may run code when it is loaded (pickle)"),
        (_file("model.pkl"), "model.pkl may run code"),
        (_file("optimizer.pt"), "optimizer.pt may run code"),
        (_file("optimizer.safetensors"), "optimizer.safetensors is the state of a training run"),
        (_file("trainer_state.json"), "is the state of a training run"),
        (_file("model.gguf"), "holds weights in another format"),
        (_file("adapter_model.safetensors"), "holds weights that nothing here loads"),
        (_file(".env", b"KEY=1"), ".env looks like a secret"),
        (_file("id_rsa"), "id_rsa looks like a secret"),
        (_file(".hidden"), ".hidden is no part of a model folder"),
        (_file("corpus.jsonl", b"x" * 2_000_000), "corpus.jsonl is no part of a model folder (2.0 MB): move it away"),
        (_file("checkpoint-100/model.safetensors"), "checkpoint-100 is a folder that no module has"),
        (_file("NOTICE", b"token hf_" + b"a" * 34), "NOTICE holds what looks like a token"),
        (_file("LICENSE", b"-----BEGIN RSA PRIVATE KEY-----"), "LICENSE holds what looks like a token"),
        (_link, "vocab.json is a link"),
        (_huge, "merges.txt has 1000.0 MB, and 100.0 MB are the most"),
        (_truncated, "model.safetensors is damaged"),
        (_file("model.safetensors", b"\x80\x04 a pickle by another name"), "model.safetensors is damaged"),
        (_text("modeling_grace.py", "from grace_st", "import os\nfrom grace_st"), "is not the loader that this"),
        (lambda folder: (folder / "modeling_grace.py").unlink(), "modeling_grace.py, which modules.json names"),
        (lambda folder: (folder / "model.safetensors").unlink(), "there are no safetensors weights"),
        (lambda folder: (folder / "README.md").unlink(), "there is no README.md: `grace-st card"),
        (_text("README.md", "license: apache-2.0\n", ""), "the card names no licence: `grace-st card"),
        (_file("README.md", b"# By hand\n"), "README.md has no head"),
    ],
)  # fmt: skip
def test_a_bad_folder_is_refused(
    spoil: Callable[[Path], None], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(folder)
    assert said in problems(folder)
    assert main(["publish", str(folder), NAME, "--json"]) == 2
    output = capsys.readouterr()
    assert json.loads(output.out)["ready"] is False
    assert output.err.count("\n") == 1 and "is not ready, and nothing was uploaded" in output.err


def test_a_card_by_hand_must_say_what_ours_do(folder: Path) -> None:
    """Everything that lacks is told at once."""
    head = "---\nlicense: mit\nlibrary_name: transformers\n---\n"
    (folder / "README.md").write_text(f"{head}# By hand\n", encoding="utf-8")
    said = problems(folder)
    for part in ("library_name", "tags grace", "trust_remote_code=True", "2510.04506", "place for measured figures"):
        assert part in said
    full = (
        "---\nlicense: mit\nlibrary_name: sentence-transformers\ntags: [grace, custom_code]\n---\n# By hand\n"
        'SentenceTransformer("x", trust_remote_code=True), arXiv 2510.04506\n'
        "<!-- measured: begin -->\n<!-- measured: end -->\n"
    )
    (folder / "README.md").write_text(full, encoding="utf-8")
    ready = check_folder(folder, NAME)
    assert ready.problems == [] and f'SentenceTransformer("{NAME}", trust_remote_code=True)' in (ready.card or "")


def test_shards_must_be_complete(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    parts = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for file, part in parts.items():
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model.safetensors is there beside the shards" in problems(folder)
    (folder / "model.safetensors").unlink()
    assert problems(folder) == ""
    save_file({names[5]: weights[names[5]]}, folder / "model-00002-of-00002.safetensors")
    assert f"lacks {names[6]}" in problems(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors, which model.safetensors.index.json names, is missing" in problems(folder)


def test_modules_behind_the_pooling_are_published(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    dense = {"idx": 1, "name": "1", "path": "1_Dense", "type": "sentence_transformers.models.Dense"}
    (folder / "modules.json").write_text(json.dumps([*modules, dense]))
    (folder / "1_Dense").mkdir()
    (folder / "1_Dense/config.json").write_text('{"out_features": 16}')
    save_file({"linear.weight": np.zeros((16, 32), np.float32)}, folder / "1_Dense/model.safetensors")
    ready = check_folder(folder, NAME)
    assert ready.problems == [] and {"1_Dense/config.json", "1_Dense/model.safetensors"} <= set(ready.files)
    assert "| dimension | 16 |" in (ready.card or "") and "| modules | GenerateThenPool, Dense |" in (ready.card or "")
    (folder / "1_Dense/pytorch_model.bin").write_bytes(b"x")
    assert "1_Dense/pytorch_model.bin may run code" in problems(folder)


def test_pictures_of_the_card_are_published_and_others_are_not(folder: Path) -> None:
    (folder / "curve.png").write_bytes(b"png")
    assert "curve.png is no part" in problems(folder)
    edit(folder, "<!-- notes: end -->", "![a curve](curve.png)\n<!-- notes: end -->")
    ready = check_folder(folder, NAME)
    assert ready.problems == [] and ready.files["curve.png"] == 3


@pytest.mark.parametrize("name", ["my-model", "a/b/c", "/x", "me/", "me/my model", "me/-x", "me/x..y"])
def test_a_name_that_is_none(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PublishError, match="is no name of a model on the hub: it is ORG/NAME"):
        check_folder(folder, name)
    assert main(["publish", str(folder), name]) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1


@pytest.mark.parametrize("place", ["missing", "."])
def test_no_model_folder(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["publish", str(tmp_path / place), NAME]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and ("there is no folder" in said or "is not a GRACE model folder" in said)


# ------------------------------------------------------------------ figures, licences, names


def _with_figures(folder: Path, text: str) -> None:
    result = EvalResult(
        task_type="STS", dataset_type="mteb/x", dataset_name="X", metric_type="cosine_spearman", metric_value=0.5
    )
    write_folder_card(folder, measured=Measured(text=text, results=[result]))


def test_figures_must_be_of_these_weights(folder: Path) -> None:
    _with_figures(folder, f"revision `{folder_revision(folder)}`")
    assert problems(folder) == ""
    weights = load_file(folder / "model.safetensors")
    name = next(iter(weights))
    save_file({**weights, name: weights[name] + np.float32(1)}, folder / "model.safetensors", metadata={"format": "pt"})
    assert "the measured figures are of other weights" in problems(folder)
    _with_figures(folder, "by hand")
    assert "does not say of which revision" in problems(folder)


def test_the_backbones_licence_holds(folder: Path) -> None:
    write_folder_card(folder, base_model="Qwen/Qwen2.5-3B-Instruct")
    assert "the card's licence is not that of Qwen/Qwen2.5-3B-Instruct" in problems(folder)
    edit(folder, "license: apache-2.0", "license: other\nlicense_name: qwen-research")
    said = problems(folder)
    assert "wants a copy of it in the folder" in said and "wants a file NOTICE" in said and "correct" not in said
    licence = MODELS["grace-3b"].backbone.licence
    (folder / "LICENSE").write_text("the agreement")
    (folder / "NOTICE").write_text(f"{licence.notice}\n")
    assert problems(folder) == ""


def test_a_name_that_the_licence_wants_is_noted(folder: Path) -> None:
    edit(folder, "license: apache-2.0", "license: llama3.2\nbase_model: meta-llama/Llama-3.2-3B-Instruct")
    assert "begins with Llama" in "\n".join(check_folder(folder, NAME).notes)
    assert check_folder(folder, "me/Llama-mine").notes == []


@pytest.mark.parametrize("name", [*MODELS, "GRACE-4B", "Llama-grace-3b"])
def test_a_conversion_never_has_a_reserved_name(name: str, folder: Path) -> None:
    said = problems(folder, f"me/{name}")
    assert "this folder shows no sign of it (no training/summary.json)" in said
    assert "this folder holds another model" in said


@pytest.fixture
def tiny_name(monkeypatch: pytest.MonkeyPatch) -> PlannedModel:
    """A reserved name whose backbone is the tiny model."""
    tiny = replace(MODELS["grace-1.5b"].backbone, architecture="Qwen2ForCausalLM", hidden_size=32, layers=3)
    model = replace(MODELS["grace-1.5b"], backbone=tiny)
    monkeypatch.setattr("grace_st.publish.checks.reserved", lambda name: model if name == model.name else None)
    return model


def test_a_trained_folder_may_have_its_name(folder: Path, tiny_name: PlannedModel) -> None:
    assert "shows no sign of it" in problems(folder, f"me/{tiny_name.name}")
    write_record(folder)
    assert problems(folder, f"me/{tiny_name.name}") == ""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "cl"}, "trained by the baseline cl"),
        ({"kept_step": 0}, "kept the weights that it started from"),
        ({"mode": "unsupervised"}, "publish it as grace-1.5b-unsupervised"),
    ],
)
def test_training_of_another_kind_does_not_count(
    changes: dict[str, object], said: str, folder: Path, tiny_name: PlannedModel
) -> None:
    write_record(folder, **changes)
    assert said in problems(folder, f"me/{tiny_name.name}")
    assert problems(folder) == ""  # under a name of its own it may


def test_a_model_that_does_not_load_or_encode(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = load_file(folder / "model.safetensors")
    bad = {name: np.full_like(value, np.nan) for name, value in weights.items()}
    save_file(bad, folder / "model.safetensors", metadata={"format": "pt"})
    assert problems(folder) == ""
    assert main(["publish", str(folder), NAME, "--dry-run", "--device", "cpu"]) == 2
    assert "it does not load and encode" in capsys.readouterr().err
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["NoSuchModel"], "model_type": "none"}))
    assert "it does not load and encode" in check_loading(folder, device="cpu").problems[0]


def test_the_published_card_is_not_written_into_the_folder(folder: Path) -> None:
    before = card(folder)
    assert check_folder(folder, NAME).card != before
    assert card(folder) == before
