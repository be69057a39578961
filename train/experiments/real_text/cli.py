"""The command: the start model, which runs are left, making them, and the table."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from grace_st.bulk.lock import LockedError
from grace_st.config import CONFIG_NAME
from grace_st.fingerprint import folder_revision
from grace_train.nano.presets import PRESETS
from grace_train.nano.real_text import TextCorpus
from harness import start_models
from harness.experiment import Experiment, Planned, result_path, write_text
from harness.options import add_running, interrupt_on_signals, lock
from harness.pages import fill
from real_text import data
from real_text.rows import ROWS, SMOKE, Run, Settings, choose, digest, runs_of
from real_text.table import as_json, lines_of, page

logger = logging.getLogger("experiment")

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[2] / "docs" / "what-the-reward-trains.md"
BLOCK = "real-text-table"
SMOKE_STEPS = 2  # of a start model that is only to be there


def main(arguments: Sequence[str] | None = None) -> int:
    """See ``--help``. Returns 1 if a run failed."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if options.one is not None:
        return _one(options)
    try:
        return _run(options)
    except (ValueError, LockedError) as error:
        sys.stderr.write(f"real_text: {error}\n")
        return 2
    except KeyboardInterrupt:
        logger.info("interrupted: the same command goes on")
        return 130


def _run(options: argparse.Namespace) -> int:
    if options.texts is None:
        raise ValueError("--texts DIR, or the environment variable GRACE_ST_DATA, must name the data sets")
    if options.publish and options.smoke:
        raise ValueError("--smoke measures nothing that could be published")
    settings = SMOKE if options.smoke else Settings()
    rows = choose(options.rows)
    corpus = TextCorpus(options.texts)
    output: Path = options.output or Path("runs/real_text_smoke" if options.smoke else "runs/real_text")
    interrupt_on_signals()
    held = lock(output)
    try:
        data.write(corpus, output / "data", settings.rows)
        fingerprint = data.fingerprint(corpus, options.texts, output / "data", settings)
        start = _start(options, output)
        experiment = Experiment(output, _planned(options, output, start, settings, fingerprint), _told)
        failed = 0
        try:
            if not options.table:
                names = [run.name for run in runs_of(rows, 1 if options.smoke else options.seeds)]
                failed = experiment.make(
                    names, jobs=options.jobs, limit=options.limit, retry_failed=options.retry_failed
                )
        except KeyboardInterrupt:
            _write_table(options, output, settings, start, experiment, publish=False)
            raise
        _write_table(options, output, settings, start, experiment, publish=options.publish)
        return 1 if failed else 0
    finally:
        held.release()


def _write_table(
    options: argparse.Namespace, output: Path, settings: Settings, start: Path, experiment: Experiment, *, publish: bool
) -> None:
    lines = lines_of(ROWS, experiment.contents())
    model = {"preset": options.preset} if options.model is None else {"folder": str(options.model)}
    text = json.dumps(as_json(lines, settings, {**model, "revision": folder_revision(start)}), indent=1) + "\n"
    for folder in (output, HERE) if publish else (output,):
        write_text(folder / "results.json", text)
        write_text(folder / "results.md", page(lines))
    if publish:
        fill(PAGE, {BLOCK: page(lines)})
    logger.info("table in %s", output / "results.md")


def _start(options: argparse.Namespace, output: Path) -> Path:
    """The start model: the one that is named, or the preset's, trained once.

    Raises:
        ValueError: There is none, and none is to be made; or another one is there.
    """
    if options.model is not None:
        folder: Path = options.model
        if not (folder / CONFIG_NAME).is_file():
            raise ValueError(f"--model {folder} is no model folder of grace-st")
        return folder
    # Smoke runs have a model of their own: it is hardly trained.
    home = output / ("start-smoke" if options.smoke else f"start-{options.preset}")
    is_cpu = options.device == "cpu"
    config = PRESETS[options.preset].training
    config = replace(config, bf16=config.bf16 and not is_cpu, steps=SMOKE_STEPS if options.smoke else config.steps)
    if options.table and not start_models.is_there(options.preset, home, config):
        raise ValueError(f"there is no start model in {home} yet, so there is no table")
    words = ["--text", str(options.texts), "--device", options.device]
    words += ["--fp32", "--threads", str(options.jobs)] if is_cpu else []
    words += ["--steps", str(SMOKE_STEPS)] if options.smoke else []
    return start_models.make(options.preset, home, config, words)


def _planned(
    options: argparse.Namespace, output: Path, start: Path, settings: Settings, fingerprint: str
) -> list[Planned]:
    common = ["--texts", str(options.texts), "--output", str(output), "--model", str(start)]
    common += ["--settings", json.dumps(asdict(settings))]
    plans = []
    for run in runs_of(ROWS, None):
        found = digest(run, settings, start, fingerprint)
        words = (sys.executable, str(HERE), "--one", run.row.name, "--seed", str(run.seed), "--digest", found, *common)
        plans.append(Planned(name=run.name, digest=found, words=words, about={"row": run.row.name, "seed": run.seed}))
    return plans


def _told(content: Mapping[str, Any]) -> str:
    figures = content["figures"]
    return f"MedQuAD dev nDCG@10 {figures['dev']['ndcg@10']:.3f}, STSB {figures['stsb']:.3f}"


def _one(options: argparse.Namespace) -> int:
    from real_text.one import do

    (row,) = choose([options.one])
    run = Run(row, options.seed)
    do(
        run,
        Settings(**json.loads(options.settings)),
        start=options.model,
        texts=options.texts,
        data=options.output / "data",
        work=options.output / "models" / run.name,
        result=result_path(options.output, run.name),
        digest=options.digest,
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
    add_running(parser, "runs/real_text")
    return parser
