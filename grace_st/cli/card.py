"""``grace-st card``: the README of a model folder, or the card of a model that has a name before it is trained."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from grace_st.cli.command import Command, CommandError
from grace_st.cli.terminal import open_console, quiet_libraries, write_json


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", nargs="?", help="a model folder, whose README.md is written")
    parser.add_argument("--output", metavar="FILE", help="write there instead; - is standard output")
    model = parser.add_argument_group("model folder")
    model.add_argument("--results", metavar="RESULTS", help="results of `grace-st eval mteb`: figures, model-index")
    model.add_argument("--title", metavar="NAME", help="what the card calls the model (default: as it does)")
    model.add_argument(
        "--license", metavar="NAME", help="as the hub knows it: apache-2.0, ... (default: the backbone's)"
    )
    model.add_argument("--base-model", metavar="ORG/MODEL", help="the backbone's name on the hub")
    model.add_argument(
        "--force", action="store_true", help="replace a card that was written or changed by hand; its blocks stay"
    )
    plan = parser.add_argument_group("model that is not trained yet")
    plan.add_argument("--name", metavar="NAME", help="a name such as grace-1.5b; `--name list` lists them")
    plan.add_argument("--unsupervised", action="store_true", help="the one that is trained on single texts")


def _run(arguments: argparse.Namespace) -> int:
    if (arguments.folder is None) == (arguments.name is None):
        raise CommandError("give a model folder, or --name NAME for the card of a model that is not trained yet")
    return _planned(arguments) if arguments.folder is None else _folder(arguments)


def _planned(arguments: argparse.Namespace) -> int:
    from grace_st.cards import MODELS, planned, render_planned

    given = [name for name in ("results", "title", "license", "base_model", "force") if getattr(arguments, name)]
    if given:
        raise CommandError(f"--{given[0].replace('_', '-')} is for a model folder, and --name names none")
    if arguments.name == "list":
        if arguments.json:
            write_json({name: {"backbone": m.backbone.hub_name, "command": m.command} for name, m in MODELS.items()})
        else:
            for name, model in MODELS.items():
                open_console().print(f"{name}  {model.backbone.hub_name}  {model.command}", soft_wrap=True)
        return 0
    model = planned(arguments.name, unsupervised=arguments.unsupervised)
    text = render_planned(model)
    return _write(arguments, text, Path(arguments.output) if arguments.output not in (None, "-") else None)


def _folder(arguments: argparse.Namespace) -> int:
    if arguments.unsupervised:
        raise CommandError("--unsupervised goes with --name; what a folder was trained on is in its training/")
    from grace_st.cards import render_folder
    from grace_st.cli.models import model_folder

    folder = model_folder(arguments.folder)
    if folder is None:
        raise CommandError("the bundled model has its card already: give a folder")
    found = None
    if arguments.results is not None:
        quiet_libraries()
        from grace_st.cards.results import measured

        found = measured(folder, Path(arguments.results).expanduser())
    text = render_folder(
        folder,
        name=arguments.title,
        license=arguments.license,
        base_model=arguments.base_model,
        measured=found,
        # Written elsewhere, it replaces nothing.
        force=arguments.force,
    )
    target = folder / "README.md" if arguments.output is None else Path(arguments.output)
    return _write(arguments, text, None if arguments.output == "-" else target)


def _write(arguments: argparse.Namespace, text: str, target: Path | None) -> int:
    if target is None:
        if arguments.json:
            write_json({"card": text})
        else:
            sys.stdout.write(text)
        return 0
    from grace_st.cards.folder import write_card

    target = target.expanduser()
    if not target.parent.is_dir():
        raise CommandError(f"there is no folder {target.parent} for {target.name}: make it first")
    write_card(target, text)
    if arguments.json:
        write_json({"path": str(target)})
    else:
        open_console().print(f"Wrote {target}", soft_wrap=True)
    return 0


COMMAND = Command(
    summary="write the model card of a folder, or of a model by its name",
    description=(
        "Write the README.md of a model folder anew from the folder, keeping the blocks that people and tools have "
        "filled in, and the head. With --results the figures of `grace-st eval mteb` go into the card and its "
        "metadata. With --name, show the card of a model of the paper that is not trained yet."
    ),
    examples=(
        "grace-st card models/mine",
        "grace-st card models/mine --results mteb-results",
        "grace-st card --name grace-1.5b --unsupervised",
        "grace-st card --name grace-1.5b --output model_cards/grace-1.5b.md",
    ),
    configure=_configure,
    run=_run,
    intermixed=True,
)
