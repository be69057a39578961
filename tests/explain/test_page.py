"""The pages, in a real browser: they load nothing, nothing in a text acts, and mouse and keyboard show partners."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

import grace_st
from grace_st.explain import Explanation, RankingExplanation
from tests.browser import Browser, find

HOSTILE = (
    "</style><script>document.title = 'run'</script>"
    "<img src=https://example.org/x.png onerror=\"document.title='run'\">. "
    "<!-- ]]> & &amp; {{ 1 + 1 }} \x00 \x1b \u202e."
)
PLAIN = "France. Geographers place it in Western Europe, and the talk there is in French."


@pytest.fixture(scope="module")
def model() -> grace_st.GraceModel:
    return grace_st.load(grace_st.nano_path())


@pytest.fixture(scope="module")
def explanation(model: grace_st.GraceModel) -> Explanation:
    # Unlike texts, so that there are negative shares.
    return model.explain("Which metal has the symbol Fe? " + HOSTILE, PLAIN)


@pytest.fixture(scope="module")
def ranking(model: grace_st.GraceModel) -> RankingExplanation:
    documents = [HOSTILE, PLAIN, "Kenya is a land in East Africa.", ""]
    return model.explain_ranking("a country governed from Paris", documents, ids=["</script>", "f", "k", None])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = find()
    if executable is None:
        pytest.skip("no browser found: install chromium, or name one in the environment variable CHROMIUM")
    with Browser(executable, timeout=300) as browser:
        yield browser


@pytest.fixture(scope="module")
def pair_page(explanation: Explanation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write(explanation.to_html(), tmp_path_factory)


@pytest.fixture(scope="module")
def ranking_page(ranking: RankingExplanation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write(ranking.to_html(), tmp_path_factory)


def _write(page: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(page, encoding="utf-8")
    return path


def _shown(value: float) -> str:
    return f"{value:.3f}".replace("-0.000", "0.000").replace("-", "\N{MINUS SIGN}")


def _problems(browser: Browser) -> list[object]:
    """Errors, and requests beyond the page itself."""
    requests = [event for event in browser.events if event.get("method") == "Network.requestWillBeSent"]
    errors = ("Log.entryAdded", "Runtime.exceptionThrown")
    return requests[1:] + [event for event in browser.events if event.get("method") in errors]


class _Markup(HTMLParser):
    """The tags of a page, and the values of the attributes that load or run something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.acting: list[str | None] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.acting += [value for name, value in attrs if name in ("src", "href", "action") or name.startswith("on")]


@pytest.mark.parametrize("kind", ["pair", "ranking"])
def test_the_markup_is_the_page_s_own(explanation: Explanation, ranking: RankingExplanation, kind: str) -> None:
    page = explanation.to_html() if kind == "pair" else ranking.to_html()
    markup = _Markup(page)
    assert markup.tags.count("script") == markup.tags.count("style") == 1
    assert page.count("<script") == page.count("</script>") == page.count("</style>") == 1
    assert "img" not in markup.tags
    assert markup.acting == ([] if kind == "pair" else ["#doc-1", "#doc-2", "#doc-3", "#doc-4"])
    assert not re.search(r"url\(|@import", page)
    assert not set("\x00\x1b") & set(page)


def test_the_page_tells_the_numbers(explanation: Explanation) -> None:
    page = explanation.to_html()
    for share in (*explanation.shares_a, *explanation.shares_b, *explanation.contributions.ravel()):
        assert f">{_shown(share)}<" in page
    assert f">{_shown(explanation.cosine)}<" in page
    assert _shown(explanation.prompt_cosine) in page


def test_what_is_missing_is_said(model: grace_st.GraceModel) -> None:
    page = model.explain("", "Word after word. " * 90, max_new_tokens=0).to_html()
    assert "There are no rationales." in page
    assert "(empty)" in page
    assert "Not read, because the prompt was full" in page
    assert "(cut off at 2 tokens)" in model.explain("a", "b", max_new_tokens=2).to_html()
    assert "(given, not generated)" in model.explain("a", "b", rationales=("c", "d")).to_html()
    span = grace_st.load(grace_st.nano_path(), pooling_span="rationale")
    assert "(not pooled)" in span.explain("a", "b", max_new_tokens=2).to_html()
    assert "the only one" in model.explain_ranking("a", ["b"], max_new_tokens=2).to_html()


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("kind", ["pair", "ranking"])
def test_pages_load_nothing_run_nothing_and_fit(
    browser: Browser, pair_page: Path, ranking_page: Path, kind: str, dark: bool, width: int
) -> None:
    browser.open(pair_page if kind == "pair" else ranking_page, width=width, dark=dark)
    assert _problems(browser) == []
    assert browser.evaluate("document.title") != "run"
    assert browser.evaluate("document.images.length") == 0
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert HOSTILE.split(". ")[0] in browser.evaluate("document.body.textContent")
    background = [
        int(number)
        for number in re.findall(r"\d+", browser.evaluate("getComputedStyle(document.body).backgroundColor"))
    ]
    assert (sum(background) < 200) is dark


CONTRAST = """
(() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const over = ([r, g, b, a = 1], under) => [r, g, b].map((c, i) => c * a + under[i] * (1 - a));
  const light = (rgb) => rgb.map((c) => c / 255).map((c) => c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
  const page = parse(getComputedStyle(document.body).backgroundColor);
  let worst = 99;
  for (const element of document.querySelectorAll(".heat")) {
    const style = getComputedStyle(element);
    const a = light(over(parse(style.backgroundColor), page)), b = light(over(parse(style.color), page));
    worst = Math.min(worst, (Math.max(a, b) + .05) / (Math.min(a, b) + .05));
  }
  return worst;
})()
"""


@pytest.mark.parametrize("dark", [False, True])
def test_text_on_every_colour_can_be_read(browser: Browser, pair_page: Path, dark: bool) -> None:
    browser.open(pair_page, dark=dark)
    assert browser.evaluate("document.querySelectorAll('.heat.neg').length") > 0
    assert browser.evaluate(CONTRAST) >= 4.5  # WCAG 2.2, 1.4.3


def _values(browser: Browser, side: str) -> list[str]:
    values: list[str] = browser.evaluate(
        f"[...document.querySelectorAll('.side[data-side={side}] .value')].map((element) => element.textContent)"
    )
    return values


def test_the_mouse_shows_what_a_span_has_in_common(browser: Browser, pair_page: Path, explanation: Explanation) -> None:
    browser.open(pair_page)
    assert _values(browser, "b") == [_shown(share) for share in explanation.shares_b]
    browser.point_at(".side[data-side=a] .span[data-index='1']")
    assert _values(browser, "b") == [_shown(share) for share in explanation.contributions[1]]
    assert _values(browser, "a") == [_shown(share) for share in explanation.shares_a]
    assert browser.evaluate("document.querySelectorAll('.matrix .lit').length") == len(explanation.b.spans)
    browser.point_at("h1")
    assert _values(browser, "b") == [_shown(share) for share in explanation.shares_b]
    browser.evaluate("document.querySelector('.side[data-side=b] .span[data-index=\"2\"]').click()")
    assert _values(browser, "a") == [_shown(share) for share in explanation.contributions[:, 2]]
    assert "B3" in browser.evaluate("document.querySelector('.status').textContent")
    assert _problems(browser) == []


def test_the_keyboard_does_what_the_mouse_does(browser: Browser, pair_page: Path, explanation: Explanation) -> None:
    browser.open(pair_page)
    for _ in range(20):
        browser.press("Tab")
        if browser.evaluate("document.activeElement.matches('.side[data-side=a] .span')"):
            break
    assert _values(browser, "b") == [_shown(share) for share in explanation.contributions[0]]
    browser.press("Enter")
    assert browser.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
    browser.press("Escape")
    assert browser.evaluate("document.querySelectorAll('[aria-pressed=true]').length") == 0
    outline = browser.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"


def test_strength_takes_the_place_of_shares(browser: Browser, pair_page: Path, explanation: Explanation) -> None:
    browser.open(pair_page)
    browser.evaluate("document.querySelector('.mode input[value=strength]').click()")
    cells = browser.evaluate("[...document.querySelectorAll('.matrix td[data-a]')].map((td) => td.textContent)")
    assert cells == [_shown(value) for value in explanation.strengths.ravel()]
    total = browser.evaluate("document.querySelector('.matrix .cosine').textContent")
    assert total == _shown(explanation.cosine)
    weighted = explanation.shares_a * sum(explanation.a.tokens) / explanation.a.tokens
    assert _values(browser, "a") == [_shown(value) for value in weighted]


def test_the_ranking_opens_one_document_and_links_to_the_others(
    browser: Browser, ranking_page: Path, ranking: RankingExplanation
) -> None:
    browser.open(ranking_page)
    opened = "[...document.querySelectorAll('details')].map((element) => element.open)"
    assert browser.evaluate(opened) == [True, False, False, False]
    browser.evaluate("document.querySelector('.ranks a[href=\"#doc-3\"]').click()")
    browser.evaluate("new Promise((done) => setTimeout(done, 50))")
    assert browser.evaluate(opened) == [True, False, True, False]
    ids = browser.evaluate("[...document.querySelectorAll('.ranks a')].map((element) => element.textContent)")
    assert ids == [f"document {document.id}" for document in ranking.documents]
    # Each document's section is on its own.
    browser.evaluate("document.querySelector('#doc-3 .side[data-side=a] .span').click()")
    values = "[...document.querySelectorAll('#doc-%d .side[data-side=b] .value')].map((element) => element.textContent)"
    third, first = ranking.documents[2].explanation, ranking.documents[0].explanation
    assert browser.evaluate(values % 3) == [_shown(share) for share in third.contributions[0]]
    assert browser.evaluate(values % 1) == [_shown(share) for share in first.shares_b]
