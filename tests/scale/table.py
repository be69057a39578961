"""The table of docs/scale.md, from the committed measurement."""

from __future__ import annotations

from pathlib import Path

from grace_st.cli.plan_view import bytes_shown, shown
from grace_st.scale import DEFAULT_SHARD_ROWS
from grace_st.scale.costs import Corpus, costs_of
from grace_st.scale.throughput import read_throughput

ROOT = Path(__file__).parents[2]


def rows() -> list[str]:
    """Its lines."""
    measured, _ = read_throughput(ROOT / "benchmarks" / "results" / "encode_cpu.json")
    lines = []
    for power in range(6, 11):
        corpus = Corpus(
            texts=10**power,
            text_tokens=measured.text_tokens,
            rationale_tokens=measured.rationale_tokens,
            dimensions=768,
        )
        costs = costs_of(corpus, measured, shard_rows=DEFAULT_SHARD_ROWS)
        cells = [
            f"10^{power}",
            shown(costs.text_tokens),
            shown(costs.rationale_tokens),
            shown(costs.worker_hours.low),
            *map(bytes_shown, (costs.vector_bytes, costs.output_bytes, costs.store_bytes, costs.hnsw_index_bytes)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
