"""A model by its name on the hub, where the hub cannot be asked: one line at once, nothing tried again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from huggingface_hub import constants

import grace_st
from grace_st.hub import check_hub

ROOT = Path(__file__).parents[2]


def test_without_a_network_the_command_says_so_at_once(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*(str(ROOT / part) for part in ("", "train", "evaluation")), *sys.path]),
        "HF_ENDPOINT": "http://127.0.0.1:9",  # nobody listens there
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-m", "grace_st", "convert", "org/model", "made"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("grace-st: error: org/model is no local folder and not in the cache, and the hub can")
    assert "check the network and HF_ENDPOINT" in done.stderr
    assert done.stderr.count("\n") == 1  # nothing of huggingface_hub's attempts


def test_loading_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="runs/nothing is no local folder and not in the cache, and HF_HUB_OFFLINE"):
        grace_st.load("runs/nothing", cache_folder=str(tmp_path))
    with pytest.raises(OSError, match="a model is no local folder, and cannot be the name of a model on the hub"):
        grace_st.load("a model")


@pytest.mark.parametrize("file", ["config.json", "adapter_config.json"])
def test_what_is_in_the_cache_needs_no_hub(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--org--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (repository / "snapshots" / ("0" * 40) / file).write_text("{}")
    check_hub("org/model", {"cache_dir": str(tmp_path)})
    with pytest.raises(OSError, match="not in the cache"):
        check_hub("org/model", {"cache_dir": str(tmp_path), "revision": "other"})


@pytest.mark.parametrize(
    ("error", "tries"),
    [(httpx.ReadTimeout("slow"), 2), (httpx.RemoteProtocolError("cut"), 2), (httpx.ConnectError("none"), 1)],
)
def test_an_answer_that_stays_away_is_asked_for_again(
    error: Exception, tries: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def fail(url: str, token: object) -> None:
        asked.append(url)
        raise error

    monkeypatch.setattr("grace_st.hub.get_hf_file_metadata", fail)
    with pytest.raises(OSError, match=f"the hub cannot be reached to look for it .{type(error).__name__}"):
        check_hub("org/model", {"cache_dir": str(tmp_path)})
    assert len(asked) == tries
    monkeypatch.setattr("grace_st.hub.get_hf_file_metadata", lambda url, token: None)
    check_hub("org/model", {"cache_dir": str(tmp_path)})


def test_an_address_that_is_none_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grace_st.hub.hf_hub_url", lambda *_, **__: "http://127.0.0.1:notaport/org/model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(OSError, match=r"InvalidURL.*check the network and HF_ENDPOINT"):
        check_hub("org/model", {"cache_dir": str(tmp_path)})
