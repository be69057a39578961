"""How large studies are: as the paper has them, or small enough to see in minutes that everything works."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from grace_eval.reproduce.declare import Model, Training
from grace_eval.reproduce.inputs import BUNDLED, STAND_IN
from grace_eval.reproduce.measures.base import Measure
from grace_eval.reproduce.measures.general import General
from grace_eval.reproduce.measures.quality import Benchmark, HeldOut

Mode = Literal["supervised", "unsupervised"]
STAMP = "smoke: not a result"


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A causal LM.

    Attributes:
        source: Its name on the hub, or ``grace-nano``.
        label: In tables, as the paper has it.
        short: In names of folders, and of the bundled configurations ``verl-SHORT``.
    """

    source: str
    label: str
    short: str


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Sizes of all studies.

    Attributes:
        stamp: What every output says; None for full studies.
        backbones: Of Tables 1 and 2, and of Figures 5 to 7.
        main: Of the ablations.
        limits: Of converted folders: ``max_seq_length``, ``max_new_tokens``.
        whole: The measure of Tables 1 and 2.
        part: That of the ablations.
        general: That of Table 5.
        changes: For every training.
        grace_changes: For every training of GRACE beside these.
        lambdas: Of Figure 3, for both weights.
        budgets: Of Figure 4.
        encoder: Of Figure 4.
        text_task: Whose texts lengths and times are measured on.
        latency_queries, latency_documents: Of Figure 4.
        steps: Of Figure 5; 0 is the untrained model.
        rationale_steps: Of Table 6.
        batch_sizes, group_sizes: Of Figure 7; the last of each is what the other varies at.
    """

    stamp: str | None
    backbones: tuple[Backbone, ...]
    main: Backbone
    limits: Mapping[str, int]
    whole: Measure
    part: Measure
    general: Measure
    changes: tuple[str, ...] = ()
    grace_changes: tuple[str, ...] = ()
    lambdas: tuple[float, ...]
    budgets: tuple[int, ...]
    encoder: str
    text_task: str
    latency_queries: int
    latency_documents: int
    steps: tuple[int, ...]
    rationale_steps: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    group_sizes: tuple[int, ...]

    @property
    def is_smoke(self) -> bool:
        """Whether it shows only that everything works."""
        return self.stamp is not None

    def untrained(self, backbone: Backbone, *, system_prompt: bool = True) -> Model:
        """The backbone as it is, behind GRACE's system message or its template's own."""
        label = f"{backbone.short}-{'start' if system_prompt else 'bare'}"
        return Model(label=label, source=backbone.source, system_prompt=system_prompt)

    def grace(self, backbone: Backbone, mode: Mode, engine: str, label: str, *changes: str) -> Model:
        """A run of GRACE."""
        unsupervised = mode == "unsupervised"
        if self.is_smoke:
            config = "nano-unsupervised" if unsupervised else "nano"
            own: tuple[str, ...] = ()
        elif engine == "verl":
            config, own = f"verl-{backbone.short}{'-unsupervised' if unsupervised else ''}", ()
        else:
            config, own = "paper", ("mode=unsupervised",) if unsupervised else ()
        training = Training(
            config=config,
            changes=(*own, *self.changes, *self.grace_changes, *changes),
            data="texts" if unsupervised else "pairs",
        )
        name = f"{backbone.short}-{'unsupervised' if unsupervised else 'grace'}{label and '-' + label}"
        return Model(label=name, source=backbone.source, training=training)

    def baseline(self, backbone: Backbone, method: Literal["cl", "simcse"]) -> Model:
        """A run of CL or SimCSE, in one process."""
        training = Training(
            config="nano" if self.is_smoke else "paper",
            changes=(f"method={method}", *self.changes),
            data="pairs" if method == "cl" else "texts",
        )
        return Model(label=f"{backbone.short}-{method}", source=backbone.source, training=training)


QWEN_3B = Backbone(source="Qwen/Qwen2.5-3B-Instruct", label="Qwen2.5-3B-Instruct", short="qwen2.5-3b")

PAPER = Scale(
    stamp=None,
    backbones=(
        Backbone(source="Qwen/Qwen2.5-1.5B-Instruct", label="Qwen2.5-1.5B-Instruct", short="qwen2.5-1.5b"),
        Backbone(source="meta-llama/Llama-3.2-3B-Instruct", label="Llama-3.2-3B-Instruct", short="llama-3.2-3b"),
        QWEN_3B,
        Backbone(source="Qwen/Qwen3-4B-Instruct-2507", label="Qwen3-4B-Instruct-2507", short="qwen3-4b"),
    ),
    main=QWEN_3B,
    limits={"max_seq_length": 1024, "max_new_tokens": 2048},
    whole=Benchmark(benchmark="eng-v1"),
    part=Benchmark(benchmark="grace16"),
    general=General(suite="paper"),
    lambdas=(0.0, 0.3, 0.5, 0.7, 1.0),
    budgets=(0, 64, 256, 512),
    encoder="google-bert/bert-base-uncased",
    text_task="SciFact",
    latency_queries=32,
    latency_documents=1_000_000,
    steps=(0, 200, 400, 600, 800, 1000),
    rationale_steps=(0, 200, 600, 1000),
    batch_sizes=(16, 32, 64),
    group_sizes=(2, 4, 8),
)

_NANO = Backbone(source=BUNDLED, label="grace-nano", short="nano")

SMOKE = Scale(
    stamp=STAMP,
    backbones=(_NANO,),
    main=_NANO,
    limits={"max_seq_length": 320, "max_new_tokens": 72},
    whole=HeldOut(),
    part=HeldOut(),
    general=General(suite="stand-in"),
    changes=(
        "steps=2",
        "batch_size=4",
        "optimizer.learning_rate=1e-3",  # so that two steps show
        "prompt.max_new_tokens=72",
        "eval.dev=null",
        "eval.test=null",
        "eval.every=0",
        "eval.keep=last",
        "checkpoint.every=100000",
        "log.tensorboard=false",
        "log.curves=false",
        "log.sample_texts=0",
        "compute.threads=1",
    ),
    grace_changes=("rollout.group_size=4", "stop.collapse_steps=0", "stop.eos_rate_zero_steps=0"),
    lambdas=(0.0, 1.0),
    budgets=(0, 8, 32),
    encoder=STAND_IN,
    text_task="nano:test",
    latency_queries=6,
    latency_documents=10_000,
    steps=(0, 2, 4),
    rationale_steps=(0, 2, 4),
    batch_sizes=(2, 4),
    group_sizes=(2, 4),
)
