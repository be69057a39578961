"""Explaining similarities: a cosine split exactly into shares of the sentences of texts and rationales.

`explain_pair` and `explain_ranking` also work on stock `SentenceTransformer` objects; `GraceModel` has both as methods.
"""

from grace_st.explain.explainer import explain_pair, explain_ranking
from grace_st.explain.explanation import ExplainedText, Explanation, SpanPair
from grace_st.explain.ranking import DocumentId, RankedDocument, RankingExplanation
from grace_st.explain.spans import Span

__all__ = [
    "DocumentId",
    "ExplainedText",
    "Explanation",
    "RankedDocument",
    "RankingExplanation",
    "Span",
    "SpanPair",
    "explain_pair",
    "explain_ranking",
]
