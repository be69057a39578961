"""Commands that this package adds to ``grace-st``."""
