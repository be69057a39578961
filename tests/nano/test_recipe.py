"""The recipe from end to end, on a small knowledge base and for two steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import grace_st
from grace_train.nano.__main__ import main
from grace_train.nano.presets import PRESETS
from tests.nano.sizes import small


@pytest.fixture(scope="module")
def knowledge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two small categories."""
    folder = tmp_path_factory.mktemp("knowledge")
    for category in ("fruit", "bird"):
        content = {
            "category": category,
            "topic": "nature",
            "attributes": [
                {"name": name, "query": [f"whose {name} is {{}}"], "document": [f"its {name} is {{}}"]}
                for name in ("colour", "size", "season", "home")
            ],
            "entities": [
                [f"{category} {letter}", *(f"{letter}{letter} {index}" for index in range(4))] for letter in "abcdef"
            ],
        }
        (folder / f"{category}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_the_whole_recipe_runs_and_resumes(knowledge: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "nano", small(PRESETS["nano"]))
    arguments = ["--output", str(tmp_path), "--knowledge", str(knowledge), "--steps", "2", "--fp32"]
    main(arguments)

    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert results["splits"]["dev"]["documents"] == 12
    assert results["splits"]["dev"]["queries"] + results["splits"]["test"]["queries"] == 12
    assert (tmp_path / "results.md").read_text(encoding="utf-8").startswith("| representation |")

    weights = load_file(tmp_path / "grace-nano" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    generation = json.loads((tmp_path / "grace-nano" / "generation_config.json").read_text(encoding="utf-8"))
    assert not {"temperature", "top_p", "top_k", "do_sample"} & generation.keys()
    model = grace_st.load(tmp_path / "grace-nano")
    assert model.encode(["a fruit"]).shape == (1, model.get_embedding_dimension())

    # A finished run that is resumed trains no further: the same weights come out.
    main([*arguments, "--stage", "train", "--resume"])
    again = load_file(tmp_path / "grace-nano" / "model.safetensors")
    assert all(torch.equal(weights[name], again[name]) for name in weights)
