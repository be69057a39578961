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


# All of one category: that a text is about some country does not tell which document it belongs to.
DEMO_TEXTS: tuple[DemoText, ...] = (
    DemoText("Q1", "I dream of a country governed from Paris and famous for the Eiffel Tower.", "D1"),
    DemoText("D1", "France. Geographers place it in Western Europe, and the talk there is in French."),
    DemoText("Q2", "Tokyo is its capital, and postcards of it show Mount Fuji. Which country?", "D2"),
    DemoText("D2", "Japan lies in East Asia. A visitor hears Japanese in the streets."),
    DemoText("Q3", "The land has its government in Cairo and is proud of the pyramids of Giza.", "D3"),
    DemoText("D3", "Egypt belongs to North Africa, where people speak Arabic."),
    DemoText("Q4", "somewhere with deep fjords, ruled from Oslo", "D4"),
    DemoText("D4", "Norway is part of Scandinavia, and Norwegian is the common tongue."),
    DemoText("Q5", "Which country knows carnival and samba, and has Brasilia as its capital?", "D5"),
    DemoText("D5", "Brazil is found in South America. Portuguese is heard everywhere."),
    DemoText("Q6", "Nairobi is where its leaders work; guidebooks praise the Maasai Mara.", "D6"),
    DemoText("D6", "Kenya is a land in East Africa with many speakers of Swahili."),
)
