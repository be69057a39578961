"""Jobs: encode all rows of a source into a file, chunk by chunk, or into a stream.

1. Open the folder of what is finished, which refuses what is in the way.
2. Read the whole input once, if it can be read twice: every row is checked and counted.
3. Read it again. Finished chunks are compared, others encoded and kept; the model is loaded for the first of them.
4. Make the output of the chunks and put it in place.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from tqdm.auto import tqdm

from grace_st.bulk import DEFAULT_CHUNK_SIZE, writers
from grace_st.bulk.chunks import Totals, chunked, joined
from grace_st.bulk.destination import Destination
from grace_st.bulk.encoder import Encoder, EncoderLoader
from grace_st.bulk.formats import import_parquet
from grace_st.bulk.partial_output import PartialOutput
from grace_st.bulk.readers import Source
from grace_st.bulk.resuming import Mode
from grace_st.bulk.rows import BadRows, InputError, Row, digest_of


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to encode, and how.

    Attributes:
        source: The input.
        loader: Loads the encoder.
        settings: What the vectors and the chunks depend on, by the name that a message gives it; also what is not
            set, as None.
        chunk_size: Texts handed to the encoder at once, and kept at once.
        skip_bad_rows: Leave bad rows out instead of stopping.
        show_progress: Show a progress bar on stderr.
    """

    source: Source
    loader: EncoderLoader
    settings: Mapping[str, Any] = field(default_factory=dict)
    chunk_size: int = DEFAULT_CHUNK_SIZE
    skip_bad_rows: bool = False
    show_progress: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a job has done.

    Attributes:
        totals: Counts over the whole output; None where it was complete before.
        bad_rows: Rows left out.
        resumed_rows: Rows that an earlier run had finished.
        seconds: Wall-clock time of this run.
        paths: The files written, the main one last.
    """

    totals: Totals | None
    bad_rows: int = 0
    resumed_rows: int = 0
    seconds: float = 0.0
    paths: tuple[Path, ...] = ()


def encode_to_file(job: Job, destination: Destination, mode: Mode = "new") -> Outcome:
    """Encode a source into a file, which appears when it is complete.

    An exception, an interruption included, carries a note on what is kept and how to go on.

    Args:
        job: What to encode.
        destination: Where to.
        mode: What to do with what is there, see `PartialOutput`.

    Raises:
        InputError: The input cannot be used, or is not the one that is resumed.
        ValueError: A setting differs from the run that is resumed, or is refused by the encoder.
        OSError: A file is in the way, cannot be read or cannot be written; another process is at work.
    """
    started = time.perf_counter()
    job.source.check()
    if destination.format == "parquet":
        import_parquet()
    _refuse_input_as_output(job.source, destination)
    with PartialOutput(destination, mode) as partial:
        if partial.is_complete:
            return Outcome(totals=None, paths=destination.paths)
        run = _FileRun(job, destination, partial)
        try:
            return run.run(started)
        except KeyboardInterrupt as error:
            error.add_note(partial.how_to_go_on())
            raise
        except BaseException as error:
            if run.is_encoding and partial.finished():
                error.add_note(partial.how_to_go_on())
            raise


def encode_to_stream(job: Job, stream: IO[bytes], *, rationales: bool = True) -> Outcome:
    """Encode a source into JSON lines, written as they are finished.

    Args:
        job: What to encode.
        stream: Where to.
        rationales: Whether rationales are written with the vectors.

    Raises:
        InputError: The input cannot be used.
        ValueError: A setting is refused by the encoder.
        OSError: The input cannot be read or the output not written.
    """
    started = time.perf_counter()
    job.source.check()
    expected = None if job.source.is_stream else sum(len(batch) for batch in _checked(job))
    rows = _Pass(job)
    encoder: Encoder | None = None
    totals = Totals()
    try:
        with _bar(job, expected, 0) as bar:
            for batch in chunked(rows, job.chunk_size):
                if encoder is None:
                    encoder = job.loader.load()
                    bar.unpause()
                chunk, counts = joined(
                    batch, encoder.encode([row.text for row in batch], bar.update), rationales=rationales
                )
                stream.writelines(writers.json_lines(chunk))
                stream.flush()
                totals.add(counts)
    except BaseException as error:
        if totals.rows:
            error.add_note(f"({totals.rows} rows were written)")
        raise
    return Outcome(totals=totals, bad_rows=rows.bad.count, seconds=time.perf_counter() - started)


class _Pass:
    """One pass over the input: its good rows, and afterwards how many bad ones there were."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self.bad = BadRows(job.source.name, skip=job.skip_bad_rows)

    def __iter__(self) -> Iterator[Row]:
        return self.bad.leave_out(self._job.source.rows())


def _checked(job: Job) -> Iterator[list[Row]]:
    """The chunks of an input that is read to check it."""
    with tqdm(desc="Checking", unit="row", disable=not job.show_progress, leave=False, dynamic_ncols=True) as bar:
        for batch in chunked(_Pass(job), job.chunk_size):
            yield batch
            bar.update(len(batch))


class _FileRun:
    """The steps of `encode_to_file` once the folder of what is finished is open."""

    def __init__(self, job: Job, destination: Destination, partial: PartialOutput) -> None:
        self._job = job
        self._destination = destination
        self._partial = partial
        self.is_encoding = False

    @cached_property
    def _model_settings(self) -> Mapping[str, Any]:
        return self._job.loader.settings()

    def run(self, started: float) -> Outcome:
        job, partial = self._job, self._partial
        partial.check(job.settings)
        resumed = partial.totals().rows
        expected = None if job.source.is_stream else self._check_input()
        if partial.finished():
            partial.check(self._model_settings)
        self.is_encoding = True
        bad_rows = self._encode(expected, resumed)
        totals = partial.totals()
        if expected is not None and totals.rows != expected:
            raise InputError(
                f"{job.source.name} had {expected} rows when it was checked and {totals.rows} when it was read: "
                "leave it alone while it is encoded, and run again"
            )
        self._place(totals)
        return Outcome(
            totals=totals,
            bad_rows=bad_rows,
            resumed_rows=resumed,
            seconds=time.perf_counter() - started,
            paths=self._destination.paths,
        )

    def _check_input(self) -> int:
        """Read the whole input; compare what is finished; the number of good rows."""
        finished = set(self._partial.finished())
        rows = count = 0
        for index, batch in enumerate(_checked(self._job)):
            if index in finished:
                self._compare(index, batch)
            rows += len(batch)
            count += 1
        self._partial.check_count(count, self._job.source.name)
        return rows

    def _compare(self, index: int, batch: list[Row]) -> None:
        first = index * self._job.chunk_size
        place = f"{self._job.source.name}: rows {first} to {first + len(batch) - 1}"
        self._partial.check_chunk(index, digest_of(batch), place)

    def _encode(self, expected: int | None, resumed: int) -> int:
        """Encode what is not finished; the number of bad rows."""
        job, partial = self._job, self._partial
        finished = set(partial.finished())
        rows = _Pass(job)
        encoder: Encoder | None = None
        count = 0
        with _bar(job, expected, resumed) as bar:
            for index, batch in enumerate(chunked(rows, job.chunk_size)):
                count += 1
                if index in finished:
                    self._compare(index, batch)
                    continue
                if encoder is None:
                    bar.set_description("Loading the model")
                    encoder = self._load(None if expected is None else expected - resumed)
                    bar.unpause()  # loading is not part of the rate
                    bar.set_description("Rows")
                encoded = encoder.encode([row.text for row in batch], bar.update)
                chunk, totals = joined(batch, encoded, rationales=self._destination.rationales)
                partial.write(index, chunk, totals, digest_of(batch))
        partial.check_count(count, job.source.name)
        return rows.bad.count

    def _load(self, rows: int | None) -> Encoder:
        settings = {**self._job.settings, **self._model_settings}
        encoder = self._job.loader.load()
        if rows is not None:
            self._check_space(rows * encoder.dimension * 4)
        self._partial.begin({**settings, **encoder.settings})
        return encoder

    def _check_space(self, size: int) -> None:
        # Vectors are in the chunks first and in the output as well then. What else is written comes on top.
        needed = size if self._destination.format == "parquet" else 2 * size
        free = shutil.disk_usage(self._partial.folder).free
        if needed > free:
            raise OSError(
                f"the vectors need {needed / 1e9:.1f} GB in {self._partial.folder.parent}, and {free / 1e9:.1f} GB are "
                "free: make room, or choose another output"
            )

    def _place(self, totals: Totals) -> None:
        destination, chunks = self._destination, self._partial.chunks()
        if destination.format == "npy":
            self._partial.place(lambda rows, vectors: writers.write_npy(vectors, rows, chunks, totals))
        elif destination.format == "jsonl":
            self._partial.place(lambda stream: writers.write_jsonl(stream, chunks))
        else:
            self._partial.place(
                lambda stream: writers.write_parquet(stream, chunks, totals, rationales=destination.rationales)
            )


def _bar(job: Job, total: int | None, initial: int) -> Any:
    return tqdm(
        total=total,
        initial=initial,
        desc="Rows",
        unit="row",
        disable=not job.show_progress,
        dynamic_ncols=True,
    )


def _refuse_input_as_output(source: Source, destination: Destination) -> None:
    for path in destination.paths:
        if source.path is not None and path.exists() and source.path.samefile(path):
            raise ValueError(f"{path} is the input, which would be replaced: choose another output")
