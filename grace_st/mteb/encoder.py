"""GraceEncoder: a GRACE model as an encoder of mteb."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, Unpack, cast, get_args

import numpy as np
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.types import PromptType
from sentence_transformers.util import quantize_embeddings

from grace_st.encoding import encode_with_rationales, grace_module
from grace_st.engines.torch_engine import TorchEngine
from grace_st.model import GraceModel
from grace_st.mteb.instructions import Instructions, check_instructions, prompt_for
from grace_st.store import RationaleStore
from grace_st.store.generation import store_of

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.types import BatchedInput, EncodeKwargs
    from torch.utils.data import DataLoader

Finished = Callable[[int], None]

Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]

_PRECISIONS: tuple[str, ...] = get_args(Precision)


class GraceEncoder(AbsEncoder):
    """Encodes the texts of mteb's tasks.

    All texts of a call go to the engine together, longest first, so that its slots stay full: mteb's batches are only
    how the texts arrive. A corpus entry is its title and its text, as mteb joins them.

    Args:
        model: The model.
        meta: Its metadata. Name and revision decide where mteb keeps the scores, so two checkpoints must not share
            them: see `grace_st.mteb.model_meta`.
        instructions: See `Instructions`.
        store: Keeps rationales and vectors; a path, or a store.
        sampling: Per-call options, see `grace_st.encode_with_rationales`.
        finished: Called with the number of texts that have just been finished.
    """

    model: GraceModel
    mteb_model_meta: ModelMeta

    def __init__(
        self,
        model: GraceModel,
        *,
        meta: ModelMeta,
        instructions: Instructions = "model",
        store: RationaleStore | str | os.PathLike[str] | None = None,
        sampling: Mapping[str, Any] | None = None,
        finished: Finished | None = None,
    ) -> None:
        check_instructions(instructions)
        self.model = model
        self.mteb_model_meta = meta
        self.instructions = instructions
        self.store = None if store is None else store_of(store)
        self.sampling = dict(sampling or {})
        self.finished = finished
        grace_module(model).sampling(**self.sampling)  # refuses what is wrong before the first task

    def encode(
        self,
        inputs: DataLoader[BatchedInput],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **kwargs: Unpack[EncodeKwargs],
    ) -> np.ndarray:
        """Encode the texts of a task.

        Args:
            inputs: Batches with a list of texts as ``"text"``.
            task_metadata: The task's, for its instruction.
            hf_split: Ignored.
            hf_subset: Ignored.
            prompt_type: Queries, documents, or None.
            kwargs: ``batch_size``, the most texts decoded at once (fewer where memory is short);
                ``show_progress_bar``, of finished texts; ``precision``, ``"float32"`` or as sentence-transformers
                quantizes: int8, uint8, binary, ubinary. Others are refused: what they ask for would not happen.

        Returns:
            ``[N, d]``, in order; float32 unless another precision is asked for.

        Raises:
            ValueError: An option is unknown.
            NonFiniteVectorError: A vector is not finite; the text is named.
        """
        del hf_split, hf_subset
        unknown = sorted(set(kwargs) - {"batch_size", "show_progress_bar", "precision"})
        if unknown:
            raise ValueError(f"unknown option {unknown[0]!r}; known are batch_size, show_progress_bar and precision")
        precision = kwargs.get("precision")
        if precision not in (None, *_PRECISIONS):
            raise ValueError(f"precision must be one of {', '.join(_PRECISIONS)}, got {precision!r}")
        texts = [text for batch in inputs for text in batch["text"]]
        prompt = prompt_for(self.instructions, task_metadata, prompt_type, self.model.prompts)
        if not texts:
            return np.zeros((0, self.model.get_embedding_dimension() or 0), dtype=np.float32)
        with self._at_most(kwargs.get("batch_size")):
            encodings = encode_with_rationales(
                self.model,
                texts,
                prompt=prompt,
                show_progress_bar=kwargs.get("show_progress_bar", False),
                progress=self.finished,
                store=self.store,
                **self.sampling,
            )
        vectors = np.stack([encoding.embedding for encoding in encodings]).astype(np.float32, copy=False)
        if precision is None or precision == "float32":
            return vectors
        return np.asarray(quantize_embeddings(vectors, precision=cast(Precision, precision)))

    def _at_most(self, batch_size: int | None) -> AbstractContextManager[None]:
        engine = grace_module(self.model).engine
        if batch_size is None or not isinstance(engine, TorchEngine):
            return nullcontext()
        return engine.at_most(batch_size)
