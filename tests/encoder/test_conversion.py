"""convert(): what it decides, what it writes, what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import grace_st
from grace_st.config import DEFAULT_SYSTEM_PROMPT
from tests import tiny
from tests.encoder import oracle

Checkpoints = Callable[..., Path]
SMALL: dict[str, Any] = {"max_seq_length": 128, "max_new_tokens": 8}


@pytest.mark.parametrize("architecture", [*tiny.STANDARD, "lfm2"])
def test_any_architecture_round_trips(architecture: str, checkpoints: Checkpoints, tmp_path: Path) -> None:
    result = grace_st.convert(checkpoints(architecture), tmp_path / "model", **SMALL)
    model = SentenceTransformer(str(result.path), trust_remote_code=True, device="cpu")
    module = model[0]
    assert result.architecture == type(module.model).__name__
    assert result.embedding_dimension == model.get_embedding_dimension() == 32
    assert result.num_parameters == sum(p.numel() for p in module.model.parameters())
    assert result.context_length == 512
    text = "Paris in the rain"
    (prompt,) = module.prompts_of([text])
    ((ids, _),) = oracle.greedy(module.model, [prompt], 8, result.config.eos_token_ids)
    reference = oracle.vector(module.model, [*prompt.ids, *ids], prompt.pool_start, "mean")
    np.testing.assert_allclose(model.encode(text), reference.numpy(), atol=1e-5)


@pytest.mark.parametrize("template", ["chatml", "thinking", "dated", "no_system", "none"])
def test_every_kind_of_template_encodes(template: str, checkpoints: Checkpoints, tmp_path: Path) -> None:
    result = grace_st.convert(checkpoints("llama", template), tmp_path / "model", **SMALL)
    kinds = {"no_system": "chat_user", "none": "plain"}
    assert result.config.template == kinds.get(template, "chat")
    assert DEFAULT_SYSTEM_PROMPT in result.config.head
    model = grace_st.load(result.path, device="cpu")
    assert np.isfinite(model.encode(["", "a", "<|im_end|>"])).all()


def test_the_folder_is_complete(checkpoints: Checkpoints, tmp_path: Path) -> None:
    folder = grace_st.convert(checkpoints("qwen2"), tmp_path / "my-model", **SMALL).path
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "config_sentence_transformers.json",
        "generation_config.json",
        "grace_config.json",
        "model.safetensors",
        "modeling_grace.py",
        "modules.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    (module,) = json.loads((folder / "modules.json").read_text())
    assert (module["type"], module["path"]) == ("modeling_grace.GenerateThenPool", "")
    assert not list(tmp_path.glob(".*"))
    readme = (folder / "README.md").read_text()
    for phrase in (
        "pip install grace-st",
        'SentenceTransformer("sentence_transformers_model_id", trust_remote_code=True)',
        "| dimension | 32 |",
    ):
        assert phrase in readme
    # Plain transformers still reads it, and nothing of the checkpoint's sampling options is left.
    generation = GenerationConfig.from_pretrained(folder)
    assert not generation.do_sample and generation.temperature is None
    AutoModelForCausalLM.from_pretrained(folder)
    AutoTokenizer.from_pretrained(folder)


def test_the_eos_set_joins_all_sources(checkpoints: Checkpoints, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(checkpoints("qwen2"), source)
    tokenizer = AutoTokenizer.from_pretrained(source)
    ids = {
        token: tokenizer.convert_tokens_to_ids(token)
        for token in ("<|im_end|>", "<|endoftext|>", "<bos>", "<end_of_turn>")
    }
    tokenizer.eos_token = "<|endoftext|>"  # the template still ends turns with <|im_end|>
    tokenizer.save_pretrained(source)
    GenerationConfig(eos_token_id=[ids["<bos>"], 999_999]).save_pretrained(source)
    config = grace_st.convert(source, tmp_path / "a", **SMALL).config
    assert set(config.eos_token_ids) == {ids["<|im_end|>"], ids["<|endoftext|>"], ids["<bos>"]}
    told = grace_st.convert(source, tmp_path / "b", eos_token="<end_of_turn>", **SMALL).config
    assert told.eos_token_ids == (ids["<end_of_turn>"],)


def test_sampling_options_of_the_checkpoint_are_not_inherited(checkpoints: Checkpoints, tmp_path: Path) -> None:
    assert GenerationConfig.from_pretrained(checkpoints("qwen2")).do_sample
    model = grace_st.load(grace_st.convert(checkpoints("qwen2"), tmp_path / "m", **SMALL).path, device="cpu")
    assert (
        model.encode_with_rationales("cats")[0].rationale_ids
        == model.encode_with_rationales("cats", seed=5)[0].rationale_ids
    )


def test_conversion_is_deterministic(checkpoints: Checkpoints, tmp_path: Path) -> None:
    folders = [grace_st.convert(checkpoints("llama", "dated"), tmp_path / name / "m", **SMALL).path for name in "ab"]
    first, second = ({p.name: p.read_bytes() for p in folder.iterdir()} for folder in folders)
    assert first == second


def test_an_adapter_is_merged_and_an_adapter_folder_loads(checkpoints: Checkpoints, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = AutoModelForCausalLM.from_pretrained(checkpoints("qwen2"))
    torch.manual_seed(0)
    adapted = peft.get_peft_model(
        base, peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )
    adapter = tmp_path / "adapter"
    adapted.save_pretrained(adapter)
    AutoTokenizer.from_pretrained(checkpoints("qwen2")).save_pretrained(adapter)

    merged = grace_st.convert(adapter, tmp_path / "merged", **SMALL)
    assert (merged.path / "model.safetensors").exists() and not (merged.path / "adapter_config.json").exists()
    texts = tiny.TEXTS[:4]
    from_merged = grace_st.load(merged.path, device="cpu").encode(texts)
    plain = grace_st.convert(checkpoints("qwen2"), tmp_path / "plain", **SMALL)
    assert np.abs(from_merged - grace_st.load(plain.path, device="cpu").encode(texts)).max() > 1e-3

    # A model folder that holds the adapter instead of the weights.
    folder = tmp_path / "adapter-folder"
    shutil.copytree(merged.path, folder, ignore=shutil.ignore_patterns("model.safetensors", "config.json"))
    for path in adapter.glob("adapter_*"):
        shutil.copy(path, folder)
    loaded = grace_st.load(folder, device="cpu")
    np.testing.assert_allclose(loaded.encode(texts), from_merged, atol=1e-4)


def test_overwrite(checkpoints: Checkpoints, tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    grace_st.convert(checkpoints("qwen2"), target, **SMALL)  # an empty folder is no obstacle
    with pytest.raises(FileExistsError, match="--overwrite"):
        grace_st.convert(checkpoints("qwen2"), target, **SMALL)
    (target / "old").touch()
    grace_st.convert(checkpoints("qwen2"), target, overwrite=True, **SMALL)
    assert not (target / "old").exists()
    with pytest.raises(ValueError, match="is the destination, or inside it"):
        grace_st.convert(target, target, overwrite=True, **SMALL)


def test_only_model_folders_are_ever_replaced(checkpoints: Checkpoints, tmp_path: Path) -> None:
    thesis = tmp_path / "work"
    thesis.mkdir()
    (thesis / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="no model folder, so it is not replaced"):
        grace_st.convert(checkpoints("qwen2"), thesis, overwrite=True, **SMALL)
    source = Path(shutil.copytree(checkpoints("qwen2"), tmp_path / "all" / "source"))
    with pytest.raises(ValueError, match="inside it"):
        grace_st.convert(source, tmp_path / "all", overwrite=True, **SMALL)
    assert (thesis / "thesis.tex").exists() and (source / "model.safetensors").exists()


def test_destinations(checkpoints: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert grace_st.convert(checkpoints("qwen2"), "~/model", **SMALL).path == tmp_path / "home" / "model"
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    grace_st.convert(checkpoints("qwen2"), tmp_path / "link", **SMALL)
    assert (tmp_path / "empty" / "model.safetensors").exists()
    (tmp_path / "file").touch()
    for destination in (tmp_path / "file", tmp_path / "file" / "model"):
        with pytest.raises(FileExistsError, match="is a file"):
            grace_st.convert(checkpoints("qwen2"), destination, overwrite=True, **SMALL)
    inside = Path(shutil.copytree(checkpoints("qwen2"), tmp_path / "source"))
    grace_st.convert(inside, inside / "grace", **SMALL)
    assert (inside / "model.safetensors").exists()


def test_a_failure_leaves_nothing(checkpoints: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: Any, **_options: Any) -> None:
        raise OSError("disk full")

    target = grace_st.convert(checkpoints("qwen2"), tmp_path / "model", **SMALL).path
    (target / "old").touch()
    monkeypatch.setattr("grace_st.module.GenerateThenPool.save", fail)
    with pytest.raises(OSError, match="disk full"):
        grace_st.convert(checkpoints("qwen2"), target, overwrite=True, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["model"] and (target / "old").exists()


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failure_while_replacing_brings_the_old_folder_back(
    checkpoints: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    target = grace_st.convert(checkpoints("qwen2"), tmp_path / "model", **SMALL).path
    (target / "old").touch()
    rename = Path.rename

    def fail_for_the_new_one(self: Path, other: Path) -> Path:
        if self.name == "new":
            raise error
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises(error):
        grace_st.convert(checkpoints("qwen2"), target, overwrite=True, **SMALL)
    assert (target / "old").exists() and [path.name for path in tmp_path.iterdir()] == ["model"]


# ------------------------------------------------------------------ refusals


@pytest.fixture
def source(checkpoints: Checkpoints, tmp_path: Path) -> Path:
    """A copy of a checkpoint that a test may damage."""
    return Path(shutil.copytree(checkpoints("llama"), tmp_path / "source"))


def _edit(path: Path, **changes: Any) -> None:
    values = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            values.pop(key, None)
        else:
            values[key] = value
    path.write_text(json.dumps(values))


def refused(source: Path | str, tmp_path: Path, error: type[Exception], message: str, **options: Any) -> None:
    with pytest.raises(error, match=message):
        grace_st.convert(source, tmp_path / "out", **{**SMALL, **options})
    assert not (tmp_path / "out").exists()


def test_no_eos(source: Path, tmp_path: Path) -> None:
    _edit(source / "tokenizer_config.json", eos_token=None)
    (source / "generation_config.json").unlink()
    (source / "chat_template.jinja").unlink()
    refused(source, tmp_path, ValueError, r"names an EOS token.*--eos-token TOKEN")
    grace_st.convert(source, tmp_path / "told", eos_token="<|im_end|>", **SMALL)
    refused(source, tmp_path, ValueError, "eos_token='nonsense' is not one token", eos_token="nonsense")


def test_no_padding_token(source: Path, tmp_path: Path) -> None:
    _edit(source / "tokenizer_config.json", pad_token=None)
    refused(source, tmp_path, ValueError, r"no padding token: name one, e\.g\. pad_token='<\|im_end\|>'")
    told = grace_st.convert(source, tmp_path / "told", pad_token="<|endoftext|>", **SMALL)
    assert AutoTokenizer.from_pretrained(told.path).pad_token_id == told.config.pad_token_id
    refused(source, tmp_path, ValueError, "pad_token='nonsense' is not one token", pad_token="nonsense")


def test_padding_does_not_matter_to_vectors(source: Path, tmp_path: Path) -> None:
    """Not even when it is the EOS token: it is never pooled and never read."""
    folders = [
        grace_st.convert(source, tmp_path / name, pad_token=token, **SMALL).path
        for name, token in (("a", "<|endoftext|>"), ("b", "<|im_end|>"))
    ]
    one, other = (grace_st.load(folder, device="cpu").encode(tiny.TEXTS) for folder in folders)
    assert np.array_equal(one, other)


def test_no_safetensors(source: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(source)
    torch.save(model.state_dict(), source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()
    refused(source, tmp_path, OSError, "no safetensors weights, and others are not read")
    folder = grace_st.convert(tmp_path_checkpoint(model, tmp_path), tmp_path / "fine", **SMALL).path
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match="no safetensors weights"):
        grace_st.load(folder)


def tmp_path_checkpoint(model: Any, tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def test_context(source: Path, tmp_path: Path) -> None:
    refused(
        source,
        tmp_path,
        ValueError,
        "context of 512 tokens: max_seq_length=412 fits",
        max_seq_length=500,
        max_new_tokens=100,
    )
    refused(source, tmp_path, ValueError, "for example max_seq_length=256, max_new_tokens=128", max_new_tokens=600)
    refused(source, tmp_path, ValueError, "template needs", max_seq_length=20)
    grace_st.convert(source, tmp_path / "fits", max_seq_length=412, max_new_tokens=100)


def _other_model(folder: Path, model: Any) -> Path:
    model.save_pretrained(folder)
    tiny.tokenizer("none").save_pretrained(folder)
    return folder


def test_encoders_are_refused(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForMaskedLM, BertLMHeadModel, T5Config, T5ForConditionalGeneration

    size = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 420,
    }
    encoder = _other_model(tmp_path / "bert", BertForMaskedLM(BertConfig(**size)))
    refused(encoder, tmp_path, ValueError, "is a BertForMaskedLM, which does not generate text")
    # An encoder under a causal name: found by what it does.
    disguised = _other_model(tmp_path / "disguised", BertLMHeadModel(BertConfig(**size)))
    refused(disguised, tmp_path, ValueError, "not causal: its states depend on later tokens")
    both = T5Config(d_model=32, d_ff=64, num_layers=2, num_heads=4, d_kv=8, vocab_size=420, decoder_start_token_id=0)
    refused(
        _other_model(tmp_path / "t5", T5ForConditionalGeneration(both)),
        tmp_path,
        ValueError,
        "is an encoder-decoder model",
    )


def test_no_cache(tmp_path: Path) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    mamba = MambaForCausalLM(MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=420, state_size=4))
    # From transformers 5.23 on its state is called a cache as well, and is no use as one.
    said = r"MambaForCausalLM keeps no key/value cache|\(MambaForCausalLM\) cannot be decoded one token at a time"
    refused(_other_model(tmp_path / "mamba", mamba), tmp_path, ValueError, said)


def test_limits_under_other_names(tmp_path: Path) -> None:
    """GPT-2 calls its context n_positions."""
    from transformers import GPT2Config, GPT2LMHeadModel

    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=420, n_positions=64, n_embd=32, n_layer=2, n_head=4))
    source = _other_model(tmp_path / "gpt2", gpt2)
    refused(source, tmp_path, ValueError, "context of 64 tokens: max_seq_length=56 fits")
    result = grace_st.convert(source, tmp_path / "fits", system_prompt="Think.", max_seq_length=48, max_new_tokens=16)
    assert result.context_length == 64
    texts = ["word " * length for length in range(1, 40)]
    assert np.isfinite(grace_st.load(result.path, device="cpu").encode(texts)).all()


def test_a_vocabulary_that_was_not_resized(source: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(source)
    refused(source, tmp_path, ValueError, r"padding uses token \d+ \(<pad>\), but the model has embeddings for 0 to")


def test_a_model_that_cannot_be_decoded_step_by_step(tmp_path: Path) -> None:
    """OPT with a projection after its last layer: the states are not as wide as the config says."""
    from transformers import OPTConfig, OPTForCausalLM

    size = {"hidden_size": 32, "word_embed_proj_dim": 16, "ffn_dim": 64, "num_hidden_layers": 2}
    opt = OPTForCausalLM(OPTConfig(vocab_size=420, num_attention_heads=4, max_position_embeddings=256, **size))
    refused(_other_model(tmp_path / "opt", opt), tmp_path, ValueError, "OPTForCausalLM.* cannot be decoded")


def test_no_tokenizer(source: Path, tmp_path: Path) -> None:
    for path in source.glob("*token*"):
        path.unlink()
    refused(source, tmp_path, ValueError, "tokenizer")


def test_damaged_weights(source: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(source)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    model.save_pretrained(source)
    refused(source, tmp_path, ValueError, "gives NaN or infinity")


def test_templates(checkpoints: Checkpoints, tmp_path: Path) -> None:
    refused(checkpoints("qwen2", "drops_system"), tmp_path, ValueError, "--system-role user")
    result = grace_st.convert(checkpoints("qwen2", "drops_system"), tmp_path / "fine", system_role="user", **SMALL)
    assert result.config.template == "chat_user"


def test_mistakes_are_found_before_weights_are_loaded(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grace_st.conversion.load_causal_lm", lambda *_args: pytest.fail("loaded the weights"))
    for options in ({"max_new_tokens": 600}, {"pooling": "median"}, {"dtype": "int4"}, {"pad_token": "nonsense"}):
        refused(source, tmp_path, ValueError, ".", **options)
    refused(source, tmp_path, ValueError, ".", chat_template_kwargs={"no_such_option": 1})


def test_other_mistakes(source: Path, tmp_path: Path) -> None:
    refused(source, tmp_path, ValueError, "pooling must be one of 'mean'", pooling="median")
    refused(source, tmp_path, ValueError, "dtype must be one of float32", dtype="int4")
    refused(source, tmp_path, ValueError, "max_new_tokens must be an integer >= 0", max_new_tokens=-1)
    refused(source, tmp_path, ValueError, "eos_token is an empty list", eos_token=[])
    for nowhere in (tmp_path / "nowhere", Path("missing/a/b"), "./missing", "~/missing"):
        refused(nowhere, tmp_path, FileNotFoundError, "there is no folder")
    refused(Path("some-org/no-such-model"), tmp_path, OSError, "some-org/no-such-model is no local folder")
