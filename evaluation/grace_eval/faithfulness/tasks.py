"""The tasks: texts in roles, and what their vectors score, item by item. They know no model and no rationale."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from grace_eval.faithfulness.intervals import MeanOutcome, Outcome, SpearmanOutcome
from grace_eval.faithfulness.ranking import graded_ndcg
from grace_train.data.config import BUNDLED, DataConfig
from grace_train.data.retrieval_data import load_retrieval

BUNDLED_TASKS = (f"{BUNDLED}:dev", f"{BUNDLED}:test")
"""The held-out retrieval sets that come with the package."""


@dataclass(frozen=True)
class Role:
    """Texts that play one part in a task.

    Attributes:
        name: Such as ``"queries"``.
        texts: The texts; repeats are allowed.
        instruction: Goes before each of them; ``""`` is none, None is what the model folder says.
    """

    name: str
    texts: tuple[str, ...]
    instruction: str | None = None


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A task as the measurement sees it.

    Attributes:
        name: For reports.
        roles: The first is the asking one: queries, first texts of pairs, texts to be classified.
    """

    metric: ClassVar[str]
    kind: ClassVar[Literal["retrieval", "sts", "classification"]]

    name: str
    roles: tuple[Role, ...]

    @abstractmethod
    def outcome(self, vectors: Mapping[str, np.ndarray]) -> Outcome:
        """How the task comes out with these vectors ``[n, d]``, by role."""

    @abstractmethod
    def with_items(self, most: int | None) -> Task:
        """With at most so many queries, pairs or test texts, evenly spaced; None leaves all."""


def _spaced(count: int, most: int | None) -> list[int]:
    """Indices of at most so many items, evenly spaced."""
    wanted = count if most is None else min(count, most)
    return [index * count // wanted for index in range(wanted)]


# ---------------------------------------------------------------- retrieval


@dataclass(frozen=True, kw_only=True)
class RetrievalTask(Task):
    """Queries that have to find their documents; nDCG@10.

    Attributes:
        name, roles: See `Task`. The roles are ``queries`` and ``documents``.
        relevance: For each query the relevance of its documents, by index.
        left_out: For each query a document that does not count for it, or None.
    """

    metric = "ndcg_at_10"
    kind = "retrieval"

    relevance: tuple[Mapping[int, float], ...]
    left_out: tuple[int | None, ...]

    def outcome(self, vectors: Mapping[str, np.ndarray]) -> Outcome:
        """See `Task`."""
        queries, documents = (vectors[role.name] for role in self.roles)
        return MeanOutcome(graded_ndcg(queries, documents, self.relevance, self.left_out))

    def with_items(self, most: int | None) -> RetrievalTask:
        """With at most so many queries, evenly spaced; the documents stay."""
        chosen = _spaced(len(self.relevance), most)
        queries, documents = self.roles
        return replace(
            self,
            roles=(replace(queries, texts=tuple(queries.texts[index] for index in chosen)), documents),
            relevance=tuple(self.relevance[index] for index in chosen),
            left_out=tuple(self.left_out[index] for index in chosen),
        )


def retrieval_task(path: str, *, max_items: int | None = None) -> RetrievalTask:
    """A retrieval task from a file of rows with ``query`` and ``positive``, or a bundled set.

    Args:
        path: A file as for training (JSON lines, CSV, Parquet; all positives and negatives are the documents), or
            ``nano:dev``, ``nano:test``.
        max_items: Most queries, evenly spaced; the documents stay.

    Raises:
        grace_st.bulk.rows.InputError: The file cannot be used.
    """
    data = load_retrieval(path, DataConfig(train=path))
    task = RetrievalTask(
        name=path if path in BUNDLED_TASKS else Path(path).name,
        roles=(
            Role("queries", data.queries, data.query_instruction),
            Role("documents", data.documents, data.document_instruction or ""),  # never a query's
        ),
        relevance=tuple(dict.fromkeys(sorted(own), 1.0) for own in data.relevant),
        left_out=(None,) * len(data.queries),
    )
    return task.with_items(max_items)


# ---------------------------------------------------------------- pairs with a human judgement


@dataclass(frozen=True, kw_only=True)
class PairTask(Task):
    """Pairs of texts with a similarity that people gave; Spearman's correlation of the cosines with it.

    Attributes:
        name, roles: See `Task`. The roles are ``first`` and ``second``.
        judged: ``[n]``.
    """

    metric = "cosine_spearman"
    kind = "sts"

    judged: tuple[float, ...]

    def outcome(self, vectors: Mapping[str, np.ndarray]) -> Outcome:
        """See `Task`."""
        first, second = (np.asarray(vectors[role.name], dtype=np.float64) for role in self.roles)
        # Equal texts have a cosine of 1 but for its last digits, which are no order.
        return SpearmanOutcome(np.round(cosines(first, second), 9), np.array(self.judged))

    def with_items(self, most: int | None) -> PairTask:
        """With at most so many pairs, evenly spaced."""
        chosen = _spaced(len(self.judged), most)
        roles = tuple(replace(role, texts=tuple(role.texts[index] for index in chosen)) for role in self.roles)
        return replace(self, roles=roles, judged=tuple(self.judged[index] for index in chosen))


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """``[n]`` cosines of the rows of two matrices ``[n, d]``; 0 with a zero vector."""
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    found: np.ndarray = (first * second).sum(axis=1) / np.where(norms == 0, 1.0, norms)
    return found


# ---------------------------------------------------------------- classification


@dataclass(frozen=True, kw_only=True)
class ClassificationTask(Task):
    """Texts with a label; accuracy of classifiers that are fitted to a few labelled texts, as MTEB does.

    Attributes:
        name, roles: See `Task`. The roles are ``test`` and ``train``.
        test_labels: ``[n]``.
        train_labels: ``[t]``.
        draws: For each classifier the indices of the texts of ``train`` that it is fitted to.
        classifier: A classifier of scikit-learn; a copy of it is fitted.
    """

    metric = "accuracy"
    kind = "classification"

    test_labels: tuple[Any, ...]
    train_labels: tuple[Any, ...]
    draws: tuple[tuple[int, ...], ...]
    classifier: Any

    def outcome(self, vectors: Mapping[str, np.ndarray]) -> Outcome:
        """See `Task`. An item's value is the share of classifiers that give it its label."""
        from sklearn.base import clone

        test, train = (vectors[role.name] for role in self.roles)
        wanted, labels = np.array(self.test_labels), np.array(self.train_labels)
        right = np.zeros(len(wanted))
        for draw in self.draws:
            fitted = clone(self.classifier)
            with warnings.catch_warnings():
                # A user can do nothing about how long the task lets its classifier converge.
                warnings.filterwarnings("ignore", module="sklearn")
                fitted.fit(train[list(draw)], labels[list(draw)])
            right += fitted.predict(test) == wanted
        return MeanOutcome(right / len(self.draws))

    def with_items(self, most: int | None) -> ClassificationTask:
        """With at most so many test texts, evenly spaced; what classifiers are fitted to stays."""
        chosen = _spaced(len(self.test_labels), most)
        test, train = self.roles
        return replace(
            self,
            roles=(replace(test, texts=tuple(test.texts[index] for index in chosen)), train),
            test_labels=tuple(self.test_labels[index] for index in chosen),
        )


def drawn_samples(labels: Sequence[Any], *, draws: int, per_label: int, seed: int) -> list[list[int]]:
    """For each of some draws at most so many indices of each label, as MTEB draws them for classification.

    The order is shuffled with the same generator each time, starting from the order of the draw before.
    """
    order = list(range(len(labels)))
    drawn = []
    for _ in range(draws):
        np.random.RandomState(seed).shuffle(order)
        counts: dict[Any, int] = defaultdict(int)
        chosen = []
        for index in order:
            if counts[labels[index]] < per_label:
                chosen.append(index)
                counts[labels[index]] += 1
        drawn.append(chosen)
    return drawn
