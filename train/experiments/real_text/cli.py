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

from grace_st.config import CONFIG_NAME
from grace_st.fingerprint import folder_revision
from grace_train.nano.presets import PRESETS
from grace_train.nano.real_text import TextCorpus
from harness import recorded, start_models
from harness.command import add_running, interrupt_on_signals, lock, make_runs, run
from harness.experiment import Experiment, Planned, result_path, write_text
from harness.pages import fill
from harness.precision import is_bf16
from real_text import data
from real_text.rows import ROWS, SMOKE, Run, Settings, budget_of, changes_of, choose, digest, runs_of
from real_text.table import as_json, lines_of, page

logger = logging.getLogger("experiment")

HERE = Path(__file__).resolve().parent
RECORDS = HERE / "runs.jsonl"
PAGE = HERE.parents[2] / "docs" / "what-the-reward-trains.md"
BLOCK = "real-text-table"
SMOKE_STEPS = 2  # of a start model that is only to be there


def main(arguments: Sequence[str] | None = None) -> int:
    """See ``--help``. Returns 1 if a run failed."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    return _one(options) if options.one is not None else run("real_text", lambda: _run(options))


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
        plans = _planned(options, output, start, settings, fingerprint)
        experiment = Experiment(output, plans, _told)
        recorded.restore(RECORDS, output, plans)
        names = [one.name for one in runs_of(rows, 1 if options.smoke else options.seeds)]

        def table(publish: bool) -> None:
            _write_table(options, output, settings, start, experiment, publish=publish)
            if publish:
                recorded.record(RECORDS, experiment.results(), {plan.name for plan in plans})

        return make_runs(experiment, names, options, table)
    finally:
        held.release()


def _write_table(
    options: argparse.Namespace, output: Path, settings: Settings, start: Path, experiment: Experiment, *, publish: bool
) -> None:
    lines = lines_of(ROWS, list(experiment.results().values()))
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
    home = output / f"start-{options.preset}{'-smoke' if options.smoke else ''}"
    is_cpu = options.device == "cpu"
    config = PRESETS[options.preset].training
    bf16 = is_bf16(home) if is_cpu else config.bf16
    config = replace(config, bf16=bf16, steps=SMOKE_STEPS if options.smoke else config.steps)
    if options.table and not start_models.is_there(options.preset, home, config):
        raise ValueError(f"there is no start model in {home} yet, so there is no table")
    words = ["--text", str(options.texts), "--device", options.device]
    words += ["--threads", str(options.jobs)] if is_cpu else []
    words += [] if bf16 else ["--fp32"]
    words += ["--steps", str(SMOKE_STEPS)] if options.smoke else []
    return start_models.make(options.preset, home, config, words)


def _planned(
    options: argparse.Namespace, output: Path, start: Path, settings: Settings, fingerprint: str
) -> list[Planned]:
    common = ["--texts", str(options.texts), "--output", str(output), "--model", str(start)]
    common += ["--settings", json.dumps(asdict(settings))]
    plans, revision = [], folder_revision(start)
    for one in runs_of(ROWS, None):
        found = digest(one, settings, revision, fingerprint)
        words = (sys.executable, str(HERE), "--one", one.row.name, "--seed", str(one.seed), "--digest", found, *common)
        plans.append(Planned(name=one.name, digest=found, words=words, about={"row": one.row.name, "seed": one.seed}))
    return plans


def _told(content: Mapping[str, Any]) -> str:
    figures = content["figures"]
    return f"MedQuAD dev nDCG@10 {figures['dev']['ndcg@10']:.3f}, STSB {figures['stsb']:.3f}"


def _one(options: argparse.Namespace) -> int:
    from harness.one import do
    from real_text.measure import measure

    (row,) = choose([options.one])
    one, settings = Run(row, options.seed), Settings(**json.loads(options.settings))
    work, folder = options.output / "models" / one.name, str(options.output / "data")
    trains, budget = row.changes is not None, budget_of(row, settings) if row.rationales else 0
    changes = changes_of(one, settings, model=str(options.model), data=folder, output=str(work)) if trains else None
    do(
        {"digest": options.digest, "row": row.name, "seed": options.seed, "settings": asdict(settings)},
        changes,
        lambda model: measure(model, TextCorpus(options.texts), options.texts, settings, budget=budget),
        start=options.model,
        work=work,
        result=result_path(options.output, one.name),
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
