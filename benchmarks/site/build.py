"""Puts the pages together and has Sphinx make the site of them; a broken link ends it."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from benchmarks.site import measure, pages, side_by_side
from benchmarks.site.idioms import IDIOMS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def build(output: Path) -> int:
    """The site in `output`; Sphinx' exit status."""
    from sphinx.cmd.build import build_main

    with tempfile.TemporaryDirectory(prefix="rosetta-site-") as folder:
        source = Path(folder) / "source"
        stage(source)
        doctrees = str(Path(folder) / "doctrees")
        return build_main(
            ["-q", "-W", "--keep-going", "-b", "html", "-d", doctrees, str(source), str(output)]
        )


def stage(source: Path) -> None:
    """Everything that Sphinx reads."""
    shutil.copytree(Path(__file__).parent / "sphinx", source)
    for path in DOCS.rglob("*.md"):
        _write(source / path.relative_to(DOCS), path.read_text("utf-8"))
    _write(source / "index.md", with_the_rest((DOCS / "index.md").read_text("utf-8")))
    shutil.copytree(DOCS / "pictures", source / "pictures")
    for idiom in IDIOMS:
        _write(source / "idioms" / f"{idiom.name}.md", pages.idiom_page(idiom))
    _write(source / "idioms" / "index.md", pages.idioms_page())
    measured = measure.load()
    _write(source / "networks.md", pages.networks_page(measured))
    _write(source / "command.md", pages.command_page((DOCS / "command.md").read_text("utf-8")))
    _write(source / "python.rst", pages.python_page())
    _write(source / "extra" / "side-by-side.html", side_by_side.page(measured))


def with_the_rest(index: str) -> str:
    """The first page, which lists the pages in order, and behind them those that it does not."""
    listed = set(re.findall(r"^(?:.* <)?([\w/-]+)>?$", index, re.MULTILINE))
    pages = sorted(str(p.relative_to(DOCS).with_suffix("")) for p in DOCS.rglob("*.md"))
    rest = [page for page in pages if page not in listed | {"index"}]
    head = "```{toctree}\n:hidden:\n:caption: More\n\n"
    return index + (f"\n{head}" + "\n".join(rest) + "\n```\n" if rest else "")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
