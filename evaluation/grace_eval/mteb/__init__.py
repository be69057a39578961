"""MTEB: tasks, data, runs, reports and submission. Needs ``pip install "grace-st[mteb]"``."""
