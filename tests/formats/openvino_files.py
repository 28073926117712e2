"""OpenVINO's IR by hand, without the package: what is right, and what lies."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np

TYPES = {"float32": "f32", "float16": "f16", "float64": "f64", "int64": "i64", "int32": "i32"}
HEAD = '<?xml version="1.0"?>\n'


class Network:
    """Layers that are added one behind the other; each `add` returns its number."""

    def __init__(self, shape: str = "?,3,16,16", version: str = "11"):
        self.layers: list[str] = []
        self.edges: list[str] = []
        self.bytes = b""
        self.version = version
        self.outputs: list[int] = []  # of every layer: the first output's port
        self.image = self.add("Parameter", shape=shape, element_type="f32")

    def add(self, kind: str, *ins: int, opset: str = "opset1", name: str = "", **data: str) -> int:
        """A layer of one output; underscores of an attribute that end it are left out."""
        id = len(self.layers)
        said = "".join(f" {key.rstrip('_')}={quoteattr(value)}" for key, value in data.items())
        ports = "".join(f'<port id="{k}"/>' for k in range(len(ins)))
        self.edges += [
            f'<edge from-layer="{source}" from-port="{self.outputs[source]}" to-layer="{id}" '
            f'to-port="{k}"/>'
            for k, source in enumerate(ins)
        ]
        out = "" if kind == "Result" else f'<output><port id="{len(ins)}"/></output>'
        self.layers.append(
            f'<layer id="{id}" name={quoteattr(name or f"{kind}_{id}")} type="{kind}" '
            f'version="{opset}"><data{said}/><input>{ports}</input>{out}</layer>'
        )
        self.outputs.append(len(ins))
        return id

    def const(self, array: np.ndarray, name: str = "", **lies: str) -> int:
        """The next bytes; `lies` are attributes that say otherwise."""
        said = {
            "element_type": TYPES[array.dtype.name],
            "shape": ", ".join(map(str, array.shape)),
            "offset": str(len(self.bytes)),
            "size": str(array.nbytes),
        }
        self.bytes += array.tobytes()
        return self.add("Const", name=name, **(said | lies))

    def xml(self) -> str:
        layers, edges = "\n".join(self.layers), "\n".join(self.edges)
        return (
            f'{HEAD}<net name="made" version="{self.version}">\n<layers>\n{layers}\n</layers>\n'
            f"<edges>\n{edges}\n</edges>\n<rt_info/>\n</net>\n"
        )

    def write(self, path: Path) -> Path:
        path.write_text(self.xml())
        path.with_suffix(".bin").write_bytes(self.bytes)
        return path


WINDOW = {"strides": "1, 1", "dilations": "1, 1", "pads_begin": "1, 1", "pads_end": "1, 1"}


def small(images: str = "?,3,16,16", **lies: str) -> Network:
    """A convolution, a norm and a ReLU; `lies` are about the kernel."""
    rng, net = np.random.default_rng(0), Network(images)
    kernel = net.const(rng.normal(size=(4, 3, 3, 3)).astype(np.float32), "stem.weight", **lies)
    x = net.add("Convolution", net.image, kernel, name="stem", auto_pad="explicit", **WINDOW)
    vectors = [
        net.const(rng.uniform(0.5, 2, 4).astype(np.float32), f"norm.{name}")
        for name in ("weight", "bias", "running_mean", "running_var")
    ]
    x = net.add("BatchNormInference", x, *vectors, opset="opset5", name="norm", epsilon="1e-05")
    net.add("Result", net.add("ReLU", x, name="relu"), name="output")
    return net
