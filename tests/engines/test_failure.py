from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.engines.conftest import COMMAND, LIMIT, MakeFile, check_steps, encodes, finish, launch, metrics, output


def test_supervised_with_a_worker_that_dies_and_a_resumed_run(config_file: MakeFile, tmp_path: Path) -> None:
    path = config_file("killed", steps=12, eval={"every": 6, "kl": False})
    log = tmp_path / "log.txt"
    process = launch([*COMMAND, "train", str(path)], log)
    killed = None
    try:
        deadline = time.monotonic() + LIMIT
        while len(metrics(path)) < 3:
            assert process.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.2)
        os.kill(worker_of(process.pid), signal.SIGKILL)
        killed = time.monotonic()
    finally:
        run = finish(process, log, limit=180 if killed else 1)
    assert killed is not None
    assert run.code == 1
    last = run.text[run.text.index("grace-st train: stopped") :]
    assert "WorkerDict" in last
    assert "died" in last
    assert "unknown" not in last
    assert "--resume" in last
    assert time.monotonic() - killed < 180
    # Settings of waiting and memory may be others then.
    process = launch([*COMMAND, "train", str(path), "--resume", "cluster.step_limit=350"], log)
    run = finish(process, log).ok()
    assert "going on after step" in run.text
    for record in check_steps(path, 12):
        # Vectors alone travel: 3 queries, 3 negatives and 9 positives of 128 float32.
        assert record["cluster/vector_bytes"] == 15 * 128 * 4
        assert record["cluster/state_bytes"] > 50 * record["cluster/vector_bytes"]
    encodes(output(path))


def worker_of(session: int) -> int:
    """The process of the FSDP worker in a session."""
    listed = subprocess.run(["ps", "-e", "-o", "pid=,sess=,args="], capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        pid, own, args = line.split(maxsplit=2)
        if int(own) == session and "WorkerDict" in args:
            return int(pid)
    pytest.fail("no worker is running")
