"""The command: which runs are left, making them, and the table."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from grace_train.nano.evaluate import weights_sha256
from harness.experiment import Experiment, Planned, write_text
from harness.pages import fill
from reward_choice import markdown, start_models
from reward_choice.rows import ROWS, Row, Run, choose, runs_of
from reward_choice.settings import SMOKE, Settings, digest
from reward_choice.table import as_json, lines_of

logger = logging.getLogger("experiment")

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[2] / "docs" / "what-the-reward-trains.md"
SMOKE_ROWS = ("vague-reasoning", "vague-cl", "vague-per-rollout")


def planned(output: Path, settings: Settings, runs: Sequence[Run]) -> list[Planned]:
    """The runs as the harness makes them; their start models must be there."""
    hashes = {start: weights_sha256(start_models.folder_of(start, output)) for start in {run.row.start for run in runs}}
    common = ("--output", str(output), "--settings", json.dumps(asdict(settings)))
    return [
        Planned(
            name=run.name,
            digest=digest(run, settings, hashes[run.row.start]),
            words=(sys.executable, str(HERE), "--one", run.row.key, "--seed", str(run.seed), *common),
            about={"row": run.row.name, "start": run.row.start, "seed": run.seed},
        )
        for run in runs
    ]


def write_table(
    output: Path, settings: Settings, rows: Sequence[Row], contents: Sequence[Mapping[str, Any]], *, publish: bool
) -> None:
    """Write the table of results into the experiment's folder and, to publish it, here and into the documentation."""
    lines = lines_of(rows, contents)
    text = json.dumps(as_json(lines, asdict(settings)), indent=1) + "\n"
    shown = markdown.page(lines)
    for folder in (output, HERE) if publish else (output,):
        write_text(folder / "results.json", text)
        write_text(folder / "results.md", shown)
    if publish:
        fill(PAGE, {"reward-choice-table": shown, "reward-choice-deviations": markdown.deviations(lines)})
    logger.info("table in %s", output / "results.md")


def _told(content: Mapping[str, Any]) -> str:
    return f"dev nDCG@10 {content['figures']['dev']['ndcg@10']:.3f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """See ``--help``. Returns 1 if a run failed."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if options.one is not None:
        return _one(options)
    smoke: bool = options.smoke
    settings = SMOKE if smoke else _settings(options)
    names = options.rows or (SMOKE_ROWS if smoke else ())
    try:
        rows = choose(names)
    except ValueError as error:
        sys.stderr.write(f"reward_choice: {error}\n")
        return 2
    runs = runs_of(rows, 1 if smoke and options.seeds is None else options.seeds)
    if options.list:
        sys.stdout.write("".join(f"{run.name}\n" for run in runs))
        return 0
    output = options.output or Path("runs/reward_choice_smoke" if smoke else "runs/reward_choice")
    starts = list(dict.fromkeys(run.row.start for run in runs))
    start_models.make(starts, output, steps=options.pretrain_steps, threads=options.jobs)
    experiment = Experiment(output, planned(output, settings, runs), _told)
    failed = 0
    signal.signal(signal.SIGTERM, _interrupt)  # its processes would go on without it
    try:
        if not options.table:
            failed = experiment.make(jobs=options.jobs, limit=options.limit, retry_failed=options.retry_failed)
    except KeyboardInterrupt:
        logger.info("interrupted: the same command goes on")
        return 130
    finally:
        publish = options.publish or not (smoke or names)
        write_table(output, settings, rows, experiment.contents(), publish=publish)
    return 1 if failed else 0


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _settings(options: argparse.Namespace) -> Settings:
    names = [item.name for item in dataclasses.fields(Settings) if getattr(options, item.name, None) is not None]
    return Settings(**{name: getattr(options, name) for name in names})


def _one(options: argparse.Namespace) -> int:
    from reward_choice.one import do

    row = next(row for row in ROWS if row.key == options.one)
    run, settings = Run(row, options.seed), Settings(**json.loads(options.settings))
    (plan,) = planned(options.output, settings, [run])
    do(
        run,
        settings,
        start=start_models.folder_of(row.start, options.output),
        work=options.output / "models" / run.name,
        result=Experiment(options.output, [plan], _told).path(run.name),
        digest=plan.digest,
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python train/experiments/reward_choice",
        description=(
            "Compare rewards, baselines, algorithms and remedies on grace-nano. Runs that are done are not made again, "
            "so an interrupted command goes on when it is given again."
        ),
        epilog="example: python train/experiments/reward_choice --rows headline --seeds 2",
    )
    sizes = Settings()
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="rows or sections (default: all); see --list")
    parser.add_argument("--seeds", type=_positive, metavar="N", help="at most N seeds of each row")
    parser.add_argument("--jobs", type=_positive, default=2, help="runs side by side (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="folder of everything (default: runs/reward_choice)")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds of one run (default: %(default)s)")
    parser.add_argument("--steps", type=_positive, help=f"steps of a GRACE run (default: {sizes.steps})")
    parser.add_argument("--batch-size", type=_positive, help=f"instances of a batch (default: {sizes.batch_size})")
    parser.add_argument("--queries", type=_positive, help=f"most queries of dev and of test (default: {sizes.queries})")
    parser.add_argument("--pretrain-steps", type=_positive, help="of the second start model (default: the recipe's)")
    parser.add_argument("--retry-failed", action="store_true", help="make runs that failed again")
    parser.add_argument("--smoke", action="store_true", help="three tiny runs, to see that everything works")
    parser.add_argument("--table", action="store_true", help="make no runs, only the table")
    parser.add_argument("--publish", action="store_true", help="put a table of some rows here and into the docs, too")
    parser.add_argument("--list", action="store_true", help="name the runs in their order, and stop")
    for name in ("--one", "--settings"):  # what a run's own process is told
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value
