"""`convert`: what is written is what was read, and whoever is killed leaves the old target or the
new one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shared import CheckpointError, get_spec, probe_weights, read_weights, save_weights
from shared.formats import convert as module
from shared.formats.checkpoint import Checkpoint, open_checkpoint
from shared.formats.containers.archive import Archive, Entry
from shared.formats.containers.registry import CONTAINERS
from shared.formats.convert import Options, convert
from shared.naming.schemes import FORMATS
from shared.weights.tensor_writer import rewrite_metadata
from tests.zoo import in_zoo

SPEC = get_spec("torchvision/resnet18", depths=(1, 1, 1, 1), widths=(16, 24, 32, 40), num_classes=3)
KILLS = 4  # of each seed


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("original") / "source.safetensors"
    save_weights(path, probe_weights(SPEC), SPEC)
    return path


@pytest.fixture
def source(original: Path, tmp_path: Path) -> Checkpoint:
    """In a folder of the test's own, which may harm it."""
    return open_checkpoint(shutil.copy(original, tmp_path))


WAYS = [
    (form, container)
    for form, target in FORMATS.items()
    for container in target.containers
    if container not in target.read_only
    and form in ("canonical", "torchvision", "timm", "huggingface", "torch", "keras", "nnx")
]


@pytest.mark.parametrize(("form", "container"), WAYS)
def test_every_container_there_and_back(
    source: Checkpoint, tmp_path: Path, form: str, container: str
) -> None:
    if container in ("torch",):
        pytest.importorskip("torch")
    if container == "orbax":
        pytest.importorskip("orbax.checkpoint")
    suffixes = CONTAINERS[container].suffixes
    there, back = (
        tmp_path / f"there{suffixes[0] if suffixes else ''}",
        tmp_path / "back.safetensors",
    )
    report = convert(source, there, form)
    assert report.to_dict()["verified"] is True
    assert report.target.archive.container == container
    assert report.notes == ()
    convert(open_checkpoint(there), back)
    returned = open_checkpoint(back)
    for name, array in source.arrays():
        np.testing.assert_array_equal(returned.entries[name].load(), array)


def test_the_same_source_gives_the_same_bytes(source: Checkpoint, tmp_path: Path) -> None:
    digests = {
        convert(source, tmp_path / f"{i}.safetensors", "torchvision").sha256 for i in range(2)
    }
    assert len(digests) == 1


class Lossy:
    """A container that forgets something on the way."""

    def __init__(self, harm):
        self.harm, self.true = harm, CONTAINERS["safetensors"]
        self.name, self.title, self.dtypes, self.folder = (
            "safetensors",
            "lossy",
            self.true.dtypes,
            False,
        )

    def write(self, path: Path, archive: Archive) -> None:
        self.true.write(path, replace(archive, entries=self.harm(dict(archive.entries))))

    def read_back(self, path: Path) -> Archive:
        return self.true.read(path)


def one_bit(entries: dict[str, Entry]) -> dict[str, Entry]:
    array = entries["fc.bias"].load().copy()
    array.view(np.uint32)[1] ^= 1
    return entries | {"fc.bias": Entry.of(array)}


def minus_zero(entries: dict[str, Entry]) -> dict[str, Entry]:
    return entries | {"bn1.bias": Entry.of(-entries["bn1.bias"].load())}


def exchanged(entries: dict[str, Entry]) -> dict[str, Entry]:
    a, b = "layer1.0.bn1.weight", "layer1.0.bn2.weight"
    return entries | {a: entries[b], b: entries[a]}


def one_more(entries: dict[str, Entry]) -> dict[str, Entry]:
    return entries | {"layer1.0.bn1.num_batches_tracked_twice": Entry.of(np.zeros(1, np.int64))}


@pytest.mark.parametrize(
    "harm", [one_bit, minus_zero, exchanged, one_more], ids=lambda harm: harm.__name__
)
def test_a_writer_that_loses_something_is_caught(
    source: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm
) -> None:
    zeroed = {**source.entries, "stem.norm1.bias": Entry.of(np.zeros(64, np.float32))}
    source = replace(source, entries=zeroed, archive=replace(source.archive, metadata={}))
    monkeypatch.setattr(
        module, "find_target", lambda *arguments: (FORMATS["torchvision"], Lossy(harm))
    )
    with pytest.raises(CheckpointError):
        convert(source, tmp_path / "target.safetensors")
    assert not (tmp_path / "target.safetensors").exists()


TARGETS = [
    ("canonical", "b.safetensors"),
    ("torchvision", "b.safetensors"),
    ("torch", "b.pth"),
    ("keras", "b.weights.h5"),
    ("keras", "b.h5"),
    ("huggingface", "b"),
    ("nnx", "b.safetensors"),
]


@pytest.mark.parametrize(("form", "name"), TARGETS)
def test_values_that_are_refused_leave_no_file(
    source: Checkpoint, tmp_path: Path, form: str, name: str
) -> None:
    """They are found while the target is written, all of them, and nothing of it stays."""
    if name.endswith(".pth"):
        pytest.importorskip("torch")
    harmed = dict(source.entries)
    for tensor, value in (
        ("stages.3.blocks.0.conv2.weight", np.inf),
        ("head.bias", np.nan),
        ("stem.norm1.running_var", -1),
    ):
        array = harmed[tensor].load().copy()
        array.flat[-1] = value
        harmed[tensor] = Entry.of(array)
    before = sorted(tmp_path.iterdir())
    bad = replace(source, entries=harmed, archive=replace(source.archive, metadata={}))
    with pytest.raises(
        CheckpointError, match=r"2 not finite: head.bias .*conv2.weight has 1 .*1 negative: stem"
    ):
        convert(bad, tmp_path / name, form)
    assert sorted(tmp_path.iterdir()) == before


def test_a_source_that_is_not_what_its_digests_say(source: Checkpoint, tmp_path: Path) -> None:
    data = bytearray(source.path.read_bytes())
    data[-1] ^= 1
    source.path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"1 damaged: .* does not match its SHA-256"):
        convert(open_checkpoint(source.path), tmp_path / "b.safetensors", "torchvision")
    assert [path.name for path in tmp_path.iterdir()] == ["source.safetensors"]


def test_the_digests_of_a_canonical_file_are_those_of_its_tensors(
    source: Checkpoint, tmp_path: Path
) -> None:
    """Written before they are known, and the same as those of who knows them beforehand."""
    convert(source, tmp_path / "b.pth", "torch")
    target = tmp_path / "b.safetensors"
    found = convert(open_checkpoint(tmp_path / "b.pth"), target)
    told = json.loads(found.target.archive.metadata["sha256"])
    assert told == {
        name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in source.arrays()
    }
    assert told == json.loads(source.archive.metadata["sha256"])
    assert found.sha256 == hashlib.sha256(target.read_bytes()).hexdigest()
    read_weights(target)


def flip(path: Path, position: int) -> None:
    with path.open("rb+") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("where", ["a value", "a digest", "the end"])
def test_a_file_that_is_harmed_before_it_is_read_back(
    source: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def rewrite(path: Path, tensors: Mapping[str, Entry], metadata: Mapping[str, str]) -> None:
        rewrite_metadata(path, tensors, metadata)
        if where == "the end":
            os.truncate(path, path.stat().st_size - 1)
        else:
            digest = path.read_bytes().index(json.loads(metadata["sha256"])["head.bias"].encode())
            flip(path, path.stat().st_size - 5 if where == "a value" else digest)

    monkeypatch.setattr(module, "rewrite_metadata", rewrite)
    said = {
        "a value": r"does not read back \(head",
        "a digest": r"does not read back \(the metadata",
        "the end": "its tensors end at byte",
    }
    with pytest.raises(CheckpointError, match=said[where]):
        convert(source, tmp_path / "b.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["source.safetensors"]


@pytest.mark.parametrize(("form", "name"), TARGETS)
def test_every_tensor_of_the_source_is_read_once(
    source: Checkpoint, tmp_path: Path, form: str, name: str
) -> None:
    """A second reading could give something else, and costs time."""
    if name.endswith(".pth"):
        pytest.importorskip("torch")
    count: Counter[str] = Counter()

    def counted(tensor: str, entry: Entry) -> Entry:
        def load() -> np.ndarray:
            count[tensor] += 1
            return entry.load()

        return replace(entry, load=load)

    entries = {tensor: counted(tensor, entry) for tensor, entry in source.entries.items()}
    convert(replace(source, entries=entries), tmp_path / name, form)
    assert count == dict.fromkeys(entries, 1)


def test_the_target_is_identified_once(
    source: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    true = module.identify
    monkeypatch.setattr(module, "identify", lambda *a: calls.append(a) or true(*a))
    convert(source, tmp_path / "b.safetensors", "torchvision")
    assert len(calls) == 1


def with_values(source: Checkpoint, **changed: dict[int, float]) -> Checkpoint:
    """The source with some values changed: tensor -> {index: value}; dots are written as __."""
    entries = dict(source.entries)
    for tensor, values in changed.items():
        name = tensor.replace("__", ".")
        array = entries[name].load().copy()
        for index, value in values.items():
            array.flat[index] = value
        entries[name] = Entry.of(array)
    return replace(source, entries=entries, archive=replace(source.archive, metadata={}))


@pytest.mark.parametrize(("form", "name"), TARGETS)
def test_values_that_the_dtype_cannot_hold_are_refused(
    source: Checkpoint, tmp_path: Path, form: str, name: str
) -> None:
    """Infinities would be read back as written, and then be refused by whoever reads the file."""
    if name.endswith(".pth"):
        pytest.importorskip("torch")
    large = with_values(
        source,
        head__weight={0: 7e4, 5: -1e38},
        stem__conv1__weight={3: 65519.9},  # rounds to the largest, 65504
        stages__0__blocks__0__norm1__running_mean={1: 1e5},
        stages__0__blocks__0__norm1__running_var={0: 1e-9, 1: 0, 2: 6e-8, 3: 1e-8},
    )
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CheckpointError) as refusal:
        convert(large, tmp_path / name, form, Options(dtype="float16"))
    said = str(refusal.value)
    assert said.isprintable()
    assert (
        "2 too large for float16, not for float32 or bfloat16: head.weight has 2 values that "
        "become inf; stages.0.blocks.0.norm1.running_mean has 1 values that become inf | "
        "1 too small for float16: stages.0.blocks.0.norm1.running_var has 2 variances that become 0"
    ) in said
    assert sorted(tmp_path.iterdir()) == before


def test_a_dtype_that_the_container_has_not_is_refused(source: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="--dtype bfloat16 cannot be kept"):
        convert(source, tmp_path / "b.weights.h5", "keras", Options(dtype="bfloat16"))


@pytest.fixture(scope="module")
def caffes(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A ResNet-50 of Keras, the one network that has names of Caffe's."""
    spec = get_spec("keras/resnet50", num_classes=3)
    path = tmp_path_factory.mktemp("caffe") / "source.safetensors"
    save_weights(path, probe_weights(spec), spec)
    return open_checkpoint(path)


def with_variances(source: Checkpoint, smallest: float) -> Checkpoint:
    names = [name for name in source.entries if name.endswith("running_var")]
    changes = {name.replace(".", "__"): {0: smallest, 1: smallest} for name in names}
    return with_values(source, **changes)


def test_eps_is_folded_into_caffes(caffes: Checkpoint, tmp_path: Path) -> None:
    source = with_variances(caffes, 1e-2)
    with pytest.raises(CheckpointError, match=r"norm.eps is 0\.001 there"):
        convert(source, tmp_path / "b.h5", "keras-caffe")
    found = convert(source, tmp_path / "b.h5", "keras-caffe", Options(fold_eps=True))
    assert "eps 1.001e-05 folded into running variances as 0.001, each rounded once" in found.notes
    back = open_checkpoint(tmp_path / "b.h5", "keras-caffe")
    assert back.spec.norm.eps == 1e-3
    assert back.names["stages.1.blocks.3.conv2.weight"] == "res3d_branch2b/kernel"
    name = "stem.norm1.running_var"
    exact = source.entries[name].load().astype(np.float64) + 1.001e-5 - 1e-3
    np.testing.assert_array_equal(back.entries[name].load(), exact.astype(np.float32))


def test_variances_that_folding_makes_negative_are_refused(
    caffes: Checkpoint, tmp_path: Path
) -> None:
    source = with_variances(caffes, 1e-5)
    with pytest.raises(
        CheckpointError, match=r"53 with variances .* below zero .* in channels 0, 1;"
    ):
        convert(source, tmp_path / "b.h5", "keras-caffe", Options(fold_eps=True))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", [0, in_zoo(1), in_zoo(2)])
def test_killed_at_any_moment(source: Checkpoint, tmp_path: Path, seed: int) -> None:
    """The old target or the new one, whole, and never anything between."""
    target = tmp_path / "target.safetensors"
    old = tmp_path / "old.safetensors"
    save_weights(old, probe_weights(SPEC, seed=1), SPEC)
    whole = convert(source, tmp_path / "new.safetensors").sha256
    target.write_bytes(old.read_bytes())
    command = [
        sys.executable,
        "-m",
        "shared.cli.main",
        "convert",
        str(source.path),
        str(target),
        "--json",
        "-",
    ]
    started = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    seconds = time.perf_counter() - started
    assert json.loads(done.stdout)["sha256"] == whole
    rng, outcomes = np.random.default_rng(seed), set()
    for _ in range(KILLS):
        target.write_bytes(old.read_bytes())
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.3, 1.1) * seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = target.read_bytes()
        outcomes.add("old" if found == old.read_bytes() else "new")
        assert found in (old.read_bytes(), (tmp_path / "new.safetensors").read_bytes())
    assert outcomes


def test_a_rename_that_fails_leaves_the_old_target(
    source: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target.safetensors"
    target.write_bytes(b"old")

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(CheckpointError, match="No space left on device"):
                convert(source, target, "torchvision")
        assert target.read_bytes() == b"old"
        assert sorted(p.name for p in tmp_path.iterdir()) == [
            "source.safetensors",
            "target.safetensors",
        ]


def test_a_config_that_lies_beside_a_file_is_not_its(source: Checkpoint, tmp_path: Path) -> None:
    """Only the hub's own file name makes a folder with a config.json the hub's."""
    (tmp_path / "config.json").write_text("settings of something else, and no JSON")
    assert open_checkpoint(source.path).format.name == "canonical"


@pytest.mark.parametrize("form", [in_zoo("canonical"), in_zoo("timm"), "torchvision"])
def test_a_folder_of_the_hub_may_hold_any_names(tmp_path: Path, form: str) -> None:
    """timm's repositories have a config.json as well, which is not transformers'; it says whose
    names they are, which torchvision's are, too."""
    spec, folder = get_spec("torchvision/resnet18", num_classes=3), tmp_path / "repository"
    save_weights(tmp_path / "source.safetensors", probe_weights(spec), spec)
    source = open_checkpoint(tmp_path / "source.safetensors")
    folder.mkdir()
    (folder / "config.json").write_text('{"architecture": "resnet18", "num_classes": 3}')
    convert(source, folder / "model.safetensors", form)
    for path in (folder, folder / "model.safetensors"):
        found = open_checkpoint(path, form)
        assert (found.archive.container, found.preset) == ("huggingface", "timm/resnet18")
        for name, array in source.arrays():
            np.testing.assert_array_equal(found.entries[name].load(), array)
    assert open_checkpoint(folder).format.name == {"torchvision": "timm"}.get(form, form)


def test_a_strided_first_stage_of_three(tmp_path: Path) -> None:
    """transformers' downsample_in_first_stage, in a network of other than four stages."""
    spec = SPEC.replace(depths=(1, 1, 1), widths=(64, 128, 256), strides=(2, 2, 2))
    save_weights(tmp_path / "a.safetensors", probe_weights(spec), spec)
    convert(open_checkpoint(tmp_path / "a.safetensors"), tmp_path / "a", "huggingface")
    assert (
        json.loads((tmp_path / "a" / "config.json").read_text())["downsample_in_first_stage"]
        is True
    )
    assert open_checkpoint(tmp_path / "a").spec.strides == (2, 2, 2)
