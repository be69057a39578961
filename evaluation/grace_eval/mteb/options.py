"""What is evaluated: a model folder with the options that scores depend on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from mteb.models import ModelMeta

import grace_st
from grace_st.engines.base import Sampling
from grace_st.engines.choice import check_engine
from grace_st.mteb import GraceEncoder, Instructions, load_encoder, model_meta
from grace_st.mteb.instructions import check_instructions
from grace_st.mteb.metadata import experiment_of
from grace_st.store import RationaleStore

Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """A model and how it encodes.

    Attributes:
        folder: The model folder.
        name: ``ORGANIZATION/MODEL``; ``local/FOLDER`` by default.
        instructions: See `grace_st.mteb.Instructions`.
        max_new_tokens: Budget of the rationale; the model's by default, 0 pools the prompt alone.
        pooling: Replaces the model's.
        pooling_span: Replaces the model's.
        sampling: Per-call options; greedy by default.
        dtype: Of the weights; the checkpoint's by default (float32 on a CPU).
        device: Where to run.
        engine: ``"torch"`` or ``"vllm"``.
        engine_kwargs: Options of the engine.
        store: Keeps rationales and vectors in this file.
        store_bytes: Its largest size.

    Raises:
        ValueError: An option is out of range.
    """

    folder: Path
    name: str | None = None
    instructions: Instructions = "model"
    max_new_tokens: int | None = None
    pooling: str | None = None
    pooling_span: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    dtype: Dtype | None = None
    device: str | None = None
    engine: str = "torch"
    engine_kwargs: Mapping[str, Any] | None = None
    store: Path | None = None
    store_bytes: int | None = None

    def __post_init__(self) -> None:
        check_instructions(self.instructions)
        check_engine(self.engine, self.engine_kwargs)
        Sampling(max_new_tokens=0 if self.max_new_tokens is None else self.max_new_tokens, **self.sampling)

    @property
    def config(self) -> dict[str, Any]:
        """Fields of the model's configuration that are replaced."""
        names = ("max_new_tokens", "pooling", "pooling_span")
        given = {name: getattr(self, name) for name in names}
        return {name: value for name, value in given.items() if value is not None}

    def meta(self) -> ModelMeta:
        """The metadata, which say where the scores are kept.

        Options that scores depend on, where they differ from the model's own, are mteb's `experiment_kwargs`: scores
        with them are kept apart.
        """
        return model_meta(
            self.folder,
            self.name,
            loader=load_encoder,
            use_instructions=self.instructions == "task",
            experiment_kwargs=experiment_of(
                self.folder,
                instructions=self.instructions,
                sampling=self.sampling,
                dtype=self.dtype,
                config=self.config,
            ),
        )

    def load(self, meta: ModelMeta, finished: Callable[[int], None] | None = None) -> GraceEncoder:
        """The encoder.

        Args:
            meta: What `meta` returned.
            finished: Called with the number of texts that have just been finished.
        """
        if self.folder.resolve() == grace_st.nano_path().resolve():
            # Its matrices are so small that a second thread costs more than it saves.
            torch.set_num_threads(1)
        assert meta.name is not None
        store = None
        if self.store is not None:
            self.store.parent.mkdir(parents=True, exist_ok=True)
            store = RationaleStore(self.store, max_bytes=self.store_bytes)
        encoder = load_encoder(
            meta.name,
            meta.revision,
            self.device,
            folder=self.folder,
            instructions=self.instructions,
            store=store,
            sampling=self.sampling,
            dtype=self.dtype,
            engine=self.engine,
            engine_kwargs=self.engine_kwargs,
            **self.config,
        )
        encoder.mteb_model_meta = meta
        encoder.finished = finished
        return encoder
