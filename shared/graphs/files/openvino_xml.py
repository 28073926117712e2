"""OpenVINO's IR, the `.xml` of a pair: a network's layers, in an order in which they can be
computed, and what each reads.

Expat parses it. A document type, and with it every entity of the file's own, is refused; the file,
its layers, ports and edges are counted. Layers inside others (`body`) are stepped over.
Source: https://docs.openvino.ai/2025/documentation/openvino-ir-format.html
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers import expat

import ml_dtypes
import numpy as np

from shared.errors import shown
from shared.formats.containers import spans

MAX_BYTES = 64 << 20  # a layer has about 1 KiB, cifar/resnet1202 20,000 layers
MAX_LAYERS, MAX_PORTS = 1 << 16, 1 << 18
MAX_DEPTH = 64
VERSIONS = ("10", "11")  # since 2020; before them, weights and attributes stood elsewhere
_NUMBER = re.compile(r"-?[0-9]{1,18}")

DTYPES: dict[str, Any] = {
    **{"f64": np.float64, "f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16},
    **{f"i{bits}": f"<i{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"u{bits}": f"<u{bits // 8}" for bits in (8, 16, 32, 64)},
    "boolean": np.bool_,
}

Port = tuple[int, int]  # (layer, port)


@dataclass
class Layer:
    """An operator. `inputs` and `outputs` are ports by their numbers, in the operator's order;
    `names` are those of the tensor at each output; `reads` are the outputs behind the inputs.
    """

    id: int
    name: str
    type: str
    version: str  # the set of operators that it is of, such as opset1
    data: dict[str, str] = field(default_factory=dict)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    reads: list[Port] = field(default_factory=list)


def parse(path: Path, fail: spans.Fail) -> list[Layer]:
    """The layers of a file, each behind those that it reads.

    Raises `CheckpointError` for what is no such file, one that is too large, and a network that
    does not hold together.
    """
    size = spans.file_size(path)
    if size > MAX_BYTES:
        raise fail(f"it has {size:,} bytes; {MAX_BYTES:,} at most are read")
    found = _Parser(fail)
    try:
        with path.open("rb") as file:
            found.expat.ParseFile(file)
    except expat.ExpatError as error:
        raise fail(f"{error}") from None
    except OSError as error:
        raise spans.cannot_read(path, error) from None
    if not found.layers:
        raise fail("it has no layers")
    return _in_order(found.connected(), fail)


class _Parser:
    """What expat calls; `path` are the elements around."""

    def __init__(self, fail: spans.Fail):
        self.fail = fail
        self.layers: dict[int, Layer] = {}
        self.edges: dict[Port, Port] = {}  # input -> output
        self._path: list[str] = []
        self._ports: set[tuple[int, str, int]] = set()
        self._layer = Layer(0, "", "", "")
        self.expat = expat.ParserCreate("utf-8")
        self.expat.StartElementHandler = self._start
        self.expat.EndElementHandler = self._end
        self.expat.StartDoctypeDeclHandler = self._doctype

    def _doctype(self, *_: Any) -> None:
        raise self.fail("it has a document type, which may hold entities; no IR has one")

    def _start(self, tag: str, attributes: Mapping[str, str]) -> None:
        self._path.append(tag)
        if len(self._path) > MAX_DEPTH:
            raise self.fail(f"its elements are nested more than {MAX_DEPTH} deep")
        match self._path:
            case [_]:
                self._net(tag, attributes)
            case ["net", "layers", "layer"]:
                self._new(attributes)
            case ["net", "layers", "layer", "data"]:
                self._layer.data = dict(attributes)
            case ["net", "layers", "layer", "input" | "output" as side, "port"]:
                self._port(side, attributes)
            case ["net", "edges", "edge"]:
                self._edge(attributes)

    def _end(self, _: str) -> None:
        self._path.pop()

    def _net(self, tag: str, attributes: Mapping[str, str]) -> None:
        version = attributes.get("version", "")
        if tag != "net":
            raise self.fail(f"its root is {shown(tag)}, expected net")
        if version not in VERSIONS:
            raise self.fail(
                f"its version of the IR is {shown(version)}; {' and '.join(VERSIONS)} are read, "
                "which OpenVINO writes since 2020: convert the model again"
            )

    def _new(self, attributes: Mapping[str, str]) -> None:
        id = self._number(attributes, "id")
        name, kind, version = (attributes.get(key, "") for key in ("name", "type", "version"))
        self._layer = Layer(id, name, kind, version)
        if id in self.layers:
            raise self.fail(f"two layers have the id {id}")
        if len(self.layers) == MAX_LAYERS:
            raise self.fail(f"it has more than {MAX_LAYERS:,} layers")
        self.layers[id] = self._layer

    def _port(self, side: str, attributes: Mapping[str, str]) -> None:
        layer, id = self._layer, self._number(attributes, "id")
        port = (layer.id, side, id)
        if port in self._ports:
            raise self.fail(f"two {side}s of {shown(layer.name)} have the id {id}")
        if len(self._ports) == MAX_PORTS:
            raise self.fail(f"its layers have more than {MAX_PORTS:,} ports")
        self._ports.add(port)
        if side == "input":
            layer.inputs.append(id)
        else:
            layer.outputs.append(id)
            layer.names.append(attributes.get("names", ""))

    def _edge(self, attributes: Mapping[str, str]) -> None:
        source = self._number(attributes, "from-layer"), self._number(attributes, "from-port")
        target = self._number(attributes, "to-layer"), self._number(attributes, "to-port")
        if target in self.edges:
            raise self.fail(f"two edges lead to the port {target[1]} of the layer {target[0]}")
        if len(self.edges) == MAX_PORTS:
            raise self.fail(f"it has more than {MAX_PORTS:,} edges")
        self.edges[target] = source

    def _number(self, attributes: Mapping[str, str], key: str) -> int:
        text = attributes.get(key, "")
        if not _NUMBER.fullmatch(text):
            raise self.fail(f"{self._path[-1]} has the {key} {shown(text)}, expected a number")
        return int(text)

    def connected(self) -> Iterable[Layer]:
        """Every layer with what it reads. Raises `CheckpointError` where that is not there."""
        for layer in self.layers.values():
            for port in layer.inputs:
                source, output = self.edges.pop((layer.id, port), (-1, -1))
                if (source, "output", output) not in self._ports:
                    raise self.fail(
                        f"the input {port} of {shown(layer.name)} is connected with no output"
                    )
                layer.reads.append((source, output))
        if self.edges:
            id, port = next(iter(self.edges))
            raise self.fail(f"an edge leads to port {port} of layer {id}, which is not there")
        return self.layers.values()


def _in_order(layers: Iterable[Layer], fail: spans.Fail) -> list[Layer]:
    """The layers, each behind those that it reads; as in the file where that is so."""
    every = list(layers)
    place = {layer.id: k for k, layer in enumerate(every)}
    behind: list[list[int]] = [[] for _ in every]
    missing = []
    for k, layer in enumerate(every):
        sources = {place[source] for source, _ in layer.reads}
        missing.append(len(sources))
        for source in sources:
            behind[source].append(k)
    ready = [k for k, count in enumerate(missing) if not count]  # a heap, for it is sorted
    found = []
    while ready:
        at = heapq.heappop(ready)
        found.append(every[at])
        for k in behind[at]:
            missing[k] -= 1
            if not missing[k]:
                heapq.heappush(ready, k)
    if len(found) < len(every):
        first = next(k for k, count in enumerate(missing) if count)
        raise fail(f"{shown(every[first].name)} is computed from itself")
    return found
