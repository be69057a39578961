"""``grace-st publish``: check a model folder and upload it to the Hugging Face hub.

``publish_view`` draws what was checked and what would be uploaded.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from grace_st.cli.command import Command, CommandError
from grace_st.cli.terminal import open_console, quiet_libraries, write_json

if TYPE_CHECKING:
    from grace_st.publish import Readiness


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="the model folder")
    parser.add_argument("repo_id", metavar="ORG/NAME", help="your user or organization on the hub, and a name")
    parser.add_argument("--dry-run", action="store_true", help="check, show what would be uploaded, and stop")
    parser.add_argument("--private", action="store_true", help="make the repository private, where it is new")
    parser.add_argument(
        "--branch", "--revision", dest="branch", metavar="NAME", help="commit to this branch; made if it is not there"
    )
    parser.add_argument("--commit-message", metavar="TEXT", help="message of the commit")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request instead of changing the branch")
    parser.add_argument("--device", metavar="NAME", help="where it is tried: cpu, cuda, ... (default: the best)")


def _run(arguments: argparse.Namespace) -> int:
    quiet_libraries()
    from dataclasses import replace

    from grace_st.publish import check_folder, check_loading, user_name

    ready = check_folder(arguments.folder, arguments.repo_id)
    if ready.problems:
        return _refuse(arguments, ready)
    if arguments.dry_run:
        ready = replace(ready, checks=[*ready.checks, check_loading(ready.folder, device=arguments.device)])
        if ready.problems:
            return _refuse(arguments, ready)
        return _show(arguments, ready, {"dry_run": True})
    from huggingface_hub import HfApi

    from grace_st.publish import upload

    api = HfApi()
    user = user_name(api)  # before the weights are loaded, which takes a while
    ready = replace(ready, checks=[*ready.checks, check_loading(ready.folder, device=arguments.device)])
    if ready.problems:
        return _refuse(arguments, ready)
    if not arguments.json:
        _view(ready)
    done = upload(
        api,
        ready,
        private=arguments.private,
        branch=arguments.branch,
        commit_message=arguments.commit_message,
        create_pr=arguments.create_pr,
    )
    result = {
        "dry_run": False,
        "user": user,
        "commit_url": done.commit_url,
        "commit": done.commit,
        "pr_url": done.pr_url,
        "other_weights": done.other_weights,
    }
    if arguments.json:
        return _show(arguments, ready, result)
    console = open_console()
    console.print(f"\nPublished as {user}: {done.pr_url or done.commit_url}", soft_wrap=True)
    if done.other_weights:
        console.print(
            f"The repository also has {', '.join(done.other_weights)}, which this upload does not replace: remove what "
            "is no longer of the model.",
            soft_wrap=True,
        )
    return 0


def _refuse(arguments: argparse.Namespace, ready: Readiness) -> int:
    _show(arguments, ready, {"dry_run": arguments.dry_run})
    first, *others = ready.problems
    more = f" (and {len(others)} more)" if others else ""
    raise CommandError(f"{arguments.folder} is not ready, and nothing was uploaded: {first}{more}")


def _show(arguments: argparse.Namespace, ready: Readiness, more: dict[str, Any]) -> int:
    if arguments.json:
        write_json({**_as_json(ready), **more})
    else:
        _view(ready)
    return 0


def _view(ready: Readiness) -> None:
    from grace_st.cli.publish_view import show

    show(open_console(), ready)


def _as_json(ready: Readiness) -> dict[str, Any]:
    return {
        "folder": str(ready.folder),
        "repo_id": ready.repo_id,
        "ready": not ready.problems,
        "checks": [
            {"name": check.name, "passed": check.passed, "problems": list(check.problems), "notes": list(check.notes)}
            for check in ready.checks
        ],
        "files": ready.files,
        "left_out": list(ready.left_out),
    }


COMMAND = Command(
    summary="check a model folder and upload it to the Hugging Face hub",
    description=(
        "Check a model folder (files, safetensors, secrets, model card, licence, name, that it loads and encodes) and "
        "upload it to the Hugging Face hub as one commit. Nothing is uploaded when a check fails. What a run has left "
        "in training/ stays here. The login is that of huggingface_hub: `hf auth login`, or HF_TOKEN."
    ),
    examples=(
        "grace-st publish models/mine my-org/my-model --dry-run",
        "grace-st publish models/mine my-org/my-model --private",
        "grace-st publish models/mine my-org/my-model --create-pr --commit-message 'Train on more data'",
    ),
    configure=_configure,
    run=_run,
    intermixed=True,
)
