"""What the server asks of a model: prompts, answers, and what the store holds already."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from grace_st.encoding import grace_module, instruction_of, through_later_modules
from grace_st.engines.base import PromptTokens, Rollout, Sampling
from grace_st.fingerprint import folder_revision
from grace_st.model import GraceModel
from grace_st.serve.schemas import DOCUMENT_TYPES, QUERY_TYPES, EmbeddingRequest, Inputs
from grace_st.store import RationaleStore, StoredRollout, StoreError, StoreFileError
from grace_st.store.generation import canonical_sampling, prompt_key
from grace_st.truncation import counting_truncation

logger = logging.getLogger(__name__)

# As SentenceTransformer.encode_query and encode_document choose among a model's prompts.
_PROMPT_NAMES = {
    **dict.fromkeys(QUERY_TYPES, ("query",)),
    **dict.fromkeys(DOCUMENT_TYPES, ("document", "passage", "corpus")),
}


@dataclass(frozen=True, eq=False)
class Answer:
    """What a text was encoded to.

    Attributes:
        vector: ``[d]`` float32, not normalised.
        rationale_ids: Token ids of the rationale, without the terminating EOS.
        finished: Whether the model ended it itself.
    """

    vector: np.ndarray
    rationale_ids: tuple[int, ...]
    finished: bool


OnAnswer = Callable[[int, Answer], None]
"""Called with the place of a prompt and its answer."""


class Backend(Protocol):
    """A loaded model. `compute` is called by one thread, the rest by any."""

    @property
    def dimension(self) -> int:
        """``d`` of the vectors."""
        ...

    @property
    def max_seq_length(self) -> int:
        """Longest prompt in tokens."""
        ...

    @property
    def max_new_tokens(self) -> int:
        """Longest rationale in tokens."""
        ...

    def instruction(self, request: EmbeddingRequest) -> str | None:
        """What goes before the texts of a request.

        Raises:
            ValueError: The model has no prompt of that name.
        """
        ...

    def prompts(self, inputs: Inputs, instruction: str | None) -> list[PromptTokens]:
        """The prompts of some texts.

        Raises:
            ValueError: Token ids are not the model's, or the instruction leaves no room for a text.
        """
        ...

    def stored(self, prompts: Sequence[PromptTokens], sampling: Sampling) -> list[Answer | None]:
        """What the store holds already, for each prompt."""
        ...

    def compute(self, prompts: Sequence[PromptTokens], sampling: Sampling, on_answer: OnAnswer) -> None:
        """One answer for each prompt, each handed over as soon as it is there.

        Raises:
            NonFiniteVectorError: A vector is not finite.
            Exception: Whatever the engine raises when it breaks down.
        """
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Token ids of a rationale as a string."""
        ...


class ModelBackend:
    """A `GraceModel` with a store in front.

    A store that fails (a full disk, say) is logged and costs no answer.

    Args:
        model: The model.
        store: What it holds is not generated again.

    Raises:
        ValueError: The model cannot generate.
    """

    def __init__(self, model: GraceModel, store: RationaleStore | None = None) -> None:
        self.model = model.eval()
        self.module = grace_module(model)
        self.store = store
        # Once: it reads all weights, which do not change here.
        self._settings = None if store is None else self.module.fingerprint()

    @property
    def dimension(self) -> int:
        """See `Backend`."""
        return int(self.model.get_embedding_dimension() or 0)

    @property
    def max_seq_length(self) -> int:
        """See `Backend`."""
        return self.module.max_seq_length

    @property
    def max_new_tokens(self) -> int:
        """See `Backend`."""
        return self.module.max_new_tokens

    def instruction(self, request: EmbeddingRequest) -> str | None:
        """See `Backend`."""
        name = request.prompt_name
        if request.input_type is not None:
            names = _PROMPT_NAMES[request.input_type]
            name = next((known for known in names if known in self.model.prompts), None)
        return instruction_of(self.model, request.instruction, name)

    def prompts(self, inputs: Inputs, instruction: str | None) -> list[PromptTokens]:
        """See `Backend`."""
        texts = [item for item in inputs if isinstance(item, str)]
        with counting_truncation():  # the server's own log counts them
            if texts:
                return self.module.prompts_of(texts, instruction)
            return self.module.prompts_of_ids([item for item in inputs if not isinstance(item, str)], instruction)

    def stored(self, prompts: Sequence[PromptTokens], sampling: Sampling) -> list[Answer | None]:
        """See `Backend`."""
        if self.store is None or self._settings is None:
            return [None] * len(prompts)
        keys = [prompt_key(prompt) for prompt in prompts]
        try:
            found = self.store.get({**self._settings, "sampling": canonical_sampling(sampling)}, keys)
        except (StoreError, StoreFileError) as error:
            logger.error("the store cannot be read, so texts are generated: %s", error)
            return [None] * len(prompts)
        rollouts = {
            key: Rollout(entry.ids, entry.stop_id, torch.from_numpy(entry.vector)) for key, entry in found.items()
        }
        answers = dict(zip(rollouts, self._answers(list(rollouts.values())), strict=True))
        return [answers.get(key) for key in keys]

    def compute(self, prompts: Sequence[PromptTokens], sampling: Sampling, on_answer: OnAnswer) -> None:
        """See `Backend`. The store gets all of them at the end, since it may have to wait for another process."""
        keeps = self.store is not None and not self.store.read_only
        fresh: dict[bytes, StoredRollout] = {}

        def finished(place: int, rollout: Rollout) -> None:
            on_answer(place, self._answers([rollout])[0])
            if keeps:
                fresh[prompt_key(prompts[place])] = StoredRollout(rollout.ids, rollout.stop_id, rollout.vector.numpy())

        try:
            self.module.rollouts(prompts, sampling, on_rollout=finished)
        finally:
            if fresh:
                self._keep(fresh, sampling)

    def decode(self, ids: Sequence[int]) -> str:
        """See `Backend`."""
        return self.module.prompt.decode(ids)

    def _keep(self, fresh: Mapping[bytes, StoredRollout], sampling: Sampling) -> None:
        assert self.store is not None and self._settings is not None
        try:
            self.store.put({**self._settings, "sampling": canonical_sampling(sampling)}, fresh)
        except (StoreError, StoreFileError) as error:
            # They are worth more than their copies.
            logger.error("the rationales of a batch are not kept: %s", error)

    def _answers(self, rollouts: Sequence[Rollout]) -> list[Answer]:
        if not rollouts:
            return []
        vectors = through_later_modules(self.model, rollouts)
        return [
            Answer(vector, rollout.ids, rollout.finished) for rollout, vector in zip(rollouts, vectors, strict=True)
        ]


class ChangedModelError(ValueError):
    """The files of a model are not those that the server began with."""


class ModelLoader:
    """Loads the model of a server, each time the same one.

    Args:
        folder: The model's folder.
        load: Loads it.
        store: A store in front.
    """

    def __init__(self, folder: Path, load: Callable[[], GraceModel], *, store: RationaleStore | None = None) -> None:
        self.folder = folder
        self._load = load
        self._store = store
        self._revision: str | None = None

    def __call__(self) -> ModelBackend:
        """The loaded model.

        Raises:
            ChangedModelError: The files have changed since the first time: vectors of two models must not come from
                one server.
        """
        revision = folder_revision(self.folder)
        if self._revision not in (None, revision):
            raise ChangedModelError(
                f"the files in {self.folder} have changed since the server was started: start it again to serve the "
                "new model"
            )
        self._revision = revision
        return ModelBackend(self._load(), self._store)
