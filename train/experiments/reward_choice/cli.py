"""The command: which runs are left, making them, and the table."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from grace_st.fingerprint import folder_revision
from grace_train.nano.knowledge import load_knowledge
from harness import recorded
from harness.command import add_running, interrupt_on_signals, lock, make_runs, positive, run
from harness.experiment import Experiment, Planned, result_path, write_text
from harness.pages import fill
from reward_choice import markdown, start_models
from reward_choice.rows import ROWS, Row, Run, choose, runs_of
from reward_choice.settings import SMOKE, Settings, changes_of, digest
from reward_choice.table import as_json, lines_of

logger = logging.getLogger("experiment")

HERE = Path(__file__).resolve().parent
RECORDS = HERE / "runs.jsonl"
PAGE = HERE.parents[2] / "docs" / "what-the-reward-trains.md"
SMOKE_ROWS = ("vague-reasoning", "vague-cl", "vague-per-rollout")


def planned(output: Path, settings: Settings, runs: Sequence[Run]) -> list[Planned]:
    """The runs as the harness makes them; their start models must be there."""
    common = ("--output", str(output), "--settings", json.dumps(asdict(settings)))
    knowledge = load_knowledge().sha256()
    starts = {one.row.start for one in runs}
    revisions = {start: folder_revision(start_models.folder_of(start, output)) for start in starts}
    plans = []
    for one in runs:
        found = digest(one, settings, revisions[one.row.start], knowledge)
        words = (sys.executable, str(HERE), "--one", one.row.key, "--seed", str(one.seed), "--digest", found, *common)
        about = {"row": one.row.name, "start": one.row.start, "seed": one.seed}
        plans.append(Planned(name=one.name, digest=found, words=words, about=about))
    return plans


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
    return _one(options) if options.one is not None else run("reward_choice", lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    smoke: bool = options.smoke
    settings = SMOKE if smoke else _settings(options)
    if options.publish and settings != Settings():
        raise ValueError("--publish is for the sizes that are the defaults, which the documentation names")
    rows = choose(options.rows or (SMOKE_ROWS if smoke else ()))
    runs = runs_of(rows, 1 if smoke and options.seeds is None else options.seeds)
    if options.list:
        sys.stdout.write("".join(f"{one.name}\n" for one in runs))
        return 0
    output = options.output or Path("runs/reward_choice_smoke" if smoke else "runs/reward_choice")
    interrupt_on_signals()
    held = lock(output)
    try:
        if not options.table:
            starts = {one.row.start for one in runs}
            start_models.make(starts, output, steps=options.pretrain_steps, threads=options.jobs)
        # The table is of all rows that have results, whichever are made now. Records of another start model than those
        # that are here cannot be compared with it: they count only where it is not there at all.
        there = [row for row in ROWS if start_models.is_there(row.start, output, options.pretrain_steps)]
        plans = planned(output, settings, runs_of(there))
        experiment, names = Experiment(output, plans, _told), {plan.name for plan in plans}
        recorded.restore(RECORDS, output, plans)

        def table(publish: bool) -> None:
            results = experiment.results()
            if settings == Settings():
                elsewhere = {name: content for name, content in recorded.read(RECORDS).items() if name not in names}
                contents = [*results.values(), *elsewhere.values()]
            else:
                contents = list(results.values())
            write_table(output, settings, ROWS, contents, publish=publish)
            if publish:
                recorded.record(RECORDS, results, names)

        return make_runs(experiment, [one.name for one in runs], options, table)
    finally:
        held.release()


def _settings(options: argparse.Namespace) -> Settings:
    names = [item.name for item in dataclasses.fields(Settings) if getattr(options, item.name, None) is not None]
    return Settings(**{name: getattr(options, name) for name in names})


def _one(options: argparse.Namespace) -> int:
    from harness.one import do
    from reward_choice.measure import measure

    row = next(row for row in ROWS if row.key == options.one)
    settings = Settings(**json.loads(options.settings))
    start, name = start_models.folder_of(row.start, options.output), Run(row, options.seed).name
    work = options.output / "models" / name
    do(
        {
            "digest": options.digest,
            "row": row.name,
            "start": row.start,
            "seed": options.seed,
            "settings": asdict(settings),
        },
        changes_of(Run(row, options.seed), settings, model=str(start), output=str(work)) if row.is_trained else None,
        lambda folder: measure(folder, row, settings),
        start=start,
        work=work,
        result=result_path(options.output, name),
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
    add_running(parser, "runs/reward_choice")
    parser.add_argument("--steps", type=positive, help=f"steps of a GRACE run (default: {sizes.steps})")
    parser.add_argument("--batch-size", type=positive, help=f"instances of a batch (default: {sizes.batch_size})")
    parser.add_argument("--queries", type=positive, help=f"most queries of dev and of test (default: {sizes.queries})")
    parser.add_argument("--pretrain-steps", type=positive, help="of the second start model (default: the recipe's)")
    parser.add_argument("--list", action="store_true", help="name the runs in their order, and stop")
    return parser
