"""A GRACE model on the hub is trained as what it is, and not as the causal LM in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import grace_st

ROOT = Path(__file__).parents[3]
CONFIG = "grace_config.json"


def test_a_grace_model_of_the_hub_keeps_its_own_settings(tmp_path: Path) -> None:
    """From the cache, as it is after a download; the hub itself cannot be asked."""
    cached = tmp_path / "cache" / "models--org--grace"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    snapshot = Path(shutil.copytree(grace_st.nano_path(), cached / "snapshots" / ("0" * 40)))
    config = json.loads((snapshot / CONFIG).read_text(encoding="utf-8"))
    (snapshot / CONFIG).write_text(json.dumps({**config, "max_seq_length": 123}), encoding="utf-8")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*(str(ROOT / part) for part in ("", "train", "evaluation")), *sys.path]),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
    }
    changes = ["model=org/grace", "output=trained", "steps=1", "batch_size=2", "rollout.group_size=2"]
    changes += ["prompt.max_new_tokens=4", "eval.dev=null", "eval.test=null", "log.sample_texts=0", "log.curves=false"]
    done = subprocess.run(
        [sys.executable, "-m", "grace_st", "train", "nano", *changes],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    trained = json.loads((tmp_path / "trained" / CONFIG).read_text(encoding="utf-8"))
    assert trained == {**config, "max_seq_length": 123, "max_new_tokens": 4}
