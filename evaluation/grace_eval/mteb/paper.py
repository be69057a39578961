"""Which of the paper's figures, which are in `grace_st.cards.paper`, belong beside the scores of a benchmark."""

from __future__ import annotations

from grace_st.cards.paper import ALGORITHMS, SUPERVISED, UNSUPERVISED, PaperRow


def rows_for(benchmark: str) -> tuple[PaperRow, ...]:
    """The rows that were measured on a benchmark: none, unless it is the paper's 56 or 16 tasks."""
    if benchmark in ("eng-v1", "MTEB(eng, v1)"):
        return (*SUPERVISED, *UNSUPERVISED)
    return ALGORITHMS if benchmark == "grace16" else ()
