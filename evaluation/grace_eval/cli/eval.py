"""``grace-st eval``: its actions, each of which has a module of its own."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from grace_eval.cli import faithfulness, mteb, reproduce, submit
from grace_st.cli.command import Command

_EXAMPLES = (*mteb.EXAMPLES, *submit.EXAMPLES, *faithfulness.EXAMPLES, *reproduce.EXAMPLES)

_ACTIONS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]] = {
    "mteb": (mteb.HELP, mteb.configure, mteb.run),
    "submit": (submit.HELP, submit.configure, submit.run),
    "faithfulness": (faithfulness.HELP, faithfulness.configure, faithfulness.run),
    "table": (reproduce.HELPS["table"], reproduce.configure("table"), reproduce.run("table")),
    "figure": (reproduce.HELPS["figure"], reproduce.configure("figure"), reproduce.run("figure")),
}


def _configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, (help_, configure, run) in _ACTIONS.items():
        examples = "\n".join(f"  {example}" for example in _EXAMPLES if example.startswith(f"grace-st eval {name} "))
        action = actions.add_parser(name, help=help_, epilog=f"examples:\n{examples}")
        configure(action)
        action.set_defaults(run_action=run)


def _run(arguments: argparse.Namespace) -> int:
    code: int = arguments.run_action(arguments)
    return code


COMMAND = Command(
    summary="evaluate a model: MTEB, faithfulness; the paper's tables and figures",
    description=(
        "`mteb` runs tasks and goes on where an earlier run was stopped: finished tasks are kept in the results "
        "folder, and texts in a store beside it. `submit` checks results and writes what the leaderboard asks for; "
        "nothing is sent. `faithfulness` changes rationales on purpose and measures what that does to the scores. "
        "`table` and `figure` make those of the paper."
    ),
    examples=_EXAMPLES,
    configure=_configure,
    run=_run,
)
