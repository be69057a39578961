"""The texts of the demo: queries and documents that belong together by knowledge which neither contains.

The facts are in the knowledge base of the bundled model; the wording is this file's own.
"""

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
    DemoText("Q1", "I dream of a country governed from Paris and famous for the Eiffel Tower.", "D1"),
    DemoText("D1", "France. Geographers place it in Western Europe, and the talk there is in French."),
    DemoText("Q2", "Who wears black and white stripes and lives on the savanna?", "D2"),
    DemoText("D2", "The zebra is a horse relative, and its food is mainly grass."),
    DemoText("Q3", "Vinegared rice, shaped and topped by hand: which dish is that?", "D3"),
    DemoText("D3", "Sushi, a classic of Japanese cooking, tastes best with wasabi and soy sauce."),
    DemoText("Q4", "It fills party balloons, and chemists write He. What is meant?", "D4"),
    DemoText("D4", "Helium is a noble gas. It proves to be inert and lighter than air."),
    DemoText("Q5", "Chamber music needs this one, played with a bow held while seated.", "D5"),
    DemoText("D5", "The cello is a bowed string instrument; notice the endpin on the floor."),
    DemoText("Q6", "Johannes Gutenberg made this in the fifteenth century.", "D6"),
    DemoText("D6", "The printing press uses movable metal type, and it changed book production."),
)
