"""``grace-st encode --ray`` on a real Ray of this machine: workers and drivers that are killed, input that is bad."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet
import pytest

import grace_st
from grace_st.cli import main
from tests.engines.conftest import COMMAND, finish, launch

pytestmark = pytest.mark.xdist_group("ray_scale")

LIMIT = 300.0
TEXTS = [f"number {number} of the texts, with {number % 7} cats" for number in range(64)]
IDS = [f"a.jsonl:{row}" if row < 40 else f"b/c.parquet:{row - 40}" for row in range(64)]


@pytest.fixture(scope="module")
def vectors(model: Path) -> np.ndarray:
    """``[64, d]``: what the plain way gives."""
    return grace_st.load(model, device="cpu").encode(TEXTS)  # type: ignore[no-any-return]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    (folder / "b").mkdir(parents=True)
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS[:40])
    (folder / "a.jsonl").write_text(lines)
    table = pyarrow.Table.from_pylist([{"text": text} for text in TEXTS[40:]])
    pyarrow.parquet.write_table(table, folder / "b" / "c.parquet")
    return folder


@pytest.fixture
def words(corpus: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    # Ray lets its workers stand back behind other work on the machine.
    monkeypatch.setenv("RAY_worker_niceness", "0")
    fixed = ["--ray", "--workers", "2", "--device", "cpu", "--shard-rows", "16", "--chunk-size", "2", "--json"]
    return ["encode", str(corpus), str(tmp_path / "out"), "--model", str(model), *fixed]


def assert_right(out: Path, vectors: np.ndarray) -> dict[str, Any]:
    """Every row once, in order, with the vector that the plain way gives; the manifest."""
    table = pyarrow.parquet.read_table(out)
    assert table["id"].to_pylist() == IDS
    made = np.array(table["embedding"].to_pylist(), dtype=np.float32)
    assert np.abs(made - vectors).max() <= 1e-5 * np.abs(vectors).max()
    assert not out.with_name("out.partial").exists()
    return json.loads((out / "_manifest.json").read_text())  # type: ignore[no-any-return]


def workers(session: int) -> list[psutil.Process]:
    """Those of a driver, which has a session of its own."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and "MapWorker" in " ".join(process.cmdline()):
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def half_made(partial: Path, least: int) -> Iterator[tuple[Path, int]]:
    """Stores of shards that are not finished, and how much is in them."""
    for path in sorted((partial / "_run" / "store").glob("*.sqlite")):
        if not any(partial.glob(f"{path.stem}-*.parquet")) and (entries := entries_of(path)) >= least:
            yield path, entries


def entries_of(path: Path) -> int:
    """Read past `RationaleStore`, which would wait for a worker that was stopped while it had the file locked."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=0)) as connection:
            (count,) = connection.execute("SELECT count(*) FROM entries").fetchone()
            return int(count)
    except sqlite3.OperationalError:
        return 0


def stopped_in_the_middle(driver: subprocess.Popen[bytes], partial: Path, log: Path) -> tuple[Path, int]:
    """Stop all workers at a moment at which one of them is half way; its store, and how much is in it."""
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        assert driver.poll() is None, log.read_text(errors="replace")[-4000:]
        if (partial / "_run" / "store").is_dir():
            stopped = workers(driver.pid)
            for process in stopped:
                process.suspend()
            for found in half_made(partial, least=4):
                return found
            for process in stopped:
                process.resume()
        time.sleep(0.02)
    pytest.fail(f"no worker was half way within {LIMIT:.0f} s:\n{log.read_text(errors='replace')[-4000:]}")


def test_a_killed_worker_loses_nothing(words: list[str], vectors: np.ndarray, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    driver = launch([*COMMAND, *words], log)
    try:
        store, entries = stopped_in_the_middle(driver, tmp_path / "out.partial", log)
        for process in workers(driver.pid):
            at_it = any(file.path == str(store) for file in process.open_files())
            process.send_signal(signal.SIGKILL if at_it else signal.SIGCONT)
    finally:
        ended = finish(driver, log, LIMIT)
    ended.ok()
    manifest = assert_right(out, vectors)
    # What was in the store was not generated again, and of the rest each text once.
    shard = next(shard for shard in manifest["shards"] if shard["name"].startswith(store.stem))
    assert shard["from_store"] >= entries
    assert sum(other["from_store"] for other in manifest["shards"] if other is not shard) == 0
    assert '"status": "written"' in ended.text


def test_a_killed_driver_goes_on_and_a_changed_model_does_not(
    words: list[str], vectors: np.ndarray, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, partial, log = tmp_path / "out", tmp_path / "out.partial", tmp_path / "log"
    driver = launch([*COMMAND, *words], log)
    try:
        store, entries = stopped_in_the_middle(driver, partial, log)
    finally:
        driver.kill()
        driver.wait()
    for process in workers(driver.pid):
        process.resume()
    deadline = time.monotonic() + 60
    while (left := workers(driver.pid)) and time.monotonic() < deadline:
        time.sleep(0.2)
    finish(driver, log)
    assert left == [], "workers end with the driver"
    assert not out.exists()

    other = tmp_path / "other"
    shutil.copytree(model, other)
    config = other / "grace_config.json"
    config.write_text(config.read_text().replace('"max_new_tokens": 24', '"max_new_tokens": 23'))
    assert main([*(str(other) if word == str(model) else word for word in words), "--resume"]) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert "out.partial was made with the model's file grace_config.json" in error

    finished = [path.name for path in partial.glob("shard-*.parquet")]
    again = finish(launch([*COMMAND, *words, "--resume"], tmp_path / "again"), tmp_path / "again", LIMIT).ok()
    manifest = assert_right(out, vectors)
    assert {shard["name"] for shard in manifest["shards"]} >= set(finished)
    assert f'"shards_resumed": {len(finished)}' in again.text
    shard = next(shard for shard in manifest["shards"] if shard["name"].startswith(store.stem))
    # Its worker may have finished it before it noticed that the driver was gone.
    assert shard["name"] in finished or shard["from_store"] >= entries


def test_an_unreadable_file_is_named_before_any_work(words: list[str], corpus: Path, tmp_path: Path) -> None:
    broken = corpus / "b" / "c.parquet"
    broken.write_bytes(broken.read_bytes()[:-20])
    ended = finish(launch([*COMMAND, *words], tmp_path / "log"), tmp_path / "log", LIMIT)
    assert ended.code == 2
    (line,) = [line for line in ended.text.splitlines() if line.startswith("grace-st: error")]
    assert f"{broken} is no readable file of Parquet" in line
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()
