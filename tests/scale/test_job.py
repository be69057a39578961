"""Jobs: the whole corpus once, in order, whatever happens on the way. Without Ray, which tests/engines has."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grace_st.bulk.resuming import Mode
from grace_st.bulk.rows import InputError
from grace_st.scale import worker as worker_module
from grace_st.scale.errors import WorkerError
from grace_st.scale.job import CorpusJob, CorpusOutcome, encode_corpus
from grace_st.store import RationaleStore
from tests.bulk.fake import rationale_of, vector_of
from tests.scale.fakes import FakeLoader, HereCluster, Killed

TEXTS = [f"text {number}" for number in range(30)]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three files: two of JSON lines, one of Parquet."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number, texts in enumerate((TEXTS[:12], TEXTS[12:15])):
        rows = [{"text": text, "key": text.upper()} for text in texts]
        (folder / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [{"text": text, "key": text.upper()} for text in TEXTS[15:]]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "2.parquet")
    return folder


@pytest.fixture
def job(corpus: Path, tmp_path: Path) -> CorpusJob:
    return CorpusJob(source=str(corpus), output=str(tmp_path / "out"), loader=FakeLoader(), chunk_size=4, shard_rows=8)


def run(job: CorpusJob, mode: Mode = "new", cluster: HereCluster | None = None) -> CorpusOutcome:
    return encode_corpus(job, (cluster or HereCluster()).start, mode)


def rows(job: CorpusJob) -> list[dict[str, Any]]:
    """What a reader of the folder finds: one table, in the order of the files' names."""
    return pyarrow.parquet.read_table(job.output).to_pylist()  # type: ignore[no-any-return]


def assert_right(job: CorpusJob, ids: list[Any] | None = None) -> None:
    found = rows(job)
    made = [f"{0 if i < 12 else 1}.jsonl:{i % 12}" if i < 15 else f"2.parquet:{i - 15}" for i in range(30)]
    assert [row["id"] for row in found] == (ids or made)
    assert [row["rationale"] for row in found] == [rationale_of(text) for text in TEXTS]
    assert np.array_equal(
        np.array([row["embedding"] for row in found], np.float32), np.stack([vector_of(text) for text in TEXTS])
    )


def partial(job: CorpusJob) -> Path:
    return Path(f"{job.output}.partial")


def test_every_row_once_in_the_order_of_the_corpus(job: CorpusJob) -> None:
    outcome = run(job)
    assert_right(job)
    manifest = json.loads((Path(job.output) / "_manifest.json").read_text())
    assert outcome.manifest == manifest
    assert (manifest["rows"], manifest["tokens"], manifest["bad_rows"]) == (30, 60, 0)
    assert [shard["rows"] for shard in manifest["shards"]] == [8, 8, 8, 6]  # small files share a shard
    assert sorted(path.name for path in Path(job.output).iterdir()) == sorted(
        ["_SUCCESS", "_manifest.json", *(shard["name"] for shard in manifest["shards"])]
    )
    assert not partial(job).exists()


def test_ids_of_a_field_and_no_rationales(job: CorpusJob) -> None:
    job = replace(job, id_field="key", rationales=False)
    run(job)
    assert [row["id"] for row in rows(job)] == [text.upper() for text in TEXTS]
    assert set(rows(job)[0]) == {"id", "embedding"}


def test_ids_of_several_kinds_have_one_type_in_all_shards(job: CorpusJob, corpus: Path) -> None:
    (corpus / "1.jsonl").write_text('{"text": "a", "key": 7}\n{"text": "b", "key": null}\n')
    job = replace(job, id_field="key", shard_rows=2)
    run(job)
    assert [row["id"] for row in rows(job)][12:14] == ["7", None]


def test_bad_rows_are_refused_before_any_work_or_left_out_and_counted(job: CorpusJob, corpus: Path) -> None:
    (corpus / "1.jsonl").write_text('{"text": 1}\n{"text": "a"}\n{"txt": "b"}\n')
    with pytest.raises(InputError, match=r"1\.jsonl: row 0 \(line 1\): the field 'text' must be a string"):
        run(job)
    assert not partial(job).exists()
    assert job.loader.loaded == 0  # type: ignore[attr-defined]
    outcome = run(replace(job, skip_bad_rows=True))
    assert outcome.manifest is not None
    assert outcome.manifest["bad_rows"] == 2
    assert [row["id"] for row in rows(job)][11:14] == ["0.jsonl:11", "1.jsonl:1", "2.parquet:0"]


def test_a_corpus_without_rows_is_refused(job: CorpusJob, corpus: Path) -> None:
    for path in corpus.iterdir():
        path.unlink()
    (corpus / "a.jsonl").write_text("\n")
    with pytest.raises(InputError, match="has no rows to encode"):
        run(job)
    assert not partial(job).exists()


def test_an_unreadable_shard_of_the_input_is_named(job: CorpusJob, corpus: Path) -> None:
    (corpus / "2.parquet").write_bytes((corpus / "2.parquet").read_bytes()[:-10])
    with pytest.raises(InputError, match=r"2\.parquet is no readable file of Parquet"):
        run(job)


# ---------------------------------------------------------------- interruption


def test_a_killed_run_goes_on_and_nothing_is_generated_twice(job: CorpusJob) -> None:
    loader = FakeLoader(fail_after=17)
    job = replace(job, loader=loader)
    with pytest.raises(Killed) as caught:
        run(job)
    assert "2 of 4 shards, and what was generated for others, are kept in" in caught.value.__notes__[0]
    assert "--resume" in caught.value.__notes__[0]
    assert not Path(job.output).exists()
    assert len(loader.generated) == 17

    with pytest.raises(FileExistsError, match="holds what an earlier run has finished: go on with --resume"):
        run(job)
    cluster = HereCluster()
    outcome = run(job, "resume", cluster)
    assert_right(job)
    assert sorted(loader.generated) == sorted(TEXTS)
    assert (cluster.mapped, cluster.shards) == (0, 2)  # the corpus was checked then
    assert (outcome.resumed_shards, outcome.resumed_rows) == (2, 14)
    assert outcome.manifest is not None
    assert outcome.manifest["from_store"] == 3


def test_a_worker_that_dies_and_comes_again_loses_nothing(job: CorpusJob) -> None:
    loader = FakeLoader(fail_after=5)

    class Again(HereCluster):
        def map_workers(self, work: Any, items: Any) -> Iterator[str]:
            for item in items:
                try:
                    report = worker_module.ShardWorker(work).report(item)
                except Killed:  # another process takes over
                    report = worker_module.ShardWorker(work).report(item)
                yield report
                yield report  # some clusters do what was done again

    job = replace(job, loader=loader)
    outcome = run(job, cluster=Again())
    assert_right(job)
    assert sorted(loader.generated) == sorted(TEXTS)
    assert outcome.manifest is not None
    assert outcome.manifest["from_store"] == 5


def test_a_shard_that_ends_its_worker_each_time_ends_the_run(job: CorpusJob) -> None:
    class Dying(HereCluster):
        def map_workers(self, work: Any, items: Any) -> Iterator[str]:
            while True:
                work.loader.fail_after = 0
                try:
                    yield worker_module.ShardWorker(work).report(items[0])
                except Killed:
                    continue

    with pytest.raises(OSError, match="workers have ended 5 times while they made shard 0"):
        run(job, cluster=Dying())


def test_an_error_of_the_encoder_is_the_error_of_the_run(job: CorpusJob) -> None:
    loader = FakeLoader(fail_after=20, error=ArithmeticError("the text 'x' gave non-finite hidden states"))
    job = replace(job, loader=loader)
    with pytest.raises(ArithmeticError, match="non-finite hidden states") as caught:
        run(job)
    assert "--resume" in caught.value.__notes__[0]
    run(job, "resume")
    assert_right(job)


def test_a_fault_of_a_worker_comes_with_its_traceback(job: CorpusJob) -> None:
    job = replace(job, loader=FakeLoader(fail_after=20, error=KeyError("layer")))
    with pytest.raises(WorkerError, match=r"shard 1 on .*: KeyError: 'layer'") as caught:
        run(job)
    assert "fakes.py" in str(caught.value.__cause__)
    run(job, "resume")
    assert_right(job)


def test_a_complete_output_is_left_alone(job: CorpusJob) -> None:
    run(job)
    with pytest.raises(FileExistsError, match="exists: choose another output, or replace it with --overwrite"):
        run(job)
    assert run(job, "resume").manifest is None


def test_overwrite_replaces_the_output_at_the_end(job: CorpusJob) -> None:
    run(job)
    before = rows(job)
    other = replace(job, loader=FakeLoader(files="b", fail_after=3), rationales=False)
    with pytest.raises(Killed):
        run(other, "overwrite")
    assert rows(job) == before
    run(other, "overwrite")
    assert set(rows(job)[0]) == {"id", "embedding"}
    assert [path.name for path in Path(job.output).parent.iterdir()] == ["corpus", "out"]


def test_the_output_is_put_in_place_after_an_end_just_before(job: CorpusJob, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(self: Path, target: Path) -> Path:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Path, "rename", killed)
        run(job)
    assert not Path(job.output).exists()
    cluster = HereCluster()
    run(job, "resume", cluster)
    assert_right(job)
    assert cluster.shards == 0


def test_a_shard_that_was_cut_off_is_made_again(job: CorpusJob) -> None:
    with pytest.raises(Killed):
        run(replace(job, loader=FakeLoader(fail_after=17)))
    shard = next(partial(job).glob("shard-*.parquet"))
    shard.write_bytes(shard.read_bytes()[:100])
    run(job, "resume")
    assert_right(job)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 12), max_size=6), st.integers(1, 9), st.integers(1, 40))
def test_killed_at_any_texts_it_generates_each_once(job: CorpusJob, kills: list[int], chunk: int, shard: int) -> None:
    generated: list[str] = []
    shutil.rmtree(job.output, ignore_errors=True)  # of the example before
    job = replace(job, chunk_size=chunk, shard_rows=shard)
    mode: Mode = "new"
    for kill in [*kills, None]:
        loader = FakeLoader(fail_after=kill, generated=[])
        with suppress(Killed):
            run(replace(job, loader=loader), mode)
        generated += loader.generated
        mode = "resume"
    assert_right(job)
    assert sorted(generated) == sorted(TEXTS)


@pytest.mark.parametrize("mode", [pytest.param("new", marks=pytest.mark.slow), "overwrite"])
def test_killed_before_any_file_operation_it_goes_on(mode: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.scale.crash", str(tmp_path), mode],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30


# ---------------------------------------------------------------- what may not change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"loader": FakeLoader(files="b")},
            r"made with the model's file model\.safetensors \"a\", and now it is \"b\"",
        ),
        ({"settings": {"--prompt": "x"}}, r"was made with --prompt not given, and now it is \"x\""),
        ({"shard_rows": 16}, "was made with --shard-rows 8, and now it is 16"),
    ],
)
def test_a_changed_model_or_option_is_refused(job: CorpusJob, change: dict[str, Any], message: str) -> None:
    with pytest.raises(Killed):
        run(replace(job, loader=FakeLoader(fail_after=17)))
    with pytest.raises(ValueError, match=message):
        run(replace(job, **change), "resume")
    run(job, "resume")
    assert_right(job)


def test_a_changed_input_is_refused_and_a_copy_is_not(job: CorpusJob, corpus: Path) -> None:
    with pytest.raises(Killed):
        run(replace(job, loader=FakeLoader(fail_after=17)))
    lines = (corpus / "0.jsonl").read_text()
    (corpus / "0.jsonl").write_text(lines.replace("text 3", "text X"))
    with pytest.raises(InputError, match=r"was made from other rows \(in 0\.jsonl, or near it\)"):
        run(job, "resume")
    (corpus / "0.jsonl").write_text(lines)
    (corpus / "3.jsonl").write_text(lines)
    with pytest.raises(InputError, match=r"was made from other files \(3\.jsonl is only there now"):
        run(job, "resume")
    (corpus / "3.jsonl").unlink()
    run(job, "resume")
    assert_right(job)


def test_a_worker_with_another_model_is_refused(job: CorpusJob) -> None:
    class Elsewhere(HereCluster):
        def map_workers(self, work: Any, items: Any) -> Iterator[str]:
            return super().map_workers(replace(work, loader=FakeLoader(files="b")), items)

    with pytest.raises(ValueError, match=r"file model\.safetensors on .* is not the one that the run began"):
        run(job, cluster=Elsewhere())


def test_workers_of_two_kinds_of_device_are_refused(job: CorpusJob) -> None:
    with pytest.raises(Killed):
        run(replace(job, loader=FakeLoader(fail_after=17)))
    with pytest.raises(ValueError, match=r"with device cuda, and shard \d .* with device cpu, so .*--device"):
        run(replace(job, loader=FakeLoader(device="cuda")), "resume")


def test_what_is_in_the_way_is_not_touched(job: CorpusJob, tmp_path: Path, corpus: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("x")
    for mode in ("new", "resume", "overwrite"):
        with pytest.raises(FileExistsError, match=r"holds mine\.txt, which is not from this command"):
            run(job, mode)  # type: ignore[arg-type]
    with pytest.raises(FileExistsError, match=r"holds 0\.jsonl, which is not from this command"):
        run(replace(job, output=str(corpus)), "overwrite")
    with pytest.raises(FileNotFoundError, match="make it first"):
        run(replace(job, output=str(tmp_path / "none" / "out")))
    assert sorted(path.name for path in corpus.iterdir()) == ["0.jsonl", "1.jsonl", "2.parquet"]


def test_an_output_is_not_replaced_by_what_is_made_of_it(job: CorpusJob) -> None:
    run(job)
    with pytest.raises(ValueError, match=r"is read, and .*out is written: choose another output"):
        run(replace(job, source=job.output, field="rationale"), "overwrite")
    assert_right(job)


def test_an_output_that_has_appeared_meanwhile_stays(job: CorpusJob, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(replace(job, loader=FakeLoader(fail_after=17)))
    run(replace(job, output=str(tmp_path / "other")))
    (tmp_path / "other").rename(tmp_path / "out")
    before = sorted((tmp_path / "out").iterdir())
    with pytest.raises(FileExistsError, match="has appeared since the run began: move it away"):
        run(job, "resume")
    assert sorted((tmp_path / "out").iterdir()) == before
    (tmp_path / "out").rename(tmp_path / "other")
    run(job, "resume")
    assert_right(job)


def test_two_runs_at_once_are_refused(job: CorpusJob) -> None:
    class Second(HereCluster):
        def start(self) -> HereCluster:
            with pytest.raises(OSError, match="another process"):
                run(job, "resume")
            return self

    run(job, cluster=Second())
    assert_right(job)


# ---------------------------------------------------------------- stores that stay, and object stores


def test_a_store_that_stays_serves_another_corpus(job: CorpusJob, corpus: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    first = replace(job, store=str(store))
    run(first)
    with RationaleStore(store / "plain.sqlite") as plain:
        plain.put({"weights": "fake"}, {})
    loader = FakeLoader()
    (corpus / "3.jsonl").write_text('{"text": "new"}\n')
    outcome = run(replace(first, loader=loader, output=str(tmp_path / "second")))
    assert loader.generated == ["new"]
    assert outcome.manifest is not None
    assert outcome.manifest["from_store"] == 30


def test_an_object_store_is_complete_when_it_says_so(job: CorpusJob, tmp_path: Path) -> None:
    # A disk behind an interface that cannot rename folders, as those of object stores.
    folder = tmp_path / "bucket" / "out"
    remote = replace(job, output=f"fsspec+local://{folder}")
    with pytest.raises(Killed):
        run(replace(remote, loader=FakeLoader(fail_after=17)))
    assert len(list(folder.glob("shard-*.parquet"))) == 2
    assert not (folder / "_SUCCESS").exists()
    with pytest.raises(FileExistsError, match="go on with --resume"):
        run(remote)
    with pytest.raises(ValueError, match="--prompt"):
        run(replace(remote, settings={"--prompt": "x"}), "resume")
    run(remote, "resume")
    assert_right(replace(job, output=str(folder)))
    assert not (folder / "_run").exists()
    assert run(remote, "resume").manifest is None
    run(replace(remote, rationales=False), "overwrite")
    assert set(rows(replace(job, output=str(folder)))[0]) == {"id", "embedding"}
