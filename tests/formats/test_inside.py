"""Files with more in them than one network: what is listed, what is taken, what has to be said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from shared import CheckpointError
from shared.formats.checkpoint import open_checkpoint
from tests.cli_runner import Rosetta
from tests.formats.inside_files import (
    FEATURES,
    Arrays,
    bits,
    net,
    ones,
    save,
    truth,
    under,
    weights,
)

QUERY_KEY = under("encoder_q.", net(1, 0)) | under("encoder_k.", net(2, 0))
SIDES = under("student.", net(1, 0)) | under("teacher.", net(2, 0))
PROJECTION = ones(head__0__weight=(8, FEATURES), head__2__weight=(4, 8))

# tensors, options, and the seed and classes of the network that has to arrive
CARRIED: dict[str, tuple[Arrays, tuple[str, ...], int, int]] = {
    "prefix": (under("module._orig_mod.", net(1)), (), 1, 5),
    "raw before average": (under("model.", net(1)) | under("ema.", net(2)), (), 1, 5),
    "average asked for": (under("model.", net(1)) | under("ema.", net(2)), ("--take", "ema"), 2, 5),
    "query before key": (QUERY_KEY, (), 1, 0),
    "teacher asked for": (SIDES, ("--take", "teacher"), 2, 0),
    "twins": (under("model.", net(1)) | under("attacker.model.", net(1)), (), 1, 5),
    "projection left": (net(1, 0) | PROJECTION, ("--leave-out", "*"), 1, 0),
    "projection left by its path": (net(1, 0) | PROJECTION, ("--leave-out", "head"), 1, 0),
    "projection left by names": (net(1, 0) | PROJECTION, ("--leave-out", "head.*"), 1, 0),
    "two globs": (
        net(1, 0) | PROJECTION | ones(queue=(4, 64)),
        ("--leave-out", "head", "--leave-out", "queue"),
        1,
        0,
    ),
    "optimizer": (under("model.", net(1)) | ones(optimizer__exp_avg=(7,)), (), 1, 5),
    "another head's name": (
        {n.replace("fc.", "my_layer.3."): array for n, array in net(1).items()},
        (),
        1,
        5,
    ),
    "names of nobody": (
        {
            n.replace("layer", "stage").replace(".conv", ".c").replace(".bn", ".n"): array
            for n, array in net(1).items()
        },
        (),
        1,
        5,
    ),
}


@pytest.mark.parametrize("case", CARRIED)
def test_the_network_that_is_meant_is_carried(case: str, tmp_path: Path, rosetta: Rosetta) -> None:
    tensors, options, seed, classes = CARRIED[case]
    result = rosetta("convert", save(tmp_path, tensors), tmp_path / "to.safetensors", *options)
    assert result.code == 0, result.err
    assert bits(tmp_path / "to.safetensors") == truth(seed, classes)


# tensors, options, and what has to be said
REFUSED: dict[str, tuple[Arrays, tuple[str, ...], tuple[str, ...]]] = {
    "no rule": (SIDES, (), ("2 networks", "--take", "'student', 'teacher'")),
    "no such path": (SIDES, ("--take", "tutor"), ("--take 'tutor'", "'student', 'teacher'")),
    "part of both paths": (
        under("a.net.", net(1)) | under("b.net.", net(2)),
        ("--take", "net"),
        ("2 of its networks", "'a.net', 'b.net'"),
    ),
    "one, and another asked for": (net(1), ("--take", "teacher"), ("--take 'teacher'", "single")),
    "projection": (net(1, 0) | PROJECTION, (), ("2 tensors belong", "head", "--leave-out")),
    "a glob of other tensors": (
        net(1, 0) | PROJECTION,
        ("--leave-out", "head.0.*"),
        ("1 tensor belongs", "head", "--leave-out"),
    ),
    "a bare vector": (net(1) | ones(criterion__weight=(5,)), (), ("criterion",)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_nothing_is_chosen_or_dropped_in_silence(
    case: str, tmp_path: Path, rosetta: Rosetta
) -> None:
    tensors, options, said = REFUSED[case]
    path = save(tmp_path, tensors)
    rosetta("convert", path, tmp_path / "to.safetensors", *options).refused(*said)
    assert not (tmp_path / "to.safetensors").exists()


@pytest.mark.parametrize("command", ["predict", "verify", "trace", "evaluate"])
def test_every_command_that_reads_weights_asks(
    command: str, tmp_path: Path, rosetta: Rosetta
) -> None:
    """And takes both options: the next thing that is wrong is another."""
    path = save(tmp_path, SIDES | ones(queue=(4, 64)))
    arguments: dict[str, tuple[object, ...]] = {
        "predict": (tmp_path / "no.png", "--weights", path, "--framework", "reference"),
        "verify": ("--weights", path, "--image-size", "no"),
        "trace": (
            "torchvision/resnet50", "--weights", path, "--image-size", "no",
            "-o", tmp_path / "trace.safetensors", "--framework", "reference",
        ),
        "evaluate": (path, "--dataset", "no"),
    }  # fmt: skip
    rosetta(command, *arguments[command]).refused("--take")
    rosetta(command, *arguments[command], "--take", "teacher").refused("queue", "--leave-out")
    told = rosetta(command, *arguments[command], "--take", "teacher", "--leave-out", "queue")
    told.refused("no")
    assert "--leave-out" not in told.err


# inspect


def test_inspect_lists_what_is_inside(tmp_path: Path, rosetta: Rosetta) -> None:
    tensors = {
        **under("online.backbone.", net(1, 0)),
        **under("target.backbone.", net(2, 0)),
        **under("copy.backbone.", net(1, 0)),
        **ones(projector__0__weight=(8, FEATURES), projector__2__weight=(4, 8), optimizer__m=(3,)),
    }
    path = save(tmp_path, tensors)
    found = rosetta("inspect", path, "--json", "-").json
    assert [(n["path"], n["taken"], n["classifier"], n["twins"]) for n in found["inside"]] == [
        ("copy.backbone", True, False, ["online.backbone"]),
        ("target.backbone", False, False, []),
    ]
    assert {n["tensors"] for n in found["inside"]} == {len(weights(1, 0))}
    assert found["left_out"] == ["optimizer", "projector"]
    assert "key encoder" in found["taken_by"]
    said = rosetta("inspect", path).out
    for word in (
        "taken     copy.backbone",
        "inside    target.backbone",
        "query encoder comes before the key encoder",
        "online.backbone, value by value",
        "2 in projector",
        "--leave-out",
        "1 in optimizer",
    ):
        assert word in said


def test_a_network_inside_may_be_read_as_another_format(tmp_path: Path, rosetta: Rosetta) -> None:
    """timm's names are torchvision's, with other habits behind them."""
    tensors = under("encoder_q.", net(1, 0)) | under("encoder_k.", net(2, 0)) | PROJECTION
    path = save(tmp_path, tensors)
    found = rosetta("inspect", path, "--from", "timm", "--json", "-").json
    assert found["format"] == "timm"
    taken = {n["path"]: n["taken"] for n in found["inside"]}
    assert taken == {"encoder_q": True, "encoder_k": False}
    assert len(found["ignored"]) == 2 * sum("running_var" in name for name in net(1, 0))
    rosetta("inspect", path, "--from", "keras").refused("no ResNet that is known")


def test_inspect_says_what_would_still_have_to_be_left(tmp_path: Path, rosetta: Rosetta) -> None:
    path = save(tmp_path, net(1, 0) | PROJECTION | ones(queue=(4, 64)))
    said = rosetta("inspect", path, "--leave-out", "head").out
    assert "no ResNet 1 in queue; --leave-out" in said
    assert "left out  2 by --leave-out" in said
    assert "--leave-out says" not in rosetta("inspect", path, "--leave-out", "*").out


def test_inspect_takes_none_where_no_rule_says_which(tmp_path: Path, rosetta: Rosetta) -> None:
    path = save(tmp_path, SIDES)
    found = rosetta("inspect", path, "--json", "-").json
    assert [n["taken"] for n in found["inside"]] == [False, False]
    assert "no rule" in found["taken_by"]
    found = rosetta("inspect", path, "--take", "teacher", "--json", "-").json
    assert [n["taken"] for n in found["inside"]] == [False, True]


def test_inspect_says_what_could_be_exchanged(tmp_path: Path, rosetta: Rosetta) -> None:
    """Two norms of one shape under names that say nothing."""
    tensors = {}
    for name, array in net(1).items():
        for old, new in (
            ("conv3", "b"), ("downsample.0", "a"), ("bn3", "nb"), ("downsample.1", "na"),
        ):  # fmt: skip
            name = name.replace(old, new)
        tensors[name] = array
    found = rosetta("inspect", save(tmp_path, tensors), "--json", "-").json
    doubts = " ".join(found["doubts"])
    assert "one shape" in doubts
    assert "layer1.0.na" in doubts
    assert "layer1.0.nb" in doubts


def test_what_was_left_out_is_in_the_report_of_a_conversion(
    tmp_path: Path, rosetta: Rosetta
) -> None:
    path = save(tmp_path, under("net.", net(1, 0)) | under("net.", PROJECTION))
    target = tmp_path / "to.safetensors"
    found = rosetta("convert", path, target, "--leave-out", "*", "--json", "-").json
    assert found["left_out"] == ["net.head.0.weight", "net.head.2.weight"]
    said = rosetta("convert", path, target, "--leave-out", "*").out
    assert "left out, as they belong to no ResNet: 2 in net.head" in said


# What is no ResNet of ours.

INSIDE = "layer1.0."
STRANGE: dict[str, tuple[Arrays, tuple[str, ...]]] = {
    "squeeze": (ones(se__fc1__weight=(4, 32, 1, 1), se__fc2__weight=(32, 4, 1, 1)), ("squeeze",)),
    "attention without a name": (ones(x__weight=(4, 32), y__weight=(32, 4)), ("attention",)),
    "quantised": ({"conv1.zero_point": np.zeros(8, np.int32)}, ("quantised",)),
    "nobody knows": (ones(nobody_knows=(8,)), ("layer1.0.nobody_knows",)),
}


@pytest.mark.parametrize("case", STRANGE)
@pytest.mark.parametrize("prefix", ["", "model.net."])
def test_something_more_inside_a_block_is_named(case: str, prefix: str, tmp_path: Path) -> None:
    more, words = STRANGE[case]
    path = save(tmp_path, under(prefix, net(1) | under(INSIDE, more)))
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path, leave_out=["*"])
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_metadata_of_the_file_stays(tmp_path: Path, rosetta: Rosetta) -> None:
    save_file(under("module.", net(1)), tmp_path / "a.safetensors", {"epoch": "3"})
    found = json.loads(rosetta("inspect", tmp_path / "a.safetensors", "--json", "-").out)
    assert found["metadata"] == {"epoch": "3"}
