"""Tiny runs, as those of the local trainer."""

from tests.train.local.conftest import make_config, train_file

__all__ = ["make_config", "train_file"]
