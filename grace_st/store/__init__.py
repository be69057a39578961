"""RationaleStore: what was generated once is not generated again.

One SQLite file, which several processes may use at once. An entry is found by what its vector depends on: a *space*
holds all that a whole call has in common (weights, dtype, engine, sampling, ...), a *key* is the hash of one prompt.
Knows neither models nor texts.
"""

from grace_st.store.errors import (
    StoreBusyError,
    StoreError,
    StoreFileError,
    StoreNotFoundError,
    StoreNotWritableError,
)
from grace_st.store.records import ExportedEntry, SpaceInfo, StoredRollout, StoreInfo, space_digest
from grace_st.store.sqlite import FORMAT_VERSION
from grace_st.store.store import RationaleStore

__all__ = [
    "FORMAT_VERSION",
    "ExportedEntry",
    "RationaleStore",
    "SpaceInfo",
    "StoreBusyError",
    "StoreError",
    "StoreFileError",
    "StoreInfo",
    "StoreNotFoundError",
    "StoreNotWritableError",
    "StoredRollout",
    "space_digest",
]
