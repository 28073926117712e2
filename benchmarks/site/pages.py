"""The pages that are generated: an idiom's, the command's and the Python interface's."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import typer

import shared
from benchmarks.site.idioms import FRAMEWORKS, IDIOMS, Idiom
from benchmarks.site.networks import NETWORKS
from benchmarks.site.run_idioms import listing, load
from benchmarks.site.side_by_side import coloured_lines, hanging
from shared import get_spec, make_plan
from shared.cli.main import app

TEST = "tests/site/test_idioms.py::test_right_is_right_and_wrong_is_seen"
PACKAGES = ("resnet_torch", "resnet_keras", "resnet_flax")


def idiom_page(idiom: Idiom) -> str:
    """Three listings, the trap, what was measured, who was bitten, and the test."""
    return "\n".join(_idiom(idiom)) + "\n"


def _idiom(idiom: Idiom) -> Iterator[str]:
    yield f"# {idiom.title}\n\n{idiom.trap}\n"
    yield '```{raw} html\n<div class="columns">'
    for framework, label in FRAMEWORKS.items():
        lines = listing(idiom.name, framework).splitlines()
        shown = zip(lines, coloured_lines("\n".join(lines)), strict=True)
        text = "".join(hanging(line, html) for line, html in shown)
        yield f'<div class="column"><p>{label}</p><pre>{text}</pre></div>'
    yield "</div>\n```\n"
    yield "## Measured\n"
    yield "The largest difference from plain NumPy, over the largest value.\n"
    yield f"| | {' | '.join(FRAMEWORKS.values())} |"
    yield "| --- | ---: | ---: | ---: |"
    measured = load()
    for kind in ("right", "wrong"):
        errors = (measured[name][idiom.name][kind] for name in FRAMEWORKS)
        cells = (f"{error:.1e}" if error else "0" for error in errors)
        yield f"| `{kind}` | {' | '.join(cells)} |"
    limits = (f"{idiom.limits[name]:.0e}" for name in FRAMEWORKS)
    yield f"| limit of `right` | {' | '.join(limits)} |"
    yield f"\n`wrong` has to be off by {idiom.visible:.0e} at least. The test, which runs these"
    yield f"files: `{TEST}[torch-{idiom.name}]`, and so for `keras` and `flax`; written down by"
    yield "`python -m benchmarks.site --measure idioms`.\n"
    yield "## Who was bitten\n"
    yield from (f"* [{who}]({_address(who)}): {what}" for who, what in idiom.bitten)


def _address(who: str) -> str:
    """Of an issue of GitHub, or of a repository there."""
    repository, _, number = who.partition("#")
    return f"https://github.com/{repository}" + (f"/issues/{number}" if number else "")


def idioms_page() -> str:
    """The list of idioms, in order."""
    lines = [
        "# Idioms",
        "",
        "What three frameworks say differently, one page each: three listings that the tests run, "
        "the trap, what it costs in numbers, and who was bitten.",
        "",
        "```{toctree}",
        ":maxdepth: 1",
        *(idiom.name for idiom in IDIOMS),
        "```",
    ]
    return "\n".join(lines) + "\n"


def networks_page(measured: Mapping[str, Any]) -> str:
    """The list of networks that are shown side by side, with addresses that stay."""
    lines = [
        "# Networks side by side",
        "",
        "The files that `rosetta source` writes for PyTorch, Keras and Flax, beside each other: "
        "choose a part, and it lights up in all three, with its shapes, its parameters and its "
        "error in every check; choose another network, and what changes lights up.",
        "",
        "| network | | | parameters | largest error |",
        "| --- | --- | --- | ---: | ---: |",
    ]
    for shown in NETWORKS:
        link = f'<a href="side-by-side.html#{shown.preset}">{shown.preset}</a>'
        params = make_plan(get_spec(shown.preset)).params
        checks = measured["networks"][shown.preset]["units"]["all"].values()
        worst = max(max(check["pairs"].values()) for check in checks)
        lines.append(f"| {link} | {shown.label} | {shown.what} | {params:,} | {worst:.1e} |")
    lines += [
        "",
        "The error is the largest between any two of PyTorch, Keras, Flax and NumPy, of every "
        "layer, gradient and step, in float64.",
    ]
    return "\n".join(lines) + "\n"


def command_page(introduction: str) -> str:
    """`docs/command.md`, and behind it every command with its arguments and options."""
    group = typer.main.get_command(app)
    lines = [introduction.rstrip(), ""]
    context = typer.Context(group, info_name="rosetta")
    for name in group.list_commands(context):  # type: ignore[attr-defined]
        command = group.get_command(context, name)  # type: ignore[attr-defined]
        lines += _command(name, command, typer.Context(command, context, name))
    return "\n".join(lines) + "\n"


def _command(name: str, command: Any, context: typer.Context) -> Iterator[str]:
    yield f"## rosetta {name}\n"
    yield inspect.cleandoc(command.help or "").replace("\b\n", "") + "\n"
    usage = " ".join(command.collect_usage_pieces(context)).translate({ord("{"): "", ord("}"): ""})
    yield f"```text\nrosetta {name} {usage}\n```\n"
    yield "| | |\n| --- | --- |"
    for parameter in command.get_params(context):
        if getattr(parameter, "hidden", False):
            continue
        if parameter.param_type_name == "option":
            names = ", ".join(f"`{one}`" for one in (*parameter.opts, *parameter.secondary_opts))
            told = "" if parameter.is_flag else f" {parameter.make_metavar(context)}"
        else:
            names, told = f"`{parameter.make_metavar(context)}`", ""
        about = " ".join((getattr(parameter, "help", None) or "").split())
        yield f"| {names}{_cell(told)} | {_cell(about)} |"
    yield ""


def _cell(text: str) -> str:
    return re.sub(r"([|<>*_\[\]])", r"\\\1", text)


def python_page() -> str:
    """What `from shared import …` and the packages offer, from the docstrings."""
    return "\n".join(_python()) + "\n"


def _python() -> Iterator[str]:
    yield "Python\n======\n"
    yield "``from shared import …`` offers these; the packages of the frameworks stand below.\n"
    rooms = sorted(shared.__all__, key=lambda name: (shared._MODULES[name], name))
    for room, names in itertools.groupby(rooms, key=lambda name: shared._MODULES[name]):
        heading = f"shared.{room}"
        yield f"\n{heading}\n{'-' * len(heading)}\n"
        for name in names:
            yield from _entry(f"shared.{room}", name)
    for package in PACKAGES:
        module = import_module(package)
        yield f"\n{package}\n{'-' * len(package)}\n"
        for name in module.__all__:
            yield from _entry(package, name)


def _entry(module: str, name: str) -> Iterator[str]:
    found = getattr(import_module(module), name)
    kind = "class" if inspect.isclass(found) else "function" if callable(found) else "data"
    members = "\n   :members:" if kind == "class" and found.__module__ == module else ""
    yield f".. auto{kind}:: {module}.{name}{members}\n"
