"""Throughput: read from a file of ``benchmarks/encode.py``, or measured here and written as such a file."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grace_st.scale.costs import Throughput

if TYPE_CHECKING:
    from grace_st.model import GraceModel

VARIANT = "engine"
"""The name, in such a file, of this package's engine."""

_WARM_UP = 2


def read_throughput(path: Path, variant: str = VARIANT) -> tuple[Throughput, int | None]:
    """The throughput in a file, and the dimension of the vectors where the file tells.

    Args:
        path: JSON as ``benchmarks/encode.py`` and `measured_throughput` write it.
        variant: Which of the ways to encode that were measured.

    Raises:
        OSError: It cannot be read.
        ValueError: It is something else, or has no such variant.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): name a file that benchmarks/encode.py wrote") from error
    return throughput_of(values, variant, str(path))


def throughput_of(values: Mapping[str, Any], variant: str, name: str) -> tuple[Throughput, int | None]:
    """See `read_throughput`."""
    try:
        rates, work = values["texts_per_second"], values["workload"]
        if variant not in rates:
            raise ValueError(f"{name} has no measurement of {variant!r} (it has {', '.join(rates)}): name one of these")
        throughput = Throughput(
            texts_per_second=float(rates[variant]["median"]),
            text_tokens=float(work["mean_prompt_tokens"]) - float(work["shared_head_tokens"]),
            rationale_tokens=float(work["mean_rationale_tokens"]),
            measured=_place(values),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{name} is no measurement of throughput ({type(error).__name__}: {error}): name a file that "
            "benchmarks/encode.py wrote, or measure with --calibrate DIR"
        ) from error
    dimension = values["model"].get("dimension")
    return throughput, None if dimension is None else int(dimension)


def _place(values: Mapping[str, Any]) -> str:
    machine, model = values["machine"], values["model"]
    device = machine["accelerator"] or f"{machine['threads']} threads of {machine['processor']}"
    parameters = f"{model['parameters'] / 1e6:.0f} M parameters"
    return f"{device}; {model['shape']}, {parameters}, {model['dtype']}; {values['date']}"


def measured_throughput(
    model: GraceModel, texts: Sequence[str], *, name: str, max_new_tokens: int | None = None
) -> dict[str, Any]:
    """Encode some texts and say how long it took.

    Args:
        model: The model.
        texts: Texts like those of the corpus; a few dozen for each slot of the engine tell more than a few.
        name: Of the model.
        max_new_tokens: Budget of the rationale; the model's by default.

    Returns:
        What `read_throughput` reads.
    """
    import torch
    import transformers

    from grace_st import __version__
    from grace_st.encoding import grace_module

    module = grace_module(model)
    options: dict[str, Any] = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
    model.encode_with_rationales(texts[:_WARM_UP], **options)
    prompts = module.prompts_of(texts)
    started = time.perf_counter()
    encodings = model.encode_with_rationales(texts, **options)
    seconds = time.perf_counter() - started
    rate = round(len(texts) / seconds, 4)
    parameter = next(module.model.parameters())
    is_cuda = parameter.device.type == "cuda"
    return {
        "command": "grace-st plan --calibrate",
        "date": date.today().isoformat(),
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "accelerator": torch.cuda.get_device_name(parameter.device) if is_cuda else None,
            "platform": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "grace-st": __version__,
        },
        "model": {
            "shape": name,
            "parameters": sum(value.numel() for value in module.model.parameters()),
            "dtype": str(parameter.dtype).removeprefix("torch."),
            "dimension": model.get_embedding_dimension(),
        },
        "workload": {
            "texts": len(texts),
            "mean_prompt_tokens": round(statistics.mean(len(prompt.ids) for prompt in prompts), 1),
            "shared_head_tokens": len(module.prompt.head_ids),
            "mean_rationale_tokens": round(statistics.mean(len(one.rationale_ids) for one in encodings), 1),
            "cap": module.max_new_tokens if max_new_tokens is None else max_new_tokens,
        },
        "texts_per_second": {VARIANT: {"median": rate, "min": rate, "max": rate}},
    }
