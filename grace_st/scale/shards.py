"""Shards: which rows of the corpus go to which file of the output, settled before anything is encoded."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass

from grace_st.scale.blocks import MOST_ROWS, Block

_BLOCKS = 8  # of a shard, at least


@dataclass(frozen=True, slots=True)
class Part:
    """A block of one of the files of the corpus, by the file's index."""

    file: int
    block: Block


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A file of the output.

    Attributes:
        index: Its number, from 0; shards in this order hold the rows in the order of the corpus.
        parts: What it holds.
    """

    index: int
    parts: tuple[Part, ...]

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return sum(part.block.rows for part in self.parts)

    def to_json(self) -> str:
        """For `from_json`, in one line."""
        return json.dumps([self.index, *([part.file, *astuple(part.block)] for part in self.parts)])

    @classmethod
    def from_json(cls, text: str) -> Shard:
        """The shard that `to_json` wrote."""
        index, *parts = json.loads(text)
        return cls(index=index, parts=tuple(Part(file, Block(*values)) for file, *values in parts))


def shard_name(index: int, run: str) -> str:
    """The file's name. Runs have names of their own: what a worker of an abandoned one still writes is told apart."""
    return f"shard-{index:06}-{run}.parquet"


def block_rows(shard_rows: int) -> int:
    """Rows of a block: small beside a shard, since shards are filled with whole blocks."""
    return max(1, min(MOST_ROWS, shard_rows // _BLOCKS))


def packed(files: Iterable[Sequence[Block]], shard_rows: int) -> list[Shard]:
    """Shards of all blocks, in order.

    Args:
        files: The blocks of each file; those of several small files share a shard.
        shard_rows: Rows of a shard at most, at least those of a block.
    """
    shards: list[Shard] = []
    parts: list[Part] = []
    rows = 0
    for file, blocks in enumerate(files):
        for block in blocks:
            if parts and rows + block.rows > shard_rows:
                shards.append(Shard(index=len(shards), parts=tuple(parts)))
                parts, rows = [], 0
            parts.append(Part(file, block))
            rows += block.rows
    if parts:
        shards.append(Shard(index=len(shards), parts=tuple(parts)))
    return shards
