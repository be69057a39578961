"""The encoder: a model folder as a function from texts to vectors and rationales.

Imports torch only with a model, so that what is around it can be used without.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from grace_st.bulk.chunks import EncodedTexts

if TYPE_CHECKING:
    from grace_st.model import GraceModel
    from grace_st.store import RationaleStore


class Encoder(Protocol):
    """Texts to vectors and rationales."""

    @property
    def dimension(self) -> int:
        """``d`` of the vectors."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the vectors depend on and is known only now."""
        ...

    def encode(self, texts: list[str], progress: Callable[[int], None]) -> EncodedTexts:
        """Encode some texts, calling ``progress`` with the number of those that have just been finished."""
        ...


class EncoderLoader(Protocol):
    """An encoder that is loaded when the first text needs it."""

    def settings(self) -> Mapping[str, Any]:
        """What the vectors depend on, as far as it is known before loading. May read files."""
        ...

    def load(self) -> Encoder:
        """The encoder."""
        ...


@dataclass(frozen=True, kw_only=True)
class ModelEncoder:
    """A loaded model with the options of each call.

    Attributes:
        model: The model.
        prompt: Instruction that goes before each text.
        prompt_name: Name of one of the model's prompts.
        normalize: Scale the vectors to length 1.
        sampling: Per-call options, see `grace_st.encode_with_rationales`.
        store: What it holds is not generated again.
    """

    model: GraceModel
    prompt: str | None = None
    prompt_name: str | None = None
    normalize: bool = False
    sampling: Mapping[str, Any] = field(default_factory=dict)
    store: RationaleStore | None = None

    @property
    def dimension(self) -> int:
        """``d`` of the vectors."""
        return int(self.model.get_embedding_dimension() or 0)

    @property
    def settings(self) -> dict[str, Any]:
        """The kind of device, and of vLLM its version and mode: the last digits of a vector depend on them."""
        from grace_st.engines.vllm.engine import VllmEngine

        engine = self.model[0].engine
        return {"device": self.model.device.type} if not isinstance(engine, VllmEngine) else {"engine": repr(engine)}

    def with_store(self, store: RationaleStore | None) -> ModelEncoder:
        """The same encoder with another store."""
        return replace(self, store=store)

    def encode(self, texts: list[str], progress: Callable[[int], None]) -> EncodedTexts:
        """Encode some texts.

        Raises:
            ValueError: An option is refused.
            NonFiniteVectorError: A vector is not finite.
        """
        from grace_st.truncation import counting_truncation

        with counting_truncation():  # the summary tells, so no warning for every chunk
            encodings = self.model.encode_with_rationales(
                texts,
                prompt=self.prompt,
                prompt_name=self.prompt_name,
                progress=progress,
                store=self.store,
                **self.sampling,
            )
        vectors = np.stack([encoding.embedding for encoding in encodings]).astype(np.float32, copy=False)
        if self.normalize:
            # As torch.nn.functional.normalize, which sentence-transformers uses.
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return EncodedTexts(
            vectors=vectors,
            rationales=[encoding.rationale for encoding in encodings],
            rationale_ids=[encoding.rationale_ids for encoding in encodings],
            finished=[encoding.finished for encoding in encodings],
            truncated=sum(encoding.truncated for encoding in encodings),
        )
