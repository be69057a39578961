"""Commands of ``grace-st`` that belong to training."""
