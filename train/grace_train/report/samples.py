"""What the policy writes about a few texts as training goes on, for machines and for people."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from grace_st.surrogates import encodable
from grace_train.files import write_atomically
from grace_train.report.jsonl import StepFile

SAMPLES_NAME = "rationales.jsonl"
PAGE_NAME = "rationales.md"

_WIDTH = 100
_LEFT_OUT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class SampleLog:
    """Writes rationales of the sample texts down.

    ``rationales.jsonl`` gets a line for each text and step: ``{"step", "text", "rationale", "finished"}``.
    ``rationales.md`` shows the same by text, to be read from top to bottom.

    Args:
        folder: The run's folder; made when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self._file = StepFile(folder / SAMPLES_NAME)
        self._page = folder / PAGE_NAME
        self._records: list[dict[str, Any]] = []

    def continue_from(self, step: int) -> None:
        """Go on after ``step``, the last one that is done: what was written of later steps is dropped."""
        self._records = self._file.continue_from(step)
        if self._records:
            self._write_page()

    def record(self, step: int, texts: Sequence[str], rationales: Sequence[str], finished: Sequence[bool]) -> None:
        """Write the rationales of a step down.

        Args:
            step: The step they were written after.
            texts: The sample texts.
            rationales: One for each text.
            finished: For each text, whether the rationale ended by itself.

        Raises:
            FileExistsError: The folder holds the samples of another run, and `continue_from` was not called.
            ValueError: The three are not of one length.
        """
        if not len(texts) == len(rationales) == len(finished):
            raise ValueError(
                f"texts, rationales and finished must be of one length, got {len(texts)}, {len(rationales)} and "
                f"{len(finished)}"
            )
        records: list[dict[str, Any]] = [
            {"step": step, "text": text, "rationale": rationale, "finished": bool(ended)}
            for text, rationale, ended in zip(texts, rationales, finished, strict=True)
        ]
        self._file.append(records)
        self._records += records
        self._write_page()

    def _write_page(self) -> None:
        page = encodable(rationales_page(self._records))
        write_atomically(self._page, lambda temporary: temporary.write_text(page, encoding="utf-8"))


def rationales_page(records: Iterable[dict[str, Any]]) -> str:
    """Records of ``rationales.jsonl`` as a Markdown page, by text in the order of their first record.

    Texts and rationales stand in code blocks, so that nothing in them is taken for Markdown or HTML, with lines
    broken at 100 characters. Steps in a row with the same rationale stand together.
    """
    by_text: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        by_text.setdefault(record["text"], []).append(record)
    lines = ["# Rationales during training", ""]
    for number, (text, own) in enumerate(by_text.items(), start=1):
        lines += [f"## Text {number}", "", *_block(text)]
        for _, group in groupby(own, key=lambda record: (record["rationale"], record["finished"])):
            same = list(group)
            first, last = same[0]["step"], same[-1]["step"]
            steps = f"Step {first}" if first == last else f"Steps {first} to {last}, unchanged"
            ending = "" if same[0]["finished"] else " (cut off at the limit)"
            lines += [f"**{steps}**{ending}", "", *_block(same[0]["rationale"])]
    return "\n".join(lines)


def _block(text: str) -> list[str]:
    if not text.strip():
        return ["*(empty)*", ""]
    text = _LEFT_OUT.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))
    # A fence ends at a line of at least as many backticks.
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    lines = [textwrap.wrap(line, _WIDTH, break_on_hyphens=False) or [""] for line in text.split("\n")]
    return [f"{fence}text", *(part for line in lines for part in line), fence, ""]
