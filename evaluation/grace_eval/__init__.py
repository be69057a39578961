"""Evaluation of GRACE models: MTEB runs, reports and leaderboard submission."""
