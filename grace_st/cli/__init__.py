"""The ``grace-st`` command.

Nothing here imports torch: a command does that when it runs, so that ``grace-st --help`` is instant.
"""

from grace_st.cli.app import main
from grace_st.cli.command import Command

__all__ = ["Command", "main"]
