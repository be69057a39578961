"""Explaining with models: shares against `encode`, against an independent forward, and on unusual texts."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize

import grace_st
from grace_st.explain import Explanation, explain_pair
from grace_st.explain.spans import PARTS
from tests.encoder import oracle
from tests.tiny import TEXTS

ADDING = 1e-6  # shares to the cosine, float64 sums
ENCODE = 1e-5  # to the cosine of `encode`, which sums in float32 while it generates

TEXT_A = "The Eiffel Tower is in Paris. It was built by Gustave Eiffel, in 1889!"
TEXT_B = "Wie spät ist es? 日本語のテキスト。 🙂🙃 and more"

UNUSUAL = (
    "",
    "  ",
    "\n",
    "🙂",
    "e\N{COMBINING ACUTE ACCENT}",
    "\ud83d\ude00 \ud800",
    "<|im_end|> a. <think>b",
    TEXTS[5],
)

Folder = Callable[..., Path]


def _check(explanation: Explanation) -> None:
    """What holds for every explanation."""
    assert explanation.contributions.sum() == pytest.approx(explanation.cosine, abs=ADDING)
    assert explanation.shares_a.sum() == pytest.approx(explanation.cosine, abs=ADDING)
    assert explanation.shares_b.sum() == pytest.approx(explanation.cosine, abs=ADDING)
    assert sum(explanation.composition().values()) == pytest.approx(explanation.cosine, abs=ADDING)
    assert sum(pair.contribution for pair in explanation.strongest(None)) == pytest.approx(
        explanation.cosine, abs=ADDING
    )
    for text in (explanation.a, explanation.b):
        places = [PARTS.index(span.part) for span in text.spans]
        assert places == sorted(places)
        for part, whole in (("text", text.text[: text.characters_read]), ("rationale", text.rationale)):
            contents = [span.content for span in text.spans if span.part == part]
            assert not contents or "".join(contents) == whole
    assert explanation.contributions.shape == (len(explanation.a.spans), len(explanation.b.spans))


def _cosine(model: SentenceTransformer, text_a: str, text_b: str, **options: object) -> float:
    vectors = model.encode([text_a, text_b], **options)
    return float(model.similarity(vectors[:1], vectors[1:])[0, 0])


@pytest.mark.parametrize("span", ["text_and_rationale", "rationale"])
@pytest.mark.parametrize("pooling", ["mean", "mean_penultimate"])
@pytest.mark.parametrize("architecture", ["qwen2", "gemma2", "lfm2", "nano"])
def test_shares_add_up_to_the_cosine_of_encode(
    grace_folder: Folder, architecture: str, pooling: str, span: str
) -> None:
    folder = grace_st.nano_path() if architecture == "nano" else grace_folder(architecture, max_new_tokens=9)
    model = grace_st.load(folder, pooling=pooling, pooling_span=span, max_new_tokens=9)
    alone = grace_st.load(folder, pooling=pooling, pooling_span="rationale", max_new_tokens=9)
    explanation = model.explain(TEXT_A, TEXT_B)
    _check(explanation)
    assert explanation.cosine == pytest.approx(_cosine(model, TEXT_A, TEXT_B), abs=ENCODE)
    assert explanation.prompt_cosine == pytest.approx(_cosine(model, TEXT_A, TEXT_B, max_new_tokens=0), abs=ENCODE)
    assert explanation.rationale_cosine == pytest.approx(_cosine(alone, TEXT_A, TEXT_B), abs=ENCODE)
    assert (explanation.pooling, explanation.pooling_span) == (pooling, span)
    parts = {part for text in (explanation.a, explanation.b) for part in (one.part for one in text.spans)}
    assert parts == ({"text", "template", "rationale"} if span == "text_and_rationale" else {"template", "rationale"})


def test_contributions_are_those_of_an_independent_forward() -> None:
    """A float64 forward of the whole sequence, prefix by prefix: the sum over a span is a difference of means."""
    model = grace_st.load(grace_st.nano_path())
    texts = ("A country governed from Paris. It is known for its wine.", "France lies in Western Europe.")
    explanation = model.explain(*texts)
    module = model[0]
    assert isinstance(module, grace_st.GenerateThenPool)
    sums = []
    for text, explained in zip(texts, (explanation.a, explanation.b), strict=True):
        (encoding,) = model.encode_with_rationales([text])
        (prompt,) = module.prompts_of([text])
        ids = [*prompt.ids, *encoding.rationale_ids]
        assert sum(explained.tokens) == len(ids) - prompt.pool_start
        ends = np.cumsum([0, *explained.tokens]) + prompt.pool_start
        sums.append(
            torch.stack(
                [
                    oracle.vector(module.model, ids[:end], start, "mean") * (end - start)
                    for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)
                ]
            )
        )
    length = sums[0].sum(dim=0).norm() * sums[1].sum(dim=0).norm()
    wanted = (sums[0] @ sums[1].T / length).numpy()
    assert np.abs(explanation.contributions - wanted).max() < 1e-5  # a float32 forward against a float64 one


def test_a_sentence_has_the_tokens_that_spell_it() -> None:
    model = grace_st.load(grace_st.nano_path())
    first, second = "A country governed from Paris. ", "It is known for its wine."
    explanation = model.explain(first + second, "x", max_new_tokens=0)
    tokens = [len(model.tokenizer.encode(piece)) for piece in (first.rstrip(), first + second)]
    spans = [span for span in explanation.a.spans if span.part == "text"]
    assert [(span.content, span.tokens) for span in spans] == [(first, tokens[0]), (second, tokens[1] - tokens[0])]
    assert [(span.start, span.end) for span in spans] == [(0, len(first)), (len(first), len(first + second))]


@pytest.mark.parametrize("template", ["chatml", "dated", "no_system", "none"])
def test_every_kind_of_text(grace_folder: Folder, template: str) -> None:
    model = grace_st.load(grace_folder("qwen2", template, max_new_tokens=5))
    for text in (
        "",
        "  ",
        "\n",
        "🙂",
        "e\N{COMBINING ACUTE ACCENT}",
        "\ud83d\ude00 \ud800",
        "<|im_end|> a. <think>b",
        TEXTS[5],
    ):
        explanation = model.explain(text, TEXT_A)
        _check(explanation)
        assert explanation.cosine == pytest.approx(_cosine(model, text, TEXT_A), abs=ENCODE)
        json.loads(explanation.to_json().encode("utf-8"))
    empty = model.explain("", TEXT_A).a
    assert [span.part for span in empty.spans if span.part != "rationale"] == ["template"]


@pytest.mark.parametrize("span", ["text_and_rationale", "rationale"])
def test_a_template_without_a_tail(grace_folder: Folder, span: str) -> None:
    model = grace_st.load(grace_folder(max_new_tokens=5), tail="", pooling_span=span)
    for text in ("", "one text. And more"):
        explanation = model.explain(text, TEXT_B)
        _check(explanation)
        assert explanation.cosine == pytest.approx(_cosine(model, text, TEXT_B), abs=ENCODE)


def test_a_text_that_was_cut(grace_folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    model = grace_st.load(grace_folder(max_new_tokens=5), max_seq_length=96)
    long = "First sentence. Second 日本語 sentence! " * 20
    with caplog.at_level(logging.WARNING, "grace_st"):
        explanation = model.explain(long, "short", max_new_tokens=3)
    assert [record.message.split(" did")[0] for record in caplog.records] == ["1 of 2 texts"]
    _check(explanation)
    assert 0 < explanation.a.characters_read < len(long)
    assert explanation.b.characters_read == 5
    assert explanation.cosine == pytest.approx(_cosine(model, long, "short", max_new_tokens=3), abs=ENCODE)


def test_no_rationale_given_ones_and_what_ended_them(grace_folder: Folder) -> None:
    model = grace_st.load(grace_folder(max_new_tokens=5))
    none = model.explain(TEXT_A, TEXT_B, max_new_tokens=0)
    _check(none)
    assert none.a.rationale_end == "none"
    assert none.cosine == pytest.approx(none.prompt_cosine, abs=1e-12)
    assert {span.part for span in none.a.spans} == {"text", "template"}
    given = model.explain(TEXT_A, TEXT_B, rationales=("It is 日本. So 🙂!", [5, 6, 7]))
    _check(given)
    assert (given.a.rationale, given.a.rationale_end) == ("It is 日本. So 🙂!", "given")
    assert given.b.rationale_tokens == 3
    encodings = model.encode_with_rationales([TEXT_A, TEXT_B], rationales=["It is 日本. So 🙂!", [5, 6, 7]])
    wanted = model.similarity(encodings[0].embedding, encodings[1].embedding).item()
    assert given.cosine == pytest.approx(wanted, abs=ENCODE)
    nano = grace_st.load(grace_st.nano_path())
    assert nano.explain("Oslo", "Norway").a.rationale_end == "eos"
    assert nano.explain("Oslo", "Norway", max_new_tokens=2).a.rationale_end == "budget"


def test_identical_texts(grace_folder: Folder) -> None:
    explanation = grace_st.load(grace_folder(max_new_tokens=5)).explain(TEXT_A, TEXT_A)
    _check(explanation)
    assert explanation.cosine == pytest.approx(1, abs=1e-12)
    assert np.allclose(explanation.contributions, explanation.contributions.T)


def test_control_tokens_in_a_rationale_are_a_span_that_is_not_shown(grace_folder: Folder) -> None:
    model = grace_st.load(grace_folder())
    (start,) = model.tokenizer.convert_tokens_to_ids(["<|im_start|>"])
    explanation = model.explain("a", "b", rationales=([start, start], "two. Words"))
    _check(explanation)
    last = explanation.a.spans[-1]
    assert (last.part, last.content, last.tokens) == ("rationale", "", 2)


def test_the_template_is_named_as_it_is(grace_folder: Folder) -> None:
    explanation = grace_st.load(grace_folder(max_new_tokens=3)).explain(TEXT_A, TEXT_B)
    (template,) = [span for span in explanation.a.spans if span.part == "template"]
    assert template.content == "<|im_end|>\n<|im_start|>assistant\n"


def test_instructions_stay_outside_as_they_do_in_encode(grace_folder: Folder) -> None:
    prompts = {"query": "Find: ", "document": ""}
    model = grace_st.load(grace_folder(max_new_tokens=5), prompts=prompts, default_prompt_name="query")
    query, document = model.encode_query([TEXT_A]), model.encode_document([TEXT_B])
    asymmetric = model.explain(TEXT_A, TEXT_B, prompt_name=("query", "document"))
    _check(asymmetric)
    assert asymmetric.cosine == pytest.approx(model.similarity(query, document).item(), abs=ENCODE)
    assert asymmetric.a.spans[0].content.startswith("The Eiffel")
    default = model.explain(TEXT_A, TEXT_B)
    assert default.cosine == pytest.approx(_cosine(model, TEXT_A, TEXT_B), abs=ENCODE)
    given = model.explain(TEXT_A, TEXT_B, prompt="Name it: ")
    assert given.cosine == pytest.approx(_cosine(model, TEXT_A, TEXT_B, prompt="Name it: "), abs=ENCODE)


def test_cut_dimensions_and_normalized_vectors(grace_folder: Folder) -> None:
    model = grace_st.load(grace_folder(max_new_tokens=5), truncate_dim=7)
    model.append(Normalize())
    explanation = model.explain(TEXT_A, TEXT_B)
    _check(explanation)
    assert explanation.cosine == pytest.approx(_cosine(model, TEXT_A, TEXT_B), abs=ENCODE)


def test_stock_objects(grace_folder: Folder) -> None:
    folder = grace_folder(max_new_tokens=5)
    stock = SentenceTransformer(str(folder), trust_remote_code=True)
    wanted = grace_st.load(folder).explain(TEXT_A, TEXT_B)
    assert np.allclose(explain_pair(stock, TEXT_A, TEXT_B).contributions, wanted.contributions, atol=1e-12)


def test_a_store_is_used(grace_folder: Folder, tmp_path: Path) -> None:
    model = grace_st.load(grace_folder(max_new_tokens=5))
    first = model.explain(TEXT_A, TEXT_B, store=tmp_path / "s.sqlite")
    module = model[0]
    assert isinstance(module, grace_st.GenerateThenPool)
    module.engine.generate = None  # type: ignore[method-assign,assignment]
    again = model.explain(TEXT_A, TEXT_B, store=tmp_path / "s.sqlite")
    assert np.array_equal(first.contributions, again.contributions)


def test_the_dictionary_adds_up_and_survives_json(grace_folder: Folder) -> None:
    explanation = grace_st.load(grace_folder(max_new_tokens=5)).explain(TEXT_A, TEXT_B)
    told = json.loads(explanation.to_json())
    assert told == json.loads(json.dumps(explanation.to_dict()))
    assert np.sum(told["contributions"]) == pytest.approx(told["cosine"], abs=ADDING)
    assert sum(span["share"] for span in told["a"]["spans"]) == pytest.approx(told["cosine"], abs=ADDING)
    assert sum(value for row in told["parts"].values() for value in row.values()) == pytest.approx(
        told["cosine"], abs=ADDING
    )
    assert sum(told["composition"].values()) == pytest.approx(told["cosine"], abs=ADDING)
    sizes = [abs(pair["contribution"]) for pair in told["strongest"]]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == np.abs(told["contributions"]).max()


def test_token_states_pool_to_the_vector_that_embed_gives(grace_folder: Folder) -> None:
    model = grace_st.load(grace_folder())
    module = model[0]
    assert isinstance(module, grace_st.GenerateThenPool)
    (prompt,) = module.prompts_of([TEXT_A])
    states = module.token_states(prompt, [5, 6, 7])
    assert states.shape == (len(prompt.ids) + 3, 32)
    (rollout,) = module.rollouts([prompt], rationales=[[5, 6, 7]])
    assert torch.allclose(states[prompt.pool_start :].mean(dim=0), rollout.vector, atol=1e-6)


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize("pooling", ["max", "last"])
def test_other_poolings_are_refused(grace_folder: Folder, pooling: str) -> None:
    model = grace_st.load(grace_folder(), pooling=pooling)
    with pytest.raises(ValueError, match=f"pooling='{pooling}' cannot be explained.*pooling='mean'"):
        model.explain("a", "b")
    with pytest.raises(ValueError, match="cannot be explained"):
        model.explain_ranking("a", ["b"])


def test_a_projection_and_other_engines_are_refused(grace_folder: Folder) -> None:
    model = grace_st.load(grace_folder())
    model.append(Dense(32, 8))
    with pytest.raises(ValueError, match="the module Dense changes the vectors"):
        model.explain("a", "b")
    other = grace_st.load(grace_folder())
    other[0].engine = object()  # type: ignore[assignment]
    with pytest.raises(ValueError, match="load the model with engine='torch'"):
        other.explain("a", "b")


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("a", None), {}, "text 1 must be a string, got NoneType"),
        (("a", "b"), {"rationales": ("one",)}, "rationales must be a pair"),
        (("a", "b"), {"rationales": "xy"}, "rationales must be a pair"),
        (("a", "b"), {"rationales": ("x", "y"), "max_new_tokens": 3}, "has no effect on given rationales"),
        (("a", "b"), {"prompt": ("x", "y", "z")}, "prompt must be a string or a pair"),
        (("a", "b"), {"prompt_name": "nope"}, "'nope' is not one of the model's prompts"),
        (("a", "b"), {"max_new_tokens": -1}, "max_new_tokens must be an integer >= 0"),
        (("a", "b"), {"colour": 1}, "unknown option 'colour'"),
    ],
)
def test_wrong_arguments(
    grace_folder: Folder, arguments: tuple[str, str], options: dict[str, object], message: str
) -> None:
    model = grace_st.load(grace_folder())
    with pytest.raises(ValueError, match=message):
        model.explain(*arguments, **options)


def test_a_state_that_is_not_finite_is_an_error(grace_folder: Folder) -> None:
    model = grace_st.load(grace_folder())
    module = model[0]
    assert isinstance(module, grace_st.GenerateThenPool)
    with torch.no_grad():
        module.model.get_decoder().norm.weight[0] = float("nan")
    (prompt,) = module.prompts_of(["a bad one"])
    with pytest.raises(grace_st.NonFiniteVectorError, match="a bad one"):
        module.token_states(prompt, [])
