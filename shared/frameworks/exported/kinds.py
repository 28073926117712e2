"""What a network is exported to, by which framework, and what runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shared.errors import SpecError, nearest

BOTH = ("float32", "float64")
NCHW, NHWC = "NCHW", "NHWC"


@dataclass(frozen=True)
class Kind:
    """A kind of file. `writers` are frameworks whose exporters write it, the usual one first."""

    name: str
    title: str
    suffix: str  # "": a folder
    writers: tuple[str, ...]
    runtimes: Mapping[str, tuple[str, str]]  # dtype -> what runs the file, and its package
    requires: tuple[str, ...] = ()  # packages beside the framework's, to write and to run it
    extra: str = ""  # of `pip install resnet-rosetta[...]`, which has them
    companion: str = ""  # suffix of a second file, which the first one needs
    multiple: int = 1  # of the sides, where they are free
    needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # packages, by writer
    folds: Mapping[str, str] = field(default_factory=dict)  # who folds norms unasked, by writer

    @property
    def folder(self) -> bool:
        return not self.suffix

    def run_by(self, dtype: str) -> tuple[str, ...]:
        """The packages that run a file of this dtype."""
        return (self.runtimes[dtype][1],)


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "torch-export",
            "a program of torch.export",
            ".pt2",
            ("torch",),
            dict.fromkeys(BOTH, ("torch.export", "torch")),
        ),
        Kind(
            "onnx",
            "an ONNX model",
            ".onnx",
            ("torch", "keras:tensorflow"),
            {"float32": ("ONNX Runtime", "onnxruntime"), "float64": ("onnx.reference", "onnx")},
            ("onnx", "onnxscript", "onnxruntime"),
            "onnx",
            needs={"keras:tensorflow": ("tf2onnx",)},
            folds={"keras:tensorflow": "tf2onnx"},
        ),
        Kind(
            "saved-model",
            "a SavedModel",
            "",
            ("keras:tensorflow",),
            dict.fromkeys(BOTH, ("TensorFlow", "tensorflow")),
        ),
        Kind(
            "stablehlo",
            "a program of jax.export",
            ".stablehlo",
            ("flax",),
            dict.fromkeys(BOTH, ("jax.export", "jax")),
            multiple=32,
        ),
        Kind(
            "openvino",
            "an OpenVINO model",
            ".xml",
            ("torch", "keras:tensorflow"),
            {"float32": ("OpenVINO", "openvino")},
            ("openvino",),
            "openvino",
            companion=".bin",
            folds={"keras:tensorflow": "OpenVINO's converter"},
        ),
        Kind(
            "litert",
            "a LiteRT model",
            ".tflite",
            ("keras:tensorflow",),
            {"float32": ("LiteRT", "ai_edge_litert")},
            ("ai_edge_litert",),
            "litert",
            folds={"keras:tensorflow": "TensorFlow's converter"},
        ),
    )
}

# Frameworks and what runs a file of theirs want images in this order.
LAYOUTS = {"torch": NCHW}


def get_kind(name: str | None, path: Path) -> Kind:
    """The kind of a name; without one, that of the path's suffix.

    Raises `SpecError` for an unknown kind, and for a path that such a file is not called.
    """
    known = ", ".join(f"{kind.name} ({kind.suffix or 'a folder'})" for kind in KINDS.values())
    if name is None:
        found = [kind for kind in KINDS.values() if kind.suffix == path.suffix and kind.suffix]
        if not found:
            raise SpecError(f"{path}: say --to, one of {known}")
        return found[0]
    if name not in KINDS:
        raise SpecError(f"unknown kind of export {name!r}{nearest(name, KINDS)}; known are {known}")
    kind = KINDS[name]
    if kind.suffix != path.suffix:
        called = f"ends in {kind.suffix}" if kind.suffix else "is a folder, without a suffix"
        raise SpecError(f"{path}: {kind.title} {called}")
    return kind


def layout_of(framework: str) -> str:
    """The order of the axes of the images that a file of this framework takes."""
    return LAYOUTS.get(framework, NHWC)


@dataclass(frozen=True)
class Wanted:
    """How a network shall be exported. `image_size`: pixels of a side; None leaves it free."""

    kind: Kind
    writer: str
    dtype: str = "float32"
    image_size: int | None = None
    fold: bool = False

    @property
    def size(self) -> tuple[int, int] | None:
        return (self.image_size, self.image_size) if self.image_size else None

    @property
    def folds(self) -> str:
        """Who folds norms, asked or not."""
        return self.kind.folds.get(self.writer, "")

    @property
    def layout(self) -> str:
        return layout_of(self.writer)
