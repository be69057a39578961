"""The response of ``POST /v1/embeddings``."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pydantic_core import to_json

from grace_st.engines.base import PromptTokens
from grace_st.serve.backend import Answer
from grace_st.serve.schemas import EmbeddingRequest


def final_vectors(vectors: np.ndarray, dimensions: int | None, *, normalize: bool) -> np.ndarray:
    """Vectors as they are returned.

    Args:
        vectors: ``[N, d]`` float32.
        dimensions: How many numbers to keep of each; None keeps all.
        normalize: Scale them to length 1, after cutting. A zero vector stays one.

    Returns:
        ``[N, dimensions]`` float32.
    """
    kept = vectors[:, :dimensions]
    if normalize:
        # As torch.nn.functional.normalize, which sentence-transformers uses.
        kept = kept / np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), 1e-12)
    return kept.astype(np.float32, copy=False)


def as_base64(vector: np.ndarray) -> str:
    """A vector as base64 of its numbers in little-endian float32."""
    return base64.b64encode(np.ascontiguousarray(vector, dtype="<f4").tobytes()).decode("ascii")


def usage(prompts: Sequence[PromptTokens], answers: Sequence[Answer]) -> dict[str, int]:
    """Tokens that a request stands for: of its prompts, of the rationales, and of both together."""
    prompt_tokens = sum(len(prompt.ids) for prompt in prompts)
    rationale_tokens = sum(len(answer.rationale_ids) for answer in answers)
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + rationale_tokens,
        "rationale_tokens": rationale_tokens,
    }


def render(
    request: EmbeddingRequest,
    prompts: Sequence[PromptTokens],
    answers: Sequence[Answer],
    *,
    normalize: bool,
    decode: Callable[[Sequence[int]], str],
) -> bytes:
    """The body of a response.

    Args:
        request: What was asked for.
        prompts: The prompts of its texts.
        answers: The answers to them.
        normalize: Return vectors of length 1.
        decode: Makes text of the ids of a rationale.

    Returns:
        UTF-8 JSON.
    """
    vectors = final_vectors(np.stack([answer.vector for answer in answers]), request.dimensions, normalize=normalize)
    data = []
    for index, (prompt, answer, vector) in enumerate(zip(prompts, answers, vectors, strict=True)):
        item: dict[str, Any] = {
            "object": "embedding",
            "index": index,
            "embedding": as_base64(vector) if request.encoding_format == "base64" else vector.tolist(),
        }
        if request.rationale:
            item |= {
                "rationale": decode(answer.rationale_ids),
                "rationale_tokens": len(answer.rationale_ids),
                "finished": answer.finished,
                "truncated": prompt.truncated,
            }
        data.append(item)
    return to_json({"object": "list", "data": data, "model": request.model, "usage": usage(prompts, answers)})
