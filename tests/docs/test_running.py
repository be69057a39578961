"""Commands of the pages that take seconds are run; for each of the others the reason is listed.

A page with a command that stands in neither list makes a test fail. Whether it exists, with its options and settings,
is tested for all of them in test_commands.py.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from grace_st.cli import main
from tests.docs.pages import all_commands
from tests.docs.programs import UnknownCommandError

SHORT = (
    "steps=1 batch_size=2 rollout.group_size=2 prompt.max_new_tokens=4 eval.every=0 eval.dev=null eval.test=null "
    "eval.kl=false log.tensorboard=false log.sample_texts=0 compute.threads=1"
)
"""What a training gets besides, so that it takes seconds."""
BASELINE = (
    "steps=1 batch_size=2 eval.every=0 eval.dev=null eval.test=null log.tensorboard=false log.sample_texts=0 "
    "compute.threads=1"
)


@dataclass(frozen=True)
class Run:
    """How a command is run.

    Attributes:
        wrote: What is there afterwards.
        shorter: Words that are added.
        instead: Words that others stand in for.
    """

    wrote: str = ""
    shorter: str = ""
    instead: tuple[tuple[str, str], ...] = ()


HUB = (("Qwen/Qwen2.5-1.5B-Instruct", "CHECKPOINT"), ("models/qwen-1.5b", "models/new"))
"""CHECKPOINT is a small model with random weights, and models/qwen-1.5b is there already."""

RUN: dict[str, Run] = {
    "grace-st demo": Run(),
    "grace-st encode texts.txt vectors.npy --model grace-nano": Run("vectors.npy"),
    "grace-st encode texts.txt nano.npy --model grace-nano": Run("nano.npy"),
    "grace-st encode texts.txt vectors.npy --model models/qwen-1.5b": Run("vectors.npy"),
    "grace-st encode corpus.jsonl.gz corpus.parquet --model models/qwen-1.5b --field body --id-field id --resume": Run(
        "corpus.parquet"
    ),
    "grace-st encode texts.txt - --model grace-nano --max-new-tokens 16": Run(),
    "grace-st explain 'a country governed from Paris' 'France lies in Western Europe.' --html why.html": Run(
        "why.html"
    ),
    "grace-st explain 'somewhere with deep fjords' --documents corpus.jsonl --field body --id-field id --top 3": Run(),
    "grace-st convert Qwen/Qwen2.5-1.5B-Instruct models/qwen-1.5b": Run(
        "models/new/grace_config.json", "--max-seq-length 128 --max-new-tokens 8", HUB
    ),
    "grace-st data check pairs.jsonl": Run(),
    "grace-st data check pairs.jsonl --model grace-nano": Run(),
    "grace-st data check pairs.jsonl --query-field question --positive-field answer --model "
    "Qwen/Qwen2.5-1.5B-Instruct": Run(instead=HUB),
    "grace-st train nano": Run("runs/nano/model.safetensors", SHORT),
    "grace-st train nano --resume": Run("runs/nano/model.safetensors", SHORT),
    "grace-st train nano steps=5 output=runs/try": Run("runs/try/model.safetensors", SHORT),
    "grace-st train nano mode=unsupervised data.train=corpus.txt output=runs/corpus": Run(
        "runs/corpus/model.safetensors", SHORT
    ),
    "grace-st train nano method=cl output=runs/nano-cl": Run("runs/nano-cl/model.safetensors", BASELINE),
    "grace-st train nano method=simcse output=runs/nano-simcse": Run("runs/nano-simcse/model.safetensors", BASELINE),
    "grace-st train my.yaml data.query_field=question data.positive_field=answer data.negative_field=hard_negatives": (
        Run("runs/my/model.safetensors", SHORT)
    ),
    "grace-st train verl-qwen2.5-1.5b data.train=pairs.jsonl output=models/mine --dry-run": Run(),
    "grace-st plan --texts 1e9 --throughput benchmarks/results/encode_cpu.json --dimensions 768 --workers 1000": Run(),
    "grace-st plan --texts 10M --calibrate models/mine --sample corpus/part-0.jsonl --workers 8": Run(),
    "grace-st store info rationales.sqlite": Run(),
    "grace-st store prune rationales.sqlite --older-than 30d --max-size 20GB": Run(),
    "grace-st card --name grace-1.5b": Run(),
    "grace-st eval table 4 --list": Run(),
    "grace-st eval table 4 --pairs e5.jsonl --dry-run": Run(),
}

_OPTIONS = "only an option differs; tests/vllm has the engine, `make test-engines` the real one"
_GPU = "trains a model from the hub, for hours on GPUs; its settings are checked in test_commands.py"
_MTEB = "needs data from the hub; tests/evaluation/test_run.py runs local ones"
_SERVER = "does not end by itself; tests/serve starts it"
_RAY = "starts Ray; tests/engines/test_ray_scale.py does"
_HUB = "talks to the hub; tests/publish has a stand-in"
NOT_RUN: dict[str, str] = {
    "grace-st publish models/mine my-org/my-model": _HUB,
    "grace-st publish models/mine my-org/my-model --dry-run": _HUB,
    "grace-st card models/mine --results mteb-results": "needs results of that folder; tests/cards makes some",
    "grace-st card --name grace-1.5b --unsupervised --output model_cards/grace-1.5b-unsupervised.md": (
        "writes into the repository; tests/cards/test_names.py compares the file"
    ),
    "grace-st encode corpus.jsonl vectors.npy --model models/mine --engine vllm --chunk-size 65536": _OPTIONS,
    "grace-st encode corpus.jsonl vectors.npy --model models/mine --engine vllm --engine-option "
    "tensor_parallel_size=2": _OPTIONS,
    "grace-st encode corpus/ vectors --ray --model models/mine --resume": _RAY,
    "grace-st encode 'corpus/**/*.parquet' vectors --ray --address auto --workers 8 --model models/mine --resume": _RAY,
    "grace-st encode s3://bucket/corpus s3://bucket/vectors --ray --address auto --model models/mine --resume": _RAY,
    "grace-st serve --model models/qwen-1.5b --port 8000": _SERVER,
    "grace-st serve --model models/mine --port 8000": _SERVER,
    "grace-st train qwen2.5-1.5b data.train=pairs.jsonl output=models/mine": _GPU,
    "grace-st train qwen2.5-1.5b data.train=pairs.jsonl output=models/try steps=20 eval.every=10": _GPU,
    "grace-st train paper data.train=pairs.jsonl output=models/mine": _GPU,
    "grace-st train qwen2.5-1.5b engine=verl cluster.gpus=4 data.train=pairs.jsonl output=models/mine": _GPU,
    "grace-st train verl-qwen2.5-1.5b data.train=pairs.jsonl output=models/mine": _GPU,
    "grace-st train verl-lora data.train=pairs.jsonl output=models/mine": _GPU,
    "grace-st train verl-lora data.train=pairs.jsonl output=models/mine "
    "verl.actor_rollout_ref.rollout.max_num_seqs=128": _GPU,
    "grace-st train verl-two-nodes data.train=pairs.jsonl output=/shared/models/mine": _GPU,
    "grace-st store export rationales.sqlite --space 3f2a --model models/mine --no-vectors": (
        "the space is a hash of the reader's model; tests/test_store.py exports"
    ),
    "grace-st eval mteb --model models/mine --name my-org/mine --benchmark eng-v1": _MTEB,
    "grace-st eval mteb --model models/mine --benchmark eng-v1 --engine vllm": _MTEB,
    "grace-st eval mteb --model models/mine --tasks STSBenchmark SciFact": _MTEB,
    "grace-st eval mteb --model models/mine --tasks STSBenchmark SciFact XQuADRetrieval:en": _MTEB,
    "grace-st eval mteb --model grace-nano --tasks STSBenchmark --data-root data": _MTEB,
    "grace-st eval submit --results mteb-results": "needs finished results; tests/evaluation/test_submit.py makes some",
    "grace-st eval submit --results mteb-results --hub-revision 0123456789abcdef0123456789abcdef01234567": (
        "needs finished results; tests/evaluation/test_submit.py makes some"
    ),
    "grace-st eval faithfulness --model grace-nano": "minutes; tests/evaluation/test_faithfulness.py does it in small",
    "grace-st eval faithfulness --model models/mine --data pairs.jsonl --max-items 500": (
        "as above, and from more rows than the file here has"
    ),
    "grace-st eval faithfulness --model models/mine --tasks STSBenchmark SciFact Banking77Classification": _MTEB,
    "grace-st eval table 4 --smoke": "a minute; tests/evaluation/test_reproduce.py runs smoke studies",
    "grace-st eval table 4 --pairs e5.jsonl --models models --data-root data": _GPU,
    "grace-st eval figure 3 --pairs e5.jsonl --texts data/wiki1m_for_simcse.txt": _GPU,
}


def _shown() -> set[str]:
    return {shlex.join(words) for words in all_commands() if words[0] == "grace-st"}


def test_each_command_is_run_or_has_a_reason() -> None:
    listed = {*RUN, *NOT_RUN}
    assert not set(RUN) & set(NOT_RUN)
    assert _shown() - listed == set(), "new commands: add each to RUN, or to NOT_RUN with the reason"
    assert listed - _shown() == set(), "no page has these any more: remove them"


def test_a_reason_names_files_that_there_are() -> None:
    root = Path(__file__).parents[2]
    for reason in NOT_RUN.values():
        for word in reason.replace(";", " ").split():
            if word.startswith("tests/"):
                assert (root / word).exists(), word


@pytest.mark.parametrize("line", RUN, ids=lambda line: line.removeprefix("grace-st "))
def test_the_command_runs(
    line: str, world: Path, checkpoints: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    how = RUN[line]
    names = {**dict(how.instead), "CHECKPOINT": str(checkpoints())}
    words = [names.get(names.get(word, word), names.get(word, word)) for word in shlex.split(line)[1:]]
    code = main([*words, *shlex.split(how.shorter)])
    said = capsys.readouterr()
    if code != 0:
        raise UnknownCommandError(f"exit code {code}: {said.err[-1000:]}")
    assert not how.wrote or (world / how.wrote).stat().st_size > 0
    assert how.wrote or said.out.strip()
