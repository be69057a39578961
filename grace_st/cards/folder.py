"""The card of a model folder: written anew from the folder, keeping what people and other tools put into it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard

from grace_st.cards.blocks import blocks_of
from grace_st.cards.names import BACKBONES, MODELS, Licence, PlannedModel, reserved
from grace_st.cards.render import TAGS, Mark, digest_of, licence_metadata, mark_of, render
from grace_st.cards.settings import folder_settings
from grace_st.cards.training import TrainingRecord, as_markdown, training_record

CARD_NAME = "README.md"

_LICENCE_KEYS = ("license", "license_name", "license_link")
_OURS = ("base_model", "library_name", "pipeline_tag", "tags", "eval_results", "model_name", *_LICENCE_KEYS)


class CardError(ValueError):
    """A card that is not written, or not taken, as it is."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Figures for a card.

    Attributes:
        text: What stands in the block ``measured``.
        results: For the metadata (``model-index``).
    """

    text: str
    results: list[EvalResult]


@dataclass(frozen=True, kw_only=True)
class ExistingCard:
    """A card that is there.

    Attributes:
        metadata: Its head.
        text: What stands behind that.
        mark: What `grace-st` noted when it wrote it; None in a card of other origin.
        blocks: What stands in its blocks, by name.
    """

    metadata: Mapping[str, Any]
    text: str
    mark: Mark | None
    blocks: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_ours(self) -> bool:
        """Whether the text outside of its blocks is as `grace-st` wrote it."""
        return self.mark is not None and self.mark.digest == digest_of(self.text)

    @property
    def title(self) -> str | None:
        """Its first heading."""
        return next((line[2:].strip() for line in self.text.splitlines() if line.startswith("# ")), None)

    def with_other_weights(self) -> ExistingCard:
        """What remains of it when the weights have changed: what people wrote, and no figures."""
        metadata = {key: value for key, value in self.metadata.items() if key not in ("eval_results", "model_name")}
        return replace(self, metadata=metadata, blocks={"notes": self.blocks.get("notes", "")})


def read_card(path: Path) -> ExistingCard | None:
    """A card, or None where there is no file.

    Raises:
        CardError: Its head or its blocks are damaged.
    """
    if not path.is_file():
        return None
    try:
        page = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")  # as editors of Windows leave it
        card = ModelCard(page) if page.startswith("---\n") else None
        text = page if card is None else card.text
        return ExistingCard(
            metadata={}
            if card is None
            else {key: value for key, value in vars(card.data).items() if value is not None},
            text=text,
            mark=mark_of(text),
            blocks=blocks_of(text),
        )
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise CardError(f"{path} cannot be read as a model card: {' '.join(str(error).split())}") from error


def render_folder(
    folder: str | os.PathLike[str],
    *,
    name: str | None = None,
    model_id: str | None = None,
    made_from: str | None = None,
    base_model: str | None = None,
    license: str | None = None,
    measured: Measured | None = None,
    is_conversion: bool = False,
    previous: ExistingCard | None = None,
    force: bool = False,
) -> str:
    """The card of a model folder, as it would be written.

    Kept from the card that is there: the blocks ``<!-- NAME: begin -->`` to ``<!-- NAME: end -->``, of which ``notes``
    is for people, and what people put into its head (license, language, datasets, further tags, ...).

    Args:
        folder: A GRACE model folder.
        name: The title; that of the card that is there, or the folder's name, by default.
        model_id: The model's name on the hub, which the example then loads.
        made_from: The model that it was made from; by default what the training run or the card says.
        base_model: That model's name on the hub, for the head.
        license: The licence as the hub knows it; by default what the card says, or that of a known backbone.
        measured: New figures; those that are there stay otherwise.
        is_conversion: The folder was just converted: nothing was trained.
        previous: The card to keep from, instead of the one that is there.
        force: Replace a card that was written or changed by hand. Its blocks and its head are kept even then.

    Raises:
        FileNotFoundError: It is no GRACE model folder.
        CardError: The card was written or changed by hand, or is damaged.
        ValueError: A file of the folder cannot be used.
    """
    path = Path(folder).expanduser()
    settings = folder_settings(path)
    record = training_record(path)
    old = previous or read_card(path / CARD_NAME)
    if old is not None and not old.is_ours and not force:
        what = "was not written by grace-st" if old.mark is None else "was changed by hand"
        raise CardError(
            f"{path / CARD_NAME} {what}, so it is not replaced: move your text between <!-- notes: begin --> and "
            "<!-- notes: end -->, or give --force to lose what is outside of such blocks"
        )
    name = name or (old.title if old is not None and old.is_ours else None) or path.resolve().name
    mark = old.mark if old is not None else None
    status = "trained" if record else "converted" if is_conversion else mark.status if mark else "saved"
    if status == "converted" and reserved(name) is not None:
        name = f"{name} (not trained)"  # the name alone belongs to what training makes
    made_from = made_from or (record.model if record else None) or (mark.made_from if mark else None)
    metadata = _metadata(old, made_from=made_from, base_model=base_model, license=license)
    backbone = BACKBONES.get(_first(metadata.get("base_model")))
    if measured is not None:
        metadata["eval_results"] = measured.results
    elif old is not None and old.metadata.get("eval_results"):
        metadata["eval_results"] = old.metadata["eval_results"]
    if metadata.get("eval_results"):
        metadata["model_name"] = name
    blocks = dict(old.blocks) if old is not None else {}
    if record is not None:
        blocks["training"] = as_markdown(record)
    elif blocks.get("training", "").startswith("**Nothing was trained**"):
        blocks.pop("training")  # the template's own words
    if measured is not None:
        blocks["measured"] = measured.text
    elif blocks.get("measured", "").startswith("Nothing yet."):
        blocks.pop("measured")  # likewise
    licence = backbone.licence if backbone is not None and _is_licence(metadata, backbone.licence) else None
    return render(
        metadata,
        name=name,
        settings=settings,
        status=status,
        model_id=model_id,
        made_from=made_from,
        licence=licence,
        planned=_paper_model(metadata, record) if status == "trained" else None,
        blocks=blocks,
    )


def write_folder_card(folder: str | os.PathLike[str], **options: Any) -> Path:
    """Write the card of a model folder, whole or not at all. Takes the options of `render_folder`.

    Returns:
        Its path.

    Raises:
        FileNotFoundError, ValueError: As `render_folder`.
        OSError: It cannot be written; the card that was there stays.
    """
    return write_card(Path(folder).expanduser() / CARD_NAME, render_folder(folder, **options))


def write_card(path: Path, text: str) -> Path:
    """Write a card, whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(text.encode("utf-8"))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _metadata(
    old: ExistingCard | None, *, made_from: str | None, base_model: str | None, license: str | None
) -> dict[str, Any]:
    before = dict(old.metadata) if old is not None else {}
    known = made_from if made_from in BACKBONES else None
    base = base_model or before.get("base_model") or known
    backbone = BACKBONES.get(_first(base))
    values: dict[str, Any] = {}
    if license is None and before.get("license"):
        values |= {key: before[key] for key in _LICENCE_KEYS if key in before}
    elif backbone is not None and license in (None, backbone.licence.identifier):
        values |= licence_metadata(backbone.licence)
    elif license is not None:
        values["license"] = license
    if base:
        values["base_model"] = base
    values |= {"library_name": "sentence-transformers", "pipeline_tag": "sentence-similarity"}
    tags = before.get("tags") or []
    values["tags"] = [*TAGS, *(tag for tag in ([tags] if isinstance(tags, str) else tags) if tag not in TAGS)]
    return {**values, **{key: value for key, value in before.items() if key not in _OURS}}


def _first(base: Any) -> str:
    if isinstance(base, list):
        base = base[0] if base else ""
    return base if isinstance(base, str) else ""


def _is_licence(metadata: Mapping[str, Any], licence: Licence) -> bool:
    return (metadata.get("license"), metadata.get("license_name")) == (licence.identifier, licence.name)


def _paper_model(metadata: Mapping[str, Any], record: TrainingRecord | None) -> PlannedModel | None:
    """The named model whose figures in the paper are of this backbone and mode."""
    if record is None or record.method != "grace":
        return None
    base = _first(metadata.get("base_model"))
    return next(
        (model for model in MODELS.values() if model.backbone.hub_name == base and model.mode == record.mode), None
    )
