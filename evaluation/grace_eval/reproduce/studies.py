"""All tables and figures that there are, by their numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from grace_eval.reproduce import figures, tables
from grace_eval.reproduce.declare import Study
from grace_eval.reproduce.scale import PAPER, SMOKE, Scale

Kind = Literal["table", "figure"]

STUDIES: dict[Kind, dict[int, Callable[[Scale, str], Study]]] = {
    "table": {
        1: tables.supervised,
        2: tables.unsupervised,
        4: tables.algorithms,
        5: tables.general_tasks,
        6: tables.output_evolution,
    },
    "figure": {
        1: figures.joint,
        3: figures.lambda_grid,
        4: figures.efficiency,
        5: figures.progression,
        6: figures.representations,
        7: figures.sensitivity,
    },
}


def study(kind: Kind, number: int, *, smoke: bool, engine: str) -> tuple[Study, Scale]:
    """A study and its scale.

    Raises:
        ValueError: The paper has no such table or figure, or it is not reproduced.
    """
    known = STUDIES[kind]
    if number not in known:
        numbers = ", ".join(str(one) for one in known)
        raise ValueError(f"there is no {kind} {number} to make; the {kind}s are {numbers}")
    scale = SMOKE if smoke else PAPER
    return known[number](scale, engine), scale
