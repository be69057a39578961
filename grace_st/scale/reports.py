"""What workers tell the driver, in JSON: of a shard, also at the end of its file, or of an error."""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping
from typing import Any

from grace_st.bulk.formats import import_parquet
from grace_st.bulk.rows import InputError
from grace_st.scale.errors import RemoteTracebackError, WorkerError
from grace_st.scale.files import Place
from grace_st.scale.stores import machine

METADATA_KEY = "grace_st"
"""Of the metadata of a Parquet file, under which a shard's report is."""

ERRORS: Mapping[str, type[Exception]] = {
    "InputError": InputError,
    "OSError": OSError,
    "ValueError": ValueError,
    "ArithmeticError": ArithmeticError,
}
"""What a worker reports as it is. Anything else is a fault, and reported with its traceback."""


def shard_report(place: Place) -> dict[str, Any] | None:
    """What the end of a shard says of it; None where there is no whole shard.

    Raises:
        OSError: It is there, and cannot be read.
    """
    pyarrow, parquet = import_parquet()
    if not place.exists():
        return None
    try:
        with place.system.open_input_file(place.path) as stream, parquet.ParquetFile(stream) as file:
            said = file.metadata.metadata.get(METADATA_KEY.encode())
            rows = file.metadata.num_rows
    except pyarrow.ArrowInvalid:  # cut off
        return None
    report: dict[str, Any] | None = None if said is None else json.loads(said)
    return report if report is not None and report["rows"] == rows else None


def error_report(error: Exception, place: str) -> dict[str, str]:
    """What is told of an error; call it where the error is handled.

    Args:
        error: The error.
        place: What the process was at.
    """
    said = " ".join([str(error), *getattr(error, "__notes__", [])]) or type(error).__name__
    kind = next((name for name, known in ERRORS.items() if isinstance(error, known)), None)
    if kind is not None:
        return {"kind": kind, "error": said}
    return {
        "error": f"{place} on {machine()}: {type(error).__name__}: {said}",
        "traceback": traceback.format_exc(),
    }


def raise_reported(report: Mapping[str, Any]) -> None:
    """Raise the error that a report tells of, if it tells of one.

    Raises:
        WorkerError: A fault, with the traceback from there as its cause.
        ValueError, OSError, ArithmeticError: One of `ERRORS`, as it was raised there.
    """
    if "traceback" in report:
        raise WorkerError(report["error"]) from RemoteTracebackError(f"\n{report['traceback']}")
    if "error" in report:
        raise ERRORS[report["kind"]](report["error"])
