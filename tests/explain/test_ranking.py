"""A query against ranked documents."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import grace_st
from grace_st.cli.demo_texts import DEMO_TEXTS

QUERY = "The land has its government in Cairo and is proud of the pyramids of Giza."
DOCUMENTS = [text.text for text in DEMO_TEXTS if text.answer is None]


@pytest.fixture(scope="module")
def model() -> grace_st.GraceModel:
    return grace_st.load(grace_st.nano_path())


@pytest.fixture(scope="module")
def ranking(model: grace_st.GraceModel) -> grace_st.RankingExplanation:
    return model.explain_ranking(QUERY, DOCUMENTS, top_k=3, ids=[f"d{i}" for i in range(6)])


def _cosines(model: grace_st.GraceModel, **options: Any) -> np.ndarray:
    vectors = model.encode_query([QUERY], **options), model.encode_document(DOCUMENTS, **options)
    cosines: np.ndarray = model.similarity(*vectors)[0].numpy()
    return cosines


def test_the_order_is_that_of_encode(model: grace_st.GraceModel, ranking: grace_st.RankingExplanation) -> None:
    cosines = _cosines(model)
    order = np.argsort(-cosines)[:3].tolist()
    assert [document.index for document in ranking.documents] == order
    assert [document.id for document in ranking.documents] == [f"d{index}" for index in order]
    assert [document.rank for document in ranking.documents] == [1, 2, 3]
    assert DOCUMENTS[order[0]].startswith("Egypt")
    for document in ranking.documents:
        assert document.explanation.cosine == pytest.approx(cosines[document.index], abs=1e-5)
        assert document.explanation.b.text == DOCUMENTS[document.index]
    plain = np.argsort(-_cosines(model, max_new_tokens=0)).tolist()
    assert plain[0] != order[0]  # so that the two ranks cannot be taken for one another
    assert [document.prompt_rank - 1 for document in ranking.documents] == [plain.index(index) for index in order]
    assert ranking.count == 6


def test_the_query_s_shares_add_up_to_cosines_and_leads(ranking: grace_st.RankingExplanation) -> None:
    cosines = [document.explanation.cosine for document in ranking.documents]
    assert np.allclose(ranking.query_shares().sum(axis=1), cosines, atol=1e-6)
    for over in (1, 2):
        assert ranking.lead(over).sum() == pytest.approx(cosines[0] - cosines[over], abs=1e-6)
    assert ranking.query.text == QUERY
    assert len(ranking.query.spans) == ranking.query_shares().shape[1]


def test_json(ranking: grace_st.RankingExplanation) -> None:
    told = json.loads(ranking.to_json())
    assert [document["id"] for document in told["documents"]] == [document.id for document in ranking.documents]
    first, second = (document["explanation"] for document in told["documents"][:2])
    assert sum(told["lead"][0]) == pytest.approx(first["cosine"] - second["cosine"], abs=1e-6)


def test_few_documents_equal_ones_and_no_rationales(grace_folder: Callable[..., Path]) -> None:
    model = grace_st.load(grace_folder(max_new_tokens=4))
    (only,) = model.explain_ranking("a", ["b"]).documents
    assert (only.rank, only.index, only.id, only.prompt_rank) == (1, 0, 0, 1)
    equal = model.explain_ranking("a", ["same", "same", "same"], top_k=2, max_new_tokens=0)
    assert [(document.index, document.prompt_rank) for document in equal.documents] == [(0, 1), (1, 2)]
    assert not equal.lead().any()


def test_instructions_are_those_of_encode_query_and_encode_document(grace_folder: Callable[..., Path]) -> None:
    model = grace_st.load(grace_folder(max_new_tokens=4), prompts={"query": "Find: ", "passage": "Read: "})
    vectors = model.encode_query(["a"]), model.encode_document(["b"])
    (document,) = model.explain_ranking("a", ["b"]).documents
    assert document.explanation.cosine == pytest.approx(model.similarity(*vectors).item(), abs=1e-5)
    vectors = model.encode(["a"], prompt="Q "), model.encode(["b"], prompt="D ")
    (document,) = model.explain_ranking("a", ["b"], query_prompt="Q ", document_prompt="D ").documents
    assert document.explanation.cosine == pytest.approx(model.similarity(*vectors).item(), abs=1e-5)


@pytest.mark.parametrize(
    ("query", "documents", "options", "message"),
    [
        (None, ["b"], {}, "the query must be a string, got NoneType"),
        ("a", [], {}, "at least one string, got none"),
        ("a", "b", {}, "got a single string"),
        ("a", ["b", 3], {}, "text 1 must be a string, got int"),
        ("a", ["b"], {"ids": [1, 2]}, "one id for each of the 1 documents, got 2"),
        ("a", ["b"], {"top_k": 0}, "top_k must be an integer >= 1, got 0"),
        ("a", ["b"], {"top_k": True}, "top_k must be an integer >= 1, got True"),
    ],
)
def test_wrong_arguments(
    model: grace_st.GraceModel, query: Any, documents: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model.explain_ranking(query, documents, **options)
