"""Rendering a chat template once, at conversion: what stands before and after the user's text.

The result is stored in the model folder, so vectors cannot change with the date or with a later template.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from grace_st.config import TemplateKind

SystemRole = Literal["auto", "system", "user"]

PINNED_DATE = datetime.datetime(2024, 7, 26)
"""What templates that print today's date are told: Llama 3.2's own fallback."""

_TEXT_MARK = "\u241fGRACE-TEXT\u241f"
_ANSWER_MARK = "\u241fGRACE-ANSWER\u241f"


@dataclass(frozen=True)
class RenderedTemplate:
    """A rendered template around the user's text.

    Attributes:
        kind: How the system message went in, see `grace_st.config.GraceConfig.template`.
        head: Before the text.
        tail: After the text, up to where the rationale begins.
        turn_end: What the template writes right after an assistant's answer; empty where it says nothing.
    """

    kind: TemplateKind
    head: str
    tail: str
    turn_end: str


def render_template(
    tokenizer: PreTrainedTokenizerBase,
    system_prompt: str | None,
    *,
    system_role: SystemRole = "auto",
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> RenderedTemplate:
    """Render a tokenizer's chat template around a marked text.

    Args:
        tokenizer: Its ``chat_template`` is used; without one the prompt is plain text: the message, an empty line,
            the text, an empty line.
        system_prompt: Our message; None keeps what the template itself says.
        system_role: ``"system"`` gives the message a turn of its own, ``"user"`` puts it before the user's text,
            and ``"auto"`` does the first unless the template refuses system turns (Gemma's does).
        chat_template_kwargs: Passed to the template, e.g. ``{"enable_thinking": False}``.

    Raises:
        ValueError: The template drops the system message or the text, changes the text, or fails; or options for
            a chat template are given where there is none.
    """
    if system_role not in ("auto", "system", "user"):
        raise ValueError(f"system_role must be 'auto', 'system' or 'user', got {system_role!r}")
    if not tokenizer.chat_template:
        if chat_template_kwargs:
            raise ValueError(
                f"chat_template_kwargs={dict(chat_template_kwargs)!r} given, but the tokenizer has no chat template: "
                "leave them out, or set tokenizer.chat_template"
            )
        return _plain(tokenizer, system_prompt)

    options = {"strftime_now": PINNED_DATE.strftime, **(chat_template_kwargs or {})}
    in_user_turn = system_role == "user"
    try:
        rendered = _render(tokenizer, _messages(system_prompt, in_user_turn), options, answer=False)
    except TemplateError as error:
        if system_role != "auto" or system_prompt is None:
            raise ValueError(_failure(error, system_role)) from error
        in_user_turn = True
        try:
            rendered = _render(tokenizer, _messages(system_prompt, in_user_turn), options, answer=False)
        except TemplateError as second:
            raise ValueError(_failure(second, "user")) from second
    if rendered.count(_TEXT_MARK) != 1:
        raise ValueError(
            f"the chat template writes the user's text {rendered.count(_TEXT_MARK)} times instead of once: give the "
            "tokenizer another chat_template"
        )
    head, tail = rendered.split(_TEXT_MARK)
    if system_prompt is not None and system_prompt.strip() not in head:
        raise ValueError(
            "the chat template drops or changes the system message. Put it before the user's text with "
            "system_role='user' (--system-role user), or keep the template's own with system_prompt=None "
            "(--no-system-prompt)"
        )
    turn_end = _turn_end(tokenizer, _messages(system_prompt, in_user_turn), options)
    return RenderedTemplate("chat_user" if in_user_turn else "chat", head, tail, turn_end)


def _plain(tokenizer: PreTrainedTokenizerBase, system_prompt: str | None) -> RenderedTemplate:
    # A tokenizer that would put a BOS before a text gets it here, since segments are tokenised without.
    adds_bos = tokenizer.bos_token is not None and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
    head = tokenizer.bos_token if adds_bos else ""
    if system_prompt is not None:
        head += f"{system_prompt}\n\n"
    return RenderedTemplate("plain", head, "\n\n", "")


def _messages(system_prompt: str | None, in_user_turn: bool) -> list[dict[str, str]]:
    if system_prompt is None:
        return [{"role": "user", "content": _TEXT_MARK}]
    if in_user_turn:
        return [{"role": "user", "content": f"{system_prompt}\n\n{_TEXT_MARK}"}]
    return [{"role": "system", "content": system_prompt}, {"role": "user", "content": _TEXT_MARK}]


def _render(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict[str, str]],
    options: Mapping[str, Any],
    *,
    answer: bool,
) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=not answer, **options))


def _turn_end(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], options: Mapping[str, Any]) -> str:
    conversation = [*messages, {"role": "assistant", "content": _ANSWER_MARK}]
    try:
        rendered = _render(tokenizer, conversation, options, answer=True)
    except TemplateError:
        return ""  # A template for single turns says nothing about how an answer ends.
    _, found, after = rendered.partition(_ANSWER_MARK)
    return after if found else ""


def _failure(error: TemplateError, system_role: str) -> str:
    hint = "" if system_role == "user" else "; try system_role='user' (--system-role user)"
    return f"the tokenizer's chat template fails ({type(error).__name__}: {error}){hint}"
