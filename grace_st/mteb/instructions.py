"""Which instruction goes before a text of an MTEB task. Documents of a search never get one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from mteb.abstasks.abstask import get_abstask_prompt
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models.abs_encoder import get_prompt
from mteb.types import PromptType

Instructions = Literal["model", "task", "none"]
"""``"model"``: the prompts of the model folder (none, unless someone put them there), as sentence-transformers does.
``"task"``: what mteb says about the task, before queries and before the texts of tasks without documents.
``"none"``: none, whatever the folder says."""

INSTRUCTIONS: tuple[str, ...] = get_args(Instructions)

TEMPLATE = "Instruct: {instruction}\nQuery: "
"""How an instruction of a task is written, as instruction-tuned embedders (E5, Qwen3) do."""


def check_instructions(value: str) -> None:
    """Refuse an unknown kind.

    Raises:
        ValueError: Names the kinds.
    """
    if value not in INSTRUCTIONS:
        raise ValueError(f"instructions must be one of {', '.join(map(repr, INSTRUCTIONS))}, got {value!r}")


def task_instruction(metadata: TaskMetadata, prompt_type: PromptType | None) -> str | None:
    """What mteb says about a task, where it applies to these texts.

    mteb's own `get_task_instruction` gives a task's only string for documents as well (SciDocsRR), and a dictionary
    where no side is named (SciFact): neither may reach a text.

    Args:
        metadata: The task's.
        prompt_type: Queries, documents, or None where a task has one kind of text.

    Returns:
        The instruction, or None.
    """
    if prompt_type == PromptType.document:
        return None
    said = metadata.prompt
    if isinstance(said, dict):
        # Without a side these may be documents, so a query's instruction would be wrong for some of them.
        return said.get("query") or None if prompt_type == PromptType.query else None
    return said or get_abstask_prompt(metadata.name) or None


def prompt_for(
    kind: Instructions,
    metadata: TaskMetadata,
    prompt_type: PromptType | None,
    prompts: Mapping[str, str | None],
    template: str = TEMPLATE,
) -> str | None:
    """What goes before each text.

    Args:
        kind: See `Instructions`.
        metadata: The task's.
        prompt_type: Queries, documents, or None.
        prompts: The model's own prompts, by name.
        template: How a task's instruction is written; has ``{instruction}``.

    Returns:
        The prompt; empty where there is none. None leaves it to the model's ``default_prompt_name``, as
        sentence-transformers does where no name fits; a document is never left to it.
    """
    if kind == "none":
        return ""
    if kind == "model":
        found = get_prompt({name: text for name, text in prompts.items() if text}, metadata, prompt_type)
        return "" if found is None and prompt_type == PromptType.document else found
    instruction = task_instruction(metadata, prompt_type)
    return "" if instruction is None else template.replace("{instruction}", instruction)
