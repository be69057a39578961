"""``grace-st serve``: misuse is one line, and a process that is told to end finishes what is in flight."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from grace_st.cli import main
from grace_st.serve.backend import ModelBackend, ModelLoader
from tests.serving import SECONDS, until


def misuse(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that is said about it."""
    assert main(["serve", "--port", "0", *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1
    return output.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the following arguments are required: --model"),
        (("--model", "nowhere"), "nowhere is not a folder"),
        (("--model", "grace-nano", "--engine", "onnx"), "invalid choice: 'onnx'"),
        (("--model", "grace-nano", "--max-texts", "0"), "max_texts must be an integer >= 1, got 0"),
        (("--model", "grace-nano", "--max-texts", "9", "--max-queue-texts", "8"), "would never be accepted"),
        (("--model", "grace-nano", "--request-seconds", "-1"), "request_seconds must be a number of seconds"),
        (("--model", "grace-nano", "--max-request-bytes", "many"), "must be a number with a unit"),
        (("--model", "grace-nano", "--engine-option", "slots"), "takes KEY=VALUE"),
        (("--model", "grace-nano", "--api-key-file", "nowhere.txt"), "nowhere.txt"),
        (("--model", "grace-nano", "--store", "no/folder/s.sqlite"), "no/folder"),
        (("--model", "grace-nano", "--port", "70000"), "cannot listen on 127.0.0.1, port 70000"),
        (("--model", "grace-nano", "--host", "256.1.1.1"), "cannot listen on 256.1.1.1"),
        (("--model", "grace-nano", "--threads", "0"), "--threads must be an integer >= 1"),
        (("--model", "grace-nano", "--served-model-name", ""), "a served model needs a name"),
    ],
)
def test_misuse_is_one_line(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in misuse(capsys, *arguments)


def test_a_port_in_use_is_misuse(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert f"port {port} (Address already in use)" in misuse(capsys, "--model", "grace-nano", "--port", port)


def test_an_empty_key_protects_nothing_and_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRACE_ST_API_KEY", "")
    assert "GRACE_ST_API_KEY is empty" in misuse(capsys, "--model", "grace-nano")


def test_missing_packages_are_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "uvicorn" else find(name))
    assert "the server needs uvicorn: pip install 'grace-st[serve]'" in misuse(capsys, "--model", "grace-nano")


@contextmanager
def child(folder: Path, *arguments: str) -> Iterator[tuple[int, Callable[[], int]]]:
    """A forked process that serves: its pid, and a function that waits for its exit code."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            os.dup2(os.open(folder / "out", os.O_WRONLY | os.O_CREAT), 1)
            os.dup2(os.open(folder / "err", os.O_WRONLY | os.O_CREAT), 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
            code = main(["serve", "--port", "0", "--json", *arguments])
            sys.stderr.flush()
        finally:
            os._exit(code)
    codes: list[int] = []

    def ended() -> bool:
        if not codes:
            found, status = os.waitpid(pid, os.WNOHANG)
            codes.extend([os.waitstatus_to_exitcode(status)] if found else [])
        return bool(codes)

    def wait() -> int:
        until(ended, "the end of the process")
        return codes[0]

    try:
        yield pid, wait
    finally:
        if not ended():
            os.kill(pid, signal.SIGKILL)
            wait()


def announced(folder: Path) -> dict[str, Any]:
    """What it has written to standard output: JSON, once it is ready."""
    values: dict[str, Any] = {}

    def is_there() -> bool:
        try:
            values.update(json.loads((folder / "out").read_text()))
        except (FileNotFoundError, json.JSONDecodeError):
            return False
        return True

    until(is_there, "ready")
    return values


def port_of(folder: Path) -> int:
    return int(announced(folder)["url"].removesuffix("/v1").rpartition(":")[2])


def send(port: int, method: str, path: str, **fields: Any) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        body = json.dumps({"model": "grace-nano", **fields}) if fields else None
        connection.request(method, path, body, {"Content-Type": "application/json", "Authorization": "Bearer key"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_what_is_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setenv("GRACE_ST_API_KEY", "key")
    compute = ModelBackend.compute

    def held(self: ModelBackend, *arguments: Any) -> Any:
        until((tmp_path / "go").exists)
        return compute(self, *arguments)

    monkeypatch.setattr(ModelBackend, "compute", held)
    options = ("--model", "grace-nano", "--max-batch-texts", "2", "--max-new-tokens", "4")
    with child(tmp_path, *options) as (pid, wait), ThreadPoolExecutor() as pool:
        values = announced(tmp_path)
        assert values["pid"] == pid and values["models"] == ["grace-nano"] and values["url"].endswith("/v1")
        port = port_of(tmp_path)
        in_flight = pool.submit(send, port, "POST", "/v1/embeddings", input=["a", "b", "c", "d", "e"])
        until(lambda: b"grace_st_queue_texts 3.0" in send(port, "GET", "/metrics")[1])
        os.kill(pid, number)
        until(lambda: send(port, "GET", "/ready")[0] == 503)
        assert send(port, "POST", "/v1/embeddings", input="late")[0] == 503
        (tmp_path / "go").touch()
        status, body = in_flight.result()
        assert status == 200 and len(json.loads(body)["data"]) == 5
        assert wait() == 0
    lines = [json.loads(line) for line in (tmp_path / "err").read_text().splitlines()]
    assert {line["message"] for line in lines} >= {f"grace-nano is served at {values['url']}", "request"}
    assert all(line["level"] == "info" for line in lines), lines


def test_an_engine_that_fails_for_good_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(ModelBackend, "compute", broken)
    with child(tmp_path, "--model", "grace-nano", "--max-restarts", "0") as (_, wait):
        assert send(port_of(tmp_path), "POST", "/v1/embeddings", input="a")[0] == 503
        assert wait() == 1
    errors = [json.loads(line) for line in (tmp_path / "err").read_text().splitlines() if '"error"' in line]
    assert "device-side assert triggered" in errors[0]["traceback"]


def test_an_engine_that_never_returns_does_not_keep_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelBackend, "compute", lambda *arguments: threading.Event().wait())
    with (
        child(tmp_path, "--model", "grace-nano", "--grace-seconds", "0.2") as (pid, wait),
        ThreadPoolExecutor() as pool,
    ):
        port = port_of(tmp_path)
        stuck = pool.submit(send, port, "POST", "/v1/embeddings", input="a")
        until(lambda: b"grace_st_batch_texts_count 1.0" in send(port, "GET", "/metrics")[1])
        os.kill(pid, signal.SIGTERM)
        status, body = stuck.result()
        assert (status, json.loads(body)["error"]["code"]) == (503, "shutting_down")
        assert wait() == 1


def test_a_server_that_still_loads_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        ModelLoader, "__call__", lambda self: (tmp_path / "loading").touch() or threading.Event().wait()
    )
    with child(tmp_path, "--model", "grace-nano") as (pid, wait):
        until((tmp_path / "loading").exists)
        os.kill(pid, signal.SIGTERM)
        assert wait() == 0


def test_a_model_that_cannot_be_loaded_is_misuse(tmp_path: Path) -> None:
    """Found out when the port is open already."""
    with child(tmp_path, "--model", "grace-nano", "--max-new-tokens", "100000") as (_, wait):
        assert wait() == 2
    error = (tmp_path / "err").read_text()
    assert "grace-st: error: max_seq_length=" in error and "exceed the model's context" in error
    with child(tmp_path, "--model", "grace-nano", "--engine-option", "slotz=4") as (_, wait):
        assert wait() == 2
    assert "unknown engine option 'slotz'" in (tmp_path / "err").read_text()
