"""Jobs: encode a corpus into a folder of shards.

1. List the files, open the output, which refuses what is in the way.
2. Read the whole corpus once: every row is checked, and the shards are settled. A run that goes on has done so.
3. Make the shards that are not there.
4. Write the manifest and put the output in place.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass, field
from typing import Any, Protocol

from tqdm.auto import tqdm

from grace_st.bulk import DEFAULT_CHUNK_SIZE
from grace_st.bulk.formats import InputFormat
from grace_st.bulk.resuming import Mode
from grace_st.bulk.rows import InputError
from grace_st.scale import DEFAULT_SHARD_ROWS
from grace_st.scale.blocks import Block, FileContent, RowReader
from grace_st.scale.files import InputFile, Listing, list_files
from grace_st.scale.folder import OutputFolder
from grace_st.scale.plan import Plan, new_run
from grace_st.scale.reports import error_report, raise_reported, shard_report
from grace_st.scale.shards import Shard, block_rows, packed, shard_name
from grace_st.scale.worker import ShardJob, StoringEncoderLoader

_FOOTERS_AT_ONCE = 16


class Cluster(Protocol):
    """What carries work to other processes. Both give results as they are finished, in any order."""

    def map(self, function: Callable[[str], str], items: Sequence[str]) -> Iterator[str]:
        """The function's results."""
        ...

    def map_workers(self, job: ShardJob, items: Sequence[str]) -> Iterator[str]:
        """Reports of `ShardWorker.report`; each worker has a process of its own, and a new one where it dies."""
        ...


@dataclass(frozen=True, kw_only=True)
class CorpusJob:
    """What to encode, and how.

    Attributes:
        source: A file, a folder or a pattern, see `grace_st.scale.files.list_files`.
        output: The folder to make, a path or a URI.
        loader: Loads the encoder, in each worker.
        settings: What vectors and shards depend on, by the name that a message gives it.
        input_format: How all files are read, whatever their names say.
        field: Where the text is.
        id_field: Where the id is; see `grace_st.scale.blocks.RowReader`.
        skip_bad_rows: Leave bad rows out instead of stopping.
        rationales: Whether rationales are written with the vectors.
        chunk_size: Texts handed to the encoder at once.
        shard_rows: Rows of a file of the output.
        store: Folder for stores that stay.
        show_progress: Show a progress bar on stderr.
    """

    source: str
    output: str
    loader: StoringEncoderLoader
    settings: Mapping[str, Any] = field(default_factory=dict)
    input_format: InputFormat | None = None
    field: str = "text"
    id_field: str | None = None
    skip_bad_rows: bool = False
    rationales: bool = True
    chunk_size: int = DEFAULT_CHUNK_SIZE
    shard_rows: int = DEFAULT_SHARD_ROWS
    store: str | None = None
    show_progress: bool = False


@dataclass(frozen=True, kw_only=True)
class CorpusOutcome:
    """What a job has done.

    Attributes:
        manifest: What was written beside the shards; None where the output was complete before.
        resumed_shards: Shards that an earlier run had finished.
        resumed_rows: Their rows.
        others: Files of the folder that were left out, being of no format that is read.
        seconds: Wall-clock time of this run.
    """

    manifest: Mapping[str, Any] | None
    resumed_shards: int = 0
    resumed_rows: int = 0
    others: tuple[str, ...] = ()
    seconds: float = 0.0


def encode_corpus(job: CorpusJob, connect: Callable[[], Cluster], mode: Mode = "new") -> CorpusOutcome:
    """Encode a corpus into a folder of shards, which appears when it is complete.

    An exception, an interruption included, carries a note on what is kept and how to go on.

    Args:
        job: What to encode.
        connect: The cluster; called when there is work.
        mode: What to do with what is there, see `OutputFolder`.

    Raises:
        InputError: The input cannot be used, or is not the one that is resumed.
        ValueError: A setting or the model differs from the run that is resumed, or is refused by the encoder.
        OSError: A file is in the way, cannot be read or cannot be written; another process is at work.
        ArithmeticError: The model gives vectors that are not finite.
        WorkerError: A worker has failed otherwise.
    """
    started = time.perf_counter()
    listing = list_files(job.source, job.input_format)
    with OutputFolder(job.output, mode) as folder:
        if folder.is_complete:
            return CorpusOutcome(manifest=None)
        _refuse_output_in_input(listing, folder)
        run = _Run(job, listing, folder, connect)
        try:
            manifest = run.run()
        except BaseException as error:
            if isinstance(error, ValueError) and run.has_nothing():
                folder.abandon()
            if (note := run.how_to_go_on()) is not None:
                error.add_note(note)
            raise
        return CorpusOutcome(
            manifest=manifest,
            resumed_shards=len(run.resumed),
            resumed_rows=sum(report["rows"] for report in run.resumed),
            others=listing.others,
            seconds=time.perf_counter() - started,
        )


def _refuse_output_in_input(listing: Listing, folder: OutputFolder) -> None:
    if type(listing.place.system) is not type(folder.place.system):
        return
    for place in (folder.place, folder.work):
        inside = next((file for file in listing.files if file.path.startswith(f"{place.path}/")), None)
        if inside is not None:
            raise ValueError(f"{inside.path} is read, and {place.shown} is written: choose another output")


class _Run:
    """The steps of `encode_corpus` once the output is open."""

    def __init__(self, job: CorpusJob, listing: Listing, folder: OutputFolder, connect: Callable[[], Cluster]) -> None:
        self._job = job
        self._listing = listing
        self._folder = folder
        self._connect = connect
        self._reader = RowReader(
            system=listing.place.system, field=job.field, id_field=job.id_field, skip_bad_rows=job.skip_bad_rows
        )
        self._reports: dict[int, dict[str, Any]] = {}
        self._has_begun = False
        self.resumed: list[dict[str, Any]] = []

    def run(self) -> dict[str, Any]:
        """All steps; the manifest."""
        job, folder = self._job, self._folder
        settings = {**job.settings, "--shard-rows": job.shard_rows}
        folder.check(settings)
        model = job.loader.settings()
        settings |= model
        folder.check({**dict.fromkeys(folder.plan.settings if folder.plan else ()), **settings})
        cluster: Cluster | None = None
        if folder.plan is None or folder.plan.files != self._listing.files:
            cluster = self._connect()
            self._settle(cluster, settings)
        assert folder.plan is not None
        self._find_finished(folder.plan)
        missing = [shard for shard in folder.plan.shards if shard.index not in self._reports]
        if missing:
            self._make(cluster or self._connect(), folder.plan, missing, model)
        manifest = _manifest(folder.plan, self._reports)
        folder.complete(manifest)
        return manifest

    # ------------------------------------------------------------ the plan

    def _settle(self, cluster: Cluster, settings: Mapping[str, Any]) -> None:
        """Read the corpus, and write down what to do; or compare it with what was written down."""
        job, folder, files = self._job, self._folder, self._listing.files
        contents = self._contents(cluster)
        shards = packed([content.blocks for content in contents], job.shard_rows)
        if not shards:
            bad = sum(content.bad_rows for content in contents)
            raise InputError(
                f"{job.source} has no rows to encode"
                + (f" (all {bad} are bad)" if bad else ": check that it is the right one")
            )
        plan = Plan(
            run=new_run(),
            settings=json.loads(json.dumps(settings)),
            files=files,
            shards=tuple(shards),
            bad_rows=sum(content.bad_rows for content in contents),
            id_kinds=frozenset().union(*(content.id_kinds for content in contents)),
            replace=folder.mode == "overwrite",
        )
        if folder.plan is None:
            folder.begin(plan)
            self._has_begun = True
        else:
            _compare_corpus(folder, plan)

    def _contents(self, cluster: Cluster) -> list[FileContent]:
        rows = block_rows(self._job.shard_rows)
        files = self._listing.files
        found: dict[int, FileContent] = {}
        check = _FileCheck(self._reader, rows)
        items = [json.dumps([index, asdict(file)]) for index, file in enumerate(files)]
        with self._bar("Checking", "file", len(files)) as bar:
            for line in cluster.map(check, items):
                report = json.loads(line)
                raise_reported(report)
                found[report["file"]] = FileContent(
                    blocks=tuple(Block(*values) for values in report["blocks"]),
                    bad_rows=report["bad_rows"],
                    id_kinds=frozenset(report["id_kinds"]),
                )
                bar.update()
        return [found[index] for index in range(len(files))]

    # ------------------------------------------------------------ the shards

    def _find_finished(self, plan: Plan) -> None:
        def look(index: int) -> dict[str, Any] | None:
            return shard_report(self._folder.work.child(shard_name(index, plan.run)))

        with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
            reports = [report for report in pool.map(look, self._folder.finished()) if report is not None]
        self.resumed = [report for report in reports if report["rows"] == plan.shards[report["shard"]].rows]
        self._reports = {report["shard"]: report for report in self.resumed}

    def _make(self, cluster: Cluster, plan: Plan, missing: Sequence[Shard], model: Mapping[str, Any]) -> None:
        job = self._job
        work = ShardJob(
            loader=job.loader,
            model=model,
            reader=self._reader,
            files=plan.files,
            work=self._folder.work,
            run=plan.run,
            session=new_run(),
            id_kinds=plan.id_kinds,
            rationales=job.rationales,
            chunk_size=job.chunk_size,
            own_store=self._folder.store,
            kept_store=job.store,
        )
        done = sum(report["rows"] for report in self.resumed)
        with self._bar("Rows", "row", plan.rows, done) as bar:
            for line in cluster.map_workers(work, [shard.to_json() for shard in missing]):
                report = json.loads(line)
                raise_reported(report)
                self._check_maker(report)
                self._reports[report["shard"]] = report
                bar.update(report["rows"])

    def _check_maker(self, report: Mapping[str, Any]) -> None:
        """The last digits of vectors depend on the kind of device, and on the engine."""
        other = next((known for known in self._reports.values() if known["made_by"] != report["made_by"]), None)
        if other is not None:
            here, there = (
                f"shard {one['shard']} was made on {one['machine']} with {_listed(one['made_by'])}"
                for one in (report, other)
            )
            raise ValueError(
                f"{here}, and {there}, so their vectors do not quite go together: use machines of one kind "
                "(--device), and start afresh with --overwrite"
            )

    def has_nothing(self) -> bool:
        """Whether it has begun the output itself, and nothing is finished of it, nor generated for it."""
        return self._has_begun and not self._reports and not self._folder.has_stores()

    def how_to_go_on(self) -> str | None:
        """What is kept, for someone whose run has stopped; None where nothing is."""
        plan = self._folder.plan
        if plan is None:
            return None
        instead = " instead of --overwrite" if self._folder.mode == "overwrite" else ""
        others = ", and what was generated for others," if self._folder.has_stores() else ""
        return (
            f"({len(self._reports)} of {len(plan.shards)} shards{others} are kept in {self._folder.work.shown}: run "
            f"the same with --resume{instead} to go on)"
        )

    def _bar(self, name: str, unit: str, total: int, initial: int = 0) -> Any:
        return tqdm(
            total=total,
            initial=initial,
            desc=name,
            unit=unit,
            disable=not self._job.show_progress,
            dynamic_ncols=True,
        )


@dataclass(frozen=True)
class _FileCheck:
    """Reads a file of the corpus and reports what it holds, in JSON. Goes to other processes."""

    reader: RowReader
    block_rows: int

    def __call__(self, item: str) -> str:
        index, values = json.loads(item)
        file = InputFile(**values)
        try:
            content = self.reader.content(file, self.block_rows)
        except Exception as error:  # what passes through Ray comes out as Ray's
            return json.dumps(error_report(error, file.path))
        return json.dumps(
            {
                "file": index,
                "blocks": [astuple(block) for block in content.blocks],
                "bad_rows": content.bad_rows,
                "id_kinds": sorted(content.id_kinds),
            }
        )


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _compare_corpus(folder: OutputFolder, plan: Plan) -> None:
    """Go on with files that were written anew, but not with other rows."""
    before = folder.plan
    assert before is not None
    if [file.name for file in before.files] != [file.name for file in plan.files]:
        names = {file.name for file in before.files} ^ {file.name for file in plan.files}
        raise InputError(
            f"{folder.work.shown} was made from other files ({min(names)} is only there now, or was only there then): "
            "go on with --resume and the same input, or start afresh with --overwrite"
        )
    for then, now in zip(before.shards, plan.shards, strict=False):
        if then != now:
            raise _other_rows(folder, before.files[then.parts[0].file])
    if len(before.shards) != len(plan.shards):
        raise _other_rows(folder, before.files[-1])


def _other_rows(folder: OutputFolder, file: InputFile) -> InputError:
    return InputError(
        f"{folder.work.shown} was made from other rows (in {file.name}, or near it): go on with --resume and the same "
        "input, or start afresh with --overwrite"
    )


def _manifest(plan: Plan, reports: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """What is written beside the shards."""
    ordered = [reports[shard.index] for shard in plan.shards]
    totals = {name: sum(report[name] for report in ordered) for name in ("rows", "tokens", "finished", "truncated")}
    if totals["rows"] != plan.rows:
        raise RuntimeError(f"{plan.rows} rows were to be encoded, and {totals['rows']} were")
    return {
        "format": 1,
        "run": plan.run,
        **totals,
        "bad_rows": plan.bad_rows,
        "from_store": sum(report["from_store"] for report in ordered),
        "worker_seconds": round(sum(report["seconds"] for report in ordered), 3),
        "made_by": ordered[0]["made_by"],
        "settings": dict(plan.settings),
        "files": [{"name": file.name, "size": file.size} for file in plan.files],
        "shards": [
            {"name": shard_name(report["shard"], plan.run), **{name: report[name] for name in _OF_A_SHARD}}
            for report in ordered
        ],
    }


_OF_A_SHARD = ("rows", "tokens", "truncated", "from_store", "seconds", "machine")
