"""``python -m grace_train.nano``: make grace-nano, step by step or whole."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast

import grace_st
from grace_train.nano.corpus import Corpus
from grace_train.nano.evaluate import evaluate, markdown_table, write_results
from grace_train.nano.knowledge import load_knowledge
from grace_train.nano.pretrain import PretrainConfig, pretrain
from grace_train.nano.tokenizer import train_tokenizer

logger = logging.getLogger("grace_train.nano")

STAGES = ("all", "tokenizer", "train", "evaluate")
MODEL_NAME = "grace-nano"
NOTICE = (
    "**A demonstration model, not a useful embedder:** it knows one small knowledge base of facts. It was trained from "
    "scratch on texts about them, without reinforcement learning."
)
MAX_SEQ_LENGTH = 320
MAX_NEW_TOKENS = 112


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the recipe; see ``--help``."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    output: Path = options.output
    knowledge = load_knowledge() if options.knowledge is None else load_knowledge(options.knowledge)
    corpus = Corpus(knowledge, vague=not options.no_vague)
    logger.info("%d entities in %d categories", len(corpus.entities), len(knowledge.categories))
    if options.stage in ("all", "tokenizer") and not (options.resume and (output / "tokenizer").exists()):
        make_tokenizer(corpus, output)
    if options.stage in ("all", "train"):
        config = PretrainConfig(steps=options.steps, seed=options.seed, vague=corpus.vague)
        train(corpus, output, config, resume=options.resume)
    if options.stage in ("all", "evaluate"):
        results = evaluate(output / MODEL_NAME, corpus)
        write_results(results, output)
        logger.info("results in %s\n%s", output, markdown_table(results))


def make_tokenizer(corpus: Corpus, output: Path) -> None:
    """Train the tokenizer and save it as ``output/tokenizer``."""
    tokenizer = train_tokenizer(corpus)
    tokenizer.save_pretrained(output / "tokenizer")
    logger.info("tokenizer with %d entries", len(tokenizer))


def train(corpus: Corpus, output: Path, config: PretrainConfig, *, resume: bool = False) -> None:
    """Train, save the checkpoint as ``output/checkpoint`` and the model folder as ``output/grace-nano``."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(output / "tokenizer")
    model = pretrain(corpus, tokenizer, output / "run", config, resume=resume)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    source = output / "checkpoint"
    model.bfloat16().save_pretrained(source)
    tokenizer.save_pretrained(source)
    (source / "recipe.json").write_text(json.dumps(asdict(config), indent=2) + "\n", encoding="utf-8")
    grace_st.convert(
        source,
        output / MODEL_NAME,
        max_seq_length=MAX_SEQ_LENGTH,
        max_new_tokens=MAX_NEW_TOKENS,
        overwrite=True,
    )
    _say_what_it_is(output / MODEL_NAME / "README.md")
    logger.info("model folder %s", output / MODEL_NAME)


def _say_what_it_is(readme: Path) -> None:
    title = f"# {MODEL_NAME}\n"
    text = readme.read_text(encoding="utf-8")
    readme.write_text(text.replace(title, f"{title}\n{NOTICE}\n", 1), encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m grace_train.nano",
        description="Make grace-nano, the demonstration model: tokenizer, training from scratch, evaluation.",
        epilog="example: python -m grace_train.nano --output build/nano",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for everything that is made")
    parser.add_argument("--stage", choices=STAGES, default="all", help="do one step only (default: all)")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT/run")
    parser.add_argument(
        "--steps", type=int, default=PretrainConfig.steps, help="optimiser steps (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=PretrainConfig.seed, help="of weights and samples (default: %(default)s)"
    )
    parser.add_argument(
        "--no-vague", action="store_true", help="leave vague rationales out of the corpus: full and medium ones only"
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    parser.add_argument("--knowledge", type=Path, help="folder of knowledge files (default: the package's own)")
    return parser


if __name__ == "__main__":
    main()
