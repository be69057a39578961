"""Speed of the vLLM engine, side by side with vLLM itself.

    python benchmarks/vllm.py                                        # a CPU
    python benchmarks/vllm.py --shape 1.5b --dtype bfloat16 --texts 2000 --budget 256 --rounds 3    # one GPU

Random weights, the same prompts for every variant, greedy, every rationale as long as the budget:

    bound        plain `LLM.generate` of the same prompts, with vLLM's own settings: what can be reached
    uncached     the same without prefix caching, which the engine cannot use: what that alone costs
    engine       this package's VllmEngine: generates and pools in one pass
    two_pass     the same with two_pass=True
    published    the published shape: `LLM.generate`, then a second copy of the model in transformers reads prompt and
                 rationale in batches of 32, and pools
    ngram        two_pass with prompt-lookup speculative decoding (in no default: it has to pay on real rationales)

Each variant runs in a process of its own, one after the other, so that each has the whole machine. A round runs all of
them, in an order that rotates; ratios are taken within a round, above 1 where this package's engine is faster. Starting
and a warm-up are not counted. Ratios of CPU time are for machines without a GPU that are not quiet.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# This file has the name of the package that it measures.
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

os.environ.setdefault("HF_HUB_OFFLINE", "1")

VARIANTS = ("bound", "uncached", "engine", "two_pass", "published", "ngram")
DEFAULT_VARIANTS = VARIANTS[:5]
HEAD_TOKENS = 42  # the default system message in Qwen2's template and vocabulary
BATCH = 32  # of the published shape
LIMIT = 3600.0  # seconds of a variant

SHAPES: dict[str, dict[str, Any]] = {
    # 4.4 M parameters
    "5m": {
        "vocab_size": 2000,
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    # 30.7 M parameters
    "30m": {
        "vocab_size": 8000,
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 7,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
    },
    # Qwen2.5-1.5B
    "1.5b": {
        "vocab_size": 151936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
    },
}


def save_model(folder: Path, shape: str, dtype: str) -> None:
    """Random weights of a Qwen2 shape."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        **SHAPES[shape], max_position_embeddings=2048, tie_word_embeddings=True, bos_token_id=None, eos_token_id=0
    )
    Qwen2ForCausalLM._from_config(config, dtype=getattr(torch, dtype)).save_pretrained(folder)


def make_prompts(texts: int, vocabulary: int) -> list[list[int]]:
    """About 130 tokens each, ``HEAD_TOKENS`` of them common to all; no EOS."""
    import torch

    generator = torch.Generator().manual_seed(0)
    head = torch.randint(1, vocabulary, (HEAD_TOKENS,), generator=generator).tolist()
    bodies = torch.randint(54, 119, (texts,), generator=generator).tolist()
    return [[*head, *torch.randint(1, vocabulary, (body,), generator=generator).tolist()] for body in bodies]


# ---------------------------------------------------------------- variants, each in a process of its own


def run_variant(arguments: argparse.Namespace) -> dict[str, Any]:
    """Start one variant, warm it up, and time it."""
    folder = Path(arguments.folder)
    prompts = make_prompts(arguments.texts, SHAPES[arguments.shape]["vocab_size"])
    started = time.perf_counter()
    make = {"bound": plain, "uncached": plain, "published": published}.get(arguments.variant, engine)
    work = make(folder, arguments)
    start_seconds = time.perf_counter() - started
    work(prompts[:: max(1, len(prompts) // 8)])
    began, used = time.perf_counter(), cpu_seconds()
    tokens = work(prompts)
    seconds, used = time.perf_counter() - began, cpu_seconds() - used
    if tokens != len(prompts) * arguments.budget:
        raise RuntimeError(f"{tokens} tokens were written, and {len(prompts) * arguments.budget} were asked for")
    return {
        "seconds": seconds,
        "cpu_seconds": used,
        "texts_per_second": len(prompts) / seconds,
        "start_seconds": start_seconds,
    }


def cpu_seconds() -> float:
    """Of this process and all that it has started and that live, by Linux' books."""
    parents, times = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        parents[int(path.parent.name)] = int(fields[1])
        times[int(path.parent.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    own = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in own} - own:
        own |= more
    return sum(times[pid] for pid in own)


Work = Callable[[list[list[int]]], int]


def plain(folder: Path, arguments: argparse.Namespace) -> Work:
    """`LLM.generate`."""
    from vllm import LLM, SamplingParams

    options: dict[str, Any] = {} if arguments.variant != "uncached" else {"enable_prefix_caching": False}
    if arguments.device == "cpu":
        options["enable_chunked_prefill"] = False  # as in the engine, for seeds
        options["max_num_batched_tokens"] = 8192
    llm = LLM(
        model=str(folder),
        dtype=arguments.dtype,
        max_model_len=2048,
        skip_tokenizer_init=True,
        generation_config="vllm",
        enforce_eager=arguments.eager,
        **options,
    )
    sampling = SamplingParams(temperature=0.0, max_tokens=arguments.budget, ignore_eos=True, detokenize=False)

    def work(prompts: list[list[int]]) -> int:
        outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], sampling, use_tqdm=False)
        work.ids = [list(output.outputs[0].token_ids) for output in outputs]  # type: ignore[attr-defined]
        return sum(map(len, work.ids))  # type: ignore[attr-defined]

    return work


def published(folder: Path, arguments: argparse.Namespace) -> Work:
    """`LLM.generate`, and a second model that reads all of it."""
    import torch
    from transformers import AutoModelForCausalLM

    generate = plain(folder, arguments)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, arguments.dtype))
    decoder = model.to(arguments.device).eval().get_decoder()

    def work(prompts: list[list[int]]) -> int:
        tokens = generate(prompts)
        sequences = [[*prompt, *ids] for prompt, ids in zip(prompts, generate.ids, strict=True)]  # type: ignore[attr-defined]
        with torch.no_grad():
            for first in range(0, len(sequences), BATCH):
                batch = sequences[first : first + BATCH]
                width = max(map(len, batch))
                ids = torch.tensor([sequence + [0] * (width - len(sequence)) for sequence in batch])
                lengths = torch.tensor([[len(sequence)] for sequence in batch])
                mask = torch.arange(width) < lengths
                states = decoder(ids.to(arguments.device), attention_mask=mask.long().to(arguments.device))
                inside = (mask & (torch.arange(width) >= HEAD_TOKENS)).to(arguments.device).unsqueeze(-1)
                pooled = (states.last_hidden_state.float() * inside).sum(dim=1) / inside.sum(dim=1)
                pooled.cpu()
        return tokens

    return work


def engine(folder: Path, arguments: argparse.Namespace) -> Work:
    """This package's engine."""
    from grace_st.engines.base import PromptTokens, Sampling
    from grace_st.engines.vllm.engine import VllmEngine
    from grace_st.engines.vllm.options import VllmOptions

    options: dict[str, Any] = {"two_pass": arguments.variant != "engine", "dtype": arguments.dtype}
    if arguments.variant == "ngram":
        options["speculative_config"] = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 4}
    made = VllmEngine(
        folder,
        eos_token_ids=[],
        vocabulary_size=SHAPES[arguments.shape]["vocab_size"],
        context_length=2048,
        longest=2047,
        options=VllmOptions.of({**options, "enforce_eager": arguments.eager, "max_model_len": 2047}),
    )
    made.start()

    def work(prompts: list[list[int]]) -> int:
        tokens = [PromptTokens(tuple(prompt), HEAD_TOKENS) for prompt in prompts]
        rollouts = made.generate(tokens, Sampling(max_new_tokens=arguments.budget))
        return sum(len(rollout.ids) for rollout in rollouts)

    return work


# ---------------------------------------------------------------- rounds


def main() -> None:
    """Run rounds of variants, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="5m")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="of vLLM (default: cuda where there is one)")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--budget", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--eager", action="store_true", help="neither compile nor record CUDA graphs")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=DEFAULT_VARIANTS)
    parser.add_argument("--output", type=Path, help="a JSON file")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.device is None:
        import torch

        arguments.device = "cuda" if torch.cuda.is_available() else "cpu"
    if arguments.variant is not None:
        sys.stdout.write(f"\nRESULT {json.dumps(run_variant(arguments))}\n")
        return
    rounds: list[dict[str, dict[str, Any]]] = []
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), arguments.shape, arguments.dtype)
        for number in range(arguments.rounds):
            turn = number % len(arguments.variants)
            order = [*arguments.variants[turn:], *arguments.variants[:turn]]
            rounds.append({name: in_a_process(name, folder, arguments) for name in order})
    result = summary(arguments, rounds)
    text = json.dumps(result, indent=2)
    if arguments.output is not None:
        arguments.output.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(text + "\n")


def in_a_process(variant: str, folder: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One variant, timed in a process of its own."""
    values = {
        "VLLM_CPU_KVCACHE_SPACE": "4",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "WARNING",
        **os.environ,
    }
    command = [sys.executable, __file__, "--variant", variant, "--folder", folder, "--device", arguments.device]
    command += ["--shape", arguments.shape, "--dtype", arguments.dtype, "--texts", str(arguments.texts)]
    command += ["--budget", str(arguments.budget), *(["--eager"] if arguments.eager else [])]
    ended = subprocess.run(command, capture_output=True, text=True, env=values, timeout=LIMIT)
    found = [line for line in ended.stdout.splitlines() if line.startswith("RESULT ")]
    if ended.returncode or not found:
        raise RuntimeError(f"{variant} failed:\n{ended.stdout[-2000:]}\n{ended.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(found[-1].removeprefix("RESULT "))
    sys.stderr.write(f"{variant}: {result['texts_per_second']:.2f} texts/s\n")
    return result


def summary(arguments: argparse.Namespace, rounds: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Medians over rounds; ratios of speeds within a round."""
    import torch
    import transformers

    from grace_st.engines.vllm.versions import installed

    speeds = {name: [one[name]["texts_per_second"] for one in rounds] for name in arguments.variants}
    pairs = [
        (own, other)
        for own in ("engine", "two_pass", "ngram")
        for other in ("bound", "uncached", "published", "two_pass")
        if own in speeds and other in speeds and own != other
    ]
    ratios = {
        f"{own}/{other}": [a / b for a, b in zip(speeds[own], speeds[other], strict=True)] for own, other in pairs
    }
    # On a CPU that others use as well wall-clock time says little, and what was computed more.
    work = {}
    for own, other in pairs:
        work[f"{own}/{other}"] = [one[other]["cpu_seconds"] / one[own]["cpu_seconds"] for one in rounds]
    on_gpu = arguments.device == "cuda"
    return {
        "settings": {
            name: getattr(arguments, name)
            for name in ("shape", "device", "dtype", "texts", "budget", "rounds", "eager")
        },
        "machine": torch.cuda.get_device_name() if on_gpu else f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"vllm": installed(), "torch": torch.__version__, "transformers": transformers.__version__},
        "texts_per_second": {name: statistics.median(values) for name, values in speeds.items()},
        "ratios": {name: statistics.median(values) for name, values in ratios.items()},
        "ratios_by_round": ratios,
        "ratios_of_cpu_time": {name: statistics.median(values) for name, values in work.items()},
        "ratios_of_cpu_time_by_round": work,
        "rounds": rounds,
    }


if __name__ == "__main__":
    main()
