"""``grace-st store``: look into a store of rationales, make room in it, write it out."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from grace_st.cli.command import Command, CommandError
from grace_st.cli.sizes import age, shown_size, size
from grace_st.cli.terminal import open_console, printable, write_json
from grace_st.model_files import check_model_folder

if TYPE_CHECKING:
    from grace_st.store import ExportedEntry, RationaleStore, SpaceInfo, StoreInfo

ACTIONS = ("info", "prune", "export")


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", choices=ACTIONS, metavar="|".join(ACTIONS), help="look into it, make room, or write it out"
    )
    parser.add_argument("store", metavar="FILE", help="the store, as given to `grace-st encode --store`")
    parser.add_argument(
        "--space", metavar="DIGEST", action="append", help="prune, export: only this space; its first letters do"
    )
    prune = parser.add_argument_group("prune")
    prune.add_argument("--older-than", metavar="AGE", type=age, help="remove what is older, e.g. 30d")
    prune.add_argument("--max-size", metavar="SIZE", type=size, help="remove the oldest until it is smaller, e.g. 2GB")
    export = parser.add_argument_group("export")
    export.add_argument("--output", metavar="FILE", help="JSON lines (default: standard output)")
    export.add_argument("--model", metavar="DIR", help="the model folder, to write rationales as text as well")
    export.add_argument("--no-vectors", action="store_true", help="leave the vectors out")


def _run(arguments: argparse.Namespace) -> int:
    _check(arguments)
    if arguments.action == "info":
        return _info(arguments)
    return _prune(arguments) if arguments.action == "prune" else _export(arguments)


def _check(arguments: argparse.Namespace) -> None:
    wrong = {
        "info": ("space", "older_than", "max_size", "output", "model", "no_vectors"),
        "prune": ("output", "model", "no_vectors"),
        "export": ("older_than", "max_size"),
    }
    for name in wrong[arguments.action]:
        given = getattr(arguments, name)
        if given is not None and given is not False:  # and not 0, which is a size and an age
            raise CommandError(f"--{name.replace('_', '-')} has no meaning with `store {arguments.action}`")
    if not Path(arguments.store).expanduser().exists():
        raise FileNotFoundError(f"there is no store {arguments.store}: `grace-st encode --store` makes one")
    criteria = (arguments.space, arguments.older_than, arguments.max_size)
    if arguments.action == "prune" and all(given is None for given in criteria):
        raise CommandError("say what goes: --space, --older-than or --max-size")
    if arguments.action == "export" and arguments.json:
        raise CommandError("an export is JSON lines already: leave --json out")
    if arguments.action == "export" and len(arguments.space or ()) > 1:
        raise CommandError("one --space at a time can be exported")


def _info(arguments: argparse.Namespace) -> int:
    from grace_st.store import RationaleStore

    with RationaleStore(arguments.store, read_only=True) as store:
        info = store.info()
    if arguments.json:
        write_json(_as_json(info))
        return 0
    console = open_console()
    console.print(f"{info.path}: {info.entries} entries, {shown_size(info.bytes)}", soft_wrap=True, markup=False)
    for space in info.spaces:
        console.print(
            f"  {space.digest[:12]}  {space.entries:>8} entries  {_described(space)}", soft_wrap=True, markup=False
        )
    return 0


def _described(space: SpaceInfo) -> str:
    settings = space.settings
    made = time.strftime("%Y-%m-%d", time.localtime(space.created))
    sampling = settings.get("sampling", {})
    budget = sampling.get("max_new_tokens")
    how = "sampled" if sampling.get("do_sample") else "greedy"
    weights = str(settings.get("weights", "?"))[:8]
    return f"{made}  weights {weights} in {settings.get('dtype')} on {settings.get('device')}, {budget} tokens, {how}"


def _as_json(info: StoreInfo) -> dict[str, Any]:
    spaces = [
        {"digest": space.digest, "entries": space.entries, "created": space.created, "settings": space.settings}
        for space in info.spaces
    ]
    return {"path": str(info.path), "bytes": info.bytes, "entries": info.entries, "spaces": spaces}


def _prune(arguments: argparse.Namespace) -> int:
    from grace_st.store import RationaleStore

    with RationaleStore(arguments.store) as store:
        removed = store.prune(
            spaces=arguments.space or (), older_than=arguments.older_than, max_bytes=arguments.max_size
        )
        info = store.info()
    if arguments.json:
        write_json({"removed": removed, **_as_json(info)})
    else:
        open_console().print(
            f"{removed} entries removed; {info.entries} left, {shown_size(info.bytes)}", soft_wrap=True, markup=False
        )
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from grace_st.store import RationaleStore

    decode = None if arguments.model is None else _decoder(arguments.model)
    with RationaleStore(arguments.store, read_only=True) as store:
        spaces = store.info().spaces
        if decode is not None and not arguments.space and len(spaces) > 1:
            # One tokenizer would turn the ids of other models into nonsense.
            listed = ", ".join(space.digest[:12] for space in spaces)
            raise CommandError(f"--model is one model's, and the store has several spaces: add --space, of {listed}")
        _write_lines(arguments, store, decode)
    return 0


def _write_lines(arguments: argparse.Namespace, store: RationaleStore, decode: Any) -> None:
    with _stream(arguments.output) as stream:
        for entry in store.export(arguments.space[0] if arguments.space else None):
            line = _line(entry, vectors=not arguments.no_vectors)
            if decode is not None:
                line["rationale"] = printable(decode(entry.rollout.ids))
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")


def _line(entry: ExportedEntry, *, vectors: bool) -> dict[str, Any]:
    rollout = entry.rollout
    line: dict[str, Any] = {
        "space": entry.space,
        "key": entry.key,
        "rationale_ids": list(rollout.ids),
        "finished": rollout.stop_id is not None,
        "created": entry.created,
    }
    if vectors:
        line["embedding"] = [float(value) for value in rollout.vector]
    return line


def _decoder(folder: str) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(check_model_folder(folder), local_files_only=True)
    return lambda ids: tokenizer.decode(ids, skip_special_tokens=True)


@contextmanager
def _stream(output: str | None) -> Iterator[IO[str]]:
    if output is None or output == "-":
        yield sys.stdout
        return
    path = Path(output).expanduser()
    partial = path.with_name(f"{path.name}.partial")
    if path.exists():
        raise FileExistsError(f"{path} exists: choose another output")
    try:
        with partial.open("w", encoding="utf-8") as stream:
            yield stream
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


COMMAND = Command(
    summary="look into a store of rationales, make room in it, write it out",
    description=(
        "A store keeps what was generated, so that it is not generated again. `info` says what is in it: one space for "
        "each model, precision and budget; `prune` removes entries; `export` writes them as JSON lines."
    ),
    examples=(
        "grace-st store info rationales.sqlite",
        "grace-st store prune rationales.sqlite --older-than 30d",
        "grace-st store export rationales.sqlite --space 3f2a --model models/mine --no-vectors",
    ),
    configure=_configure,
    run=_run,
)
