"""The columns of the table, of one model folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize

import grace_st
from grace_st.module import GenerateThenPool
from grace_train.local.evaluation import unrelated_similarity
from grace_train.nano.real_text import TextCorpus
from grace_train.retrieval import ndcg, retrieval_ranks
from harness.perplexity import perplexity
from real_text.data import SPLITS, Labelled, banking77, snips, stsb
from real_text.rows import Settings

SLOTS = 64


def measure(folder: Path, corpus: TextCorpus, texts: Path, settings: Settings, *, budget: int) -> dict[str, Any]:
    """Everything about a model folder.

    Args:
        folder: The model.
        corpus: Held-out MedQuAD and SNIPS.
        texts: Folder of all data sets.
        settings: Sizes.
        budget: Tokens of a rationale; 0 is the prompt alone.

    Returns:
        ``dev`` and ``test`` (nDCG@10 on MedQuAD, ``per_query``, ``unrelated_similarity``), ``snips`` and ``banking77``
        (accuracy of a logistic regression), ``stsb`` (Spearman's correlation of cosines), ``perplexity``, and of the
        rationales ``length`` and ``eos_rate``, and of those of MedQuAD's documents ``subject`` and ``question``, see
        `says` (None without).
    """
    model = grace_st.load(folder, engine_kwargs={"slots": SLOTS}, device="cpu")
    module = model[0]
    assert isinstance(module, GenerateThenPool)  # what grace_st.load gives
    reader = _Reader(model, budget)
    sets = {
        split: corpus.retrieval_set(split, queries=settings.queries, documents=settings.documents) for split in SPLITS
    }
    documents = reader.vectors(sets["dev"].documents)
    subjects = corpus.subjects(queries=settings.queries, documents=settings.documents)
    found: dict[str, Any] = says(subjects, reader.rationales) if budget else {"subject": None, "question": None}
    for split, data in sets.items():
        queries = reader.vectors(data.queries)
        scores = ndcg(retrieval_ranks(queries, documents, data.relevant))
        found[split] = {
            "ndcg@10": float(scores.mean()),
            "unrelated_similarity": unrelated_similarity(queries, documents, [[index] for index in data.relevant]),
            "per_query": [round(float(value), 4) for value in scores],
        }
    found["snips"] = accuracy(reader, snips(corpus, settings.per_class))
    found["banking77"] = accuracy(reader, banking77(texts, settings.per_class))
    pairs = stsb(texts, settings.pairs)
    first, second = (reader.vectors(side) for side in ([pair[0] for pair in pairs], [pair[1] for pair in pairs]))
    cosines = (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    found["stsb"] = float(spearmanr(cosines, [pair[2] for pair in pairs]).statistic)
    held_out = [sample.text for sample in corpus.samples(settings.perplexity_texts, "perplexity", held_out=True)]
    found["perplexity"] = perplexity(module, held_out)
    found["length"] = float(np.mean(reader.lengths)) if budget else None
    found["eos_rate"] = float(np.mean(reader.finished)) if budget else None
    return found


def says(subjects: Sequence[str], rationales: Sequence[str]) -> dict[str, float]:
    """What rationales of MedQuAD's answers say, as shares of them.

    Args:
        subjects: The diseases that the answers are about.
        rationales: Aligned with them.

    Returns:
        ``subject``, those that hold the disease's name; ``question``, those that say what question the text answers.
    """
    texts = [rationale.casefold() for rationale in rationales]
    return {
        "subject": float(np.mean([name.casefold() in text for name, text in zip(subjects, texts, strict=True)])),
        "question": float(np.mean(["it answers:" in text for text in texts])),
    }


class _Reader:
    """Vectors of texts; counts what was written.

    Args:
        model: The model.
        budget: Tokens of a rationale; 0 is the prompt alone.
    """

    def __init__(self, model: grace_st.GraceModel, budget: int) -> None:
        self._model = model
        self._budget = budget
        self.lengths: list[int] = []
        self.finished: list[bool] = []
        self.rationales: list[str] = []

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Of texts ``[n]``, ``[n, d]``."""
        encodings = self._model.encode_with_rationales(list(texts), max_new_tokens=self._budget)
        self.lengths += [len(encoding.rationale_ids) for encoding in encodings]
        self.finished += [encoding.finished for encoding in encodings]
        self.rationales += [encoding.rationale for encoding in encodings]
        return np.stack([encoding.embedding for encoding in encodings])


def accuracy(reader: _Reader, data: Labelled) -> float:
    """Share of the tested texts whose class a logistic regression on the training vectors names.

    On vectors of length 1: training is by cosines, and their lengths would decide how much is regularised.
    """
    train, test = (normalize(reader.vectors([text for text, _ in part])) for part in (data.train, data.test))
    classifier = LogisticRegression(max_iter=2000)
    classifier.fit(train, [name for _, name in data.train])
    return float(classifier.score(test, [name for _, name in data.test]))
