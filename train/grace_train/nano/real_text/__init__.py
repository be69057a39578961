"""Real text for small models: openly licensed data sets, and rationales that are written from their labels.

No large model wrote any of it. What MedQuAD, SNIPS and WikiText say about each text (the disease, the kind of question,
the intent and its slots, the article) is what a rationale about it tells.
"""

from grace_train.nano.real_text.corpus import TextCorpus
from grace_train.nano.real_text.sources import SourceError

__all__ = ["SourceError", "TextCorpus"]
