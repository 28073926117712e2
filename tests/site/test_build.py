"""The site is built without a warning, and works from its files alone."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import shared
from benchmarks.site import pages
from benchmarks.site.idioms import FRAMEWORKS, IDIOMS
from benchmarks.site.run_idioms import listing
from shared.cli.main import app
from tests.browser import CHROMIUM, Browser, browser

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("idiom", IDIOMS, ids=lambda idiom: idiom.name)
def test_a_page_of_an_idiom_has_its_files(idiom: object) -> None:
    text = pages.idiom_page(idiom)  # type: ignore[arg-type]
    plain = re.sub(r"<[^>]*>", "", text).replace("&lt;", "<").replace("&gt;", ">")
    plain = plain.replace("&amp;", "&")
    for framework in FRAMEWORKS:
        assert listing(idiom.name, framework) in plain  # type: ignore[attr-defined]
    assert "## Who was bitten\n* [" in text.replace("\n\n", "\n")


def test_a_new_page_is_listed() -> None:
    from benchmarks.site.build import DOCS, with_the_rest

    index = (DOCS / "index.md").read_text("utf-8")
    assert with_the_rest(index).count("checkpoints\n") == index.count("checkpoints\n")
    without = index.replace("\ncheckpoints\n", "\n")
    assert "More\n\ncheckpoints\n" in with_the_rest(without)


def test_every_command_is_there() -> None:
    text = pages.command_page("# The command")
    commands = [c.name or c.callback.__name__ for c in app.registered_commands if c.callback]
    assert [name for name in commands if f"## rosetta {name}\n" not in text] == []
    assert "`--framework` NAME | torch, keras or flax." in text


@pytest.mark.zoo
def test_every_public_name_is_there() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("keras")
    pytest.importorskip("flax.nnx")
    text = pages.python_page()
    for name in shared.__all__:
        kind = "class" if inspect.isclass(getattr(shared, name)) else "function"
        assert re.search(rf"^\.\. auto{kind}:: shared\.[\w.]+\.{name}$", text, re.MULTILINE), name


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sphinx")
    pytest.importorskip("furo")
    from benchmarks.site.build import build

    folder = tmp_path_factory.mktemp("site")
    assert build(folder) == 0  # every warning is an error
    return folder


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if not CHROMIUM:
        pytest.skip("no Chromium here")
    with browser(tmp_path_factory.mktemp("chromium")) as one:
        yield one


@pytest.mark.zoo
def test_links_between_pages_lead_somewhere(site: Path) -> None:
    """Sphinx tells of its own; these are of the HTML that is written as it stands."""
    for page in site.rglob("*.html"):
        for link in re.findall(r'(?:href|src)="([^"#?:]+)(?:[#?][^"]*)?"', page.read_text("utf-8")):
            assert (page.parent / link).exists(), (page, link)


@pytest.mark.zoo
@pytest.mark.parametrize("width", [390, 1300])
def test_pages_load_and_ask_for_nothing(chromium: Browser, site: Path, width: int) -> None:
    for page in ("index", "networks", "command", "python", "wall/README", "idioms/padding"):
        chromium.screen(width, 900)
        chromium.open((site / f"{page}.html").as_uri())
        assert chromium.complaints == []
        asked = [url for url in chromium.asked if not url.startswith(("file:", "data:"))]
        assert asked == []
        assert chromium.run("document.documentElement.scrollWidth") <= width


@pytest.mark.zoo
def test_search_works_from_files(chromium: Browser, site: Path) -> None:
    chromium.screen(1300, 900)
    chromium.open((site / "search.html").as_uri() + "?q=momentum")
    found = "[...document.querySelectorAll('#search-results li a')].map(a => a.textContent)"
    for _ in range(50):
        if titles := chromium.run(found):
            break
        chromium.run("new Promise(done => setTimeout(done, 100))")
    assert any("momentum" in title for title in titles)
    assert chromium.complaints == []


@pytest.mark.zoo
@pytest.mark.parametrize(("width", "columns"), [(1400, 3), (700, 1)])
def test_listings_of_an_idiom(chromium: Browser, site: Path, width: int, columns: int) -> None:
    chromium.screen(width, 900)
    chromium.open((site / "idioms" / "padding.html").as_uri())
    tops = "[...document.querySelectorAll('.column')].map(c => c.getBoundingClientRect().top)"
    rows = 1 if columns == 3 else 3
    assert len(set(chromium.run(tops))) == rows
