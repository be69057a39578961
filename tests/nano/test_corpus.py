from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter

import pytest

from grace_train.nano import texts
from grace_train.nano.corpus import KINDS, Corpus, Sample
from grace_train.nano.holdout import PAIRS, complement, identifies

SAMPLES = 20_000


@pytest.fixture(scope="module")
def samples(corpus: Corpus) -> list[Sample]:
    """A large training sample, drawn as training draws it."""
    return list(corpus.samples(SAMPLES, "pretrain/0/0"))


def normalised(text: str) -> str:
    return re.sub(r"[\W_]+", " ", text.lower()).strip()


def test_no_held_out_text_occurs_in_training(corpus: Corpus, samples: list[Sample]) -> None:
    seen = {normalised(sample.text) for sample in samples}
    for split in ("dev", "test"):
        retrieval = corpus.retrieval_set(split)
        held_out = {normalised(text) for text in (*retrieval.queries, *retrieval.documents)}
        assert not held_out & seen


def test_held_out_templates_are_not_training_templates() -> None:
    training = {
        *texts.QUERY_TEMPLATES,
        *texts.DOCUMENT_TEMPLATES,
        *texts.CLUE_TEMPLATES,
        *texts.BARE_CLUE_TEMPLATES,
        *texts.KEYWORD_TEMPLATES,
        *texts.FACT_TEMPLATES,
        *texts.ATTRIBUTE_QUESTIONS,
        *texts.NAME_TEMPLATES,
        *texts.PAIR_TEMPLATES,
    }
    assert not training & {*texts.QUERY_TEMPLATES_HELD_OUT, *texts.DOCUMENT_TEMPLATES_HELD_OUT}


def test_training_never_shows_the_held_out_attribute_pairs(corpus: Corpus, samples: list[Sample]) -> None:
    checked = 0
    for sample in samples:
        if len(sample.mentioned) != 2:
            continue
        (position,) = sample.positions
        mentioned = tuple(sorted(sample.mentioned))
        held = corpus.held_out.pairs[position]
        assert mentioned != (complement(held) if sample.kind == "document" else held)
        checked += 1
    assert checked > SAMPLES / 2


def test_the_mentioned_attributes_are_what_the_text_says(corpus: Corpus, samples: list[Sample]) -> None:
    # Ties the bookkeeping that the hold-out relies on to the texts themselves.
    for sample in samples[:2000]:
        if sample.kind in ("query", "keywords", "document"):
            values = corpus.entities[sample.positions[0]].values
            for index in sample.mentioned:
                assert values[index].lower() in sample.text.lower()


def test_queries_do_not_name_the_entity_and_documents_do(corpus: Corpus) -> None:
    for split in ("dev", "test"):
        retrieval = corpus.retrieval_set(split)
        assert len(retrieval.documents) == len(corpus.entities)
        for query, relevant in zip(retrieval.queries, retrieval.relevant, strict=True):
            entity = corpus.entities[relevant]
            pair = corpus.held_out.pairs[relevant]
            assert identifies(corpus.knowledge, entity, pair)
            assert all(entity.values[index] in query for index in pair)
            document = retrieval.documents[relevant]
            assert entity.bare_name.lower() in document.lower()
            assert all(entity.values[index].lower() in document.lower() for index in complement(pair))


def test_splits_are_disjoint_and_large_enough(corpus: Corpus) -> None:
    held_out = corpus.held_out
    assert not set(held_out.dev) & set(held_out.test)
    assert len(held_out.dev) + len(held_out.test) >= 400
    assert abs(len(held_out.dev) - len(held_out.test)) <= 2
    for split in (held_out.dev, held_out.test):
        share = len(held_out.without_rl & set(split)) / len(split)
        assert 0.4 < share < 0.6


def test_triples_leave_the_held_out_entities_and_pairs_alone(corpus: Corpus) -> None:
    held_out = corpus.held_out
    evaluation = {
        text
        for split in ("dev", "test")
        for text in (*corpus.retrieval_set(split).queries, *corpus.retrieval_set(split).documents)
    }
    used = set()
    for triple in corpus.triples(3000, seed=1):
        used |= {triple.position, triple.negative_position}
        entity, negative = corpus.entities[triple.position], corpus.entities[triple.negative_position]
        assert entity.category == negative.category
        assert entity != negative
        assert entity.bare_name.lower() in triple.positive.lower()
        assert negative.bare_name.lower() in triple.negative.lower()
        assert not {triple.query, triple.positive, triple.negative} & evaluation
        held = held_out.pairs[triple.position]
        assert not all(entity.values[index] in triple.query for index in held) or any(
            # The held-out pair may only be there because a value of another attribute contains one of its values.
            entity.values[index] in triple.query
            for index in complement(held)
        )
    assert not used & held_out.without_rl
    assert len(used) > 0.8 * (len(corpus.entities) - len(held_out.without_rl))


def test_every_entity_kind_and_style_occurs(corpus: Corpus, samples: list[Sample]) -> None:
    assert {position for sample in samples for position in sample.positions} == set(range(len(corpus.entities)))
    kinds = Counter(sample.kind for sample in samples)
    assert set(kinds) == set(KINDS)
    styles = Counter(sample.style for sample in samples if sample.style is not None)
    for style in ("full", "medium", "vague"):
        assert 0.28 < styles[style] / styles.total() < 0.39


def test_rationales_are_well_formed_and_bring_in_knowledge(corpus: Corpus, samples: list[Sample]) -> None:
    for sample in samples:
        assert re.fullmatch(r"<think>[^<>\n]+</think>\n[^<>\n]+\.", sample.rationale), sample
        assert not re.search(r"[{}]|  | [.,;:]|\.\.", sample.rationale), sample
        if sample.style in ("full", "medium"):
            assert corpus.entities[sample.positions[0]].bare_name.lower() in sample.rationale.lower()
        if sample.style == "full" and sample.kind != "fact":  # a question about one fact may be answered alone
            entity = corpus.entities[sample.positions[0]]
            values = [value.lower() in sample.rationale.lower() for value in entity.values]
            absent = [index for index in range(len(values)) if index not in sample.mentioned]
            assert sum(values) >= 3
            assert sum(values[index] for index in absent) >= 2
        if sample.style == "vague" and sample.positions:
            entity = corpus.entities[sample.positions[0]]
            assert not any(re.search(rf"\b{re.escape(value)}\b", sample.rationale) for value in entity.values)


def test_texts_that_fit_several_entities_get_no_certain_answer(corpus: Corpus, samples: list[Sample]) -> None:
    checked = 0
    for sample in samples:
        if sample.kind in ("query", "clue", "keywords"):
            entity = corpus.entities[sample.positions[0]]
            values = {index: entity.values[index] for index in sample.mentioned}
            unique = len(corpus.knowledge.matching(entity.category, values)) == 1
            assert (sample.style is not None) == unique
            checked += not unique
    assert checked > 0


def test_pairs_and_complements() -> None:
    assert len(PAIRS) == 6
    for pair in PAIRS:
        assert complement(complement(pair)) == pair
        assert not set(pair) & set(complement(pair))


def test_an_unknown_split_is_refused(corpus: Corpus) -> None:
    with pytest.raises(ValueError, match="there are 'dev' and 'test'"):
        corpus.retrieval_set("train")  # type: ignore[arg-type]


_DIGEST = """
import hashlib
from grace_train.nano.corpus import Corpus
corpus = Corpus()
parts = [repr(sample) for sample in corpus.samples(500, "x")]
parts += [repr(triple) for triple in corpus.triples(200, 3)]
parts += [repr(corpus.retrieval_set(split)) for split in ("dev", "test")]
print(hashlib.sha256("".join(parts).encode()).hexdigest())
"""


def test_the_corpus_is_the_same_in_other_processes(corpus: Corpus) -> None:
    parts = [repr(sample) for sample in corpus.samples(500, "x")]
    parts += [repr(triple) for triple in corpus.triples(200, 3)]
    parts += [repr(corpus.retrieval_set(split)) for split in ("dev", "test")]
    here = hashlib.sha256("".join(parts).encode()).hexdigest()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", _DIGEST], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == here


def test_seeds_give_different_samples(corpus: Corpus) -> None:
    assert list(corpus.samples(20, 1)) == list(corpus.samples(20, 1))
    assert list(corpus.samples(20, 1)) != list(corpus.samples(20, 2))


def test_a_corpus_without_vague_rationales_differs_in_nothing_else(corpus: Corpus) -> None:
    plain = Corpus(vague=False)
    count = 2000
    pairs = list(zip(corpus.samples(count, 1), plain.samples(count, 1), strict=True))
    # Rationales of different styles draw different random numbers, so samples are compared up to there.
    assert pairs[0][0].text == pairs[0][1].text
    assert {sample.style for _, sample in pairs} == {"full", "medium", None}
    assert sum(sample.style == "vague" for sample, _ in pairs) > count / 5
    assert plain.retrieval_set("test") == corpus.retrieval_set("test")
    assert list(plain.triples(50, 1)) == list(corpus.triples(50, 1))
