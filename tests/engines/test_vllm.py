"""The vLLM engine with the real vLLM, against this package's own engine on the same weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import grace_st
from grace_st.engines.base import Sampling
from grace_st.engines.torch_engine import TorchEngine
from grace_st.engines.vllm.engine import VllmEngine
from tests import tiny
from tests.engines import vllm_models as models
from tests.engines.vllm_models import GREEDY, LENGTHS, assert_consistent, assert_same, prompts


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_rollouts_are_those_of_the_torch_engine(architecture: str, tmp_path: Path) -> None:
    """One start of vLLM for greedy and sampled ones, since a start is what takes time."""
    folder = models.checkpoint(tmp_path, architecture)
    torch_engine = models.reference(folder)
    with models.in_one_process():
        engine = models.engine(folder)
        engine.start()
    _greedy(engine, torch_engine)
    _sampled(engine, torch_engine)
    engine.close()


def _greedy(engine: VllmEngine, torch_engine: TorchEngine) -> None:
    """More texts than slots, repeated ones, ends by EOS and by the budget."""
    work = prompts(*LENGTHS)
    work += [work[2], work[0]]
    counted: list[int] = []
    found = engine.generate(work, GREEDY, progress=counted.append)
    assert_same(found, torch_engine.generate(work, GREEDY))
    assert {rollout.finished for rollout in found} == {True, False}
    assert sum(counted) == len(work)
    for sampling in (
        Sampling(max_new_tokens=1),
        Sampling(max_new_tokens=12, repetition_penalty=1.4),
        Sampling(max_new_tokens=0),
    ):
        assert_same(engine.generate(work, sampling), torch_engine.generate(work, sampling))
    # Up to the last token of the context: one more is sampled, and never fed.
    full = prompts(models.CONTEXT - 3, models.CONTEXT - 9)
    assert_same(
        engine.generate(full, Sampling(max_new_tokens=3)), torch_engine.generate(full, Sampling(max_new_tokens=3))
    )
    given = [(21, 22, 23)[: place % 4] for place in range(len(work))]
    assert_same(engine.embed(work, given), torch_engine.embed(work, given))


def _sampled(engine: VllmEngine, torch_engine: TorchEngine) -> None:
    """They depend on nothing but their text."""
    work = prompts(*LENGTHS)
    sampling = Sampling(max_new_tokens=10, do_sample=True, temperature=0.8, top_p=0.95, num_samples=3, seed=5)
    found = engine.generate(work, sampling)
    assert_consistent(torch_engine, work, found, 3)
    ids = [rollout.ids for rollout in found]
    assert len(set(ids)) > len(ids) // 2
    assert [rollout.ids for rollout in engine.generate(work[::-1], sampling)][:3] == ids[-3:]
    assert [rollout.ids for rollout in engine.generate(work[4:5], sampling)] == ids[12:15]
    other = Sampling(max_new_tokens=10, do_sample=True, temperature=0.8, top_p=0.95, num_samples=3, seed=6)
    assert [rollout.ids for rollout in engine.generate(work[:2], other)] != ids[:6]


def test_a_model_folder(tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]) -> None:
    """`load`, and all texts at once: the third shape, from text to vector, with a store."""
    from grace_st.store import RationaleStore

    root = tmp_path_factory.mktemp("llama")
    folder = models.model_folder(root, "llama")
    own = grace_st.load(folder, device="cpu")
    with models.in_one_process():
        model = grace_st.load(folder, engine="vllm", engine_kwargs=models.OPTIONS)
    texts = [*tiny.TEXTS, tiny.TEXTS[0]]
    wanted = own.encode_with_rationales(texts, prompt="Find: ")
    found = model.encode_with_rationales(texts, prompt="Find: ", show_progress_bar=True, store=root / "kept.sqlite")
    assert [one.rationale for one in found] == [one.rationale for one in wanted]
    for one, two in zip(found, wanted, strict=True):
        assert (one.finished, one.rationale_ids) == (two.finished, two.rationale_ids)
        np.testing.assert_allclose(one.embedding, two.embedding, atol=1e-4)
    assert "11/11" in capsys.readouterr().err
    assert RationaleStore(root / "kept.sqlite").info().entries == len(tiny.TEXTS)
    given = model.encode_with_rationales(texts, prompt="Find: ", rationales=[one.rationale_ids for one in found])
    for one, two in zip(given, wanted, strict=True):
        np.testing.assert_allclose(one.embedding, two.embedding, atol=1e-4)
    np.testing.assert_allclose(model.encode(texts), own.encode(texts), atol=1e-4)
    model[0].engine.close()
