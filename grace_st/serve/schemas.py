"""The request of ``POST /v1/embeddings``: OpenAI's fields and ours.

A field that is not known is refused with the nearest known one: an option that is misspelt would otherwise be ignored
without a word.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError

from grace_st.serve.errors import InvalidRequestError

Inputs = list[str] | list[list[int]]

QUERY_TYPES = ("query", "search_query")
DOCUMENT_TYPES = ("document", "passage", "search_document")
"""`input_type` by the names that Voyage, NVIDIA and Cohere give them."""

_EXPECTED = "expected a string, a list of strings, a list of token ids, or a list of lists of token ids"


def parse_input(value: Any) -> Inputs:
    """The texts of a request, as strings or as token ids.

    Args:
        value: The field ``input``.

    Returns:
        One string, or one list of token ids, for each text; at least one.
    """
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise _wrong(f"got {_named(value)}; {_EXPECTED}")
    if not value:
        raise _wrong(f"the list is empty; {_EXPECTED}")
    if isinstance(value[0], str):
        for index, text in enumerate(value):
            if not isinstance(text, str):
                raise _wrong(f"item {index} is {_named(text)} in a list of strings; {_EXPECTED}")
        return value
    if _is_id(value[0]):
        return [_ids(value, "")]
    if isinstance(value[0], list):
        for index, ids in enumerate(value):
            if not isinstance(ids, list):
                raise _wrong(f"item {index} is {_named(ids)} in a list of lists; {_EXPECTED}")
            if not ids:
                raise _wrong(f"item {index} is an empty list; {_EXPECTED}")
            _ids(ids, f" of item {index}")
        return value
    raise _wrong(f"item 0 is {_named(value[0])}; {_EXPECTED}")


def _ids(value: list[Any], where: str) -> list[int]:
    for index, token_id in enumerate(value):
        if not _is_id(token_id):
            given = repr(token_id) if isinstance(token_id, (int, float)) else _named(token_id)
            raise _wrong(f"token {index}{where} is {given}, which is no token id (an integer >= 0)")
    return value


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _named(value: object) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}
    return names[type(value)]


def _wrong(message: str) -> PydanticCustomError:
    return PydanticCustomError("input", "{problem}", {"problem": message})


class EmbeddingRequest(BaseModel):
    """The body of ``POST /v1/embeddings``.

    Attributes:
        input: The texts.
        model: A name under which the model is served.
        encoding_format: Vectors as lists of numbers, or as base64 of little-endian float32.
        dimensions: Cut vectors to this many numbers, and scale them to length 1 again where they are of length 1.
        user: Taken and ignored.
        input_type: Queries and documents may have different instructions in a model.
        prompt_name: Name of one of the model's prompts.
        instruction: Goes before each text and is not pooled.
        max_new_tokens: Longest rationale in tokens.
        rationale: Also return the rationales.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    input: Annotated[
        Inputs,
        PlainValidator(parse_input),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "string"},
                    {"type": "array", "items": {"type": "string"}, "minItems": 1},
                    {"type": "array", "items": {"type": "integer"}, "minItems": 1},
                    {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}, "minItems": 1},
                ]
            }
        ),
    ]
    model: str
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(default=None, ge=1)
    user: str | None = None
    input_type: Literal["query", "document", "passage", "search_query", "search_document"] | None = None
    prompt_name: str | None = None
    instruction: str | None = None
    max_new_tokens: int | None = Field(default=None, ge=0)
    rationale: bool = False


def parse_request(body: bytes) -> EmbeddingRequest:
    """The request in a body.

    Raises:
        InvalidRequestError: It is not one; the first thing that is wrong is named.
    """
    try:
        request = EmbeddingRequest.model_validate_json(body)
    except ValidationError as error:
        raise _first_problem(error) from None
    given = [name for name in ("input_type", "prompt_name", "instruction") if getattr(request, name) is not None]
    if len(given) > 1:
        raise InvalidRequestError(
            f"{given[0]} and {given[1]} both choose what goes before the texts: give one of them", param=given[1]
        )
    return request


def _first_problem(error: ValidationError) -> InvalidRequestError:
    problem = error.errors(include_url=False, include_context=True, include_input=False)[0]
    kind, place = problem["type"], problem["loc"]
    if kind == "json_invalid":
        return InvalidRequestError(f"the body is not valid JSON: {problem['ctx']['error']}")
    if not place:
        return InvalidRequestError("the body must be a JSON object with the fields `model` and `input`")
    name = str(place[0])
    if kind == "missing":
        return InvalidRequestError(f"the field {name!r} is missing", param=name)
    if kind == "extra_forbidden":
        known = list(EmbeddingRequest.model_fields)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        return InvalidRequestError(f"unknown field {name[:80]!r}; {hint}", param=name[:80])
    return InvalidRequestError(f"{name}: {problem['msg'][:1].lower()}{problem['msg'][1:]}", param=name)
