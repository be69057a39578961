"""``grace-st eval faithfulness``: one generation, many readings; scores as mteb's own; reports and the model card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import grace_st
from grace_eval.faithfulness.measure import Settings, measure
from grace_eval.faithfulness.report import verdict
from grace_eval.faithfulness.tasks import RetrievalTask, Role, retrieval_task
from grace_st.cli import main
from grace_st.engines.prefixes import embed_prefixes
from grace_st.engines.torch_engine import TorchEngine
from grace_train.nano.corpus import Corpus
from tests.conftest import GraceFolder
from tests.tiny import TEXTS

POOLINGS = ("mean", "mean_penultimate", "max", "last")


# ---------------------------------------------------------------- one pass for all budgets


@pytest.mark.parametrize("span", ["text_and_rationale", "rationale"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_prefixes_are_what_a_smaller_budget_gives(grace_folder: GraceFolder, pooling: str, span: str) -> None:
    model = grace_st.load(grace_folder("qwen2"), device="cpu", pooling=pooling, pooling_span=span)
    module = model[0]
    assert isinstance(module, grace_st.GenerateThenPool) and isinstance(module.engine, TorchEngine)
    budgets = [0, 1, 5, 24]
    whole = model.encode_with_rationales(TEXTS)
    found = embed_prefixes(
        module.engine, module.prompts_of(TEXTS), [encoding.rationale_ids for encoding in whole], budgets
    )
    for place, budget in enumerate(budgets):
        expected = model.encode(TEXTS, max_new_tokens=budget)
        assert np.abs(found[place].numpy() - expected).max() < 1e-5


@pytest.mark.parametrize("architecture", ["gemma2", "lfm2"])
def test_prefixes_of_other_architectures(grace_folder: GraceFolder, architecture: str) -> None:
    model = grace_st.load(grace_folder(architecture), device="cpu", engine_kwargs={"slots": 3})
    module = model[0]
    assert isinstance(module, grace_st.GenerateThenPool) and isinstance(module.engine, TorchEngine)
    prompts = module.prompts_of(TEXTS)
    generator = torch.Generator().manual_seed(0)
    rationales = [
        tuple(torch.randint(10, 300, (length,), generator=generator).tolist()) for length in range(len(TEXTS))
    ]
    found = embed_prefixes(module.engine, prompts, rationales, [0, 3, 7])
    for place, budget in enumerate([0, 3, 7]):
        one_by_one = module.engine.embed(prompts, [ids[:budget] for ids in rationales])
        assert (found[place] - torch.stack([rollout.vector for rollout in one_by_one])).abs().max() < 1e-5


def test_prefixes_refuse_what_is_wrong(grace_folder: GraceFolder) -> None:
    module = grace_st.load(grace_folder("qwen2"), device="cpu")[0]
    assert isinstance(module, grace_st.GenerateThenPool) and isinstance(module.engine, TorchEngine)
    prompts = module.prompts_of(["a"])
    for budgets in ([], [-1], [2, 2], [3, 1]):
        with pytest.raises(ValueError, match="ascending integers >= 0"):
            embed_prefixes(module.engine, prompts, [(1, 2)], budgets)
    with pytest.raises(ValueError, match="got 1 prompts and 2 rationales"):
        embed_prefixes(module.engine, prompts, [(1,), (2,)], [0])
    with pytest.raises(ValueError, match="embeddings for 0 to"):
        embed_prefixes(module.engine, prompts, [(10**6,)], [4])


# ---------------------------------------------------------------- the measurement


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty queries of the bundled model's kind, with their documents and others."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    triples = {triple.position: triple for triple in Corpus().triples(80, "faithfulness")}
    rows = [{"query": t.query, "positive": t.positive, "negative": t.negative} for t in list(triples.values())[:20]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def user_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepared rows go nowhere but here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


def test_the_bundled_model_depends_on_its_rationales(pairs: Path) -> None:
    model = grace_st.load(grace_st.nano_path(), device="cpu", engine_kwargs={"slots": 64})
    task = retrieval_task(str(pairs))
    found = measure(model, task, Settings(budgets=(0, 8), resamples=200))
    by_name = {effect.name: effect for effect in found.effects}
    assert list(by_name) == ["dropped", "shuffled", "swapped", "random"]
    assert by_name["swapped"].difference.high < 0 and verdict(found).startswith("**The rationale matters**")
    assert by_name["shuffled"].score.mean > by_name["swapped"].score.mean
    # The curve begins with what was dropped and ends with what was written.
    first, middle, last = found.curve
    assert (first.budget, middle.budget) == (0, 8) and first.score == by_name["dropped"].score
    assert first.tokens == 0 and middle.tokens == 8 and last.tokens == found.tokens
    assert last.difference.mean == 0 and last.cosine == pytest.approx(1, abs=1e-6) and last.changed == 0
    # As encode() gives it.
    prompt = {role.name: model.encode(list(role.texts), max_new_tokens=0) for role in task.roles}
    assert first.score.mean == pytest.approx(float(task.outcome(prompt).scores(np.arange(20)[None])[0]), abs=1e-9)


def test_texts_that_repeat_are_written_once_and_swapped_with_others(grace_folder: GraceFolder) -> None:
    model = grace_st.load(grace_folder("qwen2"), device="cpu")
    task = RetrievalTask(
        name="twice",
        roles=(Role("queries", ("a", "a", "b")), Role("documents", ("x", "y", "x"))),
        relevance=({0: 1.0}, {1: 1.0}, {2: 1.0}),
        left_out=(None,) * 3,
    )
    found = measure(model, task, Settings(resamples=100))
    assert found.texts == 4 and found.items == 3
    # With two texts there is one way to swap: each has the other's rationale.
    assert found.effects[2].changed == 1
    assert measure(model, task, Settings(resamples=100)) == found
    # One side alone: the documents keep theirs.
    queries = measure(model, task, Settings(side="first", resamples=100))
    assert queries.score == found.score and queries.effects[3].cosine != found.effects[3].cosine
    assert queries.effects[3].changed == 1 and queries.effects[3].tokens <= 24
    single = RetrievalTask(
        name="single",
        roles=(Role("queries", ("a", "a")), task.roles[1]),
        relevance=({0: 1.0},) * 2,
        left_out=(None,) * 2,
    )
    with pytest.raises(ValueError, match="has 1 different queries, and rationales are swapped among two"):
        measure(model, single, Settings())


# ---------------------------------------------------------------- mteb's tasks


def test_scores_are_those_of_mteb(grace_folder: GraceFolder, small_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("mteb", reason='mteb is not installed: pip install "grace-st[mteb]"')
    from grace_eval.faithfulness import mteb_tasks
    from grace_eval.mteb.data import with_local_data

    folder = grace_folder("qwen2", max_new_tokens=3)
    names = ["STSBenchmark", "Banking77Classification", "XQuADRetrieval:en"]
    results = tmp_path / "results"
    arguments = ["--model", folder, "--data-root", small_data, "--results", results, "--quiet", "--tasks", *names]
    assert main(["eval", "mteb", *map(str, arguments)]) == 0
    files = {path.stem: json.loads(path.read_text()) for path in results.rglob("*.json") if "/results/" in str(path)}
    model = grace_st.load(folder, device="cpu")
    for task in with_local_data(mteb_tasks.select(names), small_data):
        loaded = mteb_tasks.load(task, cache=tmp_path / "datasets")
        vectors = {
            role.name: np.stack([e.embedding for e in model.encode_with_rationales(list(role.texts))])
            for role in loaded.roles
        }
        outcome = loaded.outcome(vectors)
        entry = next(iter(files[task.metadata.name]["scores"].values()))[0]
        # mteb ranks the cosines of equal sentences by their last digits, where ours are equal: 4 of the 20 pairs.
        tolerance = 0.01 if loaded.kind == "sts" else 1e-6
        assert outcome.scores(np.arange(outcome.items)[None])[0] == pytest.approx(entry["main_score"], abs=tolerance)
        assert loaded.with_items(3).outcome({**vectors, **_first(loaded, vectors)}).items == 3


def _first(task: Any, vectors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    chosen = task.with_items(3)
    return {
        role.name: np.stack([vectors[role.name][whole.texts.index(text)] for text in role.texts])
        for role, whole in zip(chosen.roles, task.roles, strict=True)
    }


# ---------------------------------------------------------------- the command


def run(*arguments: object) -> int:
    return main(["eval", "faithfulness", *map(str, arguments)])


def test_the_command_writes_reports_a_picture_and_the_card(
    grace_folder: GraceFolder, pairs: Path, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mteb", reason='mteb is not installed: pip install "grace-st[mteb]"')
    folder = tmp_path / "model"
    shutil.copytree(grace_folder("qwen2", max_new_tokens=3, max_seq_length=320), folder)
    card = folder / "README.md"
    before = card.read_text(encoding="utf-8")
    output = tmp_path / "out"
    arguments = ["--model", folder, "--output", output, "--data", pairs, "--tasks", "STSBenchmark"]
    arguments += ["--data-root", small_data, "--max-items", 6]
    capsys.readouterr()
    assert run(*arguments, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [task["task"] for task in told["tasks"]] == ["pairs.jsonl", "STSBenchmark"]
    assert [task["items"] for task in told["tasks"]] == [6, 6]
    names = {Path(path).name for path in told["files"]}
    assert names == {
        "faithfulness.json", "faithfulness.csv", "faithfulness.md", "card.md", "budget-curve.png", "budget-curve.svg",
    }  # fmt: skip
    assert all((output / name).stat().st_size > 100 for name in names)
    written = card.read_text(encoding="utf-8")
    assert written.startswith(before.rstrip()) and written.count("<!-- faithfulness: begin -->") == 1
    # Again: what was generated is read from the store, and the card can be left alone.
    assert run(*arguments, "--no-card", "--seed", 1) == 0
    assert card.read_text(encoding="utf-8") == written and "Report in" in capsys.readouterr().out
    assert "(seed 1)" in (output / "card.md").read_text(encoding="utf-8")
    assert grace_st.load(folder, device="cpu").encode("still a model").shape == (32,)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to measure on: give --data FILE"),
        (["--data", "missing.jsonl"], "there is no file or folder missing.jsonl"),
        (["--data", "nano:train"], "there are nano:dev and nano:test"),
        (["--data", "nano:test", "--data-root", "x"], "--data-root holds the data of --tasks"),
        (["--tasks", "BiorxivClusteringS2S"], "is of the kind Clustering"),
        (["--tasks", "STSBenchmrk"], "did you mean STSBenchmark"),
        (["--tasks", "XQuADRetrieval"], "name a subset, as in XQuADRetrieval:"),
        (["--tasks", "STSBenchmark"], "hf download mteb/stsbenchmark-sts --repo-type dataset --revision"),
        (["--data", "nano:test", "--max-items", "1"], "max_items must be at least 2, got 1"),
        (["--data", "nano:test", "--budgets", "-3"], "budgets must be ascending numbers of tokens >= 0"),
        (["--model", "missing"], "missing is not a folder"),
    ],
)
def test_misuse_is_one_line_before_any_work(
    arguments: list[str], said: str, grace_folder: GraceFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    model = [] if "--model" in arguments else ["--model", str(grace_folder("qwen2", max_new_tokens=3))]
    if any(name.startswith(("Bio", "STS", "XQuAD")) for name in arguments):
        pytest.importorskip("mteb", reason='mteb is not installed: pip install "grace-st[mteb]"')
    capsys.readouterr()
    assert run(*model, *arguments, "--output", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1, error
    assert not (tmp_path / "out").exists()


def test_a_damaged_card_is_refused(tmp_path: Path) -> None:
    from grace_eval.markdown import write_block
    from grace_st.cards.blocks import with_block

    page = tmp_path / "README.md"
    page.write_text("# Model\n\n<!-- faithfulness: begin -->\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"README\.md: <!-- faithfulness: begin --> and .* once each"):
        write_block(page, "faithfulness", "x")
    assert with_block("# M\n", "a", "x") == "# M\n\n<!-- a: begin -->\nx\n<!-- a: end -->\n"
    assert with_block(with_block("# M\n", "a", "x"), "a", "y") == with_block("# M\n", "a", "y")
