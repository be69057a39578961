"""``grace-st card DIR --results``: what was measured, in the card and in its metadata, and never anything else."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

pytest.importorskip("mteb", reason='mteb is not installed: pip install "grace-st[mteb]"')

from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from grace_st.cards.blocks import blocks_of
from grace_st.cli import main
from grace_st.fingerprint import folder_revision
from tests.conftest import GraceFolder

TASKS = ("STSBenchmark", "XQuADRetrieval:en")


@pytest.fixture(scope="module")
def measured(grace_folder: GraceFolder, small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model ``mine`` and the results of it."""
    root = tmp_path_factory.mktemp("measured")
    shutil.copytree(grace_folder("qwen2", max_new_tokens=3), root / "mine")
    words = ["--model", root / "mine", "--results", root / "results", "--data-root", small_data, "--quiet"]
    assert main(["eval", "mteb", "--tasks", *TASKS, *map(str, words)]) == 0
    # Scores with options of their own are of another experiment.
    other = [*map(str, words), "--max-new-tokens", "0"]
    assert main(["eval", "mteb", "--tasks", "Banking77Classification", *other]) == 0
    return root


@pytest.fixture
def folder(measured: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(measured / "mine", tmp_path / "mine"))


def result_path(root: Path, folder: Path, task: str) -> Path:
    (place,) = root.glob(f"results/*/{folder_revision(folder)}")
    return place / f"{task}.json"


def test_figures_go_into_the_card_and_its_metadata(measured: Path, folder: Path) -> None:
    assert main(["card", str(folder), "--results", str(measured / "results")]) == 0
    card = ModelCard.load(folder / "README.md")
    results = {result.dataset_name: result for result in card.data.eval_results}
    assert set(results) == {"MTEB STSBenchmark (default)", "MTEB XQuADRetrieval (en)"}
    for task in ("STSBenchmark", "XQuADRetrieval"):
        values = json.loads(result_path(measured / "results", folder, task).read_text())
        ((split, (entry,)),) = values["scores"].items()
        (result,) = [result for name, result in results.items() if task in name]
        assert result.metric_value == entry["main_score"]
        assert (result.dataset_split, result.dataset_config) == (split, entry["hf_subset"])
        assert result.dataset_revision == values["dataset_revision"]
    assert results["MTEB STSBenchmark (default)"].metric_type == "cosine_spearman"
    assert results["MTEB STSBenchmark (default)"].task_type == "STS"
    text = blocks_of(card.text)["measured"]
    assert f"`{folder_revision(folder)}`" in text and "2 of 2 tasks read local copies" in text
    score = 100 * results["MTEB XQuADRetrieval (en)"].metric_value
    assert f"| XQuADRetrieval | Retrieval | ndcg_at_10 | {score:.2f} |" in text and "Banking77" not in text
    # Written again without results, and read back: the same.
    before = str(card)
    assert main(["card", str(folder)]) == 0
    assert str(ModelCard.load(folder / "README.md")) == before
    assert "model-index" in before and card.data.model_name == "qwen2-grace"


def test_figures_of_a_whole_benchmark_have_their_means(measured: Path, folder: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(measured / "results", tmp_path / "results"))
    (reports,) = root.glob(f"reports/*/{folder_revision(folder)}")
    report = {"benchmark": "eng-v1", "missing": [], "average": 0.5, "categories": {"STS": 0.25}, "tasks": [{}] * 56}
    (reports / "eng-v1.json").write_text(json.dumps(report))
    (reports / "grace16.json").write_text(json.dumps({**report, "benchmark": "grace16", "missing": ["SciFact"]}))
    assert main(["card", str(folder), "--results", str(root)]) == 0
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "| eng-v1, 56 tasks | 25.00 | 50.00 |" in text and "grace16" not in text


def test_results_of_other_weights_are_not_taken(
    measured: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({name: value * 2 for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    before = (folder / "README.md").read_text(encoding="utf-8")
    assert main(["card", str(folder), "--results", str(measured / "results")]) == 2
    assert "holds no results of" in capsys.readouterr().err
    assert (folder / "README.md").read_text(encoding="utf-8") == before


@pytest.mark.parametrize(
    ("content", "said"),
    [("{", "is no result that mteb can read"), (None, "has main scores that are no numbers")],
)
def test_a_damaged_result_is_named(
    content: str | None, said: str, measured: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(measured / "results", tmp_path / "results"))
    path = result_path(root, folder, "STSBenchmark")
    if content is None:
        values = json.loads(path.read_text())
        values["scores"]["test"][0]["main_score"] = math.nan
        content = json.dumps(values)
    path.write_text(content)
    capsys.readouterr()
    assert main(["card", str(folder), "--results", str(root)]) == 2
    output = capsys.readouterr().err
    assert "STSBenchmark.json" in output and said in output and output.count("\n") == 1
