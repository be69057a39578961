"""The tiny runs of the local trainer's tests."""

from tests.train.local.conftest import make_config, train_file

__all__ = ["make_config", "train_file"]
