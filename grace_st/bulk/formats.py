"""Which format a file has: by its suffix, unless it is named. And the optional library that Parquet needs."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Literal, get_args

InputFormat = Literal["text", "jsonl", "csv", "tsv", "parquet"]
OutputFormat = Literal["npy", "parquet", "jsonl"]

INPUT_FORMATS: tuple[InputFormat, ...] = get_args(InputFormat)
OUTPUT_FORMATS: tuple[OutputFormat, ...] = get_args(OutputFormat)

_INPUT_SUFFIXES: dict[str, InputFormat] = {
    ".txt": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
_OUTPUT_SUFFIXES: dict[str, OutputFormat] = {
    ".npy": "npy",
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
COMPRESSED = ".gz"


def input_format_of(path: Path) -> InputFormat:
    """The format of an input by its suffix; ``.gz`` after it is looked through.

    Raises:
        ValueError: The suffix names none.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == COMPRESSED:
        suffixes.pop()
    found = _INPUT_SUFFIXES.get(suffixes[-1]) if suffixes else None
    if found is None:
        raise ValueError(
            f"cannot tell the format of {path} by its name ({', '.join(_INPUT_SUFFIXES)}, and {COMPRESSED} after those "
            f"of text): name it with --input-format ({', '.join(INPUT_FORMATS)})"
        )
    return found


def output_format_of(path: Path) -> OutputFormat:
    """The format of an output by its suffix.

    Raises:
        ValueError: The suffix names none.
    """
    found = _OUTPUT_SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise ValueError(
            f"cannot tell the format of {path} by its name ({', '.join(_OUTPUT_SUFFIXES)}): name it with "
            f"--output-format ({', '.join(OUTPUT_FORMATS)})"
        )
    return found


class MissingParquetError(ImportError, ValueError):
    """pyarrow, which reads and writes Parquet, is not installed."""


def import_parquet() -> tuple[ModuleType, ModuleType]:
    """``pyarrow`` and ``pyarrow.parquet``.

    Raises:
        MissingParquetError: They are not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingParquetError("Parquet needs pyarrow: pip install 'grace-st[parquet]'") from error
    return pyarrow, pyarrow.parquet
