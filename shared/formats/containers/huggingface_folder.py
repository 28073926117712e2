"""Folders of Hugging Face's transformers: `config.json` beside the weights.

Weights are `model.safetensors`, its shards with `model.safetensors.index.json`, or
`pytorch_model.bin`, looked for in this order, as transformers does. A folder of the hub's cache,
whose files are links to its blobs, is read too.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from shared.errors import CheckpointError
from shared.formats.containers import safetensors_file, spans
from shared.formats.containers.archive import Archive, Configuration, Entry

MAX_CONFIG = 1 << 20  # bytes

_CONFIG, _WEIGHTS, _INDEX, _TORCH = (
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
)


def read(path: Path) -> Archive:
    """The weights of a folder, or of a file of weights in one; `metadata["config"]` is the text of
    its `config.json`.

    Raises `CheckpointError`.
    """
    folder = path if path.is_dir() else path.parent
    blobs = _blobs(folder)
    config, text = spans.read_json(spans.file_in(folder, _CONFIG, others=blobs), MAX_CONFIG)
    file = spans.file_in(folder, _choose(folder), others=blobs) if path.is_dir() else path
    if file.name == _INDEX:
        archive = _read_shards(folder, file, blobs)
    elif file.suffix == ".safetensors":
        archive = safetensors_file.read(file)
    elif file.name == _TORCH:
        from shared.formats.containers import torch_file

        archive = torch_file.read(file)
    else:
        raise CheckpointError(
            f"{path}: is none of {_WEIGHTS}, {_INDEX} and {_TORCH} of a transformers folder"
        )
    return replace(
        archive,
        container="huggingface",
        metadata={**archive.metadata, "config": text},
        configuration=Configuration("huggingface", _CONFIG, config),
    )


def _choose(folder: Path) -> str:
    """The file of weights in a folder."""
    for name in (_WEIGHTS, _INDEX, _TORCH):
        if (folder / name).is_symlink() or (folder / name).exists():
            return name
    raise CheckpointError(f"{folder}: holds none of {_WEIGHTS}, {_INDEX} and {_TORCH}")


def _blobs(folder: Path) -> tuple[Path, ...]:
    """Where the links of a folder `models--x/snapshots/<commit>` of the hub's cache lead."""
    absolute = folder.absolute()
    return (absolute.parent.parent / "blobs",) if absolute.parent.name == "snapshots" else ()


def _read_shards(folder: Path, index: Path, blobs: tuple[Path, ...]) -> Archive:
    """The tensors of all shards, in the order of the index, each from the shard that it names."""
    table, _ = spans.read_json(index)
    places = table.get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()):
        raise CheckpointError(f"{index}: has no table 'weight_map' of file names")
    shards: dict[str, Archive] = {}
    for shard in dict.fromkeys(places.values()):
        if not shard.endswith(".safetensors"):
            raise CheckpointError(
                f"{index}: names the shard {spans.shown(shard)}, expected .safetensors"
            )
        shards[shard] = safetensors_file.read(spans.file_in(folder, shard, others=blobs))
    _compare(index, places, shards)
    entries: dict[str, Entry] = {
        name: shards[shard].entries[name] for name, shard in places.items()
    }
    metadata = {
        key: value for archive in shards.values() for key, value in archive.metadata.items()
    }
    return Archive("huggingface", entries, metadata)


def _compare(index: Path, places: dict[str, str], shards: dict[str, Archive]) -> None:
    """Raise `CheckpointError` unless the shards hold exactly what the index says."""
    for name, shard in places.items():
        if name not in shards[shard].entries:
            raise CheckpointError(
                f"{index}: places {spans.shown(name)} in {shard}, which does not hold it"
            )
    for shard, archive in shards.items():
        for name in archive.entries:
            if places.get(name) != shard:
                raise CheckpointError(
                    f"{index}: {shard} holds {spans.shown(name)}, which it places elsewhere"
                )


def write(path: Path, archive: Archive) -> None:
    """Write a folder that transformers' `from_pretrained` loads.

    `metadata["config"]` is the JSON of its config.
    """
    if "config" not in archive.metadata:
        raise spans.cannot_write(
            path, "a transformers folder needs its config, which this network has not"
        )
    config: dict[str, Any] = spans.parse_json(
        archive.metadata["config"].encode("utf-8", "replace"), path
    )[0]
    text = (json.dumps(config, indent=2) + "\n").encode()
    if len(text) > MAX_CONFIG:
        raise spans.cannot_write(
            path, f"its config takes {len(text)} bytes, more than are read back"
        )
    spans.new_folder(path)
    try:
        (path / _CONFIG).write_bytes(text)
    except OSError as error:
        raise spans.cannot_write(path, error.strerror or str(error)) from None
    safetensors_file.write(
        path / _WEIGHTS, Archive("safetensors", archive.entries, {"format": "pt"})
    )
