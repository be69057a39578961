"""``python -m grace_train.nano``: make grace-nano or a model of another preset, step by step or whole."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast

import grace_st
from grace_st.cards import write_folder_card
from grace_st.cards.blocks import with_block
from grace_train.nano import evaluate as entities
from grace_train.nano.corpus import Corpus
from grace_train.nano.knowledge import load_knowledge
from grace_train.nano.presets import PRESETS, Preset
from grace_train.nano.pretrain import PretrainConfig, SampleSource, pretrain
from grace_train.nano.real_text import SourceError, TextCorpus
from grace_train.nano.real_text import evaluate as real_text
from grace_train.nano.tokenizer import train_tokenizer

logger = logging.getLogger("grace_train.nano")

STAGES = ("all", "tokenizer", "train", "evaluate")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the recipe; see ``--help``."""
    parser = _parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    preset, output = PRESETS[options.preset], options.output
    if preset.real_text != (options.text is not None):
        parser.error(f"--preset {options.preset} {'needs' if preset.real_text else 'does not use'} --text DIR")
    if preset.real_text and options.knowledge is not None:
        parser.error(f"--preset {options.preset} does not use --knowledge")
    try:
        corpus = _corpus(preset, options)
    except SourceError as error:
        parser.error(str(error))
    if options.stage in ("all", "tokenizer") and not (options.resume and (output / "tokenizer").exists()):
        make_tokenizer(corpus, output, preset)
    if options.stage in ("all", "train"):
        train(corpus, output, preset, _config(preset, options), resume=options.resume, device=options.device)
    if options.stage in ("all", "evaluate"):
        results, table = _evaluate(output / preset.model_name, corpus, options.device)
        entities.write_results(results, table, output)
        logger.info("results in %s\n%s", output, table)


def _corpus(preset: Preset, options: argparse.Namespace) -> Corpus | TextCorpus:
    vague = not options.no_vague
    if preset.real_text:
        return TextCorpus(options.text, vague=vague)
    knowledge = load_knowledge() if options.knowledge is None else load_knowledge(options.knowledge)
    corpus = Corpus(knowledge, vague=vague)
    logger.info("%d entities in %d categories", len(corpus.entities), len(knowledge.categories))
    return corpus


def _config(preset: Preset, options: argparse.Namespace) -> PretrainConfig:
    config = replace(preset.training, seed=options.seed, vague=not options.no_vague)
    if options.fp32:
        config = replace(config, bf16=False)
    return config if options.steps is None else replace(config, steps=options.steps)


def _evaluate(folder: Path, corpus: Corpus | TextCorpus, device: str) -> tuple[dict[str, Any], str]:
    if isinstance(corpus, TextCorpus):
        results = real_text.evaluate(folder, corpus, device=device)
        return results, real_text.markdown_table(results)
    results = entities.evaluate(folder, corpus, device=device)
    return results, entities.markdown_table(results)


def make_tokenizer(corpus: SampleSource, output: Path, preset: Preset) -> None:
    """Train the tokenizer and save it as ``output/tokenizer``."""
    tokenizer = train_tokenizer(corpus, vocab_size=preset.vocab_size, samples=preset.tokenizer_samples)
    tokenizer.save_pretrained(output / "tokenizer")
    logger.info("tokenizer with %d entries", len(tokenizer))


def train(
    corpus: SampleSource,
    output: Path,
    preset: Preset,
    config: PretrainConfig,
    *,
    resume: bool = False,
    device: str = "cpu",
) -> None:
    """Train, save the checkpoint as ``output/checkpoint`` and the model folder under the preset's name beside it."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(output / "tokenizer")
    model = pretrain(corpus, tokenizer, output / "run", config, resume=resume, device=device)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    source = output / "checkpoint"
    model.bfloat16().save_pretrained(source)
    tokenizer.save_pretrained(source)
    (source / "recipe.json").write_text(json.dumps(asdict(config), indent=2) + "\n", encoding="utf-8")
    folder = output / preset.model_name
    grace_st.convert(
        source,
        folder,
        max_seq_length=preset.max_seq_length,
        max_new_tokens=preset.max_new_tokens,
        overwrite=True,
    )
    _say_what_it_is(folder, preset)
    logger.info("model folder %s", folder)


def _say_what_it_is(folder: Path, preset: Preset) -> None:
    readme = write_folder_card(folder, made_from="a checkpoint of python -m grace_train.nano")
    training = "From scratch, by `python -m grace_train.nano`, without reinforcement learning."
    text = with_block(readme.read_text(encoding="utf-8"), "notes", preset.notice)
    readme.write_text(with_block(text, "training", training), encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m grace_train.nano",
        description="Make a small model: tokenizer, training from scratch, evaluation.",
        epilog="example: python -m grace_train.nano --output build/nano",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for everything that is made")
    parser.add_argument("--stage", choices=STAGES, default="all", help="do one step only (default: all)")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT/run")
    parser.add_argument("--steps", type=int, help="optimiser steps (default: the preset's)")
    parser.add_argument(
        "--seed", type=int, default=PretrainConfig.seed, help="of weights and samples (default: %(default)s)"
    )
    parser.add_argument(
        "--no-vague", action="store_true", help="leave vague rationales out of the corpus: full and medium ones only"
    )
    parser.add_argument(
        "--preset",
        choices=sorted(PRESETS),
        default="nano",
        help="nano: the bundled model; nano-text: as small, on real text; micro: 30 M parameters, for a GPU",
    )
    parser.add_argument("--text", type=Path, metavar="DIR", help="folder with medquad, snips and wikitext2")
    parser.add_argument("--device", default="cpu", help="where to train and evaluate: cpu, cuda (default: %(default)s)")
    parser.add_argument(
        "--fp32", action="store_true", help="train in float32: faster on CPUs without bfloat16 units (AMX, AVX512-BF16)"
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    parser.add_argument("--knowledge", type=Path, help="folder of knowledge files (default: the package's own)")
    return parser


if __name__ == "__main__":
    main()
