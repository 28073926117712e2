"""The `.keras` archive of Keras 3: a zip of metadata.json, config.json and model.weights.h5.

The configuration is read as text. Nothing in it is ever built: what could carry code is refused by
its name, and the weights go through the sandboxed HDF5 reader. Source: keras 3.15
src/saving/saving_lib.py.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from shared.architecture.spec import ResNetSpec
from shared.errors import CheckpointError
from shared.formats.containers import hdf5_file, spans, zip_members
from shared.formats.containers.archive import Archive, Configuration
from shared.formats.containers.zip_members import Member

METADATA, CONFIG, WEIGHTS = "metadata.json", "config.json", "model.weights.h5"
_EMPTY_FOLDERS = ("assets/",)
_MAX_JSON = (
    8 << 20
)  # bytes; a functional ResNet-152 has 0.6 MiB. In memory it may be 25 times as large
_OURS = "resnet_rosetta>"
_KERAS_VERSION = "3.15.0"  # whose format is written
_DATE = (1980, 1, 1, 0, 0, 0)  # the same bytes every time

# Modules whose classes are plain layers and what these are configured with; None: of another class'
# own. Nothing of them is imported.
_MODULES = (
    None,
    "keras",
    "keras.layers",
    "keras.models",
    "keras.initializers",
    "keras.regularizers",
    "keras.constraints",
    "keras.activations",
    "keras.optimizers",
    "keras.optimizers.schedules",
    "keras.losses",
    "keras.metrics",
    "keras.src.ops.numpy",  # operators on symbolic tensors
    "keras.src.models.functional",
    "keras.src.models.sequential",
    *(
        f"{keras}.engine.{kind}"
        for keras in ("keras", "keras.src", "tf_keras", "tf_keras.src")
        for kind in ("functional", "sequential")
    ),  # Keras 2
    "builtins",
    "resnet_keras.model",
    "resnet_keras.layers",
    "resnet_keras.corrected",
    "resnet_keras.dropout",
    "resnet_keras.init",
    "resnet_keras.ablation",
)
# KerasHub's, by the names under which it registers them.
_HUB_MODULES = "keras_hub.src.models.resnet."
_HUB = tuple(
    f"keras_hub>ResNet{kind}"
    for kind in ("Backbone", "ImageClassifier", "ImageClassifierPreprocessor", "ImageConverter")
)
# The variables of norms besides gamma and beta.
_STATISTICS = {"BatchNormalization": ("moving_mean", "moving_variance"), "GroupNormalization": ()}
_REFUSED = ("Lambda", "TorchModuleWrapper", "TFSMLayer", "JaxLayer", "FlaxLayer", "__lambda__")


def read(path: Path) -> Archive:
    """The weights of a Keras archive.

    Metadata is that of `hdf5_file.read` and `keras_version`; `spec` is the specification of a model
    of ours. Raises `CheckpointError`.
    """
    spans.file_size(path)
    fail = spans.failing(path, "a .keras archive")
    with path.open("rb") as file:
        members = {member.name: member for member in zip_members.read_members(file, fail)}
        extra = [
            name for name in members if name not in (METADATA, CONFIG, WEIGHTS, *_EMPTY_FOLDERS)
        ]
        if (
            extra
            or not {METADATA, CONFIG, WEIGHTS} <= members.keys()
            or any(members[name].size for name in members if name in _EMPTY_FOLDERS)
        ):
            raise fail(
                f"it holds {', '.join(map(spans.shown, sorted(members)[:5]))}; "
                f"expected are {METADATA}, {CONFIG} and {WEIGHTS}"
            )
        version = _json(path, file, members[METADATA], fail).get("keras_version")
        config = _json(path, file, members[CONFIG], fail)
        _check_config(path, config)
        weights = _read_weights(path, file, members[WEIGHTS], fail, config)
    metadata = {**weights.metadata, **_own_spec(config)}
    if isinstance(version, str):
        metadata["keras_version"] = version
    return Archive(
        "keras", weights.entries, metadata, configuration=Configuration("keras", CONFIG, config)
    )


def _json(path: Path, file: BinaryIO, member: Member, fail: spans.Fail) -> dict[str, Any]:
    if member.size > _MAX_JSON:
        raise fail(f"{member.name} has {member.size} bytes; {_MAX_JSON} at most are read")
    return spans.parse_json(b"".join(zip_members.content(path, file, member, fail)), path)[0]


def _read_weights(
    path: Path, file: BinaryIO, member: Member, fail: spans.Fail, config: dict[str, Any]
) -> Archive:
    """The archive of a private copy, of which only the reading process knows once it is open."""
    with tempfile.TemporaryDirectory(prefix="rosetta-") as folder:
        copy = Path(folder) / WEIGHTS
        with copy.open("wb") as target:
            for piece in zip_members.content(path, file, member, fail, chunk=1 << 20):
                target.write(piece)
        return hdf5_file.read_as(copy, path, _norms(config), ours=bool(_own_spec(config)))


def _objects(config: Any) -> Iterator[dict[str, Any]]:
    """All objects of a JSON value, the outer ones and the first ones first."""
    pending = [config]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            yield value
            pending.extend(reversed(value.values()))
        elif isinstance(value, list):
            pending.extend(reversed(value))


def _check_config(path: Path, config: dict[str, Any]) -> None:
    """Raise unless every class is a plain one of Keras, one of ours, or a ResNet of KerasHub."""
    for item in _objects(config):
        kind, module, registered = (
            item.get(key) for key in ("class_name", "module", "registered_name")
        )
        inner = item.get("config")
        name = inner.get("name") if isinstance(inner, dict) else None
        if kind is None and module is None and registered is None:
            continue
        plain = module in _MODULES and (
            registered is None or registered == kind or str(registered).startswith(_OURS)
        )
        hub = registered in _HUB and str(module).startswith(_HUB_MODULES)
        if not isinstance(kind, str) or kind in _REFUSED or not (plain or hub):
            called = spans.shown(f"{module}.{kind}") + (
                f" (named {spans.shown(str(name))})" if name else ""
            )
            raise CheckpointError(
                f"{path}: its configuration asks for {called}; only plain keras.layers and models "
                "of resnet_keras and KerasHub are read, since others may carry code"
            )


def _norms(config: dict[str, Any]) -> hdf5_file.Norms:
    """The variables of the norms that lack gamma or beta, by layer."""
    found: dict[str, tuple[str, ...]] = {}
    for item in _objects(config):
        statistics, inner = _STATISTICS.get(str(item.get("class_name"))), item.get("config")
        if statistics is None or not isinstance(inner, dict):
            continue
        flags = (("gamma", "scale"), ("beta", "center"))
        leaves = (*(leaf for leaf, flag in flags if inner.get(flag, True)), *statistics)
        name = str(inner.get("name"))
        found[name] = leaves if found.get(name, leaves) == leaves else ()
    return found


def _own_spec(config: dict[str, Any]) -> dict[str, str]:
    """The spec of a model of ours."""
    inner = config.get("config")
    ours = config.get("registered_name") == f"{_OURS}ResNet"
    if ours and isinstance(inner, dict) and "spec" in inner:
        return {"spec": json.dumps(inner["spec"])}
    return {}


def write(path: Path, archive: Archive) -> None:
    """The `.keras` archive of a model, which `keras.saving.load_model` builds.

    `archive.metadata` has the `spec` of one of ours, which needs `resnet_keras` to be imported, or
    the whole `keras_config` of another; entries are those of `hdf5_file.write_weights`. Raises
    `CheckpointError`.
    """
    if "keras_config" in archive.metadata:
        config = json.loads(archive.metadata["keras_config"])
    elif "spec" in archive.metadata:
        config = _config(ResNetSpec.from_json(archive.metadata["spec"]), _dtype(archive))
    else:
        raise spans.cannot_write(
            path,
            "a .keras file describes its model, and nothing here does; write .weights.h5 "
            "or .h5 instead",
        )
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        weights = Path(folder) / WEIGHTS
        hdf5_file.write_weights(weights, archive)
        with zipfile.ZipFile(path, "w") as target:
            for name, value in ((METADATA, {"keras_version": _KERAS_VERSION}), (CONFIG, config)):
                target.writestr(_info(name), json.dumps(value))
            with (
                weights.open("rb") as source,
                target.open(_info(WEIGHTS, weights.stat().st_size), "w") as member,
            ):
                shutil.copyfileobj(source, member, 1 << 20)


def _info(name: str, size: int = 0) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _DATE)
    info.file_size = size  # larger ones need the larger header
    info.external_attr = 0o600 << 16
    return info


def _dtype(archive: Archive) -> str:
    """The one dtype of the parameters; `float32` where they differ, as Keras would have it."""
    found = {entry.dtype.name for entry in archive.entries.values()}
    return found.pop() if len(found) == 1 else "float32"


def _config(spec: ResNetSpec, dtype: str) -> dict[str, Any]:
    """What Keras writes for `resnet_keras.ResNet`, which is configured by its spec."""
    return {
        "module": "resnet_keras.model",
        "class_name": "ResNet",
        "config": {
            "spec": spec.to_dict(),
            "dtype": dtype,
            "seed": 0,
            "name": "resnet",
            "trainable": True,
        },
        "registered_name": f"{_OURS}ResNet",
        "build_config": {"input_shape": None},
        "compile_config": {},
    }
