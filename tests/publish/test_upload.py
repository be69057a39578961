"""``grace-st publish`` against a hub on the loopback interface, over HTTP: what arrives, and each way to fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from huggingface_hub import HfApi, ModelCard
from sentence_transformers import SentenceTransformer

import grace_st
from grace_st.cli import main
from grace_st.publish import HubError, PublishError, Readiness, upload, user_name
from grace_st.publish.checks import Check
from tests.publish.hub import TOKEN, Hub, running

ROOT = Path(__file__).parent.parent.parent
REFUSED = {401: "the token is not valid", 403: "may not write to me", 404: "is not there", 409: "at the same time"}


def publish(hub: Hub, *commands: list[object], home: Path) -> list[dict[str, Any]]:
    """Run some commands in a process whose hub is this one. The last one has a token that is not valid."""
    words = [(TOKEN, ["publish", *map(str, command), "--device", "cpu"]) for command in commands]
    words[-1] = ("hf_wrong", words[-1][1])
    path = os.pathsep.join([*(str(ROOT / part) for part in ("", "train", "evaluation")), *sys.path])
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",  # a protocol of its own, which the stand-in does not speak
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.publish.child", json.dumps(words)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ended: list[dict[str, Any]] = json.loads(done.stdout)
    return ended


@pytest.fixture(scope="module")
def published(
    ready_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Hub, list[dict[str, Any]]]]:
    """Everything that needs a process, in one."""
    with running() as hub:
        hub.fail = {f"/me/fails-{status}/commit": status for status in REFUSED} | {"/models/me/fails-500": 500}
        yield (
            hub,
            publish(
                hub,
                [ready_folder, "me/my-model", "--private", "--commit-message", "the first"],
                [ready_folder, "me/my-model", "--branch", "v2", "--json"],
                [ready_folder, "me/my-model", "--create-pr"],
                [ready_folder, "someone/my-model"],
                [ready_folder, "me/open"],
                [ready_folder, "me/open", "--private"],
                [ready_folder, "me/never", "--dry-run"],
                [ready_folder, "me/grace-1.5b"],
                *([ready_folder, f"me/fails-{status}"] for status in (*REFUSED, 500)),
                [ready_folder, "me/wrong-token"],
                home=tmp_path_factory.mktemp("home"),
            ),
        )


def test_what_arrives_is_the_folder(
    published: tuple[Hub, list[dict[str, Any]]], ready_folder: Path, tmp_path: Path
) -> None:
    hub, ended = published
    assert ended[0]["code"] == 0, ended[0]
    assert "Published as me: " in ended[0]["out"] and "/me/my-model/commit/" in ended[0]["out"]
    repo = hub.repos["me/my-model"]
    assert repo.private and repo.commits[0] == {"summary": "the first", "description": "", "branch": "main"}
    files = repo.branches["main"]
    on_disk = {path.name for path in ready_folder.iterdir() if path.is_file()}
    assert set(files) == on_disk  # and nothing of training/
    for name in on_disk - {"README.md"}:
        assert files[name] == (ready_folder / name).read_bytes(), name
    # Someone who downloads it can do what its card says.
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    card = ModelCard.load(tmp_path / "README.md")
    assert 'SentenceTransformer("me/my-model", trust_remote_code=True)' in card.text and "# my-model\n" in card.text
    assert card.data.license == "apache-2.0"
    texts = ["a text", "another"]
    vectors = SentenceTransformer(str(tmp_path), trust_remote_code=True, device="cpu").encode(texts)
    assert np.array_equal(vectors, grace_st.load(ready_folder, device="cpu").encode(texts, batch_size=32))


def test_a_branch_is_made_and_json_says_where(published: tuple[Hub, list[dict[str, Any]]]) -> None:
    hub, ended = published
    said = json.loads(ended[1]["out"])
    assert (ended[1]["code"], said["ready"], said["user"], said["pr_url"]) == (0, True, "me", None)
    assert said["commit"] == "a" * 40 and set(said["files"]) == set(hub.repos["me/my-model"].branches["v2"])
    assert [commit["branch"] for commit in hub.repos["me/my-model"].commits] == ["main", "v2", "refs/pr/1"]


def test_a_pull_request(published: tuple[Hub, list[dict[str, Any]]]) -> None:
    hub, ended = published
    assert ended[2]["code"] == 0 and f"{hub.url}/me/my-model/discussions/1" in ended[2]["out"]


def test_a_repository_of_someone_else(published: tuple[Hub, list[dict[str, Any]]]) -> None:
    hub, ended = published
    assert ended[3]["code"] == 2 and ended[3]["err"].count("\n") == 1
    assert "answered 403" in ended[3]["err"] and "may not write to someone" in ended[3]["err"]
    assert "someone/my-model" not in hub.repos


def test_private_is_never_published_openly(published: tuple[Hub, list[dict[str, Any]]]) -> None:
    hub, ended = published
    assert ended[4]["code"] == 0 and not hub.repos["me/open"].private
    assert ended[5]["code"] == 2 and "is there already and public, so nothing was uploaded" in ended[5]["err"]
    assert len(hub.repos["me/open"].commits) == 1


def test_a_dry_run_and_a_refused_folder_ask_the_hub_nothing(published: tuple[Hub, list[dict[str, Any]]]) -> None:
    hub, ended = published
    assert ended[6]["code"] == 0 and "model.safetensors" in ended[6]["out"] and "loading" in ended[6]["out"]
    assert ended[7]["code"] == 2 and "nothing was uploaded" in ended[7]["err"]
    assert not any("never" in request or "grace-1.5b" in request for request in hub.requests)
    assert not {"me/never", "me/grace-1.5b"} & set(hub.repos)


@pytest.mark.parametrize("index", range(5))
def test_a_hub_that_refuses_is_one_line_that_says_what_to_do(
    index: int, published: tuple[Hub, list[dict[str, Any]]]
) -> None:
    hub, ended = published
    status = (*REFUSED, 500)[index]
    last = ended[8 + index]
    lines = [line for line in last["err"].splitlines() if line.startswith("grace-st: error")]
    assert last["code"] == 2 and len(lines) == 1 and "Traceback" not in last["err"], last
    assert f"the hub answered {status}" in lines[0] and REFUSED.get(status, "run the command again later") in lines[0]
    assert hub.repos[f"me/fails-{status}"].commits == []
    # A refusal is not asked for twice.
    assert hub.requests.count(f"POST /api/models/me/fails-{status}/commit/main") == (status != 500)


def test_a_token_that_is_not_valid(published: tuple[Hub, list[dict[str, Any]]]) -> None:
    hub, ended = published
    assert ended[-1]["code"] == 2 and ended[-1]["err"].count("\n") == 1
    assert "the token is not valid" in ended[-1]["err"] and "hf auth login" in ended[-1]["err"]
    assert "me/wrong-token" not in hub.repos


def test_nobody_is_logged_in(
    ready_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    assert main(["publish", str(ready_folder), "me/x"]) == 2
    assert "nobody is logged in: run `hf auth login`" in capsys.readouterr().err


def test_offline_is_said(
    ready_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert main(["publish", str(ready_folder), "me/x"]) == 2
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: object, **__: object) -> None:
        raise httpx.ConnectError("connection refused")

    monkeypatch.setattr(HfApi, "whoami", nobody)
    with pytest.raises(HubError, match=r"cannot be reached .*connection refused.*run the command again"):
        user_name(HfApi())


def test_a_folder_that_failed_is_not_uploaded(ready_folder: Path) -> None:
    ready = Readiness(folder=ready_folder, repo_id="me/x", checks=[Check(name="files", problems=["bad"])], card="x")
    with pytest.raises(PublishError, match="has not passed its checks"):
        upload(HfApi(), ready)
