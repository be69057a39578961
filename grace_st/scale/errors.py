"""What can be wrong with a cluster."""

from __future__ import annotations


class MissingRayError(ImportError, ValueError):
    """Ray is not installed."""


class ClusterError(RuntimeError):
    """Ray cannot be reached or started, or has given up."""
