"""What a model writes: how long, and the words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from grace_eval.reproduce.measures.base import Measure, Subject


@dataclass(frozen=True, kw_only=True)
class Length(Measure):
    """Mean tokens of a rationale, over the first texts of a retrieval task, queries and documents alike.

    Attributes:
        task: A task of MTEB, or ``nano:dev``, ``nano:test``.
        texts: How many of each role.
    """

    kind = "length"

    task: str
    texts: int

    def measure(self, subject: Subject) -> dict[str, Any]:
        """See `Measure`."""
        from grace_eval.reproduce.measures.texts import retrieval_texts

        found = [subject.embed(texts[: self.texts]) for texts in retrieval_texts(self.task, subject)]
        lengths = np.array([length for embedded in found for length in embedded.lengths])
        return {
            "tokens": float(lengths.mean()),
            "tokens_std": float(lengths.std()),
            "finished": float(np.mean([done for embedded in found for done in embedded.finished])),
        }

    def mteb_tasks(self) -> list[Any]:
        """See `Measure`."""
        from grace_eval.reproduce.measures.texts import mteb_tasks_of

        return mteb_tasks_of(self.task)


@dataclass(frozen=True, kw_only=True)
class Rationales(Measure):
    """The rationales of given texts.

    Attributes:
        texts: By a short name.
    """

    kind = "rationales"

    texts: tuple[tuple[str, str], ...]

    def measure(self, subject: Subject) -> dict[str, Any]:
        """See `Measure`."""
        found = subject.embed([text for _, text in self.texts])
        rows = zip(self.texts, found.rationales, found.lengths, found.finished, strict=True)
        return {
            "tokens": float(np.mean(found.lengths)),
            "written": [
                {"name": name, "rationale": rationale, "tokens": length, "finished": finished}
                for (name, _), rationale, length, finished in rows
            ],
        }
