"""Speed and memory of encoding, side by side: this engine against the shapes that others use.

    python benchmarks/encode.py                          # two CPU cores
    python benchmarks/encode.py --shape 1.5b --device cuda --dtype bfloat16 --texts 2000 --mean 120 --cap 256

Random weights, and rationales of forced lengths, the same for every variant (lognormal, cut at a cap), so that only the
way of running the model differs:

    published    the shape of the published pipeline: padded `generate` in batches of 32 in input order, then a full
                 second forward over prompt and rationale, pooled there
    engine       this package's TorchEngine: one pass
    no_pooling   the same decode loop with pooling taken out: what pooling costs
    continuous   Hugging Face continuous batching, generation only: no vectors come out of it

Each round runs every variant once, in an order that rotates, and ratios are taken within a round. Every variant returns
the lengths of its rationales, which are checked. Peak memory is what a variant takes beyond the model: of the process
on Linux, sampled; of torch's allocator on CUDA.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from measuring import CallTimer, CudaMemory, ProcessMemory, machine, spread, tell, write
from torch import Tensor
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM
from transformers.utils import logging as transformers_logging

from grace_st.engines import decoding
from grace_st.engines.base import PromptTokens, Sampling
from grace_st.engines.torch_engine import TorchEngine

EOS, PAD = 0, 1
BATCH = 32  # of the published pipeline
HEAD_TOKENS = 42  # the default system message in Qwen2's template and vocabulary

SHAPES: dict[str, dict[str, Any]] = {
    # 94.8 M parameters
    "95m": {
        "vocab_size": 2000,
        "hidden_size": 768,
        "intermediate_size": 2688,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
    },
    # Qwen2.5-1.5B
    "1.5b": {
        "vocab_size": 151936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
}


class CountdownLM(Qwen2ForCausalLM):
    """A Qwen2 that counts down: after token ``n`` comes ``n - 1``, and at last the EOS, which is 0.

    A prompt that ends with ``n`` so gets a rationale of ``n - 1`` tokens in every implementation, without a hook in any
    of them. The logits are computed as always and then overruled.
    """

    def forward(self, input_ids: Tensor, **options: Any) -> Any:  # type: ignore[override]
        """As the base class, with the logits overruled."""
        output = super().forward(input_ids=input_ids, **options)
        logits = output.logits
        fed = input_ids[:, -logits.shape[1] :]
        if logits.shape[1] != fed.shape[1]:
            raise RuntimeError(f"logits for {logits.shape[1]} positions of {fed.shape[1]} tokens")
        following = (fed - 1).clamp(min=0).unsqueeze(-1)
        logits.scatter_add_(2, following, torch.full_like(following, 10000, dtype=logits.dtype))
        return output


@dataclass(frozen=True)
class Workload:
    """Prompts as token ids, and how many tokens each rationale has (without the EOS)."""

    prompts: list[list[int]]
    lengths: list[int]
    cap: int


def make_workload(texts: int, mean: float, cap: int, vocab_size: int, seed: int = 0) -> Workload:
    """About 128 prompt tokens, ``HEAD_TOKENS`` of them common to all; lognormal lengths from 4 to ``cap``."""
    generator = torch.Generator().manual_seed(seed)
    head = torch.randint(cap + 2, vocab_size, (HEAD_TOKENS,), generator=generator).tolist()
    sigma = 0.6
    normal = torch.randn(texts, generator=generator)
    lengths = (normal * sigma + torch.tensor(mean).log() - sigma**2 / 2).exp().round().clamp(4, cap).int().tolist()
    prompts = []
    for length in lengths:
        body = int(torch.randint(54, 119, (1,), generator=generator))
        words = torch.randint(cap + 2, vocab_size, (body,), generator=generator).tolist()
        prompts.append([*head, *words, length + 1])
    return Workload(prompts, lengths, cap)


def make_model(shape: str, device: str, dtype: str) -> CountdownLM:
    """Random weights of a Qwen2 shape."""
    torch.manual_seed(0)
    config = Qwen2Config(
        **SHAPES[shape],
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    with torch.device(device):
        model = CountdownLM._from_config(config, dtype=getattr(torch, dtype))
    return model.eval()


# ---------------------------------------------------------------- variants: each returns the rationale lengths


def published(model: CountdownLM, work: Workload, slots: int | None) -> list[int]:
    """Padded generation in input order, then a second forward."""
    del slots
    settings = _generation(work)
    device = model.device
    lengths: list[int] = []
    for first in range(0, len(work.prompts), BATCH):
        prompts = work.prompts[first : first + BATCH]
        width = max(len(prompt) for prompt in prompts)
        ids = torch.tensor([[PAD] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
        with torch.inference_mode():
            output = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
            rationales = [row.index(EOS) if EOS in row else len(row) for row in output[:, width:].tolist()]
            columns = torch.arange(output.shape[1] - width, device=device)
            inside = columns < torch.tensor(rationales, device=device).unsqueeze(-1)
            whole = torch.cat([mask.bool(), inside], dim=1)
            hidden = model.model(input_ids=output, attention_mask=whole.long(), use_cache=False).last_hidden_state
            span = whole.clone()
            for row, prompt in enumerate(prompts):
                span[row, : width - len(prompt) + HEAD_TOKENS] = False
            vectors = (hidden.float() * span.unsqueeze(-1)).sum(dim=1) / span.sum(dim=1, keepdim=True)
        vectors.cpu()
        lengths += rationales
    return lengths


def engine(model: CountdownLM, work: Workload, slots: int | None) -> list[int]:
    """This package."""
    runner = TorchEngine(model, eos_token_ids=[EOS], pad_token_id=PAD, slots=slots)
    prompts = [PromptTokens(tuple(ids), HEAD_TOKENS) for ids in work.prompts]
    return [len(rollout.ids) for rollout in runner.generate(prompts, Sampling(max_new_tokens=work.cap + 1))]


def no_pooling(model: CountdownLM, work: Workload, slots: int | None) -> list[int]:
    """This package's decode loop, with pooling taken out."""
    nothing = mock.patch.object(decoding.RunningPool, "add", lambda *_: None)
    with nothing, mock.patch.object(decoding.RunningPool, "value", lambda self: self.state):
        return engine(model, work, slots)


def continuous(model: CountdownLM, work: Workload, slots: int | None) -> list[int]:
    """Hugging Face continuous batching: generation alone, with its own defaults."""
    del slots
    outputs = model.generate_batch(inputs=work.prompts, generation_config=_generation(work), progress_bar=False)
    # In the order of the inputs.
    return [output.generated_tokens.index(EOS) for output in outputs.values()]


def _generation(work: Workload) -> GenerationConfig:
    return GenerationConfig(max_new_tokens=work.cap + 1, do_sample=False, eos_token_id=EOS, pad_token_id=PAD)


VARIANTS: dict[str, Callable[[CountdownLM, Workload, int | None], list[int]]] = {
    "published": published,
    "engine": engine,
    "no_pooling": no_pooling,
    "continuous": continuous,
}


# ---------------------------------------------------------------- measuring


@dataclass
class Measurement:
    """One run of a variant."""

    seconds: float
    peak_bytes: int | None
    forward_seconds: float | None = None
    pooling_seconds: float | None = None


def measured(name: str, model: CountdownLM, work: Workload, slots: int | None) -> Measurement:
    """One run of a variant, whose result is checked."""
    on_cuda = model.device.type == "cuda"
    memory = CudaMemory() if on_cuda else ProcessMemory()
    # Timing single calls needs a synchronisation around each on CUDA, so there it is a run of its own.
    with_timers = name == "engine" and not on_cuda
    with memory, timers(model) if with_timers else nullcontext((None, None)) as (in_forward, in_pooling):
        started = time.perf_counter()
        lengths = VARIANTS[name](model, work, slots)
        if on_cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    if lengths != work.lengths:
        raise RuntimeError(f"{name} gave rationales of other lengths than were forced")
    if in_forward is None or in_pooling is None:
        return Measurement(seconds, memory.peak)
    return Measurement(seconds, memory.peak, in_forward.seconds, in_pooling.seconds)


@contextmanager
def timers(model: CountdownLM) -> Iterator[tuple[CallTimer, CallTimer]]:
    """Timers of forward calls of the model, and of pooling."""
    on_cuda = model.device.type == "cuda"
    forward = CallTimer([(model, "forward"), (model.model, "forward")], on_cuda)
    pool = decoding.RunningPool
    pooling = CallTimer([(pool, "add"), (pool, "select"), (pool, "replace"), (pool, "value")], on_cuda)
    with forward, pooling:
        yield forward, pooling


# ---------------------------------------------------------------- the run


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """All measurements. What is measured is written at once: a variant may take an hour."""
    model = make_model(arguments.shape, arguments.device, arguments.dtype)
    work = make_workload(arguments.texts, arguments.mean, arguments.cap, model.config.vocab_size)
    names = list(VARIANTS) if arguments.variants is None else arguments.variants
    warm = Workload([[*prompt[:-1], 5] for prompt in work.prompts[:2]], [4, 4], work.cap)
    for name in names:
        measured(name, model, warm, arguments.slots)
    runs: dict[str, list[Measurement]] = {name: [] for name in names}
    result = description(arguments, model, work)
    for number in range(arguments.rounds):
        for place in range(len(names)):
            name = names[(place + number) % len(names)]
            runs[name].append(measured(name, model, work, arguments.slots))
            tell(f"round {number + 1}, {name}: {runs[name][-1].seconds:.1f} s")
            result |= summary(runs, len(work.prompts))
            write(arguments.output, result)
    result["shares_of_engine"] = shares(model, work, arguments.slots, runs.get("engine", []))
    write(arguments.output, result)
    return result


def description(arguments: argparse.Namespace, model: CountdownLM, work: Workload) -> dict[str, Any]:
    """What is measured, and on what."""
    slots = TorchEngine(model, eos_token_ids=[EOS], pad_token_id=PAD, slots=arguments.slots).slots_for(
        max(map(len, work.prompts)) + work.cap + 1
    )
    return {
        "command": " ".join(["python", "benchmarks/encode.py", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(arguments.device),
        "model": {
            "shape": arguments.shape,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "dtype": arguments.dtype,
        },
        "workload": {
            "texts": len(work.prompts),
            "mean_prompt_tokens": round(statistics.mean(map(len, work.prompts)), 1),
            "shared_head_tokens": HEAD_TOKENS,
            "mean_rationale_tokens": round(statistics.mean(work.lengths), 1),
            "cap": work.cap,
        },
        "slots": slots,
    }


def summary(runs: dict[str, list[Measurement]], texts: int) -> dict[str, Any]:
    """The figures so far."""
    seconds = {name: [one.seconds for one in measurements] for name, measurements in runs.items() if measurements}
    peaks = {name: [one.peak_bytes for one in runs[name] if one.peak_bytes is not None] for name in seconds}
    return {
        "seconds": {name: [round(value, 2) for value in values] for name, values in seconds.items()},
        "texts_per_second": {name: spread([texts / value for value in values]) for name, values in seconds.items()},
        "ratios": ratios(seconds),
        "peak_gb_beyond_model": {name: round(max(sizes) / 1e9, 2) if sizes else None for name, sizes in peaks.items()},
    }


def shares(
    model: CountdownLM, work: Workload, slots: int | None, runs: Sequence[Measurement]
) -> dict[str, dict[str, float]] | None:
    """Shares of the engine's time: outside forward calls of the model, and pooling, which is part of that."""
    if not runs:
        return None
    if runs[0].forward_seconds is None:
        with timers(model) as (in_forward, in_pooling):
            again = measured("engine", model, work, slots)
        again.forward_seconds, again.pooling_seconds = in_forward.seconds, in_pooling.seconds
        runs = [again]
    return {
        "outside_forward": spread([1 - (one.forward_seconds or 0.0) / one.seconds for one in runs]),
        "pooling": spread([(one.pooling_seconds or 0.0) / one.seconds for one in runs]),
    }


def ratios(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Speed of the engine over that of each other variant, taken within rounds."""
    if "engine" not in seconds:
        return {}
    return {
        f"engine / {name}": spread([other / own for own, other in zip(seconds["engine"], values, strict=False)])
        for name, values in seconds.items()
        if name != "engine"
    }


def table(result: dict[str, Any]) -> str:
    """The result in Markdown."""
    lines = ["| variant | texts/s | engine is faster by | peak memory beyond the model, GB |", "|---|---|---|---|"]
    for name, rate in result["texts_per_second"].items():
        ratio = result["ratios"].get(f"engine / {name}")
        memory = result["peak_gb_beyond_model"][name]
        cells = [
            name,
            f"{rate['median']:.2f} ({rate['min']:.2f} to {rate['max']:.2f})",
            "" if ratio is None else f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})",
            "" if memory is None else f"{memory:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="95m")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--mean", type=float, default=60, help="of the rationale lengths before they are cut")
    parser.add_argument("--cap", type=int, default=128)
    parser.add_argument("--slots", type=int, help="of this engine (default: its own choice)")
    parser.add_argument("--threads", type=int, help="of torch (default: its own choice)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS)
    parser.add_argument("--output", type=Path, help="where the JSON goes; the table goes to stdout")
    arguments = parser.parse_args()
    if arguments.output is not None and not arguments.output.parent.is_dir():
        parser.error(f"there is no folder {arguments.output.parent}")  # not after an hour of work
    transformers_logging.set_verbosity_error()
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    result = run(arguments)
    sys.stdout.write(table(result) + "\n")
    sys.stdout.write(f"\nengine: {result['slots']} slots; shares of its time: {result['shares_of_engine']}\n")


if __name__ == "__main__":
    main()
