"""What can be wrong with a cluster, and with a worker."""

from __future__ import annotations


class MissingRayError(ImportError, ValueError):
    """Ray is not installed."""


class ClusterNotFoundError(ConnectionError):
    """There is no Ray cluster where one was named."""


class ClusterError(RuntimeError):
    """Ray cannot be started, or has given up."""


class WorkerError(RuntimeError):
    """A worker has failed in a way that nobody foresaw. Its cause is the traceback from there."""


class RemoteTracebackError(Exception):
    """A traceback of another process, as text."""
