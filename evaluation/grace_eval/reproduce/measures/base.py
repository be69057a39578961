"""What a measure is, and the model as it gets it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from sentence_transformers import SentenceTransformer


@dataclass(frozen=True)
class Embedded:
    """What some texts became.

    Attributes:
        vectors: ``[n, d]``.
        rationales: What was written about each; empty texts without rationales.
        lengths: Tokens of each rationale.
        finished: Whether the model ended it itself.
    """

    vectors: np.ndarray
    rationales: tuple[str, ...]
    lengths: tuple[int, ...]
    finished: tuple[bool, ...]


class Subject:
    """A model folder, or the name of an encoder, with the options that it is read with. Loaded when it is needed.

    Args:
        source: The folder, or a name on the hub.
        options: Fields of the configuration that are replaced.
        is_encoder: It writes nothing.
        device: Where to run; None is the best there is.
        work: A folder for what the measurement keeps.
        data_root: Local copies of MTEB's data sets; None is the hub.
    """

    def __init__(
        self,
        source: str,
        options: dict[str, Any],
        *,
        is_encoder: bool,
        device: str | None,
        work: Path,
        data_root: Path | None,
    ) -> None:
        self.source = source
        self.options = options
        self.is_encoder = is_encoder
        self.device = device
        self.work = work
        self.data_root = data_root

    @cached_property
    def model(self) -> SentenceTransformer:
        """The loaded model."""
        import grace_st

        if self.is_encoder:
            return SentenceTransformer(self.source, device=self.device)
        return grace_st.load(self.source, device=self.device, **self.options)

    def located(self, task: Any) -> tuple[Any, Path | None]:
        """A task of MTEB as it reads the local copies, and where `datasets` prepares those; without any, as it is.

        Raises:
            grace_eval.mteb.data.MissingDataError: Its copy is missing.
        """
        from grace_eval.mteb.data import local_copies

        if self.data_root is None:
            return task, None
        (found,) = local_copies([task], self.data_root, self.datasets_cache)
        return found

    @property
    def datasets_cache(self) -> Path:
        """Where `datasets` prepares local copies."""
        return self.work / "datasets-cache"

    def embed(self, texts: Sequence[str], instruction: str | None = None, **options: Any) -> Embedded:
        """Encode texts; a model that writes tells what it wrote.

        Args:
            texts: The texts.
            instruction: Goes before each; None is the model's own.
            options: Of generation.
        """
        from grace_st.model import GraceModel

        if not isinstance(self.model, GraceModel):
            vectors = np.asarray(self.model.encode(list(texts), prompt=instruction, show_progress_bar=False))
            return Embedded(vectors, ("",) * len(texts), (0,) * len(texts), (True,) * len(texts))
        found = self.model.encode_with_rationales(list(texts), prompt=instruction, **options)
        return Embedded(
            np.stack([encoding.embedding for encoding in found]),
            tuple(encoding.rationale for encoding in found),
            tuple(len(encoding.rationale_ids) for encoding in found),
            tuple(encoding.finished for encoding in found),
        )


class Measure(ABC):
    """Something to measure. A frozen dataclass: its values are part of what a result is found by.

    Attributes:
        kind: Of its figures in a result.
    """

    kind: ClassVar[str]

    @abstractmethod
    def measure(self, subject: Subject) -> dict[str, Any]:
        """The figures, as JSON values."""

    def mteb_tasks(self) -> list[Any]:
        """Tasks of MTEB whose data are needed."""
        return []

    def check(self, what: str) -> None:
        """Refuse before any work what cannot be measured here, beyond data of `mteb_tasks`.

        Args:
            what: Needs it, for the message.
        """
        del what

    def command(self, folder: str, options: str, data: str) -> str | None:
        """A command that measures the same thing, where there is one.

        Args:
            folder: The model folder.
            options: How it is read, as options of ``grace-st eval mteb``.
            data: Where data are, as options of it.
        """
        return None
