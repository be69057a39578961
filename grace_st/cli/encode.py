"""``grace-st encode``: vectors and rationales of all texts of a file.

Arguments and results; the work is in ``grace_st.bulk``. ``encode_view`` draws the summary.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grace_st.bulk import DEFAULT_CHUNK_SIZE
from grace_st.bulk.formats import (
    INPUT_FORMATS,
    OUTPUT_FORMATS,
    InputFormat,
    OutputFormat,
    input_format_of,
    output_format_of,
)
from grace_st.cli import encode_ray
from grace_st.cli.command import Command, CommandError
from grace_st.cli.engine import configure_engine, engine_kwargs
from grace_st.cli.models import BUNDLED, model_folder
from grace_st.cli.terminal import open_console, quiet_libraries, write_json

if TYPE_CHECKING:
    from grace_st.bulk.encoder import ModelEncoder
    from grace_st.bulk.job import Job, Outcome
    from grace_st.bulk.resuming import Mode

STANDARD_STREAM = "-"

_SAMPLING = ("max_new_tokens", "do_sample", "temperature", "top_p", "top_k", "repetition_penalty", "seed")


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "input", metavar="INPUT", help="a file of texts, or - for standard input; with --ray also a folder or a pattern"
    )
    parser.add_argument(
        "output",
        metavar="OUTPUT",
        help="the file to write, or - for JSON lines on standard output; with --ray a folder",
    )
    parser.add_argument(
        "--model",
        metavar="DIR",
        required=True,
        help=f"a model folder made by `grace-st convert`, or {BUNDLED}, the bundled demonstration model",
    )
    _configure_files(parser)
    _configure_encoding(parser)
    run = parser.add_argument_group("run")
    again = run.add_mutually_exclusive_group()
    again.add_argument(
        "--resume", action="store_true", help="go on with what an interrupted run has finished, if there is something"
    )
    again.add_argument("--overwrite", action="store_true", help="start afresh, and replace OUTPUT at the end")
    run.add_argument(
        "--chunk-size",
        metavar="N",
        type=_positive,
        default=DEFAULT_CHUNK_SIZE,
        help="texts encoded, and kept, at once: more is faster, and more is lost by an interruption "
        "(default: %(default)s)",
    )
    run.add_argument(
        "--store",
        metavar="FILE",
        help="keep rationales and vectors in this file (NAME.sqlite) as well, and do not generate again what it holds: "
        "also for other inputs, and for several processes at once (with --ray a folder, of one file for each worker)",
    )
    run.add_argument("--quiet", action="store_true", help="no progress bar and no summary")
    encode_ray.configure(parser)


def _configure_files(parser: argparse.ArgumentParser) -> None:
    files = parser.add_argument_group("input and output")
    files.add_argument(
        "--input-format",
        choices=INPUT_FORMATS,
        help="default: by suffix (.txt, .jsonl, .csv, .tsv, also with .gz; .parquet); text for standard input",
    )
    files.add_argument(
        "--field", metavar="NAME", default="text", help="field or column of the text (default: %(default)s)"
    )
    files.add_argument("--id-field", metavar="NAME", help="that of an id (default: the row number, from 0)")
    files.add_argument(
        "--on-bad-row",
        choices=("error", "skip"),
        default="error",
        help="a row without a text: stop before any work, or leave it out and count it (default: %(default)s)",
    )
    files.add_argument(
        "--output-format",
        choices=OUTPUT_FORMATS,
        help="default: by suffix (.npy with the rest in NAME.rows.jsonl; .parquet; .jsonl)",
    )
    files.add_argument(
        "--no-rationales",
        action="store_true",
        help="write ids and vectors only (the vectors are pooled with the rationale all the same)",
    )


def _configure_encoding(parser: argparse.ArgumentParser) -> None:
    prompts = parser.add_argument_group("encoding")
    prompt = prompts.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", metavar="TEXT", help="instruction that goes before each text")
    prompt.add_argument("--prompt-name", metavar="NAME", help="one of the model's prompts, e.g. query or document")
    prompts.add_argument("--normalize", action="store_true", help="scale the vectors to length 1")
    prompts.add_argument(
        "--max-new-tokens", metavar="N", type=int, help="longest rationale in tokens (default: the model's)"
    )
    # None where nothing is given: the library has the defaults.
    prompts.add_argument("--do-sample", action="store_true", default=None, help="sample rationales (default: greedy)")
    prompts.add_argument("--temperature", metavar="X", type=float, help="with --do-sample: divides the logits")
    prompts.add_argument("--top-p", metavar="X", type=float, help="with --do-sample: smallest set of that probability")
    prompts.add_argument("--top-k", metavar="N", type=int, help="with --do-sample: that many tokens")
    prompts.add_argument("--repetition-penalty", metavar="X", type=float, help="1 is off")
    prompts.add_argument("--seed", metavar="N", type=int, help="with --do-sample: each text has its own from this one")
    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", metavar="NAME", help="cpu, cuda, mps, ... (default: the best there is)")
    machine.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="of the weights (default: as they are)"
    )
    machine.add_argument("--slots", metavar="N", type=_positive, help="texts decoded at once (default: by device)")
    configure_engine(machine)


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be an integer >= 1, got {text!r}")
    return number


def _run(arguments: argparse.Namespace) -> int:
    if arguments.ray:
        return _run_ray(arguments)
    encode_ray.check_unused(arguments)
    to_stdout = arguments.output == STANDARD_STREAM
    source, source_format = _input(arguments)
    destination_format = _output_format(arguments)
    _check_options(arguments)

    from grace_st.bulk.destination import Destination
    from grace_st.bulk.job import Job, encode_to_file, encode_to_stream
    from grace_st.bulk.readers import Source

    job = Job(
        source=Source(path=source, format=source_format, field=arguments.field, id_field=arguments.id_field),
        loader=_Loader(arguments, model_folder(arguments.model)),
        settings=_settings(arguments, source_format, destination_format),
        chunk_size=arguments.chunk_size,
        skip_bad_rows=arguments.on_bad_row == "skip",
        show_progress=sys.stderr.isatty() and not (arguments.json or arguments.quiet),
    )
    if to_stdout:
        outcome = encode_to_stream(job, sys.stdout.buffer, rationales=not arguments.no_rationales)
    else:
        destination = Destination(
            path=Path(arguments.output).expanduser().resolve(),
            format=destination_format,
            rationales=not arguments.no_rationales,
        )
        outcome = encode_to_file(job, destination, _mode(arguments))
    _tell(arguments, job, outcome)
    return 0


def _run_ray(arguments: argparse.Namespace) -> int:
    encode_ray.check(arguments)
    folder = model_folder(arguments.model)
    plain = argparse.Namespace(**{**vars(arguments), "store": None})  # each worker has its own
    # Workers have other working directories.
    loader = _Loader(plain, None if folder is None else folder.absolute())
    loader.check()
    return encode_ray.run(arguments, loader, _settings(arguments, arguments.input_format, "parquet"), _mode(arguments))


def _tell(arguments: argparse.Namespace, job: Job, outcome: Outcome) -> None:
    from grace_st.cli.encode_view import as_json, line, show

    if arguments.json:
        write_json(as_json(arguments.output, outcome))
    elif arguments.quiet:
        return
    elif arguments.output == STANDARD_STREAM:
        sys.stderr.write(f"{line(outcome)}\n")
    else:
        show(open_console(), arguments.output, outcome)


def _mode(arguments: argparse.Namespace) -> Mode:
    return "resume" if arguments.resume else "overwrite" if arguments.overwrite else "new"


def _input(arguments: argparse.Namespace) -> tuple[Path | None, InputFormat]:
    if arguments.input == STANDARD_STREAM:
        return None, arguments.input_format or "text"
    path = Path(arguments.input).expanduser()
    return path, arguments.input_format or input_format_of(path)


def _output_format(arguments: argparse.Namespace) -> OutputFormat:
    given: OutputFormat | None = arguments.output_format
    if arguments.output != STANDARD_STREAM:
        return given or output_format_of(Path(arguments.output))
    if given not in (None, "jsonl"):
        raise CommandError(f"standard output takes JSON lines only, not {given}: name a file")
    return "jsonl"


def _check_options(arguments: argparse.Namespace) -> None:
    if arguments.output == STANDARD_STREAM:
        for name in ("json", "resume", "overwrite"):
            if getattr(arguments, name):
                raise CommandError(f"--{name} has no meaning where the result itself goes to standard output")
    engine_kwargs(arguments)
    if arguments.field != "text" and _input(arguments)[1] == "text":
        raise CommandError("plain text has no fields, so --field has no meaning: leave it out")


def _settings(arguments: argparse.Namespace, input_format: InputFormat, output_format: OutputFormat) -> dict[str, Any]:
    """All that vectors and chunks depend on, by the names that messages give."""
    from grace_st import __version__

    names = ("field", "id_field", "no_rationales", "chunk_size", "prompt", "prompt_name", "normalize")
    options = {f"--{name.replace('_', '-')}": getattr(arguments, name) for name in (*names, *_SAMPLING)}
    return {
        "--input-format": input_format,
        "--output-format": output_format,
        **options,
        "--dtype": arguments.dtype,
        "--slots": arguments.slots,
        **_engine_settings(arguments),
        "grace-st": __version__,
    }


def _engine_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Only what differs from the default, so that runs of earlier versions can be resumed."""
    settings = {} if arguments.engine == "torch" else {"--engine": arguments.engine}
    return settings | {f"--engine-option {text.partition('=')[0]}": text for text in arguments.engine_option}


@dataclass(frozen=True)
class _Loader:
    """Loads the model when the first text needs it."""

    arguments: argparse.Namespace
    folder: Path | None

    @cached_property
    def _path(self) -> Path:
        import grace_st

        return grace_st.nano_path() if self.folder is None else self.folder

    @property
    def _sampling(self) -> dict[str, Any]:
        given = {name: getattr(self.arguments, name) for name in _SAMPLING}
        return {name: value for name, value in given.items() if value is not None}

    def check(self) -> None:
        """Refuse options that can be refused without the weights.

        Raises:
            ValueError: Names the option.
        """
        from grace_st.engines.base import Sampling
        from grace_st.model_files import ST_CONFIG_NAME

        Sampling(**{"max_new_tokens": 0, **self._sampling})
        engine_kwargs(self.arguments)
        config = self._path / ST_CONFIG_NAME
        prompts = json.loads(config.read_text(encoding="utf-8")).get("prompts", {}) if config.is_file() else {}
        known = {"query", "document", *prompts}  # the two that sentence-transformers gives every model
        if self.arguments.prompt_name is not None and self.arguments.prompt_name not in known:
            listed = ", ".join(sorted(known))
            raise CommandError(
                f"prompt_name {self.arguments.prompt_name!r} is not one of the model's prompts: {listed}"
            )

    def settings(self) -> Mapping[str, Any]:
        from grace_st.model_files import model_files

        return {f"the model's file {name}": digest for name, digest in model_files(self._path).items()}

    def load(self) -> ModelEncoder:
        quiet_libraries()
        import torch

        import grace_st
        from grace_st.bulk.encoder import ModelEncoder
        from grace_st.engines.base import Sampling
        from grace_st.store import RationaleStore

        Sampling(**{"max_new_tokens": 0, **self._sampling})  # refuses what is wrong before weights are loaded
        store = None if self.arguments.store is None else RationaleStore(self.arguments.store)
        if self.folder is None:
            # Its matrices are so small that a second thread costs more than it saves: much more on a busy machine.
            torch.set_num_threads(1)
        arguments = self.arguments
        model = grace_st.load(
            self._path,
            device=arguments.device,
            model_kwargs=None if arguments.dtype is None else {"dtype": getattr(torch, arguments.dtype)},
            engine=arguments.engine,
            engine_kwargs=engine_kwargs(arguments),
        )
        return ModelEncoder(
            model=model,
            prompt=arguments.prompt,
            prompt_name=arguments.prompt_name,
            normalize=arguments.normalize,
            sampling=self._sampling,
            store=store,
        )


COMMAND = Command(
    summary="encode a file of texts into vectors and rationales",
    description=(
        "Encode all texts of a file. Every row is checked before the model is loaded. What is finished is kept in "
        "OUTPUT.partial, so that an interrupted run goes on with --resume; OUTPUT itself appears when it is complete."
    ),
    examples=(
        "grace-st encode texts.txt vectors.npy --model models/mine",
        "grace-st encode corpus.jsonl.gz corpus.parquet --model models/mine --field body --id-field doc_id --resume",
        "grace-st encode corpus.parquet vectors.npy --model models/mine --engine vllm --chunk-size 65536",
        "grace-st encode - - --model grace-nano --quiet",
        "grace-st encode corpus/ s3://bucket/vectors --ray --workers 8 --model models/mine --resume",
    ),
    configure=_configure,
    run=_run,
)
