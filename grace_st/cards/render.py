"""The template of model cards filled in, and the mark by which a later run knows what it wrote itself."""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from grace_st.cards.blocks import without_blocks
from grace_st.cards.citation import CITATION
from grace_st.cards.names import Licence, PlannedModel
from grace_st.cards.paper import COLUMNS, SUPERVISED, UNSUPERVISED
from grace_st.cards.settings import Settings

TEMPLATE = Path(str(importlib.resources.files("grace_st"))) / "templates" / "model_card.md.jinja"
TAGS = ("sentence-transformers", "sentence-similarity", "feature-extraction", "dense", "grace", "custom_code")
PLACED_BLOCKS = ("notes", "training", "measured")
"""The blocks that have a place in the template. Others stand behind them."""

_MARK = re.compile(r"<!-- grace-st card: (\{.*?\}) -->")
_MODEL_ID = re.compile(r'SentenceTransformer\("[^"\n]*"')


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What the last line of a card keeps for later runs.

    Attributes:
        digest: Of the text as it was written, see `digest_of`.
        status: ``planned``, ``converted``, ``trained`` or ``saved``.
        made_from: The model that it was made from.
    """

    digest: str
    status: str
    made_from: str | None = None


def digest_of(text: str) -> str:
    """16 hexadecimal digits of a card's text, without its metadata, its blocks, and the name of the model to load."""
    text = _MODEL_ID.sub('SentenceTransformer("', without_blocks(_MARK.sub("", text)))
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()[:16]


def mark_of(text: str) -> Mark | None:
    """The mark of a card; None where it has none that can be read."""
    found = _MARK.findall(text)
    if len(found) != 1:
        return None
    try:
        values = json.loads(found[0])
        return Mark(digest=str(values["digest"]), status=str(values["status"]), made_from=values.get("made_from"))
    except (ValueError, KeyError):
        return None


class Marker:
    """Makes the mark of a card while the template is filled in."""

    def __init__(self, status: str, made_from: str | None) -> None:
        self.status = status
        self.made_from = made_from

    def __call__(self, body: str) -> str:
        """The mark of this text, as JSON."""
        values = {"digest": digest_of(body), "status": self.status}
        return json.dumps(values if self.made_from is None else {**values, "made_from": self.made_from})


def paper_figures(model: PlannedModel) -> dict[str, str]:
    """The paper's rows of a model: ``tables`` names them, ``table`` is Markdown."""
    rows = [row for row in SUPERVISED if row.model == model.backbone.title]
    if model.mode == "unsupervised":
        rows = [row for row in rows if row.method == "Base"]
        rows += [row for row in UNSUPERVISED if row.model == model.backbone.title]
    tables = sorted({row.table for row in rows})
    lines = [["", *COLUMNS, "Average"], ["---", *["---:"] * (len(COLUMNS) + 1)]]
    lines += [[row.method, *(f"{row.columns[name]:.2f}" for name in COLUMNS), f"{row.average:.2f}"] for row in rows]
    return {
        "tables": " and ".join(f"Table {number}" for number in tables),
        "table": "\n".join("| " + " | ".join(line) + " |" for line in lines),
    }


def licence_metadata(licence: Licence) -> dict[str, str]:
    """The licence as a card's metadata have it."""
    values = {"license": licence.identifier}
    if licence.name is not None:
        values["license_name"] = licence.name
    if licence.identifier != "apache-2.0":
        values["license_link"] = licence.link
    return values


def render(
    metadata: Mapping[str, Any],
    *,
    name: str,
    settings: Settings,
    status: str,
    model_id: str | None = None,
    made_from: str | None = None,
    licence: Licence | None = None,
    planned: PlannedModel | None = None,
    blocks: Mapping[str, str] | None = None,
) -> str:
    """A card.

    Args:
        metadata: Its head, as `huggingface_hub.ModelCardData` takes it.
        name: Its title.
        settings: Of the model.
        status: See `Mark`.
        model_id: What the example loads; None leaves the placeholder of sentence-transformers.
        made_from: The model that it was made from.
        licence: The backbone's.
        planned: The named model whose figures the paper has.
        blocks: What stands in its blocks, by name.
    """
    # What others wrote is put in last, so that not one blank line of it changes.
    contents = {key: value for key, value in (blocks or {}).items() if value}
    places = {key: f"<!-- {key}: content -->" for key in contents}
    card = ModelCard.from_template(
        ModelCardData(**metadata),
        template_path=str(TEMPLATE),
        model_name=name,
        model_id=model_id,
        made_from=made_from,
        status=status,
        settings=settings,
        planned=planned,
        paper=paper_figures(planned) if planned is not None else None,
        licence=licence,
        license=metadata.get("license"),
        blocks={key: places.get(key, "") for key in PLACED_BLOCKS},
        other_blocks={key: place for key, place in places.items() if key not in PLACED_BLOCKS},
        citation=CITATION,
        mark=Marker(status, made_from),
    )
    page = re.sub(r"\n{3,}", "\n\n", str(card)).strip() + "\n"
    for key, content in contents.items():
        page = page.replace(places[key], content, 1)
    return page


def render_planned(model: PlannedModel) -> str:
    """The card of a model that is not trained yet, as `model_cards/` has it."""
    backbone = model.backbone
    return render(
        {
            **licence_metadata(backbone.licence),
            "base_model": backbone.hub_name,
            "library_name": "sentence-transformers",
            "pipeline_tag": "sentence-similarity",
            "tags": list(TAGS),
        },
        name=model.name,
        settings=Settings(
            architecture=backbone.architecture,
            dimension=backbone.hidden_size,
            max_seq_length=model.max_seq_length,
            max_new_tokens=model.max_new_tokens,
        ),
        status="planned",
        licence=backbone.licence,
        planned=model,
    )
