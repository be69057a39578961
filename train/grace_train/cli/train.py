"""``grace-st train``: GRPO with contrastive rewards, by one command.

Arguments and results; the work is in ``grace_train.training``, the summary in ``train_view``.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from grace_st.cli.command import Command, CommandError
from grace_st.cli.terminal import open_console, quiet_libraries, write_json

if TYPE_CHECKING:
    from grace_train.config import TrainConfig

EXIT_STOPPED = 1


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config", metavar="CONFIG", nargs="?", help="a YAML file, or the name of a bundled configuration, such as nano"
    )
    parser.add_argument(
        "changes", metavar="KEY=VALUE", nargs="*", help="settings to change, for instance reward.variant=infonce"
    )
    parser.add_argument(
        "--show-config", metavar="NAME", help="print a configuration with the documentation of every key, and stop"
    )
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with an interrupted run, if there is one")
    again.add_argument("--overwrite", action="store_true", help="replace an earlier run in the same output")
    parser.add_argument(
        "--dry-run", action="store_true", help="engine=verl: print the settings that verl gets, and stop"
    )
    parser.add_argument("--quiet", action="store_true", help="show nothing while training")


def _run(arguments: argparse.Namespace) -> int:
    from grace_train.config_files import bundled_names, documented, load_config

    if arguments.show_config is not None:
        if arguments.config is not None:
            raise CommandError("--show-config stands alone: name one configuration behind it")
        sys.stdout.write(documented(arguments.show_config))
        return 0
    if arguments.config is None:
        raise CommandError(f"no configuration given: name a YAML file, or one of {', '.join(bundled_names())}")
    if "=" in arguments.config:
        raise CommandError(f"{arguments.config!r} stands where the configuration does: name one first, such as nano")
    config = load_config(arguments.config, arguments.changes)
    if arguments.dry_run:
        return _dry_run(config)

    quiet_libraries()
    from grace_train.cli.train_view import show
    from grace_train.report.health import TrainingStopped
    from grace_train.training import train

    try:
        outcome = train(
            config, resume=arguments.resume, overwrite=arguments.overwrite, quiet=arguments.quiet or arguments.json
        )
    except TrainingStopped as error:
        notes = " ".join(getattr(error, "__notes__", []))
        sys.stderr.write(f"grace-st train: stopped: {error} {notes}".rstrip() + "\n")
        return EXIT_STOPPED
    if arguments.json:
        write_json(outcome.summary)
    else:
        show(open_console(), outcome.summary)
    return 0


def _dry_run(config: TrainConfig) -> int:
    if config.engine != "verl":
        raise CommandError("--dry-run shows what verl gets: add engine=verl")
    from grace_train.verl_engine import settings

    sys.stdout.write("\n".join(settings(config)) + "\n")
    return 0


COMMAND = Command(
    summary="train a model with contrastive rewards (GRPO)",
    description=(
        "Train a model that writes a rationale before it embeds, with contrastive rewards (GRACE). OUTPUT becomes a "
        "model folder that SentenceTransformer loads; the log, the curves, rationales of fixed texts and the "
        "checkpoints are in OUTPUT/training. An interrupted run goes on with --resume."
    ),
    examples=(
        "grace-st train nano",
        "grace-st train qwen2.5-1.5b data.train=pairs.jsonl output=models/mine",
        "grace-st train nano method=cl output=runs/nano-cl",
        "grace-st train nano mode=unsupervised data.train=corpus.txt output=runs/corpus --resume",
        "grace-st train verl-qwen2.5-1.5b data.train=pairs.jsonl output=models/mine --dry-run",
        "grace-st train --show-config nano",
    ),
    configure=_configure,
    run=_run,
    intermixed=True,
)
