"""``python -m grace_st``: the ``grace-st`` command, where that is not on the path."""

import sys

from grace_st.cli import main

if __name__ == "__main__":  # worker processes that are spawned import this file again
    sys.exit(main())
