"""Folders of transformers: the weights that it finds, shards exactly as indexed, nothing outside
the folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.errors import CheckpointError
from shared.formats.containers import safetensors_file
from shared.formats.containers.huggingface_folder import MAX_CONFIG, read, write
from tests.formats.hostile import (
    archive_of,
    arrays,
    assert_same,
    cheaply,
    is_refused,
    mutations,
    values,
)
from tests.peers import import_torchvision

CONFIG = json.dumps({"model_type": "resnet", "depths": [3, 4, 6, 3]})
INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "hf", archive_of(arrays(), config=CONFIG))
    return tmp_path / "hf"


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A folder whose tensors are in two shards, in turn."""
    path = tmp_path / "sharded"
    path.mkdir()
    (path / "config.json").write_text(CONFIG)
    parts: tuple[dict, dict] = ({}, {})
    for position, (name, array) in enumerate(arrays().items()):
        parts[position % 2][name] = array
    for shard, tensors in zip(SHARDS, parts, strict=True):
        safetensors_file.write(path / shard, archive_of(tensors, format="pt"))
    put_index(path, {name: SHARDS[position % 2] for position, name in enumerate(arrays())})
    return path


def put_index(folder: Path, places: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))


def index_of(folder: Path) -> dict[str, str]:
    return json.loads((folder / INDEX).read_text())["weight_map"]


def test_round_trip(folder: Path) -> None:
    for path in (folder, folder / "model.safetensors"):
        archive = read(path)
        assert archive.container == "huggingface"
        assert archive.metadata["format"] == "pt"
        assert json.loads(archive.metadata["config"]) == json.loads(CONFIG)
        assert_same(values(archive), arrays())


def test_transformers_loads_what_is_written(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    import_torchvision()  # transformers does, and cannot where its C extension does not fit
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], num_labels=3
    )
    state = transformers.ResNetForImageClassification(config).state_dict()
    tensors = {name: np.asarray(tensor) + 1 for name, tensor in state.items()}
    write(tmp_path / "hf", archive_of(tensors, config=config.to_json_string()))
    loaded, report = transformers.ResNetForImageClassification.from_pretrained(
        tmp_path / "hf", output_loading_info=True
    )
    assert not any(report.values()), report
    assert all(
        torch.equal(tensor, torch.as_tensor(tensors[name]))
        for name, tensor in loaded.state_dict().items()
    )


def test_shards(sharded: Path) -> None:
    for path in (sharded, sharded / INDEX):
        archive = read(path)
        assert list(archive.entries) == list(arrays())
        assert_same(values(archive), arrays())


def test_one_file_goes_before_shards(folder: Path) -> None:
    (folder / INDEX).write_text("{")
    assert_same(values(read(folder)), arrays())


def test_pytorch_model_bin(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    (tmp_path / "config.json").write_text(CONFIG)
    tensors = {name: array for name, array in arrays().items() if name != "head/empty"}
    torch.save(
        {name: torch.tensor(array) for name, array in tensors.items()},
        tmp_path / "pytorch_model.bin",
    )
    archive = read(tmp_path)
    assert archive.container == "huggingface"
    assert_same(values(archive), tensors)


def test_the_cache_of_the_hub(tmp_path: Path) -> None:
    """There the files are links to blobs beside the snapshots."""
    write(tmp_path / "hf", archive_of(arrays(), config=CONFIG))
    snapshot, blobs = (
        tmp_path / "models--a--b" / "snapshots" / "0123",
        tmp_path / "models--a--b" / "blobs",
    )
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "hf" / name).rename(blobs / f"digest-{name}")
        (snapshot / name).symlink_to(f"../../blobs/digest-{name}")
    assert_same(values(read(snapshot)), arrays())
    (snapshot / "config.json").unlink()
    (tmp_path / "elsewhere.json").write_text(CONFIG)
    (snapshot / "config.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(CheckpointError, match="leads out"):
        read(snapshot)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_no_link_leads_out(folder: Path, name: str) -> None:
    (folder / name).rename(folder.parent / "elsewhere")
    (folder / name).symlink_to(folder.parent / "elsewhere")
    with pytest.raises(CheckpointError, match="leads out"):
        read(folder)


CONFIGS = {
    "no-json": (b"{", "not JSON"),
    "no-object": (b"[1]", "not an object"),
    "not-utf8": (b'{"a": "\xff"}', "not JSON"),
    "key-twice": (b'{"a": 1, "a": 2}', "twice"),
    "nan": (b'{"a": NaN}', "finite"),
    "deep": (b'{"a":' * 100_000, "not JSON"),
    "large": (b'{"a": "' + b"x" * MAX_CONFIG + b'"}', "at most are read"),
}


@pytest.mark.parametrize(("config", "message"), CONFIGS.values(), ids=CONFIGS)
def test_bad_configs(folder: Path, config: bytes, message: str) -> None:
    (folder / "config.json").write_bytes(config)
    with cheaply(), pytest.raises(CheckpointError, match=message):
        read(folder)


def test_what_is_missing(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="holds none of"):
        read(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        read(folder)


@pytest.mark.parametrize(
    "shard",
    [
        "../x.safetensors",
        "/x.safetensors",
        "a\\b.safetensors",
        "..",
        "x\0.safetensors",
        "\ud800.safetensors",
        "pytorch_model.bin",
        "model.safetensors.exe",
        "http://a/b.safetensors",
    ],
)
def test_no_shard_lies_outside_or_is_of_another_kind(sharded: Path, shard: str) -> None:
    put_index(sharded, {"a": shard})
    with pytest.raises(CheckpointError, match=r"plain names|expected \.safetensors"):
        read(sharded)


@pytest.mark.parametrize("places", [None, [], {"a": 1}, {"a": None}, "x", {"a": ["x.safetensors"]}])
def test_bad_indexes(sharded: Path, places: Any) -> None:
    put_index(sharded, places)
    with pytest.raises(CheckpointError, match="no table 'weight_map'"):
        read(sharded)


def test_every_tensor_is_where_the_index_says(sharded: Path) -> None:
    good = index_of(sharded)
    first, second = list(good)[:2]
    wrong = {
        "swapped": good | {first: good[second]},
        "dropped": {name: shard for name, shard in good.items() if name != first},
        "invented": good | {"invented": good[first]},
        "renamed": {name + "x": shard for name, shard in good.items()},
        "missing-shard": good | {first: "absent.safetensors"},
    }
    for places in wrong.values():
        put_index(sharded, places)
        with pytest.raises(CheckpointError, match=r"places|cannot be read"):
            read(sharded)


def test_every_truncation_of_an_index_is_refused(sharded: Path) -> None:
    good, accepted = (sharded / INDEX).read_bytes(), []
    for length in range(len(good)):
        (sharded / INDEX).write_bytes(good[:length])
        if not is_refused(read, sharded):
            accepted.append(length)
    assert accepted == []


@pytest.mark.parametrize("name", [INDEX, SHARDS[0], "config.json"])
def test_mutants_are_refused_or_valid(sharded: Path, name: str) -> None:
    refused = 0
    for mutant in mutations((sharded / name).read_bytes(), 100):
        (sharded / name).write_bytes(mutant)
        refused += is_refused(read, sharded)
    assert refused > 20


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "needs its config"),
        ({"config": "{"}, "not JSON"),
        ({"config": "[]"}, "not an object"),
        ({"config": json.dumps({"a": "x" * MAX_CONFIG})}, "more than are read back"),
    ],
)
def test_configs_that_cannot_be_written(
    tmp_path: Path, metadata: dict[str, str], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        write(tmp_path / "hf", archive_of(arrays(), **metadata))
    assert not (tmp_path / "hf").exists()
