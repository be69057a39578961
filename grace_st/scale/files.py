"""Files and folders by path or URI: local, ``s3://``, ``gs://``, ``hf://`` and whatever else pyarrow opens."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from grace_st.bulk.formats import COMPRESSED, InputFormat, import_parquet, input_format_of
from grace_st.bulk.rows import InputError

CorpusFormat = Literal["jsonl", "parquet"]

CORPUS_FORMATS: tuple[CorpusFormat, ...] = get_args(CorpusFormat)

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True, kw_only=True)
class Place:
    """A path on a file system.

    Attributes:
        system: A ``pyarrow.fs.FileSystem``.
        path: As the file system writes it.
        shown: As the user writes it.
    """

    system: Any
    path: str
    shown: str

    @property
    def is_local(self) -> bool:
        """Whether it is on a disk of this machine, or one that is mounted like it."""
        return str(self.system.type_name) == "local"

    @property
    def parent(self) -> str:
        """The path of the folder that it is in."""
        return self.path.rpartition("/")[0] or "/"

    def exists(self) -> bool:
        """Whether there is a file or a folder."""
        from pyarrow import fs

        return bool(self.system.get_file_info(self.path).type != fs.FileType.NotFound)

    def child(self, name: str) -> Place:
        """What has this name in it."""
        return Place(
            system=self.system, path=f"{self.path.rstrip('/')}/{name}", shown=f"{self.shown.rstrip('/')}/{name}"
        )


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """A file of the corpus.

    Attributes:
        name: Its path below the folder, or the part of the pattern, that was named; made ids begin with it.
        path: On the input's file system.
        format: How it is read.
        size: In bytes.
        changed: When it was changed last, in nanoseconds since 1970; 0 where the file system does not say.
    """

    name: str
    path: str
    format: CorpusFormat
    size: int
    changed: int

    @property
    def is_compressed(self) -> bool:
        """Whether it is read through gzip."""
        return self.format == "jsonl" and self.path.lower().endswith(COMPRESSED)


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The files of a corpus.

    Attributes:
        place: What was named.
        files: In the order of their names.
        others: Files of the folder that are neither Parquet nor JSON lines.
    """

    place: Place
    files: tuple[InputFile, ...]
    others: tuple[str, ...] = ()


def place_of(name: str) -> Place:
    """The place that a path or a URI names.

    Raises:
        ValueError: No library here knows the URI.
        OSError: The file system cannot be reached.
    """
    pyarrow, _ = import_parquet()
    from pyarrow import fs

    if not _URI.match(name):
        return Place(system=fs.LocalFileSystem(), path=os.path.normpath(Path(name).expanduser().absolute()), shown=name)
    try:
        system, path = fs.FileSystem.from_uri(name)
    except (pyarrow.ArrowException, ValueError, ImportError) as error:
        raise ValueError(
            f"{name} cannot be opened ({error}): name a path, or a URI that pyarrow knows, such as s3://bucket/folder "
            "or hf://datasets/owner/name"
        ) from error
    return Place(system=system, path=path.rstrip("/") or path, shown=name)


def list_files(name: str, input_format: InputFormat | None = None) -> Listing:
    """The files that a path, a URI or a pattern (``*``, ``?``, ``[ab]``, ``**`` for any folders) names.

    In a folder, names that begin with a dot or an underscore are passed over, as Ray, Spark and pyarrow do.

    Args:
        name: A file, a folder or a pattern.
        input_format: How all of them are read, whatever their names say.

    Raises:
        FileNotFoundError: There is nothing.
        InputError: The format of a file is not known, or is not read here.
        ValueError: See `place_of`.
    """
    if input_format is not None and input_format not in CORPUS_FORMATS:
        raise InputError(
            f"--ray reads {' and '.join(CORPUS_FORMATS)}, not {input_format}: leave --ray out, or convert it"
        )
    place = place_of(name)
    if place.exists() or not _GLOB.search(place.path):
        return _named(place, input_format)
    return _matching(place, input_format)


def _named(place: Place, input_format: InputFormat | None) -> Listing:
    from pyarrow import fs

    info = place.system.get_file_info(place.path)
    if info.type == fs.FileType.NotFound:
        raise FileNotFoundError(f"there is no file or folder {place.shown}")
    if info.type != fs.FileType.Directory:
        return Listing(place=place, files=(_file(info, place.parent, input_format),))
    infos = [info for info in _below(place, place.path) if not _is_hidden(_relative(info.path, place.path))]
    known = [info for info in infos if input_format is not None or _format_of(info.path) in CORPUS_FORMATS]
    if not known:
        raise FileNotFoundError(
            f"there are no files of Parquet or JSON lines (.parquet, .jsonl, .ndjson, and {COMPRESSED} after the "
            f"latter two) in {place.shown}: check that it is the right folder, or name their format with --input-format"
        )
    others = tuple(sorted(_relative(info.path, place.path) for info in infos if info not in known))
    return Listing(place=place, files=_sorted(known, place.path, input_format), others=others)


def _matching(place: Place, input_format: InputFormat | None) -> Listing:
    parts = place.path.split("/")
    first = next(index for index, part in enumerate(parts) if _GLOB.search(part))
    base = "/".join(parts[:first]) or "/"
    patterns = parts[first:]
    infos = [info for info in _below(place, base) if _matches(_relative(info.path, base).split("/"), patterns)]
    if not infos:
        raise FileNotFoundError(f"no file matches {place.shown}")
    return Listing(place=place, files=_sorted(infos, base, input_format))


def _below(place: Place, folder: str) -> list[Any]:
    """Information on all files in a folder and its folders."""
    from pyarrow import fs

    found = place.system.get_file_info(fs.FileSelector(folder, recursive=True, allow_not_found=True))
    return [info for info in found if info.type == fs.FileType.File]


def _sorted(infos: Sequence[Any], base: str, input_format: InputFormat | None) -> tuple[InputFile, ...]:
    return tuple(sorted((_file(info, base, input_format) for info in infos), key=lambda file: file.name))


def _file(info: Any, base: str, input_format: InputFormat | None) -> InputFile:
    found = input_format or input_format_of(Path(info.path))
    if found != "jsonl" and found != "parquet":
        raise InputError(
            f"{info.path} is {found}, and --ray reads {' and '.join(CORPUS_FORMATS)}: leave it out, or convert it"
        )
    return InputFile(
        name=_relative(info.path, base),
        path=info.path,
        format=found,
        size=int(info.size or 0),
        changed=int(info.mtime_ns or 0),
    )


def _format_of(path: str) -> InputFormat | None:
    try:
        return input_format_of(Path(path))
    except ValueError:
        return None


def _relative(path: str, base: str) -> str:
    return path.removeprefix(base.rstrip("/")).lstrip("/")


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "_")) for part in name.split("/"))


def _matches(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether the parts of a path are those of a pattern, in which ``**`` stands for any number of folders."""
    if not patterns:
        return not parts
    if patterns[0] == "**":
        return any(_matches(parts[skipped:], patterns[1:]) for skipped in range(len(parts) + 1))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], patterns[0]) and _matches(parts[1:], patterns[1:])
