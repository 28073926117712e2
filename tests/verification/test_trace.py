"""`shared.verification.trace`: a trace on disk is the trace that was taken, and nothing else is
taken for one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from shared import CheckpointError, Trace, get_spec, miniature, probe_weights, save_weights
from shared.verification.trace import FORMAT, provenance
from shared.weights.canonical import Weights
from shared.weights.files import TensorFile, read_tensors
from tests.probes import reference_trace

SPEC = miniature(get_spec("cifar/resnet20"))


@pytest.fixture
def found() -> Trace:
    return reference_trace(SPEC)


@pytest.fixture
def file(found: Trace, tmp_path: Path) -> Path:
    path = tmp_path / "trace.safetensors"
    found.save(path)
    return path


def rewrite(path: Path, **metadata: str | None) -> None:
    """The same tensors with other metadata; None removes an entry."""
    old = TensorFile(path)
    changed = {**old.metadata, **{k: v for k, v in metadata.items() if v is not None}}
    for key in [k for k, v in metadata.items() if v is None]:
        del changed[key]
    save_file({name: np.array(old[name]) for name in old.names}, path, changed)


def test_round_trip(found: Trace, file: Path) -> None:
    loaded = Trace.load(file)
    assert loaded.spec == found.spec
    assert (loaded.framework, loaded.dtype, loaded.about) == (
        found.framework,
        found.dtype,
        found.about,
    )
    assert loaded.names == found.names
    for name in found.names:
        assert loaded.shape(name) == found.shape(name)
        assert loaded[name].dtype == np.float64
        np.testing.assert_array_equal(loaded[name], found[name])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_round_trip_keeps_the_dtype(found: Trace, tmp_path: Path, dtype: type) -> None:
    low = replace(found, arrays={name: found[name].astype(dtype) for name in found.names})
    low.save(tmp_path / "low.safetensors")
    loaded = Trace.load(tmp_path / "low.safetensors")
    assert {loaded[name].dtype for name in loaded.names} == {np.dtype(dtype)}


def test_order_of_computation_is_kept_although_the_file_sorts_by_dtype(
    found: Trace, tmp_path: Path
) -> None:
    names = found.names
    assert names != sorted(names)
    mixed = {n: found[n].astype(np.float32 if k % 2 else np.float64) for k, n in enumerate(names)}
    replace(found, arrays=mixed).save(tmp_path / "mixed.safetensors")
    tensors, about = read_tensors(tmp_path / "mixed.safetensors")
    save_file(tensors, tmp_path / "mixed.safetensors", about)  # the library's writer sorts
    assert Trace.load(tmp_path / "mixed.safetensors").names == names
    assert TensorFile(tmp_path / "mixed.safetensors").names != names


def test_an_empty_trace_round_trips(tmp_path: Path) -> None:
    Trace(SPEC, "reference", "float64", {}).save(tmp_path / "empty.safetensors")
    assert Trace.load(tmp_path / "empty.safetensors").names == []


def test_non_contiguous_arrays_are_written_as_they_read(tmp_path: Path) -> None:
    array = np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1)[::-1]
    Trace(SPEC, "reference", "float64", {"eval/x": array}).save(tmp_path / "t.safetensors")
    np.testing.assert_array_equal(Trace.load(tmp_path / "t.safetensors")["eval/x"], array)


def sources(weights: Weights, images: np.ndarray) -> dict[str, str]:
    return provenance(weights.items(), images)


def test_provenance_says_what_went_in(found: Trace) -> None:
    weights = probe_weights(SPEC)
    images = np.ones((2, 8, 9, 3))
    about = sources(weights, images)
    assert about["image_shape"] == "2x8x9x3"
    assert about["weights"] != about["images"]
    assert sources(weights, images) == about
    assert sources(weights, images + 1e-15)["images"] != about["images"]
    changed = {**weights, "head.bias": weights["head.bias"] + np.float32(1e-3)}
    assert sources(changed, images)["weights"] != about["weights"]
    assert set(found.versions) >= {"python", "numpy"}
    assert found.versions["numpy"] == np.__version__


def test_hashes_do_not_depend_on_the_float_type() -> None:
    weights = probe_weights(SPEC)
    wide = {name: array.astype(np.float64) for name, array in weights.items()}
    images = np.ones((1, 8, 8, 3))
    assert sources(weights, images)["weights"] == sources(wide, images)["weights"]


def test_weights_are_no_trace(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", probe_weights(SPEC), SPEC)
    with pytest.raises(CheckpointError, match="not a trace"):
        Trace.load(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x04K\x01.", b"PK\x03\x04" + bytes(100), b"\xff" * 64]
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.safetensors"):
        Trace.load(path)


@pytest.mark.parametrize("part", [0.0, 0.001, 0.3, 0.999])
def test_truncated(file: Path, part: float) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(part * len(data))])
    with pytest.raises(CheckpointError, match="damaged"):
        Trace.load(file)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        Trace.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("key", ["spec", "framework", "dtype", "order"])
def test_metadata_must_be_whole(file: Path, key: str) -> None:
    rewrite(file, **{key: None})
    with pytest.raises(CheckpointError, match=f"not that of a trace .*{key}"):
        Trace.load(file)


@pytest.mark.parametrize("spec", ["", "[]", "{", '{"depths": [0]}', '{"layers": 3}'])
def test_spec_must_be_possible(file: Path, spec: str) -> None:
    rewrite(file, spec=spec)
    with pytest.raises(CheckpointError, match="not that of a trace"):
        Trace.load(file)


def test_order_must_name_the_tensors(file: Path) -> None:
    rewrite(file, order="eval/stem.conv1")
    with pytest.raises(CheckpointError, match="list of layers"):
        Trace.load(file)


def test_format_is_checked(file: Path) -> None:
    rewrite(file, format=FORMAT + "-2")
    with pytest.raises(CheckpointError, match="not a trace"):
        Trace.load(file)


def test_a_refused_save_leaves_the_old_file(found: Trace, file: Path) -> None:
    before = file.read_bytes()
    broken = replace(found, arrays={"eval/x": np.array(["text"])})
    with pytest.raises(Exception):  # noqa: B017, PT011 - a mistake in the program, not of a user
        broken.save(file)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]
