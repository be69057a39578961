"""Rendering a chat template once, at conversion: what stands before and after the user's text.

The result is stored in the model folder, so vectors cannot change with the date or with a later template.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from jinja2 import Environment, TemplateError, meta
from transformers import PreTrainedTokenizerBase

from grace_st.config import TemplateKind

SystemRole = Literal["auto", "system", "user"]

PINNED_DATE = datetime.datetime(2024, 7, 26)
"""What templates that print today's date are told: Llama 3.2's own fallback."""

# Templates ask for the date with ``strftime_now``, a function that transformers gives them: this one, written before a
# template, stands in its place. The empty print at the end keeps Jinja from taking a line break off the template.
_DIRECTIVES = {f"%{letter}": PINNED_DATE.strftime(f"%{letter}") for letter in "aAbBcdfHIjmMpSuUVwWxXyYZz"}
# Those that not every platform's strftime knows:
_DIRECTIVES |= {"%F": PINNED_DATE.date().isoformat(), "%T": PINNED_DATE.time().isoformat()}
_DIRECTIVES |= {"%-d": f"{PINNED_DATE.day}", "%-m": f"{PINNED_DATE.month}", "%e": f"{PINNED_DATE.day:2}"}
_PINNED = (
    "{% macro strftime_now(format) %}{{ format"
    + "".join(f"|replace({directive!r}, {text!r})" for directive, text in _DIRECTIVES.items())
    + "}}{% endmacro %}{{ '' }}"
)

# Marks with what a template might change: letters of both cases, and what HTML and JSON would escape.
_TEXT_MARK = "\u241fTexT <&> \"'\\ \n mark\u241f"
_ANSWER_MARK = "\u241fAnsweR mark\u241f"
_SYSTEM_MARK = "\u241fSysteM mark\u241f"
_RESERVED = ("messages", "add_generation_prompt", "tools", "documents", "continue_final_message")
# What a template of somebody else's can raise: it is a program.
_TEMPLATE_ERRORS = (TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError)


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
    if system_prompt is not None and (not isinstance(system_prompt, str) or not system_prompt.strip()):
        raise ValueError(f"system_prompt must be a text that is not blank, or None, got {system_prompt!r}")
    if system_role not in ("auto", "system", "user"):
        raise ValueError(f"system_role must be 'auto', 'system' or 'user', got {system_role!r}")
    if not tokenizer.chat_template:
        if chat_template_kwargs:
            raise ValueError(
                f"chat_template_kwargs={dict(chat_template_kwargs)!r} given, but the tokenizer has no chat template: "
                "leave them out, or set tokenizer.chat_template"
            )
        return _plain(tokenizer, system_prompt)

    _check_options(tokenizer, chat_template_kwargs or {})
    options = dict(chat_template_kwargs or {})
    in_user_turn = system_role == "user"
    try:
        rendered = _render(tokenizer, _messages(system_prompt, in_user_turn), options, answer=False)
    except _TEMPLATE_ERRORS as error:
        if system_role != "auto" or system_prompt is None:
            raise ValueError(_failure(error, system_role)) from error
        in_user_turn = True
        try:
            rendered = _render(tokenizer, _messages(system_prompt, in_user_turn), options, answer=False)
        except _TEMPLATE_ERRORS as second:
            raise ValueError(_failure(second, "user")) from second
    if rendered.count(_TEXT_MARK) != 1:
        raise ValueError(
            f"the chat template writes the user's text {rendered.count(_TEXT_MARK)} times, word for word, instead of "
            "once: give the tokenizer another chat_template"
        )
    head, tail = rendered.split(_TEXT_MARK)
    if system_prompt is not None and not (
        system_prompt.strip() in head
        # A mark as well: the words of a short message may stand in the template anyway.
        and _SYSTEM_MARK in _render(tokenizer, _messages(_SYSTEM_MARK, in_user_turn), options, answer=False)
    ):
        raise ValueError(
            "the chat template drops or changes the system message. Put it before the user's text with "
            "system_role='user' (--system-role user), or keep the template's own with system_prompt=None "
            "(--no-system-prompt)"
        )
    turn_end = _turn_end(tokenizer, _messages(system_prompt, in_user_turn), options)
    return RenderedTemplate("chat_user" if in_user_turn else "chat", head, tail, turn_end)


def _check_options(tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any]) -> None:
    """Refuse options that the template does not read: a misspelt one would change nothing, silently."""
    if not isinstance(options, Mapping):
        raise ValueError(f"chat_template_kwargs must be a dictionary, got {options!r}")
    reserved = [name for name in options if name in _RESERVED]
    if reserved:
        raise ValueError(f"{reserved[0]!r} is not an option of a chat template but part of every rendering")
    try:
        syntax = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(tokenizer.get_chat_template())
    except TemplateError:
        return  # Its syntax is transformers' own extension, so what it reads cannot be told from here.
    known = meta.find_undeclared_variables(syntax)
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValueError(
            f"the chat template reads no {unknown[0]!r}; it reads {', '.join(sorted(known - set(_RESERVED)))}"
        )


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
    template = _PINNED + tokenizer.get_chat_template()
    rendered = tokenizer.apply_chat_template(
        messages, chat_template=template, tokenize=False, add_generation_prompt=not answer, **options
    )
    return str(rendered)


def _turn_end(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], options: Mapping[str, Any]) -> str:
    conversation = [*messages, {"role": "assistant", "content": _ANSWER_MARK}]
    try:
        rendered = _render(tokenizer, conversation, options, answer=True)
    except _TEMPLATE_ERRORS:
        return ""  # A template for single turns says nothing about how an answer ends.
    _, found, after = rendered.partition(_ANSWER_MARK)
    return after if found else ""


def _failure(error: Exception, system_role: str) -> str:
    hint = "" if system_role == "user" else "; try system_role='user' (--system-role user)"
    return f"the tokenizer's chat template fails ({type(error).__name__}: {error}){hint}"
