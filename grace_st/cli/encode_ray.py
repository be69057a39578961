"""``grace-st encode --ray``: its options, and its call of ``grace_st.scale``. Imports no Ray before there is work."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grace_st.cli.command import CommandError
from grace_st.cli.terminal import open_console, write_json
from grace_st.scale import DEFAULT_SHARD_ROWS

if TYPE_CHECKING:
    from grace_st.bulk.resuming import Mode
    from grace_st.scale.worker import StoringEncoderLoader

_OPTIONS = ("workers", "address", "gpus_per_worker", "shard_rows")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    ray = parser.add_argument_group(
        "many workers (docs/scale.md)", "Parquet and JSON lines, of any number of files, to a folder of Parquet files"
    )
    ray.add_argument("--ray", action="store_true", help="encode with workers on a Ray cluster, or on this machine")
    ray.add_argument(
        "--workers", metavar="N", type=_at_least_one, help="engines at once (default: one for each GPU, or machine)"
    )
    ray.add_argument(
        "--address", metavar="NAME", help="of the Ray cluster; auto finds the one that runs here (default: start one)"
    )
    ray.add_argument(
        "--gpus-per-worker", metavar="X", type=_at_least_zero, help="default: 1 where there are GPUs; 0 uses none"
    )
    ray.add_argument(
        "--shard-rows",
        metavar="N",
        type=_at_least_one,
        help=f"rows of a file of OUTPUT (default: {DEFAULT_SHARD_ROWS})",
    )


def _at_least_one(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer >= 1, got {text!r}")
    return int(text)


def _at_least_zero(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number >= 0, got {text!r}")
    return number


def check_unused(arguments: argparse.Namespace) -> None:
    """Refuse options of this file without ``--ray``.

    Raises:
        CommandError: One is given.
    """
    for name in _OPTIONS:
        if getattr(arguments, name) is not None:
            raise CommandError(f"{_option(name)} has no meaning without --ray")


def check(arguments: argparse.Namespace) -> None:
    """Refuse what has no meaning with ``--ray``.

    Raises:
        CommandError: One of the arguments has none.
    """
    for name, what in (("input", "standard input"), ("output", "standard output")):
        if getattr(arguments, name) == "-":
            raise CommandError(f"--ray needs a file or a folder for {name.upper()}, not {what}: leave --ray out")
    if arguments.output_format not in (None, "parquet"):
        raise CommandError(f"--ray writes Parquet only, not {arguments.output_format}: leave --output-format out")
    if arguments.store is not None and "://" in arguments.store:
        raise CommandError(f"--store needs a folder on a disk, which {arguments.store} is not")


def run(arguments: argparse.Namespace, loader: StoringEncoderLoader, settings: Mapping[str, Any], mode: Mode) -> int:
    """Encode, and tell what was done."""
    from grace_st.cli.encode_ray_view import as_json, show
    from grace_st.scale.cluster import RayCluster
    from grace_st.scale.job import CorpusJob, encode_corpus
    from grace_st.scale.stores import check_folder

    store = None if arguments.store is None else Path(arguments.store).expanduser().absolute()
    if store is not None:
        check_folder(store)
    job = CorpusJob(
        source=arguments.input,
        output=arguments.output,
        loader=loader,
        settings=settings,
        input_format=arguments.input_format,
        field=arguments.field,
        id_field=arguments.id_field,
        skip_bad_rows=arguments.on_bad_row == "skip",
        rationales=not arguments.no_rationales,
        chunk_size=arguments.chunk_size,
        shard_rows=arguments.shard_rows or DEFAULT_SHARD_ROWS,
        store=None if store is None else str(store),
        show_progress=sys.stderr.isatty() and not (arguments.json or arguments.quiet),
    )
    # A device that is named and is none of CUDA's needs no GPU of the cluster's.
    wants_none = arguments.device is not None and not arguments.device.startswith("cuda")
    gpus = 0.0 if wants_none and arguments.gpus_per_worker is None else arguments.gpus_per_worker
    with RayCluster(address=arguments.address, workers=arguments.workers, gpus=gpus) as cluster:
        outcome = encode_corpus(job, cluster.start, mode)
        sizes = cluster.sizes
    if arguments.json:
        write_json(as_json(arguments.output, outcome, sizes))
    elif not arguments.quiet:
        show(open_console(), arguments.output, outcome, sizes)
    return 0


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
