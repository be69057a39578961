"""What is refused before vLLM is started, each in one line that says what to do."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

import grace_st
from grace_st.cli import main
from grace_st.engines.vllm import cause, versions
from grace_st.engines.vllm.errors import VllmError
from grace_st.engines.vllm.options import VllmOptions
from tests.conftest import GraceFolder


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_num_seq": 3}, "unknown engine option 'max_num_seq' of vllm: did you mean max_num_seqs"),
        ({"slots": 3}, "unknown engine option 'slots' of vllm; known are two_pass, dtype"),
        ({"enable_prefix_caching": True}, "that cache stays off"),
        ({"max_num_seqs": 0}, "max_num_seqs must be an integer >= 1, got 0"),
        ({"tensor_parallel_size": True}, "tensor_parallel_size must be an integer >= 1, got True"),
        ({"max_num_batched_tokens": 8}, "max_num_batched_tokens must be at least 32, got 8"),
        ({"gpu_memory_utilization": 1.5}, r"must be a share in \(0, 1\], got 1.5"),
        ({"two_pass": "yes"}, "two_pass must be true or false, got 'yes'"),
        ({"enforce_eager": 1}, "enforce_eager must be true or false, got 1"),
        ({"dtype": "int8"}, "dtype must be float32, bfloat16 or float16, got 'int8'"),
        ({"quantization": 4}, "quantization must be a name of vLLM's, got 4"),
        ({"step_limit": -1}, "step_limit must be a number of seconds > 0, got -1"),
        ({"speculative_config": "ngram", "two_pass": True}, "must be a dictionary of vLLM's, got 'ngram'"),
        ({"speculative_config": {"method": "ngram"}}, "add the engine option two_pass=true"),
        ({"two_pass": True, "enable_chunked_prefill": True}, "in one piece"),
    ],
)
def test_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        VllmOptions.of(options)


def test_the_fingerprint_leaves_out_the_limits_of_waiting() -> None:
    one, two = VllmOptions(start_limit=5), VllmOptions(step_limit=7)
    assert one.fingerprint() == two.fingerprint() != VllmOptions(max_num_seqs=3).fingerprint()


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (None, r"needs vLLM, which is not installed: pip install 'grace-st\[vllm\]'"),
        ("0.9.2", r"needs vllm>=0.24,<\S+, and 0.9.2 is installed: pip install 'grace-st\[vllm\]'"),
        ("99.0", "and 99.0 is installed"),
    ],
)
def test_versions(
    found: str | None, said: str, monkeypatch: pytest.MonkeyPatch, grace_folder: GraceFolder, capsys: Any
) -> None:
    monkeypatch.setattr(versions, "installed", lambda: found)
    with pytest.raises(ImportError, match=said):
        grace_st.load(grace_folder("qwen2"), engine="vllm")
    texts = grace_folder("qwen2") / "texts.txt"
    texts.write_text("one\n")
    arguments = [str(texts), "-", "--model", str(grace_folder("qwen2")), "--engine", "vllm"]
    capsys.readouterr()
    assert main(["encode", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    for version in versions.TESTED:
        monkeypatch.setattr(versions, "installed", lambda version=version: version)
        assert versions.require_vllm() == version


def test_model_folders(
    fake_vllm: Callable[[str], None], grace_folder: GraceFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del fake_vllm
    folder = grace_folder("qwen2")
    refused: list[tuple[dict[str, Any], str]] = [
        ({"pooling": "mean_penultimate"}, "use engine='torch', or pooling='mean' or 'max' or 'last'"),
        ({"max_new_tokens": 500}, "exceed the model's context of 512 tokens"),
        ({"model_kwargs": {"attn_implementation": "sdpa"}}, "'attn_implementation' is for transformers"),
        ({"model_kwargs": {"dtype": torch.float64}}, "dtype must be float32, bfloat16 or float16"),
        ({"engine_kwargs": {"max_model_len": 600}}, "exceeds the model's context of 512"),
        ({"engine_kwargs": {"max_model_len": 100}}, "max_model_len=100 is less than"),
    ]
    for options, said in refused:
        with pytest.raises(ValueError, match=said):
            grace_st.load(folder, engine="vllm", **options)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for name in ("grace_config.json", "modules.json", "tokenizer.json", "tokenizer_config.json", "config.json"):
        (adapter / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(OSError, match="no safetensors weights"):
        grace_st.load(adapter, engine="vllm")
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"is a LoRA adapter.*merge it with `grace-st convert"):
        grace_st.load(adapter, engine="vllm")


def test_a_module_over_vllm(fake_vllm: Callable[[str], None], grace_folder: GraceFolder, tmp_path: Path) -> None:
    """As far as a fake goes: it writes token ids below 50, and its vectors have five dimensions."""
    del fake_vllm
    folder = grace_folder("qwen2")
    model = SentenceTransformer(
        str(folder), trust_remote_code=True, model_kwargs={"engine": "vllm", "engine_kwargs": {"max_num_seqs": 4}}
    )
    module = model[0]
    assert module.engine.options.max_num_seqs == 4 and model.get_embedding_dimension() == 5
    assert "Fake" in repr(module) and model.device.type == "cpu"
    with pytest.raises(AttributeError, match="the weights are in vLLM"):
        _ = module.model
    with pytest.raises(ValueError, match="vLLM, which does not save them"):
        model.save(str(tmp_path / "saved"))
    settings = module.fingerprint()
    assert settings["engine"] == "VllmEngine" and settings["mode"] == "one_pass" and settings["vllm"] == "0.0"
    module.engine.close()
    with pytest.raises(ValueError, match="reads a model folder"):
        grace_st.GenerateThenPool(None, module.tokenizer, module.config, engine="vllm")  # type: ignore[arg-type]


def test_all_texts_are_handed_over_at_once(fake_vllm: Callable[[str], None], grace_folder: GraceFolder) -> None:
    del fake_vllm
    model = grace_st.load(grace_folder("qwen2"), engine="vllm")
    engine = model[0].engine
    sizes: list[int] = []
    embed = engine.embed

    def counted(prompts: Any, *args: Any, **options: Any) -> Any:
        sizes.append(len(prompts))
        return embed(prompts, *args, **options)

    engine.embed = counted
    # Prompts of one token id each, below the fake's 50.
    module = model[0]
    module.prompts_of = lambda texts, instruction=None: [
        grace_st.module.PromptTokens((len(text) % 40, 1), 0) for text in texts
    ]
    vectors = model.encode(["x" * (number % 30) for number in range(5000)], max_new_tokens=0)
    assert vectors.shape == (5000, 5) and np.isfinite(vectors).all()
    assert sizes == [5000]
    with pytest.raises(ValueError, match="cannot be copied to other processes"):
        model.start_multi_process_pool(["cpu", "cpu"])
    engine.close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--engine", "vllm", "--slots", "3"], "--slots is an option of --engine torch"),
        (["--engine", "vllm", "--device", "cpu"], "--device is an option of --engine torch"),
        (["--engine-option", "slots"], "takes KEY=VALUE, e.g. max_num_seqs=256; got 'slots'"),
        (["--engine-option", "slots=3", "--engine-option", "slots=4"], "slots is given twice"),
        (["--engine-option", "slots=3", "--slots", "4"], "say the same"),
        (["--engine-option", "slotz=3"], "unknown engine option 'slotz'; known are slots, share_prefix"),
        (["--engine", "vllm", "--engine-option", "max_num_seqs=many"], "must be an integer >= 1, got 'many'"),
    ],
)
def test_the_command_line(arguments: list[str], said: str, tmp_path: Path, capsys: Any) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("one\n")
    assert main(["encode", str(texts), "-", "--model", "grace-nano", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_vllm_that_died_is_nobodys_misuse(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("one\n")

    def dies(*args: object, **options: object) -> None:
        raise VllmError("vLLM died")

    monkeypatch.setattr(grace_st.module.TorchEngine, "generate", dies)
    assert main(["encode", str(texts), "-", "--model", "grace-nano"]) == 1
    assert capsys.readouterr().err == "grace-st: error: vLLM died\n"


# ---------------------------------------------------------------- causes


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("INFO all is well", None),
        (
            "x\n(EngineCore pid=3) ERROR 11-27 [core.py:1] ValueError: Free memory on device cuda:0 (3.1/79.2 GiB) on "
            "startup is less than desired GPU memory utilization (0.92, 72.8 GiB). Decrease it.\n"
            "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
            "too little memory",
        ),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "OutOfMemoryError: CUDA out"),
        (
            "ValueError: To serve at least one request with the models's max seq len (8193), (7.0 GiB KV cache is "
            "needed, which is larger than the available KV cache memory (4.0 GiB).",
            "lower the engine option max_model_len",
        ),
    ],
)
def test_causes_are_found_in_what_was_written(log: str, said: str | None) -> None:
    found = cause.of_log(log)
    assert found == said if said is None or found is None else said in found and "\n" not in found


def test_causes_of_exits() -> None:
    assert "SIGTERM" in cause.of_exit(-signal.SIGTERM, "")
    assert "runs out of memory" in cause.of_exit(-signal.SIGKILL, "ValueError: x")
    assert cause.of_exit(3, "one\n  the  last line\n") == "it ended with exit code 3: the last line"
    assert cause.of_message("RuntimeError: Engine core initialization failed.", "KeyError: 'a'") == "KeyError: 'a'"
    assert cause.of_message("x" * 900, "").endswith("...")
