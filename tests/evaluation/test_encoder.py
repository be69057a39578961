"""The encoder of mteb: all kinds of tasks, instructions for the right texts, scores that no two checkpoints share."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("mteb", reason='mteb is not installed: pip install "grace-st[mteb]"')

import mteb
from mteb.cache import ResultCache
from mteb.mocks import ALL_MOCK_TASK_TEST_GRID
from mteb.models import ModelMeta
from mteb.models.model_implementations import MODEL_REGISTRY
from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper
from mteb.results.task_result import TaskError
from mteb.types import PromptType
from sentence_transformers import SentenceTransformer
from torch.utils.data import DataLoader

import grace_st
import grace_st.mteb
from grace_eval.mteb.data import with_local_data
from grace_st import NonFiniteVectorError
from grace_st.mteb import GraceEncoder, load_encoder, model_meta, task_instruction
from grace_st.mteb import registry as registry_module
from grace_st.mteb.instructions import TEMPLATE, prompt_for
from tests import tiny
from tests.conftest import GraceFolder

TEXTS = [text for text in tiny.TEXTS if text]
STS = mteb.get_task("STSBenchmark").metadata


@pytest.fixture(scope="module")
def folder(grace_folder: GraceFolder) -> Path:
    return grace_folder("qwen2", max_new_tokens=3)


@pytest.fixture(scope="module")
def encoder(folder: Path) -> GraceEncoder:
    return load_encoder("test/qwen2", device="cpu", folder=folder)


def encode(encoder: GraceEncoder, texts: list[str], task: Any = STS, **options: Any) -> np.ndarray:
    loader = DataLoader([{"text": text} for text in texts], batch_size=3)  # type: ignore[arg-type]
    return encoder.encode(loader, task_metadata=task, hf_split="test", hf_subset="default", **options)


def text_tasks() -> list[str]:
    return [task.metadata.name for task in ALL_MOCK_TASK_TEST_GRID if set(task.metadata.modalities) == {"text"}]


@pytest.mark.slow  # but `grace-st eval submit` runs them with ours as well, and its test is among the fast ones
@pytest.mark.parametrize("wrapper", ["ours", "stock"])
def test_all_text_tasks_of_the_mock_run_pass(wrapper: str, folder: Path, encoder: GraceEncoder) -> None:
    if wrapper == "stock":
        model = SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
        mock = mteb.mock_run(SentenceTransformerEncoderWrapper(model))
    else:
        mock = mteb.mock_run(encoder)
    ran = {name: status for name, status in mock.items() if status is not None}
    assert len(ran) >= 28 and set(ran) == set(text_tasks())
    assert {name: status.exception for name, status in ran.items() if isinstance(status, TaskError)} == {}
    assert mock.all_passed


# ---------------------------------------------------------------- vectors


def test_vectors_are_those_of_encode_in_order(folder: Path, encoder: GraceEncoder) -> None:
    expected = SentenceTransformer(str(folder), trust_remote_code=True, device="cpu").encode(TEXTS)
    got = encode(encoder, TEXTS)
    assert got.dtype == np.float32 and np.isfinite(got).all()
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert encode(encoder, []).shape == (0, 32)


def test_all_batches_go_to_the_engine_together(encoder: GraceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[int]] = []
    engine = encoder.model[0].engine
    generate = engine.generate

    def counted(prompts: Any, *args: Any, **options: Any) -> Any:
        calls.append([len(prompt.ids) for prompt in prompts])
        return generate(prompts, *args, **options)

    monkeypatch.setattr(engine, "generate", counted)
    encode(encoder, TEXTS)
    assert [len(call) for call in calls] == [len(TEXTS)]


def test_batch_size_is_the_most_texts_decoded_at_once(encoder: GraceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = encoder.model[0].engine
    slots: list[int] = []
    slots_for = type(engine).slots_for
    monkeypatch.setattr(
        type(engine), "slots_for", lambda self, tokens: slots.append(slots_for(self, tokens)) or slots[-1]
    )
    free = encode(encoder, TEXTS)
    capped = encode(encoder, TEXTS, batch_size=2)
    assert slots[-1] == 2 < slots[0]
    np.testing.assert_allclose(free, capped, atol=1e-5)
    with pytest.raises(ValueError, match="decoded at once must be an integer >= 1, got 0"):
        encode(encoder, TEXTS, batch_size=0)


def test_progress_and_precision(encoder: GraceEncoder, capsys: pytest.CaptureFixture[str]) -> None:
    encode(encoder, TEXTS)
    assert capsys.readouterr().err == ""
    encode(encoder, TEXTS, show_progress_bar=True)
    assert f"{len(TEXTS)}/{len(TEXTS)}" in capsys.readouterr().err
    assert encode(encoder, TEXTS, precision="int8").dtype == np.int8
    assert encode(encoder, TEXTS, precision="binary").shape == (len(TEXTS), 4)
    with pytest.raises(ValueError, match="precision must be one of"):
        encode(encoder, TEXTS, precision="int4")
    with pytest.raises(ValueError, match="unknown option 'max_length'"):
        encode(encoder, TEXTS, max_length=3)


def test_one_broken_vector_stops_the_task(folder: Path, small_data: Path) -> None:
    """mteb would score NaN silently wrong."""
    encoder = load_encoder("test/broken", device="cpu", folder=folder)
    with torch.no_grad():
        encoder.model[0].model.model.norm.weight[3] = float("nan")
    (task,) = with_local_data([mteb.get_task("STSBenchmark")], small_data)
    with pytest.raises(NonFiniteVectorError):
        mteb.evaluate(encoder, task, cache=None, co2_tracker=False)


def test_titles_are_encoded(folder: Path, small_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_encoder("test/titles", device="cpu", folder=folder)
    seen: list[str] = []
    tokenize = encoder.model[0].prompt.tokenize

    def noted(texts: list[str], **options: Any) -> Any:
        seen.extend(f"{options['instruction'] or ''}|{text}" for text in texts)
        return tokenize(texts, **options)

    monkeypatch.setattr(encoder.model[0].prompt, "tokenize", noted)
    (task,) = with_local_data([mteb.get_task("XQuADRetrieval", hf_subsets=["en"])], small_data)
    mteb.evaluate(encoder, task, cache=None, co2_tracker=False)
    assert "|Title 3 a house, white" in seen and "|Where is a house, white?" in seen
    assert len(seen) == 12 + 6


# ---------------------------------------------------------------- instructions


@pytest.mark.parametrize(
    ("task", "side", "expected"),
    [
        ("SciFact", PromptType.query, "Given a scientific claim"),
        ("SciFact", PromptType.document, None),
        ("SciFact", None, None),  # a dictionary, which mteb would hand on as it is
        ("SciDocsRR", PromptType.query, "Given a title of a scientific paper"),
        ("SciDocsRR", PromptType.document, None),  # one string, which mteb gives to documents too
        ("Banking77Classification", None, "Given a online banking query"),
        ("STSBenchmark", None, "Retrieve semantically similar text"),  # mteb's default for its type
        ("STSBenchmark", PromptType.document, None),
    ],
)
def test_an_instruction_reaches_the_texts_that_it_is_about(
    task: str, side: PromptType | None, expected: str | None
) -> None:
    metadata = mteb.get_task(task).metadata
    said = task_instruction(metadata, side)
    assert said is None if expected is None else said is not None and said.startswith(expected[:10])
    prompt = prompt_for("task", metadata, side, {"query": "never: ", "document": "never: "})
    assert prompt == ("" if said is None else TEMPLATE.replace("{instruction}", said))
    assert prompt_for("none", metadata, side, {"query": "never: ", task: "never: "}) == ""


def test_no_document_of_any_task_ever_gets_an_instruction() -> None:
    for task in mteb.get_benchmark("MTEB(eng, v1)").tasks:
        assert prompt_for("task", task.metadata, PromptType.document, {"query": "q: "}) == ""
        for side in (PromptType.query, None):
            assert isinstance(prompt_for("task", task.metadata, side, {}), str)


def test_the_prompts_of_the_folder_are_used_as_sentence_transformers_does() -> None:
    metadata = mteb.get_task("SciFact").metadata
    prompts = {"query": "q: ", "document": ""}
    assert prompt_for("model", metadata, PromptType.query, prompts) == "q: "
    assert prompt_for("model", metadata, PromptType.document, prompts) == ""
    assert prompt_for("model", metadata, None, prompts) is None  # the default prompt of the folder, if it has one
    assert prompt_for("model", metadata, PromptType.query, {"query": "q: ", "SciFact-query": "s: "}) == "s: "


def test_instructions_change_queries_and_not_documents(grace_folder: GraceFolder) -> None:
    folder = grace_folder("qwen2", max_new_tokens=3, max_seq_length=480)  # room for instruction and text
    encoder = load_encoder("test/plain", device="cpu", folder=folder)
    told = load_encoder("test/told", device="cpu", folder=folder, instructions="task")
    metadata = mteb.get_task("SciDocsRR").metadata
    for side, is_same in ((PromptType.query, False), (PromptType.document, True)):
        one, two = (encode(which, TEXTS, metadata, prompt_type=side) for which in (told, encoder))
        assert np.allclose(one, two, atol=1e-5) is is_same
    with pytest.raises(ValueError, match="instructions must be one of"):
        load_encoder("test/told", device="cpu", folder=folder, instructions="some")  # type: ignore[arg-type]


# ---------------------------------------------------------------- metadata


def test_metadata_are_measured(folder: Path, encoder: GraceEncoder) -> None:
    meta = model_meta(folder, "org/model", license="mit")
    model = encoder.model[0].model
    assert meta.n_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert meta.n_embedding_parameters == model.get_input_embeddings().weight.numel()
    assert meta.memory_usage_mb == round(meta.n_parameters * 4 / 1024**2, 1)
    assert (meta.embed_dim, meta.max_tokens, meta.license) == (32, 128, "mit")
    assert meta.revision is not None and len(meta.revision) == 40
    assert model_meta(folder).name == f"local/{folder.name}"


@pytest.mark.parametrize("name", ["model", "a/b/c", "/b", "a/", "a b/c", "a__b/c"])
def test_names_that_results_cannot_have(name: str, folder: Path) -> None:
    with pytest.raises(ValueError, match="must be ORGANIZATION/MODEL"):
        model_meta(folder, name)


def test_bad_folders_and_fields(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="not a GRACE model folder"):
        model_meta(tmp_path, "a/b")
    with pytest.raises(ValueError, match="has no field 'licence'"):
        model_meta(folder, "a/b", licence="mit")


# ---------------------------------------------------------------- register


@pytest.fixture
def registry() -> Iterator[dict[str, ModelMeta]]:
    """mteb's registry, which is afterwards as it was."""
    before = dict(MODEL_REGISTRY)
    yield MODEL_REGISTRY
    MODEL_REGISTRY.clear()
    MODEL_REGISTRY.update(before)


def test_a_registered_folder_is_a_model_of_mteb(
    folder: Path, registry: dict[str, ModelMeta], encoder: GraceEncoder, tmp_path: Path, small_data: Path
) -> None:
    meta = grace_st.mteb.register(folder, name="test/registered", store=tmp_path / "store.sqlite")
    model = mteb.get_model("test/registered", device="cpu")
    assert isinstance(model, GraceEncoder)
    assert (model.mteb_model_meta.name, model.mteb_model_meta.revision) == ("test/registered", meta.revision)
    np.testing.assert_allclose(encode(model, TEXTS), encode(encoder, TEXTS), atol=1e-5)
    assert grace_st.RationaleStore(tmp_path / "store.sqlite").info().entries == len(TEXTS)
    (task,) = with_local_data([mteb.get_task("STSBenchmark")], small_data)
    cache = ResultCache(tmp_path)
    short = mteb.get_model("test/registered", device="cpu", max_new_tokens=0)
    for which in (model, short):
        mteb.evaluate(which, task, cache=cache, co2_tracker=False)
    found = sorted(path.relative_to(tmp_path / "results").as_posix() for path in tmp_path.rglob("STSBenchmark.json"))
    own = f"test__registered/{meta.revision}"
    assert found == [f"{own}/STSBenchmark.json", f"{own}/experiments/max_new_tokens_0/STSBenchmark.json"]


def test_options_keep_scores_apart_however_the_encoder_is_made(folder: Path) -> None:
    def experiment(**options: Any) -> Any:
        return load_encoder("test/options", device="cpu", folder=folder, **options).mteb_model_meta.experiment_kwargs

    assert experiment() is None and experiment(max_new_tokens=3) is None  # the folder's own
    assert experiment(max_new_tokens=0) == {"max_new_tokens": 0}
    assert experiment(instructions="task") == {"instructions": "task"}
    sampled = {"do_sample": True, "seed": 3}
    assert experiment(sampling=sampled, dtype="float32") == {**sampled, "dtype": "float32"}


def test_a_default_prompt_is_before_all_texts_but_documents(folder: Path) -> None:
    encoder = load_encoder("test/default", device="cpu", folder=folder)
    encoder.model.prompts["default"] = "Say: "
    plain = [encode(encoder, TEXTS, prompt_type=side) for side in (None, PromptType.query, PromptType.document)]
    encoder.model.default_prompt_name = "default"
    told = [encode(encoder, TEXTS, prompt_type=side) for side in (None, PromptType.query, PromptType.document)]
    assert [np.allclose(one, two, atol=1e-5) for one, two in zip(plain, told, strict=True)] == [False, False, True]


@pytest.mark.parametrize(
    ("front", "expected"),
    [
        ("license: mit", "mit"),
        ("license: other\nlicense_link: https://example.org/license", "https://example.org/license"),
        ("license: other\nlicense_link: LICENSE", None),
        ("license: some-license-of-the-hub", None),
    ],
)
def test_licenses_that_mteb_does_not_know(front: str, expected: str | None, folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    (copy / "README.md").write_text(f"---\n{front}\n---\n# Model\n")
    assert model_meta(copy, "a/b").license == expected
    with pytest.raises(ValueError, match="mteb refuses license='no license'"):
        model_meta(copy, "a/b", license="no license")


def test_a_checkpoint_that_changes_while_it_is_loaded_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)

    def replacing(*args: Any, **options: Any) -> Any:
        model = grace_st.load(*args, **options)
        config = json.loads((copy / "grace_config.json").read_text())
        (copy / "grace_config.json").write_text(json.dumps({**config, "max_new_tokens": 5}))
        return model

    monkeypatch.setattr(registry_module, "load", replacing)
    with pytest.raises(ValueError, match="has changed while it was loaded"):
        load_encoder("test/changing", device="cpu", folder=copy)


def test_names_of_mtebs_own_models_are_refused(folder: Path, registry: dict[str, ModelMeta]) -> None:
    with pytest.raises(ValueError, match="mteb has a model sentence-transformers/all-MiniLM-L6-v2 of its own"):
        grace_st.mteb.register(folder, name="sentence-transformers/all-MiniLM-L6-v2")


def test_a_checkpoint_that_changed_under_its_name_is_refused(
    folder: Path, grace_folder: GraceFolder, registry: dict[str, ModelMeta], tmp_path: Path
) -> None:
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    grace_st.mteb.register(copy, name="test/changing")
    other = grace_folder("llama", max_new_tokens=3)
    for name in ("model.safetensors", "config.json"):
        shutil.copy(other / name, copy / name)
    with pytest.raises(ValueError, match=r"has changed since test/changing was registered.*register it again"):
        mteb.get_model("test/changing", device="cpu")
    grace_st.mteb.register(copy, name="test/changing")
    assert isinstance(mteb.get_model("test/changing", device="cpu"), GraceEncoder)


def test_two_checkpoints_never_share_scores(grace_folder: GraceFolder, tmp_path: Path, small_data: Path) -> None:
    """One name, one cache, two checkpoints of the same size: as two steps of a training run."""
    one = tmp_path / "run"
    shutil.copytree(grace_folder("qwen2", max_new_tokens=3), one)
    cache = ResultCache(tmp_path)
    (task,) = with_local_data([mteb.get_task("STSBenchmark")], small_data)

    def score() -> float:
        encoder = load_encoder("test/run", device="cpu", folder=one)
        result = mteb.evaluate(encoder, task, cache=cache, co2_tracker=False)
        return float(result.task_results[0].scores["test"][0]["main_score"])

    first = score()
    model = grace_st.load(one, device="cpu")
    with torch.no_grad():
        for parameter in model[0].model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
    model[0].model.save_pretrained(one)
    second = score()
    assert abs(first - second) > 1e-3
    assert len(list((tmp_path / "results/test__run").iterdir())) == 2


def test_the_stock_class_works_with_evaluate(folder: Path, encoder: GraceEncoder, small_data: Path) -> None:
    (task,) = with_local_data([mteb.get_task("Banking77Classification")], small_data)
    stock = SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
    results = [
        mteb.evaluate(model, task, cache=None, co2_tracker=False).task_results[0].scores["test"][0]["main_score"]
        for model in (stock, encoder)
    ]
    assert results[0] == pytest.approx(results[1], abs=0.05)


def test_importing_grace_st_does_not_import_mteb() -> None:
    code = "import sys, grace_st, grace_eval.cli.eval, grace_st.cli; assert not {'mteb', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    package = Path(grace_st.__file__).parent
    reads_results = package / "cards" / "results.py"  # of MTEB, inside of its functions
    for path in package.rglob("*.py"):
        if path.parent != package / "mteb" and path != reads_results:
            assert not re.search(r"^\s*(import|from) (grace_st\.)?mteb", path.read_text(), flags=re.MULTILINE), path


def test_without_mteb_the_extra_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['mteb'] = None\n"
        "try:\n    import grace_st.mteb\nexcept ModuleNotFoundError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert 'pip install "grace-st[mteb]"' in done.stdout, done.stderr
