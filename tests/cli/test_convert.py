"""``grace-st convert`` on tiny models."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import grace_st
from grace_st.cli import main

Checkpoints = Callable[..., Path]
LIMITS = ["--max-seq-length", "128", "--max-new-tokens", "8"]


def _json(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    return json.loads(output.out)


def test_shows_what_was_decided_and_how_to_use_the_folder(
    checkpoints: Checkpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "converted"
    capsys.readouterr()
    assert main(["convert", str(checkpoints()), str(folder), *LIMITS]) == 0
    shown = capsys.readouterr().out
    assert "Qwen2ForCausalLM" in shown
    assert "128 tokens of prompt and 8 of rationale" in shown
    assert "[your text]<|im_end|>" in shown
    assert "<|im_end|> (" in shown
    assert "\x1b" not in shown


def test_the_lines_of_python_that_it_shows_run(
    checkpoints: Checkpoints,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = "a folder whose name is longer than the lines of a common terminal, and has a quote: '"
    capsys.readouterr()
    assert main(["convert", str(checkpoints()), folder, *LIMITS]) == 0
    _, code = capsys.readouterr().out.split("Use it:")
    scope: dict[str, object] = {}
    exec(code, scope)  # the lines are the product here
    assert scope["vectors"].shape == (2, 32)


def test_json_says_what_the_folder_holds(
    checkpoints: Checkpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "converted"
    told = _json(["convert", str(checkpoints()), str(folder), *LIMITS], capsys)
    config = grace_st.GraceConfig.from_file(folder / "grace_config.json")
    assert told["config"] == json.loads(json.dumps(config.to_dict()))
    assert Path(told["path"]).samefile(folder)
    assert told["eos_tokens"] == ["<|im_end|>"]
    model = grace_st.load(folder)
    assert told["embedding_dimension"] == model.get_embedding_dimension()
    assert told["num_parameters"] == sum(parameter.numel() for parameter in model.parameters())


def test_options_reach_the_folder(checkpoints: Checkpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(checkpoints("qwen3", "thinking"))
    options = ["--system-prompt", "Think first.", "--system-role", "user", "--pooling", "last"]
    options += ["--pooling-span", "rationale", "--chat-template-kwargs", '{"enable_thinking": false}']
    config = _json(["convert", source, str(tmp_path / "a"), *LIMITS, *options], capsys)["config"]
    assert (config["system_prompt"], config["template"]) == ("Think first.", "chat_user")
    assert (config["pooling"], config["pooling_span"]) == ("last", "rationale")
    assert (config["max_seq_length"], config["max_new_tokens"]) == (128, 8)
    assert "</think>" in config["tail"]
    config = _json(["convert", source, str(tmp_path / "b"), *LIMITS, "--no-system-prompt"], capsys)["config"]
    assert config["system_prompt"] is None


def test_the_defaults_that_the_help_names_are_the_library_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split("examples:")[0].split())
    for name, parameter in inspect.signature(grace_st.convert).parameters.items():
        if name in {"max_seq_length", "max_new_tokens", "pooling", "pooling_span", "system_role"}:
            option = shown.split(f"--{name.replace('_', '-')} ")[-1]
            assert option.split("(default: ")[1].startswith(f"{parameter.default})"), name


def test_replaces_a_folder_only_when_told_to(
    checkpoints: Checkpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "made"
    words = ["convert", str(checkpoints()), str(folder), "--max-seq-length", "128"]
    assert main([*words, "--max-new-tokens", "8"]) == 0
    capsys.readouterr()
    assert main([*words, "--max-new-tokens", "9"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert grace_st.GraceConfig.from_file(folder / "grace_config.json").max_new_tokens == 8
    assert main([*words, "--max-new-tokens", "9", "--overwrite"]) == 0
    assert grace_st.GraceConfig.from_file(folder / "grace_config.json").max_new_tokens == 9


def test_a_context_that_is_too_small_is_one_line_with_limits_that_fit(
    checkpoints: Checkpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    words = ["convert", str(checkpoints()), str(tmp_path / "made")]
    assert main([*words, "--max-seq-length", "100000"]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert "fits" in output.err
    assert not (tmp_path / "made").exists()


def test_a_source_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "no-such-folder", str(tmp_path / "made")]) == 2
    output = capsys.readouterr()
    assert output.err.startswith("grace-st: error: no-such-folder is no local folder")
    assert output.err.count("\n") == 1


def test_a_checkpoint_without_safetensors_is_refused(
    checkpoints: Checkpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = shutil.copytree(checkpoints(), tmp_path / "source")
    for weights in source.glob("*.safetensors"):
        weights.unlink()
    capsys.readouterr()
    assert main(["convert", str(source), str(tmp_path / "made"), *LIMITS]) == 2
    assert "safetensors" in capsys.readouterr().err


def test_tokens_that_the_user_names(
    checkpoints: Checkpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = ["--eos-token", "<end_of_turn>", "<bos>", "--pad-token", "<bos>"]
    words = ["convert", str(checkpoints()), str(tmp_path / "converted"), *LIMITS, *tokens]
    result = _json(words, capsys)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "converted")
    expected = sorted(tokenizer.convert_tokens_to_ids(["<end_of_turn>", "<bos>"]))
    assert result["config"]["eos_token_ids"] == expected
    assert result["config"]["pad_token_id"] == tokenizer.convert_tokens_to_ids("<bos>")
    assert main([*words, "--overwrite", "--pad-token", "nonsense"]) == 2
    assert "pad_token='nonsense' is not one token" in capsys.readouterr().err
