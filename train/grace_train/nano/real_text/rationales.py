"""What a rationale about a real text says: what its data set knows about it, in three styles as in grace-nano.

Full ones have it all, medium ones the subject, vague ones only what kind of text it is.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence

from grace_train.nano.rationales import Style, choose
from grace_train.nano.real_text.sources import Answer, Sentence, Utterance

_KINDS = {
    "information": "what it is",
    "symptoms": "its symptoms",
    "treatment": "how it is treated",
    "inheritance": "whether it is inherited",
    "frequency": "how many people it affects",
    "genetic changes": "the genes behind it",
    "causes": "its causes",
    "exams and tests": "how it is diagnosed",
    "research": "research on it",
    "outlook": "its outlook",
    "susceptibility": "who is at risk",
    "considerations": "what to consider",
    "prevention": "how to prevent it",
    "stages": "its stages",
    "complications": "its complications",
    "support groups": "who can help",
}
_WISHES = {
    "AddToPlaylist": "add music to a playlist",
    "BookRestaurant": "book a table at a restaurant",
    "GetWeather": "know the weather",
    "PlayMusic": "play music",
    "RateBook": "rate a book",
    "SearchCreativeWork": "find a creative work",
    "SearchScreeningEvent": "find film showings",
}
_OPENING_WORDS = 10
_KEY_WORDS = 4


def about_question(item: Answer, style: Style, rng: random.Random) -> str:
    """A rationale about a medical question."""
    if style == "vague":
        return "<think>A question about health.</think>\nThe text asks for medical advice."
    opening = " ".join(item.answer.split()[:_OPENING_WORDS])
    return _medical(item, style, rng, ("asks about", "asks"), f"An answer could begin: {opening}")


def about_answer(item: Answer, style: Style, rng: random.Random) -> str:
    """A rationale about a medical answer: what it would be asked for."""
    if style == "vague":
        return "<think>A note about health.</think>\nThe text gives medical advice."
    return _medical(item, style, rng, ("is about", "tells"), f"It answers: {item.question}")


def _medical(item: Answer, style: Style, rng: random.Random, verbs: tuple[str, str], other_side: str) -> str:
    about, what = verbs
    asked = _KINDS.get(item.kind, item.kind)
    if style == "full":
        return f"<think>The subject is {item.focus}, and {asked}. {other_side}</think>\nAbout {item.focus}: {asked}."
    statement = choose(((2, f"The text {about} {item.focus}."), (1, f"It {what} {asked}.")), rng)
    return f"<think>The subject is {item.focus}.</think>\n{statement}"


def about_utterance(item: Utterance, style: Style) -> str:
    """A rationale about a request: the wish, and with what."""
    wish = _WISHES[item.intent]
    if style == "vague":
        return "<think>Someone asks for something.</think>\nThe text is a request."
    if style == "medium" or not item.slots:
        return f"<think>The wish is to {wish}.</think>\nThe text is a request to {wish}."
    slots = "; ".join(f"{name.replace('_', ' ')}: {value}" for name, value in item.slots)
    return f"<think>The wish is to {wish}. Given: {slots}.</think>\nThe text is a request to {wish}."


def about_sentence(item: Sentence, style: Style, rare: Counter[str]) -> str:
    """A rationale about a sentence: its key words and where it is from."""
    if style == "vague":
        return "<think>A sentence that tells something.</think>\nThe text is from an article."
    words = ", ".join(key_words(item.text, rare))
    if style == "medium":
        return f"<think>Key words: {words}.</think>\nThe text is about {words}."
    return (
        f"<think>Key words: {words}. It could be from an article on {item.article}.</think>\nThe text is about {words}."
    )


def key_words(text: str, counts: Counter[str], most: int = _KEY_WORDS) -> Sequence[str]:
    """The rarest longer words of a text, in their order in it; the first word where none is longer."""
    words = list(dict.fromkeys(re.findall(r"[^\W\d_]{4,}", text))) or text.split()[:1]
    chosen = sorted(words, key=lambda word: (counts[word.casefold()], words.index(word)))[:most]
    return [word for word in words if word in chosen]


def word_counts(texts: Sequence[str]) -> Counter[str]:
    """How often each word occurs, without regard to case."""
    return Counter(word.casefold() for text in texts for word in re.findall(r"[^\W\d_]{4,}", text))
