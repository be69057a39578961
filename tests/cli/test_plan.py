"""``grace-st plan``: from the committed measurement, from one that is made here, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from grace_st.cli import main

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "encode_cpu.json"


def plan(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    capsys.readouterr()
    assert main(["plan", *words]) == code
    output = capsys.readouterr()
    if code:
        assert output.out == ""
        assert output.err.count("\n") == 1, output.err
        return output.err
    assert output.err == ""
    return output.out


def test_from_the_committed_measurement(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--texts", "1e6", "--throughput", str(RESULTS), "--dimensions", "768"]
    shown = json.loads(plan(capsys, *words, "--workers", "10", "--price-per-hour", "0.5", "--json"))
    measured = json.loads(RESULTS.read_text())
    hours = 1e6 / measured["texts_per_second"]["engine"]["median"] / 3600
    assert shown["costs"]["worker_hours"] == {"low": pytest.approx(hours), "high": pytest.approx(hours)}
    assert shown["costs"]["hours"]["low"] == pytest.approx(hours / 10)
    assert shown["costs"]["price"]["low"] == pytest.approx(hours / 2)
    assert shown["corpus"]["text_tokens"] == pytest.approx(131.5 - 42)
    assert shown["costs"]["vector_bytes"] == 768 * 4 * 10**6

    table = " ".join(plan(capsys, *words).split())
    assert "Measured: 0.9243 texts/s on 2 threads of AMD EPYC; 95m, 95 M parameters, float32; 2026-11-24" in table
    assert "The range" not in table
    assert "The range" in plan(capsys, *words, "--rationale-tokens", "120")


def test_another_variant_of_the_measurement(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--texts", "1M", "--throughput", str(RESULTS), "--dimensions", "768", "--json"]
    engine, published = (json.loads(plan(capsys, *words, *more)) for more in ([], ["--variant", "published"]))
    ratio = published["costs"]["hours"]["low"] / engine["costs"]["hours"]["low"]
    assert ratio == pytest.approx(0.9243 / 0.3322)


def test_a_measurement_that_is_made_here_can_be_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample, kept = tmp_path / "sample.jsonl", tmp_path / "kept.json"
    sample.write_text("".join(json.dumps({"body": f"text {number}"}) + "\n" for number in range(9)))
    made = ["--calibrate", "grace-nano", "--sample", str(sample), "--field", "body", "--sample-texts", "5"]
    options = ["--device", "cpu", "--max-new-tokens", "4", "--save", str(kept)]
    first = json.loads(plan(capsys, "--texts", "2K", *made, *options, "--json"))
    values: dict[str, Any] = json.loads(kept.read_text())
    assert values["workload"]["texts"] == 5
    assert 0 < values["workload"]["mean_rationale_tokens"] <= 4
    assert first["corpus"]["dimensions"] == values["model"]["dimension"]
    assert first == json.loads(plan(capsys, "--texts", "2_000", "--throughput", str(kept), "--json"))


def test_without_a_sample_the_demo_serves(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--calibrate", "grace-nano", "--device", "cpu", "--sample-texts", "14", "--max-new-tokens", "2", "--json"]
    shown = json.loads(plan(capsys, "--texts", "10", *words))
    assert shown["throughput"]["texts_per_second"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dimensions", "8"], "one of the arguments --throughput --calibrate is required"),
        (["--throughput", "none.json", "--dimensions", "8"], "No such file"),
        (["--throughput", "text", "--dimensions", "8"], "text is not JSON"),
        (
            ["--throughput", "other.json", "--dimensions", "8"],
            "other.json is no measurement of throughput .*--calibrate DIR",
        ),
        (["--throughput", "RESULTS"], "does not tell the dimensions of a vector: name them with --dimensions"),
        (["--throughput", "RESULTS", "--variant", "x"], "has no measurement of 'x' .it has published, engine"),
        (["--throughput", "RESULTS", "--sample", "x"], "--sample has no meaning with --throughput"),
        (["--calibrate", "none"], "none"),
        (["--calibrate", "grace-nano", "--variant", "x"], "--variant has no meaning with --calibrate"),
        (["--calibrate", "grace-nano", "--sample", "none.txt"], "there is no file none.txt"),
    ],
)
def test_misuse_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("x")
    (tmp_path / "other.json").write_text('{"a": 1}')
    words = [str(RESULTS) if word == "RESULTS" else word for word in words]
    error = plan(capsys, "--texts", "10", *words, code=2)
    assert re.search(message, error), error


@pytest.mark.parametrize("count", ["0", "1.5", "-3", "ten", "1e99", ""])
def test_a_number_of_texts_is_one(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "must be an integer >= 1" in plan(capsys, f"--texts={count}", "--throughput", str(RESULTS), code=2)
