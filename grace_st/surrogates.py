"""Lone surrogates: characters that Python's strings can hold, and UTF-8 cannot. Imports nothing heavy."""

from __future__ import annotations


def encodable(text: str) -> str:
    """The text with lone surrogates, which UTF-8 cannot hold, replaced by U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
