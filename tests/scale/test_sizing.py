"""How many workers, and what each gets."""

from __future__ import annotations

import pytest

from grace_st.scale.sizing import Node, Sizes, sizes_for

GPUS = [Node(16, 4), Node(16, 4)]
CPUS = [Node(8, 0), Node(10, 0)]
HEAD = Node(0, 0)


@pytest.mark.parametrize(
    ("nodes", "workers", "gpus", "sizes"),
    [
        (GPUS, None, None, Sizes(8, 1, 1)),  # one for each GPU
        (GPUS, 3, None, Sizes(3, 1, 1)),
        (GPUS, None, 2.0, Sizes(4, 1, 2)),  # of two each
        (GPUS, None, 0.5, Sizes(16, 1, 0.5)),
        (GPUS, None, 0.0, Sizes(2, 16, 0)),  # none wanted
        (CPUS, None, None, Sizes(2, 8, 0)),  # one for each machine, with what the smallest has
        (CPUS, 3, None, Sizes(3, 4, 0)),
        (CPUS, 18, None, Sizes(18, 1, 0)),
        ([HEAD, *CPUS], None, None, Sizes(2, 8, 0)),
        ([Node(2, 0)], None, None, Sizes(1, 2, 0)),
    ],
)
def test_workers_fit(nodes: list[Node], workers: int | None, gpus: float | None, sizes: Sizes) -> None:
    assert sizes_for(nodes, workers, gpus) == sizes


@pytest.mark.parametrize(
    ("nodes", "workers", "gpus", "message"),
    [
        (CPUS, 19, None, "19 workers of 1 CPU do not fit the cluster, which has room for 18 of them: .*--workers$"),
        (GPUS, 9, None, "9 workers of 1 CPU and 1 GPU do not fit .* room for 8 of them: .*--gpus-per-worker"),
        (CPUS, None, 1.0, "1 workers of 1 CPU and 1 GPU do not fit .* room for 0"),
        ([HEAD], None, None, "room for 0"),
    ],
)
def test_what_does_not_fit_is_refused(nodes: list[Node], workers: int | None, gpus: float | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sizes_for(nodes, workers, gpus)
