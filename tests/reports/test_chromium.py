"""A page in a browser, where there is one: every mark is drawn, at a phone's width nothing is
wider than the screen, and the dark page is dark.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from shared.reports.comparisons import parting, strips
from shared.reports.html import html_page
from shared.reports.page import Page, Part, Tone
from tests.reports.made import NASTY, comparison

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")

# Measures the page in a frame, since the page itself may not run anything.
HARNESS = """<iframe id=f src="page.html" style="border:0;width:{width}px;height:900px"></iframe>
<pre id=r></pre><script>
f.onload = () => {{
  const d = f.contentDocument, marks = [...d.querySelectorAll("i")];
  const colour = m => getComputedStyle(m).getPropertyValue("--k");
  const luminance = c => c.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 765;
  r.textContent = JSON.stringify({{
    wide: d.documentElement.scrollWidth,
    marks: marks.length,
    drawn: marks.filter(m => m.getBoundingClientRect().height > 9).length,
    outside: marks.filter(m => m.getBoundingClientRect().right > {width}).length,
    over: [...new Set([...d.querySelectorAll(".over")].map(colour))],
    paper: luminance(getComputedStyle(d.body).backgroundColor),
    ink: luminance(getComputedStyle(d.body).color),
    scripts: d.scripts.length,
    ran: !!(window.pwned || f.contentWindow.pwned),
  }});
}};
</script>"""


def measured(folder: Path, page: str, *, width: int, dark: bool) -> dict[str, Any]:
    (folder / "page.html").write_text(page, encoding="utf-8")
    (folder / "harness.html").write_text(HARNESS.format(width=width), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    scheme = [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    where = (folder / "harness.html").as_uri()
    command = [CHROMIUM, *options, *scheme, f"--user-data-dir={folder / 'user'}", "--dump-dom"]
    done = subprocess.run(
        [*command, "--virtual-time-budget=3000", where],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r'<pre id="r">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stderr
    return json.loads(unescape(found[1]))


def a_page(name: str) -> str:
    many = [10.0 ** (-17 + i / 12) for i in range(120)]
    made = [comparison(*many, a=name), comparison(*many * 6, b="reference")]
    table = parting(made)
    assert table is not None
    parts = [Part("Where it parts first", [table]), Part("Every layer", strips(made))]
    return html_page(Page("rosetta compare", Tone.bad, "they differ", ["a"], parts, {}, "rosetta"))


@pytest.mark.parametrize(("width", "dark"), [(400, True), (1200, False)])
def test_a_page_in_a_browser(tmp_path: Path, width: int, dark: bool) -> None:
    """Names run nothing in it."""
    name = NASTY + "<img src=x onerror='parent.pwned=1'><script>parent.pwned=1</script>"
    found = measured(tmp_path, a_page(name), width=width, dark=dark)
    assert (found["scripts"], found["ran"]) == (0, False)
    assert found["marks"] == found["drawn"] == 120 + 720
    assert found["wide"] <= width
    assert found["outside"] == 0
    assert len(found["over"]) == 1
    assert (found["paper"] < 0.2 < 0.8 < found["ink"]) == dark
    assert (found["ink"] < 0.2 < 0.8 < found["paper"]) != dark


def test_the_measurement_can_fail(tmp_path: Path) -> None:
    wide, script = "<div style='width:900px'>a</div>", "<script>parent.pwned=1</script>"
    page = f"<body><i style='display:none'></i>{wide}{script}"
    found = measured(tmp_path, page, width=400, dark=False)
    assert (found["marks"], found["drawn"], found["ran"]) == (1, 0, True)
    assert found["wide"] > 400
