"""The store of rationales: what is kept comes back, and nothing wrong ever does."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import grace_st
import grace_st.module
from grace_st import RationaleStore
from grace_st.cli import main
from grace_st.engines.base import Sampling
from grace_st.fingerprint import folder_revision, weights_fingerprint
from grace_st.store import FORMAT_VERSION, StoreBusyError, StoredRollout, StoreError
from grace_st.store.generation import canonical_sampling
from tests import tiny
from tests.children import in_child
from tests.conftest import GraceFolder

SPACE = {"weights": "a", "sampling": {"max_new_tokens": 4}}
TEXTS = tiny.TEXTS


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def rollout(number: int, size: int = 8) -> StoredRollout:
    return StoredRollout((number, 1), None if number % 2 else 2, np.full(size, number / 3, dtype=np.float32))


def numbered(count: int, size: int = 8, first: int = 0) -> dict[bytes, StoredRollout]:
    return {key(number): rollout(number, size) for number in range(first, first + count)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rationales.sqlite"


# ---------------------------------------------------------------- the file


def test_what_is_kept_comes_back_in_another_process(path: Path) -> None:
    with RationaleStore(path) as store:
        store.put(SPACE, numbered(1200))
    found = RationaleStore(path).get(SPACE, [*map(key, range(1300)), key(0)])
    assert found.keys() == set(map(key, range(1200)))
    for number in (0, 1, 1199):
        got, expected = found[key(number)], rollout(number)
        assert (got.ids, got.stop_id) == (expected.ids, expected.stop_id)
        np.testing.assert_array_equal(got.vector, expected.vector)


@pytest.mark.parametrize(
    "other",
    [
        {**SPACE, "weights": "b"},
        {**SPACE, "sampling": {"max_new_tokens": 5}},
        {**SPACE, "pooling": "mean"},
    ],
)
def test_another_space_finds_nothing(path: Path, other: dict[str, Any]) -> None:
    store = RationaleStore(path)
    store.put(SPACE, numbered(3))
    assert store.get(other, [key(0)]) == {}
    store.put(other, {key(0): rollout(5)})
    assert store.get(SPACE, [key(0)])[key(0)].ids == (0, 1)
    assert store.get(other, [key(0)])[key(0)].ids == (5, 1)


_WRITER = """
import sys, numpy as np
from grace_st.store import RationaleStore, StoredRollout
path, first = sys.argv[1], int(sys.argv[2])
store = RationaleStore(path)
for n in range(first, first + 60):
    store.put(SPACE, {n.to_bytes(32, "big"): StoredRollout((n, 1), None, np.zeros(8, dtype=np.float32))})
"""


def test_several_processes_share_a_store(path: Path) -> None:
    code = _WRITER.replace("SPACE", repr(SPACE))
    # They overlap, and both make the file.
    workers = [subprocess.Popen([sys.executable, "-c", code, str(path), str(first)]) for first in (0, 40)]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    found = RationaleStore(path).get(SPACE, list(map(key, range(100))))
    assert {number: found[key(number)].ids for number in range(100)} == {n: (n, 1) for n in range(100)}


def test_it_goes_to_workers_as_its_path(path: Path) -> None:
    store = RationaleStore(path, max_bytes=10**7)
    store.put(SPACE, numbered(2))
    copy = pickle.loads(pickle.dumps(store))
    assert copy.max_bytes == 10**7 and len(copy.get(SPACE, [key(0), key(1)])) == 2


_COUNTER = """
import sys
from grace_st.store import RationaleStore
print(len(RationaleStore(sys.argv[1], read_only=True).get(SPACE, [n.to_bytes(32, "big") for n in range(100)])))
"""


def entries_on_disk(path: Path) -> int:
    """How many of the first hundred a process finds that has nothing to do with this one."""
    code = _COUNTER.replace("SPACE", repr(SPACE))
    return int(
        subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, check=True, timeout=60).stdout
    )


def test_a_fork_loses_nothing(path: Path) -> None:
    """SQLite takes the parent's locks for the child's: then closing the one removes the journal of the other."""
    store = RationaleStore(path)
    store.put(SPACE, numbered(1))
    child_wrote, parent_closed = os.pipe(), os.pipe()

    def work() -> None:
        store.put(SPACE, numbered(1, first=1))
        os.write(child_wrote[1], b"x")
        os.read(parent_closed[0], 1)
        store.put(SPACE, numbered(2, first=2))  # committed, and the process ends without closing

    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    os.read(child_wrote[0], 1)
    store.close()
    os.write(parent_closed[1], b"x")
    assert os.waitpid(child, 0)[1] == 0
    for descriptor in (*child_wrote, *parent_closed):
        os.close(descriptor)
    assert entries_on_disk(path) == 4
    store.put(SPACE, numbered(1, first=4))
    assert entries_on_disk(path) == 5


def test_what_is_written_goes_to_the_file_of_that_name(path: Path) -> None:
    """Not to one that was renamed, removed or replaced while it was open."""
    store = RationaleStore(path)
    store.put(SPACE, numbered(2))
    path.rename(path.with_name("moved.sqlite"))
    store.put(SPACE, numbered(3))
    assert store.info().entries == entries_on_disk(path) == 3
    path.unlink()
    store.put(SPACE, numbered(1))
    assert entries_on_disk(path) == 1


def together(*works: Callable[[], object]) -> None:
    """Do works at the same moment, each in a process of its own."""
    start = time.time() + 0.05

    def begin(work: Callable[[], object]) -> None:
        while time.time() < start:
            pass
        work()

    children = []
    for work in works:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                begin(work)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * len(works)


def writers(path: Path) -> list[Callable[[], object]]:
    return [lambda first=first: RationaleStore(path).put(SPACE, numbered(2, first=first)) for first in (0, 2, 4)]


def test_processes_make_a_store_together(tmp_path: Path) -> None:
    for number in range(5):
        path = tmp_path / f"{number}.sqlite"
        together(*writers(path))
        assert RationaleStore(path).info().entries == 6


def test_processes_open_a_damaged_store_together(tmp_path: Path) -> None:
    """One sets it aside, and no other the new one."""
    for number in range(5):
        path = tmp_path / f"{number}.sqlite"
        with RationaleStore(path) as store:
            store.put(SPACE, numbered(100, size=64))
        raw = bytearray(path.read_bytes())
        raw[4096:9000] = os.urandom(9000 - 4096)
        path.write_bytes(raw)
        together(*writers(path))
        assert RationaleStore(path).info().entries == 6 and len(damaged(path)) == 1


# ---------------------------------------------------------------- damage


def damaged(path: Path) -> list[Path]:
    found = path.parent.glob(f"{path.name}.damaged-*")
    return [one for one in found if not one.name.endswith(("-wal", "-shm"))]


@pytest.mark.parametrize("where", ["head", "middle", "cut"])
def test_a_damaged_store_is_set_aside(path: Path, where: str, caplog: pytest.LogCaptureFixture) -> None:
    with RationaleStore(path) as store:
        store.put(SPACE, numbered(500, size=64))
    raw = bytearray(path.read_bytes())
    if where == "head":
        raw[:64] = b"\xff" * 64
    elif where == "middle":
        for first in range(4096, len(raw), 4096):
            raw[first : first + 2000] = os.urandom(2000)
    else:
        del raw[len(raw) // 2 :]
    path.write_bytes(raw)
    with caplog.at_level(logging.WARNING):
        store = RationaleStore(path)
        assert store.get(SPACE, [key(1)]) == {}
    (aside,) = damaged(path)
    assert str(aside) in caplog.text
    assert aside.read_bytes()[:64] == bytes(raw[:64])
    store.put(SPACE, numbered(1))
    assert store.get(SPACE, [key(0)])[key(0)].ids == (0, 1)


def test_a_changed_entry_is_never_used(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Damage that leaves the file whole for SQLite: a vector with other numbers."""
    with RationaleStore(path) as store:
        store.put(SPACE, numbered(3))
    other = sqlite3.connect(path)
    other.execute("UPDATE entries SET vector = ? WHERE key = ?", (np.ones(8, "<f4").tobytes(), key(1)))
    other.commit()
    other.close()
    store = RationaleStore(path)
    assert store.get(SPACE, [key(1)]) == {}
    assert len(damaged(path)) == 1 and "was renamed" in caplog.text


def test_damage_is_an_error_where_only_reading_is_allowed(path: Path) -> None:
    with RationaleStore(path) as store:
        store.put(SPACE, numbered(500, size=64))
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(StoreError, match="damaged"):
        RationaleStore(path, read_only=True).get(SPACE, [key(499)])
    assert path.exists() and not damaged(path)


# ---------------------------------------------------------------- what cannot be used


def test_a_store_of_another_version_is_refused(path: Path) -> None:
    RationaleStore(path).close()
    other = sqlite3.connect(path)
    other.execute(f"PRAGMA user_version = {FORMAT_VERSION + 1}")
    other.close()
    with pytest.raises(StoreError, match=rf"format version {FORMAT_VERSION + 1}.*reads {FORMAT_VERSION}.*[Uu]pgrade"):
        RationaleStore(path)


def test_files_of_something_else_are_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "texts.jsonl"
    text.write_text('{"text": "a text, and no store"}\n')
    with pytest.raises(StoreError, match="not a store"):
        RationaleStore(text)
    database = tmp_path / "mine.sqlite"
    other = sqlite3.connect(database)
    other.execute("CREATE TABLE mine (x)")
    other.commit()
    other.close()
    before = database.read_bytes()
    with pytest.raises(StoreError, match="something else"):
        RationaleStore(database)
    assert database.read_bytes() == before
    broken = tmp_path / "broken.sqlite"
    broken.write_bytes(before[:4096] + os.urandom(len(before) - 4096))
    with pytest.raises(StoreError):
        RationaleStore(broken)  # damaged, and by its head it never was a store
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.sqlite", "mine.sqlite", "texts.jsonl"]


def test_a_missing_folder_and_a_wrong_limit(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        RationaleStore(tmp_path / "no" / "store.sqlite")
    with pytest.raises(FileNotFoundError, match="there is no store"):
        RationaleStore(tmp_path / "store.sqlite", read_only=True)
    with pytest.raises(ValueError, match="max_bytes"):
        RationaleStore(tmp_path / "store.sqlite", max_bytes=0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_file_is_an_error(path: Path) -> None:
    RationaleStore(path).close()
    path.chmod(0o444)
    with pytest.raises(PermissionError, match="may not be written"):
        RationaleStore(path)
    assert RationaleStore(path, read_only=True).info().entries == 0


def test_what_sqlite_says_about_the_disk_is_said_plainly(path: Path) -> None:
    """SQLite's own refusals: a file system that has turned read-only, and one that is full."""
    store = RationaleStore(path)
    store.put(SPACE, numbered(1))
    connection = store._file.connected()
    connection.execute("PRAGMA query_only = ON")
    with pytest.raises(PermissionError, match="may not be written"):
        store.put(SPACE, numbered(1, first=1))
    connection.execute("PRAGMA query_only = OFF")
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(OSError, match="no space is left for the store"):
        store.put(SPACE, numbered(2000, first=1))
    store.close()
    assert RationaleStore(path).get(SPACE, [key(0), key(1)]).keys() == {key(0)}  # nothing half-written


def test_reading_alone_writes_nothing(path: Path) -> None:
    with RationaleStore(path) as store:
        store.put(SPACE, numbered(2))
    before = path.read_bytes()
    with RationaleStore(path, read_only=True) as store:
        assert len(store.get(SPACE, [key(0), key(1)])) == 2
        assert len(list(store.export())) == 2
        for refused in (lambda: store.put(SPACE, numbered(1, first=7)), lambda: store.prune(older_than=0)):
            with pytest.raises(PermissionError, match="read only"):
                refused()
    assert path.read_bytes() == before
    # Locks for others who may write meanwhile: SQLite's, and empty.
    beside = {one.name: one.stat().st_size for one in path.parent.iterdir() if one != path}
    assert set(beside) <= {f"{path.name}-wal", f"{path.name}-shm"} and not beside.get(f"{path.name}-wal")


# ---------------------------------------------------------------- size


def test_old_entries_of_other_spaces_make_room(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    limit = 400_000
    store = RationaleStore(path, max_bytes=limit)
    old = {"weights": "old"}
    store.put(old, numbered(300, size=256))
    for first in range(0, 1000, 100):
        store.put(SPACE, numbered(100, size=256, first=first))
    kept = store.get(SPACE, list(map(key, range(1000))))
    assert len(store.get(old, list(map(key, range(300))))) < 10  # made room
    assert 200 <= len(kept) < 1000 and set(kept) >= set(map(key, range(200)))  # what was first stays
    assert len(kept) % 100  # of a batch the part that fits is kept
    assert caplog.text.count("reached its limit") == 1
    store.prune(max_bytes=limit)
    assert path.stat().st_size <= limit


def test_nothing_makes_room_for_what_does_not_fit(path: Path) -> None:
    store = RationaleStore(path, max_bytes=200_000)
    store.put({"weights": "old"}, numbered(50, size=256))
    store.put(SPACE, {key(0): rollout(0, size=100_000)})
    assert len(store.get({"weights": "old"}, list(map(key, range(50))))) == 50
    assert store.get(SPACE, [key(0)]) == {} and len(store.info().spaces) == 1


def test_prune(path: Path) -> None:
    store = RationaleStore(path)
    store.put(SPACE, numbered(200, size=256))
    before = store.info().bytes
    other = {"weights": "b"}
    store.put(other, numbered(5))
    (digest,) = [space.digest for space in store.info().spaces if space.settings == SPACE]
    with pytest.raises(ValueError, match="no space begins with 'zz'"):
        store.prune(spaces=["zz"])
    assert store.prune(spaces=[digest[:10]]) == 200
    assert [space.settings for space in store.info().spaces] == [other]
    assert store.info().bytes < before / 2
    assert store.prune(older_than=3600) == 0
    time.sleep(0.01)
    assert store.prune(older_than=0.001) == 5
    store.put(SPACE, numbered(1))  # the space that was pruned
    assert len(store.get(SPACE, [key(0)])) == 1


def test_prune_on_a_disk_without_room_for_a_copy(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 0

    store = RationaleStore(path)
    store.put(SPACE, numbered(300, size=1024))
    store.put({"weights": "b"}, numbered(5))
    before = path.stat().st_size + path.with_name(f"{path.name}-wal").stat().st_size
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage)
    statements: list[str] = []
    store._file.connected().set_trace_callback(statements.append)
    assert store.prune(max_bytes=100_000) > 200
    assert path.stat().st_size <= 100_000 < before and "VACUUM" not in statements
    assert len(list(store.export())) == store.info().entries > 0


def test_a_store_that_is_damaged_while_it_is_read_is_said_so(path: Path) -> None:
    with RationaleStore(path) as store:
        store.put(SPACE, numbered(2000, size=64))
    store = RationaleStore(path)
    store._file.connected().execute("PRAGMA shrink_memory")  # what was read at opening
    with path.open("r+b") as stream:
        stream.seek(4096 * 3)
        stream.write(os.urandom(path.stat().st_size - 4096 * 4))
    for work in (lambda: list(store.export()), lambda: store.prune(older_than=0)):
        with pytest.raises(StoreError, match="damaged"):
            work()


# ---------------------------------------------------------------- with a model


class Counting:
    """Counts the prompts that a model's engine generates for."""

    def __init__(self, model: grace_st.GraceModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.prompts: list[tuple[int, ...]] = []
        engine = model[0].engine
        generate = engine.generate

        def counted(prompts: Any, sampling: Sampling, **options: Any) -> Any:
            self.prompts += [prompt.ids for prompt in prompts]
            return generate(prompts, sampling, **options)

        monkeypatch.setattr(engine, "generate", counted)


def test_nothing_is_generated_twice(grace_folder: GraceFolder, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = grace_st.load(grace_folder("qwen2"), device="cpu")
    expected = model.encode(TEXTS)
    counting = Counting(model, monkeypatch)
    np.testing.assert_allclose(model.encode([*TEXTS[:4], TEXTS[0]], store=path), expected[[0, 1, 2, 3, 0]], atol=1e-6)
    assert len(counting.prompts) == 4
    encodings = model.encode_with_rationales(TEXTS, store=path)
    assert len(counting.prompts) == len(set(counting.prompts)) == len(TEXTS)
    again = model.encode_with_rationales(TEXTS, store=RationaleStore(path))
    assert len(counting.prompts) == len(TEXTS)
    for one, two, vector in zip(encodings, again, expected, strict=True):
        assert (one.rationale, one.rationale_ids, one.finished) == (two.rationale, two.rationale_ids, two.finished)
        np.testing.assert_array_equal(one.embedding, two.embedding)
        np.testing.assert_allclose(one.embedding, vector, atol=1e-6)


def test_progress_counts_every_text_once(grace_folder: GraceFolder, path: Path) -> None:
    model = grace_st.load(grace_folder("qwen2"), device="cpu")
    for _ in range(2):
        counted: list[int] = []
        model.encode_with_rationales([*TEXTS, *TEXTS[:3]], store=path, progress=counted.append)
        assert sum(counted) == len(TEXTS) + 3


@pytest.mark.parametrize(
    "options", [{"max_new_tokens": 3}, {"do_sample": True}, {"repetition_penalty": 1.3}, {"prompt": "About: "}]
)
def test_other_options_are_other_entries(
    grace_folder: GraceFolder, path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = grace_st.load(grace_folder("qwen2"), device="cpu")
    model.encode_with_rationales(TEXTS[:3], store=path)
    counting = Counting(model, monkeypatch)
    got = model.encode_with_rationales(TEXTS[:3], store=path, **options)
    assert len(counting.prompts) == 3
    for one, two in zip(got, model.encode_with_rationales(TEXTS[:3], **options), strict=True):
        np.testing.assert_allclose(one.embedding, two.embedding, atol=1e-6)


@pytest.mark.parametrize("write", ["in place", "data", "replaced"])
def test_changed_weights_are_another_model(
    grace_folder: GraceFolder, path: Path, write: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when a training step changes a loaded model, by whichever way."""
    model = grace_st.load(grace_folder("qwen2"), device="cpu")
    before = model.encode(TEXTS[:3], store=path)
    weight = model[0].model.model.layers[1].mlp.up_proj.weight
    fingerprint = weights_fingerprint(model[0].model)
    assert weights_fingerprint(model[0].model) == fingerprint
    with torch.no_grad():
        if write == "in place":
            weight.add_(0.1)
        elif write == "data":
            weight.data.mul_(1.5)
        else:
            model[0].model.model.layers[1].mlp.up_proj.weight = torch.nn.Parameter(weight + 0.1)
    assert weights_fingerprint(model[0].model) != fingerprint
    counting = Counting(model, monkeypatch)
    after = model.encode(TEXTS[:3], store=path)
    assert len(counting.prompts) == 3 and np.abs(after - before).max() > 1e-4


@pytest.mark.parametrize(
    ("one", "two", "is_same"),
    [
        ({"max_new_tokens": np.int64(3)}, {"max_new_tokens": 3}, True),
        ({"do_sample": True, "temperature": 1}, {"do_sample": True, "temperature": 1.0}, True),
        ({"seed": 3}, {}, True),  # greedy
        ({"max_new_tokens": 0, "do_sample": True}, {"max_new_tokens": 0}, True),
        ({"do_sample": True, "seed": 3}, {"do_sample": True}, False),
        ({"repetition_penalty": 1.3}, {}, False),
    ],
)
def test_a_space_is_what_rollouts_depend_on(one: dict[str, Any], two: dict[str, Any], is_same: bool) -> None:
    spaces = [canonical_sampling(Sampling(**{"max_new_tokens": 5, **options})) for options in (one, two)]
    assert (json.dumps(spaces[0]) == json.dumps(spaces[1])) is is_same


def test_what_computes_is_part_of_the_space(grace_folder: GraceFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    module = grace_st.load(grace_folder("qwen2"), device="cpu")[0]
    plain = module.fingerprint()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert module.fingerprint() != plain
    with module.engine.at_most(2):
        assert module.fingerprint() == plain  # in float32 neighbours change nothing that counts
    monkeypatch.setattr(torch, "__version__", "0.0")
    assert module.fingerprint() != plain
    monkeypatch.undo()
    module.model.to(torch.bfloat16)
    half = module.fingerprint()
    with module.engine.at_most(2):
        assert module.fingerprint() != half


def test_which_adapter_is_active_is_part_of_the_space(grace_folder: GraceFolder) -> None:
    peft = pytest.importorskip("peft")
    module = grace_st.load(grace_folder("qwen2"), device="cpu")[0]
    assert module.fingerprint()["adapters"] is None
    for name in ("one", "two"):
        module.model.add_adapter(peft.LoraConfig(r=2, target_modules=["q_proj"]), adapter_name=name)
    found = []
    for name in ("one", "two"):
        module.model.set_adapter(name)
        found.append(module.fingerprint())
    module.model.disable_adapters()
    found.append(module.fingerprint())
    assert len({json.dumps(one) for one in found}) == 3 and len({one["weights"] for one in found}) == 1


def test_weights_that_are_not_in_memory_are_an_error() -> None:
    with pytest.raises(ValueError, match="weights weight are not in memory"):
        weights_fingerprint(torch.nn.Linear(2, 2, bias=False, device="meta"))


def test_slots_are_limited_for_one_thread_alone(grace_folder: GraceFolder) -> None:
    engine = grace_st.load(grace_folder("qwen2"), device="cpu")[0].engine
    seen: list[int] = []
    with engine.at_most(1):
        other = threading.Thread(target=lambda: seen.append(engine.slots_for(10)))
        other.start()
        other.join()
        assert engine.slots_for(10) == 1
    assert seen == [engine.slots_for(10)] and seen[0] > 1


def test_a_store_that_is_only_read_is_refused_before_the_work(
    grace_folder: GraceFolder, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = grace_st.load(grace_folder("qwen2"), device="cpu")
    model.encode(TEXTS[:2], store=path)
    counting = Counting(model, monkeypatch)
    store = RationaleStore(path, read_only=True)
    assert len(model.encode(TEXTS[:2], store=store)) == 2  # all there
    with pytest.raises(PermissionError, match="read only"):
        model.encode(TEXTS, store=store)
    assert counting.prompts == []


def test_a_locked_store_costs_no_rationale(
    grace_folder: GraceFolder, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = grace_st.load(grace_folder("qwen2"), device="cpu")
    store = RationaleStore(path)

    def locked(*args: object) -> None:
        raise StoreBusyError("locked")

    monkeypatch.setattr(store, "put", locked)
    np.testing.assert_allclose(model.encode(TEXTS[:3], store=store), model.encode(TEXTS[:3]), atol=1e-6)
    assert "3 rationales are not kept: locked" in caplog.text


def test_the_stock_class_takes_a_store_too(grace_folder: GraceFolder, path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(grace_folder("qwen2")), trust_remote_code=True, device="cpu")
    np.testing.assert_allclose(model.encode(TEXTS, store=str(path), batch_size=4), model.encode(TEXTS), atol=1e-6)
    assert RationaleStore(path).info().entries == len(TEXTS)


def test_what_a_store_cannot_keep_is_refused(grace_folder: GraceFolder, path: Path) -> None:
    model = grace_st.load(grace_folder("qwen2"), device="cpu")
    with pytest.raises(ValueError, match="store must be a path or a RationaleStore"):
        model.encode(TEXTS[:1], store=3)
    with pytest.raises(ValueError, match="nothing for a store"):
        model.encode_with_rationales(TEXTS[:1], rationales=["x"], store=path)
    module = model[0]
    with pytest.raises(ValueError, match="num_samples=2 needs store=None"):
        sampling = Sampling(max_new_tokens=3, do_sample=True, num_samples=2)
        module.rollouts(module.prompts_of(TEXTS[:1]), sampling, store=path)


def test_a_killed_run_loses_at_most_the_batch_in_flight(
    grace_folder: GraceFolder, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "generated"
    model = grace_st.load(grace_folder("qwen2"), device="cpu")
    expected = model.encode(TEXTS)
    generate = model[0].engine.generate
    left = 0

    def counted(prompts: Any, sampling: Sampling, **options: Any) -> Any:
        nonlocal left
        with log.open("a") as stream:
            stream.writelines(f"{prompt.ids}\n" for prompt in prompts)
        rollouts = generate(prompts, sampling, **options)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)  # generated, and not yet kept
        left -= 1
        return rollouts

    monkeypatch.setattr(grace_st.module, "CPU_BATCH", 3)
    monkeypatch.setattr(model[0].engine, "generate", counted)

    def run(batches: int) -> int:
        """How a process ends that encodes all texts, and is killed after so many batches."""
        nonlocal left
        left = batches
        return in_child(lambda: model.encode_with_rationales(TEXTS, store=path))

    assert run(2) == -signal.SIGKILL
    assert RationaleStore(path).info().entries == 6
    assert len(log.read_text().splitlines()) == 9
    assert run(99) == 0
    generated = log.read_text().splitlines()
    assert len(generated) == 9 + 4  # ten texts, of which the three in flight were generated again
    assert len(set(generated)) == len(TEXTS)
    np.testing.assert_allclose(model.encode(TEXTS, store=path), expected, atol=1e-6)
    assert len(log.read_text().splitlines()) == 9 + 4


def test_two_folders_share_a_revision_only_with_the_same_content(grace_folder: GraceFolder) -> None:
    one = folder_revision(grace_folder("qwen2"))
    assert one == folder_revision(grace_folder("qwen2")) and len(one) == 40 and int(one, 16)
    assert (
        len({one, folder_revision(grace_folder("llama")), folder_revision(grace_folder("qwen2", pooling="last"))}) == 3
    )


# ---------------------------------------------------------------- the command


def test_the_command(tmp_path: Path, path: Path, capsys: pytest.CaptureFixture[str], grace_folder: GraceFolder) -> None:
    texts = tmp_path / "in.txt"
    texts.write_text("one text\nanother text\n")
    folder = str(grace_folder("qwen2"))
    for output in ("a.npy", "b.npy"):
        arguments = [str(texts), str(tmp_path / output), "--model", folder, "--store", str(path), "--quiet"]
        assert main(["encode", *arguments]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))
    capsys.readouterr()
    assert main(["store", "info", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "2 entries" in shown and "24 tokens, greedy" in shown
    assert main(["store", "info", str(path), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["entries"] == 2 and info["spaces"][0]["settings"]["pooling"] == "mean"
    assert main(["store", "export", str(path), "--model", folder]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 2 and len(lines[0]["embedding"]) == 32 and isinstance(lines[0]["rationale"], str)
    more = ["--model", folder, "--store", str(path), "--quiet", "--max-new-tokens", "2"]
    assert main(["encode", str(texts), str(tmp_path / "c.npy"), *more]) == 0
    assert main(["store", "export", str(path), "--model", folder]) == 2
    assert "the store has several spaces: add --space" in capsys.readouterr().err
    assert main(["store", "export", str(path), "--model", folder, "--space", info["spaces"][0]["digest"]]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(["store", "prune", str(path), "--older-than", "1d", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["removed"] == 0
    assert main(["store", "prune", str(path), "--space", info["spaces"][0]["digest"][:8]]) == 0
    assert capsys.readouterr().out.startswith("2 entries removed; 2 left")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["info", "missing.sqlite"], "there is no store"),
        (["prune", "STORE"], "say what goes"),
        (["info", "STORE", "--older-than", "0d"], "--older-than has no meaning with `store info`"),
        (["prune", "STORE", "--older-than", "1d", "--output", "x"], "--output has no meaning with `store prune`"),
        (["prune", "STORE", "--max-size", "-1"], "must be a number with a unit"),
        (["info", "STORE", "--older-than", "1d"], "--older-than has no meaning with `store info`"),
        (["prune", "STORE", "--older-than", "soon"], "must be a number with a unit"),
        (["export", "STORE", "--space", "zz"], "no space begins with 'zz'"),
        (["info", "TEXT"], "is not a store"),
    ],
)
def test_misuse_of_the_command(
    arguments: list[str], said: str, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    RationaleStore(path).close()
    text = tmp_path / "in.txt"
    text.write_text("a text\n")
    names = {"STORE": str(path), "TEXT": str(text)}
    assert main(["store", *(names.get(word, word) for word in arguments)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
