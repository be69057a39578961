"""The paper's tables as studies."""

from __future__ import annotations

import re
from dataclasses import replace

from grace_eval.reproduce.declare import Cell, Model, Reading, Study
from grace_eval.reproduce.measures.writing import Rationales
from grace_eval.reproduce.scale import Backbone, Scale

TABLE_6_TEXT = (
    "BBC - History - British History in depth: Prime Ministers and Politics Timeline On This Day Prime Ministers and "
    "Politics Timeline Do you know which prime minister brought 'fallen women' to 10 Downing Street? Or which one "
    "fought a duel? Or who was known as 'the Goat'? Take a political journey through nearly 300 years of high ideals "
    "and low cunning, from Gordon Brown to the first man to hold prime minister..."
)
"""The document of Table 6, as far as it is printed."""

TABLE_7_QUERY = "In which country would you find the ruins of the ancient Inca city known as Machu Picchu?"

_AVERAGE = (
    "The average is the mean over tasks. The paper's printed averages do not follow from its columns, so the two are "
    "not the same quantity."
)
_BEST = "The weights that are measured are those of the best step on 200 held-out rows; the paper takes the last."
_REWARD = (
    "The reward is the published one (`reward.variant=paper`). Its negatives and hard negatives do not depend on "
    "the rollout, so they train nothing (docs/what-the-reward-trains.md); "
    "`--set reward.variant=per_rollout` mends that."
)


def supervised(scale: Scale, engine: str) -> Study:
    """Table 1."""
    cells = []
    for backbone in scale.backbones:
        start = scale.untrained(backbone)
        rows: tuple[tuple[str, Model, Reading], ...] = (
            ("Base", scale.untrained(backbone, system_prompt=False), Reading(budget=0)),
            ("prompt pooling", start, Reading(budget=0)),
            ("w/ reasoning", start, Reading()),
            ("w/ CL training", scale.baseline(backbone, "cl"), Reading(budget=0)),
            ("GRACE", scale.grace(backbone, "supervised", engine, ""), Reading()),
        )
        cells += [_row(backbone.label, backbone.short, *row, scale) for row in rows]
    notes = (
        _AVERAGE,
        "Prompt pooling is our own row: GRACE's system message, and nothing written.",
        "CL training: InfoNCE with in-batch negatives on the prompt's vector. The paper gives no learning rate, so it "
        "is that of GRACE.",
        _BEST,
        _REWARD,
    )
    return Study(kind="table", number=1, title="Supervised results", cells=tuple(cells), notes=notes, stamp=scale.stamp)


def unsupervised(scale: Scale, engine: str) -> Study:
    """Table 2."""
    cells = []
    for backbone in scale.backbones:
        rows: tuple[tuple[str, Model, Reading], ...] = (
            ("Base", scale.untrained(backbone, system_prompt=False), Reading(budget=0)),
            ("w/ SimCSE", scale.baseline(backbone, "simcse"), Reading(budget=0)),
            ("GRACE (unsupervised)", scale.grace(backbone, "unsupervised", engine, ""), Reading()),
        )
        cells += [_row(backbone.label, backbone.short, *row, scale) for row in rows]
    notes = (
        _AVERAGE,
        "Other open models (BERT, RoBERTa, LLM2Vec, Echo) are not measured again: `grace-st eval mteb --compare` puts "
        "published scores beside ours. Two of the paper's rows for them have their columns in another order.",
        _BEST,
    )
    return Study(
        kind="table", number=2, title="Unsupervised results", cells=tuple(cells), notes=notes, stamp=scale.stamp
    )


def _row(backbone: str, short: str, method: str, model: Model, reading: Reading, scale: Scale) -> Cell:
    labels = {"backbone": backbone, "method": method}
    return Cell(name=f"{short}-{_slug(method)}", labels=labels, model=model, reading=reading, measures=(scale.whole,))


def _slug(method: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", method.lower()).strip("-")


ALGORITHMS = {"ReMax": "remax", "REINFORCE++": "reinforce++", "DAPO": "dapo", "GRPO": "grpo", "RLOO (ours)": "rloo"}


def algorithms(scale: Scale, engine: str) -> Study:
    """Table 4."""
    cells = []
    for label, name in ALGORITHMS.items():
        # DAPO's own length penalty; the others keep the configuration's.
        penalty = ("reward.length_penalty=soft",) if name == "dapo" else ()
        safe = name.replace("+", "p")
        model = scale.grace(scale.main, "supervised", engine, safe, f"algorithm.name={name}", *penalty)
        cells.append(Cell(name=safe, labels={"algorithm": label}, model=model, measures=(scale.part,)))
    notes = (
        _AVERAGE,
        "RLOO, whose baseline leaves the rollout itself out, is our own row.",
        "DAPO has its soft over-length penalty and drops groups whose rewards hardly differ (by less than 1e-3: "
        "continuous rewards are never equal). ReMax's baseline is the greedy rollout.",
        _BEST,
        _REWARD,
    )
    return Study(kind="table", number=4, title="RL algorithms", cells=tuple(cells), notes=notes, stamp=scale.stamp)


def trained_models(scale: Scale, engine: str, backbone: Backbone) -> dict[str, tuple[Model, Reading]]:
    """The rows of Table 5 with how their vectors are read."""
    return {
        "Base": (scale.untrained(backbone, system_prompt=False), Reading(budget=0)),
        "w/ CL training": (scale.baseline(backbone, "cl"), Reading(budget=0)),
        "GRACE": (scale.grace(backbone, "supervised", engine, ""), Reading()),
        "GRACE (unsupervised)": (scale.grace(backbone, "unsupervised", engine, ""), Reading()),
    }


def general_tasks(scale: Scale, engine: str) -> Study:
    """Table 5."""
    cells = []
    for backbone in scale.backbones:
        for method, (model, _) in trained_models(scale, engine, backbone).items():
            cells.append(
                Cell(
                    name=f"{backbone.short}-{_slug(method)}",
                    labels={"backbone": backbone.label, "method": method},
                    model=model,
                    measures=(scale.general,),
                )
            )
    notes = (
        "Measured by lm-evaluation-harness, greedily, behind the chat template, each task as the harness defines it: "
        "gsm8k (5 examples, flexible extraction), mmlu, triviaqa, bbh (3 examples, chain of thought), "
        "humaneval_instruct. The paper does not say how it prompts, so levels differ; what counts is the change.",
        "FEVER is a task file of ours: whether a claim is true or false, from the claim alone; claims without enough "
        "information are left out, so guessing gives about half.",
        "HumanEval runs code that the model has written, which HF_ALLOW_CODE_EVAL=1 allows: in a sandbox.",
    )
    return Study(kind="table", number=5, title="General tasks", cells=tuple(cells), notes=notes, stamp=scale.stamp)


def output_evolution(scale: Scale, engine: str) -> Study:
    """Table 6."""
    texts = (("document", TABLE_6_TEXT), ("query", TABLE_7_QUERY))
    cells = [
        Cell(name=f"step-{step}", labels={"step": step}, model=model, measures=(Rationales(texts=texts),))
        for step, model in checkpoints(scale, engine, scale.rationale_steps)
    ]
    notes = (
        "Greedy rationales. The document is the paper's as far as it is printed; the query is that of its Table 7.",
        "A checkpoint is a run of that many steps: at a constant learning rate it is the beginning of the longer one.",
    )
    return Study(
        kind="table", number=6, title="Rationales over training", cells=tuple(cells), notes=notes, stamp=scale.stamp
    )


def checkpoints(
    scale: Scale, engine: str, steps: tuple[int, ...], backbone: Backbone | None = None
) -> list[tuple[int, Model]]:
    """The untrained model for step 0, and runs of so many steps, each of which goes on from the one before."""
    chosen = backbone or scale.main
    made: list[tuple[int, Model]] = []
    before: Model | None = None
    for step in steps:
        if step == 0:
            made.append((0, scale.untrained(chosen)))
            continue
        changes = (f"steps={step}", "eval.keep=last")
        model = replace(scale.grace(chosen, "supervised", engine, f"step{step}", *changes), after=before)
        made.append((step, model))
        before = model
    return made
