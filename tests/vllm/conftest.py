from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from grace_st.engines.vllm.engine import VllmEngine
from grace_st.engines.vllm.options import VllmOptions
from tests.vllm import fake_host

MakeEngine = Callable[..., VllmEngine]


@pytest.fixture
def make(fake_vllm: Callable[[str], None], tmp_path: Path) -> Iterator[MakeEngine]:
    """``make("die=7", two_pass=True)``: an engine over the fake, not yet started."""
    made: list[VllmEngine] = []

    def get(behaviour: str = "", *, pooling: Any = "mean", **options: Any) -> VllmEngine:
        fake_vllm(behaviour)
        made.append(
            VllmEngine(
                tmp_path,
                eos_token_ids=[3, 4],
                vocabulary_size=fake_host.TOKENS,
                context_length=100,
                longest=60,
                pooling=pooling,
                options=VllmOptions.of(options),
            )
        )
        return made[-1]

    yield get
    for engine in made:
        engine.close()
