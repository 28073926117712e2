"""The page of networks side by side: its numbers, and what it does in a browser."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.site import facts, measure, side_by_side
from benchmarks.site.networks import NETWORKS, TITLES, units_of
from shared import get_spec, make_plan
from tests.browser import CHROMIUM, Browser, browser

PRESETS = [shown.preset for shown in NETWORKS]
SIDES = ("torch", "keras:tensorflow", "flax", "reference")
PAIRS = [f"{a} {b}" for a, b in itertools.combinations(SIDES, 2)]


def made() -> dict[str, Any]:
    """As if measured: the k-th part's errors are k e-16."""
    networks = {}
    for preset in PRESETS:
        units = {
            unit: {
                check: {"limit": 1e-12, "pairs": dict.fromkeys(PAIRS, k * 1e-16), "worst": [0, "x"]}
                for check in facts.CHECKS
            }
            for k, unit in enumerate([*TITLES, "all"], 1)
        }
        networks[preset] = {"image_size": [64, 64], "tensors": 1234, "units": units}
    return {"versions": {"<numpy>": "2"}, "networks": networks}


def test_what_was_measured_is_of_every_part() -> None:
    """Else: `python -m benchmarks.site --measure`."""
    known = measure.load()
    assert sorted(known["networks"]) == sorted(PRESETS)
    for preset, found in known["networks"].items():
        plan = make_plan(get_spec(preset))
        parts = {unit for row in plan.layers for unit in units_of(row.name)}
        for unit in parts | {"all"}:
            errors = facts.errors(found, unit)
            assert {"evaluation", "training mode"} <= {error.check for error in errors}
            assert all(0 <= error.worst <= (error.limit or 0) for error in errors)
            assert all(set(error.pairs) <= set(PAIRS) for error in errors)


def test_parameters_of_parts_are_the_networks() -> None:
    for preset in PRESETS:
        plan = make_plan(get_spec(preset))
        for parts in (("stem", "block", "head"), ("stem", "shortcut", *BLOCK, "head"), KINDS):
            params = sum(s.params for part in parts for s in facts.shapes(plan, part))
            if parts is KINDS:
                params += sum(row.params for row in plan.layers if row.op == "linear")
            assert params == plan.params


BLOCK = ("block.1", "block.2", "block.3", "add")
KINDS = ("conv", "norm")


def test_shapes() -> None:
    plan = make_plan(get_spec("resnet50"))
    second = facts.shapes(plan, "block.2")[1]
    assert second == (
        "stage 1, 4 blocks",
        "conv 3x3, 128 -> 128, stride 2",
        "28 x 28 x 128",
        590848,
    )
    assert [s.where for s in facts.shapes(plan, "stem")] == [
        "stem.conv1",
        "stem.norm1",
        "stem.pool",
    ]


@pytest.fixture(scope="module")
def text() -> str:
    return side_by_side.page(made())


def test_the_page_says_no_more_than_it_knows(text: str) -> None:
    assert "&lt;numpy&gt; 2" in text
    assert "<numpy>" not in text
    assert not re.search(r'(?:src|href)="(?!#|index\.html|idioms/)', text)
    with pytest.raises(KeyError):
        side_by_side.page({"versions": {}, "networks": {}})


needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")


@pytest.fixture(scope="module")
def page(text: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("site") / "side-by-side.html"
    path.write_text(text, encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("chromium")) as one:
        yield one


LIT = "[...document.querySelectorAll('#n{n} .l.lit')].map(e => e.textContent.trim())"
COLUMNS = (
    "['torch','keras','flax'].map(f => document.querySelectorAll(`#n{n} .${{f}} .lit`).length)"
)
DOCK = "document.getElementById('dock').hidden ? '' : document.getElementById('dock').innerText"
TOPS = """[...document.querySelectorAll('#n0 .cells')].map(
cells => [...cells.children].map(cell => cell.getBoundingClientRect().top))"""
VISIBLE = "[...document.querySelectorAll('.net')].filter(e => e.offsetParent).map(e => e.id)"
WIDE = "document.documentElement.scrollWidth"
BACK = "getComputedStyle(document.body).backgroundColor"
NEW = """[...document.querySelectorAll('#n1 .l')].filter(
e => getComputedStyle(e).boxShadow !== 'none').map(e => e.textContent.trim())"""


def centre(chromium: Browser, selector: str) -> tuple[float, float]:
    """Of an element, which is brought onto the screen."""
    x, y = chromium.run(
        f"""(() => {{ const e = document.querySelector({selector!r});
        e.scrollIntoView({{block: "center"}}); const r = e.getBoundingClientRect();
        return [r.left + Math.min(60, r.width / 2), r.top + r.height / 2]; }})()"""
    )
    return x, y


@needs_chromium
def test_it_loads_and_asks_for_nothing(chromium: Browser, page: str) -> None:
    chromium.screen(1400, 900)
    chromium.open(page)
    assert chromium.complaints == []
    assert chromium.asked == [page]
    assert chromium.run(VISIBLE) == ["n0"]
    assert chromium.run(WIDE) <= 1400


@pytest.mark.zoo
@needs_chromium
def test_columns_scroll_together(chromium: Browser, page: str) -> None:
    chromium.screen(1400, 900)
    chromium.open(page)
    before = chromium.run(TOPS)
    chromium.run("scrollTo(0, 700)")
    after = chromium.run(TOPS)
    for old, new in zip(before, after, strict=True):
        assert len(set(old)) == len(set(new)) == 1
    assert after[-1][0] == pytest.approx(before[-1][0] - 700, abs=1)


@needs_chromium
def test_a_part_lights_up_in_every_column(chromium: Browser, page: str) -> None:
    chromium.screen(1400, 900)
    chromium.open(page)
    line = "#n0 .cell.torch .l[data-u='block.2']"
    chromium.mouse(*centre(chromium, line))
    lit = chromium.run(LIT.format(n=0))
    assert all(chromium.run(COLUMNS.format(n=0)))
    assert any("ZeroPadding2D(1)" in text for text in lit)
    assert any("nnx.Conv(width, width, (3, 3)" in text for text in lit)
    assert "28 x 28 x 128" in chromium.run(DOCK)
    assert "590,848" in chromium.run(DOCK)
    assert f"{1 + [*TITLES].index('block.2')}.0e-16" in chromium.run(DOCK)
    chromium.mouse(*centre(chromium, line), click=True)
    chromium.mouse(*centre(chromium, "#n0 .cell.keras .l[data-u='block.1']"))
    assert chromium.run(LIT.format(n=0)) == lit  # it is held
    assert chromium.run("location.hash") == "#torchvision/resnet50:block.2"
    chromium.key("Escape")
    assert chromium.run(DOCK) == ""


@pytest.mark.zoo
@needs_chromium
def test_by_keyboard(chromium: Browser, page: str) -> None:
    chromium.screen(1400, 900)
    chromium.open(page + "#torchvision/resnet50:block.1")
    chromium.key("n")
    assert "Second convolution" in chromium.run(DOCK)
    chromium.key("Escape")
    chromium.run("document.getElementById('net0').focus()")
    chromium.key("ArrowRight")
    assert chromium.run(VISIBLE) == ["n1"]
    chromium.key("Tab")  # to the first part behind the switches
    chromium.key("Tab")
    assert chromium.run("document.activeElement.dataset.u") == "about"
    assert all(chromium.run(COLUMNS.format(n=1)))


@pytest.mark.zoo
@needs_chromium
def test_what_changes_lights_up(chromium: Browser, page: str) -> None:
    chromium.screen(1400, 900)
    chromium.open(page)
    chromium.mouse(*centre(chromium, "label[for=net1]"), click=True)
    assert chromium.run(VISIBLE) == ["n1"]
    changed = [text for text in chromium.run(NEW) if "Conv" in text]
    assert any("self.conv1 = nn.Conv2d(in_channels, width, 1, stride=stride" in c for c in changed)
    assert not any(text.startswith("self.conv3") for text in changed)
    chromium.run("document.getElementById('from-none').click()")
    assert chromium.run(NEW) == []


@needs_chromium
def test_a_narrow_screen_has_one_column_at_a_time(chromium: Browser, page: str) -> None:
    shown = """['torch','keras','flax'].filter(
    f => document.querySelector(`#n0 [data-row=block] .${f}`).offsetParent)"""
    chromium.screen(390, 844)
    chromium.open(page + "#torchvision/resnet50:block.2")
    assert chromium.run(WIDE) <= 390
    assert chromium.run(shown) == ["torch"]
    place = """[...document.querySelectorAll('#n0 .lit')].filter(
    e => e.offsetParent && e.matches('.l'))[0].getBoundingClientRect().top"""
    before = chromium.run(place)
    x, y = chromium.run(
        "(() => { const r = document.querySelector('label[for=view-flax]').getBoundingClientRect();"
        "return [r.left + 9, r.top + 9]; })()"
    )
    chromium.mouse(x, y, click=True)
    assert chromium.run(shown) == ["flax"]
    assert chromium.run(place) == pytest.approx(before, abs=2)  # the same part, where it was
    chromium.run("document.getElementById('view-all').click()")
    assert chromium.run(shown) == ["torch", "keras", "flax"]
    assert chromium.run(WIDE) <= 390


@pytest.mark.zoo
@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
def test_light_and_dark(chromium: Browser, page: str, dark: bool) -> None:
    chromium.screen(1400, 900, dark=dark)
    chromium.open(page)
    red = int(re.findall(r"\d+", chromium.run(BACK))[0])
    assert (red < 60) == dark


@pytest.mark.zoo
@needs_chromium
def test_without_scripts(chromium: Browser, page: str) -> None:
    """Networks are switched, and every number is there."""
    chromium.screen(1400, 900, scripts=False)
    chromium.open(page)
    chromium.send("Emulation.setScriptExecutionDisabled", value=False)  # for what follows here
    chromium.mouse(*centre(chromium, "label[for=net2]"), click=True)
    assert chromium.run(VISIBLE) == ["n2"]
    assert chromium.run("document.querySelectorAll('#n2 .facts table').length") > 20


@pytest.mark.zoo
@needs_chromium
def test_on_paper(chromium: Browser, page: str, tmp_path: Path) -> None:
    chromium.screen(1400, 900)
    chromium.open(page)
    chromium.printed(tmp_path / "page.pdf")
    data = (tmp_path / "page.pdf").read_bytes()
    assert 4 <= len(re.findall(rb"/Type\s*/Page\b", data)) <= 14
    assert re.search(rb"/MediaBox\s*\[0 0 84\d[.\d]* 59\d", data)  # A4, on its side
