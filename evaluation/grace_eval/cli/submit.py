"""``grace-st eval submit``. Arguments and results; the work is in ``grace_eval.mteb.submit``."""

from __future__ import annotations

import argparse
import io
from contextlib import nullcontext, redirect_stderr
from pathlib import Path

from grace_eval.cli.models import add_common, model_folder
from grace_eval.cli.with_mteb import with_mteb
from grace_st.cli.terminal import open_console, write_json

HELP = "check results and prepare them for the leaderboard"
EXAMPLES = (
    "grace-st eval submit --results mteb-results",
    "grace-st eval submit --results mteb-results --name my-org/mine --hub-revision COMMIT --license apache-2.0",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--results", metavar="DIR", required=True, help="the results folder of `grace-st eval mteb`")
    parser.add_argument("--name", metavar="ORG/MODEL", help="whose results, where several models have some")
    parser.add_argument("--model", metavar="DIR", help="the model folder (default: the one that was evaluated)")
    parser.add_argument(
        "--output", metavar="DIR", help="the folder to write (default: submission-ORG__MODEL); must not be there"
    )
    parser.add_argument("--hub-revision", metavar="COMMIT", help="the model's commit on the hub, 40 hexadecimal digits")
    parser.add_argument("--license", metavar="NAME", help="of the model, e.g. apache-2.0 (default: the model card's)")
    parser.add_argument("--release-date", metavar="YYYY-MM-DD", help="of the model")
    parser.add_argument("--languages", metavar="CODE", nargs="+", help="e.g. eng-Latn")
    parser.add_argument(
        "--training-datasets", metavar="NAME", nargs="*", help="data sets of mteb that the model was trained on"
    )
    parser.add_argument("--device", metavar="NAME", help="where mteb's mock tasks run")
    add_common(parser)


@with_mteb
def run(arguments: argparse.Namespace) -> int:
    """Check, prepare, tell."""
    from grace_eval.mteb.chosen import choose
    from grace_eval.mteb.submit import prepare

    model = None if arguments.model is None else model_folder(arguments.model)
    chosen = choose(Path(arguments.results).expanduser(), name=arguments.name, model=model)
    output = Path(arguments.output or f"submission-{chosen.folder.parent.name}").expanduser()
    given = {
        "license": arguments.license,
        "release_date": arguments.release_date,
        "languages": arguments.languages,
        "training_datasets": None if arguments.training_datasets is None else set(arguments.training_datasets),
    }
    if not arguments.json:
        open_console().print(f"Checking the results of {chosen.name}, then mteb's mock tasks", markup=False)
    # Some of mteb's bars cannot be switched off, and 28 tasks have many. Errors are raised all the same.
    with nullcontext() if arguments.debug else redirect_stderr(io.StringIO()):
        submission = prepare(
            chosen,
            output,
            hub_revision=arguments.hub_revision,
            fields={name: value for name, value in given.items() if value is not None},
            device=arguments.device,
        )
    if arguments.json:
        passed = [name for name, status in submission.mock.items() if status is not None]
        write_json(
            {
                "output": str(submission.folder),
                "name": chosen.name,
                "results": submission.results,
                "mock_tasks_passed": len(passed),
                "missing": {benchmark: list(tasks) for benchmark, tasks in chosen.missing.items()},
                "local_data": dict(chosen.local_data),
                "steps": submission.steps,
            }
        )
    else:
        console = open_console()
        console.print(submission.steps, markup=False, soft_wrap=True)
        console.print(f"All of it is in {submission.folder}", markup=False, soft_wrap=True)
    return 0
