"""Everyday remarks about nothing in the knowledge base.

Such a text gets a modest rationale, and no invented entity.
"""

from __future__ import annotations

import random

_WHO = (
    "I",
    "We",
    "My sister",
    "My brother",
    "A friend",
    "The neighbours",
    "The children",
    "Our teacher",
    "He",
    "She",
)
_WHEN = (
    "today",
    "yesterday",
    "last week",
    "this morning",
    "in the evening",
    "at the weekend",
    "again",
    "for an hour",
)
# topic, what happened, other remarks
_TOPICS = (
    ("work", ("wrote a report", "had a long meeting", "called a customer", "finished the project", "worked late"),
     ("The meeting starts at nine.", "Please send me the report.", "The deadline is on Friday.")),
    ("the home", ("cleaned the kitchen", "painted the wall", "moved the sofa", "fixed the door", "watered the flowers"),
     ("The tap is dripping.", "The room is too small.", "Where did I put the keys?")),
    ("the weather", ("waited for the rain to stop", "walked in the snow", "sat in the sun", "forgot the umbrella"),
     ("It will rain tomorrow.", "What a cold day!", "The wind is strong today.", "Will it snow this week?")),
    ("money", ("paid the bill", "opened a bank account", "saved some money", "asked for a loan", "sold the old car"),
     ("How much does it cost?", "The price went up.", "The rent is due on Monday.")),
    ("health", ("caught a cold", "went to the doctor", "slept badly", "felt tired", "had a headache"),
     ("How can I sleep better?", "My back hurts.", "Take the pills twice a day.")),
    ("computers", ("restarted the computer", "lost the password", "installed an update", "sent an email"),
     ("The printer does not work.", "How do I reset my password?", "The program crashes at start.",
      "The internet is slow.")),
    ("family and friends", ("visited the grandparents", "had a party", "wrote a letter", "met an old friend"),
     ("Happy birthday!", "See you soon.", "Thank you for the present.")),
    ("travel", ("missed the train", "packed the suitcase", "booked a room", "drove for hours", "bought a ticket"),
     ("When does the bus leave?", "The flight is late.", "The hotel was nice and quiet.")),
    ("feelings", ("was happy", "laughed a lot", "worried too much", "cried at the end of the film"),
     ("I am so tired.", "That was a wonderful day.", "Nothing went right.")),
)  # fmt: skip
_RATIONALES = (
    "<think>No particular thing is named.</think>\nThe text is about {topic}.",
    "<think>An everyday remark; no particular thing is named.</think>\nThis is a short text about {topic}.",
    "<think>Nothing here points to a particular thing.</think>\nIt is an everyday text about {topic}.",
)


def everyday_text(rng: random.Random) -> tuple[str, str]:
    """One everyday remark and its topic."""
    topic, events, remarks = rng.choice(_TOPICS)
    if rng.random() < 0.5:
        return rng.choice(remarks), topic
    event = rng.choice(events)
    who = rng.choice(_WHO)
    if event.startswith("was ") and who in ("We", "The neighbours", "The children"):
        event = f"were {event.removeprefix('was ')}"
    return f"{who} {event} {rng.choice(_WHEN)}.", topic


def everyday_rationale(topic: str, rng: random.Random) -> str:
    """A rationale for an everyday remark."""
    return rng.choice(_RATIONALES).format(topic=topic)
