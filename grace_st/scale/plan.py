"""Plan: what a run does, settled before anything is encoded, and written down so that another run can go on with it."""

from __future__ import annotations

import gzip
import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from grace_st.scale.files import InputFile
from grace_st.scale.shards import Shard


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run does.

    Attributes:
        run: Its name, eight hexadecimal digits.
        settings: What the output depends on, by the name that messages give it.
        files: The corpus.
        shards: The output.
        bad_rows: Rows of the corpus that are left out.
        id_kinds: The kinds of all ids.
        replace: Whether an output that is there may be replaced.
    """

    run: str
    settings: Mapping[str, Any]
    files: tuple[InputFile, ...]
    shards: tuple[Shard, ...]
    bad_rows: int
    id_kinds: frozenset[str]
    replace: bool = False

    @property
    def rows(self) -> int:
        """Of the output."""
        return sum(shard.rows for shard in self.shards)

    def to_bytes(self) -> bytes:
        """For `from_bytes`."""
        head = {
            "run": self.run,
            "settings": dict(self.settings),
            "files": [asdict(file) for file in self.files],
            "bad_rows": self.bad_rows,
            "id_kinds": sorted(self.id_kinds),
            "replace": self.replace,
        }
        lines = [json.dumps(head), *(shard.to_json() for shard in self.shards)]
        return gzip.compress("\n".join(lines).encode("ascii"), compresslevel=1, mtime=0)

    @classmethod
    def from_bytes(cls, data: bytes) -> Plan:
        """The plan that `to_bytes` wrote.

        Raises:
            ValueError: It is something else.
            OSError: It is damaged.
        """
        head, *shards = gzip.decompress(data).decode("ascii").split("\n")
        values = json.loads(head)
        return cls(
            run=values["run"],
            settings=values["settings"],
            files=tuple(InputFile(**file) for file in values["files"]),
            shards=tuple(map(Shard.from_json, shards)),
            bad_rows=values["bad_rows"],
            id_kinds=frozenset(values["id_kinds"]),
            replace=values["replace"],
        )


def new_run() -> str:
    """A name for a run."""
    return uuid.uuid4().hex[:8]
