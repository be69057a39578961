"""``python -m tests.scale.crash FOLDER MODE``: a job that is killed before each of its file operations, and goes on.

A program of its own, since it forks. SQLite's and pyarrow's own operations are not among those that it is killed
before.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pyarrow.parquet

from grace_st.bulk.resuming import Mode
from grace_st.scale.job import CorpusJob, encode_corpus
from tests.scale.fakes import FakeLoader, HereCluster

EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}
ROWS = 7


def encode(source: Path, output: Path, mode: Mode) -> None:
    job = CorpusJob(source=str(source), output=str(output), loader=FakeLoader(), chunk_size=2, shard_rows=4)
    encode_corpus(job, HereCluster().start, mode)


def in_child(work: Callable[[], None]) -> int:
    """Run a function in a forked process, and return how that ended."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            os._exit(3)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def killed_before(number: int, work: Path, run: Callable[[], None]) -> Callable[[], None]:
    def killed() -> None:
        left = number

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            # Names that rmtree removes are relative to a folder that it has open.
            in_folder = event in ("os.remove", "os.rmdir") and arguments[1] != -1
            if event in EVENTS and (in_folder or str(work) in str(arguments[0])):
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1

        sys.addaudithook(hook)
        run()

    return killed


def rows(output: Path) -> list[dict[str, Any]]:
    assert (output / "_SUCCESS").exists()
    return pyarrow.parquet.read_table(output).to_pylist()  # type: ignore[no-any-return]


def kill_everywhere(folder: Path, mode: Mode) -> int:
    """The number of operations before which the job was killed."""
    source, old_source = folder / "in.jsonl", folder / "old.jsonl"
    source.write_text("".join(json.dumps({"text": f"text {i}"}) + "\n" for i in range(ROWS)))
    old_source.write_text('{"text": "old"}\n')
    encode(source, folder / "whole", "new")
    encode(old_source, folder / "old", "new")
    expected, old = rows(folder / "whole"), rows(folder / "old")
    for number in range(1000):
        work = folder / f"work-{number}"
        work.mkdir()
        out, partial = work / "out", work / "out.partial"
        if mode == "overwrite":
            shutil.copytree(folder / "old", out)
        status = in_child(killed_before(number, work, lambda out=out: encode(source, out, mode)))  # type: ignore[misc]
        if status == 0:
            return number
        assert os.WIFSIGNALED(status), status
        if out.exists():
            assert rows(out) in ([expected] if mode == "new" else [expected, old]), number
        begun = (partial / "_run" / "plan.json.gz").exists() or (out.exists() and rows(out) == expected)
        again: Mode = "resume" if begun else mode
        assert in_child(lambda out=out, again=again: encode(source, out, again)) == 0, number  # type: ignore[misc]
        assert rows(out) == expected, number
        assert not partial.exists(), number
        assert not (out / "_run").exists(), number
        shutil.rmtree(work)
    raise AssertionError("never came to its end")


if __name__ == "__main__":
    sys.stdout.write(str(kill_everywhere(Path(sys.argv[1]), cast(Mode, sys.argv[2]))))
