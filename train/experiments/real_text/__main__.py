"""``python train/experiments/real_text``: see ``--help`` and README.md."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from real_text.cli import main

    sys.exit(main())
