"""The command line with the training command in it, whether or not the distribution is installed."""

from __future__ import annotations

import sys
from unittest import mock

from grace_st.cli import app
from grace_train.cli.train import COMMAND

if __name__ == "__main__":
    with mock.patch.object(app, "available_commands", lambda: {"train": lambda: COMMAND}):
        sys.exit(app.main(sys.argv[1:]))
