"""Train grace-nano with the local engine and with the verl engine, and write down what came out."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from grace_train.files import write_atomically
from grace_train.verl_engine import cpu_support

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[2]
MARK = "<!-- results: written by the command above -->\n"
COMMAND = ["-c", "import sys; from grace_st.cli import main; sys.exit(main())", "train"]
TIMES = ("time/step", "time/rollout", "time/embed", "time/update")


def main() -> None:
    """Make the runs that are missing, and write results.json and the table in README.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--queries", type=int, default=None, help="of dev and of test; all by default")
    parser.add_argument("--runs", type=Path, default=Path("runs/verl_nano"))
    given = parser.parse_args()
    found = {engine: run(engine, given.steps, given.queries, given.runs / engine) for engine in ("local", "verl")}
    results = {"machine": machine(), "steps": given.steps, "queries": given.queries, "engines": found}
    text = json.dumps(results, indent=2) + "\n"
    write_atomically(HERE / "results.json", lambda path: path.write_text(text, encoding="utf-8"))
    readme = HERE / "README.md"
    page = readme.read_text(encoding="utf-8").split(MARK)[0] + MARK + "\n" + table(results)
    write_atomically(readme, lambda path: path.write_text(page, encoding="utf-8"))


def run(engine: str, steps: int, queries: int | None, folder: Path) -> dict[str, Any]:
    """One run of the command line, and its figures."""
    changes = [f"output={folder}", f"steps={steps}", f"engine={engine}", "log.curves=false"]
    # Evaluations at the start and at the end.
    changes += [f"eval.every={steps}", f"eval.max_queries={json.dumps(queries)}"]
    environment = dict(os.environ)
    if engine == "verl":
        changes += ["compute.threads=null", "cluster.attention=sdpa", "cluster.agent_workers=1"]
        if not torch.cuda.is_available():
            environment |= cpu_support.ENVIRONMENT
            changes += [f"verl.{key}={json.dumps(value)}" for key, value in cpu_support.SETTINGS.items()]
            # As the local engine computes on a CPU, where half precision is slow.
            changes += ["compute.precision=fp32", "verl.actor_rollout_ref.rollout.max_num_seqs=192"]
            environment["OMP_NUM_THREADS"] = "2"  # its processes take turns
    subprocess.run([sys.executable, *COMMAND, "nano", *changes, "--resume"], check=True, env=environment)
    training = folder / "training"
    summary = json.loads((training / "summary.json").read_text(encoding="utf-8"))
    lines = (training / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {"before": summary["before"], "after": summary["after"], **medians([*map(json.loads, lines)])}


def medians(records: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median over steps of each time and of what travels; and the largest gap between the two policies."""
    steps = [record for record in records if "loss/policy" in record]
    names = [*TIMES, "rollout/length", "cluster/vector_bytes", "cluster/state_bytes"]
    found = {name: statistics.median(record[name] for record in steps) for name in names if name in steps[0]}
    gaps = [record["loss/logprob_gap"] for record in steps if "loss/logprob_gap" in record]
    return {**found, "loss/logprob_gap": max(gaps)}


def machine() -> str:
    """What this ran on."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"{os.cpu_count()} cores ({platform.machine()}), no GPU"


def table(results: dict[str, Any]) -> str:
    """The figures in Markdown."""
    engines = results["engines"]
    rows: list[tuple[str, list[str]]] = []
    for split in ("dev", "test"):
        for when in ("before", "after"):
            cells = [interval(engine[when][split]["ndcg@10"]) for engine in engines.values()]
            rows.append((f"{split} nDCG@10 {when}", cells))
    for name in (*TIMES, "rollout/length"):
        digits = 1 if name == "rollout/length" else 2
        rows.append((f"`{name}`, median", [number(engine, name, digits) for engine in engines.values()]))
    for name in ("cluster/vector_bytes", "cluster/state_bytes"):
        rows.append((f"`{name}`, median", [number(engine, name, 0) for engine in engines.values()]))
    rows.append(("`loss/logprob_gap`, largest", [f"{engine['loss/logprob_gap']:.1e}" for engine in engines.values()]))
    size = f"{results['steps']} steps, {results['queries'] or 'all'} queries of dev and of test"
    lines = [f"{results['machine']}; {size}; times in seconds. In brackets: 95 % intervals.", ""]
    lines += [f"| | {' | '.join(engines)} |", "|---|" + "---|" * len(engines)]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows]
    return "\n".join(lines) + "\n"


def interval(value: dict[str, float]) -> str:
    """A mean with its 95 % interval."""
    return f"{value['mean']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def number(values: dict[str, Any], name: str, digits: int) -> str:
    """A figure, or nothing where an engine does not have it."""
    return f"{values[name]:,.{digits}f}" if name in values else ""


if __name__ == "__main__":
    main()
