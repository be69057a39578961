"""What vLLM does to a text must not show: pieces, texts that are put off, rejected tokens, several workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from grace_st.engines.base import Sampling
from grace_st.engines.vllm.engine import VllmEngine
from tests.engines import vllm_models as models
from tests.engines.vllm_models import GREEDY, LENGTHS, assert_consistent, assert_same, prompts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.checkpoint(tmp_path_factory.mktemp("plain"), "qwen2")


def test_prompts_in_pieces_and_texts_that_are_put_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five blocks of 128 tokens for eight texts of two: some lose theirs, and are computed again."""
    plain = VllmEngine._arguments

    def few_blocks(engine: VllmEngine) -> dict[str, Any]:
        return {**plain(engine), "num_gpu_blocks_override": 6}

    monkeypatch.setattr(VllmEngine, "_arguments", few_blocks)
    options = {"enable_chunked_prefill": True, "max_num_batched_tokens": 64, "max_model_len": 200}
    with models.in_one_process():
        engine = models.engine(folder, pooling="max", **options)
        engine.start()
    work = prompts(120, 118, 121, 117, 119, 122, 116, 123, 30, 180)
    sampling = Sampling(max_new_tokens=20)
    assert_same(engine.generate(work, sampling), models.reference(folder, "max").generate(work, sampling))
    with pytest.raises(ValueError, match=r"cannot sample with seeds .* enable_chunked_prefill=true"):
        engine.generate(work, Sampling(max_new_tokens=3, do_sample=True))
    engine.close()


def test_two_passes_with_speculative_decoding(folder: Path) -> None:
    speculative = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3}
    with models.in_one_process():
        engine = models.engine(folder, two_pass=True, speculative_config=speculative, pooling="last")
        engine.start()
    work = prompts(*LENGTHS)
    work += [work[2], work[0]]
    torch_engine = models.reference(folder, "last")
    sampling = Sampling(max_new_tokens=GREEDY.max_new_tokens)
    assert_same(engine.generate(work, sampling), torch_engine.generate(work, sampling))
    assert "two_pass" in repr(engine)
    given = [(21, 22, 23)[: place % 4] for place in range(len(work))]
    assert_same(engine.embed(work, given), torch_engine.embed(work, given))
    engine.close()


def test_two_workers_that_share_the_weights(folder: Path) -> None:
    """And vLLM's engine in a process of its own, as it is by default."""
    engine = models.engine(folder, tensor_parallel_size=2)
    engine.start()
    work = prompts(*LENGTHS)
    torch_engine = models.reference(folder)
    assert_same(engine.generate(work, GREEDY), torch_engine.generate(work, GREEDY))
    sampling = Sampling(max_new_tokens=10, do_sample=True, num_samples=2)
    assert_consistent(torch_engine, work, engine.generate(work, sampling), 2)
    group = engine._session.process.pid if engine._session.process else 0
    assert len(models.processes(group)) >= 3
    engine.close()
    models.wait_until_gone(group)
