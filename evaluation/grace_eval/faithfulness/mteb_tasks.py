"""Tasks of MTEB, of the kinds retrieval, STS and classification: their data as texts in roles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mteb.abstasks import AbsTask
from mteb.abstasks.classification import AbsTaskClassification
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.sts import AbsTaskSTS
from mteb.types import PromptType

from grace_eval.faithfulness.tasks import ClassificationTask, PairTask, RetrievalTask, Role, Task, drawn_samples
from grace_eval.mteb import data
from grace_eval.mteb.benchmarks import select_tasks
from grace_st.mteb.instructions import Instructions, prompt_for

KINDS = ("Retrieval", "STS", "Classification")


class UnsupportedTaskError(ValueError):
    """A task that faithfulness is not measured on."""


def select(names: Sequence[str]) -> list[AbsTask]:
    """The tasks of these names, see `grace_eval.mteb.benchmarks.select_tasks`. Nothing is loaded yet.

    Raises:
        UnsupportedTaskError: A task is of another kind, or has several splits or subsets.
        grace_eval.mteb.benchmarks.UnknownTaskError: A name is no task.
    """
    tasks = list(select_tasks(names).tasks)
    for task in tasks:
        name, kind = task.metadata.name, task.metadata.type
        if kind not in KINDS or not isinstance(task, (AbsTaskRetrieval, AbsTaskSTS, AbsTaskClassification)):
            raise UnsupportedTaskError(
                f"faithfulness is measured on tasks of the kinds {', '.join(KINDS)}, and {name} is of the kind {kind}"
            )
        if len(task.hf_subsets) > 1 or len(task.eval_splits) > 1:
            raise UnsupportedTaskError(
                f"{name} has {len(task.hf_subsets)} subsets and {len(task.eval_splits)} splits, and faithfulness is "
                f"measured on one of each: name a subset, as in {name}:{task.hf_subsets[0]}"
            )
        if isinstance(task, AbsTaskClassification) and task.is_cross_validation:
            raise UnsupportedTaskError(f"{name} is scored by cross-validation, which is not measured here")
    return tasks


def load(
    task: AbsTask,
    *,
    instructions: Instructions = "model",
    prompts: dict[str, str] | None = None,
    cache: Path | None = None,
) -> Task:
    """The data of a task.

    Args:
        task: One that `select` gave, with local data if it has some.
        instructions: What goes before a text, see `grace_st.mteb.Instructions`.
        prompts: Those of the model folder.
        cache: Where `datasets` prepares local data; None is its own place.

    Raises:
        RuntimeError: The data have not the columns that mteb's own evaluation reads.
    """
    with data.datasets_cache(cache):
        task.load_data()
    try:
        return _read(task, instructions, prompts or {})
    finally:
        task.unload_data()


def _read(task: AbsTask, instructions: Instructions, prompts: dict[str, str]) -> Task:
    def role(name: str, texts: Sequence[str], side: PromptType | None) -> Role:
        return Role(name, tuple(texts), prompt_for(instructions, task.metadata, side, prompts))

    subset, split = task.hf_subsets[0], task.eval_splits[0]
    if isinstance(task, AbsTaskRetrieval):
        return _retrieval(task, subset, split, role)
    loaded: Any = task.dataset
    rows = loaded.get(subset, loaded)
    name = task.metadata.name
    if isinstance(task, AbsTaskSTS):
        first, second = (str(column) for column in task.column_names)
        part = rows[split]
        return PairTask(
            name=name,
            roles=(
                role("first", part[first], task.input1_prompt_type),
                role("second", part[second], task.input2_prompt_type),
            ),
            judged=tuple(float(score) for score in part["score"]),
        )
    assert isinstance(task, AbsTaskClassification)
    texts, labels = str(task.input_column_name), task.label_column_name
    train, test = rows[task.train_split], rows[split]
    drawn = drawn_samples(
        list(train[labels]), draws=task.n_experiments, per_label=task.samples_per_label, seed=task.seed
    )
    union = sorted({index for draw in drawn for index in draw})
    place = {index: position for position, index in enumerate(union)}
    classifier = task.evaluator_model
    if "random_state" in classifier.get_params():
        classifier = classifier.set_params(random_state=task.seed)
    return ClassificationTask(
        name=name,
        roles=(role("test", list(test[texts]), None), role("train", [train[index][texts] for index in union], None)),
        test_labels=tuple(test[labels]),
        train_labels=tuple(train[index][labels] for index in union),
        draws=tuple(tuple(place[index] for index in draw) for draw in drawn),
        classifier=classifier,
    )


def _retrieval(task: AbsTaskRetrieval, subset: str, split: str, role: Any) -> RetrievalTask:
    task.convert_v1_dataset_format_to_v2(None)
    part = task.dataset[subset][split]
    corpus = part["corpus"]
    places = {str(row["id"]): index for index, row in enumerate(corpus)}
    wanted = {str(query): own for query, own in part["relevant_docs"].items()}
    texts, relevance, left_out = [], [], []
    for row in part["queries"]:
        own = {
            places[str(doc)]: float(score)
            for doc, score in wanted.get(str(row["id"]), {}).items()
            if str(doc) in places
        }
        if not any(score > 0 for score in own.values()):
            continue  # as mteb: a query without a relevant document cannot be scored
        if row.get("instruction"):
            raise UnsupportedTaskError(
                f"{task.metadata.name} has an instruction for each query, which is not read here"
            )
        texts.append(row["text"])
        relevance.append(own)
        left_out.append(places.get(str(row["id"])) if task.ignore_identical_ids else None)
    return RetrievalTask(
        name=task.metadata.name,
        roles=(
            role("queries", texts, PromptType.query),
            role("documents", [_document(row) for row in corpus], PromptType.document),
        ),
        relevance=tuple(relevance),
        left_out=tuple(left_out),
    )


def _document(row: dict[str, Any]) -> str:
    """A corpus entry as mteb hands it to a model: title and text in one."""
    title, text = row.get("title") or "", row["text"]
    return f"{title} {text}".strip() if title else str(text).strip()
