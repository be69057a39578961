"""The upload, through huggingface_hub, with each failure as one line that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from grace_st.cards.folder import CARD_NAME
from grace_st.publish.checks import PublishError, Readiness

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5")


class HubError(OSError):
    """The hub could not be reached, or did not do what was asked."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """What was done.

    Attributes:
        commit_url: The commit.
        commit: Its hash.
        pr_url: The pull request, where one was asked for.
        other_weights: Weight files of the repository that are not of this upload and stay there.
    """

    commit_url: str
    commit: str
    pr_url: str | None
    other_weights: list[str]


def user_name(api: HfApi) -> str:
    """Who is logged in.

    Raises:
        HubError: Nobody, or the hub cannot be reached.
    """
    with _explained("asking who is logged in", None):
        return str(api.whoami()["name"])


def upload(
    api: HfApi,
    ready: Readiness,
    *,
    private: bool = False,
    branch: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
) -> Published:
    """Make one commit with the files of a folder that has passed its checks; the repository is made if it is not there.

    Args:
        api: Of huggingface_hub, with its login.
        ready: The checked folder.
        private: Make a new repository private. One that is there must be so already.
        branch: Where the commit goes; made if it is not there. The main branch by default.
        commit_message: Of the commit.
        create_pr: Open a pull request instead of changing the branch.

    Raises:
        PublishError: A check failed, or the repository is public and ``private`` was asked for.
        HubError: The hub refused, or cannot be reached. No commit was made.
    """
    if ready.problems or ready.card is None:
        raise PublishError(f"{ready.folder} has not passed its checks, so nothing is uploaded")
    repo = ready.repo_id
    with _explained("making the repository", repo):
        if not (create_pr and api.repo_exists(repo)):  # a pull request needs no right to make repositories
            api.create_repo(repo, private=private or None, exist_ok=True)
        info = api.model_info(repo)
        if private and not info.private:
            raise PublishError(
                f"{repo} is there already and public, so nothing was uploaded: leave out --private, or make it private "
                "in its settings first"
            )
        if branch is not None and not create_pr:
            api.create_branch(repo, branch=branch, exist_ok=True)
        names = set(api.list_repo_files(repo, revision=branch))
    operations = [
        CommitOperationAdd(
            path_in_repo=name,
            path_or_fileobj=ready.card.encode("utf-8") if name == CARD_NAME else str(ready.folder / name),
        )
        for name in sorted(ready.files)
    ]
    with _explained("uploading", repo):
        commit = api.create_commit(
            repo,
            operations,
            commit_message=commit_message or "Upload a GRACE model with grace-st",
            revision=branch,
            create_pr=create_pr,
        )
    return Published(
        commit_url=commit.commit_url,
        commit=commit.oid,
        pr_url=commit.pr_url,
        other_weights=sorted(name for name in names - set(ready.files) if name.endswith(_WEIGHTS)),
    )


@contextmanager
def _explained(doing: str, repo: str | None) -> Iterator[None]:
    """Turn what huggingface_hub raises into one line."""
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise HubError("nobody is logged in: run `hf auth login`, or set HF_TOKEN to a token that may write") from error
    except OfflineModeIsEnabled as error:
        raise HubError("HF_HUB_OFFLINE is set, and publishing needs the hub: unset it, or use --dry-run") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        said = " ".join((error.server_message or str(error)).split())[:200]
        raise HubError(f"{doing}: the hub answered {status}: {_remedy(status, repo)} (it said: {said})") from error
    except httpx.HTTPError as error:
        raise HubError(
            f"{doing}: the hub cannot be reached ({type(error).__name__}: {' '.join(str(error).split())[:200]}): check "
            "the network and HF_ENDPOINT, then run the command again"
        ) from error
    except RuntimeError as error:  # how hf_xet reports that large files did not get through
        said = " ".join(str(error).split())[:200]
        raise HubError(f"{doing} failed ({said}): no commit was made, run the command again") from error


def _remedy(status: int, repo: str | None) -> str:
    owner = repo.partition("/")[0] if repo else None
    if status == 401:
        return "the token is not valid: run `hf auth login`, or set HF_TOKEN to one that may write"
    if status == 403:
        what = f"write to {owner}" if owner else "do this"
        return f"the token may not {what}: use one with write permission, or publish under your own name"
    if status == 404:
        return f"{repo or 'what was asked for'}, or its branch, is not there for this token: check the names"
    if status in (409, 412):
        return "somebody else changed the repository at the same time: look at it, then run the command again"
    if status == 429:
        return "too many requests: wait a while, then run the command again"
    if status >= 500:
        return "it is in trouble: no commit was made, run the command again later"
    return "it refused: no commit was made"
