"""HDF5 files that lead elsewhere, and bombs.

All but one thing about each is a valid legacy file of Keras.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.attacks import seeds
from tests.attacks.attack import Attack, Make, Placement, attacks

LAYER, WEIGHT = "stem.conv1", "stem.conv1/kernel"
DATASET = f"{LAYER}/{WEIGHT}"
GIB = 1 << 30


@functools.cache
def base() -> bytes:
    """A legacy file of Keras as it should be."""
    layers: dict[str, dict[str, np.ndarray]] = {}
    for name, array in seeds.keras_weights().items():
        layer, _, leaf = name.rpartition("/")
        layers.setdefault(layer, {})[leaf] = array
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.h5"
        with h5py.File(path, "w") as file:
            file.attrs["layer_names"] = [layer.encode() for layer in layers]
            for layer, leaves in layers.items():
                group = file.create_group(layer)
                group.attrs["weight_names"] = [f"{layer}/{leaf}".encode() for leaf in leaves]
                for leaf, array in leaves.items():
                    group.create_dataset(f"{layer}/{leaf}", data=array)
        return path.read_bytes()


Change = Callable[[h5py.File, Placement], Any]


def changed(change: Change, replace: bool = False) -> Make:
    """The valid file with a change; `replace` takes the first kernel out before."""

    def make(place: Placement) -> Path:
        path = place.write("net.h5", base())
        with h5py.File(path, "r+") as file:
            if replace:
                del file[DATASET]
            change(file, place)
        return path

    return make


def instead(change: Change) -> Make:
    return changed(change, replace=True)


def external_storage(file: h5py.File, place: Placement) -> None:
    file.create_dataset(DATASET, (3, 3, 3, 4), "f4", external=[(str(place.secret), 0, 432)])


def external_link(file: h5py.File, place: Placement) -> None:
    outside = place.outside / "other.h5"
    with h5py.File(outside, "w") as other:
        other["w"] = np.frombuffer(place.secret.read_bytes()[:432], "f4").reshape(3, 3, 3, 4)
    file[DATASET] = h5py.ExternalLink(str(outside), "/w")


def external_group(file: h5py.File, place: Placement) -> None:
    del file[LAYER]
    file[LAYER] = h5py.ExternalLink(str(place.outside / "other.h5"), "/")


def virtual(file: h5py.File, place: Placement) -> None:
    layout = h5py.VirtualLayout((3, 3, 3, 4), "f4")
    layout[...] = h5py.VirtualSource(str(place.outside / "other.h5"), "w", (3, 3, 3, 4))
    file.create_virtual_dataset(DATASET, layout)


def virtual_of_itself(file: h5py.File, place: Placement) -> None:
    layout = h5py.VirtualLayout((3, 3, 3, 4), "f4")
    layout[...] = h5py.VirtualSource(".", DATASET, (3, 3, 3, 4))
    file.create_virtual_dataset(DATASET, layout)


def dataset(shape: tuple[int, ...], dtype: Any = "f4", **options: Any) -> Make:
    """The first kernel announced and never written."""
    return instead(lambda file, place: file.create_dataset(DATASET, shape, dtype, **options))


def many_large(file: h5py.File, place: Placement) -> None:
    """200 datasets of 3.9 GiB each, below what other readers call large."""
    for index in range(200):
        file.create_dataset(
            f"bomb/{index}", (int(3.9 * GIB) // 4,), "f4", chunks=(1 << 18,), compression="gzip"
        )


def zeros(file: h5py.File, place: Placement) -> None:
    """A gibibyte of zeros, deflated twice, as chunks that are written once."""
    made = file.create_dataset(
        DATASET,
        (1 << 14, 1 << 14),
        "f4",
        chunks=(1 << 10, 1 << 8),
        compression="gzip",
        compression_opts=9,
    )
    made[: 1 << 10, : 1 << 8] = 0


def filled(file: h5py.File, place: Placement) -> None:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_fill_value(np.array(1.0, "f4"))
    space = h5py.h5s.create_simple((1 << 28,))
    h5py.h5d.create(file.id, b"fill", h5py.h5t.NATIVE_FLOAT, space, plist)


def deep(file: h5py.File, place: Placement) -> None:
    group = file
    for _ in range(2000):
        group = group.create_group("a")


def wide(file: h5py.File, place: Placement) -> None:
    group = file.create_group("g").id
    for index in range(31_000):
        h5py.h5g.create(group, b"%d" % index)


def cycle(file: h5py.File, place: Placement) -> None:
    file[f"{LAYER}/again"] = file["/"]


def cycle_of_two(file: h5py.File, place: Placement) -> None:
    a, b = file.create_group("a"), file.create_group("b")
    a["b"], b["a"] = b, a


def text_bomb(file: h5py.File, place: Placement) -> None:
    """64 GiB of text, announced."""
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(1 << 10)
    h5py.h5d.create(file.id, b"names", kind, h5py.h5s.create_simple((1 << 26,)))


def names(*layers: str) -> Make:
    def change(file: h5py.File, place: Placement) -> None:
        file.attrs["layer_names"] = [layer.encode() for layer in layers]

    return changed(change)


def weight_names(*leaves: str) -> Make:
    def change(file: h5py.File, place: Placement) -> None:
        file[LAYER].attrs["weight_names"] = [leaf.encode() for leaf in leaves]

    return changed(change)


def attribute(name: str, value: Any) -> Make:
    return changed(lambda file, place: file.attrs.__setitem__(name, value))


def overlapping(place: Placement) -> Path:
    """Two datasets at the same address of the file."""
    path = place.write("net.h5", base())
    with h5py.File(path, "r") as file:
        kernels = ("stages.0.blocks.0.conv1", "stages.0.blocks.0.conv2")
        first, second = (file[f"{name}/{name}/kernel"].id.get_offset() for name in kernels)
    data = path.read_bytes()
    assert data.count(second.to_bytes(8, "little")) == 1
    path.write_bytes(data.replace(second.to_bytes(8, "little"), first.to_bytes(8, "little")))
    return path


LINK = "soft or an external link"
OTHER = "data in another file or dataset"

TABLE: dict[str, tuple[Make, str]] = {
    "external-link": (instead(external_link), LINK),
    "external-group": (changed(external_group), LINK),
    "soft-link": (
        instead(lambda f, p: f.__setitem__(DATASET, h5py.SoftLink("/head/head/kernel"))),
        LINK,
    ),
    "soft-link-to-itself": (
        instead(lambda f, p: f.__setitem__(DATASET, h5py.SoftLink(f"/{DATASET}"))),
        LINK,
    ),
    "external-storage": (instead(external_storage), OTHER),
    "external-passwd": (
        instead(
            lambda f, p: f.create_dataset(DATASET, (4,), "f4", external=[("/etc/passwd", 0, 16)])
        ),
        OTHER,
    ),
    "virtual": (instead(virtual), OTHER),
    "virtual-of-itself": (instead(virtual_of_itself), OTHER),
    "hard-link-cycle": (changed(cycle), "linked to twice"),
    "hard-link-cycle-of-two": (changed(cycle_of_two), "linked to twice"),
    "hard-link-twice": (
        instead(lambda f, p: f.__setitem__(DATASET, f["head/head/kernel"])),
        "linked to twice",
    ),
    "shape-bomb": (dataset((1 << 50,), chunks=(1 << 10,)), "elements at most are read"),
    "shape-bomb-of-axes": (
        dataset((1 << 20, 1 << 20, 1 << 20), chunks=(1, 1, 1 << 10)),
        "elements at most are read",
    ),
    "shape-bomb-below-the-limit": (dataset((1 << 30,), chunks=(1 << 18,)), "announces"),
    "never-written": (dataset((3, 3, 3, 4)), "announces"),
    "many-of-3.9-gib": (changed(many_large), "announces"),
    "compression-bomb": (instead(zeros), "announces"),
    "fill-value-bomb": (changed(filled), "announces"),
    "chunk-bomb": (dataset((4,), maxshape=(None,), chunks=(1 << 29,)), "announces"),
    "overlapping": (overlapping, "overlap"),
    "deep-groups": (changed(deep), "groups deeper than"),
    "many-groups": (changed(wide), "more than"),
    "other-filter": (
        instead(
            lambda f, p: f.create_dataset(
                DATASET, data=np.zeros((3, 3, 3, 4), "f4"), compression="lzf"
            )
        ),
        "other filters",
    ),
    "strings": (dataset((4,), h5py.string_dtype()), "not of plain numbers"),
    "references": (dataset((4,), h5py.ref_dtype), "not of plain numbers"),
    "compound": (dataset((4,), [("a", "f4"), ("b", "f4")]), "not of plain numbers"),
    "named-type": (
        changed(lambda f, p: f.__setitem__("type", np.dtype("f4"))),
        "neither a group nor a dataset",
    ),
    "text-bomb": (changed(text_bomb), "not of plain numbers"),
    "layer-by-path": (names("../../outside", "stem.conv1"), "has no group"),
    "layer-twice": (names("stem.conv1", "stem.conv1"), "twice"),
    "weight-by-path": (weight_names("../head/head/kernel"), "is no dataset in its group"),
    "weight-by-absolute-path": (weight_names("/head/head/kernel"), "is no dataset in its group"),
    "names-of-numbers": (attribute("layer_names", np.arange(10)), "not a list of strings"),
    "names-not-utf-8": (attribute("layer_names", np.array([b"\xff\xfe"])), "not UTF-8"),
    "metadata-bomb": (attribute("resnet_rosetta", '{"a":' + "[" * 60_000), "is not JSON"),
    "metadata-of-another-kind": (
        attribute("resnet_rosetta", '{"spec": 1}'),
        "not a table of strings",
    ),
    "spec-of-a-billion-blocks": (
        attribute("resnet_rosetta", '{"spec": "{\\"depths\\": [1000000000]}"}'),
        "depths",
    ),
}

ATTACKS: list[Attack] = attacks("hdf5", TABLE)
