"""The tiny runs of the local trainer's tests, for the other engine."""

from __future__ import annotations

from tests.train.local.conftest import make_config, train_file

__all__ = ["make_config", "train_file"]
