"""An encoder without a model: quick, and its vectors depend on the text alone. Imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from grace_st.bulk.chunks import EncodedTexts

DIMENSION = 8


class FakeEncoder:
    """Is its own loader.

    Attributes:
        batches: The number of texts of every call.
        loaded: How often it was loaded.
        fail_at: Index of the call that raises ``error``.
    """

    def __init__(
        self, *, fail_at: int | None = None, error: BaseException | None = None, files: str = "a", device: str = "cpu"
    ) -> None:
        self.batches: list[int] = []
        self.loaded = 0
        self.fail_at = fail_at
        self.error = error or RuntimeError("the encoder broke")
        self.files = files
        self.device = device

    def settings(self) -> Mapping[str, Any]:
        return {"the model's file model.safetensors": self.files}

    def load(self) -> Loaded:
        self.loaded += 1
        return Loaded(self)


class Loaded:
    """What the fake loader loads."""

    def __init__(self, fake: FakeEncoder) -> None:
        self._fake = fake
        self.dimension = DIMENSION
        self.settings = {"device": fake.device}

    def encode(self, texts: list[str], progress: Callable[[int], None]) -> EncodedTexts:
        progress(len(texts))
        if self._fake.fail_at == len(self._fake.batches):
            raise self._fake.error
        self._fake.batches.append(len(texts))
        return EncodedTexts(
            vectors=np.stack([vector_of(text) for text in texts]),
            rationales=[rationale_of(text) for text in texts],
            rationale_ids=[[len(text), 7] for text in texts],
            finished=[len(text) % 2 == 0 for text in texts],
            truncated=sum(len(text) > 50 for text in texts),
        )


def vector_of(text: str) -> np.ndarray:
    """``[d]`` float32, with awkward numbers among them."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    vector = np.frombuffer(digest, dtype="<u4").astype(np.float32) / np.float32(3e8)
    vector[0] = np.float32(1e-42) * digest[0]  # subnormal
    return vector


def rationale_of(text: str) -> str:
    """Has what files can trip over."""
    return f'thinks "{text[:10]}",\r\n\u2028 é 日本 🙂'.encode("utf-8", "replace").decode()
