"""``grace-st eval table`` and ``figure``. Arguments and results; the work is in ``grace_eval.reproduce``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from grace_eval.cli.models import add_common
from grace_eval.cli.with_mteb import with_mteb
from grace_st.cli.command import CommandError
from grace_st.cli.terminal import open_console, quiet_libraries, write_json

if TYPE_CHECKING:
    from grace_eval.reproduce.declare import Cell
    from grace_eval.reproduce.inputs import Inputs
    from grace_eval.reproduce.run import Reproduction
    from grace_eval.reproduce.studies import Kind

HELPS = {"table": "make a table of the paper", "figure": "make a figure of the paper"}
EXAMPLES = (
    "grace-st eval table 4 --smoke",
    "grace-st eval table 1 --pairs e5.jsonl --dry-run",
    "grace-st eval figure 3 --smoke",
    "grace-st eval figure 4 --pairs e5.jsonl --models models --data-root data",
)
EXIT_FAILED_CELLS = 1


def configure(kind: Kind) -> Callable[[argparse.ArgumentParser], None]:
    """What adds the arguments."""

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("number", metavar="N", type=int, help=f"the paper's number of the {kind}")
        parser.add_argument(
            "--smoke",
            action="store_true",
            help="a real but reduced run on the bundled model, in minutes: shows that everything works, and no more",
        )
        parser.add_argument("--list", action="store_true", help="name the cells and which of them are done, and stop")
        parser.add_argument("--dry-run", action="store_true", help="show what each cell does as commands, and stop")
        parser.add_argument("--only", metavar="CELL", nargs="+", help="do only these cells")
        parser.add_argument("--draw", action="store_true", help="do nothing, only write the outputs of what is done")
        parser.add_argument(
            "--output", metavar="DIR", help="where everything goes (default: reproduction, or reproduction-smoke)"
        )
        parser.add_argument("--keep-going", action="store_true", help="go on with the next cell when one fails")
        parser.add_argument("--quiet", action="store_true", help="say nothing but errors")
        inputs = parser.add_argument_group("inputs of a full run")
        inputs.add_argument("--pairs", metavar="FILE", help="supervised training data: query, positive, negatives")
        inputs.add_argument("--texts", metavar="FILE", help="unsupervised training data: one text a line")
        inputs.add_argument("--models", metavar="DIR", help="local copies of models, DIR/ORG/NAME as on the hub")
        inputs.add_argument("--data-root", metavar="DIR", help="local copies of MTEB's data sets, DIR/ORG/NAME")
        inputs.add_argument(
            "--engine", choices=("verl", "local"), help="what trains GRACE in a full run (default: verl)"
        )
        inputs.add_argument("--set", metavar="KEY=VALUE", nargs="+", help="settings of every training of GRACE")
        inputs.add_argument("--seed", metavar="N", type=int, default=0, help="of training (default: %(default)s)")
        inputs.add_argument("--device", metavar="NAME", help="cpu, cuda, mps, ... (default: the best there is)")
        add_common(parser)

    return add


def run(kind: Kind) -> Callable[[argparse.Namespace], int]:
    """What does the work."""

    def start(arguments: argparse.Namespace) -> int:
        # A smoke run needs no mteb.
        return work(arguments) if arguments.smoke else with_mteb(work)(arguments)

    def work(arguments: argparse.Namespace) -> int:
        from grace_eval.reproduce.run import Reproduction
        from grace_eval.reproduce.studies import study

        engine = arguments.engine or ("local" if arguments.smoke else "verl")
        chosen, scale = study(kind, arguments.number, smoke=arguments.smoke, engine=engine)
        root = Path(arguments.output or ("reproduction-smoke" if arguments.smoke else "reproduction")).expanduser()
        reproduction = Reproduction(chosen, _inputs(arguments, engine), root, scale.limits)
        cells = _chosen(arguments, reproduction)
        if arguments.list or arguments.dry_run:
            return _show(arguments, reproduction, cells)
        return _make(arguments, reproduction, cells)

    return start


def _inputs(arguments: argparse.Namespace, engine: str) -> Inputs:
    from grace_eval.reproduce.inputs import Inputs

    if arguments.smoke:
        for name in ("pairs", "texts", "models", "data_root", "engine", "set"):
            if getattr(arguments, name) is not None:
                raise CommandError(f"--{name.replace('_', '-')} is for full runs: a smoke run uses what is bundled")
        return Inputs(pairs="nano", texts="nano", engine="local", seed=arguments.seed, device=arguments.device)
    folders = {name: getattr(arguments, name) for name in ("models", "data_root")}
    for name, folder in folders.items():
        if folder is not None and not Path(folder).expanduser().is_dir():
            raise CommandError(f"there is no folder {folder}: --{name.replace('_', '-')} holds local copies")
    return Inputs(
        pairs=arguments.pairs,
        texts=arguments.texts,
        models=None if arguments.models is None else Path(arguments.models).expanduser(),
        data_root=None if arguments.data_root is None else Path(arguments.data_root).expanduser(),
        engine="verl" if engine == "verl" else "local",
        seed=arguments.seed,
        changes=tuple(arguments.set or ()),
        device=arguments.device,
    )


def _chosen(arguments: argparse.Namespace, reproduction: Reproduction) -> list[Cell]:
    cells = {cell.name: cell for cell in reproduction.study.cells}
    names = arguments.only or list(cells)
    unknown = [name for name in names if name not in cells]
    if unknown:
        raise CommandError(f"there is no cell {unknown[0]!r}; there are {', '.join(cells)}")
    return [cell for name, cell in cells.items() if name in names]


def _show(arguments: argparse.Namespace, reproduction: Reproduction, cells: list[Cell]) -> int:
    left = {cell.name for cell in reproduction.left(cells)}
    if arguments.json:
        write_json(
            [
                {
                    "cell": cell.name,
                    "done": cell.name not in left,
                    "labels": dict(cell.labels),
                    "commands": reproduction.commands(cell),
                }
                for cell in cells
            ]
        )
        return 0
    console = open_console()
    for cell in cells:
        labels = ", ".join(f"{name}={value}" for name, value in cell.labels.items())
        state = "left" if cell.name in left else "done"
        console.print(f"{cell.name}  ({labels})  {state}", markup=False, soft_wrap=True)
        for command in reproduction.commands(cell) if arguments.dry_run else ():
            console.print(f"    {command}", markup=False, soft_wrap=True)
    return 0


def _make(arguments: argparse.Namespace, reproduction: Reproduction, cells: list[Cell]) -> int:
    from grace_eval.reproduce.inputs import check
    from grace_eval.reproduce.output import write_outputs
    from grace_st.bulk.lock import FolderLock
    from grace_train.report.health import TrainingStopped

    quiet_libraries()
    left = [] if arguments.draw else reproduction.left(cells)
    check(reproduction.study, left, reproduction.inputs)
    if arguments.smoke:
        import torch

        # Its matrices are so small that a second thread costs more than it saves.
        torch.set_num_threads(1)
    console = open_console()
    is_told = not (arguments.quiet or arguments.json)
    total = len(cells)

    def tell(cell: Cell, what: str) -> None:
        if is_told:
            place = total - len(left) + 1 + left.index(cell)
            console.print(f"{place}/{total} {cell.name}: {what}", markup=False, soft_wrap=True)

    reproduction.folder.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(reproduction.root)
    try:
        try:
            reproduction.run(left, keep_going=arguments.keep_going, on_cell=tell)
        except TrainingStopped as error:
            sys.stderr.write(f"grace-st eval: {error} {' '.join(getattr(error, '__notes__', []))}\n")
            return EXIT_FAILED_CELLS
        finally:
            results = reproduction.results()
            paths = write_outputs(reproduction.study, results, reproduction.folder)
    finally:
        lock.release()
    failed = [result.cell.name for result in results if result.cause is not None]
    done = [result for result in results if result.figures is not None]
    if arguments.json:
        write_json(
            {
                "study": reproduction.study.name,
                "stamp": reproduction.study.stamp,
                "done": len(done),
                "cells": len(results),
                "failed": failed,
                "files": [str(path) for path in paths],
                "results": [{"cell": one.cell.name, "labels": one.cell.labels, "figures": one.figures} for one in done],
            }
        )
    elif is_told:
        stamp = f"{reproduction.study.stamp}. " if reproduction.study.stamp else ""
        said = f"{stamp}{len(done)} of {len(results)} cells are done. {paths[1]}"
        console.print(said, markup=False, soft_wrap=True)
    return EXIT_FAILED_CELLS if failed else 0
