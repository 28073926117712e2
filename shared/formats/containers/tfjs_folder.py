"""TensorFlow.js models of layers: a folder of `model.json` and binary shards.

`weightsManifest` is a list of groups; the tensors of a group fill its shards one after the other,
and may span them. Source: tfjs-core/src/io/types.ts and io_utils.ts.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from shared.architecture.ops import Shape
from shared.formats.containers import spans
from shared.formats.containers.archive import MAX_TENSORS, Archive, Configuration, Entry

SHARD = 4 << 20  # bytes of a shard, as the converter of TensorFlow.js makes them

_FORMAT = "layers-model"
_KIND = "a TensorFlow.js model"
_SHARD_NAME = re.compile(r"[^.]*|.*\.bin|group[0-9]+-shard[0-9]+of[0-9]+.*")
_DTYPES = {"float32": np.dtype("<f4"), "int32": np.dtype("<i4")}
_HALF = np.dtype("<f2")


def read(path: Path) -> Archive:
    """The weights of a folder, or of the `model.json` in one, under their names.

    `metadata["model_topology"]` is the JSON of the network, if there is one. Raises
    `CheckpointError`.
    """
    if path.is_dir():
        path = spans.file_in(path, "model.json")
    model, _ = spans.read_json(path)
    fail = spans.failing(path, _KIND)
    if model.get("format", _FORMAT) != _FORMAT:
        raise fail(
            f"its format is {spans.shown(str(model['format']))}, expected '{_FORMAT}'; "
            "convert it from a Keras model again"
        )
    groups = model.get("weightsManifest")
    if not isinstance(groups, list):
        raise fail("it has no list 'weightsManifest'")
    entries: dict[str, Entry] = {}
    stripped_prefixes: dict[str, None] = {}
    shards: set[str] = set()
    for group in groups:
        for tensor, entry, is_state in _read_group(path, group, shards, fail):
            if tensor in entries:
                raise fail(f"the weight {spans.shown(tensor)} is there twice")
            if is_state:
                stripped_prefixes["also holds the optimizer"] = None
            else:
                entries[tensor] = entry
    topology = model.get("modelTopology")
    metadata = {} if topology is None else {"model_topology": json.dumps(topology)}
    return Archive(
        "tfjs", entries, metadata, tuple(stripped_prefixes), _configuration(topology, fail)
    )


def _configuration(topology: Any, fail: spans.Fail) -> Configuration | None:
    """Keras' configuration of the model, which the converter puts one level deeper."""
    if topology is None:
        return None
    inner = topology.get("model_config", topology) if isinstance(topology, dict) else None
    if not isinstance(inner, dict):
        raise fail("its 'modelTopology' is no configuration of a model")
    return Configuration("keras", "modelTopology", inner)


def _read_group(
    path: Path, group: Any, seen: set[str], fail: spans.Fail
) -> Iterator[tuple[str, Entry, bool]]:
    """(name, entry, whether it is the optimizer's) of the weights of a group, whose shards must
    hold exactly them.
    """
    if not isinstance(group, dict) or not all(
        isinstance(group.get(key), list) for key in ("paths", "weights")
    ):
        raise fail("a group of its 'weightsManifest' has no lists 'paths' and 'weights'")
    if len(group["weights"]) > MAX_TENSORS:
        raise fail(f"it has {len(group['weights'])} weights; {MAX_TENSORS} at most are read")
    weights = [_parse_weight(weight, fail) for weight in group["weights"]]
    shards = [_shard(path, name, seen, fail) for name in group["paths"]]
    total, found = sum(nbytes for *_, nbytes in weights), sum(shard.nbytes for shard in shards)
    if total != found:
        raise fail(f"its weights take {total} bytes, its shards have {found}; one may be cut off")
    pieces = _Pieces(shards)
    for name, shape, dtype, is_state, nbytes in weights:
        yield name, spans.span_entry(pieces.take(nbytes), shape, dtype, path), is_state


def _shard(path: Path, name: Any, seen: set[str], fail: spans.Fail) -> spans.Span:
    shard = spans.file_in(path.parent, name)
    if not _SHARD_NAME.fullmatch(name):
        raise fail(
            f"it names the shard {spans.shown(name)}; shards are called .bin, or groupN-shardMofK"
        )
    if name in seen:
        raise fail(f"it names the shard {spans.shown(name)} twice")
    seen.add(name)
    return spans.Span(shard, 0, spans.file_size(shard))


class _Pieces:
    """Takes consecutive bytes from shards that follow each other."""

    def __init__(self, shards: list[spans.Span]):
        self._left = shards[::-1]

    def take(self, nbytes: int) -> list[spans.Span]:
        """Where the next bytes are; there must be that many."""
        taken = []
        while nbytes:
            path, offset, available = self._left.pop()
            count = min(nbytes, available)
            if count:
                taken.append(spans.Span(path, offset, count))
            if count < available:
                self._left.append(spans.Span(path, offset + count, available - count))
            nbytes -= count
        return taken


def _parse_weight(weight: Any, fail: spans.Fail) -> tuple[str, Shape, np.dtype, bool, int]:
    """(name, shape, dtype in the file, whether it is the optimizer's, bytes) of an entry of the
    manifest.
    """
    if not isinstance(weight, dict) or not isinstance(name := weight.get("name"), str):
        raise fail("an entry of its 'weightsManifest' has no name")
    dtype, sizes = weight.get("dtype"), weight.get("shape")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise fail(
            f"the weight {spans.shown(name)} has the dtype {spans.shown(str(dtype))}; "
            f"{' and '.join(_DTYPES)} are read"
        )
    if not isinstance(sizes, list):
        raise fail(f"the weight {spans.shown(name)} has no shape")
    stored: np.dtype = _DTYPES[dtype]
    if (quantization := weight.get("quantization")) is not None:
        quantized = quantization.get("dtype") if isinstance(quantization, dict) else None
        if (dtype, quantized) != ("float32", "float16"):
            raise fail(
                f"the weight {spans.shown(name)} is quantized to {spans.shown(str(quantized))}, "
                "which is lossy; "
                "convert the model again without quantization, or to float16"
            )
        stored = _HALF
    shape = spans.checked_shape(name, sizes, fail)
    return (
        name,
        shape,
        stored,
        weight.get("group") == "optimizer",
        math.prod(shape) * stored.itemsize,
    )


def write(path: Path, archive: Archive) -> None:
    """Write a folder with `model.json` and shards of at most 4 MiB.

    Float16 tensors become float32 weights that are stored as float16, which changes no value.
    Without `metadata["model_topology"]` tf.js finds the weights (`tf.io.loadWeights`), but no
    network.
    """
    weights = [_describe(path, name, entry) for name, entry in archive.entries.items()]
    topology = archive.metadata.get("model_topology")
    count = -(-archive.nbytes // SHARD)
    names = [f"group1-shard{index}of{count}.bin" for index in range(1, count + 1)]
    model = {
        "format": _FORMAT,
        "generatedBy": "resnet-rosetta",
        "convertedBy": None,
        "modelTopology": None
        if topology is None
        else spans.parse_json(topology.encode("utf-8", "replace"), path)[0],
        "weightsManifest": [{"paths": names, "weights": weights}],
    }
    text = json.dumps(model).encode()
    if len(text) > spans.MAX_JSON:
        raise spans.cannot_write(
            path, f"its model.json would take {len(text)} bytes, more than are read back"
        )
    spans.new_folder(path)
    try:
        _write_shards(path, names, archive)
        (path / "model.json").write_bytes(text)
    except OSError as error:
        raise spans.cannot_write(path, error.strerror or str(error)) from None


def _write_shards(path: Path, names: list[str], archive: Archive) -> None:
    """Fill one shard after the other."""
    shards, room = iter(names), 0
    file: BinaryIO | None = None
    try:
        for name, entry in archive.entries.items():
            data = spans.raw_bytes(spans.checked_value(path, name, entry))
            while data:
                if file is None or not room:
                    if file is not None:
                        file.close()
                    file, room = (path / next(shards)).open("wb"), SHARD
                count = min(room, len(data))
                file.write(data[:count])
                data, room = data[count:], room - count
    finally:
        if file is not None:
            file.close()


def _describe(path: Path, name: str, entry: Entry) -> dict[str, Any]:
    """The entry of the manifest."""
    spans.encoded(path, name)
    weight: dict[str, Any] = {"name": name, "shape": list(entry.shape), "dtype": entry.dtype.name}
    if entry.dtype.name == "float16":
        return weight | {
            "dtype": "float32",
            "quantization": {"dtype": "float16", "original_dtype": "float32"},
        }
    if entry.dtype.name not in _DTYPES:
        raise spans.cannot_write(
            path,
            f"{spans.shown(name)} is {entry.dtype.name}, which TensorFlow.js has not; "
            "convert it to float32 first",
        )
    return weight
