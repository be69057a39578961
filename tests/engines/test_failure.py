from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.engines.conftest import COMMAND, LIMIT, MakeFile, finish, launch, metrics


def test_a_worker_that_dies_ends_the_run_and_it_can_go_on(config_file: MakeFile, tmp_path: Path) -> None:
    path = config_file("killed", steps=25, eval={"every": 0, "dev": None, "kl": False})
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
        run = finish(process, log, limit=150 if killed else 1)
    assert killed is not None
    assert run.code == 1
    last = run.text[run.text.index("grace-st train: stopped") :]
    assert "worker" in last.lower() or "actor" in last.lower()
    assert "--resume" in last
    assert time.monotonic() - killed < 150
    process = launch([*COMMAND, "train", str(path), "--resume"], log)
    run = finish(process, log).ok()
    assert [record["step"] for record in metrics(path)] == list(range(1, 26))
    assert "going on after step" in run.text


def worker_of(session: int) -> int:
    """The process of the FSDP worker in a session."""
    listed = subprocess.run(["ps", "-e", "-o", "pid=,sess=,args="], capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        pid, own, args = line.split(maxsplit=2)
        if int(own) == session and "WorkerDict" in args:
            return int(pid)
    pytest.fail("no worker is running")
