"""Finished runs that lie beside the command, a line of JSON each: a new machine does not make them again."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.experiment import Planned, result_path, write_text

_DIGITS = 6
_LOGGED = "_std"  # of the training log, tables have deviations within groups


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The recorded runs by their names; none where there is no file."""
    if not path.is_file():
        return {}
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {line["name"]: line for line in lines}


def restore(path: Path, output: Path, runs: Iterable[Planned]) -> int:
    """Put the recorded results of runs into an experiment's folder where they are missing.

    Args:
        path: Of the recorded runs.
        output: The experiment's folder.
        runs: Those that are planned: a record of another digest is not theirs.

    Returns:
        How many were put there.
    """
    records = read(path)
    missing = [
        run
        for run in runs
        if records.get(run.name, {}).get("digest") == run.digest and not result_path(output, run.name).is_file()
    ]
    for run in missing:
        content = {name: value for name, value in records[run.name].items() if name != "name"}
        write_text(result_path(output, run.name), json.dumps(content, indent=1) + "\n")
    return len(missing)


def record(path: Path, contents: Mapping[str, Mapping[str, Any]], known: Collection[str]) -> None:
    """Write the finished runs, in the order of their names.

    Args:
        path: Of the recorded runs.
        contents: Results by the names of their runs; those that failed are left out.
        known: Names of the runs that are planned here. Records of other runs stay.
    """
    kept = {name: line for name, line in read(path).items() if name not in known}
    done = {name: _short(name, content) for name, content in contents.items() if content["status"] == "done"}
    lines = [json.dumps(line, separators=(",", ":")) for _, line in sorted((kept | done).items())]
    write_text(path, "".join(f"{line}\n" for line in lines))


def _short(name: str, content: Mapping[str, Any]) -> dict[str, Any]:
    log = content["training"]
    if log is not None:
        log = {key: values for key, values in log.items() if key.endswith(_LOGGED)}
    rounded: dict[str, Any] = _rounded({**content, "training": log})
    return {"name": name, **rounded}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value
