"""Who may import whom: every import in the product, inside functions and under TYPE_CHECKING too,
goes down the rooms, and none leads back to where it began.
"""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RENDERINGS = ("resnet_torch", "resnet_keras", "resnet_flax")
# From the ground up: a room imports rooms that stand before it, or in the same line.
FLOORS = (
    ("errors", "processes", "machine"),
    ("architecture",),
    ("weights", "source"),
    ("naming",),
    ("reference", "recognition", "formats", "graphs"),
    ("training",),
    ("verification",),
    RENDERINGS,
    ("images", "datasets", "reports"),
    ("frameworks",),
    ("cli",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

Imports = dict[str, dict[str, int]]  # module -> imported module -> line


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Every module of the product by its dotted name; a package by its own."""
    found = {}
    for package in ("shared", *RENDERINGS):
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(source: str, module: str, *, package: bool, known: Mapping[str, Path]) -> dict:
    """The modules of the product that a module imports anywhere, with the line."""
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse(source)):
        for name in _names(node, module if package else module.rpartition(".")[0], known):
            if name.partition(".")[0] in ("shared", *RENDERINGS):
                found.setdefault(name, node.lineno)  # type: ignore[attr-defined]
    return found


def _names(node: ast.AST, package: str, known: Mapping[str, Path]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        start = ".".join([*base, *([node.module] if node.module else [])])
        for alias in node.names:  # a module of the package, or a name in its __init__
            whole = f"{start}.{alias.name}"
            yield whole if whole in known else start


def imports(root: Path = ROOT) -> Imports:
    known = modules(root)
    return {
        module: imported(
            path.read_text("utf-8"), module, package=path.stem == "__init__", known=known
        )
        for module, path in known.items()
    }


def room(module: str) -> str:
    """`formats` of `shared.formats.checkpoint`; a rendering is a room of its own."""
    first, *rest = module.split(".")
    return rest[0] if first == "shared" and rest else first


def against(found: Imports) -> list[str]:
    """Every import that goes up, or from one rendering to another; the surface itself is free."""
    wrong = []
    for module, names in found.items():
        for name, line in names.items():
            here, there = room(module), room(name)
            up = there == "shared" or FLOOR[there] > FLOOR[here] if module != "shared" else False
            aside = {here, there} <= set(RENDERINGS) and here != there
            if up or aside:
                wrong.append(f"{module}, line {line}, imports {name}")
    return wrong


def circle(edges: Mapping[str, set[str]]) -> list[str]:
    """One circle, or nothing."""
    try:
        graphlib.TopologicalSorter(edges).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def of_rooms(found: Imports) -> dict[str, set[str]]:
    edges: dict[str, set[str]] = {}
    for module, names in found.items():
        if module != "shared":
            here = edges.setdefault(room(module), set())
            here |= {room(name) for name in names} - {room(module)}
    return edges


@pytest.fixture(scope="module")
def found() -> Imports:
    return imports()


def test_every_room_has_its_floor(found: Imports) -> None:
    rooms = {room(module) for module in found} - {"shared"}
    assert rooms <= set(FLOOR)
    assert len(found) > 100
    assert sum(map(len, found.values())) > 300


def test_no_import_goes_up(found: Imports) -> None:
    assert against(found) == []


def test_no_circle_of_modules(found: Imports) -> None:
    assert circle({module: set(names) for module, names in found.items()}) == []


def test_no_circle_of_rooms(found: Imports) -> None:
    assert circle(of_rooms(found)) == []


# That the test can fail.


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("from shared.cli import main", "imports shared.cli.main"),
        ("import shared.frameworks.verify", "imports shared.frameworks.verify"),
        ("def f():\n    from shared.training.config import Training", "line 2, imports"),
        ("if TYPE_CHECKING:\n    from shared.verification import trace", "imports"),
        ("from ..training import config", "imports shared.training.config"),
        ("from shared import compare", "imports shared"),
        ("import resnet_torch", "imports resnet_torch"),
    ],
)
def test_an_import_that_goes_up_is_found(source: str, says: str) -> None:
    known = modules()
    found = {
        "shared.formats.planted": imported(
            source, "shared.formats.planted", package=False, known=known
        )
    }
    (wrong,) = against(found)
    assert says in wrong


@pytest.mark.parametrize(
    "source",
    ["from shared.errors import SpecError", "from . import checkpoint", "import numpy, json"],
)
def test_an_import_that_goes_down_is_not(source: str) -> None:
    known = modules()
    here = imported(source, "shared.formats.planted", package=False, known=known)
    assert against({"shared.formats.planted": here}) == []


def test_a_rendering_does_not_import_another() -> None:
    assert against({"resnet_flax.model": {"resnet_torch.model": 1}})
    assert not against({"resnet_flax.model": {"resnet_flax.layers": 1}})


def test_circles_are_found() -> None:
    found = {"shared.formats.a": {"shared.formats.b": 1}, "shared.formats.b": {}}
    assert circle({k: set(v) for k, v in found.items()}) == []
    found["shared.formats.b"] = {"shared.formats.a": 1}
    assert len(circle({k: set(v) for k, v in found.items()})) == 3
    rooms = of_rooms(
        {
            "shared.formats.a": {"shared.reference.b": 1},
            "shared.reference.c": {"shared.formats.a": 1},
        }
    )
    assert circle(rooms)
