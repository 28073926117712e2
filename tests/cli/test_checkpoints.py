"""`rosetta inspect`, `convert` and `predict`, and `--weights` of the other commands."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from shared import get_spec, list_presets, make_plan, probe_weights, save_weights
from shared.formats.checkpoint import open_checkpoint
from shared.formats.convert import Options, convert
from shared.images.labels import DATASETS, class_names
from tests.cli_runner import Rosetta
from tests.frameworks.here import no_processes
from tests.zoo import in_zoo

PRESET = "cifar/resnet20"
SPEC = get_spec(PRESET, depths=(1, 1, 1))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_weights(path, probe_weights(SPEC), SPEC)
    return path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)).save(path)
    return path


# inspect


def test_inspect_for_a_person(rosetta: Rosetta, tmp_path: Path) -> None:
    tensors = probe_weights(get_spec("torchvision/resnet18", num_classes=5))
    save_file(
        {f"module.{k}": v for k, v in torchvision_names(tensors).items()},
        tmp_path / "a.safetensors",
    )
    save_file(torchvision_names(tensors), tmp_path / "b.safetensors")
    assert "inside    module" in rosetta("inspect", tmp_path / "a.safetensors").out
    result = rosetta("inspect", tmp_path / "b.safetensors", "--tensors")
    assert (result.code, result.err) == (0, "")
    for said in (
        "torchvision/resnet18: every tensor fits",
        "5 classes",
        "102 of float32",
        "norm.eps=1e-05",
        "the same tensors: timm/resnet18",
        "layer2.0.downsample.0.weight",
    ):
        assert said in result.out


def torchvision_names(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """By hand, for basic blocks."""
    found = {}
    for name, array in weights.items():
        for old, new in (
            ("stem.conv1", "conv1"),
            ("stem.norm1", "bn1"),
            ("shortcut.conv", "downsample.0"),
            ("shortcut.norm", "downsample.1"),
            (".norm", ".bn"),
            ("head", "fc"),
            ("blocks.", ""),
            *((f"stages.{s}", f"layer{s + 1}") for s in range(4)),
        ):
            name = name.replace(old, new)
        found[name] = array
    return found


def test_inspect_for_a_program(rosetta: Rosetta, weights: Path) -> None:
    found = rosetta("inspect", weights, "--json", "-").json
    assert {"format", "preset", "candidates", "tensors", "params", "dtypes", "metadata"} <= set(
        found
    )
    assert (found["format"], found["identified_by"], found["dtypes"]) == (
        "canonical",
        "metadata",
        ["float32"],
    )
    assert found["tensors"] == len(load_file(weights))


@pytest.mark.parametrize(
    ("options", "given"),
    [((), set()), (("--set", "norm.eps=1e-5"), {"norm.eps"})],
    ids=["file", "caller"],
)
def test_inspect_says_who_says_what(
    rosetta: Rosetta, weights: Path, tmp_path: Path, options: tuple[str, ...], given: set
) -> None:
    """Each field that no tensor tells is told by the file, given by the caller, or assumed."""
    found = rosetta("inspect", weights, *options, "--json", "-").json
    assert (found["told"]["norm.eps"], found["told_by"]) == (1e-5, ["its metadata"])
    assert (found["assumed"], set(found["given"])) == ({}, given)
    assert "  told      by its metadata: norm.eps=1e-05" in rosetta("inspect", weights).out
    save_file(
        torchvision_names(probe_weights(get_spec("torchvision/resnet18"))),
        tmp_path / "a.safetensors",
    )
    found = rosetta("inspect", tmp_path / "a.safetensors", *options, "--json", "-").json
    assert (found["told"], set(found["given"])) == ({}, given)
    assert ("norm.eps" in found["assumed"]) == (not given)
    assert not found["assumed"].keys() & found["given"].keys()


def test_the_caller_does_not_overrule_a_file(rosetta: Rosetta, weights: Path) -> None:
    rosetta("inspect", weights, "--set", "norm.eps=0.001").refused(
        "its metadata says norm.eps = 1e-05", "--set says norm.eps = 0.001"
    )


def test_inspect_names_every_preset_with_the_same_tensors(rosetta: Rosetta, tmp_path: Path) -> None:
    spec = get_spec("cifar/resnet110")
    save_weights(tmp_path / "a.safetensors", probe_weights(spec), spec)
    found = rosetta("inspect", tmp_path / "a.safetensors", "--json", "-").json["candidates"]
    tensors = make_plan(spec).tensors
    same = [n for n in list_presets() if make_plan(get_spec(n, num_classes=10)).tensors == tensors]
    assert found == same
    assert len(same) > 8
    text = rosetta("inspect", tmp_path / "a.safetensors").out
    assert [name for name in same if name not in text] == []


def test_inspect_names_the_nearest_preset(rosetta: Rosetta, tmp_path: Path, weights: Path) -> None:
    """Of a network that is none, and of a file that is no network."""
    result = rosetta("inspect", weights)
    assert "no preset, but a network that can be built" in result.out
    assert "  nearest   cifar/resnet20: " in result.out
    found = rosetta("inspect", weights, "--json", "-").json
    assert (found["preset"], found["nearest"]) == (None, "cifar/resnet20")
    tensors = torchvision_names(probe_weights(get_spec("torchvision/resnet18")))
    save_file(
        {f"encoder.{name}": array for name, array in tensors.items()}, tmp_path / "a.safetensors"
    )
    found = rosetta("inspect", tmp_path / "a.safetensors", "--json", "-").json
    assert [one["path"] for one in found["inside"]] == ["encoder"]
    del tensors["layer2.0.conv1.weight"]
    save_file(tensors, tmp_path / "b.safetensors")
    rosetta("inspect", tmp_path / "b.safetensors").refused(
        "torchvision/resnet18: 1 missing: layer2.0.conv1.weight"
    )


def test_a_preset_that_does_not_fit_is_refused_with_every_problem(
    rosetta: Rosetta, weights: Path
) -> None:
    rosetta("inspect", weights, "--preset", "resnet50").refused(
        "missing", "of another shape", "torchvision/resnet50"
    )


# convert

CHAIN = ("b.pth", "c.weights.h5", "d.keras", "e.h5")


def test_a_chain_of_conversions_ends_where_it_began(
    rosetta: Rosetta, tmp_path: Path, weights: Path
) -> None:
    """Through four containers and back to canonical: the same file, byte for byte."""
    source = weights
    for name in CHAIN:
        to = "keras" if "h5" in name or "keras" in name else "torch"
        result = rosetta("convert", source, tmp_path / name, "--to", to, "--json", "-")
        assert (result.code, result.err) == (0, "")
        assert result.json["verified"] is True
        source = tmp_path / name
    end = tmp_path / "end.safetensors"
    assert rosetta("convert", source, end).code == 0
    first, last = load_file(weights), load_file(end)
    assert first.keys() == last.keys()
    assert all(np.array_equal(first[name], last[name]) for name in first)


def test_convert_says_what_it_did(rosetta: Rosetta, tmp_path: Path, weights: Path) -> None:
    out = tmp_path / "a.pth"
    result = rosetta("convert", weights, out, "--to", "akamaster")
    assert (result.code, result.err) == (0, "")
    assert "read back and equal bit by bit" in result.out
    keys = {"source", "target", "preset", "tensors", "params", "sha256", "verified"}
    again = rosetta("convert", weights, tmp_path / "b.pth", "--to", "akamaster", "--json", "-").json
    assert keys <= set(again)
    assert again["sha256"] in result.out  # the same bytes from the same source


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("a.msgpack",), "Flax Linen ImageNet example cannot express"),
        (("a.npz",), "Big Transfer npz cannot express"),
        (("a.xyz",), "say --to FORMAT"),
        (("a.pth", "--to", "linen"), "not kept in such a file"),
        (("a.pth", "--to", "lenin"), "nearest: linen"),
        (("nowhere/a.pth", "--to", "akamaster"), "there is no folder"),
        (("a.weights.h5", "--to", "keras-hub"), "is read, and not written"),
        (("a.pth", "--from", "torchvision"), "no ResNet that is known"),
    ],
)
def test_what_cannot_be_is_refused(
    rosetta: Rosetta, tmp_path: Path, weights: Path, arguments: tuple[str, ...], said: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    rosetta("convert", weights, tmp_path / arguments[0], *arguments[1:]).refused(said)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_old_target_stands_when_the_new_one_is_refused(
    rosetta: Rosetta, tmp_path: Path, weights: Path
) -> None:
    target = tmp_path / "old.npz"
    target.write_bytes(b"old")
    rosetta("convert", weights, target).refused("cannot express")
    assert target.read_bytes() == b"old"


@pytest.mark.skipif(os.geteuid() == 0, reason="root ignores permissions of folders")
def test_a_read_only_folder_is_said(rosetta: Rosetta, tmp_path: Path, weights: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    rosetta("convert", weights, folder / "a.pth", "--to", "akamaster").refused("not writable")


def test_a_disk_that_is_full_is_said_and_the_old_target_stands(
    tmp_path: Path, weights: Path
) -> None:
    """A limit on the size of files fails a write as a full disk does."""
    target = tmp_path / "target.safetensors"
    target.write_bytes(b"old")
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000)); "
        f"sys.argv = ['rosetta', 'convert', {str(weights)!r}, {str(target)!r}]; "
        "from shared.cli.main import main; main()"
    )
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "cannot be written" in done.stderr
    assert target.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "target.safetensors",
        "weights.safetensors",
    ]


def test_a_folder_is_never_replaced(rosetta: Rosetta, tmp_path: Path, weights: Path) -> None:
    assert (
        rosetta("convert", weights, tmp_path / "model", "--to", "keras").code == 0
    )  # TensorFlow.js
    assert (tmp_path / "model" / "model.json").exists()
    rosetta("convert", weights, tmp_path / "model", "--to", "keras").refused("exists already")


def test_a_value_that_is_not_finite_is_refused_in_the_files_own_name(
    rosetta: Rosetta, tmp_path: Path
) -> None:
    tensors = torchvision_names(probe_weights(get_spec("torchvision/resnet18", num_classes=5)))
    tensors["layer3.1.bn2.running_mean"][7] = np.nan
    tensors["bn1.running_var"][1] = -1
    save_file(tensors, tmp_path / "a.safetensors")
    result = rosetta("convert", tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    result.refused(
        "1 not finite: layer3.1.bn2.running_mean has 1", "1 negative: bn1.running_var has 1"
    )
    assert not (tmp_path / "b.safetensors").exists()


def test_bfloat16_is_kept_or_widened_and_said(tmp_path: Path) -> None:
    save_weights(tmp_path / "a.safetensors", probe_weights(SPEC, dtype="bfloat16"), SPEC)
    source = open_checkpoint(tmp_path / "a.safetensors")
    kept = convert(source, tmp_path / "b.pth", "akamaster")
    assert kept.target.dtypes == ("bfloat16",)
    assert not kept.notes or "bfloat16" not in kept.notes[0]
    widened = convert(source, tmp_path / "b.h5", "keras")
    assert widened.target.dtypes == ("float32",)
    assert "bfloat16 to float32: widened, exactly" in widened.notes[0]
    rounded = convert(source, tmp_path / "c.safetensors", options=Options(dtype="float16"))
    assert rounded.target.dtypes == ("float16",)
    assert "rounded" in rounded.notes[0]


def test_biases_and_eps_fold_only_when_asked(rosetta: Rosetta, tmp_path: Path) -> None:
    spec = get_spec("keras/resnet50", depths=(1, 1, 1, 1), num_classes=3)
    save_weights(tmp_path / "a.safetensors", probe_weights(spec), spec)
    target = tmp_path / "folder"
    arguments = ("convert", tmp_path / "a.safetensors", target, "--to", "huggingface")
    rosetta(*arguments).refused("norm.eps is 1e-05 there, 1.001e-05 here", "block.bias")
    rosetta(*arguments, "--fold-bias").refused("norm.eps")
    result = rosetta(*arguments, "--fold-bias", "--fold-eps", "--json", "-")
    assert result.code == 0
    assert any("biases folded" in note for note in result.json["notes"])
    config = json.loads((target / "config.json").read_text())
    assert config["downsample_in_bottleneck"] is True


def test_check_runs_both_ends(
    rosetta: Rosetta, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    no_processes(monkeypatch)
    done = rosetta(
        "convert", weights, tmp_path / "a.pth", "--to", "akamaster", "--check", "--json", "-"
    )
    assert done.code == 0, done
    pairs = [(c["a"], c["b"]) for c in done.json["comparisons"]]
    assert pairs == [
        ("reference (source)", "torch (target)"),
        ("reference (source)", "reference (target)"),
        ("torch (target)", "reference (target)"),
    ]
    assert all(c["passed"] and c["tensors"] > 20 for c in done.json["comparisons"])


# predict


def test_predict_for_a_program(
    rosetta: Rosetta, weights: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    no_processes(monkeypatch)
    found = rosetta(
        "predict",
        photo,
        photo,
        "--weights",
        weights,
        "--framework",
        "torch,reference",
        "--top",
        3,
        "--json",
        "-",
    ).json
    assert [(one["framework"], len(one["top"])) for one in found] == [("torch", 3)] * 2 + [
        ("reference", 3)
    ] * 2
    torch_one, reference_one = found[0]["top"], found[2]["top"]
    assert [guess["class"] for guess in torch_one] == [guess["class"] for guess in reference_one]
    assert torch_one[0]["label"] in class_names("cifar10")
    assert torch_one[0]["probability"] == pytest.approx(reference_one[0]["probability"], rel=1e-4)


def test_predict_for_a_person(rosetta: Rosetta, weights: Path, photo: Path) -> None:
    result = rosetta(
        "predict", photo, "--weights", weights, "--framework", "reference", "--labels", "none"
    )
    assert (result.code, result.err) == (0, "")
    assert "32 x 32 pixels, preprocessed as 'imagenet'" in result.out
    assert result.out.count("%") == 5


def test_predict_as_deployed(rosetta: Rosetta, weights: Path, photo: Path) -> None:
    command = ("predict", photo, "--weights", weights, "--framework", "reference")
    result = rosetta(*command, "--deployed")
    assert "as deployed: norms folded, compiled" in result.out
    plain, folded = (rosetta(*command, *more, "--json", "-").json for more in ((), ("--deployed",)))
    assert folded != plain  # in the last digits
    for a, b in zip(plain[0]["top"], folded[0]["top"], strict=True):
        assert (a["class"], a["label"]) == (b["class"], b["label"])
        assert a["probability"] == pytest.approx(b["probability"], rel=1e-4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--preprocessing", "cafe"), "nearest: caffe"),
        (("--labels", "imagenet-1k"), "1000 class names for 10 classes"),
        (("--labels", "cifar"), "nearest: cifar10"),
        (("--resize", 8), "must be at least the 32 pixels"),
        (("--framework", "tinygrad"), "unknown framework"),
    ],
)
def test_predict_refuses(
    rosetta: Rosetta, weights: Path, photo: Path, options: tuple, said: str
) -> None:
    framework = () if "--framework" in options else ("--framework", "reference")
    rosetta("predict", photo, "--weights", weights, *framework, *options).refused(said)


def test_a_network_without_a_classifier_names_nothing(
    rosetta: Rosetta, tmp_path: Path, photo: Path
) -> None:
    spec = SPEC.replace(num_classes=0)
    save_weights(tmp_path / "a.safetensors", probe_weights(spec), spec)
    rosetta(
        "predict", photo, "--weights", tmp_path / "a.safetensors", "--framework", "reference"
    ).refused("has no classifier")


@pytest.mark.parametrize("dataset", DATASETS)
def test_class_names(dataset: str) -> None:
    names = class_names(dataset)
    assert len(names) == {"imagenet-1k": 1000, "imagenet-1k-background": 1001, "none": 0}.get(
        dataset, 10
    )
    assert len(set(names)) == len(names)
    if dataset == "imagenet-1k":
        assert (names[285], names[967]) == ("Egyptian cat", "espresso")


# --weights


@pytest.fixture
def converted(tmp_path: Path, weights: Path) -> Path:
    pytest.importorskip("h5py")
    path = tmp_path / "a.weights.h5"
    convert(open_checkpoint(weights), path)
    return path


@pytest.mark.parametrize("more", [("--check", "eval"), in_zoo(((),))], ids=["eval", "every check"])
def test_verify_takes_a_foreign_checkpoint_and_its_network(
    rosetta: Rosetta, converted: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    pytest.importorskip("torch")
    no_processes(monkeypatch)
    arguments = ("--weights", converted, "--framework", "torch,reference", *more, "--json", "-")
    done = rosetta("verify", *arguments)
    assert done.code == 0, done
    assert done.json["passed"] is True


def test_a_trace_of_foreign_weights_is_that_of_their_canonical_form(
    rosetta: Rosetta, tmp_path: Path, weights: Path, converted: Path
) -> None:
    files = [tmp_path / "a.trace", tmp_path / "b.trace"]
    for file, source in zip(files, (weights, converted), strict=True):
        network = (PRESET, "--set", "depths=1,1,1", "--framework", "reference", "--check", "eval")
        done = rosetta("trace", *network, "--weights", source, "-o", file)
        assert (done.code, done.err) == (0, "")
    assert rosetta("compare", *files).code == 0
