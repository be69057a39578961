"""``grace-st convert``: make a model folder from a causal language model.

``convert_view`` draws what was decided.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from grace_st.cli.command import Command
from grace_st.cli.terminal import open_console, quiet_libraries, write_json
from grace_st.config import POOLING_SPANS, POOLINGS

if TYPE_CHECKING:
    from grace_st import Conversion


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="a local model folder or a name on the Hugging Face hub")
    parser.add_argument("destination", metavar="DEST", help="the model folder to write")
    options = parser.add_argument_group("prompt")
    message = options.add_mutually_exclusive_group()
    _option(message, "--system-prompt", metavar="TEXT", help="the system message (default: the paper's)")
    message.add_argument(
        "--no-system-prompt",
        dest="system_prompt",
        action="store_const",
        const=None,
        default=argparse.SUPPRESS,
        help="keep the system message of the template itself, if it has one",
    )
    _option(
        options,
        "--system-role",
        choices=("auto", "user"),
        help="'user' puts the message before the text even if the template has a system role (default: auto)",
    )
    _option(
        options,
        "--chat-template-kwargs",
        metavar="JSON",
        type=_json_object,
        help="variables of the chat template, for instance '{\"enable_thinking\": false}'",
    )
    limits = parser.add_argument_group("limits and pooling")
    _option(limits, "--max-seq-length", metavar="N", type=int, help="longest prompt in tokens (default: 1024)")
    _option(limits, "--max-new-tokens", metavar="N", type=int, help="longest rationale in tokens (default: 256)")
    _option(limits, "--pooling", choices=POOLINGS, help="how hidden states become a vector (default: mean)")
    _option(limits, "--pooling-span", choices=POOLING_SPANS, help="which are pooled (default: text_and_rationale)")
    model = parser.add_argument_group("model")
    _option(
        model,
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="of the weights (default: as they are)",
    )
    _option(model, "--revision", metavar="NAME", help="branch, tag or commit on the hub")
    _option(model, "--trust-remote-code", action="store_true", help="run model code that comes with SOURCE")
    _option(
        model,
        "--eos-token",
        metavar="TOKEN",
        nargs="+",
        help="what ends a rationale (default: what checkpoint, tokenizer and template name)",
    )
    _option(model, "--pad-token", metavar="TOKEN", help="padding, for a tokenizer that has none")
    _option(model, "--overwrite", action="store_true", help="replace DEST if it exists")


def _option(group: Any, name: str, **settings: Any) -> None:
    # No default here: what is not given is left to grace_st.convert, which has the defaults.
    group.add_argument(name, default=argparse.SUPPRESS, **settings)


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f'must be a JSON object such as {{"name": true}}, got {text}')
    return value


def _run(arguments: argparse.Namespace) -> int:
    options = vars(arguments).copy()
    source, destination = options.pop("source"), options.pop("destination")
    as_json = options.pop("json")
    options.pop("debug")

    quiet_libraries()
    import grace_st

    conversion = grace_st.convert(source, destination, **options)
    eos_tokens = _eos_tokens(conversion)
    if as_json:
        write_json(_as_json(conversion, eos_tokens))
    else:
        from grace_st.cli.convert_view import show

        show(open_console(), source, destination, conversion, eos_tokens)
    return 0


def _eos_tokens(conversion: Conversion) -> list[str]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(conversion.path, local_files_only=True)
    return [str(tokenizer.convert_ids_to_tokens(token)) for token in conversion.config.eos_token_ids]


def _as_json(conversion: Conversion, eos_tokens: list[str]) -> dict[str, Any]:
    return {
        "path": str(conversion.path),
        "architecture": conversion.architecture,
        "embedding_dimension": conversion.embedding_dimension,
        "num_parameters": conversion.num_parameters,
        "context_length": conversion.context_length,
        "eos_tokens": eos_tokens,
        "config": conversion.config.to_dict(),
    }


COMMAND = Command(
    summary="make a model folder from any causal language model",
    description=(
        "Make a model folder from a causal language model: a local folder or a name on the Hugging Face hub. "
        "sentence_transformers.SentenceTransformer(DEST, trust_remote_code=True) and grace_st.load(DEST) "
        "load it. Nothing is trained: the weights stay as they are."
    ),
    examples=(
        "grace-st convert Qwen/Qwen2.5-1.5B-Instruct models/qwen-1.5b",
        "grace-st convert ./my-model models/mine --max-new-tokens 128 --pooling-span rationale --json",
    ),
    configure=_configure,
    run=_run,
)
