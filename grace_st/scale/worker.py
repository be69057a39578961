"""ShardWorker: makes shards, one at a time, in a process that has the model. Knows no cluster.

What it does can be done again at any moment, on any machine: a shard is put in place whole, under a name that its rows
decide, and what was generated for it is found in the store.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from grace_st.bulk.chunks import Chunk, Totals, chunked, joined
from grace_st.bulk.encoder import Encoder
from grace_st.bulk.rows import Row
from grace_st.bulk.writers import write_parquet
from grace_st.scale.blocks import RowReader
from grace_st.scale.files import InputFile, Place
from grace_st.scale.folder import RUN
from grace_st.scale.reports import METADATA_KEY, error_report, shard_report
from grace_st.scale.shards import Shard, shard_name
from grace_st.scale.stores import SUFFIX, StoreFolder, machine, open_folder
from grace_st.scale.writing import write_whole, written
from grace_st.store import RationaleStore

MOST_ATTEMPTS = 5
"""Of one shard, each time that the run goes on. Who dies reports no error, so somebody has to count."""


class StoringEncoder(Encoder, Protocol):
    """An encoder that can use a store."""

    def with_store(self, store: RationaleStore | None) -> Encoder:
        """The same encoder with a store."""
        ...


class StoringEncoderLoader(Protocol):
    """Loads one. It goes to other machines."""

    def settings(self) -> Mapping[str, Any]:
        """See `grace_st.bulk.encoder.EncoderLoader`."""
        ...

    def load(self) -> StoringEncoder:
        """The encoder."""
        ...


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """What all workers of a run have in common.

    Attributes:
        loader: Loads the encoder.
        model: What ``loader.settings()`` was where the run began.
        reader: Reads the corpus.
        files: The corpus.
        work: The folder that shards go to.
        run: The run's name.
        session: The driver's name; another one each time that the run goes on.
        id_kinds: The kinds of all ids of the corpus, so that shards have one schema.
        rationales: Whether rationales are written with the vectors.
        chunk_size: Texts handed to the encoder at once.
        own_store: Folder for stores that go with their shard; None for none.
        kept_store: Folder for stores that stay, instead.
    """

    loader: StoringEncoderLoader
    model: Mapping[str, Any]
    reader: RowReader
    files: tuple[InputFile, ...]
    work: Place
    run: str
    session: str
    id_kinds: frozenset[str]
    rationales: bool
    chunk_size: int
    own_store: str | None = None
    kept_store: str | None = None


@dataclass
class ShardWorker:
    """Makes shards.

    Attributes:
        job: What to make.
    """

    job: ShardJob
    _shard_store: StoreFolder | None = field(default=None, init=False)

    def report(self, shard: str) -> str:
        """Make a shard, unless it is there.

        Args:
            shard: From `Shard.to_json`.

        Returns:
            JSON: what the end of the shard says of it (``shard``, ``rows``, counts, ``made_by``, ``machine``, ...), or
            ``error`` with its ``kind`` (see `grace_st.scale.reports.ERRORS`) or its ``traceback``.
        """
        wanted = Shard.from_json(shard)
        try:
            return json.dumps(self._made(wanted))
        except Exception as error:  # what passes through Ray comes out as Ray's
            return json.dumps(error_report(error, f"shard {wanted.index}"))

    def _made(self, shard: Shard) -> dict[str, Any]:
        place = self.job.work.child(shard_name(shard.index, self.job.run))
        there = shard_report(place)
        if there is not None:
            return there
        self._count_attempt(shard)
        started = time.perf_counter()
        encoder = self._encoder
        totals = Totals()
        store = self._store_for(shard)
        found = 0 if store is None else store.found

        def said() -> dict[str, str]:
            report.update(
                shard=shard.index,
                rows=totals.rows,
                tokens=totals.tokens,
                finished=totals.finished,
                truncated=totals.truncated,
                from_store=0 if store is None else store.found - found,
                seconds=round(time.perf_counter() - started, 3),
                made_by=dict(encoder.settings),
                machine=machine(),
            )
            return {METADATA_KEY: json.dumps(report)}

        report: dict[str, Any] = {}
        schema = Totals(dimension=encoder.dimension, id_kinds=set(self.job.id_kinds))
        with written(place) as stream:
            chunks = self._chunks(shard, encoder.with_store(store), totals)
            write_parquet(stream, chunks, schema, rationales=self.job.rationales, metadata=said)
        self._drop_store(store)
        return report

    def _count_attempt(self, shard: Shard) -> None:
        from pyarrow import fs

        folder = self.job.work.child(RUN).child("attempts").child(self.job.session)
        places = [folder.child(f"{shard.index}-{attempt}") for attempt in range(MOST_ATTEMPTS)]
        infos = folder.system.get_file_info([place.path for place in places])
        attempts = sum(info.type != fs.FileType.NotFound for info in infos)
        if attempts == MOST_ATTEMPTS:
            raise OSError(
                f"workers have ended {attempts} times while they made shard {shard.index}: they may be out of memory "
                "(fewer --slots, a smaller --chunk-size), or their machines go away; Ray's logs tell. Then go on with "
                "--resume"
            )
        write_whole(places[attempts], f"{machine()}\n".encode())

    # ------------------------------------------------------------ the model and its stores

    @cached_property
    def _encoder(self) -> StoringEncoder:
        """Loaded for the first shard; a model of another content is refused."""
        there = self.job.loader.settings()
        for name in sorted({*self.job.model, *there}):
            if self.job.model.get(name) != there.get(name):
                raise ValueError(
                    f"{name} on {machine()} is not the one that the run began with: all machines need the same model "
                    "folder, under the same path"
                )
        return self.job.loader.load()

    @cached_property
    def _kept_store(self) -> StoreFolder | None:
        if self.job.kept_store is None:
            return None
        return open_folder(Path(self.job.kept_store), self.job.session)

    def _store_for(self, shard: Shard) -> StoreFolder | None:
        if self._shard_store is not None:  # of a shard that has failed
            self._shard_store.close()
            self._shard_store = None
        if self.job.kept_store is not None or self.job.own_store is None:
            return self._kept_store
        folder = Path(self.job.own_store)
        folder.mkdir(parents=True, exist_ok=True)
        self._shard_store = StoreFolder(folder / f"shard-{shard.index:06}{SUFFIX}")
        return self._shard_store

    def _drop_store(self, store: StoreFolder | None) -> None:
        if store is None or store is not self._shard_store:
            return
        store.close()
        self._shard_store = None
        for suffix in ("-wal", "-shm", ""):
            with suppress(FileNotFoundError):
                Path(f"{store.path}{suffix}").unlink()

    # ------------------------------------------------------------ rows

    def _chunks(self, shard: Shard, encoder: Encoder, totals: Totals) -> Iterator[Chunk]:
        for rows in chunked(self._rows(shard), self.job.chunk_size):
            encoded = encoder.encode([row.text for row in rows], lambda _: None)
            chunk, counts = joined(rows, encoded, rationales=self.job.rationales)
            totals.add(counts)
            yield chunk

    def _rows(self, shard: Shard) -> Iterator[Row]:
        for part in shard.parts:
            yield from self.job.reader.read(self.job.files[part.file], part.block)
