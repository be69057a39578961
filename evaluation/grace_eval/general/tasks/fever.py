"""What ``fever.yaml`` calls."""

from __future__ import annotations

from typing import Any

LABELS = ("SUPPORTS", "REFUTES")


def two_labels(rows: Any) -> Any:
    """The rows of a data set whose label is one of the two."""
    return rows.filter(lambda row: row["label"] in LABELS)
