"""What can be wrong with a store."""

from __future__ import annotations


class StoreError(ValueError):
    """A file that cannot be used as a store as it is."""


class StoreFileError(OSError):
    """The disk, the file system or another process keeps a store from being used."""


class StoreBusyError(StoreFileError):
    """Another process keeps a store locked."""


class StoreNotWritableError(StoreFileError, PermissionError):
    """A store may not be written."""


class StoreNotFoundError(StoreFileError, FileNotFoundError):
    """A store, or the folder for it, is not there."""


class DamagedError(Exception):
    """What was read is not what was written."""
