"""The listings of the page are the generated files, whole, and each line has its part."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.site.listing import FRAMEWORKS, ROWS, Line, listing, mark_changes, rows
from benchmarks.site.networks import NETWORKS, TITLES, units_of
from shared import get_spec, make_plan
from shared.source.write import source
from tests.source.bare import errors, truth
from tests.zoo import rest_in_zoo

LIMIT = 1e-12  # of outputs and of tensors after a step
PRESETS = [shown.preset for shown in NETWORKS]


def has(unit: str, lines: tuple[Line, ...]) -> bool:
    return any(unit in line.units for line in lines)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_rows_are_the_file(framework: str, preset: str) -> None:
    lines = listing(preset, framework)
    assert "\n".join(line.text for line in lines) + "\n" == source(get_spec(preset), framework)
    order = [list(ROWS).index(line.row) for line in lines]
    assert order == sorted(order)
    written = [line.text for line in lines if line.text]
    assert [line.text for _, cell in rows(lines) for line in cell if line.text] == written
    assert {unit for line in lines for unit in line.units} <= TITLES.keys()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_part_is_in_every_column(preset: str) -> None:
    """But for corrections, which stand where a framework's stock layer does not do."""
    plan = make_plan(get_spec(preset))
    convs = range(1, len(plan.stages[0][0].convs) + 1)
    stages = range(len(plan.stages))
    parts = ["about", "load", "imports", "norm", "block", "shortcut", "add", "stem", "head"]
    parts += [f"block.{k}" for k in convs] + [f"stages.{i}" for i in stages]
    for framework in FRAMEWORKS:
        lines = listing(preset, framework)
        assert [part for part in parts if not has(part, lines)] == []
        assert not has(f"stages.{len(plan.stages)}", lines)
    assert {unit for row in plan.layers for unit in units_of(row.name)} >= {*parts[3:]}


def parts_of(preset: str, framework: str, text: str) -> set[tuple[str, ...]]:
    return {line.units for line in listing(preset, framework) if text in line.text}


def test_parts_of_lines() -> None:
    """Lines of different kinds, as a reader would sort them."""
    assert parts_of("torchvision/resnet50", "torch", "self.conv2(x)") == {("block.2",)}
    assert parts_of("torchvision/resnet50", "keras", "# padding") == {("block.2",), ("stem",)}
    assert parts_of("torchvision/resnet50", "keras", "layers.Add") == {("add",)}
    assert parts_of("fb/preresnet50", "flax", "self.norm1(x)") == {("block.1",)}
    assert parts_of("keras/resnet50v2", "keras", "stages.1.blocks.3") == {("stages.1",)}
    assert parts_of("bit/r50x1", "keras", "class StdConv2D") == {("conv",)}
    assert parts_of("cifar/resnet20", "torch", "F.pad") == {("shortcut",)}
    assert parts_of("flax/resnet50", "torch", "class SameMaxPool2d") == {("stem",)}


def test_parts_of_tensors() -> None:
    assert units_of("grad/stem.norm1.bias") == ("stem", "norm")
    assert units_of("step4/momentum_buffer/stages.3.blocks.1.conv1.weight") == (
        "block.1",
        "block",
        "stages.3",
        "conv",
    )
    assert units_of("stages.0.blocks.10.shortcut.norm.running_var") == (
        "shortcut",
        "block",
        "stages.0",
        "norm",
    )
    assert units_of("stages.1.blocks.0") == ("add", "block", "stages.1")
    assert units_of("final_norm") == ("head", "norm")
    assert units_of("loss") == units_of("grad/input") == ()


def test_changes_light_up() -> None:
    presets = ("torchvision/resnet50", "he/resnet50", "torchvision/resnet50")
    columns = [listing(preset, "torch") for preset in presets]
    mark_changes(columns)
    new = [line.text.strip() for line in columns[1] if 0 in line.new]
    assert any(
        "self.conv1 = nn.Conv2d(in_channels, width, 1, stride=stride" in text for text in new
    )
    assert not any("self.norm2" in text for text in new)
    assert not any(2 in line.new or 2 in line.cut for line in columns[0])
    assert all(1 in line.new or 1 not in line.cut or line.text for line in columns[0])


ALL = [(framework, preset) for framework in FRAMEWORKS for preset in PRESETS]
SMALLEST = "cifar/resnet20"


@pytest.mark.parametrize(
    ("framework", "preset"),
    rest_in_zoo(ALL, (), [case for case in ALL if "torch" in case or SMALLEST in case]),
)
def test_a_listing_is_the_proved_network(framework: str, preset: str, tmp_path: Path) -> None:
    """As it stands on the page, in full."""
    pytest.importorskip(framework)

    def shown(spec: object, framework: str) -> str:
        return "\n".join(line.text for line in listing(preset, framework)) + "\n"

    try:
        (error,) = errors(framework, [get_spec(preset)], tmp_path, shown).values()
    finally:
        truth.cache_clear()  # 200 MB a network
    assert error < LIMIT
