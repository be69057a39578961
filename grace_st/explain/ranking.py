"""RankingExplanation: why documents stand in this order for a query. Data, and the sums that views show."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from grace_st.explain.explanation import FORMAT_VERSION, ExplainedText, Explanation

DocumentId = str | int | float | bool | None


@dataclass(frozen=True, kw_only=True, eq=False)
class RankedDocument:
    """A document among the first.

    Attributes:
        rank: Its place, from 1.
        index: Its place in the list that was given, from 0.
        id: Its id, where ids were given; else its index.
        prompt_rank: Its place among all documents without rationales.
        explanation: The query (``a``) against the document (``b``).
    """

    rank: int
    index: int
    id: DocumentId
    prompt_rank: int
    explanation: Explanation


@dataclass(frozen=True, kw_only=True, eq=False)
class RankingExplanation:
    """Why the first documents are the first.

    Attributes:
        documents: The first documents, best first; at least one.
        count: How many documents were ranked.
    """

    documents: tuple[RankedDocument, ...]
    count: int

    @property
    def query(self) -> ExplainedText:
        """The query, whose spans are the same in all explanations."""
        return self.documents[0].explanation.a

    def query_shares(self) -> np.ndarray:
        """``[K, A]``: for each document, the shares of the query's spans; a row adds up to its cosine."""
        return np.stack([document.explanation.shares_a for document in self.documents])

    def lead(self, over: int = 1) -> np.ndarray:
        """Why the first document is ahead of another.

        Args:
            over: Index of the other one in ``documents``.

        Returns:
            ``[A]``: by how much the share of each of the query's spans is larger with the first document. They add up
            to the difference of the two cosines.
        """
        shares = self.query_shares()
        difference: np.ndarray = shares[0] - shares[over]
        return difference

    def to_dict(self) -> dict[str, Any]:
        """Everything as values that JSON has; numbers are not rounded, so that they still add up."""
        return {
            "format_version": FORMAT_VERSION,
            "count": self.count,
            "documents": [
                {
                    "rank": document.rank,
                    "index": document.index,
                    "id": document.id,
                    "prompt_rank": document.prompt_rank,
                    "explanation": document.explanation.to_dict(),
                }
                for document in self.documents
            ],
            "lead": [self.lead(over).tolist() for over in range(1, len(self.documents))],
        }

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    def to_html(self) -> str:
        """A page of its own: one HTML document that loads nothing."""
        from grace_st.explain.page import ranking_page

        return ranking_page(self)
