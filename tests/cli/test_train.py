from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from grace_st.cli import main
from tests.conftest import GraceFolder


def test_show_config_documents_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--show-config", "nano"]) == 0
    page = capsys.readouterr().out
    values = yaml.safe_load(page)
    assert values["model"] == "grace-nano"
    assert values["reward"]["lambda_consistency"] == 0.2
    assert "# Weight of the consistency term (Eq. 14)." in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no configuration given: name a YAML file, or one of llama-3.2-3b, nano,"),
        (["steps=3"], "'steps=3' stands where the configuration does"),
        (["nanoo"], "did you mean 'nano'"),
        (["nano", "reward.varaint=paper"], "did you mean 'reward.variant'"),
        (["nano", "--resume", "rollout.group_size=1"], "rollout.group_size=1 leaves grpo nothing"),
        (["nano", "--show-config", "nano"], "--show-config stands alone"),
        (["qwen2.5-1.5b", "output=x"], "data.train is missing"),
        (["paper", "data.train=x.jsonl"], "output is missing"),
    ],
)
def test_misuse_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *words]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.jsonl", None, "missing.jsonl"),
        ("empty.jsonl", b"", "empty.jsonl"),
        ("cut.jsonl.gz", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\x56", "cut.jsonl.gz"),
        ("columns.jsonl", b'{"question": "a", "answer": "b"}\n', "data.query_field"),
    ],
)
def test_a_train_file_that_cannot_be_used(
    name: str, content: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    words = ["train", "nano", f"data.train={path}", f"output={tmp_path / 'run'}", f"data.cache={tmp_path / 'cache'}"]
    assert main(words) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1


def test_a_missing_package_is_named_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import grace_train.extras

    monkeypatch.setattr(grace_train.extras, "find_spec", lambda name: None if name == "matplotlib" else object())
    assert main(["train", "nano", f"output={tmp_path / 'run'}"]) == 2
    assert "training needs matplotlib: pip install 'grace-st[train]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_and_its_summary(grace_folder: GraceFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"query": f"what is {x}", "positive": f"{x} it is"}) + "\n" for x in "abcdefgh"),
        encoding="utf-8",
    )
    config = tmp_path / "run.yaml"
    settings = {
        "model": str(grace_folder("llama")),
        "output": str(tmp_path / "run"),
        "steps": 2,
        "batch_size": 2,
        "data": {"train": str(rows), "cache": str(tmp_path / "cache"), "holdout": 3},
        "prompt": {"max_new_tokens": 4},
        "rollout": {"group_size": 2},
        "compute": {"device": "cpu"},
        "log": {"tensorboard": False, "curves": False},
    }
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert main(["train", str(config), "--resume", "eval.every=1"]) == 0
    captured = capsys.readouterr()
    assert "before" in captured.out
    assert "ndcg@10" in captured.out
    assert str(tmp_path / "run") in captured.out
    assert "step 2/2" in captured.err
    assert main(["train", str(config), "--resume", "--json", "eval.every=1"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["steps"] == 2
    assert captured.err == ""
    kept = tmp_path / "run" / "training" / "config.yaml"
    assert main(["train", str(kept), "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 2
    assert main(["train", str(config), "eval.every=1"]) == 2
    assert "holds a run already" in capsys.readouterr().err
    still = ["eval.every=1", "optimizer.learning_rate=1e-12", f"output={tmp_path / 'still'}"]
    assert main(["train", str(config), *still]) == 0
    assert "Kept the weights of step 0, those it started from" in " ".join(capsys.readouterr().out.split())
    stop = ["stop.max_unrelated_similarity=1e-6", "stop.collapse_steps=1", f"output={tmp_path / 'other'}"]
    assert main(["train", str(config), *stop]) == 1
    assert "grace-st train: stopped: step 1: all texts have nearly the same vector" in capsys.readouterr().err
