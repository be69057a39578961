"""``grace-st eval table`` and ``figure``: declared cells, done once, with outputs that say what they are."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import grace_st
from grace_eval.reproduce import drawing, models, output, studies
from grace_eval.reproduce.declare import Cell, Model, Reading, Study, Training
from grace_eval.reproduce.inputs import Inputs, MissingInputError, check
from grace_eval.reproduce.measures.base import Measure, Subject
from grace_eval.reproduce.measures.latency import Latency
from grace_eval.reproduce.measures.quality import Benchmark, HeldOut, held_out_part
from grace_eval.reproduce.measures.writing import Length, Rationales
from grace_eval.reproduce.run import Reproduction, Result
from grace_eval.reproduce.scale import PAPER, SMOKE, STAMP
from grace_st.cli import main
from tests.conftest import GraceFolder

ALL = [(kind, number) for kind, numbers in studies.STUDIES.items() for number in numbers]
BUNDLED = Inputs(pairs="nano", texts="nano", engine="local")


def run(*arguments: object) -> int:
    return main(["eval", *map(str, arguments)])


# ---------------------------------------------------------------- what is declared


def test_the_full_studies_are_the_papers() -> None:
    def labels(kind: Any, number: int) -> list[tuple[object, ...]]:
        study, _ = studies.study(kind, number, smoke=False, engine="verl")
        assert study.stamp is None
        return [tuple(cell.labels.values()) for cell in study.cells]

    backbones = [backbone.label for backbone in PAPER.backbones]
    assert len(labels("table", 1)) == 4 * 5 and len(labels("table", 2)) == 4 * 3
    assert {row[0] for row in labels("table", 1)} == set(backbones)
    assert [row[0] for row in labels("table", 4)] == ["ReMax", "REINFORCE++", "DAPO", "GRPO", "RLOO (ours)"]
    grid = labels("figure", 3)
    assert len(grid) == 50 and {row[1] for row in grid} == {0.0, 0.3, 0.5, 0.7, 1.0}
    assert [row[1] for row in labels("figure", 4)] == [0, 0, 64, 256, 512, 0, 64, 256, 512]
    assert labels("table", 6) == [(0,), (200,), (600,), (1000,)]
    assert len(labels("figure", 6)) == 2 * 4 * 5 and len(labels("figure", 7)) == 4 * 6


@pytest.mark.parametrize(("kind", "number"), ALL)
@pytest.mark.parametrize("engine", ["verl", "local", "smoke"])
def test_every_training_is_a_configuration_that_is_accepted(
    kind: Any, number: int, engine: Any, tmp_path: Path
) -> None:
    smoke = engine == "smoke"
    study, scale = studies.study(kind, number, smoke=smoke, engine="local" if smoke else engine)
    inputs = BUNDLED if smoke else Inputs(pairs="p.jsonl", texts="t.txt", engine=engine)
    folders = models.ModelFolders(tmp_path, inputs, scale.limits)
    for model in {cell.model for cell in study.cells if cell.model.training is not None}:
        assert model.training is not None
        config = folders.config(model, tmp_path / "out")
        assert config.engine == ("local" if smoke or models.is_baseline(model.training) else engine)
        assert config.mode == ("unsupervised" if model.training.data == "texts" else "supervised")


def test_what_a_full_run_trains_is_the_papers() -> None:
    study, scale = studies.study("table", 4, smoke=False, engine="local")
    folders = models.ModelFolders(Path("m"), Inputs(pairs="p.jsonl", engine="local"), scale.limits)
    dapo, grpo = (folders.config(study.cells[place].model, Path("out")) for place in (2, 3))
    assert (grpo.algorithm.name, grpo.batch_size, grpo.rollout.group_size, grpo.epochs) == ("grpo", 64, 8, 2)
    assert grpo.reward.variant == "paper" and grpo.length_penalty == "replace" and dapo.length_penalty == "soft"
    assert grpo.optimizer.learning_rate == 1e-6 and grpo.prompt.max_new_tokens == 2048


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["table", "3"], "there is no table 3 to make; the tables are 1, 2, 4, 5, 6"),
        (["figure", "2"], "there is no figure 2 to make; the figures are 1, 3, 4, 5, 6, 7"),
        (["table", "4", "--smoke", "--pairs", "x"], "--pairs is for full runs"),
        (["table", "4", "--only", "sarsa"], "there is no cell 'sarsa'; there are remax"),
        (["table", "4", "--models", "missing"], "there is no folder missing: --models holds local copies"),
        (["table", "4"], "table 4 needs the model Qwen/Qwen2.5-3B-Instruct, which is not in the cache"),
        (["table", "4"], "hf download Qwen/Qwen2.5-3B-Instruct --local-dir models/Qwen/Qwen2.5-3B-Instruct; then"),
        (["table", "4", "--models", "."], "table 4 needs training data, rows with query, positive and negatives"),
        (["table", "4", "--models", ".", "--pairs", "no/p.jsonl"], "there is no file no/p.jsonl"),
        (["figure", "3", "--models", ".", "--pairs", "p.jsonl"], "hf download princeton-nlp/datasets-for-simcse"),
        (["table", "4", "--models", ".", "--pairs", "p.jsonl"], "hf download mteb/scifact --repo-type dataset"),
    ],
)
def test_what_is_missing_is_one_line_before_any_work(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "--smoke" not in arguments:
        pytest.importorskip("mteb", reason='mteb is not installed: pip install "grace-st[mteb]"')
    monkeypatch.chdir(tmp_path)
    if arguments[2:4] == ["--models", "."]:
        (tmp_path / "Qwen/Qwen2.5-3B-Instruct").mkdir(parents=True)
    capsys.readouterr()
    assert run(*arguments, "--output", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1, error
    assert not (tmp_path / "out").exists()


def test_cells_and_commands_are_shown_without_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("figure", 3, "--smoke", "--list", "--output", tmp_path / "out") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8 and lines[1].endswith("left") and "lambda_hard=1.0" in lines[1]
    assert run("figure", 5, "--smoke", "--dry-run", "--json", "--output", tmp_path / "out") == 0
    cells = json.loads(capsys.readouterr().out)
    last = cells[-1]["commands"]
    # Each run goes on from the one before.
    assert [command.split()[0] for command in last] == ["grace-st", "cp", "grace-st", "(quality", "(length"]
    assert "steps=4" in last[2] and last[2].endswith("--resume") and not (tmp_path / "out").exists()


# ---------------------------------------------------------------- doing cells


@dataclass(frozen=True, kw_only=True)
class Counted(Measure):
    """A measure that costs nothing and can fail."""

    kind = "quality"

    fails: bool = False

    def measure(self, subject: Subject) -> dict[str, Any]:
        CALLS.append(Path(subject.source).name)
        if self.fails:
            raise RuntimeError("no\nluck")
        value = float(subject.options.get("max_new_tokens") or 0)
        return {"columns": {"Retr.": value}, "average": value}


CALLS: list[str] = []
START = Model(label="start", source="grace-nano")


def study_of(*cells: Cell) -> Study:
    return Study(kind="table", number=4, title="RL algorithms", cells=cells, notes=("A note.",), stamp=STAMP)


def cell(name: str, budget: int, *, fails: bool = False, model: Model = START) -> Cell:
    measures = (Counted(fails=fails),)
    return Cell(name=name, labels={"algorithm": name}, model=model, reading=Reading(budget=budget), measures=measures)


def test_a_cell_is_done_once_and_again_when_what_it_depends_on_has_changed(tmp_path: Path) -> None:
    CALLS.clear()
    study = study_of(cell("a", 1), cell("b", 2))
    made = Reproduction(study, BUNDLED, tmp_path, SMOKE.limits)
    made.run(made.left())
    assert len(CALLS) == 2 and not made.left()
    assert not Reproduction(study, BUNDLED, tmp_path, SMOKE.limits).left()
    other = Reproduction(study_of(cell("a", 1), cell("b", 3)), BUNDLED, tmp_path, SMOKE.limits)
    assert [one.name for one in other.left()] == ["b"]
    content = json.loads(made.path(study.cells[0]).read_text())
    assert content["stamp"] == STAMP and content["versions"]["grace-st"] and content["labels"] == {"algorithm": "a"}


def test_a_failure_stops_or_is_noted_and_the_rest_is_kept(tmp_path: Path) -> None:
    study = study_of(cell("a", 1), cell("b", 2, fails=True), cell("c", 3))
    made = Reproduction(study, BUNDLED, tmp_path, SMOKE.limits)
    with pytest.raises(RuntimeError, match="no\nluck") as caught:
        made.run(made.left())
    assert "cell b; what is done is kept" in caught.value.__notes__[0]
    assert [one.name for one in made.left()] == ["b", "c"]
    made.run(made.left(), keep_going=True)
    assert [one.name for one in made.left()] == ["b"]
    page = output.as_markdown(study, made.results())
    assert "2 of 3 cells are done" in page and "- b: RuntimeError: no luck" in page


def test_every_output_of_a_smoke_run_says_that_it_is_none(tmp_path: Path) -> None:
    study = study_of(cell("a", 10), cell("b", 20), cell("c", 30))
    made = Reproduction(study, BUNDLED, tmp_path, SMOKE.limits)
    made.run(made.left()[:2])
    paths = output.write_outputs(study, made.results(), tmp_path / "table-4")
    assert [path.name for path in paths] == ["table-4.csv", "table-4.md", "table-4.png", "table-4.svg"]
    rows = list(csv.DictReader(paths[0].read_text().splitlines()))
    assert [row["stamp"] for row in rows] == [STAMP] * 2 and rows[1]["Retr."] == "20.0000"
    page = paths[1].read_text()
    assert page.count(STAMP) == 1 and "2 of 3 cells are done." in page and "| a | 10.00 | 10.00 |" in page
    assert "printed" not in page.partition("## Notes")[0]  # the paper's figures have nothing to do with it
    assert paths[2].read_bytes().startswith(b"\x89PNG")
    # As text or as outlines, the stamp is in the picture; a full study has none.
    assert len(paths[3].read_text()) > len(_svg(replace(study, stamp=None), made, tmp_path))
    full = replace(study, stamp=None)
    assert "GRACE-3B, GRPO | 44.72" in output.as_markdown(full, made.results())


def _svg(study: Study, made: Reproduction, folder: Path) -> str:
    return output.write_outputs(study, made.results(), folder / "full")[3].read_text()


FIGURES: dict[str, Any] = {
    "quality": {"columns": {"Retr.": 40.0, "STS": 50.0}, "average": 45.0, "tasks": {"SciFact": 40.0}},
    "latency": {
        "encode_ms": 1.0,
        "generate_ms": 9.0,
        "match_ms": 0.5,
        "total_ms": 10.5,
        "tokens": 20.0,
        "device": "cpu",
    },
    "general": {"columns": {"GSM8K": 30.0, "MMLU": 50.0}, "average": 40.0},
    "length": {"tokens": 12.0, "tokens_std": 3.0, "finished": 1.0},
    "rationales": {
        "tokens": 3.0,
        "written": [
            {"name": "document", "rationale": "About\nministers.", "tokens": 4, "finished": True},
            {"name": "query", "rationale": "", "tokens": 0, "finished": False},
        ],
    },
}


@pytest.mark.parametrize(("kind", "number"), ALL)
def test_every_study_has_a_page_a_table_and_a_picture(kind: Any, number: int) -> None:
    study, _ = studies.study(kind, number, smoke=False, engine="verl")
    results = [
        Result(cell=one, figures={measure.kind: FIGURES[measure.kind] for measure in one.measures})
        for one in study.cells
    ]
    for shown in (results, results[:1]):  # whole, and begun
        page = output.as_markdown(study, shown)
        assert page.startswith(f"# {kind.capitalize()} {number}: ") and "## Notes" in page
        assert ("as printed" in page) == (study.name in output.PAPER)
        figure = drawing.DRAWN[study.name](study, shown)
        titles = [axes.get_title(loc="left") for axes in figure.axes]
        assert any(titles)
    rows = list(csv.DictReader(output.as_csv(study, results).splitlines()))
    assert len(rows) == len(study.cells) and set(study.cells[0].labels) <= set(rows[0])


def test_the_front_is_what_nothing_beats() -> None:
    points = [(3.0, 5.0), (1.0, 2.0), (2.0, 1.0), (4.0, 5.0), (1.0, 1.0), (5.0, 9.0)]
    assert drawing._front(points) == [(1.0, 2.0), (3.0, 5.0), (5.0, 9.0)]


# ---------------------------------------------------------------- models and measures


def test_a_longer_run_goes_on_from_a_shorter_one_and_is_what_it_would_have_been(
    grace_folder: GraceFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    start = str(grace_folder("qwen2", max_new_tokens=6))
    # Random weights end no rationale by themselves, so the penalty would be all that there is.
    small = ("batch_size=2", "prompt.max_new_tokens=6", "reward.length_penalty=none", "save_dtype=float32")

    def model(steps: int, after: Model | None) -> Model:
        changes = (*SMOKE.changes, *SMOKE.grace_changes, *small, f"steps={steps}")
        return Model(label=f"s{steps}", source=start, training=Training(config="nano", changes=changes), after=after)

    def weights(folder: str) -> dict[str, torch.Tensor]:
        return dict(grace_st.load(folder, device="cpu")[0].model.state_dict())

    folders = models.ModelFolders(tmp_path / "one", BUNDLED, SMOKE.limits)
    chained = model(2, model(1, None))
    first = folders.make(chained)
    assert folders.is_made(chained) and folders.is_made(model(1, None)) and folders.make(chained) == first
    alone = models.ModelFolders(tmp_path / "two", BUNDLED, SMOKE.limits).make(model(2, None))
    assert Path(alone).name == Path(first).name
    before, after, straight = weights(start), weights(first), weights(alone)
    assert all(torch.equal(after[name], straight[name]) for name in after)
    assert any(not torch.equal(after[name], before[name]) for name in after)


def test_a_bare_model_has_no_system_message(tmp_path: Path) -> None:
    folders = models.ModelFolders(tmp_path, BUNDLED, SMOKE.limits)
    assert folders.make(START) == str(grace_st.nano_path()) and folders.commands(START) == []
    bare = replace(START, label="bare", system_prompt=False)
    assert "--no-system-prompt" in folders.commands(bare)[0]
    module = grace_st.load(folders.make(bare), device="cpu")[0]
    assert isinstance(module, grace_st.GenerateThenPool) and module.config.system_prompt is None


def subject(tmp_path: Path, source: str, *, is_encoder: bool = False, **options: Any) -> Subject:
    return Subject(source, options, is_encoder=is_encoder, device="cpu", work=tmp_path, data_root=None)


def test_measures_on_the_bundled_model_and_on_an_encoder(tmp_path: Path) -> None:
    nano = subject(tmp_path, str(grace_st.nano_path()), max_new_tokens=4)
    quality = HeldOut(queries=3, documents=8).measure(nano)
    assert 0 <= quality["low"] <= quality["average"] <= quality["high"] <= 100 and quality["tokens"] == 4
    latency = Latency(task="nano:test", queries=2, documents=50, repeats=1).measure(nano)
    assert latency["encode_ms"] > 0 and latency["generate_ms"] > 0 and latency["tokens"] == 4
    assert Length(task="nano:test", texts=2).measure(nano)["tokens"] == 4
    written = Rationales(texts=(("one", "France"),)).measure(nano)["written"]
    assert written[0]["tokens"] == 4 and written[0]["rationale"] and not written[0]["finished"]
    folder = tmp_path / "encoder"
    models.write_stand_in(folder)
    encoder = subject(tmp_path, str(folder), is_encoder=True)
    assert HeldOut(queries=3, documents=8).measure(encoder)["tokens"] == 0
    assert Latency(task="nano:test", queries=2, documents=50, repeats=1).measure(encoder)["generate_ms"] == 0


def test_a_part_of_the_held_out_set_keeps_what_is_to_be_found() -> None:
    part = held_out_part(5, 20)
    assert [len(role.texts) for role in part.roles] == [5, 20]
    whole = held_out_part(5, 10**6)
    for small, large in zip(part.relevance, whole.relevance, strict=True):
        (place,), (other,) = small, large
        assert part.roles[1].texts[place] == whole.roles[1].texts[other]


def test_a_benchmark_is_measured_by_mteb_for_models_and_encoders(
    tmp_path: Path, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mteb", reason='mteb is not installed: pip install "grace-st[mteb]"')
    from grace_eval.mteb.benchmarks import select_tasks

    monkeypatch.setattr(Benchmark, "mteb_tasks", lambda self: list(select_tasks(["STSBenchmark"]).tasks))
    measure = Benchmark(benchmark="grace16")
    with_data: Callable[..., Subject] = lambda source, **more: Subject(  # noqa: E731
        source, {"max_new_tokens": 2} if not more else {}, is_encoder=bool(more), device="cpu", work=tmp_path,
        data_root=small_data,
    )  # fmt: skip
    found = measure.measure(with_data(str(grace_st.nano_path())))
    assert list(found["columns"]) == ["STS"] and found["average"] == found["tasks"]["STSBenchmark"]
    assert measure.measure(with_data(str(grace_st.nano_path()))) == found  # kept
    folder = tmp_path / "encoder"
    models.write_stand_in(folder)
    assert measure.measure(with_data(str(folder), encoder=True))["average"] != found["average"]
    command = measure.command("m", "--max-new-tokens 2", "")
    assert command == "grace-st eval mteb --model m --benchmark grace16 --max-new-tokens 2"


def test_the_check_looks_at_what_is_left_alone(tmp_path: Path) -> None:
    study, _ = studies.study("table", 1, smoke=False, engine="local")
    check(study, [], Inputs())
    with pytest.raises(MissingInputError, match=r"Qwen2\.5-1\.5B"):
        check(study, study.cells[:1], Inputs())
