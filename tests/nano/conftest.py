from __future__ import annotations

import pytest

from grace_train.nano.corpus import Corpus


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    """The corpus of the package's own knowledge base."""
    return Corpus()
