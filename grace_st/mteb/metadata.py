"""The metadata of a model folder that mteb keeps beside scores: measured from its files, without loading weights."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from mteb.models import ModelMeta
from mteb.models.model_meta import ScoringFunction
from pydantic import TypeAdapter, ValidationError

from grace_st.cards.citation import CITATION
from grace_st.cards.settings import folder_settings
from grace_st.config import CONFIG_NAME, GraceConfig
from grace_st.fingerprint import folder_revision

DEFAULT_ORGANIZATION = "local"


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What the safetensors files of a folder hold.

    Attributes:
        parameters: Number of values; tied weights are stored, and counted, once.
        embedding_parameters: Those of the input embeddings.
        bytes: Their size.
    """

    parameters: int
    embedding_parameters: int
    bytes: int


def measured_weights(folder: Path) -> Weights:
    """Count the weights by the headers of the safetensors files.

    Raises:
        FileNotFoundError: There are none.
    """
    files = _weight_files(folder)
    if not files:
        raise FileNotFoundError(f"{folder} has no safetensors weights, so its parameters cannot be counted")
    parameters = embedding = size = 0
    for path in files:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header: dict[str, Any] = json.loads(stream.read(length))
        for name, tensor in header.items():
            if name == "__metadata__":
                continue
            count = math.prod(tensor["shape"])
            parameters += count
            first, last = tensor["data_offsets"]
            size += last - first
            if name.endswith(("embed_tokens.weight", "wte.weight", "word_embeddings.weight")):
                embedding += count
    return Weights(parameters=parameters, embedding_parameters=embedding, bytes=size)


def _weight_files(folder: Path) -> list[Path]:
    """The files that are loaded: others may hold the same weights once more, or an adapter's."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return sorted(folder / name for name in set(shards.values()))
    single = folder / "model.safetensors"
    return [single] if single.is_file() else sorted(folder.glob("*.safetensors"))


def default_name(folder: str | os.PathLike[str]) -> str:
    """``local/FOLDER``: the name of a model that was given none."""
    return f"{DEFAULT_ORGANIZATION}/{Path(folder).expanduser().resolve().name}"


def check_name(name: str) -> None:
    """Refuse a name that mteb's results cannot be kept under.

    Raises:
        ValueError: Says what a name looks like.
    """
    parts = name.split("/")
    valid = all(part and all(letter.isalnum() or letter in "-_." for letter in part) for part in parts)
    if len(parts) != 2 or not valid or any("__" in part for part in parts):
        raise ValueError(
            f"the name of a model must be ORGANIZATION/MODEL, of letters, digits and - _ . without __, got {name!r}"
        )


def experiment_of(
    folder: str | os.PathLike[str],
    *,
    instructions: str = "model",
    sampling: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Options that scores depend on, where they differ from the model's own: mteb's `experiment_kwargs`.

    mteb keeps scores with different ones apart. Every way to an encoder takes them from here, so that none shares the
    scores of another.

    Args:
        folder: A GRACE model folder.
        instructions: See `Instructions`.
        sampling: Per-call options.
        dtype: Of the weights.
        config: Fields of the model's configuration that are replaced.

    Returns:
        The options, or None where all is as the folder says.
    """
    own = GraceConfig.from_file(Path(folder).expanduser() / CONFIG_NAME).to_dict()
    given = dict(sorted((config or {}).items()))
    experiment = {name: value for name, value in given.items() if name not in own or own[name] != value}
    experiment |= dict(sorted((sampling or {}).items()))
    if instructions != "model":
        experiment["instructions"] = instructions
    if dtype is not None:
        experiment["dtype"] = dtype
    return experiment or None


def model_meta(
    folder: str | os.PathLike[str],
    name: str | None = None,
    *,
    loader: Callable[..., Any] | None = None,
    **fields: Any,
) -> ModelMeta:
    """The metadata of a model folder.

    The revision is a hash of the folder's files: mteb keeps scores by name and revision, so that two checkpoints never
    share them, also when one takes the other's place under the same name.

    Args:
        folder: A GRACE model folder.
        name: ``ORGANIZATION/MODEL``; ``local/FOLDER`` by default.
        loader: What mteb loads the model with.
        fields: Fields of `mteb.ModelMeta` that replace those known here: license, training_datasets, reference, ...
            A ``revision`` is taken for the folder's, which is then not hashed again.

    Raises:
        FileNotFoundError: It is no GRACE model folder.
        ValueError: The name or a field is refused.
    """
    path = Path(folder).expanduser().resolve()
    settings = folder_settings(path)
    name = default_name(path) if name is None else name
    check_name(name)
    unknown = [field for field in fields if field not in ModelMeta.model_fields]
    if unknown:
        raise ValueError(f"mteb.ModelMeta has no field {unknown[0]!r}; it has {', '.join(ModelMeta.model_fields)}")
    weights = measured_weights(path)
    card = _card(path)
    values: dict[str, Any] = {
        "loader": loader,
        "name": name,
        "revision": fields.get("revision") or folder_revision(path),
        "release_date": None,
        "languages": None,
        "n_parameters": weights.parameters,
        "n_embedding_parameters": weights.embedding_parameters or None,
        "memory_usage_mb": round(weights.bytes / 1024**2, 1),
        "max_tokens": settings.max_seq_length,
        "embed_dim": settings.dimension,
        "license": _license(card),
        "open_weights": None,
        "public_training_code": None,
        "public_training_data": None,
        "framework": ["Sentence Transformers", "PyTorch", "safetensors"],
        "similarity_fn_name": ScoringFunction.COSINE,
        "use_instructions": False,
        "training_datasets": None,
        "adapted_from": _base(card),
        "citation": CITATION,
    }
    try:
        return ModelMeta(**{**values, **fields})
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"mteb refuses {first['loc'][0]}={first['input']!r:.80}: {first['msg']}") from None


def _license(card: Mapping[str, Any]) -> str | None:
    """The model card's license as mteb takes it: one of its names, or an address; None where there is neither.

    The hub has more names than mteb (``llama3.2``, ``other``), and such cards have the address as ``license_link``.
    """
    accepts: Any = ModelMeta.model_fields["license"].annotation
    for value in (card.get("license"), card.get("license_link")):
        try:
            if isinstance(value, str):
                accepted: str = TypeAdapter(accepts).validate_python(value)
                return accepted
        except ValidationError:
            continue
    return None


def _card(folder: Path) -> dict[str, Any]:
    """The metadata of the model card, or nothing."""
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if not text.startswith("---\n"):
        return {}
    front = text[4:].split("\n---", 1)[0]
    values = yaml.safe_load(front)
    return values if isinstance(values, dict) else {}


def _base(card: dict[str, Any]) -> str | None:
    base = card.get("base_model")
    if isinstance(base, list):
        base = base[0] if base else None
    return base if isinstance(base, str) and base.count("/") == 1 and not base.startswith((".", "/")) else None
