"""General tasks by lm-evaluation-harness: stand-ins end to end, and FEVER's task file on rows of its form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import grace_st
from grace_eval.general import suites
from grace_eval.general.harness import MissingGeneralDataError, check_code, check_data, evaluate
from grace_eval.general.tasks.fever import two_labels
from grace_eval.reproduce.measures.base import Subject
from grace_eval.reproduce.measures.general import General
from grace_st.cli import main


def test_the_columns_are_the_papers() -> None:
    from grace_st.cards.paper import GENERAL_COLUMNS

    assert tuple(task.label for task in suites.PAPER) == GENERAL_COLUMNS


def test_what_is_missing_is_said_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MissingGeneralDataError, match="GSM8K needs openai/gsm8k, MMLU needs cais/mmlu"):
        check_data(suites.PAPER, "table 5")
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL", raising=False)
    with pytest.raises(PermissionError, match="HumanEval runs code that the model has written"):
        check_code(suites.PAPER, "table 5")
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "1")
    check_code(suites.PAPER, "table 5")
    monkeypatch.setattr("grace_eval.general.harness.find_spec", lambda name: None)
    assert main(["eval", "table", "5", "--smoke", "--output", str(tmp_path / "out")]) == 2
    assert "pip install 'grace-st[eval]'" in capsys.readouterr().err


@pytest.mark.slow
def test_stand_ins_are_measured_on_a_model_folder(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason='lm-evaluation-harness is not installed: pip install "grace-st[eval]"')
    subject = Subject(str(grace_st.nano_path()), {}, is_encoder=False, device="cpu", work=tmp_path, data_root=None)
    found = General(suite="stand-in", limit=4).measure(subject)
    assert list(found["columns"]) == list(suites.STAND_INS)
    # It begins every rationale in this way, and mostly with the right name.
    assert found["columns"]["Form (stand-in)"] == 100 and found["columns"]["Names (stand-in)"] > 50


@pytest.mark.slow
def test_fever_asks_about_claims_with_two_labels(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason='lm-evaluation-harness is not installed: pip install "grace-st[eval]"')
    labels = ["SUPPORTS", "REFUTES", "NOT ENOUGH INFO"]
    rows = [{"claim": f"Claim {index}.", "label": labels[index % 3]} for index in range(9)]
    data = tmp_path / "validation.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = tmp_path / "local.yaml"
    own = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"validation": str(data)}}}
    task.write_text(
        f"include: {suites.TASK_FOLDER / 'fever.yaml'}\ntask: grace_fever_local\n"
        + "".join(f"{name}: {json.dumps(value)}\n" for name, value in own.items()),
        encoding="utf-8",
    )
    found = evaluate(str(grace_st.nano_path()), [str(task)], device="cpu", batch_size=4)["grace_fever_local"]
    assert found["sample_len"] == 6 and 0 <= found["acc,none"] <= 1


def test_the_two_labels() -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"label": ["SUPPORTS", "NOT ENOUGH INFO", "REFUTES"]})
    assert list(two_labels(rows)["label"]) == ["SUPPORTS", "REFUTES"]
