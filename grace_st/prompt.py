"""RepresentationPrompt: from a text to token ids, with the exact first pooled position.

Head, instruction, text and tail are tokenised separately and joined; the joined ids are the definition of the
prompt, in training and in encoding. So the pooled span is right to the token, only the text is ever truncated, and
nothing in a text can open or close a turn. Knows tokenizers and templates, not models.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import AddedToken, Encoding
from transformers import PreTrainedTokenizerBase

from grace_st.engines.base import PromptTokens

_MARKUP = re.compile(r"^\s*[<\[{|].*[>\]}|]\s*$", re.DOTALL)


class RepresentationPrompt:
    """Renders texts as prompts.

    Args:
        tokenizer: A fast tokenizer.
        head: Rendered template before the text. Special tokens in it are special tokens.
        tail: Rendered template after the text.
        reserved_ids: Further ids that a text must never produce (the EOS set, padding).

    Raises:
        ValueError: The tokenizer is not a fast one.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, head: str, tail: str, reserved_ids: Iterable[int] = ()
    ) -> None:
        if not tokenizer.is_fast:
            raise ValueError(
                f"{type(tokenizer).__name__} is not a fast tokenizer (it has no tokenizer.json), so special tokens in "
                "texts cannot be told from text: save a fast version of it with the model"
            )
        self.tokenizer = tokenizer
        self.head = head
        self.tail = tail
        self.reserved_ids = frozenset(reserved_ids)
        self._prepare()

    def _prepare(self) -> None:
        template = copy.deepcopy(self.tokenizer.backend_tokenizer)
        template.no_truncation()
        template.no_padding()
        self.head_ids = tuple(template.encode(self.head, add_special_tokens=False).ids)
        self.tail_ids = tuple(template.encode(self.tail, add_special_tokens=False).ids)
        added = dict(template.get_added_tokens_decoder().items())
        in_template = {token_id for token_id in (*self.head_ids, *self.tail_ids) if token_id in added}
        # Structural: what could open or close something. Words that a user has added to the vocabulary and runs
        # of white space stay what they are.
        self.structural_ids = (
            frozenset(
                token_id
                for token_id, token in added.items()
                if token.special
                or token_id in in_template
                or token_id in self.reserved_ids
                or _MARKUP.match(token.content)
            )
            | self.reserved_ids
        )
        # Tokens marked special are split like any text when `encode_special_tokens` is set, so a private copy of
        # the tokenizer marks all structural ones. Private: the option is state, and others share the original.
        plain = template
        plain.add_special_tokens(
            [
                AddedToken(added[token_id].content, special=True, normalized=added[token_id].normalized)
                for token_id in sorted(self.structural_ids & added.keys())
            ]
        )
        plain.encode_special_tokens = True
        self._plain = plain
        # A given rationale is the model's own language: tokens like <think> keep their ids, control tokens do not.
        rationale = copy.deepcopy(self.tokenizer.backend_tokenizer)
        rationale.no_truncation()
        rationale.no_padding()
        rationale.encode_special_tokens = True
        self._rationale = rationale

    def __getstate__(self) -> dict[str, Any]:
        # `encode_special_tokens` does not survive pickling, so the copies are made anew.
        return {name: getattr(self, name) for name in ("tokenizer", "head", "tail", "reserved_ids")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare()

    def tokenize(
        self, texts: Sequence[str], *, max_seq_length: int, instruction: str | None = None
    ) -> list[PromptTokens]:
        """Prompts of some texts.

        Args:
            texts: The users' texts; empty ones are legal. Lone surrogates, which have no encoding, become U+FFFD.
            max_seq_length: Longest prompt in tokens. Only the text is truncated, at its end.
            instruction: Goes verbatim before each text and is not pooled.

        Returns:
            One prompt per text.

        Raises:
            TypeError: A text is not a string.
            ValueError: Head, instruction and tail alone leave no room for a text.
        """
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"text {index} must be a string, got {type(text).__name__}: {text!r:.80}")
        head = self.head_ids + (self._text_ids([instruction])[0] if instruction else ())
        room = max_seq_length - len(head) - len(self.tail_ids)
        if room < 1:
            raise ValueError(
                f"max_seq_length is {max_seq_length} tokens, but the template needs {len(self.head_ids)} before and "
                f"{len(self.tail_ids)} after the text"
                + (f", and the instruction {len(head) - len(self.head_ids)}" if instruction else "")
                + ": raise max_seq_length"
                + (" or shorten the instruction" if instruction else "")
            )
        return [
            PromptTokens(head + ids[:room] + self.tail_ids, len(head), truncated=len(ids) > room)
            for ids in self._text_ids(texts)
        ]

    def rationale_ids(self, rationale: str) -> tuple[int, ...]:
        """Ids of a rationale that is given as a string. Ids kept from a generation are more faithful."""
        return tuple(self._rationale.encode(_encodable(rationale), add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Token ids as a string to show."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def _text_ids(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        encodable = [_encodable(text) for text in texts]
        encodings = self._plain.encode_batch(encodable, add_special_tokens=False)
        return [self._without_structure(text, encoding) for text, encoding in zip(encodable, encodings, strict=True)]

    def _without_structure(self, text: str, encoding: Encoding) -> tuple[int, ...]:
        """The ids of a text, making sure that none is structural.

        A vocabulary can reach a control token's id by its ordinary merges ("<s" and ">"). Then the text is cut
        inside that token and its parts are tokenised separately.
        """
        ids = encoding.ids
        hit = next((place for place, token_id in enumerate(ids) if token_id in self.structural_ids), None)
        if hit is None:
            return tuple(ids)
        start, end = encoding.offsets[hit]
        if end - start < 2:
            raise ValueError(
                f"the tokenizer turns {text[start:end]!r} in a text into the control token {encoding.tokens[hit]!r}: "
                "this tokenizer cannot tell text from structure"
            )
        parts = (text[: start + 1], text[start + 1 :])
        return tuple(token_id for part in parts for token_id in self._text_ids([part])[0])


def _encodable(text: str) -> str:
    """The text with lone surrogates, which UTF-8 cannot hold, replaced by U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
