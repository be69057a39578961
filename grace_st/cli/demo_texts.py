"""The texts of the demo: queries and documents whose pairing needs knowledge that neither contains."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DemoText:
    """A text of the demo.

    Attributes:
        name: Short name, such as ``Q1`` or ``D1``.
        text: The text that is encoded.
        answer: For a query, the name of the document that answers it.
    """

    name: str
    text: str
    answer: str | None = None


DEMO_TEXTS: tuple[DemoText, ...] = (
    DemoText("Q1", "a country governed from Paris", "D1"),
    DemoText("D1", "France: the people speak French and visitors come for the Eiffel Tower."),
)
