"""What can go wrong with the process that runs vLLM."""

from __future__ import annotations


class VllmError(RuntimeError):
    """vLLM did not do what it was asked for."""


class VllmStartError(VllmError, ValueError):
    """vLLM could not be started with this model and these options; a `ValueError`, since others may do."""


class VllmDiedError(VllmError):
    """The process that runs vLLM, or one of its workers, ended in the middle of a call."""


class VllmSilentError(VllmError):
    """vLLM has made no step for longer than it may."""


class VllmMismatchError(VllmError):
    """Vectors of this version of vLLM are not those of the model."""
