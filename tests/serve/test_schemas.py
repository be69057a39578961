"""The request: what is understood, and what is said about the rest."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grace_st.serve.errors import InvalidRequestError
from grace_st.serve.schemas import parse_request


def parsed(**fields: Any) -> Any:
    return parse_request(json.dumps({"model": "m", **fields}).encode())


@pytest.mark.parametrize(
    ("given", "texts"),
    [
        ("a text", ["a text"]),
        ("", [""]),
        (["a", ""], ["a", ""]),
        ([3, 5], [[3, 5]]),
        ([[3], [5, 7]], [[3], [5, 7]]),
    ],
)
def test_the_four_kinds_of_input(given: Any, texts: list[Any]) -> None:
    assert parsed(input=given).input == texts


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({}, "input", "the field 'input' is missing"),
        ({"input": []}, "input", "input: the list is empty; expected a string, a list of strings"),
        ({"input": None}, "input", "input: got null"),
        ({"input": {"text": "a"}}, "input", "input: got an object"),
        ({"input": ["a", 3]}, "input", "item 1 is a number in a list of strings"),
        ({"input": [3, "a"]}, "input", "token 1 is a string, which is no token id"),
        ({"input": [3, -1]}, "input", "token 1 is -1, which is no token id"),
        ({"input": [[3], [1.5]]}, "input", "token 0 of item 1 is 1.5"),
        ({"input": [[3], []]}, "input", "item 1 is an empty list"),
        ({"input": [True]}, "input", "item 0 is a boolean"),
        ({"input": [[True]]}, "input", "token 0 of item 0 is True"),
        ({"input": [2**31]}, "input", "item 0 is a number"),
        ({"input": "a", "dimensions": 0}, "dimensions", "greater than or equal to 1"),
        ({"input": "a", "dimensions": True}, "dimensions", "valid integer"),
        ({"input": "a", "dimensions": "8"}, "dimensions", "valid integer"),
        ({"input": "a", "max_new_tokens": -1}, "max_new_tokens", "greater than or equal to 0"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format", "'float' or 'base64'"),
        ({"input": "a", "rationale": 1}, "rationale", "valid boolean"),
        ({"input": "a", "rationales": True}, "rationales", "unknown field 'rationales'; did you mean 'rationale'?"),
        ({"input": "a", "zzz": True}, "zzz", "unknown field 'zzz'; known are input, model"),
        ({"input": "a", "input_type": "poem"}, "input_type", "'query'"),
        ({"input": "a", "input_type": "query", "instruction": "b"}, "instruction", "give one of them"),
        ({"input": "a", "model": 3}, "model", "valid string"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parsed(**fields)
    assert message in caught.value.message and caught.value.param == param
    assert "\n" not in caught.value.message and len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is not valid JSON"),
        (b"{", "the body is not valid JSON"),
        (b"\xff\xfe", "the body is not valid JSON"),
        (b'{"model": "m", "input": "\\ud800"}', "the body is not valid JSON"),
        (b"[" * 100_000, "the body is not valid JSON"),
        (b"[1]", "the body must be a JSON object"),
        (b"null", "the body must be a JSON object"),
        (b'{"input": "a"}', "the field 'model' is missing"),
    ],
)
def test_bodies_that_are_no_requests(body: bytes, message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_request(body)
    assert message in caught.value.message


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["input", "model", "dimensions", "encoding_format", "rationale", "max_new_tokens", "user"])


@given(st.dictionaries(NAMES | st.text(max_size=8), VALUES, max_size=5))
def test_any_object_is_a_request_or_refused(fields: dict[str, Any]) -> None:
    try:
        request = parse_request(json.dumps({"model": "m", "input": "a", **fields}).encode())
    except InvalidRequestError as error:
        assert error.message
    else:
        assert request.input and all(isinstance(item, (str, list)) for item in request.input)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        parse_request(body)
