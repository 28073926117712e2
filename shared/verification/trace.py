"""`Trace`: what one framework computed, as one flat dict of named arrays.

Keys: `eval/<layer>` for every named layer of the plan, `eval/output` for what the network returns,
and what `shared.verification.recording` adds for training. Images and feature maps are NHWC. Saved
as safetensors, a trace is the golden file of the next upgrade: it holds the spec, the framework and
its versions, dtype, seeds, and hashes of the weights that went in and of those that came back out
of the framework.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module, metadata
from pathlib import Path

import numpy as np

from shared.architecture.spec import ResNetSpec
from shared.errors import CheckpointError
from shared.weights.digests import digest
from shared.weights.files import TensorFile, write_tensors

FORMAT = "resnet-rosetta-trace"


@dataclass
class Trace:
    """Named arrays, in the order in which they were computed, and where they come from.

    `arrays` is a dict, or a file read lazily; both are indexed by name. Every framework's package
    takes one with `trace(model, images)`.

    >>> from shared import get_spec, probe_images
    >>> from shared.frameworks import reference
    >>> model = reference.build(get_spec("cifar/resnet20"), dtype="float64")
    >>> trace = reference.trace(model, probe_images((2, 16, 16, 3)))
    >>> trace.save("reference.safetensors")
    >>> Trace.load("reference.safetensors")["eval/output"].shape
    (2, 10)
    """

    spec: ResNetSpec
    framework: str
    dtype: str
    arrays: Mapping[str, np.ndarray] | TensorFile
    about: dict[str, str] = field(default_factory=dict)  # seeds, hashes, versions

    @property
    def names(self) -> list[str]:
        """Keys in the order of computation."""
        if isinstance(self.arrays, TensorFile):
            return (
                self.arrays.metadata["order"].split("\n") if self.arrays.metadata["order"] else []
            )
        return list(self.arrays)

    def shape(self, name: str) -> tuple[int, ...]:
        return (
            self.arrays.shape(name)
            if isinstance(self.arrays, TensorFile)
            else self.arrays[name].shape
        )

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    @property
    def versions(self) -> dict[str, str]:
        """Package -> version of what computed the trace."""
        return json.loads(self.about.get("versions", "{}"))

    def save(self, path: str | Path, *, durable: bool = True) -> None:
        """Write the trace in one step, and to the disk if `durable`.

        Raises `CheckpointError` where that fails.
        """
        about = {
            **self.about,
            "format": FORMAT,
            "spec": self.spec.to_json(),
            "framework": self.framework,
            "dtype": self.dtype,
            "order": "\n".join(self.names),
        }
        arrays = {
            name: np.asarray(self[name], order="C") for name in self.names
        }  # scalars stay scalars
        write_tensors(path, arrays, about, durable=durable)

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Open a trace; arrays are read when they are asked for. Raises `CheckpointError`."""
        file = TensorFile(path)
        about = dict(file.metadata)
        if about.pop("format", None) != FORMAT:
            raise CheckpointError(
                f"{path}: a safetensors file, but not a trace; `rosetta trace` writes those"
            )
        try:
            spec = ResNetSpec.from_json(about.pop("spec"))
            framework, dtype, order = about.pop("framework"), about.pop("dtype"), about.pop("order")
        except (KeyError, ValueError) as error:
            raise CheckpointError(
                f"{path}: its metadata is not that of a trace ({error})"
            ) from None
        try:
            versions = json.loads(about.get("versions", "{}"))
        except (ValueError, RecursionError):
            versions = None
        if not isinstance(versions, dict):
            raise CheckpointError(f"{path}: its versions are not a table of packages")
        if sorted(order.split("\n") if order else []) != sorted(file.names):
            raise CheckpointError(f"{path}: its list of layers does not match its tensors")
        return cls(spec, framework, dtype, file, about)


def provenance(
    weights: Iterable[tuple[str, np.ndarray]], images: np.ndarray, *packages: str
) -> dict[str, str]:
    """Metadata of a trace: hashes of the model's weights, in the plan's order, and of the images;
    versions.
    """
    versions = {"python": platform.python_version()}
    versions |= {package: version_of(package) for package in ("numpy", *packages)}
    return {
        "weights": digest(weights),
        "images": digest([("images", images)]),
        "image_shape": "x".join(map(str, images.shape)),
        "versions": json.dumps(versions),
    }


def version_of(package: str) -> str:
    """The version of an installed package; of a module that another distribution has brought, such
    as TensorFlow from tensorflow-cpu or tf-nightly, what it says itself.
    """
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return str(getattr(import_module(package), "__version__", "unknown"))
