"""What a run remembers beside weights and optimiser: which step was the best, and what was found so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Progress:
    """Kept in every checkpoint; JSON-ready.

    Attributes:
        best: The best value on dev so far, None before the first evaluation.
        best_step: The step that it is of.
        without_better: Evaluations in a row since.
        start: What the start model can do, for the summary.
        dev: Evaluations on dev by step: the newest, and the best, so that the weights that are written need not be
            measured again.
        sample_texts: The texts whose rationales are recorded.
        unevaluated: Where the evaluation of the last step is due and not made: what else its record holds; else None.
    """

    best: float | None = None
    best_step: int | None = None
    without_better: int = 0
    start: dict[str, Any] = field(default_factory=dict)
    dev: dict[str, Any] = field(default_factory=dict)
    sample_texts: list[str] = field(default_factory=list)
    unevaluated: dict[str, float] | None = None

    def is_better(self, value: float) -> bool:
        """Whether a value on dev is the best so far."""
        return self.best is None or value > self.best

    def note(self, step: int, value: float, figures: dict[str, Any]) -> None:
        """Remember an evaluation on dev.

        Args:
            step: The step that was evaluated.
            value: What decides which step is the best; higher is better.
            figures: The evaluation as the summary has it.
        """
        if self.is_better(value):
            self.best, self.best_step, self.without_better = value, step, 0
            self.dev = {str(step): figures}
        else:
            best = str(self.best_step)
            self.dev = {**({best: self.dev[best]} if best in self.dev else {}), str(step): figures}
            self.without_better += 1
