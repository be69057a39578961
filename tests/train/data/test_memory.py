"""Memory does not grow with the data: measured in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")


def _measured(rows: int, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.train.data.memory", str(rows), str(folder), "600"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    found: dict[str, float] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_ten_times_the_rows_take_no_more_memory(tmp_path: Path) -> None:
    small, large = _measured(20_000, tmp_path), _measured(200_000, tmp_path)
    assert large["file"] > 250
    # Keys and order take some 30 bytes a row; the texts themselves take nothing, mapped pages included.
    for name in ("growth", "growth_with_mapped_files"):
        assert large[name] - small[name] < 60, name
