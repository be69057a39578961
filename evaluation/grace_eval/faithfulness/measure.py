"""The measurement: each text's rationale is written once, changed in several ways, and the task is scored each time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch

from grace_eval.faithfulness.intervals import Outcome, difference, interval
from grace_eval.faithfulness.interventions import Ids, donors, random_tokens, shuffled
from grace_eval.faithfulness.sentences import ordinary_tokens, sentence_ends, token_pieces
from grace_eval.faithfulness.tasks import Role, Task, cosines
from grace_st.encoding import encode_with_rationales, grace_module, instruction_of, through_later_modules
from grace_st.engines.base import Progress, Rollout
from grace_st.engines.prefixes import embed_prefixes
from grace_st.engines.torch_engine import TorchEngine
from grace_st.model import GraceModel
from grace_st.store import RationaleStore
from grace_train.retrieval import RESAMPLES, Estimate

Side = Literal["both", "first"]
SIDES: tuple[Side, ...] = get_args(Side)
DROPPED, SHUFFLED, SWAPPED, RANDOM = "dropped", "shuffled", "swapped", "random"
INTERVENTIONS = (DROPPED, SHUFFLED, SWAPPED, RANDOM)
MEANINGS = {
    DROPPED: "no rationale: the prompt alone is pooled",
    SHUFFLED: "its sentences in another order",
    SWAPPED: "another text's rationale",
    RANDOM: "random tokens, as many",
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How faithfulness is measured.

    Attributes:
        side: Whose rationales are changed: those of all texts, or of the asking side alone (queries, first texts of
            pairs, texts to be classified), against intact others.
        seed: Of orders, donors and random tokens.
        budgets: Tokens of the budget curve, ascending from 0; None is powers of two up to the longest rationale.
        max_items: Most queries, pairs or test texts, evenly spaced; None is all.
        resamples: Of the bootstrap.

    Raises:
        ValueError: A value is out of range.
    """

    side: Side = "both"
    seed: int = 0
    budgets: tuple[int, ...] | None = None
    max_items: int | None = None
    resamples: int = RESAMPLES

    def __post_init__(self) -> None:
        if self.side not in SIDES:
            raise ValueError(f"side must be one of {', '.join(SIDES)}, got {self.side!r}")
        if self.budgets is not None and (
            not self.budgets or self.budgets[0] < 0 or sorted(set(self.budgets)) != list(self.budgets)
        ):
            raise ValueError(f"budgets must be ascending numbers of tokens >= 0, got {list(self.budgets)}")
        if self.max_items is not None and self.max_items < 2:
            raise ValueError(f"max_items must be at least 2, got {self.max_items}")
        if self.resamples < 100:
            raise ValueError(f"resamples must be at least 100, got {self.resamples}")


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What a changed rationale does.

    Attributes:
        name: One of `INTERVENTIONS`, or ``"cut"``.
        budget: Tokens that are kept; None but for ``"cut"``.
        tokens: Mean tokens of a rationale then.
        changed: Share of the changed side's rationales that are not what they were.
        score: With its 95% interval over items.
        difference: From the score with the rationales as written, paired by item.
        cosine: Mean cosine of the changed side's vectors with those of the rationales as written.
    """

    name: str
    budget: int | None = None
    tokens: float
    changed: float
    score: Estimate
    difference: Estimate
    cosine: float


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """What was found on a task.

    Attributes:
        task, kind, metric: Of the task.
        items: Queries, pairs or test texts.
        texts: Different texts that rationales were written for.
        tokens: Mean tokens of a rationale.
        sentences: Mean sentences of one.
        finished: Share that ended by themselves.
        score: With the rationales as written.
        effects: One for each of `INTERVENTIONS`.
        curve: By budget, ascending; the last holds all rationales whole.
    """

    task: str
    kind: str
    metric: str
    items: int
    texts: int
    tokens: float
    sentences: float
    finished: float
    score: Estimate
    effects: tuple[Effect, ...] = ()
    curve: tuple[Effect, ...] = ()


@dataclass
class _Side:
    """A role's distinct texts with their rationales."""

    role: Role
    texts: list[str]
    owners: list[int]
    rationales: list[Ids]
    finished: list[bool]
    ends: list[list[int]]
    vectors: np.ndarray
    prefixes: np.ndarray = field(default_factory=lambda: np.empty(0))

    def spread(self, vectors: np.ndarray) -> np.ndarray:
        """From a row for each distinct text to one for each text of the role."""
        return vectors[self.owners]


def measure(
    model: GraceModel,
    task: Task,
    settings: Settings,
    *,
    store: RationaleStore | None = None,
    sampling: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> TaskResult:
    """Score a task with its rationales as written and changed.

    Generates once for each different text; all else are single forward passes.

    Args:
        model: With the torch engine.
        task: The task.
        settings: What is changed, and how.
        store: Keeps what was generated.
        sampling: Options of generation, see `grace_st.encode_with_rationales`.
        progress: Called with the number of texts whose rationale has just been written.

    Raises:
        ValueError: The model has another engine or writes empty rationales, or a role has a single text.
    """
    for role in task.roles:
        if len(set(role.texts)) < 2:
            raise ValueError(
                f"{task.name} has {len(set(role.texts))} different {role.name}, and rationales are swapped among two "
                "at least: use more data"
            )
    module = grace_module(model)
    sides = [_written(model, role, store, sampling or {}, progress) for role in task.roles]
    rationales = [ids for side in sides for ids in side.rationales]
    longest = max(map(len, rationales))
    if longest == 0:
        raise ValueError(
            f"the model has written no rationale for any text of {task.name}, so there is nothing to change"
        )
    asking = sides if settings.side == "both" else sides[:1]
    intact = {side.role.name: side.spread(side.vectors) for side in sides}
    reference = task.outcome(intact)
    allowed = ordinary_tokens(module.tokenizer, module.vocabulary_size, module.config.eos_token_ids)

    def effect(
        name: str, changed: Callable[[_Side], tuple[list[Ids], np.ndarray]], budget: int | None = None
    ) -> Effect:
        made = [(side, *changed(side)) for side in asking]
        vectors = {**intact, **{side.role.name: side.spread(vectors) for side, _, vectors in made}}
        outcome: Outcome = task.outcome(vectors)
        pairs = [(old, new) for side, ids, _ in made for old, new in zip(side.rationales, ids, strict=True)]
        similar = np.concatenate([cosines(vectors, side.vectors) for side, _, vectors in made])
        return Effect(
            name=name,
            budget=budget,
            tokens=float(np.mean([len(new) for _, new in pairs])),
            changed=float(np.mean([old != new for old, new in pairs])),
            score=interval(outcome, resamples=settings.resamples),
            difference=difference(outcome, reference, resamples=settings.resamples),
            cosine=float(similar.mean()),
        )

    def embedded(change: Callable[[_Side], list[Ids]]) -> Callable[[_Side], tuple[list[Ids], np.ndarray]]:
        def both(side: _Side) -> tuple[list[Ids], np.ndarray]:
            ids = change(side)
            prompt = side.role.instruction
            found = encode_with_rationales(model, side.texts, rationales=ids, prompt=prompt)
            return ids, np.stack([encoding.embedding for encoding in found])

        return both

    def order(side: _Side) -> list[Ids]:
        rows = zip(side.texts, side.rationales, side.ends, strict=True)
        return [shuffled(ids, ends, f"{settings.seed}/{text}") for text, ids, ends in rows]

    def swap(side: _Side) -> list[Ids]:
        chosen = donors(len(side.texts), f"{settings.seed}/{side.role.name}")
        return [side.rationales[donor] for donor in chosen]

    def noise(side: _Side) -> list[Ids]:
        rows = zip(side.texts, side.rationales, strict=True)
        return [random_tokens(len(ids), allowed, f"{settings.seed}/{text}") for text, ids in rows]

    budgets = _budgets(settings.budgets, longest)
    for side in asking:
        side.prefixes = _prefixes(model, side, budgets)

    def prefix(place: int) -> Callable[[_Side], tuple[list[Ids], np.ndarray]]:
        return lambda side: ([ids[: budgets[place]] for ids in side.rationales], side.prefixes[place])

    return TaskResult(
        task=task.name,
        kind=task.kind,
        metric=task.metric,
        items=reference.items,
        texts=len(rationales),
        tokens=float(np.mean([len(ids) for ids in rationales])),
        sentences=float(np.mean([len(ends) for side in sides for ends in side.ends])),
        finished=float(np.mean([done for side in sides for done in side.finished])),
        score=interval(reference, resamples=settings.resamples),
        effects=(
            effect(DROPPED, prefix(0)),
            effect(SHUFFLED, embedded(order)),
            effect(SWAPPED, embedded(swap)),
            effect(RANDOM, embedded(noise)),
        ),
        curve=tuple(effect("cut", prefix(place), budget) for place, budget in enumerate(budgets)),
    )


def _budgets(given: tuple[int, ...] | None, longest: int) -> list[int]:
    """Numbers of tokens from 0 to the longest rationale."""
    if given is None:
        powers, budget = [0], 4
        while budget < longest:
            powers.append(budget)
            budget *= 2
        return [*powers, longest]
    return [0, *(budget for budget in given if 0 < budget < longest), longest]


def _written(
    model: GraceModel,
    role: Role,
    store: RationaleStore | None,
    sampling: Mapping[str, Any],
    progress: Progress | None,
) -> _Side:
    texts = list(dict.fromkeys(role.texts))
    places = {text: place for place, text in enumerate(texts)}
    encodings = encode_with_rationales(
        model, texts, prompt=role.instruction, store=store, progress=progress, **sampling
    )
    tokenizer = grace_module(model).tokenizer
    return _Side(
        role=role,
        texts=texts,
        owners=[places[text] for text in role.texts],
        rationales=[tuple(encoding.rationale_ids) for encoding in encodings],
        finished=[encoding.finished for encoding in encodings],
        ends=[sentence_ends(token_pieces(tokenizer, encoding.rationale_ids)) for encoding in encodings],
        vectors=np.stack([encoding.embedding for encoding in encodings]),
    )


def _prefixes(model: GraceModel, side: _Side, budgets: Sequence[int]) -> np.ndarray:
    """``[budgets, texts, d]`` vectors of the first tokens of each rationale, from one forward pass."""
    module = grace_module(model)
    if not isinstance(module.engine, TorchEngine):
        raise ValueError('faithfulness needs the states of given rationales: load the model with engine="torch"')
    instruction = instruction_of(model, side.role.instruction, None)
    prompts = module.prompts_of(side.texts, instruction)
    vectors: torch.Tensor = embed_prefixes(module.engine, prompts, side.rationales, budgets)
    # As rollouts, which is what later modules (a projection, say) are handed.
    flat = through_later_modules(model, [Rollout((), None, vector) for vector in vectors.flatten(0, 1)])
    return flat.reshape(len(budgets), len(side.texts), -1)
