"""`rosetta diagnose` as a person and as a program see it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared import ResNetSpec, Trace, initial_weights, probe_weights, save_weights
from shared.cli.pages_of_others import diagnose_page
from shared.frameworks import reference
from shared.reports.html import html_page
from shared.reports.markdown import markdown_page
from shared.verification.diagnosis.diagnose import Diagnosis, Near
from shared.verification.diagnosis.passes import Passes
from tests.cli_runner import Rosetta
from tests.reports.reading import assert_nothing_from_elsewhere, read
from tests.verification.diagnosis.ports import SHALLOW, right, small, with_mistakes

KEYS = {"same", "explained", "causes", "error_before", "error_after", "limit", "spec", "tried"}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_weights(path, probe_weights(small()), small())
    return path


def port(folder: Path, *mistakes: str) -> Path:
    """What a port with these mistakes made of the probe's images."""
    base = right(small())
    output = Passes(with_mistakes(base, mistakes)).get("eval/output").astype(np.float32)
    path = folder / "port.npz"
    np.savez(path, images=base.images.astype(np.float32), outputs=output)
    return path


def test_a_cause_in_words_and_as_a_flag(rosetta: Rosetta, weights: Path, tmp_path: Path) -> None:
    result = rosetta("diagnose", weights, "--io", port(tmp_path, "block.padding=same"))
    assert result.code == 1
    assert "one change explains it" in result.out
    assert "--set block.padding=same" in result.out
    assert "stages.1.blocks.0.conv1" in result.out
    assert result.err == ""


def test_json(rosetta: Rosetta, weights: Path, tmp_path: Path) -> None:
    file = port(tmp_path, "norm.eps=0.001", "BGR")
    result = rosetta("diagnose", weights, "--io", file, "--json", "-")
    assert result.code == 1
    found = result.json
    assert found.keys() >= KEYS
    assert (found["same"], found["explained"]) == (False, True)
    assert {cause["kind"] for cause in found["causes"]} == {"spec", "surroundings"}
    assert {"kind", "what", "set", "where"} <= found["causes"][0].keys()
    assert [cause["set"] for cause in found["causes"] if cause["set"]] == ["norm.eps=0.001"]
    assert found["error_after"] <= found["limit"] < found["error_before"]
    assert found["spec"] == small().to_dict()
    assert found["tried"] > 10


def test_the_flag_is_the_way_out(rosetta: Rosetta, weights: Path, tmp_path: Path) -> None:
    """With `--set` as the answer has it, the port is the same."""
    file = port(tmp_path, "stem.pool_padding=same")
    found = rosetta("diagnose", weights, "--io", file, "--json", "-").json
    assert found["causes"][0]["set"] == "stem.pool_padding=same"
    spec = small().replace(stem_pool_padding="same")
    fixed = tmp_path / "fixed.safetensors"
    save_weights(fixed, probe_weights(small()), spec)
    assert rosetta("diagnose", fixed, "--io", file).code == 0


def test_the_same(rosetta: Rosetta, weights: Path, tmp_path: Path) -> None:
    result = rosetta("diagnose", weights, "--io", port(tmp_path))
    assert result.code == 0
    assert "the port does the same" in result.out


def test_a_trace_of_the_probe(rosetta: Rosetta, weights: Path, tmp_path: Path) -> None:
    """A trace holds no images; the probe's are made again from its seed."""
    base = right(small())
    model = reference.build(small().replace(norm_eps=1e-3))
    reference.load_weights(model, base.weights)
    trace = reference.trace(model, base.images)
    trace.about |= {"seed": "0"}
    path = tmp_path / "trace.safetensors"
    trace.save(path)
    result = rosetta("diagnose", weights, "--io", path, "--json", "-")
    assert result.code == 1
    assert [cause["set"] for cause in result.json["causes"]] == ["norm.eps=0.001"]
    assert result.json["first_divergence"] == "eval/stem.norm1"


def test_a_port_in_pytorch(rosetta: Rosetta, weights: Path, tmp_path: Path) -> None:
    """The port is a framework's: its pads are wrong, and nothing is known of how it was made."""
    torch = pytest.importorskip("torch")
    import resnet_torch

    model = resnet_torch.build(small().replace(stem_padding="same"))
    resnet_torch.load_weights(model, probe_weights(small()))
    images = right(small()).images.astype(np.float32)
    with torch.no_grad():
        outputs = model.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    file = tmp_path / "port.npz"
    np.savez(file, images=images, outputs=outputs)
    found = rosetta("diagnose", weights, "--io", file, "--json", "-").json
    assert [cause["set"] for cause in found["causes"]] == ["stem.padding=same"]
    assert found["causes"][0]["where"] == ["stem.conv1"]


def test_bad_input_is_one_line(rosetta: Rosetta, weights: Path, tmp_path: Path) -> None:
    rosetta("diagnose", weights, "--io", tmp_path / "none.npz").refused(
        "none.npz", "cannot be read"
    )
    rosetta("diagnose", weights).refused("--io")
    empty = tmp_path / "empty.npz"
    np.savez(empty, outputs=np.zeros((2, 10)))
    rosetta("diagnose", weights, "--io", empty).refused("no array called images", "outputs")
    rosetta("diagnose", weights, "--io", weights).refused("no array called images")
    rosetta("diagnose", empty, "--io", port(tmp_path)).refused("empty.npz")


def test_json_file(rosetta: Rosetta, weights: Path, tmp_path: Path) -> None:
    target = tmp_path / "found.json"
    assert rosetta("diagnose", weights, "--io", port(tmp_path), "--json", target).code == 0
    assert json.loads(target.read_text())["same"] is True


@pytest.fixture
def traces(tmp_path: Path) -> tuple[Path, Path]:
    """The reference, and a framework that is wrong and believes that it is right."""
    wrong = traced(small(), tmp_path / "torch.safetensors", "torch", block_padding="same")
    return traced(small(), tmp_path / "reference.safetensors"), wrong


def traced(spec: ResNetSpec, file: Path, framework: str = "reference", **changes: Any) -> Path:
    """A trace of the probe with these changes, saved as if it were the spec's."""
    base = right(spec)
    model = reference.build(spec.replace(**changes))
    reference.load_weights(model, base.weights)
    trace = reference.trace(model, base.images)
    about = {**trace.about, "seed": "0", "weights_source": "probe", "images_source": "probe"}
    dataclasses.replace(trace, spec=spec, framework=framework, about=about).save(file)
    return file


def test_compare_says_the_layer_then_the_cause(rosetta: Rosetta, traces: tuple[Path, Path]) -> None:
    result = rosetta("compare", *traces)
    assert result.code == 1
    layer, cause = result.out.index("stages.1.blocks.0.conv1"), result.out.index("--set")
    assert layer < cause
    assert "--set block.padding=same" in result.out
    assert "the instrument is sound" in result.out
    found = rosetta("compare", *traces, "--json", "-").json
    assert [cause["side"] for cause in found["causes"]] == ["torch"]
    assert found["causes"][0]["causes"][0]["set"] == "block.padding=same"
    assert [(i["check"], i["sound"]) for i in found["instrument"]] == [("eval", True)]


def test_compare_of_the_same_has_no_cause(rosetta: Rosetta, traces: tuple[Path, Path]) -> None:
    found = rosetta("compare", traces[0], traces[0], "--json", "-")
    assert found.code == 0
    assert found.json["causes"] == []
    assert found.json["instrument"][0]["sound"]


def test_weights_that_are_not_known_are_said(rosetta: Rosetta, traces: tuple[Path, Path]) -> None:
    trace = Trace.load(traces[1])
    trace.about["weights_source"] = "mine.safetensors"
    arrays = {name: np.array(trace[name]) for name in trace.names}
    dataclasses.replace(trace, arrays=arrays).save(traces[1])
    result = rosetta("compare", *traces)
    assert result.code == 1
    assert "not of the probe's weights" in result.out


def test_audit_of_fresh_weights(rosetta: Rosetta, tmp_path: Path) -> None:
    spec = SHALLOW.replace(**{"init.zero_residual": True})
    file = tmp_path / "fresh.safetensors"
    save_weights(file, initial_weights(spec), spec)
    result = rosetta("audit", file, "--image-size", "32")
    assert result.code == 1
    assert "would pass unseen" in result.out
    assert "the last gamma of each block is zero" in result.out


def test_audit_json_and_exit_code(rosetta: Rosetta, tmp_path: Path) -> None:
    """A trace of the probe, every layer compared: nothing passes."""
    trace = traced(SHALLOW, tmp_path / "trace.safetensors")
    result = rosetta("audit", "--io", trace, "--tolerance", "1e-12", "--json", "-")
    assert result.json.keys() >= {"score", "mistakes", "why_blind"}
    assert result.json["mistakes"][0].keys() >= {"kind", "what", "visible", "error"}
    assert (result.code, result.json["score"]) == (0, 1.0)


def test_audit_refuses_in_one_line(rosetta: Rosetta, weights: Path, tmp_path: Path) -> None:
    rosetta("audit").refused("name the weights")
    rosetta("audit", "python:none.py:net").refused("none.py")
    rosetta("audit", tmp_path / "none.pth").refused("none.pth")
    rosetta("audit", weights, "--io", port(tmp_path), "--batch", "2").refused("--io has the images")
    rosetta("audit", weights, "--tolerance", "-1").refused("--tolerance")


def test_a_page(rosetta: Rosetta, weights: Path, tmp_path: Path) -> None:
    file, pages = port(tmp_path, "block.padding=same"), (tmp_path / "p.html", tmp_path / "p.md")
    result = rosetta("diagnose", weights, "--io", file, "--html", pages[0], "--markdown", pages[1])
    assert (result.code, result.err) == (1, "")
    page, text = (path.read_text("utf-8") for path in pages)
    assert_nothing_from_elsewhere(page)
    document = read(page)
    assert document.all("h1")[0].text == result.out.splitlines()[0]
    assert [h.text for h in document.all("h2")][:2] == ["What explains it", "What was seen"]
    cells = [cell.text for cell in document.all("td")]
    assert "--set block.padding=same" in cells
    assert "--set block.padding=same" in text
    assert str(weights) in document.all("pre")[0].text


def test_a_page_of_what_nothing_explains() -> None:
    """What comes nearest is shown, and markup in it is text."""
    nasty = "<script>1</script> | *a*"
    found = Diagnosis(
        spec=small(),
        same=False,
        explained=False,
        causes=(),
        key="eval/output",
        error_before=1e-2,
        error_after=1e-2,
        limit=1e-6,
        dtype="float32",
        tried=7,
        keys=1,
        look=(nasty,),
        still="eval/output",
        nearest=(Near(nasty, "norm.eps=0.001", 5e-3, 1e-3),),
        notes=(nasty,),
    )
    page = diagnose_page(found, "rosetta diagnose")
    text = html_page(page)
    assert_nothing_from_elsewhere(text)
    document = read(text)
    assert [h.text for h in document.all("h2")][:2] == ["What comes nearest", "What was seen"]
    assert [cell.text for cell in document.all("td")][:3] == [
        nasty,
        "--set norm.eps=0.001",
        "5.0e-03",
    ]
    assert "<script" not in markdown_page(page)


def test_compare_isolated(rosetta: Rosetta, traces: tuple[Path, Path]) -> None:
    result = rosetta("compare", *traces, "--isolated", "--json", "-")
    right_side, wrong_side = result.json["isolated"]
    assert (right_side["side"], right_side["wrong"]) == ("reference", [])
    assert wrong_side["wrong"] == [f"stages.{stage}.blocks.0.conv1" for stage in (1, 2, 3)]
    assert "3 of " in rosetta("compare", *traces, "--isolated").out


MODEL = """
import torch
import resnet_torch
from shared import get_spec, miniature, probe_weights

def net():
    spec = miniature(get_spec("torchvision/resnet18"))
    weights = probe_weights(spec)
    name = "stages.1.blocks.0.conv1.weight"
    weights[name] = weights[name].swapaxes(2, 3).copy()
    model = resnet_torch.build(spec)
    resnet_torch.load_weights(model, weights)
    return model
"""


@pytest.mark.usefixtures("identified_here")
def test_identify_against_weights_says_the_cause(
    rosetta: Rosetta, weights: Path, tmp_path: Path
) -> None:
    """The tensor, then what has been done to it."""
    pytest.importorskip("torch")
    file = tmp_path / "model.py"
    file.write_text(MODEL)
    result = rosetta(
        "identify", f"python:{file}:net", "--against", weights, "--image-size", "64", "--json", "-"
    )
    assert result.code == 1
    assert [d["ours"] for d in result.json["departures"]] == ["stages.1.blocks.0.conv1.weight"]
    (cause,) = result.json["causes"]
    assert cause["what"].endswith("its height and width transposed")
    assert cause["where"] == ["stages.1.blocks.0.conv1"]
