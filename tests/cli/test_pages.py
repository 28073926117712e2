"""`--html`, `--markdown` and `--model-explorer` of the command."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from shared import get_spec, make_plan, miniature, probe_images
from shared.cli.pages import BINS, verify_markdown, verify_page
from shared.frameworks import reference
from shared.frameworks.inputs import Inputs
from shared.frameworks.verify import TraceTaken, Verdict
from shared.reports.page import Strip, Tone
from shared.training.curves import labels
from shared.training.runs import read_run
from shared.weights.files import TensorFile
from tests.cli_runner import Rosetta
from tests.reports.made import comparison
from tests.reports.reading import assert_nothing_from_elsewhere, read
from tests.training.makers import make_run
from tests.zoo import in_zoo

SPEC = miniature(get_spec("cifar/resnet20"))
PLAN = make_plan(SPEC)
LAYER = "stages.1.blocks.0.conv2"
NASTY = "<script>alert(1)<|script>&\"'`.safetensors"


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two traces that are the same, and one that is off in one layer, under a name that is
    markup.
    """
    folder = tmp_path_factory.mktemp("traces")
    files = {"one": folder / "one.safetensors", "same": folder / "same.safetensors"}
    files["off"] = folder / NASTY
    reference.trace(reference.build(SPEC, dtype="float64"), probe_images((2, 16, 16, 3))).save(
        files["one"]
    )
    shutil.copy(files["one"], files["same"])
    tensors = load_file(files["one"])
    tensors[f"eval/{LAYER}"] = tensors[f"eval/{LAYER}"] * (1 + 1e-9)
    save_file(tensors, files["off"], TensorFile(files["one"]).metadata)
    return files


@pytest.mark.parametrize(("other", "code", "verdict"), [("same", 0, "✓"), ("off", 1, "✗")])
def test_compare(
    rosetta: Rosetta, traces: dict[str, Path], tmp_path: Path, other: str, code: int, verdict: str
) -> None:
    files = {name: tmp_path / name for name in ("page.html", "page.md", "data.json")}
    outputs = zip(("--html", "--markdown", "--model-explorer"), files.values(), strict=True)
    options = [part for pair in outputs for part in pair]
    result = rosetta("compare", traces["one"], traces[other], *options)
    assert (result.code, result.err) == (code, "")
    page = files["page.html"].read_text("utf-8")
    assert_nothing_from_elsewhere(page)
    document = read(page)
    assert document.all("h1")[0].text.startswith(verdict)
    marks = [mark.attributes["title"].partition(":")[0] for mark in document.all("i")]
    assert marks == [*(row.name for row in PLAN.layers), "output"]
    assert [m.attributes["title"].partition(":")[0] for m in document.all("i", "over")] == (
        [LAYER] if code else []
    )
    assert document.all("pre")[0].text.startswith("rosetta compare ")
    assert str(traces["one"]) in document.all("pre")[0].text
    assert files["page.md"].read_text("utf-8").startswith(f"# {verdict}")
    (data,) = json.loads(files["data.json"].read_text()).values()
    assert data["results"].keys() == {row.name for row in PLAN.layers}
    worst = max(data["results"], key=lambda name: data["results"][name]["value"])
    assert (worst == LAYER and data["results"][worst]["value"] > 0) == bool(code)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)


def test_the_same_traces_make_the_same_page(
    rosetta: Rosetta, traces: dict[str, Path], tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    command = ("compare", traces["one"], traces["off"], "--html", page)
    rosetta(*command)
    first = page.read_bytes()
    rosetta(*command)
    assert page.read_bytes() == first


def test_a_page_replaces_another_whole_or_not_at_all(
    rosetta: Rosetta, traces: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.html"
    page.write_text("old")

    def full(self: Path, text: str, **kwargs: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        rosetta("compare", traces["one"], traces["same"], "--html", page).refused("No space left")
    assert page.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_show_writes_the_graph(rosetta: Rosetta, tmp_path: Path) -> None:
    result = rosetta("show", "cifar/resnet20", "--model-explorer", tmp_path / "graph.json")
    assert (result.code, result.err) == (0, "")
    made = json.loads((tmp_path / "graph.json").read_text())
    assert made["label"] == "cifar/resnet20"
    assert len(made["graphs"][0]["nodes"]) > len(make_plan(get_spec("cifar/resnet20")).layers)


def verdict_of(*comparisons, preset: str = "cifar/resnet20", failure: str | None = None) -> Verdict:
    spec = get_spec(preset)
    steps = tuple(TraceTaken(preset, name, 1.0, 1) for name in ("torch", "flax"))
    return Verdict(spec, make_plan(spec), comparisons, steps, {"numpy": "2"}, 1.0, failure=failure)


def strips_of(page) -> list[Strip]:
    return [item for part in page.parts for item in part.items if isinstance(item, Strip)]


def test_verify_of_one_network() -> None:
    found = verify_page([verdict_of(comparison(1e-15), comparison(1e-3, b="x"))], Inputs(), "c")
    assert found.tone is Tone.bad
    assert found.details[0] == "torch and x part first at eval/stages.0.blocks.0.conv1"
    assert [part.title for part in found.parts] == ["Where it parts first", "Pairs", "Every layer"]
    assert [strip.verdict for strip in strips_of(found)] == ["✓ same", "✗ differs"]


def test_verify_of_many_networks_merges_the_strips_of_what_passed() -> None:
    pairs = [comparison(*[1e-15] * 5000, b=name) for name in ("flax", "keras", "x")]
    off = comparison(*[1e-15] * 4999, 1.0, b="y")
    few = verify_page(
        [verdict_of(*pairs), verdict_of(preset="resnet18", failure="<no memory>")], Inputs(), "c"
    )
    assert len(strips_of(few)) == 3
    assert "It was not run: <no memory>" in few.parts[-1].lines
    many = verify_page([verdict_of(*pairs, off), verdict_of(*pairs, *pairs)], Inputs(), "c")
    assert [strip.title for strip in strips_of(many)] == [
        "eval, the worst of 3 pairs",
        "torch and y, eval",
        "eval, the worst of 6 pairs",
    ]
    assert strips_of(many)[1].first == 4999


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ([[2.0, 1.0, 0.5]], "one run"),
        in_zoo(([[2.0, 1.0, 0.5], [2.0, 1.0, 0.5]], "equal at every step")),  # as the last
        ([[2.0, 1.0, 0.5], [2.0, 1.0, 0.6]], "1 of 1 pairs of runs part, the first at step 3"),
        ([[0.0] * 3, [1e-320, 1e30, 0.0]], "the first at step 1"),
        ([[1 / (i + 1) for i in range(1000)]] * 3, "equal at every step"),
    ],
)
def test_curves(rosetta: Rosetta, tmp_path: Path, losses: list[list[float]], said: str) -> None:
    runs = [make_run(tmp_path / f"<b>{i}", values) for i, values in enumerate(losses)]
    pages = tmp_path / "page.html", tmp_path / "page.md"
    result = rosetta(
        *("curves", *runs, "-o", tmp_path / "a.png", "--html", pages[0], "--markdown", pages[1])
    )
    assert (result.code, result.err) == (0, "")
    page = pages[0].read_text("utf-8")
    assert_nothing_from_elsewhere(page)
    document = read(page)
    assert said in document.all("h1")[0].text
    assert said in pages[1].read_text("utf-8")
    assert len(document.all("svg")) == 3
    assert [len(svg.all("polyline")) for svg in document.all("svg")] == [len(runs)] * 3
    strips = [figure for figure in document.all("figure") if figure.all("i")]
    assert len(strips) == len(runs) * (len(runs) - 1) // 2
    for strip in strips:
        assert len(strip.all("i")) == min(len(losses[0]), BINS)


def test_runs_of_one_label_are_told_apart(tmp_path: Path) -> None:
    runs = [read_run(make_run(tmp_path / name / "torch", [1.0])) for name in ("a", "b")]
    assert [name.rpartition(" ")[2] for name in labels(runs)] == ["(a)", "(b)"]
    assert labels(runs[:1]) == [labels(runs)[0].removesuffix(" (a)")]


def test_verify_says_why_in_each_form() -> None:
    verdict = dataclasses.replace(verdict_of(comparison(1e-3)), causes={"torch": "no weights"})
    page = verify_page([verdict], Inputs(), "c")
    assert [part.title for part in page.parts][:2] == ["Where it parts first", "Why torch differs"]
    text = verify_markdown([verdict], Inputs(), "c")
    assert "## Where it parts first" in text
    assert "## Why torch differs on cifar/resnet20\n\nNo cause: no weights\n" in text
