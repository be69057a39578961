"""Changes of rationales, sentence ends, intervals and graded ranking: pure functions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import ndcg_score

import grace_st
from grace_eval.faithfulness.intervals import MeanOutcome, SpearmanOutcome, difference, interval, score_of
from grace_eval.faithfulness.interventions import cut, donors, random_tokens, shuffled
from grace_eval.faithfulness.ranking import graded_ndcg
from grace_eval.faithfulness.sentences import ordinary_tokens, sentence_ends, token_pieces
from grace_train.retrieval import estimate, retrieval_scores
from tests import tiny

rationales = st.lists(st.integers(0, 50), max_size=30)
seeds = st.integers(0, 10**6)


@given(rationales, st.integers(0, 40))
def test_cut_keeps_the_first_tokens(rationale: list[int], tokens: int) -> None:
    kept = cut(rationale, tokens)
    assert len(kept) == min(tokens, len(rationale)) and list(kept) == rationale[: len(kept)]


@given(st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=5), min_size=1, max_size=6), seeds)
def test_shuffled_moves_whole_sentences_and_never_leaves_their_order(sentences: list[list[int]], seed: int) -> None:
    # Each token knows its sentence, so that sentences can be read back.
    marked = [[100 * place + token for token in sentence] for place, sentence in enumerate(sentences)]
    rationale = [token for sentence in marked for token in sentence]
    ends = list(np.cumsum([len(sentence) for sentence in marked]))
    found = shuffled(rationale, ends, seed)
    assert found == shuffled(rationale, ends, seed)
    order = list(dict.fromkeys(token // 100 for token in found))
    assert [token for place in order for token in marked[place]] == list(found)
    assert sorted(order) == list(range(len(marked)))
    assert (order == sorted(order)) == (len(marked) == 1)


def test_shuffled_refuses_ends_that_leave_tokens_out() -> None:
    assert shuffled([], [], 0) == ()
    for ends in ([], [2], [3, 2], [1, 4]):
        with pytest.raises(ValueError, match="must cover the 3 tokens"):
            shuffled([1, 2, 3], ends, 0)


@given(st.integers(2, 40), seeds)
def test_donors_are_others_and_each_gives_once(count: int, seed: int) -> None:
    found = donors(count, seed)
    assert sorted(found) == list(range(count)) and all(donor != own for own, donor in enumerate(found))
    assert found == donors(count, seed)


@given(st.integers(0, 60), st.lists(st.integers(0, 99), min_size=1, max_size=20), seeds)
def test_random_tokens_have_the_length_and_are_allowed(count: int, allowed: list[int], seed: int) -> None:
    found = random_tokens(count, allowed, seed)
    assert len(found) == count and set(found) <= set(allowed) and found == random_tokens(count, allowed, seed)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: cut([1], -1), "0 tokens or more, got -1"),
        (lambda: donors(1, 0), "two texts or more, got 1"),
        (lambda: random_tokens(3, [], 0), "no tokens to draw from"),
    ],
)
def test_what_cannot_be_done_is_refused(call: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()  # type: ignore[operator]


# ---------------------------------------------------------------- sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", 0),
        ("No stop at all", 1),
        ("One. Two! Three? Four", 4),
        ("It is 3.14 and v1.2 works.", 1),
        ('He said "go." Then he went.', 2),
        ("- one\n- two\n\n- three", 3),
        ("...", 1),
        ("Wait... what? Yes!", 3),
        ("\n\nStarts late. Ends.\n", 2),
        ("First one。Second one。", 2),
    ],
)
def test_where_sentences_end(text: str, sentences: int) -> None:
    tokenizer = tiny.tokenizer()
    ids = tokenizer.encode(text)
    pieces = token_pieces(tokenizer, ids)
    ends = sentence_ends(pieces)
    assert len(ends) == sentences
    assert ends == sorted(set(ends)) and (ends[-1:] or [0]) == [len(ids)]


@given(st.lists(st.sampled_from([" a", "b.", " C", ".", "\n", "!", " 3", "。", '"', ""]), max_size=20))
def test_sentences_cover_all_tokens(pieces: list[str]) -> None:
    ends = sentence_ends(pieces)
    assert ends == sorted(set(ends)) and (ends[-1:] or [0]) == [len(pieces)]


def test_ordinary_tokens_are_neither_special_nor_added_nor_reserved() -> None:
    tokenizer = tiny.tokenizer()
    found = ordinary_tokens(tokenizer, 300, [260])
    assert set(found) < set(range(300)) and 260 not in found
    assert not set(found) & {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    assert len(found) > 200


# ---------------------------------------------------------------- intervals


def test_an_interval_of_a_mean_is_the_one_of_training() -> None:
    values = np.random.default_rng(3).random(70)
    assert interval(MeanOutcome(values), seed=5) == estimate(values, seed=5)


def test_spearman_is_scipys_also_with_ties_and_in_each_selection() -> None:
    generator = np.random.default_rng(0)
    found, wanted = generator.integers(0, 6, 40).astype(float), generator.integers(0, 4, 40).astype(float)
    outcome = SpearmanOutcome(found, wanted)
    chosen = generator.integers(0, 40, size=(5, 40))
    expected = [spearmanr(found[row], wanted[row])[0] for row in chosen]
    assert outcome.scores(chosen) == pytest.approx(expected, abs=1e-12)
    assert score_of(SpearmanOutcome(np.ones(5), np.arange(5.0))) == 0


def test_a_difference_is_paired_by_item() -> None:
    generator = np.random.default_rng(0)
    before = generator.random(200)
    after = before - 0.1 + 0.001 * generator.standard_normal(200)
    found = difference(MeanOutcome(after), MeanOutcome(before))
    assert found.low < -0.0995 < found.high + 0.001 and found.high - found.low < 0.001  # unpaired: about 0.1
    assert difference(MeanOutcome(before), MeanOutcome(before)).high == 0
    with pytest.raises(ValueError, match="3 items cannot be paired with 200"):
        difference(MeanOutcome(np.ones(3)), MeanOutcome(before))


# ---------------------------------------------------------------- ranking


@settings(max_examples=30)
@given(st.integers(1, 8), st.integers(1, 30), seeds)
def test_ndcg_of_binary_relevance_is_the_one_of_training(queries: int, documents: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    # Few different values: ties must come out the same.
    first, second = (generator.integers(-1, 2, size=(count, 3)) for count in (queries, documents))
    relevant = [sorted(set(generator.integers(0, documents, 3).tolist())) for _ in range(queries)]
    expected = retrieval_scores(first, second, relevant).ndcg
    found = graded_ndcg(first, second, [dict.fromkeys(own, 1.0) for own in relevant])
    assert found == pytest.approx(expected, abs=1e-12)


def test_ndcg_of_graded_relevance_is_scikit_learns() -> None:
    generator = np.random.default_rng(1)
    queries, documents = generator.standard_normal((6, 5)), generator.standard_normal((40, 5))
    grades = generator.integers(0, 4, size=(6, 40)).astype(float)
    unit = [vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (queries, documents)]
    expected = [ndcg_score(grades[[row]], (unit[0][[row]] @ unit[1].T), k=10) for row in range(6)]
    relevance = [dict(enumerate(row)) for row in grades.tolist()]
    assert graded_ndcg(queries, documents, relevance) == pytest.approx(expected, abs=1e-12)


def test_a_document_that_does_not_count_takes_no_place() -> None:
    queries = np.array([[1.0, 0.0]])
    documents = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    assert graded_ndcg(queries, documents, [{1: 1.0}], [0]).tolist() == [1.0]
    assert graded_ndcg(queries, documents, [{1: 1.0}])[0] < 1


def test_nothing_of_the_bundled_tokenizer_is_random_text_that_ends_a_rationale() -> None:
    model = grace_st.load(grace_st.nano_path(), device="cpu")
    module = model[0]
    assert isinstance(module, grace_st.GenerateThenPool)
    found = ordinary_tokens(module.tokenizer, module.vocabulary_size, module.config.eos_token_ids)
    assert not set(found) & set(module.config.eos_token_ids) and len(found) > 2500
