"""The pages and the site: links lead somewhere, the navigation and the reference are complete.

The site itself is built by `make docs`, where every warning is an error.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import grace_st
import grace_st.explain
import grace_st.store
from grace_train.config_files import bundled_names
from tests.docs.pages import ROOT, name_of, pages

DOCS = ROOT / "docs"
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
REFERENCE = {
    path.stem: re.findall(r"^::: (\S+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for path in sorted((DOCS / "api").glob("*.md"))
}
DOCUMENTED = [name for names in REFERENCE.values() for name in names]


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_the_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def _named(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [name for part in (nav.values() if isinstance(nav, dict) else nav) for name in _named(part)]


def test_the_navigation_has_every_page() -> None:
    named = _named(SITE["nav"])
    assert len(named) == len(set(named))
    own = {name for name in named if not name.startswith("repository/")}
    assert own == {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    for name in set(named) - own:
        assert (ROOT / name.removeprefix("repository/")).is_file(), name


def test_a_reader_of_the_site_asks_no_other_server() -> None:
    assert SITE["theme"]["font"] is False
    for path in (DOCS / "images").glob("*.svg"):
        assert not re.search(r"(href|src|url)\W+http", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("name", DOCUMENTED)
def test_what_the_reference_describes_is_there(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    found = getattr(importlib.import_module(module), attribute)
    assert attribute.isupper() or (found.__doc__ or "").strip(), f"{name} has no docstring"


def test_the_reference_has_every_public_name() -> None:
    types = {"grace_st.explain.DocumentId", "grace_st.store.FORMAT_VERSION"}  # an alias and a number
    for module in (grace_st, grace_st.explain, grace_st.store):
        for name in module.__all__:
            found = {entry.rpartition(".")[2] for entry in DOCUMENTED}
            assert name in found or f"{module.__name__}.{name}" in types, f"{module.__name__}.{name}"


def test_the_page_about_training_names_what_there_is() -> None:
    page = (DOCS / "training.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([\w.-]+)` \| (?!.*`)", page, flags=re.MULTILINE)[0] == "nano"
    for name in bundled_names():
        assert f"| `{name}` |" in page
