"""The packages that training needs beside those of encoding, looked for before any work starts."""

from __future__ import annotations

from importlib.util import find_spec

TRAINING = ("pyarrow", "matplotlib")


class MissingExtraError(ImportError, ValueError):
    """A package that is asked for is not installed."""


def require_packages(*names: str) -> None:
    """Refuse to start without some packages.

    Raises:
        MissingExtraError: Names what is missing and the command that installs it.
    """
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise MissingExtraError(f"training needs {' and '.join(missing)}: pip install 'grace-st[train]'")
