"""What goes wrong with the real vLLM, and what is left then."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import grace_st
from grace_st.engines.vllm.errors import VllmDiedError, VllmStartError
from grace_st.store import RationaleStore
from tests import tiny
from tests.engines import vllm_models as models
from tests.engines.conftest import COMMAND, REPOSITORY, environment

TEXTS = [f"{number} {text}" for number in range(12) for text in tiny.TEXTS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.model_folder(tmp_path_factory.mktemp("model"), "qwen2")


def test_a_worker_that_dies_keeps_what_is_finished(folder: Path, tmp_path: Path) -> None:
    """Through the stock class; the worker is a process of vLLM's own, that of its engine."""
    from sentence_transformers import SentenceTransformer

    kwargs = {"engine": "vllm", "engine_kwargs": {**models.OPTIONS, "max_num_seqs": 4}}
    model = SentenceTransformer(str(folder), trust_remote_code=True, model_kwargs=kwargs)
    engine = model[0].engine
    group = engine._session.process.pid
    workers = [pid for pid, name in models.processes(group).items() if "EngineCore" in name or "EngineCor" in name]
    assert workers
    finished = 0

    def kill_one(count: int) -> None:
        nonlocal finished
        if finished < 20 <= finished + count:
            os.kill(workers[0], signal.SIGKILL)
        finished += count

    with pytest.raises(VllmDiedError, match=r"vLLM died with \d+ of 120 rationales finished: \S"):
        grace_st.encode_with_rationales(model, TEXTS, store=tmp_path / "kept.sqlite", progress=kill_one)
    models.wait_until_gone(group)
    kept = RationaleStore(tmp_path / "kept.sqlite").info().entries
    assert 20 <= kept == finished < len(TEXTS)
    # The same call goes on from there, with a vLLM that is started anew.
    with models.in_one_process():
        vectors = model.encode(TEXTS, batch_size=len(TEXTS), store=str(tmp_path / "kept.sqlite"))
    own = grace_st.load(folder, device="cpu")
    np.testing.assert_allclose(vectors[:30], own.encode(TEXTS[:30]), atol=1e-4)
    # Ctrl-C.
    group = engine._session.process.pid
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        model.encode(TEXTS * 20, max_new_tokens=100, batch_size=len(TEXTS) * 20)
    models.wait_until_gone(group)


def test_the_command_line_is_interrupted_and_goes_on(folder: Path, tmp_path: Path) -> None:
    texts, output = tmp_path / "texts.txt", tmp_path / "vectors.npy"
    texts.write_text("".join(f"{text}\n" for text in map(" ".join, (text.split() for text in TEXTS)) if text.strip()))
    rows = len(texts.read_text().splitlines())
    options = [f"--engine-option={name}={json.dumps(value)}" for name, value in models.OPTIONS.items()]
    arguments = ["encode", str(texts), str(output), "--model", str(folder), "--engine", "vllm", *options]
    arguments += ["--chunk-size", "40", "--resume", "--json"]
    run = [sys.executable, *COMMAND, *arguments]
    values = {**environment(), "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    with (tmp_path / "log").open("wb") as log:
        # More tokens than it can write until it is interrupted.
        process = subprocess.Popen(run, stdout=log, stderr=log, env=values, cwd=REPOSITORY, start_new_session=True)
        try:
            deadline = time.monotonic() + 300
            while not list(tmp_path.glob("vectors.npy.partial/*")) or not _host_of(process.pid):
                assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.1)
            group = _host_of(process.pid)
            process.send_signal(signal.SIGINT)
            code = process.wait(60)
        finally:
            process.kill()
    said = (tmp_path / "log").read_text()
    assert code == 130 or output.exists(), said
    models.wait_until_gone(group)
    ended = subprocess.run(run, capture_output=True, text=True, env=values, cwd=REPOSITORY, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert np.load(output).shape == (rows, 128)


def _host_of(parent: int) -> int:
    """The process group of vLLM that a process has started; 0 without one."""
    listed = subprocess.run(["ps", "-e", "-o", "ppid=,pgid=,pid="], capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        owner, group, pid = map(int, line.split())
        if owner == parent and group == pid:
            return group
    return 0


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        ({"architectures": ["OddForCausalLM"]}, {}, r"OddForCausalLM.* not supported .*vLLM does not know this model"),
        ({}, {"cpu_cache_gib": 100_000}, r"100000.0 GiB.*\(too little memory"),
    ],
)
def test_a_start_that_fails_gives_the_cause_in_one_line(
    change: dict[str, object], options: dict[str, object], said: str, folder: Path, tmp_path: Path
) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with models.in_one_process(), pytest.raises(VllmStartError, match=said) as caught:
        grace_st.load(tmp_path, engine="vllm", engine_kwargs={**models.OPTIONS, **options})
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
