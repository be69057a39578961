"""Programs that take training steps one at a time, when they are told to. Standard library only.

Both sides of `train_step.py` are processes of this kind, each with its own Python, so that they can take turns: the
number of a size goes in for every step, and a line of JSON comes out with what it cost. In between a process waits and
computes nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

LOG_LINES = 20
"""Lines of a program's log that are shown when it fails."""


class StepperError(RuntimeError):
    """A program of the other side ended before it should."""


class Channel:
    """The program's end: answers on what was its standard output, which from then on leads to standard error."""

    def __init__(self) -> None:
        # Libraries print, and a line of theirs must not be taken for an answer.
        self._answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def send(self, answer: Mapping[str, Any]) -> None:
        """Give an answer."""
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()

    def next_size(self) -> int | None:
        """Wait for a word from the other end: of which size the next step shall be; None where there will be none."""
        word = sys.stdin.readline().strip()
        return int(word) if word else None


class Stepper:
    """The other end: a program that has been started and takes a step when asked.

    Args:
        python: What runs it.
        script: The program; its only argument is the path of ``spec``.
        spec: What it shall do.
        folder: An empty folder for its files.
        environment: Its environment variables.

    Attributes:
        ready: What it said when it was ready for the first step.

    Raises:
        StepperError: It ended before it was ready.
        OSError: It cannot be started.
    """

    def __init__(
        self, python: str, script: Path, spec: Mapping[str, Any], folder: Path, environment: Mapping[str, str]
    ) -> None:
        folder.mkdir(parents=True)
        path = folder / "spec.json"
        path.write_text(json.dumps({**spec, "folder": str(folder)}), encoding="utf-8")
        self._script = script
        self._log = folder / "log.txt"
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [python, str(script), str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
                env=dict(environment),
            )
        try:
            self.ready = self._answer()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Stepper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def step(self, size: int) -> dict[str, Any]:
        """One step, and what it cost.

        Args:
            size: Its place among the sizes that the program was told at the start.

        Raises:
            StepperError: The program ended instead.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{size}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None
        return self._answer()

    def close(self) -> None:
        """End the program."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:  # a word that it did not live to hear
                    continue

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._failure()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _failure(self) -> StepperError:
        code = self._process.wait()
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
        return StepperError("\n".join([f"{self._script.name} ended with exit code {code}; its last words:", *lines]))


def child_environment(threads: int, *, own_packages: bool) -> dict[str, str]:
    """Environment variables of a program: this many threads, no accelerator, nothing from the network.

    Args:
        threads: Of OpenMP and of torch.
        own_packages: Keep ``PYTHONPATH``; another environment must not see the packages of this one.
    """
    values = dict(os.environ)
    if not own_packages:
        values.pop("PYTHONPATH", None)
    return values | {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def never_ends(model: Any, eos_token_ids: Sequence[int]) -> None:
    """Take the end out of a causal LM's choices while it generates, so that each rationale fills its budget.

    The logits are computed as always and then overruled in the output head, the same way on both sides.
    """
    import torch

    ids = list(eos_token_ids)

    def overrule(_module: Any, _inputs: Any, logits: Any) -> Any:
        if not torch.is_grad_enabled():
            logits[..., ids] = -1e4
        return logits

    model.get_output_embeddings().register_forward_hook(overrule)


def peak_bytes() -> int | None:
    """The most memory that this process has occupied so far, on Linux; None elsewhere."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024
