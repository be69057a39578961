"""64 clients at once against the real program, for longer: no answer is lost or mixed up, and memory is flat."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import grace_st

CLIENTS = 64
WARM_UP = 2  # rounds in which buffers grow to their size
ROUNDS = 5
REQUESTS = 8  # of each client in each round
BUDGET = 8
GROWTH = 8 * 2**20  # bytes, over the rounds after the warm-up
TOLERANCE = 1e-5


@pytest.fixture
def program(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The program, and its port."""
    words = ["serve", "--model", "grace-nano", "--port", "0", "--json", "--max-new-tokens", str(BUDGET)]
    code = "import sys; from grace_st.cli import main; sys.exit(main())"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=log)
    assert process.stdout is not None
    try:
        said = b""
        while not said.endswith(b"}\n"):
            line = process.stdout.readline()
            assert line, (tmp_path / "log").read_text()
            said += line
        yield process, int(json.loads(said)["url"].removesuffix("/v1").rpartition(":")[2])
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def resident(pid: int) -> int:
    """Bytes of a process in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def client(port: int, texts: list[str], number: int) -> list[tuple[str, list[float]]]:
    """A client with one connection, some of whose requests it does not wait for; returned is what it got."""
    chance = random.Random(number)
    got = []
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    for _ in range(REQUESTS):
        chosen = chance.choices(texts, k=chance.randint(1, 5))
        body = json.dumps({"model": "grace-nano", "input": chosen})
        headers = {"Content-Type": "application/json"}
        if chance.random() < 0.1:
            impatient = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
            impatient.request("POST", "/v1/embeddings", body, headers)
            impatient.close()
        connection.request("POST", "/v1/embeddings", body, headers)
        response = connection.getresponse()
        values: Any = json.loads(response.read())
        assert response.status == 200, values
        got += list(zip(chosen, (item["embedding"] for item in values["data"]), strict=True))
    connection.close()
    return got


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_64_clients_and_flat_memory(program: tuple[subprocess.Popen[bytes], int]) -> None:
    process, port = program
    model = grace_st.load(grace_st.nano_path(), device="cpu", max_new_tokens=BUDGET)
    memory = []
    for turn in range(ROUNDS):
        texts = [f"round {turn}: text {index} about {word}" for index, word in enumerate(["rowing", "Oslo"] * 300)]
        with ThreadPoolExecutor(CLIENTS) as pool:
            answers = list(pool.map(partial(client, port, texts), range(CLIENTS)))
        memory.append(resident(process.pid))
        offline = dict(zip(texts, model.encode(texts, normalize_embeddings=True), strict=True))
        checked = 0
        for got in answers:
            for text, vector in got:
                np.testing.assert_allclose(np.array(vector, dtype=np.float32), offline[text], rtol=0, atol=TOLERANCE)
                checked += 1
        assert checked >= CLIENTS * REQUESTS
    assert max(memory) - memory[WARM_UP - 1] < GROWTH, [f"{size / 2**20:.1f} MiB" for size in memory]
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
