"""The paper's figures as studies."""

from __future__ import annotations

from grace_eval.reproduce.declare import Cell, Model, Reading, Study
from grace_eval.reproduce.measures.latency import Latency
from grace_eval.reproduce.measures.writing import Length
from grace_eval.reproduce.scale import Mode, Scale
from grace_eval.reproduce.tables import checkpoints, trained_models

_MODES: tuple[Mode, ...] = ("supervised", "unsupervised")


def joint(scale: Scale, engine: str) -> Study:
    """Figure 1."""
    cells = []
    for backbone in scale.backbones:
        for place, (method, (model, reading)) in enumerate(trained_models(scale, engine, backbone).items()):
            cells.append(
                Cell(
                    name=f"{backbone.short}-{place}",
                    labels={"backbone": backbone.label, "method": method},
                    model=model,
                    reading=reading,
                    measures=(scale.part, scale.general),
                )
            )
    notes = (
        "Generative score: the mean over the tasks of Table 5. Embedding score: the mean over the 16 tasks of the "
        "ablations. The paper's Figure 1 prints no numbers and does not say which scores it shows.",
        "The paper's other points (GPT, Claude, Gemini, E5, ...) are not measured here.",
        "HumanEval runs code that the model has written, which HF_ALLOW_CODE_EVAL=1 allows: in a sandbox.",
    )
    return _study(1, "Generative against embedding score", cells, notes, scale)


def lambda_grid(scale: Scale, engine: str) -> Study:
    """Figure 3."""
    cells = []
    for mode in _MODES:
        for consistency in scale.lambdas:
            for hard in scale.lambdas:
                changes = (f"reward.lambda_consistency={consistency}", f"reward.lambda_hard={hard}")
                label = f"l{consistency:g}-l{hard:g}"
                cells.append(
                    Cell(
                        name=f"{mode}-{consistency:g}-{hard:g}",
                        labels={"mode": mode, "lambda_consistency": consistency, "lambda_hard": hard},
                        model=scale.grace(scale.main, mode, engine, label, *changes),
                        measures=(scale.part,),
                    )
                )
    notes = (
        "The paper names four of its 50 values in its text: 50.2 (supervised) and 45.2 (unsupervised) with the "
        "hard-negative term alone at weight 1, 49.3 and 45.0 with the consistency term alone.",
        "With the published supervised reward the hard-negative term does not depend on the rollout, so its weight can "
        "change nothing but through rollouts of excessive length: differences along that axis are noise between runs.",
    )
    return _study(3, "Weights of the reward's terms", cells, notes, scale)


def efficiency(scale: Scale, engine: str) -> Study:
    """Figure 4."""
    latency = Latency(
        task=scale.text_task,
        queries=scale.latency_queries,
        documents=scale.latency_documents,
        repeats=2 if scale.is_smoke else 3,
    )
    measures = (scale.part, latency)
    encoder = Model(label="encoder", source=scale.encoder, is_encoder=True)
    name = scale.encoder.rsplit("/", 1)[-1]
    cells = [Cell(name="encoder", labels={"method": name, "budget": 0}, model=encoder, measures=measures)]
    methods = {"Base": scale.untrained(scale.main), "GRACE": scale.grace(scale.main, "supervised", engine, "")}
    for method, model in methods.items():
        for budget in scale.budgets:
            cells.append(
                Cell(
                    name=f"{method.lower()}-{budget}",
                    labels={"method": method, "budget": budget},
                    model=model,
                    reading=Reading(budget=budget),
                    measures=measures,
                )
            )
    notes = (
        "One query at a time. T_encode is one pass over the prompt, T_gen what writing adds, T_match the product of a "
        f"query with {scale.latency_documents:,} vectors. G = 0 is prompt pooling.",
        "Here a vector is pooled while it is written, so there is no second pass over prompt and rationale, which the "
        "paper's T_encode contains.",
        "Rationales may end before the budget.",
    )
    return _study(4, "Efficiency", cells, notes, scale)


def progression(scale: Scale, engine: str) -> Study:
    """Figure 5."""
    cells = []
    length = Length(task=scale.text_task, texts=8 if scale.is_smoke else 64)
    for backbone in scale.backbones:
        for step, model in checkpoints(scale, engine, scale.steps, backbone):
            cells.append(
                Cell(
                    name=f"{backbone.short}-step-{step}",
                    labels={"model": backbone.label, "step": step},
                    model=model,
                    measures=(scale.part, length),
                )
            )
    notes = (
        "A checkpoint is a run of that many steps: at a constant learning rate it is the beginning of the longer one.",
        f"Lengths are of greedy rationales on the first queries and documents of {scale.text_task}.",
    )
    return _study(5, "Score and length of rationales over training", cells, notes, scale)


REPRESENTATIONS: dict[str, Reading] = {
    "last token": Reading(pooling="last"),
    "max": Reading(pooling="max"),
    "mean, last layer": Reading(pooling="mean"),
    "mean, penultimate layer": Reading(pooling="mean_penultimate"),
    "mean, rationale alone (ours)": Reading(pooling="mean", span="rationale"),
}


def representations(scale: Scale, engine: str) -> Study:
    """Figure 6."""
    cells = []
    for mode in _MODES:
        for backbone in scale.backbones:
            model = scale.grace(backbone, mode, engine, "")
            for place, (name, reading) in enumerate(REPRESENTATIONS.items()):
                cells.append(
                    Cell(
                        name=f"{mode}-{backbone.short}-{place}",
                        labels={"mode": mode, "model": backbone.label, "representation": name},
                        model=model,
                        reading=reading,
                        measures=(scale.part,),
                    )
                )
    notes = (
        "One model for each setting, trained with the mean of the last layer and read in each way. The paper does not "
        "say whether it trained each of them anew.",
        "The paper's 'EOS token' is the last token of the rationale here: the EOS that ends it is not pooled.",
    )
    return _study(6, "Representations", cells, notes, scale)


def sensitivity(scale: Scale, engine: str) -> Study:
    """Figure 7."""
    cells = []
    batch, group = scale.batch_sizes[-1], scale.group_sizes[-1]
    settings = [("batch size", size, size, group) for size in scale.batch_sizes]
    settings += [("K", size, batch, size) for size in scale.group_sizes]
    for backbone in scale.backbones:
        for what, value, batch_size, group_size in settings:
            changes = (f"batch_size={batch_size}", f"rollout.group_size={group_size}")
            label = f"b{batch_size}-k{group_size}"
            cells.append(
                Cell(
                    name=f"{backbone.short}-{what.replace(' ', '-').lower()}-{value}",
                    labels={"model": backbone.label, "setting": what, "value": value},
                    model=scale.grace(backbone, "supervised", engine, label, *changes),
                    measures=(scale.part,),
                )
            )
    notes = (
        "The paper names K = 2, 4, 8 and calls batches of 32 and more a good choice. Beginning at 16 is our guess.",
        "Two epochs each, so a smaller batch means more steps.",
        "With K = 2 and a group's mean as the baseline the consistency term trains nothing "
        "(docs/what-the-reward-trains.md).",
    )
    return _study(7, "Batch size and rollouts", cells, notes, scale)


def _study(number: int, title: str, cells: list[Cell], notes: tuple[str, ...], scale: Scale) -> Study:
    return Study(kind="figure", number=number, title=title, cells=tuple(cells), notes=notes, stamp=scale.stamp)
