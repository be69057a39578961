"""Which tasks of lm-evaluation-harness, what of their results counts, and which data sets they read."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grace_eval.files import write_whole

STAND_IN = "stand-in"


@dataclass(frozen=True, kw_only=True)
class GeneralTask:
    """A column of Table 5.

    Attributes:
        label: As the paper has it.
        task: Name of the task or group of tasks.
        metric: The figure of its results that counts, as ``METRIC,FILTER``.
        dataset: Its data set on the hub.
        unsafe: It runs code that the model writes.
    """

    label: str
    task: str
    metric: str
    dataset: str
    unsafe: bool = False


PAPER = (
    GeneralTask(label="GSM8K", task="gsm8k", metric="exact_match,flexible-extract", dataset="openai/gsm8k"),
    GeneralTask(label="MMLU", task="mmlu", metric="acc,none", dataset="cais/mmlu"),
    GeneralTask(
        label="TriviaQA", task="triviaqa", metric="exact_match,remove_whitespace", dataset="mandarjoshi/trivia_qa"
    ),
    GeneralTask(label="FEVER", task="grace_fever", metric="acc,none", dataset="copenlu/fever_gold_evidence"),
    GeneralTask(label="BBH", task="bbh", metric="exact_match,get-answer", dataset="SaylorTwift/bbh"),
    GeneralTask(
        label="HumanEval",
        task="humaneval_instruct",
        metric="pass@1,create_test",
        dataset="openai/openai_humaneval",
        unsafe=True,
    ),
)
"""Table 5."""

TASK_FOLDER = Path(__file__).parent / "tasks"
"""Our own task files."""

STAND_INS = {"Names (stand-in)": "acc,none", "Form (stand-in)": "exact_match,first"}
"""What smoke runs have in the place of these, by column."""

_ROWS = 12


def stand_in_tasks(folder: Path) -> list[dict[str, Any]]:
    """Two small tasks on the bundled model's own texts: which name a rationale begins with, and how it begins.

    Args:
        folder: Where their data are written.
    """
    path = folder / "names.jsonl"
    write_whole(path, "".join(json.dumps(row) + "\n" for row in _name_rows()))
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}},
        "test_split": "test",
        "doc_to_text": "{{text}}",
    }
    return [
        {
            **common,
            "task": "grace_names",
            "output_type": "multiple_choice",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "{{gold}}",
            "target_delimiter": "",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        },
        {
            **common,
            "task": "grace_form",
            "output_type": "generate_until",
            "doc_to_target": "<think>",
            "generation_kwargs": {"until": ["</think>"], "max_gen_toks": 16, "do_sample": False},
            "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
            "filter_list": [
                {
                    "name": "first",
                    "filter": [{"function": "regex", "regex_pattern": "^(<think>)"}, {"function": "take_first"}],
                }
            ],
        },
    ]


def _name_rows() -> list[dict[str, Any]]:
    from grace_train.nano.corpus import Corpus

    corpus, rows = Corpus(), []
    held_out = corpus.retrieval_set("dev")
    generator = random.Random("stand-in")
    for query, position in list(zip(held_out.queries, held_out.relevant, strict=True))[:_ROWS]:
        entity = corpus.entities[position]
        others = [other.bare_name for other in corpus.entities if other.category == entity.category and other != entity]
        names = [entity.bare_name, *generator.sample(others, 3)]
        order = generator.sample(range(4), 4)
        choices = [f"<think>This points to {names[place]}" for place in order]
        rows.append({"text": query, "choices": choices, "gold": order.index(0)})
    return rows
