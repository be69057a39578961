"""Files of one JSON object a line that are appended to, each with its step, and survive an interruption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grace_st.bulk.rows import json_line, parse_json
from grace_train.files import naming, write_atomically


class StepFile:
    """Appends records to a file; each is there when `append` returns, as far as the operating system goes.

    Nothing is opened before the first record, so that `continue_from` can come first.

    Args:
        path: The file. Its folder is made when it is needed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._continues = False

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append records, each with a ``"step"``.

        Raises:
            FileExistsError: The file is from another run, and `continue_from` was not called.
        """
        if not self._continues:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                raise FileExistsError(
                    f"{self.path} is there from another run: resume that run, or choose another folder"
                )
            self._continues = True
        # One write of whole lines: an interruption can tear the last line only.
        with naming(self.path), self.path.open("ab") as file:
            file.write(b"".join(json_line(record) for record in records))

    def continue_from(self, step: int, of_step: int | None = None) -> list[dict[str, Any]]:
        """Keep what is of ``step`` and before, drop what is later or torn, and append to it from now on.

        Args:
            step: The last step that is done.
            of_step: Keep only so many records of that step itself, the first ones.

        Returns:
            What is kept. Nothing if there is no file.
        """
        self._continues = True
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            return []
        records = read_records(self.path)
        kept = [record for record in records if record["step"] < step]
        kept += [record for record in records if record["step"] == step][:of_step]
        content = b"".join(json_line(record) for record in kept)
        write_atomically(self.path, lambda temporary: temporary.write_bytes(content))
        return kept


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a file; a last line that an interruption has torn is left out.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Another line is no JSON object with a ``"step"``.
    """
    lines = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = parse_json(line.decode("utf-8"))
            whole = isinstance(record, dict) and isinstance(record.get("step"), int)
        except ValueError:
            whole = False
        if whole:
            records.append(record)
        elif number < len(lines):
            raise ValueError(
                f"{path}: line {number} is no JSON object with a step: the file was changed; put it back, or move it "
                "away"
            )
    return records
