"""The command: the start model, which runs are left, making them, and the table."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grace_train.nano.evaluate import weights_sha256
from grace_train.nano.presets import PRESETS
from grace_train.nano.real_text import SourceError, TextCorpus
from harness.experiment import Experiment, Planned, write_text
from harness.pages import fill
from real_text import data
from real_text.rows import SMOKE, Run, Settings, choose, digest, runs_of
from real_text.table import as_json, lines_of, page

logger = logging.getLogger("experiment")

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[2] / "docs" / "what-the-reward-trains.md"
BLOCK = "real-text-table"


def main(arguments: Sequence[str] | None = None) -> int:
    """See ``--help``. Returns 1 if a run failed."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if options.texts is None:
        sys.stderr.write("real_text: --texts DIR, or the environment variable GRACE_ST_DATA, must name the data sets\n")
        return 2
    settings = SMOKE if options.smoke else Settings()
    if options.one is not None:
        return _one(options, settings)
    try:
        rows = choose(options.rows)
        corpus = TextCorpus(options.texts)
        data.banking77(options.texts, settings.per_class), data.stsb(options.texts, settings.pairs)
    except (ValueError, SourceError) as error:
        sys.stderr.write(f"real_text: {error}\n")
        return 2
    runs = runs_of(rows, 1 if options.smoke and options.seeds is None else options.seeds)
    output: Path = options.output
    signal.signal(signal.SIGTERM, _interrupt)  # its processes would go on without it
    failed = 0
    try:
        start = options.model or _make_start(options)
        data.write(corpus, output / "data", settings.rows)
        experiment = Experiment(output, _planned(options, start, settings, runs), _told)
        try:
            if not options.table:
                failed = experiment.make(jobs=options.jobs, limit=options.limit, retry_failed=options.retry_failed)
        finally:
            lines = lines_of(rows, experiment.contents())
            model = {"preset": options.preset, "weights_sha256": weights_sha256(start)}
            text = json.dumps(as_json(lines, settings, model), indent=1) + "\n"
            for folder in (output, HERE) if options.publish else (output,):
                write_text(folder / "results.json", text)
                write_text(folder / "results.md", page(lines))
            if options.publish:
                fill(PAGE, {BLOCK: page(lines)})
            logger.info("table in %s", output / "results.md")
    except KeyboardInterrupt:
        logger.info("interrupted: the same command goes on")
        return 130
    return 1 if failed else 0


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _make_start(options: argparse.Namespace) -> Path:
    """The start model, trained once, from its last checkpoint if there is one."""
    home: Path = options.output / "start"
    folder = home / PRESETS[options.preset].model_name
    if (folder / "README.md").is_file():  # comes last
        return folder
    words = [sys.executable, "-m", "grace_train.nano", "--preset", options.preset, "--text", str(options.texts)]
    words += ["--output", str(home), "--device", options.device]
    if options.device == "cpu":
        words += ["--fp32", "--threads", str(options.jobs)]
    if options.smoke:
        words += ["--steps", "2"]
    if not (home / "tokenizer" / "tokenizer_config.json").is_file():
        subprocess.run([*words, "--stage", "tokenizer"], check=True)
    resume = ["--resume"] if (home / "run" / "checkpoint.pt").is_file() else []
    subprocess.run([*words, "--stage", "train", *resume], check=True)
    return folder


def _planned(options: argparse.Namespace, start: Path, settings: Settings, runs: Sequence[Run]) -> list[Planned]:
    sha256 = weights_sha256(start)
    common = ["--texts", str(options.texts), "--output", str(options.output), "--model", str(start)]
    common += ["--smoke"] if options.smoke else []
    return [
        Planned(
            name=run.name,
            digest=digest(run, settings, sha256),
            words=(sys.executable, str(HERE), "--one", run.row.name, "--seed", str(run.seed), *common),
            about={"row": run.row.name, "seed": run.seed},
        )
        for run in runs
    ]


def _told(content: Mapping[str, Any]) -> str:
    figures = content["figures"]
    return f"MedQuAD dev nDCG@10 {figures['dev']['ndcg@10']:.3f}, STSB {figures['stsb']:.3f}"


def _one(options: argparse.Namespace, settings: Settings) -> int:
    from real_text.one import do

    (row,) = choose([options.one])
    run = Run(row, options.seed)
    (plan,) = _planned(options, options.model, settings, [run])
    do(
        run,
        settings,
        start=options.model,
        texts=options.texts,
        data=options.output / "data",
        work=options.output / "models" / run.name,
        result=Experiment(options.output, [plan], _told).path(run.name),
        digest=plan.digest,
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    texts = os.environ.get("GRACE_ST_DATA")
    parser = argparse.ArgumentParser(
        prog="python train/experiments/real_text",
        description=(
            "Train a small model of real text on MedQuAD by GRACE and by the baselines; measure held-out MedQuAD, "
            "SNIPS, Banking77 and STSBenchmark. Runs that are done are not made again: the same command goes on."
        ),
        epilog="example: python train/experiments/real_text --texts DIR --rows prompt reasoning per-rollout --seeds 1",
    )
    parser.add_argument(
        "--texts",
        type=Path,
        default=Path(texts) if texts else None,
        help="folder with medquad, snips, wikitext2, banking77 and stsb (default: $GRACE_ST_DATA)",
    )
    parser.add_argument("--preset", choices=("nano-text", "micro"), default="nano-text", help="the start model")
    parser.add_argument("--model", type=Path, help="folder of a start model that is there already")
    parser.add_argument("--device", default="cpu", help="where the start model is trained (default: %(default)s)")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="rows (default: all)")
    parser.add_argument("--seeds", type=int, metavar="N", help="at most N seeds of each row")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/real_text"), help="folder (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds of one run (default: %(default)s)")
    parser.add_argument("--retry-failed", action="store_true", help="make runs that failed again")
    parser.add_argument("--smoke", action="store_true", help="tiny runs, to see that everything works")
    parser.add_argument("--table", action="store_true", help="make no runs, only the table")
    parser.add_argument("--publish", action="store_true", help="put the table here and into the documentation, too")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    return parser
