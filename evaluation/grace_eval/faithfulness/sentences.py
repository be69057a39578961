"""Where sentences end in a sequence of tokens, and which tokens are ordinary ones. Knows tokenizers, not models."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from transformers import PreTrainedTokenizerBase

_MARKS = ("\u2581", "\u0120")  # how SentencePiece and byte-level BPE write a leading space
_LONGEST_LETTER = 4  # bytes in UTF-8
_TERMINATED = re.compile(r"[.!?\u2026\u3002\uff01\uff1f][\"'\u201d\u2019)\]*_`]*\s*$")
_ASIAN = re.compile(r"[\u3002\uff01\uff1f]\s*$")  # followed by no space


def sentence_ends(pieces: Sequence[str]) -> list[int]:
    """Where the sentences end: after a full stop, question mark or exclamation mark before a space, and after a line.

    Args:
        pieces: The text of each token, leading spaces included.

    Returns:
        For each sentence the index behind its last token, ascending; the last is the number of tokens. A sentence
        without a letter or digit (a lone bullet) belongs to the one before it.
    """
    ends: list[int] = []
    start, written = 0, ""
    for index, piece in enumerate(pieces):
        written = (written + piece)[-16:]
        following = pieces[index + 1] if index + 1 < len(pieces) else " "
        breaks = "\n" in piece and following.strip("\n") != ""
        stops = bool(_TERMINATED.search(written)) and (following[:1].isspace() or bool(_ASIAN.search(written)))
        if breaks or stops:
            if any(letter.isalnum() for part in pieces[start : index + 1] for letter in part):
                ends.append(index + 1)
            elif ends:
                ends[-1] = index + 1
            else:
                continue
            start, written = index + 1, ""
    if start < len(pieces):
        if ends and not any(letter.isalnum() for part in pieces[start:] for letter in part):
            ends[-1] = len(pieces)
        else:
            ends.append(len(pieces))
    return ends


def token_pieces(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """The text of each token, with the space that it begins with.

    Letters that are spread over several tokens belong to the last of these; the others have no text.
    """
    pieces: list[str] = []
    pending: list[int] = []
    for token_id in ids:
        pending.append(token_id)
        piece = str(tokenizer.decode(pending))
        if piece.endswith("\ufffd") and len(pending) < _LONGEST_LETTER:
            pieces.append("")
            continue
        token = str(tokenizer.convert_ids_to_tokens(pending[0]))
        pieces.append(f" {piece}" if token.startswith(_MARKS) and not piece.startswith(" ") else piece)
        pending = []
    return pieces


def ordinary_tokens(tokenizer: PreTrainedTokenizerBase, size: int, reserved: Iterable[int] = ()) -> list[int]:
    """Ids of ordinary text: below ``size``, known to the tokenizer, and neither added to it, special, nor reserved.

    Args:
        tokenizer: The tokenizer.
        size: How many token ids the model has embeddings for.
        reserved: Further ids that are left out: those that end a rationale.
    """
    left_out = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids, *reserved}
    return sorted(
        token_id for token_id in tokenizer.get_vocab().values() if token_id < size and token_id not in left_out
    )
