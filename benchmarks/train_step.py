"""Time of a training step, side by side: the local engine against TRL's GRPOTrainer.

    python -m venv trl-env && trl-env/bin/pip install -r benchmarks/requirements-trl.txt
    python benchmarks/train_step.py --trl-python trl-env/bin/python --output benchmarks/results/train_step_cpu.json

The bundled grace-nano in float32 on the CPU, the same number of threads, the same prompts in the same steps, K samples
of each at temperature 1, AdamW with clipped gradients, one update a step, no KL, no evaluation, no checkpoint. All
rationales fill their budget (the end is taken out of the choices, on both sides in the same way), so that both make
the same number of tokens. What takes turns, each in a process of its own:

    trained        this engine: K rollouts of each positive are sampled, pooled, rewarded, trained
    whole          this engine as in training: besides, one rollout of each query and negative, which the reward needs
    trl_trivial    TRL, where the reward is the length of the text: samples and trains what `trained` does
    trl_compact    the same, patched to compute logits for rationales alone, as TRL does on a GPU
    trl_embed      TRL, where the reward embeds the completions by a second forward pass
    trl_whole      TRL, where it also generates and embeds queries and negatives: samples and trains what `whole` does

Each round takes one step of each, in an order that rotates, and ratios are taken within a round; the first steps are
left out. Then the same for this engine alone over group sizes and batch sizes. Without ``--trl-python`` only this
engine is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grace_steps
from measuring import machine, tell, write
from step_figures import Answer, comparison, growth, tables
from stepping import Stepper, StepperError, child_environment

import grace_st

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "requirements-trl.txt"
HOW_TO = f"python -m venv trl-env && trl-env/bin/pip install -r {REQUIREMENTS.name}"


@dataclass(frozen=True)
class Variant:
    """A way of taking a step.

    Attributes:
        is_trl: Whether TRL takes it.
        options: Of the program's specification.
    """

    is_trl: bool
    options: Mapping[str, Any]


VARIANTS = {
    "trained": Variant(False, {"anchors": False}),
    "whole": Variant(False, {"anchors": True}),
    "trl_trivial": Variant(True, {"reward": "trivial", "compact_head": False}),
    "trl_compact": Variant(True, {"reward": "trivial", "compact_head": True}),
    "trl_embed": Variant(True, {"reward": "embed", "compact_head": False}),
    "trl_whole": Variant(True, {"reward": "grace", "compact_head": False}),
}


@dataclass(frozen=True)
class Size:
    """The size of a step."""

    batch: int
    group: int
    tokens: int


# ---------------------------------------------------------------- measuring


class Bench:
    """Starts the programs.

    Args:
        arguments: The command line.
        folder: For all files.

    Attributes:
        prompt_tokens: Mean length of the prompts of each size that has been written.
    """

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.arguments = arguments
        self.folder = folder
        self.prompt_tokens: dict[Size, float] = {}
        self._work: dict[Size, Path] = {}
        self._started = 0

    def start(self, name: str, sizes: Sequence[Size], *, keep_sizes: bool) -> Stepper:
        """A program that takes steps of a variant.

        Args:
            name: Of the variant.
            sizes: Of the steps; `Stepper.step` names them by their place here.
            keep_sizes: Whether steps of different sizes take turns; else each size lets go of the one before.
        """
        variant, given = VARIANTS[name], self.arguments
        told: list[dict[str, Any]] = [dataclasses.asdict(size) for size in sizes]
        if variant.is_trl:
            for size, values in zip(sizes, told, strict=True):
                values["work"] = str(self._workload(size))
        spec = {**self._common(), **variant.options, "sizes": told, "keep_sizes": keep_sizes}
        self._started += 1
        tell(f"starting {name}")
        return Stepper(
            given.trl_python if variant.is_trl else sys.executable,
            HERE / ("trl_steps.py" if variant.is_trl else "grace_steps.py"),
            spec,
            self.folder / f"{self._started}-{name}",
            child_environment(given.threads, own_packages=not variant.is_trl),
        )

    def _common(self) -> dict[str, Any]:
        given = self.arguments
        return {
            "model": str(grace_st.nano_path()),
            "negatives": given.negatives,
            "steps": given.warmup + given.rounds,
            "threads": given.threads,
            "seed": given.seed,
            "learning_rate": given.learning_rate,
            "trl_parts": given.trl_parts,
            "trl_optimizer": given.trl_optimizer,
            "trl_embed_rows": given.trl_embed_rows,
            "trl_continuous_batching": given.trl_continuous_batching,
        }

    def _workload(self, size: Size) -> Path:
        """The prompts of each step, as a file."""
        if size not in self._work:
            steps = grace_steps.workload({**self._common(), **dataclasses.asdict(size)})
            path = self.folder / f"work-{len(self._work)}.json"
            path.write_text(json.dumps(steps), encoding="utf-8")
            self._work[size] = path
            lengths = [len(prompt["ids"]) for step in steps for prompt in step["positives"]]
            self.prompt_tokens[size] = round(statistics.mean(lengths), 1)
        return self._work[size]


def take_turns(
    takers: Mapping[str, Callable[[], Answer]], rounds: int, warmup: int
) -> Iterator[dict[str, list[Answer]]]:
    """Let each take a step in each round, in an order that rotates. Yields all answers that count, after each round."""
    names = list(takers)
    answers: dict[str, list[Answer]] = {name: [] for name in names}
    for number in range(warmup + rounds):
        for place in range(len(names)):
            name = names[(place + number) % len(names)]
            answer = takers[name]()
            if number >= warmup:
                answers[name].append(answer)
        if number >= warmup:
            took = ", ".join(f"{name} {answers[name][-1]['seconds']:.2f}" for name in names)
            tell(f"round {number - warmup + 1}, seconds a step: {took}")
            yield answers


# ---------------------------------------------------------------- the run


def run(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All measurements; what is measured is written at once."""
    bench = Bench(arguments, folder)
    result: dict[str, Any] = description(arguments)
    compare(bench, result)
    if arguments.growth:
        measure_growth(bench, result)
    return result


def compare(bench: Bench, result: dict[str, Any]) -> None:
    """Steps of all variants, at each number of tokens."""
    given = bench.arguments
    names = given.variants
    # Ascending, since the peak of a process never falls.
    sizes = [Size(given.batch, given.group, tokens) for tokens in sorted(set(given.tokens))]
    with contextlib.ExitStack() as stack:
        steppers = {name: stack.enter_context(bench.start(name, sizes, keep_sizes=False)) for name in names}
        result["model"]["parameters"] = parameters_of(steppers)
        for name in names:
            if VARIANTS[name].is_trl:
                result["trl"]["versions"] = steppers[name].ready["versions"]
        for place, size in enumerate(sizes):
            takers = {name: partial(stepper.step, place) for name, stepper in steppers.items()}
            for answers in take_turns(takers, given.rounds, given.warmup):
                figures = {"mean_prompt_tokens": bench.prompt_tokens.get(size), **comparison(answers)}
                result["comparison"][str(size.tokens)] = figures
                write(given.output, result)


def measure_growth(bench: Bench, result: dict[str, Any]) -> None:
    """Steps of this engine alone by group size and by batch size, at the smaller number of tokens."""
    given = bench.arguments
    tokens, fixed = min(given.tokens), given.growth_fixed
    growing = sorted(set(given.growth))
    kinds = {
        "group_size": {value: Size(fixed, value, tokens) for value in growing},
        "batch_size": {value: Size(value, fixed, tokens) for value in growing},
    }
    sizes = list(dict.fromkeys(size for kind in kinds.values() for size in kind.values()))
    with bench.start("whole", sizes, keep_sizes=True) as stepper:
        takers = {str(place): partial(stepper.step, place) for place in range(len(sizes))}
        for answers in take_turns(takers, given.rounds, given.warmup):
            for name, kind in kinds.items():
                found = {value: answers[str(sizes.index(size))] for value, size in kind.items()}
                result["growth"][name] = growth(found)
            write(given.output, result)


def parameters_of(steppers: Mapping[str, Stepper]) -> int:
    """How many weights each side trains: the same number.

    Raises:
        StepperError: It is not.
    """
    found = {name: stepper.ready["parameters"] for name, stepper in steppers.items()}
    if len(set(found.values())) != 1:
        raise StepperError(f"the models differ in their number of parameters: {found}")
    return int(next(iter(found.values())))


def description(arguments: argparse.Namespace) -> dict[str, Any]:
    """What is measured, and on what."""
    trl = {"parts": arguments.trl_parts, "optimizer": arguments.trl_optimizer, "embed_rows": arguments.trl_embed_rows}
    trl |= {"continuous_batching": arguments.trl_continuous_batching}
    return {
        "command": " ".join(["python", "benchmarks/train_step.py", *without_paths(sys.argv[1:])]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": {**machine("cpu"), "threads": arguments.threads},
        "trl": {"options": trl} if arguments.trl_python else None,
        "model": {"name": "grace-nano", "dtype": "float32"},
        "workload": {
            "batch_size": arguments.batch,
            "group_size": arguments.group,
            "negatives": arguments.negatives,
            "rationale_tokens": arguments.tokens,
            "growth_fixed_size": arguments.growth_fixed,
            "growth_tokens": min(arguments.tokens),
            "rounds": arguments.rounds,
            "warmup_steps": arguments.warmup,
        },
        "comparison": {},
        "growth": {},
    }


def without_paths(words: Sequence[str]) -> list[str]:
    """The command line with a stand-in for the other environment's place, which is nobody's business."""
    kept = list(words)
    for index, word in enumerate(kept):
        if word == "--trl-python" and index + 1 < len(kept):
            kept[index + 1] = "trl-env/bin/python"
        elif word.startswith("--trl-python="):
            kept[index] = "--trl-python=trl-env/bin/python"
    return kept


def refusal(python: str) -> str | None:
    """Why the other environment cannot be used, or None."""
    if shutil.which(python) is None:
        return f"--trl-python {python} cannot be run. To make it, in {HERE.name}/: {HOW_TO}"
    environment = child_environment(1, own_packages=False)
    found = subprocess.run([python, "-c", "import trl"], env=environment, capture_output=True, text=True, check=False)
    if found.returncode:
        reason = (found.stderr.strip().splitlines() or ["no reason given"])[-1]
        return f"--trl-python {python} cannot import trl ({reason}). To make it, in {HERE.name}/: {HOW_TO}"
    return None


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, checked before anything is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl-python", help="Python of an environment with TRL (default: measure this engine only)")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, help="default: all that can be measured")
    parser.add_argument("--batch", type=_positive, default=8, help="B, prompts of a step")
    parser.add_argument("--group", type=_positive, default=8, help="K, rollouts of each")
    parser.add_argument("--tokens", type=_positive, nargs="+", default=[24, 72], help="lengths of the rationales")
    parser.add_argument("--negatives", type=_positive, default=1, help="of each query")
    parser.add_argument("--growth", type=_positive, nargs="*", default=[2, 4, 8, 16], help="sizes; none leaves it out")
    parser.add_argument("--growth-fixed", type=_positive, default=8, help="the other size while one grows")
    parser.add_argument("--rounds", type=_positive, default=4)
    parser.add_argument("--warmup", type=_positive, default=1, help="first steps that are left out")
    parser.add_argument("--threads", type=_positive, default=2, help="of each side")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learning-rate", type=float, default=1e-5)
    parser.add_argument("--trl-parts", type=_positive, default=1, help="backward passes of an update of TRL")
    parser.add_argument("--trl-optimizer", default="adamw_torch_fused", help="transformers' name of an AdamW")
    parser.add_argument("--trl-embed-rows", type=_positive, default=32, help="rows of a forward pass that embeds")
    parser.add_argument("--trl-continuous-batching", action="store_true", help="let TRL generate in that way")
    parser.add_argument("--output", type=Path, help="where the JSON goes; tables go to stdout")
    arguments = parser.parse_args(words)
    if arguments.output is not None and not arguments.output.parent.is_dir():
        parser.error(f"there is no folder {arguments.output.parent}")
    small = [name for name, value in (("--group", arguments.group), ("--batch", arguments.batch)) if value < 2]
    small += ["--growth" for value in (*arguments.growth, arguments.growth_fixed) if value < 2]
    if small:
        parser.error(f"{small[0]} must be at least 2: the reward compares rollouts and instances with each other")
    if arguments.batch * arguments.group % arguments.trl_parts:
        parser.error(f"--trl-parts {arguments.trl_parts} does not divide {arguments.batch} times {arguments.group}")
    if arguments.variants is None:
        arguments.variants = [name for name in VARIANTS if arguments.trl_python or not VARIANTS[name].is_trl]
    missing = [name for name in arguments.variants if VARIANTS[name].is_trl and not arguments.trl_python]
    if missing:
        parser.error(f"{missing[0]} needs --trl-python; to make it, in {HERE.name}/: {HOW_TO}")
    if arguments.trl_python is None:
        tell(f"this engine alone is measured. For TRL give --trl-python; to make it, in {HERE.name}/: {HOW_TO}")
    else:
        reason = refusal(arguments.trl_python)
        if reason is not None:
            parser.error(reason)
    return arguments


def main() -> None:
    """The command line."""
    arguments = parse()
    with tempfile.TemporaryDirectory(prefix="train-step-") as folder:
        try:
            result = run(arguments, Path(folder))
        except StepperError as error:
            sys.exit(str(error))
    sys.stdout.write(tables(result) + "\n")


if __name__ == "__main__":
    main()
