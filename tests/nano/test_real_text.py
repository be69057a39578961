"""The corpus of real text, on a few rows in the published formats, and on the data themselves where there are any."""

from __future__ import annotations

import gzip
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from grace_train.nano.__main__ import main
from grace_train.nano.presets import PRESETS
from grace_train.nano.real_text import SourceError, TextCorpus
from grace_train.nano.real_text.corpus import WORDS, evenly
from grace_train.nano.real_text.rationales import key_words
from grace_train.nano.real_text.sources import INTENTS, part_of, read_medquad, read_snips, read_wikitext, subject_key
from tests.nano.sizes import small

DISEASES = 60


def word(number: int) -> str:
    """A word of its own: numbers alone are taken for variants of one name."""
    return f"zor{chr(97 + number // 26)}{chr(97 + number % 26)}"


def disease(number: int) -> str:
    """A name of its own."""
    return f"disease {word(number)}"


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the layout of the published data."""
    folder = tmp_path_factory.mktemp("texts")
    for name in ("medquad", "snips", "wikitext2"):
        (folder / name).mkdir()
    rows = [
        {
            "focus": disease(index),
            "qtype": kind,
            "question": f"What are the {kind} of {disease(index)} ?",
            "answer": f"The {kind} of {disease(index)} are " + "one and the same " * 20,
        }
        for index in range(DISEASES)
        for kind in ("symptoms", "causes")
    ]
    with gzip.open(folder / "medquad" / "medquad_qa.jsonl.gz", "wt", encoding="utf-8") as file:
        # Twice the first row: other sources ask the same. One answer is too short to be any.
        for row in [*rows, rows[0], {**rows[0], "focus": "nothing", "answer": "No."}]:
            file.write(json.dumps(row) + "\n")
    for intent in INTENTS:
        for name, count in ((f"train_{intent}_full", 5), (f"validate_{intent}", 2)):
            data = [
                {"data": [{"text": f"{name} number "}, {"text": str(index), "entity": "object_name"}]}
                for index in range(count)
            ]
            written = json.dumps({intent: data}).encode().replace(b"number ", b"number \xed", 1)
            (folder / "snips" / f"{name}.json.gz").write_bytes(gzip.compress(written))
    article = " \n = The Title = \n \n The well @-@ known words of Title , which are many . They are <unk> . \n"
    article += " = = Part = = \n"
    for name in ("valid", "test"):
        articles = "".join(article.replace("Title", f"Title {name} {word(index)}") for index in range(40))
        (folder / "wikitext2" / f"{name}.txt").write_text(articles, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def corpus(texts: Path) -> TextCorpus:
    """Of the folder."""
    return TextCorpus(texts)


def test_a_question_is_read_once_and_no_answer_is_left_out(texts: Path) -> None:
    items = read_medquad(texts)
    assert len(items) == 2 * DISEASES
    assert "nothing" not in {item.focus for item in items}


def test_requests_with_damaged_bytes_are_left_out(texts: Path) -> None:
    assert Counter(item.intent for item in read_snips(texts, "train")) == dict.fromkeys(INTENTS, 4)
    item = read_snips(texts, "test")[0]
    assert item.text.endswith("number 1")
    assert item.slots == (("object_name", "1"),)


def test_wikitext_reads_as_it_is_written_elsewhere(texts: Path) -> None:
    assert read_wikitext(texts)[0].text == "The well-known words of Title valid zoraa, which are many."
    assert read_wikitext(texts)[0].article == "The Title valid zoraa"


def test_samples_depend_on_the_seed_alone(texts: Path, corpus: TextCorpus) -> None:
    assert list(corpus.samples(20, 1)) == list(TextCorpus(texts).samples(20, 1))
    assert list(corpus.samples(20, 1)) != list(corpus.samples(20, 2))


def test_rationales_tell_what_the_data_set_knows(corpus: TextCorpus) -> None:
    samples = list(corpus.samples(400, 0))
    assert {sample.kind for sample in samples} == {"question", "answer", "request", "sentence"}
    for sample in samples:
        assert sample.rationale.startswith("<think>")
        assert "</think>\n" in sample.rationale
        assert len(sample.text.split()) <= WORDS
        if sample.kind in ("question", "answer") and sample.style != "vague":
            disease = " ".join(sample.text.split("disease ")[1].split()[:1])
            assert f"disease {disease}" in sample.rationale
    full = next(sample for sample in samples if sample.kind == "request" and sample.style == "full")
    assert "object name:" in full.rationale


def test_without_vague_ones_there_are_none(texts: Path) -> None:
    styles = Counter(sample.style for sample in TextCorpus(texts, vague=False).samples(200, 0))
    assert set(styles) == {"full", "medium"}


def test_what_is_held_out_is_in_no_sample_and_no_triple(corpus: TextCorpus) -> None:
    held = {disease(index) for index in range(DISEASES) if part_of(disease(index)) != "train"}
    assert 0 < len(held) < DISEASES
    shown = " ".join(f"{sample.text} {sample.rationale} " for sample in corpus.samples(3000, 0))
    shown += " ".join(f"{value} " for triple in corpus.triples(500, 0) for value in triple.values())
    assert not [name for name in held if f"{name} " in shown]


def test_what_is_held_out_of_other_kinds_is_in_no_sample(corpus: TextCorpus) -> None:
    shown = {sample.text for sample in corpus.samples(3000, 0)}
    held_out = {sample.text for sample in corpus.samples(500, 0, held_out=True)}
    assert len(held_out) > 20
    assert held_out & shown == set()


def test_an_answer_that_fits_several_diseases_is_left_out(texts: Path, tmp_path: Path) -> None:
    shutil.copytree(texts, tmp_path / "texts")
    path = tmp_path / "texts" / "medquad" / "medquad_qa.jsonl.gz"
    row = {"qtype": "inheritance", "question": "Is it ?", "answer": "It is inherited in a recessive pattern."}
    with gzip.open(path, "at", encoding="utf-8") as file:
        for index in range(DISEASES):
            file.write(json.dumps({**row, "focus": disease(index)}) + "\n")
    assert all("recessive" not in sample.text for sample in TextCorpus(tmp_path / "texts").samples(500, 0))


@pytest.mark.data
def test_held_out_answers_are_no_training_texts(data_dir: Path) -> None:
    corpus = TextCorpus(data_dir)
    documents = corpus.retrieval_set("dev").documents
    assert len(set(documents)) > 0.99 * len(documents)
    shown = {triple["positive"] for triple in corpus.triples(12_000, 0)}
    assert len(shown & set(documents)) == 0


def test_a_negative_is_another_answer_about_the_same_disease(corpus: TextCorpus) -> None:
    for triple in corpus.triples(100, 0):
        about = triple["query"].split("disease ")[1].split()[0]
        assert f"disease {about} " in triple["positive"]
        assert f"disease {about} " in triple["negative"]
        assert triple["positive"] != triple["negative"]


def test_the_relevant_document_answers_the_query(corpus: TextCorpus) -> None:
    for split in ("dev", "test"):
        data = corpus.retrieval_set(split, queries=4, documents=9)
        assert len(data.queries) <= 4
        for query, place in zip(data.queries, data.relevant, strict=True):
            kind, about = query.split()[3], query.split("disease ")[1].split()[0]
            assert data.documents[place].startswith(f"The {kind} of disease {about} ")
        subjects = corpus.subjects(queries=4, documents=9)
        assert len(subjects) == len(data.documents)
        for subject, document in zip(subjects, data.documents, strict=True):
            assert f" of {subject.casefold()} " in document.casefold()
    assert corpus.retrieval_set("dev").documents == corpus.retrieval_set("test").documents
    assert len(corpus.retrieval_set("dev", queries=2, documents=1).documents) == 4


def test_key_words_are_the_rare_ones_in_order() -> None:
    counts = Counter({"about": 9, "lobster": 1, "ocean": 2, "large": 5})
    assert key_words("A large lobster, about the ocean", counts, most=2) == ["lobster", "ocean"]
    assert key_words("It is I", counts) == ["It"]


def test_evenly_takes_from_the_whole() -> None:
    assert evenly(range(10), 5) == [0, 2, 4, 6, 8]
    assert evenly(range(3), 5) == evenly(range(3), None) == [0, 1, 2]


def test_a_missing_set_is_named_with_its_origin(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"medquad_qa\.jsonl\.gz: put it there; it is from MedQuAD, https"):
        TextCorpus(tmp_path)


def test_a_broken_line_is_named(texts: Path, tmp_path: Path) -> None:
    (tmp_path / "medquad").mkdir()
    for content, said in ((b"{", "line 1: not JSON"), (b'{"focus": "x"}', "line 1: focus, qtype")):
        (tmp_path / "medquad" / "medquad_qa.jsonl.gz").write_bytes(gzip.compress(content))
        with pytest.raises(SourceError, match=said):
            read_medquad(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--preset", "micro"], "--preset micro needs --text DIR"),
        (["--text", "."], "--preset nano does not use --text DIR"),
        (["--preset", "micro", "--text", ".", "--knowledge", "."], "--preset micro does not use --knowledge"),
    ],
)
def test_presets_say_what_they_need(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--output", "nowhere", *arguments])
    assert said in capsys.readouterr().err


def test_missing_texts_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--output", str(tmp_path / "out"), "--preset", "nano-text", "--text", str(tmp_path)])
    assert "medquad_qa.jsonl.gz: put it there; it is from MedQuAD" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_variants_of_a_name_are_held_out_together() -> None:
    names = ("Breast Cancer", "breast cancers", "Male Breast Cancer", "Breast cancer (women)", "Breast cancer type 2")
    assert len({subject_key(name) for name in names}) == 1
    assert subject_key("Lung Cancer") != subject_key("Breast Cancer")
    assert subject_key("Type 2") == "type 2"


@pytest.mark.data
def test_the_published_data_are_read_whole(data_dir: Path) -> None:
    corpus = TextCorpus(data_dir)
    assert len(corpus.utterances("test")) > 690
    data = corpus.retrieval_set("dev")
    assert len(data.queries) > 500
    assert len(data.documents) > 1200
    assert not any("\ufffd" in sample.text for sample in corpus.samples(500, 0))


def test_the_recipe_makes_a_model_of_real_text(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "nano-text", small(PRESETS["nano-text"]))
    arguments = ["--preset", "nano-text", "--text", str(texts), "--output", str(tmp_path), "--steps", "1", "--fp32"]
    main(arguments)
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert set(results["splits"]["test"]) == {"prompt", "rationale"}
    assert "MedQuAD" in (tmp_path / "grace-nano-text" / "README.md").read_text(encoding="utf-8")
