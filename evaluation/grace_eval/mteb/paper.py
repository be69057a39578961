"""Which of the paper's figures a benchmark has. They are in `grace_st.cards.paper`: model cards quote them too."""

from __future__ import annotations

from grace_st.cards.paper import ALGORITHMS, COLUMNS, GENERAL, GENERAL_COLUMNS, SUPERVISED, UNSUPERVISED, PaperRow

__all__ = [
    "ALGORITHMS",
    "COLUMNS",
    "GENERAL",
    "GENERAL_COLUMNS",
    "SUPERVISED",
    "UNSUPERVISED",
    "PaperRow",
    "rows_for",
]


def rows_for(benchmark: str) -> tuple[PaperRow, ...]:
    """The rows that were measured on a benchmark: none, unless it is the paper's 56 or 16 tasks."""
    if benchmark in ("eng-v1", "MTEB(eng, v1)"):
        return (*SUPERVISED, *UNSUPERVISED)
    return ALGORITHMS if benchmark == "grace16" else ()
