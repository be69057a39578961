"""Programs that a test runs in a process of their own, since they kill it or measure it.

``python -m tests.bulk.crash kill FOLDER FORMAT MODE`` kills a job before each of its file operations in turn, resumes
it, and compares. ``... memory FOLDER FORMAT ROWS`` gives the most memory that a job took, in bytes. Imports no torch.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import sys
from pathlib import Path
from typing import Any, cast

from grace_st.bulk.destination import Destination
from grace_st.bulk.formats import OutputFormat
from grace_st.bulk.job import Job, encode_to_file
from grace_st.bulk.readers import Source
from grace_st.bulk.resuming import Mode
from tests.bulk.fake import FakeEncoder

EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}


def _encode(input_: Path, output: Path, format_: OutputFormat, mode: Mode, chunk_size: int) -> None:
    job = Job(source=Source(path=input_, format="jsonl"), loader=FakeEncoder(), chunk_size=chunk_size)
    encode_to_file(job, Destination(path=output, format=format_), mode)


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def _in_child(work: Any) -> int:
    """Run a function in a forked process and return how that ended."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            os._exit(3)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def kill_everywhere(folder: Path, format_: OutputFormat, mode: Mode) -> int:
    """The number of operations before which the job was killed."""
    input_ = folder / "in.jsonl"
    input_.write_text("".join(json.dumps({"text": f"text {i}"}) + "\n" for i in range(7)), encoding="utf-8")
    whole = folder / "whole"
    whole.mkdir()
    _encode(input_, whole / "out", format_, "new", 3)
    expected = _files(whole)

    for number in range(1000):
        work = folder / f"work-{number}"
        work.mkdir()
        if mode == "overwrite":
            (work / "out").write_bytes(b"old")
            (work / "out.rows.jsonl").write_bytes(b"old rows")
        old = _files(work)

        def killed_run(work: Path = work, number: int = number) -> None:
            left = number
            sync = os.fsync

            def hook(event: str, arguments: tuple[Any, ...]) -> None:
                nonlocal left
                if event in EVENTS and str(work) in str(arguments[0]):
                    if left == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    left -= 1

            def lossy_sync(descriptor: int) -> None:
                nonlocal left
                if left == 0 and not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                    os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)  # what a halted machine may lose
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
                sync(descriptor)

            os.fsync = lossy_sync
            sys.addaudithook(hook)
            _encode(input_, work / "out", format_, mode, 3)

        status = _in_child(killed_run)
        if status == 0:
            assert number > 20, number
            return number
        assert os.WIFSIGNALED(status), status
        if (work / "out").exists():
            found = _files(work)
            assert found["out"] in (expected["out"], b"old"), "half-written"
            if format_ == "npy":
                assert found in (old, expected), "vectors and rows of different runs"
        begun = (work / "out.partial" / "run.json").exists() or _files(work) != old
        again: Mode = "resume" if begun else mode
        assert _in_child(lambda w=work, m=again: _encode(input_, w / "out", format_, m, 3)) == 0, number
        assert not (work / "out.partial").exists(), number
        found = _files(work)
        if mode == "overwrite" and format_ != "npy":
            found.pop("out.rows.jsonl")
        assert found == expected, (number, sorted(found))
        shutil.rmtree(work)
    raise AssertionError("never came to its end")


def memory(folder: Path, format_: OutputFormat, rows: int) -> int:
    """The largest resident size of a job of so many rows."""
    input_ = folder / f"{rows}.jsonl"
    with input_.open("w", encoding="utf-8") as stream:
        for number in range(rows):
            stream.write(json.dumps({"text": f"the text number {number} " * 8}) + "\n")
    child = os.fork()
    if child == 0:
        _encode(input_, folder / f"{rows}.out.{format_}", format_, "new", 1000)
        os._exit(0)
    _, status, usage = os.wait4(child, 0)
    assert status == 0
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    what, folder, format_, last = sys.argv[1:]
    known = cast(OutputFormat, format_)
    if what == "kill":
        result = kill_everywhere(Path(folder), known, cast(Mode, last))
    else:
        result = memory(Path(folder), known, int(last))
    sys.stdout.write(str(result))
