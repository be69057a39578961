"""RayCluster: carries the work of a job to other processes through Ray Data."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from grace_st.scale.errors import ClusterError
from grace_st.scale.ray_start import import_ray, start_ray
from grace_st.scale.sizing import Node, Sizes, sizes_for
from grace_st.scale.worker import ShardJob, ShardWorker

_ITEM, _REPORT = "item", "report"
_MOST_BLOCKS = 1000  # of tasks that take a moment each


class _RayWorker:
    """A `ShardWorker` in an actor of Ray Data."""

    def __init__(self, job: ShardJob) -> None:
        self._worker = ShardWorker(job)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {_REPORT: [self._worker.report(str(item)) for item in batch[_ITEM]]}


class RayCluster:
    """Ray, from `start` to the end of the block.

    Args:
        address: See `grace_st.scale.ray_start.start_ray`.
        workers: How many encode at once, see `grace_st.scale.sizing.sizes_for`.
        gpus: GPUs of each.

    Attributes:
        sizes: What was settled, once workers have been asked for.
    """

    def __init__(self, *, address: str | None = None, workers: int | None = None, gpus: float | None = None) -> None:
        self._address = address
        self._workers = workers
        self._gpus = gpus
        self._is_ours = False
        self.sizes: Sizes | None = None

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(self, *error: object) -> None:
        if self._is_ours:
            import_ray().shutdown()
            self._is_ours = False

    def start(self) -> RayCluster:
        """Connect, unless this process is connected.

        Raises:
            MissingRayError: Ray is not installed.
            ClusterNotFoundError: It cannot be reached.
            ClusterError: It cannot be started.
            ValueError: The workers do not fit.
        """
        ray = import_ray()
        if not ray.is_initialized():
            start_ray(self._address)
            self._is_ours = True
        nodes = [
            Node(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
            for node in ray.nodes()
            if node["Alive"]
        ]
        self.sizes = sizes_for(nodes, self._workers, self._gpus)
        ray.data.DataContext.get_current().enable_progress_bars = False
        return self

    def map(self, function: Callable[[str], str], items: Sequence[str]) -> Iterator[str]:
        """The function's results, in any order.

        Raises:
            ClusterError: Ray Data has given up.
        """

        def report(row: dict[str, Any]) -> dict[str, Any]:
            return {_REPORT: function(str(row[_ITEM]))}

        return self._reports(_dataset(items, min(len(items), _MOST_BLOCKS)).map(report, num_cpus=1))

    def map_workers(self, job: ShardJob, items: Sequence[str]) -> Iterator[str]:
        """Reports of workers, in any order. Those that die are replaced, and what they were at is done again.

        Raises:
            ClusterError: Ray Data has given up.
        """
        assert self.sizes is not None, "start() comes first"
        sizes = self.sizes
        # One shard at a time: one that waits in the queue of a busy worker would keep an idle one from it.
        pool = import_ray().data.ActorPoolStrategy(size=min(sizes.workers, len(items)), max_tasks_in_flight_per_actor=1)
        made = _dataset(items, len(items)).map_batches(
            _RayWorker,
            fn_constructor_args=(job,),
            batch_size=1,
            compute=pool,
            num_cpus=sizes.cpus,
            num_gpus=sizes.gpus or None,
        )
        return self._reports(made)

    def _reports(self, dataset: Any) -> Iterator[str]:
        with _plain_errors():
            for row in dataset.iter_rows():
                yield str(row[_REPORT])


def _dataset(items: Sequence[str], blocks: int) -> Any:
    data = import_ray().data.from_items([{_ITEM: item} for item in items], override_num_blocks=blocks)
    # Its news go to Ray's log files; errors come to us as exceptions.
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.CRITICAL + 1)
    return data


@contextmanager
def _plain_errors() -> Iterator[None]:
    from ray.exceptions import RayError, RayTaskError

    try:
        yield
    except RayError as error:
        cause = error.cause if isinstance(error, RayTaskError) else error
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()] or [""]
        said = f"{type(cause).__name__}: {lines[0]}"
        raise ClusterError(f"Ray Data has given up: {said} (the logs of Ray tell more)") from error
