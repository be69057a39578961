"""A process that publishes: it runs commands of ``grace-st`` and says how each ended.

The hub's address and the offline switch are read when huggingface_hub is imported, so they cannot be changed here in a
running test.
"""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout

from grace_st.cli import main

if __name__ == "__main__":
    ended = []
    for token, words in json.loads(sys.argv[1]):
        os.environ["HF_TOKEN"] = token
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = main(words)
        ended.append({"code": code, "out": out.getvalue(), "err": err.getvalue()})
    json.dump(ended, sys.stdout)
