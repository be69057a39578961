"""Evaluation of GRACE models: MTEB, leaderboard submission, and the paper's tables and figures.

Being built: the package holds no code yet.
"""
