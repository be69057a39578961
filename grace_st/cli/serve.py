"""``grace-st serve``: an embeddings server. Arguments only; the work is in ``grace_st.serve``."""

from __future__ import annotations

import argparse
import importlib.util
import ipaddress
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grace_st.cli.command import Command, CommandError
from grace_st.cli.engine import configure_engine, engine_kwargs
from grace_st.cli.models import BUNDLED, model_folder
from grace_st.cli.sizes import size
from grace_st.cli.terminal import quiet_libraries, write_json
from grace_st.serve.limits import Limits

if TYPE_CHECKING:
    from grace_st.model import GraceModel
    from grace_st.serve.auth import ApiKeys

logger = logging.getLogger("grace_st.serve")

_NEEDED = ("fastapi", "uvicorn", "prometheus_client")
_DEFAULTS = Limits()


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        metavar="DIR",
        required=True,
        help=f"a model folder made by `grace-st convert`, or {BUNDLED}, the bundled demonstration model",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port",
        metavar="N",
        type=int,
        default=8000,
        help="port to listen on; 0 takes a free one (default: %(default)s)",
    )
    parser.add_argument(
        "--served-model-name",
        metavar="NAME",
        action="append",
        help="name that clients ask for, instead of the folder's; may be given several times",
    )
    parser.add_argument(
        "--api-key-file",
        metavar="FILE",
        help="accept only these API keys, one a line (default: the one in the environment variable GRACE_ST_API_KEY, "
        "and without it everybody)",
    )
    parser.add_argument(
        "--store",
        metavar="FILE",
        help="keep rationales and vectors in this file (NAME.sqlite), and do not generate again what it holds",
    )
    _configure_encoding(parser)
    _configure_limits(parser)
    logs = parser.add_argument_group("log, as JSON lines on standard error")
    logs.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    logs.add_argument("--log-texts", action="store_true", help="also the beginning of each text (default: no texts)")


def _configure_encoding(parser: argparse.ArgumentParser) -> None:
    encoding = parser.add_argument_group("encoding")
    encoding.add_argument(
        "--normalize",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="return vectors of length 1, as OpenAI does (default: yes)",
    )
    encoding.add_argument(
        "--max-new-tokens",
        metavar="N",
        type=int,
        help="longest rationale in tokens, also on request (default: the model's)",
    )
    encoding.add_argument(
        "--max-seq-length", metavar="N", type=int, help="longest prompt in tokens (default: the model's)"
    )
    machine = parser.add_argument_group("machine")
    configure_engine(machine)
    machine.add_argument("--device", metavar="NAME", help="cpu, cuda, mps, ... (default: the best there is)")
    machine.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="of the weights (default: as they are)"
    )
    machine.add_argument("--threads", metavar="N", type=int, help="CPU threads of the engine (default: torch decides)")


def _configure_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits")
    default = "(default: %(default)s)"
    group.add_argument(
        "--max-request-bytes",
        metavar="SIZE",
        type=size,
        default=_DEFAULTS.max_request_bytes,
        help=f"largest body, such as 20MB {default}",
    )
    for name, text in (
        ("max_requests", "requests answered at once"),
        ("max_texts", "texts of a request"),
        ("max_queue_texts", "texts that wait for the engine"),
        ("max_batch_texts", "texts handed to the engine at once"),
    ):
        group.add_argument(
            _option(name), metavar="N", type=int, default=getattr(_DEFAULTS, name), help=f"{text} {default}"
        )
    group.add_argument(
        "--long-texts",
        choices=("truncate", "refuse"),
        default=_DEFAULTS.long_texts,
        help=f"what happens to a text that does not fit {default}",
    )
    group.add_argument(
        "--token-ids",
        choices=("accept", "refuse"),
        default=_DEFAULTS.token_ids,
        help=f"texts that come as token ids; refuse them where clients may use another tokenizer {default}",
    )
    for name, text in (
        ("linger_seconds", "how long a batch that is not full waits for more texts"),
        ("request_seconds", "how long a request may take"),
        ("grace_seconds", "how long a shutdown waits for what is in flight"),
    ):
        group.add_argument(
            _option(name), metavar="X", type=float, default=getattr(_DEFAULTS, name), help=f"{text} {default}"
        )
    group.add_argument(
        "--max-restarts",
        metavar="N",
        type=int,
        default=_DEFAULTS.max_restarts,
        help=f"how many times in a row an engine that broke down is loaded again {default}",
    )
    group.add_argument(
        "--restart-seconds",
        metavar="X",
        type=float,
        default=_DEFAULTS.restart_seconds,
        help=f"pause before the first of these; it doubles each time {default}",
    )


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _run(arguments: argparse.Namespace) -> int:
    # All that can be wrong is looked at before the model is loaded, the quick things first.
    limits = _limits(arguments)
    folder = model_folder(arguments.model)
    if arguments.threads is not None and arguments.threads < 1:
        raise CommandError(f"--threads must be an integer >= 1, got {arguments.threads}")
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise CommandError(f"the server needs {', '.join(missing)}: pip install 'grace-st[serve]'")
    options = engine_kwargs(arguments)
    keys = _keys(arguments)

    from grace_st import nano_path
    from grace_st.serve.backend import ModelLoader
    from grace_st.serve.lifecycle import listen, serve
    from grace_st.serve.logs import logging_to_stderr
    from grace_st.serve.service import Service
    from grace_st.store import RationaleStore

    path = nano_path() if folder is None else folder
    store = None if arguments.store is None else RationaleStore(arguments.store)
    service = Service(
        ModelLoader(path, _load(arguments, path, options, is_bundled=folder is None), store=store),
        names=arguments.served_model_name or [BUNDLED if folder is None else path.resolve().name],
        limits=limits,
        keys=keys,
        normalize=arguments.normalize,
        log_texts=arguments.log_texts,
    )

    def ready(url: str) -> None:
        logger.info("%s is served at %s/v1", service.names[0], url)
        if arguments.json:
            write_json({"url": f"{url}/v1", "models": list(service.names), "pid": os.getpid()})
            sys.stdout.flush()

    with listen(arguments.host, arguments.port) as listening, logging_to_stderr(arguments.log_level):
        if not keys and not _is_loopback(arguments.host):
            logger.warning("anyone who reaches %s may use this server: give it an --api-key-file", arguments.host)
        ending = serve(service, listening, on_ready=ready)
    code = 0 if ending.is_clean else 1
    if ending.is_stuck:
        # An engine that does not return cannot be waited for, and Python would crash on its thread at the end.
        logging.shutdown()
        os._exit(code)
    return code


def _limits(arguments: argparse.Namespace) -> Limits:
    return Limits(**{field.name: getattr(arguments, field.name) for field in fields(Limits)})


def _keys(arguments: argparse.Namespace) -> ApiKeys:
    from grace_st.serve.auth import ENVIRONMENT, ApiKeys

    if arguments.api_key_file is not None:
        return ApiKeys.from_file(Path(arguments.api_key_file).expanduser())
    key = os.environ.get(ENVIRONMENT)
    if key == "":
        raise CommandError(f"the environment variable {ENVIRONMENT} is empty: give it a key, or unset it")
    return ApiKeys(() if key is None else (key,))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _load(
    arguments: argparse.Namespace, path: Path, options: dict[str, Any] | None, *, is_bundled: bool
) -> Callable[[], GraceModel]:
    def load() -> GraceModel:
        quiet_libraries()
        import torch

        import grace_st

        # The matrices of the bundled model are so small that a second thread costs more than it saves.
        threads = arguments.threads or (1 if is_bundled else None)
        if threads is not None:
            torch.set_num_threads(threads)
        config = {name: getattr(arguments, name) for name in ("max_new_tokens", "max_seq_length")}
        return grace_st.load(
            path,
            engine=arguments.engine,
            engine_kwargs=options,
            device=arguments.device,
            model_kwargs=None if arguments.dtype is None else {"dtype": getattr(torch, arguments.dtype)},
            **{name: value for name, value in config.items() if value is not None},
        )

    return load


COMMAND = Command(
    summary="serve embeddings and rationales over HTTP, by OpenAI's API",
    description=(
        "Serve a model to anything that speaks OpenAI's embeddings API. Texts of all requests are encoded together. "
        "SIGTERM or Ctrl-C ends the server when it has finished what is in flight."
    ),
    examples=(
        "grace-st serve --model models/mine --port 8000",
        "grace-st serve --model models/mine --host 0.0.0.0 --api-key-file keys.txt --store rationales.sqlite",
        "grace-st serve --model grace-nano --port 0 --json",
    ),
    configure=_configure,
    run=_run,
)
