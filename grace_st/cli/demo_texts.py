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


# Three countries and three animals: which category a text is about does not tell which document it belongs to.
DEMO_TEXTS: tuple[DemoText, ...] = (
    DemoText("Q1", "I dream of a country governed from Paris and famous for the Eiffel Tower.", "D1"),
    DemoText("D1", "France. Geographers place it in Western Europe, and the talk there is in French."),
    DemoText("Q2", "Tokyo is its capital, and postcards of it show Mount Fuji. Which country?", "D2"),
    DemoText("D2", "Japan lies in East Asia. A visitor hears Japanese in the streets."),
    DemoText("Q3", "The land has its government in Cairo and is proud of the pyramids of Giza.", "D3"),
    DemoText("D3", "Egypt belongs to North Africa, where people speak Arabic."),
    DemoText("Q4", "Who wears black and white stripes and lives on the savanna?", "D4"),
    DemoText("D4", "The zebra is a horse relative, and its food is mainly grass."),
    DemoText("Q5", "It has a hump of fat and is at home in sandy deserts.", "D5"),
    DemoText("D5", "The camel is a pack animal. A typical meal: dry thorny shrubs."),
    DemoText("Q6", "a creature hungry for bamboo, recognised by black eye patches", "D6"),
    DemoText("D6", "The giant panda, a bear, can be met on Chinese mountain slopes."),
)
