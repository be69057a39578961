"""The module inside SentenceTransformer: everything its users call, with the stock class and with load()."""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer

import grace_st
from grace_st import Encoding
from tests import tiny
from tests.conftest import GraceFolder
from tests.encoder import oracle

TEXTS = tiny.TEXTS


def stock(folder: Path, **options: Any) -> SentenceTransformer:
    return SentenceTransformer(str(folder), trust_remote_code=True, device="cpu", **options)


def vectors(encodings: list[Encoding]) -> np.ndarray:
    return np.stack([encoding.embedding for encoding in encodings])


@pytest.fixture(scope="module")
def folder(grace_folder: GraceFolder) -> Path:
    return grace_folder("qwen2")


@pytest.fixture(scope="module")
def model(folder: Path) -> SentenceTransformer:
    return stock(folder)


@pytest.fixture(scope="module")
def expected(model: SentenceTransformer) -> np.ndarray:
    return model.encode(TEXTS)


@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
def test_encode_is_generate_then_pool(architecture: str, grace_folder: GraceFolder) -> None:
    """From text to vector against the slow way: the whole path, not its parts."""
    model = stock(grace_folder(architecture))
    module = model[0]
    got = model.encode(TEXTS)
    assert got.shape == (len(TEXTS), 32) and got.dtype == np.float32
    prompts = module.prompts_of(TEXTS)
    stops = list(module.config.eos_token_ids)
    for prompt, vector, (ids, _) in zip(prompts, got, oracle.greedy(module.model, prompts, 24, stops), strict=True):
        reference = oracle.vector(module.model, [*prompt.ids, *ids], prompt.pool_start, "mean")
        np.testing.assert_allclose(vector, reference.numpy(), atol=1e-5)


def test_load_gives_what_the_stock_class_gives(folder: Path, expected: np.ndarray) -> None:
    model = grace_st.load(folder, device="cpu")
    np.testing.assert_allclose(model.encode(TEXTS), expected, atol=1e-5)
    np.testing.assert_allclose(vectors(model.encode_with_rationales(TEXTS)), expected, atol=1e-5)
    assert isinstance(model, SentenceTransformer)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batch_size_and_order_do_not_matter(model: SentenceTransformer, expected: np.ndarray, batch_size: int) -> None:
    np.testing.assert_allclose(model.encode(TEXTS, batch_size=batch_size), expected, atol=1e-5)
    np.testing.assert_allclose(model.encode(TEXTS[::-1], batch_size=batch_size)[::-1], expected, atol=1e-5)


def test_a_single_string(model: SentenceTransformer, expected: np.ndarray) -> None:
    np.testing.assert_allclose(model.encode(TEXTS[0]), expected[0], atol=1e-5)
    (encoding,) = grace_st.encode_with_rationales(model, TEXTS[0])
    np.testing.assert_allclose(encoding.embedding, expected[0], atol=1e-5)


def test_an_empty_list(folder: Path, model: SentenceTransformer) -> None:
    loaded = grace_st.load(folder, device="cpu")
    assert model.encode([]).shape == (0,)
    assert loaded.encode([]).shape == (0, 32)
    assert loaded.encode([], convert_to_tensor=True).shape == (0, 32)
    assert grace_st.encode_with_rationales(model, []) == []


def test_output_forms(model: SentenceTransformer, expected: np.ndarray) -> None:
    tensor = model.encode(TEXTS, convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_allclose(tensor.numpy(), expected, atol=1e-5)
    listed = model.encode(TEXTS, convert_to_numpy=False)
    assert isinstance(listed, list) and all(isinstance(item, torch.Tensor) for item in listed)
    normalised = model.encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(normalised, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(model.encode(TEXTS, truncate_dim=5), expected[:, :5], atol=1e-5)
    assert model.encode(TEXTS, precision="int8").dtype == np.int8
    assert model.encode(TEXTS, precision="ubinary").shape == (len(TEXTS), 4)
    assert model.get_embedding_dimension() == 32


def test_truncate_dim_of_the_model(folder: Path, expected: np.ndarray) -> None:
    loaded = grace_st.load(folder, truncate_dim=8, device="cpu")
    np.testing.assert_allclose(loaded.encode(TEXTS), expected[:, :8], atol=1e-5)
    assert loaded.get_embedding_dimension() == 8


def test_similarity_is_cosine(model: SentenceTransformer, expected: np.ndarray) -> None:
    unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(model.similarity(expected, expected).numpy(), unit @ unit.T, atol=1e-5)


def test_instructions(folder: Path) -> None:
    model = stock(folder, prompts={"query": "Find: ", "document": ""})
    base = model.encode(TEXTS)
    asked = model.encode(TEXTS, prompt="Find: ")
    assert np.abs(asked - base).max() > 1e-3
    np.testing.assert_allclose(model.encode(TEXTS, prompt_name="query"), asked, atol=1e-6)
    np.testing.assert_allclose(model.encode_query(TEXTS), asked, atol=1e-6)
    np.testing.assert_allclose(model.encode_document(TEXTS), base, atol=1e-6)
    for options in ({"prompt": "Find: "}, {"prompt_name": "query"}):
        np.testing.assert_allclose(vectors(grace_st.encode_with_rationales(model, TEXTS, **options)), asked, atol=1e-5)
    with pytest.raises(ValueError, match="'nothing' is not one of the model's prompts"):
        grace_st.encode_with_rationales(model, TEXTS, prompt_name="nothing")
    # An instruction is not the beginning of the text: that would be pooled.
    assert np.abs(model.encode(["Find: cats"]) - model.encode(["cats"], prompt="Find: ")).max() > 1e-3


def test_default_prompt_name(folder: Path) -> None:
    model = stock(folder, prompts={"query": "Find: "}, default_prompt_name="query")
    asked = model.encode(TEXTS)
    np.testing.assert_allclose(vectors(grace_st.encode_with_rationales(model, TEXTS)), asked, atol=1e-5)
    assert np.abs(model.encode(TEXTS, prompt="") - asked).max() > 1e-3


def test_multi_process_encode(folder: Path, tmp_path: Path, expected: np.ndarray) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, numpy as np, grace_st\n"
        "from sentence_transformers import SentenceTransformer\n"
        "from tests import tiny\n"
        "if __name__ == '__main__':\n"
        "    folder = sys.argv[1]\n"
        "    stock = SentenceTransformer(folder, trust_remote_code=True, device='cpu')\n"
        "    both = [stock, grace_st.load(folder, device='cpu')]\n"
        "    options = dict(device=['cpu', 'cpu'], chunk_size=3)\n"
        "    np.save(sys.argv[2], np.stack([model.encode(tiny.TEXTS, **options) for model in both]))\n"
    )
    output = tmp_path / "out.npy"
    root = str(Path(__file__).parents[2])
    environment = {**_environment(), "PYTHONPATH": root}
    subprocess.run([sys.executable, str(program), str(folder), str(output)], check=True, env=environment, timeout=240)
    for got in np.load(output):
        np.testing.assert_allclose(got, expected, atol=1e-5)


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "OMP_NUM_THREADS": "1"}


# ------------------------------------------------------------------ rationales


def test_rationales_are_what_was_generated(model: SentenceTransformer) -> None:
    module = model[0]
    encodings = grace_st.encode_with_rationales(model, TEXTS)
    stops = list(module.config.eos_token_ids)
    prompts = module.prompts_of(TEXTS)
    for encoding, (ids, stop) in zip(encodings, oracle.greedy(module.model, prompts, 24, stops), strict=True):
        assert encoding.rationale_ids == ids
        assert encoding.finished == (stop is not None)
        assert encoding.rationale == module.tokenizer.decode(ids, skip_special_tokens=True)
        assert encoding.embedding.shape == (32,) and encoding.embedding.dtype == np.float32


def test_rationales_through_stock_encode(model: SentenceTransformer) -> None:
    encodings = grace_st.encode_with_rationales(model, TEXTS)
    items = model.encode(TEXTS, output_value=None, batch_size=4)
    for item, encoding in zip(items, encodings, strict=True):
        length = int(item["rationale_lengths"])
        assert item["rationale_ids"][:length].tolist() == encoding.rationale_ids
        assert bool(item["rationale_finished"]) == encoding.finished
        np.testing.assert_allclose(item["sentence_embedding"].numpy(), encoding.embedding, atol=1e-5)


def test_given_rationales(model: SentenceTransformer) -> None:
    encodings = grace_st.encode_with_rationales(model, TEXTS)
    ids = [encoding.rationale_ids for encoding in encodings]
    again = grace_st.encode_with_rationales(model, TEXTS, rationales=ids)
    np.testing.assert_allclose(vectors(again), vectors(encodings), atol=1e-5)
    assert [encoding.rationale for encoding in again] == [encoding.rationale for encoding in encodings]
    stop = model[0].config.eos_token_ids[0]
    with_stop = grace_st.encode_with_rationales(model, TEXTS, rationales=[[*item, stop] for item in ids])
    np.testing.assert_allclose(vectors(with_stop), vectors(encodings), atol=1e-5)
    swapped = grace_st.encode_with_rationales(model, TEXTS, rationales=["about Paris"] * len(TEXTS))
    assert np.abs(vectors(swapped) - vectors(encodings)).max() > 1e-3
    assert swapped[0].rationale == "about Paris"
    nothing = grace_st.encode_with_rationales(model, TEXTS, rationales=[""] * len(TEXTS))
    np.testing.assert_allclose(vectors(nothing), model.encode(TEXTS, max_new_tokens=0), atol=1e-5)
    with pytest.raises(ValueError, match="one rationale for each of the 10 texts, got 3"):
        grace_st.encode_with_rationales(model, TEXTS, rationales=["a"] * 3)
    with pytest.raises(ValueError, match="got a single string"):
        grace_st.encode_with_rationales(model, TEXTS, rationales="a")
    with pytest.raises(ValueError, match="'seed' has no effect on given rationales"):
        grace_st.encode_with_rationales(model, TEXTS, rationales=["a"] * 10, seed=1)
    for wrong in ([1.5], [None], 3, None):
        with pytest.raises(ValueError, match="rationale 0 must be a string or a list of token ids"):
            grace_st.encode_with_rationales(model, ["a"], rationales=[wrong])
    with pytest.raises(ValueError, match="rationale 0 has the token id 99999"):
        grace_st.encode_with_rationales(model, ["a"], rationales=[[99999]])


def test_rollouts_are_told_of_as_they_end(model: SentenceTransformer) -> None:
    module = model[0]
    prompts = module.prompts_of([*TEXTS, TEXTS[0]])
    told: dict[int, Any] = {}
    rollouts = module.rollouts(prompts, on_rollout=told.__setitem__)
    assert [told[place].ids for place in range(len(prompts))] == [rollout.ids for rollout in rollouts]
    with pytest.raises(ValueError, match="leave out rationales and store"):
        module.rollouts(prompts[:1], rationales=[[5]], on_rollout=told.__setitem__)
    with pytest.raises(ValueError, match="leave out rationales and store"):
        module.rollouts(prompts[:1], store="rationales.sqlite", on_rollout=told.__setitem__)


def test_options_of_a_call(model: SentenceTransformer, expected: np.ndarray) -> None:
    short = grace_st.encode_with_rationales(model, TEXTS, max_new_tokens=2)
    assert max(len(encoding.rationale_ids) for encoding in short) == 2
    np.testing.assert_allclose(model.encode(TEXTS, max_new_tokens=2), vectors(short), atol=1e-5)
    one = model.encode(TEXTS, do_sample=True, seed=1)
    np.testing.assert_allclose(model.encode(TEXTS, do_sample=True, seed=1, batch_size=3), one, atol=1e-5)
    assert np.abs(model.encode(TEXTS, do_sample=True, seed=2) - one).max() > 1e-3
    assert np.abs(one - expected).max() > 1e-3
    model.encode(TEXTS[:2], do_sample=True, temperature=0.7, top_p=0.9, top_k=5, repetition_penalty=1.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": -3}, "max_new_tokens must be an integer >= 0"),
        ({"temperature": 0.5}, "add do_sample=True"),
        ({"max_tokens": 3}, "max_tokens"),
        ({"rationales": ["a"]}, "rationales"),
        ({"max_new_tokens": 5000}, "exceed the model's context of 512"),
    ],
)
def test_bad_options_of_a_call(model: SentenceTransformer, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.encode(["a"], **options)
    if "rationales" not in options:
        with pytest.raises(ValueError, match=message):
            grace_st.encode_with_rationales(model, ["a"], **options)


@pytest.mark.parametrize("value", [None, 3, b"a", ("a", "b")])
def test_bad_texts(model: SentenceTransformer, value: Any) -> None:
    with pytest.raises(ValueError, match="text 1 must be a string, got"):
        grace_st.encode_with_rationales(model, ["fine", value])


@pytest.mark.parametrize("value", [None, 3, b"a", {"text": "a"}])
def test_what_is_not_a_list_of_texts(model: SentenceTransformer, value: Any) -> None:
    with pytest.raises(ValueError, match="texts must be a list of strings, got"):
        grace_st.encode_with_rationales(model, value)
    with pytest.raises(ValueError, match="the instruction must be a string"):
        grace_st.encode_with_rationales(model, ["a"], prompt=5)  # type: ignore[arg-type]


def test_token_embeddings_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="no token embeddings"):
        grace_st.load(folder).encode(["a"], output_value="token_embeddings")


def test_a_model_without_our_module_is_refused() -> None:
    class Other(torch.nn.Module):
        def forward(self, features: dict[str, Any]) -> dict[str, Any]:
            return features

    with pytest.raises(ValueError, match=r"first module is Other.*grace_st\.convert"):
        grace_st.encode_with_rationales(SentenceTransformer(modules=[Other()], device="cpu"), ["a"])


def test_modules_after_ours_are_applied(folder: Path) -> None:
    from sentence_transformers.sentence_transformer.modules import Normalize

    model = SentenceTransformer(modules=[stock(folder)[0], Normalize()], device="cpu")
    got = vectors(grace_st.encode_with_rationales(model, TEXTS))
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(got, model.encode(TEXTS), atol=1e-5)


def test_config_overrides_at_load_time(folder: Path, expected: np.ndarray) -> None:
    rationale_only = grace_st.load(folder, pooling_span="rationale", device="cpu").encode(TEXTS)
    assert np.abs(rationale_only - expected).max() > 1e-3
    through_stock = stock(folder, config_kwargs={"pooling_span": "rationale"}).encode(TEXTS)
    np.testing.assert_allclose(through_stock, rationale_only, atol=1e-5)
    with pytest.raises(ValueError, match="did you mean 'pooling_span'"):
        grace_st.load(folder, pooling_spam="rationale")
    with pytest.raises(ValueError, match="exceed the model's context of 512 tokens: max_seq_length=488 fits"):
        grace_st.load(folder, max_seq_length=500)


def test_limits_can_be_set_on_the_model(folder: Path) -> None:
    model = stock(folder)
    model.max_seq_length = 100
    assert model.max_seq_length == 100 and model[0].max_seq_length == 100
    long = "word " * 300
    assert model.preprocess([long])["input_ids"].shape == (1, 100)
    model[0].max_new_tokens = 3
    assert len(grace_st.encode_with_rationales(model, ["cats"])[0].rationale_ids) <= 3


@pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
def test_load_hands_many_texts_to_the_engine_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    model = grace_st.load(folder, device="cpu")
    sizes: list[int] = []
    rollouts = model[0].rollouts

    def counting(prompts: list[Any], *args: Any, **options: Any) -> Any:
        sizes.append(len(prompts))
        return rollouts(prompts, *args, **options)

    monkeypatch.setattr(model[0], "rollouts", counting)
    getattr(model, method)(["a"] * 70)
    getattr(model, method)(["a"] * 70, batch_size=50)
    getattr(model, method)(["a"] * 70, None, None, 60)
    assert sizes == [70, 50, 20, 60, 10]


def test_the_progress_bar_counts_texts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = grace_st.load(folder, device="cpu")
    for call in (model.encode, model.encode_query, model.encode_with_rationales):
        call([*TEXTS, TEXTS[0]], show_progress_bar=True, max_new_tokens=2)
        shown = capsys.readouterr().err
        assert "Texts: 100%" in shown and "11/11" in shown and "Batches" not in shown
    model.encode(TEXTS)
    assert capsys.readouterr().err == ""


def test_setting_the_tokenizer_makes_the_prompt_anew(folder: Path, tmp_path: Path) -> None:
    model = stock(folder)
    other = tiny.tokenizer()
    other.add_tokens(["Paris in the rain"])
    before = model.preprocess(["Paris in the rain"])["input_ids"].shape[1]
    model.tokenizer = other
    assert model.tokenizer is other
    assert model.preprocess(["Paris in the rain"])["input_ids"].shape[1] < before
    with pytest.raises(ValueError, match="embeddings for 0 to"):  # the model was not resized
        model.encode(["Paris in the rain"])


def test_a_dtype_that_is_set_later_stays(folder: Path) -> None:
    model = stock(folder)
    model.encode(["a"])
    model.half()
    assert np.isfinite(model.encode(["a"])).all() and model.dtype == torch.float16


def test_engines_are_chosen_not_guessed(folder: Path) -> None:
    with pytest.raises(ValueError, match="unknown engine option 'slotz'; known are slots, share_prefix"):
        grace_st.load(folder, engine_kwargs={"slotz": 3})
    with pytest.raises(ValueError, match="engine_kwargs must be a dictionary"):
        grace_st.load(folder, engine_kwargs=[3])  # type: ignore[arg-type]
    assert grace_st.load(folder, engine_kwargs={"slots": 5}, device="cpu")[0].engine.slots == 5
    assert stock(folder, model_kwargs={"engine_kwargs": {"slots": 5}})[0].engine.slots == 5
    with pytest.raises(ValueError, match="engine must be one of 'torch', 'vllm', got 'jax'"):
        grace_st.load(folder, engine="jax")
    with pytest.raises(ValueError, match="only backend='torch'"):
        stock(folder, backend="onnx")


def test_training_through_it_is_refused(folder: Path) -> None:
    model = stock(folder)
    model.train()
    with pytest.raises(RuntimeError, match="grace-st train"):
        model(model.preprocess(["a"]))
    model.eval()
    assert model(model.preprocess(["a"]))["sentence_embedding"].shape == (1, 32)


def test_non_finite_weights_name_the_text(folder: Path) -> None:
    model = stock(folder)
    with torch.no_grad():
        model[0].model.get_decoder().norm.weight[0] = float("nan")
    for call in (model.encode, lambda texts: grace_st.encode_with_rationales(model, texts)):
        with pytest.raises(grace_st.NonFiniteVectorError, match="the text 'the only text' gave non-finite"):
            call(["the only text"])


def test_loading_a_folder_asks_no_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even with the hub reachable: a local folder is complete."""
    program = (
        "import os, sys, socket\n"
        "def refuse(*a, **k): raise AssertionError('asked the network')\n"
        "socket.socket.connect = refuse; socket.getaddrinfo = refuse\n"
        "import grace_st\n"
        "print(grace_st.load(sys.argv[1], device='cpu').encode(['a']).shape)\n"
    )
    environment = {key: value for key, value in _environment().items() if key != "HF_HUB_OFFLINE"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "(1, 32)", done.stderr


def test_what_is_not_a_model_folder_is_refused(tmp_path: Path, checkpoints: Callable[..., Path]) -> None:
    with pytest.raises(FileNotFoundError, match="grace-st convert"):
        grace_st.load(checkpoints("qwen2"))
    for name in (tmp_path / "nowhere", "./nowhere", "~/nowhere", "a/b/c"):
        with pytest.raises(FileNotFoundError, match="there is no folder"):
            grace_st.load(name)


@pytest.mark.parametrize("name", ["grace_config.json", "modules.json", "tokenizer.json"])
def test_an_incomplete_folder_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    """Without its files transformers would make a tokenizer to which every text is unknown."""
    damaged = shutil.copytree(folder, tmp_path / "model")
    (damaged / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {name}"):
        grace_st.load(damaged)


@pytest.mark.parametrize("changes", [{"pad_token_id": 9999}, {"eos_token_ids": [2, 9999]}, {"head": "<new>"}])
def test_tokens_without_an_embedding_are_refused(folder: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    damaged = shutil.copytree(folder, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(damaged)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(damaged)
    with pytest.raises(ValueError, match="but the model has embeddings for 0 to"):
        grace_st.load(damaged, **changes)


def test_per_call_options_are_declared(model: SentenceTransformer) -> None:
    from grace_st.engines.base import Sampling

    declared = set(inspect.signature(Sampling).parameters) - {"num_samples", "logprobs"}
    assert set(model.get_model_kwargs()) == declared | {"store"}
