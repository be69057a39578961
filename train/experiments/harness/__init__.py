"""What the experiments of this folder share: runs side by side that are made once, their spread, their tables."""
