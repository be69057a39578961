"""RepresentationPrompt: from a text to token ids, with the exact first pooled position.

Head, instruction, text and tail are tokenised separately and joined; the joined ids are the definition of the
prompt, in training and in encoding. So the pooled span is right to the token, only the text is ever truncated, and
nothing in a text can open or close a turn. Knows tokenizers and templates, not models.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from tokenizers import AddedToken, Encoding
from transformers import PreTrainedTokenizerBase

from grace_st.engines.base import PromptTokens
from grace_st.surrogates import encodable

BATCH_CHARACTERS = 1_000_000
"""Characters tokenised at once, the last text's in excess."""

_MARKUP = re.compile(r"^\s*[<\[{|].*[>\]}|]\s*$", re.DOTALL)


class RepresentationPrompt:
    """Renders texts as prompts.

    Args:
        tokenizer: A fast tokenizer.
        head: Rendered template before the text. Special tokens in it are special tokens.
        tail: Rendered template after the text.
        eos_token_ids: Ids that end a rationale. A text never produces them, whatever kind of token they are.

    Raises:
        ValueError: The tokenizer is not a fast one, or makes nothing of the template.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, head: str, tail: str, eos_token_ids: Iterable[int] = ()
    ) -> None:
        if not tokenizer.is_fast:
            raise ValueError(
                f"{type(tokenizer).__name__} is not a fast tokenizer (it has no tokenizer.json), so special tokens in "
                "texts cannot be told from text: save a fast version of it with the model"
            )
        self.tokenizer = tokenizer
        self.head = head
        self.tail = tail
        self.eos_token_ids = frozenset(eos_token_ids)
        self._prepare()

    def _prepare(self) -> None:
        template = copy.deepcopy(self.tokenizer.backend_tokenizer)
        template.no_truncation()
        template.no_padding()
        self.head_ids = tuple(template.encode(self.head, add_special_tokens=False).ids)
        self.tail_ids = tuple(template.encode(self.tail, add_special_tokens=False).ids)
        if (self.head or self.tail) and not (self.head_ids or self.tail_ids):
            raise ValueError("the tokenizer makes no tokens of the template: are its files complete?")
        added = dict(template.get_added_tokens_decoder())
        in_template = {
            token_id
            for token_id in (*self.head_ids, *self.tail_ids)
            if token_id in added and added[token_id].content.strip()
        }
        # Structural: what could open or close something. Words that a user has added to the vocabulary, white space
        # (Gemma adds line breaks), and the token for what the vocabulary cannot express stay what they are.
        markup = {token_id for token_id, token in added.items() if token.special or _MARKUP.match(token.content)}
        unknown = {self.tokenizer.unk_token_id}
        self.structural_ids = frozenset((markup | in_template) - unknown | self.eos_token_ids)
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
        return {name: getattr(self, name) for name in ("tokenizer", "head", "tail", "eos_token_ids")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare()

    def frame(
        self, texts: Sequence[Sequence[int]], *, max_seq_length: int, instruction: str | None = None
    ) -> list[PromptTokens]:
        """Prompts of texts that are token ids already.

        Args:
            texts: Ids of each user's text, without special tokens; the ids are not looked at.
            max_seq_length: As for `tokenize`.
            instruction: As for `tokenize`.

        Returns:
            One prompt per text.

        Raises:
            ValueError: Head, instruction and tail alone leave no room for a text.
        """
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
            PromptTokens(head + tuple(ids[:room]) + self.tail_ids, len(head), truncated=len(ids) > room)
            for ids in texts
        ]

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
        if instruction is not None and not isinstance(instruction, str):
            raise TypeError(f"the instruction must be a string, got {type(instruction).__name__}: {instruction!r:.80}")
        return [
            tokens
            for batch in _batches(texts)
            for tokens in self.frame(self._text_ids(batch), max_seq_length=max_seq_length, instruction=instruction)
        ]

    def text_offsets(self, text: str) -> list[tuple[int, int]]:
        """Where in a text its tokens are, before any is cut off.

        Args:
            text: A user's text.

        Returns:
            First and last character (exclusive) of each token, in `encodable` text. Tokens that are parts of one
            character share it, and where a tokenizer's normalisation composes characters the range may be the first
            one's alone; a token of white space may have an empty range.
        """
        offsets = []
        place = 0
        text = encodable(text)
        for part, encoding in self._cut(text, self._plain.encode(text, add_special_tokens=False)):
            offsets += [(place + start, place + end) for start, end in encoding.offsets]
            place += len(part)
        return offsets

    def rationale_offsets(self, ids: Sequence[int]) -> list[tuple[int, int]]:
        """Where in the decoded rationale, `decode(ids)`, its tokens are.

        Args:
            ids: Token ids of a rationale.

        Returns:
            First and last character (exclusive) of each token. The ranges follow one another and cover the whole
            string; a token that only begins a character, or that is not shown, has an empty one.
        """
        whole = self.decode(ids)
        ends = [0]
        for count in range(1, len(ids)):
            shown = self.decode(ids[:count])
            # Where a character is not complete, or a later token changes what is shown, the shown part ends earlier.
            ends.append(max(ends[-1], _agreement(shown, whole)))
        return list(pairwise([*ends, len(whole)])) if ids else []

    def rationale_ids(self, rationale: str) -> tuple[int, ...]:
        """Ids of a rationale that is given as a string. Ids kept from a generation are more faithful."""
        return tuple(self._rationale.encode(encodable(rationale), add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Token ids as a string to show."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def _text_ids(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Ids of texts, none of them structural."""
        encoded = [encodable(text) for text in texts]
        encodings = self._plain.encode_batch(encoded, add_special_tokens=False)
        return [
            tuple(encoding.ids)
            if self.structural_ids.isdisjoint(encoding.ids)
            else tuple(token_id for _, part in self._cut(text, encoding) for token_id in part.ids)
            for text, encoding in zip(encoded, encodings, strict=True)
        ]

    def _cut(self, text: str, encoding: Encoding) -> list[tuple[str, Encoding]]:
        """The parts of a text that are tokenised separately, with their encodings.

        A vocabulary can reach a control token's id by its ordinary merges ("<s" and ">"). Such a text is cut inside
        those tokens.
        """
        parts, encodings = [text], [encoding]
        while True:
            cut: list[str] = []
            for part, part_encoding in zip(parts, encodings, strict=True):
                places = [0, *self._cuts(part, part_encoding), len(part)]
                cut.extend(part[start:end] for start, end in pairwise(places))
            if len(cut) == len(parts):
                return list(zip(parts, encodings, strict=True))
            parts, encodings = cut, self._plain.encode_batch(cut, add_special_tokens=False)

    def _cuts(self, text: str, encoding: Encoding) -> list[int]:
        """Where to cut a text: behind the first character of each structural token."""
        places = []
        for token_id, (start, end), token in zip(encoding.ids, encoding.offsets, encoding.tokens, strict=True):
            if token_id in self.structural_ids:
                if end - start < 2:
                    raise ValueError(
                        f"the tokenizer turns {text[start:end]!r} in a text into the control token {token!r}: this "
                        "tokenizer cannot tell text from structure"
                    )
                places.append(start + 1)
        return places


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """Texts in batches of bounded length: the encodings of whole books would fill the memory before they are cut."""
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _agreement(one: str, other: str) -> int:
    """How many characters two strings begin with in common."""
    if other.startswith(one):
        return len(one)
    return next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(other))
