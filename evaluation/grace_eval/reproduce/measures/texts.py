"""Queries and documents of a retrieval task, for measures that need texts and no scores."""

from __future__ import annotations

from typing import Any

from grace_eval.faithfulness.tasks import BUNDLED_TASKS, retrieval_task
from grace_eval.reproduce.measures.base import Subject


def mteb_tasks_of(name: str) -> list[Any]:
    """The task of MTEB of this name; none for a bundled one."""
    if name in BUNDLED_TASKS:
        return []
    from grace_eval.faithfulness.mteb_tasks import select

    return list(select([name]))


def retrieval_texts(name: str, subject: Subject) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """All queries and all documents.

    Args:
        name: A retrieval task of MTEB, or ``nano:dev``, ``nano:test``.
        subject: Tells where local data are.
    """
    if name in BUNDLED_TASKS:
        task: Any = retrieval_task(name)
    else:
        from grace_eval.faithfulness.mteb_tasks import load

        chosen, cache = subject.located(*mteb_tasks_of(name))
        task = load(chosen, instructions="none", cache=cache)
    queries, documents = (role.texts for role in task.roles)
    return queries, documents
