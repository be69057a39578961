"""A folder of stores: what one worker finds of the others."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from grace_st.scale import stores
from grace_st.scale.stores import StoreFolder, open_folder
from grace_st.store import RationaleStore, StoredRollout, StoreError

SPACE = {"weights": "x"}
KEYS = [bytes([number]) * 32 for number in range(4)]


def entry(number: int) -> dict[bytes, StoredRollout]:
    return {KEYS[number]: StoredRollout((number,), None, np.full(3, number, np.float32))}


def found(store: RationaleStore) -> list[int]:
    return sorted(KEYS.index(key) for key in store.get(SPACE, KEYS))


def opened(monkeypatch: pytest.MonkeyPatch, folder: Path, machine: str, session: str) -> StoreFolder:
    monkeypatch.setattr(stores.socket, "gethostname", lambda: machine)
    return open_folder(folder, session)


def test_what_a_worker_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "stores"
    with RationaleStore(tmp_path / "plain.sqlite") as plain:
        plain.put(SPACE, entry(0))
    folder.mkdir()
    (tmp_path / "plain.sqlite").rename(folder / "plain.sqlite")
    first = opened(monkeypatch, folder, "a", "11111111")
    first.put(SPACE, entry(1))  # and still open
    assert found(opened(monkeypatch, folder, "a", "11111111")) == [0, 1]
    other = opened(monkeypatch, folder, "b", "11111111")
    assert found(other) == [0], "another machine may still be writing"
    assert found(opened(monkeypatch, folder, "b", "22222222")) == [0, 1]
    first.put(SPACE, entry(2))
    assert found(first) == [0, 1, 2]
    assert first.found == 3
    first.close()
    assert found(first) == [0, 1, 2], "it is opened again when it is used again"


def test_only_the_own_file_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(monkeypatch, tmp_path, "a", "11111111").put(SPACE, entry(1))
    second = opened(monkeypatch, tmp_path, "a", "11111111")
    second.put(SPACE, entry(2))
    second.close()
    with RationaleStore(second.path, read_only=True) as own:
        assert found(own) == [2]
    assert len(list(tmp_path.glob("*.sqlite"))) == 2


def test_a_file_that_is_about_to_be_made_holds_nothing_and_another_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "00000000@a@1-000000.sqlite").touch()
    with closing(sqlite3.connect(tmp_path / "11111111@a@1-abcdef.sqlite")) as connection:
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
    assert found(opened(monkeypatch, tmp_path, "a", "11111111")) == []
    with pytest.raises(StoreError, match="abcdef"):
        opened(monkeypatch, tmp_path, "a", "22222222")
