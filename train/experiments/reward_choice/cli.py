"""The command: which runs are left, making them, and the table."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import signal
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from grace_train.files import write_atomically
from grace_train.nano.evaluate import weights_sha256
from reward_choice import markdown, start_models
from reward_choice.jobs import Ended, Job, run_all
from reward_choice.rows import ROWS, Row, Run, choose, runs_of
from reward_choice.settings import SMOKE, Settings, digest
from reward_choice.table import as_json, lines_of, read_runs

logger = logging.getLogger("reward_choice")

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[2] / "docs" / "what-the-reward-trains.md"
SMOKE_ROWS = ("vague-reasoning", "vague-cl", "vague-per-rollout")


class Experiment:
    """The runs of some rows, and what is known of them.

    Args:
        output: The experiment's folder.
        settings: Sizes of a run.
        runs: In their order.
    """

    def __init__(self, output: Path, settings: Settings, runs: Sequence[Run]) -> None:
        self.output = output
        self.settings = settings
        self.runs = list(runs)
        self.results = output / "runs"
        self.results.mkdir(parents=True, exist_ok=True)
        hashes = {start: weights_sha256(self.start(start)) for start in {run.row.start for run in self.runs}}
        self.digests = {run.name: digest(run, settings, hashes[run.row.start]) for run in self.runs}

    def start(self, start: str) -> Path:
        """Folder of a start model."""
        return start_models.folder_of(start, self.output)  # type: ignore[arg-type]

    def path(self, run: Run) -> Path:
        """A run's file."""
        return self.results / f"{run.name}.json"

    def left(self, *, retry_failed: bool) -> list[Run]:
        """The runs that are still to be made: those without a file, or with the file of other settings."""
        return [run for run in self.runs if not self._is_there(run, retry_failed=retry_failed)]

    def _is_there(self, run: Run, *, retry_failed: bool) -> bool:
        if not self.path(run).is_file():
            return False
        content = json.loads(self.path(run).read_text(encoding="utf-8"))
        if content["digest"] != self.digests[run.name]:
            return False
        return content["status"] == "done" or not retry_failed

    def job(self, run: Run) -> Job:
        """The process that makes a run."""
        words = [sys.executable, str(HERE), "--one", run.row.key, "--seed", str(run.seed)]
        words += ["--output", str(self.output), "--settings", json.dumps(asdict(self.settings))]
        return Job(run.name, words, self.output / "logs" / f"{run.name}.txt")

    def note_failure(self, run: Run, cause: str) -> None:
        """Keep why a run failed."""
        content = {
            "status": "failed",
            "digest": self.digests[run.name],
            "row": run.row.name,
            "start": run.row.start,
            "seed": run.seed,
            "cause": cause,
        }
        _write(self.path(run), json.dumps(content, indent=1) + "\n")

    def make(self, *, jobs: int, limit: float, retry_failed: bool) -> int:
        """Make the runs that are left. Returns how many failed."""
        todo = self.left(retry_failed=retry_failed)
        by_name = {run.name: run for run in todo}
        logger.info("%d runs, %d of them done", len(self.runs), len(self.runs) - len(todo))
        failed, seconds = 0, list[float]()
        commands = [self.job(run) for run in todo]
        # One thread each: two such runs side by side do more than one with two threads.
        environment = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        for ended in run_all(commands, side_by_side=jobs, limit=limit, environment=environment):
            seconds.append(ended.seconds)
            run = by_name[ended.job.name]
            cause = ended.cause
            if cause is None and not self.path(run).is_file():
                cause = "it ended without a result"
            if cause is not None:
                failed += 1
                self.note_failure(run, cause)
            self._tell(ended, cause, len(seconds), len(todo), statistics.fmean(seconds) / jobs)
        return failed

    def _tell(self, ended: Ended, cause: str | None, count: int, total: int, pace: float) -> None:
        minutes = (total - count) * pace / 60
        if cause is None:
            content = json.loads((self.results / f"{ended.job.name}.json").read_text(encoding="utf-8"))
            told = f"dev nDCG@10 {content['figures']['dev']['ndcg@10']:.3f}"
        else:
            told = f"failed, {cause:.300}"
        logger.info(
            "%d/%d %s: %s; %.0f s, about %.0f min left", count, total, ended.job.name, told, ended.seconds, minutes
        )

    def table(self, rows: Sequence[Row], *, publish: bool) -> None:
        """Write the table of all results that are there and of these settings."""
        known = {run.name: self.digests[run.name] for run in self.runs}
        contents = [
            content
            for content in read_runs(self.results)
            if known.get(f"{content['start']}-{content['row']}-{content['seed']}") == content["digest"]
        ]
        lines = lines_of(rows, contents)
        text = json.dumps(as_json(lines, asdict(self.settings)), indent=1) + "\n"
        shown = markdown.page(lines)
        for folder in (self.output, HERE) if publish else (self.output,):
            _write(folder / "results.json", text)
            _write(folder / "results.md", shown)
        if publish:
            blocks = {"reward-choice-table": shown, "reward-choice-deviations": markdown.deviations(lines)}
            markdown.fill(PAGE, blocks)
        logger.info("table in %s", self.output / "results.md")


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
    experiment = Experiment(output, settings, runs)
    failed = 0
    signal.signal(signal.SIGTERM, _interrupt)  # its processes would go on without it
    try:
        if not options.table:
            failed = experiment.make(jobs=options.jobs, limit=options.limit, retry_failed=options.retry_failed)
    except KeyboardInterrupt:
        logger.info("interrupted: the same command goes on")
        return 130
    finally:
        experiment.table(rows, publish=not smoke and not names)
    return 1 if failed else 0


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def _settings(options: argparse.Namespace) -> Settings:
    names = [item.name for item in dataclasses.fields(Settings) if getattr(options, item.name, None) is not None]
    return Settings(**{name: getattr(options, name) for name in names})


def _one(options: argparse.Namespace) -> int:
    from reward_choice.one import do

    row = next(row for row in ROWS if row.key == options.one)
    run, settings = Run(row, options.seed), Settings(**json.loads(options.settings))
    experiment = Experiment(options.output, settings, [run])
    do(
        run,
        settings,
        start=experiment.start(row.start),
        work=options.output / "models" / run.name,
        result=experiment.path(run),
        digest=experiment.digests[run.name],
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
