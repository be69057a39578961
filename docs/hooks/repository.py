"""mkdocs hook: links that leave ``docs/`` lead to pages made of the repository's own files.

The pages are written to be read on a code host as well, where ``../benchmarks/README.md`` is right. A site has only
what is below ``docs/``. So every file of the repository that a page links to becomes a page below ``repository/``:
Markdown as it is, anything else as a listing, a folder as its README or the list of its files. What those pages link to
follows in the same way.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

FOLDER = "repository"

_LINK = re.compile(r"(?:\[(?P<name>[\w./-]+\.md))?\]\((?P<target>[^)#\s:]+)(?P<anchor>#[^)\s]*)?\)")
_PICTURES = {".png", ".svg", ".jpg", ".jpeg", ".gif"}
_LANGUAGES = {".py": "python", ".json": "json", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file of the repository that the navigation or a page needs."""
    root, docs = _roots(config)
    waiting = [root / name.removeprefix(f"{FOLDER}/") for name in _names(config.nav) if name.startswith(f"{FOLDER}/")]
    for page in files.documentation_pages():
        waiting += _linked(docs / page.src_uri, root)
    while waiting:
        path = waiting.pop()
        uri = page_of(path, root, docs)
        if not path.exists() or uri in files.src_uris:
            continue
        if path.is_dir():
            inside = sorted(entry for entry in path.iterdir() if entry.is_file())
            files.append(File.generated(config, uri, content=_list(path, inside, root)))
            waiting += inside
        elif path.suffix == ".md":
            files.append(File.generated(config, uri, abs_src_path=str(path)))
            waiting += _linked(path, root)
        else:
            files.append(File.generated(config, uri, content=_listing(path, root)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the links of a page to the pages of the files that they name."""
    root, docs = _roots(config)
    source = _path_of(page.file.src_uri, root, docs)
    here = PurePosixPath(page.file.src_uri).parent

    def rewritten(link: re.Match[str]) -> str:
        target = _inside(source.parent / link["target"], root)
        if target is None:
            return link[0]
        # A page that is named by its file, as on a code host, is named by its title here.
        named = f"[{_title(target)}" if link["name"] else ""
        return f"{named}]({os.path.relpath(page_of(target, root, docs), here)}{link['anchor'] or ''})"

    return _LINK.sub(rewritten, markdown)


def page_of(path: Path, root: Path, docs: Path) -> str:
    """The place of a file among the site's sources: its own below ``docs/``, else below ``repository/``."""
    if path.is_relative_to(docs) and (path.suffix == ".md" or path.suffix in _PICTURES):
        return path.relative_to(docs).as_posix()
    uri = f"{FOLDER}/{path.relative_to(root).as_posix()}"
    if path.is_dir():
        return f"{uri}/index.md"
    return uri if path.suffix == ".md" else f"{uri}.md"


def _path_of(uri: str, root: Path, docs: Path) -> Path:
    return root / uri.removeprefix(f"{FOLDER}/") if uri.startswith(f"{FOLDER}/") else docs / uri


def _linked(path: Path, root: Path) -> Iterator[Path]:
    for link in _LINK.finditer(path.read_text(encoding="utf-8")):
        target = _inside(path.parent / link["target"], root)
        if target is not None:
            yield target


def _inside(path: Path, root: Path) -> Path | None:
    """The file or folder that a link names; None where there is none, which is for mkdocs to complain about."""
    path = Path(os.path.normpath(path))
    if (path / "README.md").is_file():
        path = path / "README.md"
    return path if path.is_relative_to(root) and path.exists() else None


def _title(path: Path) -> str:
    return path.read_text(encoding="utf-8").partition("# ")[2].partition("\n")[0]


def _list(path: Path, inside: list[Path], root: Path) -> str:
    entries = "\n".join(f"- [{entry.name.removesuffix('.md')}]({entry.name})" for entry in inside)
    return f"# {path.relative_to(root).as_posix()}\n\n{entries}\n"


def _listing(path: Path, root: Path) -> str:
    name, language = path.relative_to(root).as_posix(), _LANGUAGES.get(path.suffix, "text")
    text = path.read_text(encoding="utf-8").rstrip()
    return f"---\nsearch:\n  exclude: true\n---\n\n# {name}\n\n````{language}\n{text}\n````\n"


def _roots(config: MkDocsConfig) -> tuple[Path, Path]:
    docs = Path(config.docs_dir)
    return docs.parent, docs


def _names(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, dict):
        for value in nav.values():
            yield from _names(value)
    elif nav is not None:
        for value in nav:
            yield from _names(value)
