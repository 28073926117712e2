"""The page of networks side by side: one file of HTML that loads nothing and runs without a
network; without a script, it still shows everything.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from pygments.lexers import PythonLexer
from pygments.token import Comment, Keyword, Name, Number, Operator, String, Token

from benchmarks.site import facts
from benchmarks.site.idioms import IDIOMS
from benchmarks.site.listing import FRAMEWORKS, ROWS, Line, listing, mark_changes, rows
from benchmarks.site.networks import NETWORKS, TITLES, Shown
from shared import get_spec, make_plan
from shared.architecture.plan import Plan
from shared.architecture.presets import get_preset

HERE = Path(__file__).parent
MORE = {
    "norm": ("momentum", "variance", "mode", "freezing"),
    "stem": ("padding",),
    "block.2": ("padding",),
    "conv": ("padding", "initialisation"),
    "head": ("layouts", "label_smoothing"),
    "load": ("checkpoints", "layouts"),
}
BARE = ("about", "imports")  # parts of a file, and none of a network
COLOURS = {
    Comment: "c", String: "s", Number: "n", Keyword: "k", Name.Function: "f", Name.Class: "f",
    Name.Decorator: "f", Operator.Word: "k",
}  # fmt: skip


def page(measured: Mapping[str, Any]) -> str:
    """The text of the page; `measured` is what `benchmarks.site.measure` found."""
    style, script = ((HERE / f"side_by_side.{kind}").read_text("utf-8") for kind in ("css", "js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return "\n".join(_page(measured, style + _switches(), script, policy)) + "\n"


def _switches() -> str:
    """Rules that show the chosen network, and light up what differs from another one."""
    rules = []
    for i in range(len(NETWORKS)):
        rules.append(f"body:has(#net{i}:checked) #n{i}{{display:block}}")
        rules.append(f'body:has(#from{i}:checked) [data-new~="{i}"]{{background:var(--new)}}')
        rules.append(
            f'body:has(#from{i}:checked) .l[data-new~="{i}"]'
            "{box-shadow:inset .2rem 0 var(--new-edge)}"
        )
        rules.append(
            f'body:has(#from{i}:checked) .l[data-cut~="{i}"]'
            "{border-top:2px dotted var(--new-edge)}"
        )
    return "\n".join(rules)


def _page(measured: Mapping[str, Any], style: str, script: str, policy: str) -> Iterator[str]:
    yield "<!DOCTYPE html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    yield '<meta name="viewport" content="width=device-width,initial-scale=1">'
    yield '<meta name="color-scheme" content="light dark">'
    yield "<title>One ResNet in PyTorch, Keras and Flax, side by side</title>"
    yield f"<style>{style}</style></head><body>"
    yield from _head()
    listings = [[listing(shown.preset, name) for shown in NETWORKS] for name in FRAMEWORKS]
    for per_framework in listings:
        mark_changes(per_framework)
    yield "<main>"
    for i, shown in enumerate(NETWORKS):
        yield from _network(i, shown, [column[i] for column in listings], measured)
    yield "</main>"
    yield '<aside id="dock" aria-live="polite" hidden></aside>'
    yield from _foot(measured)
    yield f"<script>{script}</script></body></html>"


def _head() -> Iterator[str]:
    yield '<header><div class="title"><h1>One ResNet, three frameworks</h1>'
    yield (
        "<p>The stand-alone files that <code>rosetta source</code> writes, cut into rows. Hover, "
        "tap or tab to a part: it lights up in all three, with its shapes, parameters and the "
        "error of every check. The keys <kbd>n</kbd> and <kbd>p</kbd> go from part to part, "
        '<kbd>Esc</kbd> lets go. <a href="index.html">All pages</a></p></div>'
    )
    yield '<fieldset class="from"><legend>Light up what differs from</legend>'
    yield '<input type="radio" name="from" id="from-none" checked>'
    yield '<label for="from-none">nothing</label>'
    yield from _radios("from", [(s.label, s.preset) for s in NETWORKS], None)
    yield "</fieldset></header>"
    yield '<div class="bar"><fieldset class="nets"><legend>Network</legend>'
    yield from _radios("net", [(s.label, f"{s.preset}: {s.what}") for s in NETWORKS], 0)
    yield '</fieldset><fieldset class="view"><legend>Show</legend>'
    for i, (name, label) in enumerate([*FRAMEWORKS.items(), ("all", "all")]):
        checked = " checked" if i == 0 else ""
        yield f'<input type="radio" name="view" id="view-{name}"{checked}>'
        yield f'<label for="view-{name}">{label}</label>'
    yield "</fieldset></div>"


def _radios(name: str, labels: Sequence[tuple[str, str]], chosen: int | None) -> Iterator[str]:
    for i, (label, title) in enumerate(labels):
        checked = " checked" if i == chosen else ""
        yield f'<input type="radio" name="{name}" id="{name}{i}"{checked}>'
        yield f'<label for="{name}{i}" title="{escape(title)}">{escape(label)}</label>'


def _network(
    i: int, shown: Shown, columns: Sequence[tuple[Line, ...]], measured: Mapping[str, Any]
) -> Iterator[str]:
    spec = get_spec(shown.preset)
    plan = make_plan(spec)
    found = measured["networks"][shown.preset]
    worst = max(max(entry["pairs"].values()) for entry in found["units"]["all"].values())
    yield f'<section class="net" id="n{i}" data-preset="{escape(shown.preset)}">'
    yield f"<h2>{escape(shown.preset)} <small>{escape(shown.what)}</small></h2>"
    yield (
        f'<p class="verdict"><b>✓ the same function in all three</b>, and in NumPy: '
        f"{found['tensors']:,} tensors compared in float64, largest error {worst:.1e}. "
        f"{plan.params:,} parameters, {plan.macs / 1e9:.2f} G multiply-adds at "
        f"{plan.image_size[0]} x {plan.image_size[1]}. "
        f"Source: {escape(get_preset(shown.preset).source)}.</p>"
    )
    yield '<div class="heads">'
    for name, label in FRAMEWORKS.items():
        command = f"rosetta source {shown.preset} --framework {name}"
        yield f'<div class="{name}"><b>{label}</b> <code>{command}</code></div>'
    yield "</div>"
    used: list[str] = []
    cut = [dict(rows(lines)) for lines in columns]
    for row, title in ROWS.items():
        cells = [column[row] for column in cut]
        if not any(cells):
            continue
        units = [u for u in TITLES if any(u in line.units for cell in cells for line in cell)]
        # A part is named where its layers are made; stages name the stem, and blocks the shortcut.
        named = [u for u in units if u not in used]
        used += named
        yield from _row(i, row, title, named, cells)
    yield f'<details class="facts" id="facts{i}"><summary>Every part: shapes, parameters, errors'
    yield "</summary>"
    for unit in TITLES:
        if unit in used and unit not in BARE:
            yield from _facts(i, unit, plan, found)
    yield "</details></section>"


def _row(
    i: int, row: str, title: str, units: Sequence[str], cells: Sequence[list[Line]]
) -> Iterator[str]:
    tag = "details" if row == "about" else "section"
    yield f'<{tag} class="row" data-row="{row}">'
    chips = " ".join(_chip(i, unit, cells) for unit in units)
    name = "summary" if tag == "details" else "div"
    yield f'<{name} class="rowhead"><h3>{title}</h3> {chips}</{name}>'
    yield '<div class="cells">'
    for (framework, label), lines in zip(FRAMEWORKS.items(), cells, strict=True):
        yield f'<div class="cell {framework}" data-of="{label}">'
        if lines:
            yield f"<pre>{''.join(_lines(lines))}</pre>"
        else:
            yield f'<p class="none">{_why_none(framework, row)}</p>'
        yield "</div>"
    yield f"</div></{tag}>"


def _why_none(framework: str, row: str) -> str:
    if row == "load":
        return "<code>load_state_dict</code> is all it takes: attribute paths are the names."
    if row == "layers":
        return "Stock layers do."
    raise AssertionError(f"{framework} has nothing in the row {row}")


def _chip(i: int, unit: str, cells: Sequence[list[Line]]) -> str:
    new = {n for cell in cells for line in cell if unit in line.units for n in line.new}
    marks = f' data-new="{" ".join(map(str, sorted(new)))}"' if new else ""
    words = {"about": "docstring", "load": "loading", "norm": "norms", "conv": "convolutions"}
    short = words.get(unit, unit.replace("block.", "conv ").replace("stages.", "stage "))
    return f'<a class="chip" href="#{i}-{unit}" data-u="{unit}"{marks}>{short}</a>'


def _lines(lines: Sequence[Line]) -> Iterator[str]:
    texts = coloured_lines("\n".join(line.text for line in lines))
    for line, html in zip(lines, texts, strict=True):
        attributes = [f'data-u="{" ".join(line.units)}"'] if line.units else []
        attributes += [f'data-{k}="{" ".join(map(str, v))}"' for k, v in _marks(line) if v]
        yield hanging(line.text, html, *attributes)


def hanging(text: str, html: str, *attributes: str) -> str:
    """A line that is folded, where it is too long, behind its own indentation."""
    indent = len(text) - len(text.lstrip())
    folded = (f'style="--i:{indent}"',) if indent else ()
    return f"<span {' '.join(('class=l', *attributes, *folded))}>{html}\n</span>"


def _marks(line: Line) -> list[tuple[str, list[int]]]:
    return [("new", line.new), ("cut", line.cut)]


def coloured_lines(text: str) -> list[str]:
    """Each line of Python as HTML: `<i>` of the classes that `COLOURS` names."""
    lines = [""]
    for kind, value in PythonLexer(stripnl=False, ensurenl=False).get_tokens(text):
        colour = next((c for of, c in COLOURS.items() if kind in of), "")
        for k, part in enumerate(value.split("\n")):
            if k:
                lines.append("")
            if part:
                shown = escape(part, quote=False)
                plain = not colour or kind in Token.Text
                lines[-1] += shown if plain else f"<i class={colour}>{shown}</i>"
    return lines


def _facts(i: int, unit: str, plan: Plan, found: Mapping[str, Any]) -> Iterator[str]:
    yield f'<article id="{i}-{unit}" data-u="{unit}"><h4>{TITLES[unit]}</h4>'
    shapes, errors = facts.shapes(plan, unit), facts.errors(found, unit)
    if unit == "load":
        yield (
            "<p>The names of the tensors are the attribute paths, or the layers' names. The tests "
            "give every file its weights in this way.</p>"
        )
        yield from _idioms(unit, plan)
        yield "</article>"
        return
    size = f"{plan.image_size[0]} x {plan.image_size[1]}"
    yield '<div class="tables"><table class="shapes">'
    yield f"<thead><tr><th>where</th><th>first one there</th><th>output at {size}</th>"
    yield '<th class="r">parameters</th></tr></thead><tbody>'
    for where, what, output, params in shapes:
        yield f"<tr><td>{where}</td><td>{escape(what)}</td><td>{output}</td>"
        yield f'<td class="r">{params:,}</td></tr>'
    if len(shapes) > 1 and not unit.startswith("stages."):
        total = sum(shape.params for shape in shapes)
        yield '<tr class="sum"><td>together</td><td></td><td></td>'
        yield f'<td class="r">{total:,}</td></tr>'
    yield "</tbody></table>"
    yield from _errors(errors, found)
    yield "</div>"
    yield from _idioms(unit, plan)
    yield "</article>"


def _idioms(unit: str, plan: Plan) -> Iterator[str]:
    """Where the site says more of what the frameworks say differently here."""
    if unit == "norm" and not any(row.op == "batch_norm" for row in plan.layers):
        return  # group norm keeps no statistics
    titles = {idiom.name: idiom.title for idiom in IDIOMS}
    links = [f'<a href="idioms/{name}.html">{titles[name]}</a>' for name in MORE.get(unit, ())]
    if links:
        yield f"<p>The traps: {', '.join(links)}</p>"


def _errors(errors: Sequence[facts.Error], found: Mapping[str, Any]) -> Iterator[str]:
    pairs = list(dict.fromkeys(pair for error in errors for pair in error.pairs))
    height, width = found["image_size"]
    yield '<table class="errors"><thead><tr>'
    yield f"<th>largest error, {height} x {width}</th>"
    yield from (f'<th class="r">{facts.pair_name(pair)}</th>' for pair in pairs)
    yield '<th class="r">limit</th></tr></thead><tbody>'
    for error in errors:
        limit = f"{error.limit:.0e}" if error.limit is not None else ""
        yield f'<tr title="largest at {escape(error.name)}"><td>{error.check}</td>'
        for pair in pairs:
            value = error.pairs.get(pair)
            shown = "" if value is None else "0" if value == 0 else f"{value:.1e}"
            worst = ' class="r w"' if value == error.worst else ' class="r"'
            yield f"<td{worst}>{shown}</td>"
        yield f'<td class="r">{limit}</td></tr>'
    yield "</tbody></table>"


def _foot(measured: Mapping[str, Any]) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in measured["versions"].items())
    yield "<footer><p>The listings are what <code>rosetta source</code> writes; "
    yield (
        "<code>tests/site</code> runs each of them in a process that imports nothing of ours, "
        "against the NumPy network. The errors are those of "
        "<code>rosetta verify</code>, whose networks in <code>resnet_torch</code>, "
        "<code>resnet_keras</code> and <code>resnet_flax</code> have the same layers under the "
        "same names: the largest absolute difference over the largest absolute value, of every "
        "tensor that a layer makes or has, in float64, with probe weights and two random images "
        "of the size that the tables say. Measured by <code>python -m benchmarks.site "
        f"--measure</code> with {escape(versions)}.</p></footer>"
    )
