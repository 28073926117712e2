"""TensorFlow.js folders: shards and manifest as tf.js means them, every damage refused, nothing
outside the folder.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.errors import CheckpointError
from shared.formats.containers import tfjs_folder
from shared.formats.containers.tfjs_folder import read, write
from shared.weights.dtypes import float_dtype
from tests.formats.hostile import (
    archive_of,
    arrays,
    assert_same,
    cheaply,
    is_refused,
    mutations,
    values,
)

TOPOLOGY = json.dumps({"model_config": {"class_name": "Functional"}})


def weight(
    name: str = "a", shape: Any = (3,), dtype: Any = "float32", **others: Any
) -> dict[str, Any]:
    return {"name": name, "shape": shape, "dtype": dtype, **others}


def model(paths: Any = ("x.bin",), weights: Any = None, **others: Any) -> dict[str, Any]:
    return {
        "weightsManifest": [
            {"paths": paths, "weights": [weight()] if weights is None else weights}
        ],
        **others,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the shards `x.bin` of 12 bytes, and a file outside."""
    (tmp_path / "secret.bin").write_bytes(b"TOPSECRET123")
    path = tmp_path / "m"
    path.mkdir()
    (path / "x.bin").write_bytes(np.arange(3, dtype="<f4").tobytes())
    return path


def put(folder: Path, content: Any) -> Path:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    (folder / "model.json").write_bytes(text)
    return folder


@pytest.mark.parametrize("shard", [4 << 20, 100, 7, 1 << 9])
def test_round_trip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard: int) -> None:
    monkeypatch.setattr(tfjs_folder, "SHARD", shard)
    write(tmp_path / "m", archive_of(arrays(), model_topology=TOPOLOGY))
    sizes = [path.stat().st_size for path in (tmp_path / "m").glob("group1-shard*of*.bin")]
    assert len(sizes) == -(-sum(sizes) // shard)
    assert max(sizes) <= shard
    for path in (tmp_path / "m", tmp_path / "m" / "model.json"):
        archive = read(path)
        assert_same(values(archive), arrays())
        assert archive.metadata == {"model_topology": TOPOLOGY}
    assert list(archive.entries) == list(arrays())


def test_the_manifest_is_that_of_tensorflow_js(tmp_path: Path) -> None:
    write(tmp_path / "m", archive_of(arrays()))
    found = json.loads((tmp_path / "m" / "model.json").read_text())
    assert (found["format"], found["modelTopology"]) == ("layers-model", None)
    (group,) = found["weightsManifest"]
    assert group["paths"] == ["group1-shard1of1.bin"]
    assert group["weights"][0] == {"name": "conv/kernel", "shape": [3, 3, 2, 4], "dtype": "float32"}
    assert group["weights"][1]["dtype"] == "float32"
    assert group["weights"][1]["quantization"]["dtype"] == "float16"
    data = b"".join(array.tobytes() for array in arrays().values())
    assert (tmp_path / "m" / "group1-shard1of1.bin").read_bytes() == data


def test_groups_and_the_optimizer(folder: Path) -> None:
    (folder / "group2-shard1of1").write_bytes(b"1234")
    optimizer = model(["group2-shard1of1"], [weight("b", [], group="optimizer")])
    archive = read(
        put(folder, {"weightsManifest": model()["weightsManifest"] + optimizer["weightsManifest"]})
    )
    assert {name: entry.load().tolist() for name, entry in archive.entries.items()} == {
        "a": [0, 1, 2]
    }
    assert archive.stripped_prefixes == ("also holds the optimizer",)


@pytest.mark.parametrize("name", ["model.json", "group1-shard1of1.bin"])
def test_every_truncation_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path / "m", archive_of(arrays()))
    good, accepted = (tmp_path / "m" / name).read_bytes(), []
    for length in range(len(good)):
        (tmp_path / "m" / name).write_bytes(good[:length])
        if not is_refused(read, tmp_path / "m"):
            accepted.append(length)
    assert accepted == []


def test_mutants_are_refused_or_valid(tmp_path: Path) -> None:
    write(tmp_path / "m", archive_of(arrays()))
    good, refused = (tmp_path / "m" / "model.json").read_bytes(), 0
    for mutant in mutations(good):
        refused += is_refused(read, put(tmp_path / "m", mutant))
    assert refused > 200


def deep(text: bytes) -> bytes:
    return b'{"weightsManifest": ' + text


BAD = {
    "no-json": (b"\x00\x01", "not JSON"),
    "no-object": (b"[]", "not an object"),
    "no-manifest": ({}, "weightsManifest"),
    "graph-model": (model(format="graph-model"), "graph-model"),
    "group-is-a-number": ({"weightsManifest": [1]}, "lists 'paths'"),
    "weight-without-name": (model(weights=[{}]), "no name"),
    "name-twice": (model(weights=[weight(shape=[1]), weight(shape=[2])]), "twice"),
    "key-twice": (b'{"weightsManifest": [], "weightsManifest": []}', "twice"),
    "uint8": (
        model(weights=[weight(shape=[12], quantization={"dtype": "uint8", "scale": 1, "min": 0})]),
        "lossy",
    ),
    "quantized-strangely": (model(weights=[weight(quantization=1)]), "lossy"),
    "float64": (model(weights=[weight(dtype="float64")]), "dtype"),
    "dtype-is-a-list": (model(weights=[weight(dtype=["float32"])]), "dtype"),
    "text": (model(weights=[weight(dtype="string")]), "dtype"),
    "shape-is-a-text": (model(weights=[weight(shape="3")]), "no shape"),
    "negative": (model(weights=[weight(shape=[-1, -3])]), "impossible shape"),
    "size-is-true": (model(weights=[weight(shape=[True, 3])]), "impossible shape"),
    "too-large": (model(weights=[weight(shape=[4])]), "take 16 bytes, its shards have 12"),
    "too-small": (model(weights=[weight(shape=[2])]), "take 8 bytes, its shards have 12"),
    "8-PiB": (model(weights=[weight(shape=[1 << 50])]), "impossible shape"),
    "zero-times-2^63": (
        model(weights=[weight(shape=[0, 1 << 63]), weight("b")]),
        "impossible shape",
    ),
    "nine-dimensions": (model(weights=[weight(shape=[1] * 9)]), "9 dimensions"),
    "infinity": (deep(b'[], "x": 1e999}'), "finite"),
    "nan": (deep(b'[], "x": NaN}'), "finite"),
    "deep-json": (deep(b"[" * 100_000), "not JSON"),
    "digits": (deep(b"9" * 1_000_000 + b"}"), "not JSON"),
    "large-json": (deep(b" " * (5 << 20)), "at most are read"),
    "many-objects": (deep(b"[" + b"{}," * 1_300_000 + b"{}]}"), "lists 'paths'"),
    "many-weights": (model(weights=[{}] * 140_000), "140000 weights"),
    "shard-twice": (model(["x.bin", "x.bin"], [weight(shape=[6])]), "'x.bin' twice"),
    "shard-is-a-number": (model([1]), "no string"),
    "shard-is-missing": (model(["y.bin"]), "cannot be read"),
    "shard-of-another-kind": (model(["model.json"]), "shards are called"),
    "million-shards": (model(["x.bin"] * 300_000), "twice"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_bad_models(folder: Path, content: Any, message: str) -> None:
    put(folder, content)
    with cheaply(), pytest.raises(CheckpointError, match=message) as caught:
        values(read(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "../secret.bin",
        "..",
        ".",
        "",
        "..\\secret.bin",
        "a/../../secret.bin",
        "x.bin\0",
        "x\n.bin",
        "\ud800.bin",
        "%2e%2e/secret.bin",
        "http://localhost/x.bin",
        "absolute",
        "C:\\x.bin",
        "x" * 300,
    ],
)
def test_no_shard_lies_outside(folder: Path, name: str) -> None:
    name = str(folder.parent / "secret.bin") if name == "absolute" else name
    with pytest.raises(CheckpointError, match="plain names"):
        read(put(folder, model([name])))


@pytest.mark.parametrize("target", ["../secret.bin", "x.bin", "/dev/zero", "/proc/self/environ"])
def test_no_link_leads_out(folder: Path, target: str) -> None:
    (folder / "link.bin").symlink_to(target)
    put(folder, model(["link.bin"]))
    if target == "x.bin":  # within the folder
        assert read(folder).entries["a"].load().tolist() == [0, 1, 2]
    else:
        with pytest.raises(CheckpointError, match="leads out"):
            read(folder)


def test_pipes_and_loops_are_refused(folder: Path) -> None:
    os.mkfifo(folder / "pipe.bin")
    (folder / "loop.bin").symlink_to("loop.bin")
    for name in ("pipe.bin", "loop.bin"):
        with pytest.raises(CheckpointError, match="cannot be read"):
            read(put(folder, model([name])))


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "int64", "complex64"])
def test_dtypes_that_cannot_be_written(tmp_path: Path, dtype: str) -> None:
    with pytest.raises(CheckpointError, match=f"{dtype}, which TensorFlow.js has not"):
        write(tmp_path / "m", archive_of({"a": np.zeros(1, float_dtype(dtype))}))


def test_a_folder_that_is_not_empty_is_left_alone(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="not empty"):
        write(folder, archive_of(arrays()))
    assert [path.name for path in folder.iterdir()] == ["x.bin"]


def test_a_topology_that_is_no_json(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not JSON"):
        write(tmp_path / "m", archive_of(arrays(), model_topology="{"))
    assert not (tmp_path / "m").exists()
