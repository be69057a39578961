"""Model cards: the README of a model folder, and the cards of the models that have a name before they are trained.

Imports nothing heavy: a card is made from the files of a folder, without its weights.
"""

from grace_st.cards.citation import CITATION
from grace_st.cards.folder import CardError, render_folder, write_folder_card
from grace_st.cards.names import BACKBONES, MODELS, PlannedModel, planned
from grace_st.cards.render import render_planned

__all__ = [
    "BACKBONES",
    "CITATION",
    "MODELS",
    "CardError",
    "PlannedModel",
    "planned",
    "render_folder",
    "render_planned",
    "write_folder_card",
]
