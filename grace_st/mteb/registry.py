"""register(): a model folder becomes a name that ``mteb.get_model`` knows. And how it is loaded then."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mteb.models import ModelMeta
from mteb.models.model_implementations import MODEL_REGISTRY

from grace_st.fingerprint import folder_revision
from grace_st.model import load
from grace_st.mteb.encoder import GraceEncoder
from grace_st.mteb.instructions import Instructions, check_instructions
from grace_st.mteb.metadata import experiment_of, model_meta
from grace_st.store import RationaleStore


def load_encoder(
    name: str,
    revision: str | None = None,
    device: str | None = None,
    *,
    folder: str | os.PathLike[str],
    instructions: Instructions = "model",
    store: RationaleStore | str | os.PathLike[str] | None = None,
    sampling: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    slots: int | None = None,
    engine: str = "torch",
    engine_kwargs: Mapping[str, Any] | None = None,
    **config: Any,
) -> GraceEncoder:
    """Load a model folder as an encoder of mteb, which calls this by ``ModelMeta.loader``.

    Args:
        name: The name that it is registered under.
        revision: The content that it must have, see `grace_st.fingerprint.folder_revision`.
        device: Where to run; None takes the best device there is.
        folder: The model folder.
        instructions: See `Instructions`.
        store: Keeps rationales and vectors.
        sampling: Per-call options, see `grace_st.encode_with_rationales`.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``; the checkpoint's by default.
        slots: Texts decoded at once; the same as ``engine_kwargs={"slots": ...}``.
        engine: ``"torch"`` or ``"vllm"``.
        engine_kwargs: Options of the engine.
        config: Fields of `grace_st.GraceConfig` that replace the folder's, e.g. ``max_new_tokens=0``.

    Raises:
        ValueError: The folder has changed since it was registered, or while it was loaded, or an option is refused.
    """
    found = folder_revision(folder)
    if revision is not None and found != revision:
        raise ValueError(
            f"the model in {folder} has changed since {name} was registered ({revision[:12]}, now {found[:12]}): "
            "register it again, so that its scores are not taken for those of the earlier one"
        )
    model = load(
        folder,
        device=device,
        model_kwargs=None if dtype is None else {"dtype": getattr(torch, dtype)},
        engine=engine,
        engine_kwargs=engine_kwargs if slots is None else {**(engine_kwargs or {}), "slots": slots},
        **config,
    )
    if folder_revision(folder) != found:
        raise ValueError(
            f"the model in {folder} has changed while it was loaded, so its scores could not be told from those of the "
            "other one: load it again when it is whole"
        )
    meta = model_meta(
        folder,
        name,
        loader=load_encoder,
        revision=found,
        use_instructions=instructions == "task",
        experiment_kwargs=experiment_of(
            folder, instructions=instructions, sampling=sampling, dtype=dtype, config=config
        ),
    )
    return GraceEncoder(model, meta=meta, instructions=instructions, store=store, sampling=sampling)


def register(
    folder: str | os.PathLike[str],
    name: str | None = None,
    *,
    instructions: Instructions = "model",
    store: str | os.PathLike[str] | None = None,
    **fields: Any,
) -> ModelMeta:
    """Make a model folder known to mteb, for this process: ``mteb.get_model(name)`` then loads it.

    Options of ``mteb.get_model(name, max_new_tokens=0)`` are those of `load_encoder`; mteb keeps scores with options
    apart from those without.

    Args:
        folder: A GRACE model folder.
        name: ``ORGANIZATION/MODEL``; ``local/FOLDER`` by default.
        instructions: See `Instructions`. Other than ``"model"`` it is part of where mteb keeps the scores.
        store: Keeps rationales and vectors in this file.
        fields: Fields of `mteb.ModelMeta`: license, training_datasets, reference, ...

    Returns:
        The metadata that is registered.

    Raises:
        FileNotFoundError: It is no GRACE model folder.
        ValueError: The name is refused or is that of one of mteb's own models, or an option is refused.
    """
    check_instructions(instructions)
    options: dict[str, Any] = {"folder": os.fspath(Path(folder).expanduser().resolve())}
    if store is not None:
        options["store"] = os.fspath(Path(store).expanduser().absolute())
    if instructions != "model":
        # In both: mteb takes the result path from these, and passes them to the loader.
        fields["experiment_kwargs"] = {**(fields.get("experiment_kwargs") or {}), "instructions": instructions}
    fields.setdefault("use_instructions", instructions == "task")
    meta = model_meta(folder, name, loader=load_encoder, **fields)
    registered = str(meta.name)
    there = MODEL_REGISTRY.get(registered)
    loader: object = None if there is None else there.loader
    if there is not None and loader is not load_encoder:
        raise ValueError(f"mteb has a model {registered} of its own: choose another name")
    meta = meta.model_copy(update={"loader_kwargs": options})
    MODEL_REGISTRY[registered] = meta
    return meta
