"""safetensors whose headers lie, canonical metadata that asks for absurd networks, and msgpack
bombs.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from shared.weights.canonical import FORMAT
from tests.attacks import seeds
from tests.attacks.attack import SECRET, Attack, Make, Placement, attacks

Header = dict[str, Any]
FIRST, SECOND = "stem.conv1.weight", "stem.norm1.weight"


def parts() -> tuple[Header, bytes]:
    """The header and the data of a canonical file."""
    header: Header = {"__metadata__": {"format": FORMAT, "spec": seeds.TINY.to_json()}}
    data = b""
    for name, array in seeds.weights().items():
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": offsets}
        data += array.tobytes()
    return header, data


def packed(text: bytes, data: bytes = b"") -> bytes:
    return len(text).to_bytes(8, "little") + text + data


def changed(change: Callable[[Header], Any], tail: bytes = b"") -> Make:
    """A canonical file with another header."""

    def make(place: Placement) -> Path:
        header, data = parts()
        change(header)
        return place.write("net.safetensors", packed(json.dumps(header).encode(), data + tail))

    return make


def field(name: str, key: str, value: Any) -> Make:
    return changed(lambda header: header[name].update({key: value}))


def spec(**changes: Any) -> Make:
    """A canonical file whose spec is another one."""

    def change(header: Header) -> None:
        table = seeds.TINY.to_dict()
        for key, value in changes.items():
            group, _, inner = key.rpartition(".")
            (table[group] if group else table)[inner] = value
        header["__metadata__"]["spec"] = json.dumps(table)

    return changed(change)


def metadata(**values: Any) -> Make:
    return changed(lambda header: header["__metadata__"].update(values))


def values(name: str, value: float) -> Make:
    """A canonical file with another number as the first of a tensor."""

    def make(place: Placement) -> Path:
        header, data = parts()
        at = header[name]["data_offsets"][0]
        return place.write(
            "net.safetensors",
            packed(
                json.dumps(header).encode(),
                data[:at] + np.float32(value).tobytes() + data[at + 4 :],
            ),
        )

    return make


def text(make_text: Callable[[], bytes], data: bytes = b"") -> Make:
    return lambda place: place.write("net.safetensors", packed(make_text(), data))


def announced(length: int, size: int) -> Make:
    """Eight bytes that announce a header, and a file of some size that takes no room on
    the disk.
    """

    def make(place: Placement) -> Path:
        path = place.write("net.safetensors", length.to_bytes(8, "little") + b'{"a": 1}')
        with path.open("r+b") as file:
            file.truncate(size)
        return path

    return make


def full_header(megabytes: int) -> Make:
    """A header that is as long as it says."""
    return text(lambda: b"{" + b" " * (megabytes << 20) + b"}")


def entries(count: int) -> bytes:
    return (
        b"{"
        + b",".join(
            b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % i for i in range(count)
        )
        + b"}"
    )


def duplicate(place: Placement) -> Path:
    header, data = parts()
    encoded = json.dumps(header)
    again = json.dumps({FIRST: header[FIRST]})[1:-1]
    return place.write(
        "net.safetensors", packed((encoded[:-1] + ", " + again + "}").encode(), data)
    )


def swapped_digests(header: Header) -> None:
    header["__metadata__"]["sha256"] = json.dumps(dict.fromkeys(seeds.weights(), "0" * 64))


# msgpack.


def mp(data: Callable[[], bytes]) -> Make:
    return lambda place: place.write("net.msgpack", data())


def key(name: str) -> bytes:
    return bytes([0xA0 | len(name)]) + name.encode()


def extension(body: bytes, code: int = 1) -> bytes:
    return b"\xc9" + struct.pack(">I", len(body)) + bytes([code]) + body


def params(value: bytes, name: str = "w") -> bytes:
    return b"\x81" + key("params") + b"\x81" + key(name) + value


def shaped(sizes: list[int], data: bytes, dtype: str = "float32") -> bytes:
    shape = bytes([0x90 | len(sizes)]) + b"".join(b"\xcf" + n.to_bytes(8, "big") for n in sizes)
    return extension(b"\x93" + shape + key(dtype) + b"\xc6" + struct.pack(">I", len(data)) + data)


def chunked(sizes: dict[str, int], chunks: bytes) -> bytes:
    shape = bytes([0x80 | len(sizes)]) + b"".join(
        key(k) + b"\xcf" + n.to_bytes(8, "big") for k, n in sizes.items()
    )
    return (
        b"\x83"
        + b"\xb9__msgpack_chunked_array__\xc3"
        + key("shape")
        + shape
        + key("chunks")
        + chunks
    )


DAMAGED = "not a safetensors file, or a damaged one"
DEEP = "[" * 100_000 + "]" * 100_000

SAFETENSORS: dict[str, tuple[Make, str]] = {
    "overlap": (changed(lambda h: h[SECOND].update(data_offsets=[4, 20])), f"{DAMAGED}|overlaps"),
    "gap": (changed(lambda h: h.pop(SECOND)), f"{DAMAGED}|gap"),
    "huge-offset": (field(FIRST, "data_offsets", [0, 1 << 62]), f"{DAMAGED}|does not follow"),
    "huge-shape-and-offset": (
        changed(lambda h: h[FIRST].update(shape=[1 << 29], data_offsets=[0, 1 << 31])),
        f"{DAMAGED}|overlaps",
    ),
    "negative-offset": (field(FIRST, "data_offsets", [-432, 0]), f"{DAMAGED}|does not follow"),
    "negative-shape": (field(FIRST, "shape", [-4, 3, -3, 3]), f"{DAMAGED}|does not follow"),
    "overflowing-shape": (field(FIRST, "shape", [1 << 32, 1 << 32]), f"{DAMAGED}|does not follow"),
    "a-million-axes": (field(FIRST, "shape", [2] * 1_000_000), f"{DAMAGED}|1000000 dimensions"),
    "absurd-empty": (field(FIRST, "shape", [0, 1 << 63]), f"{DAMAGED}|does not follow"),
    "true-as-offset": (field(FIRST, "data_offsets", [False, 432]), f"{DAMAGED}|does not follow"),
    "float-offset": (field(FIRST, "data_offsets", [0.0, 432.0]), f"{DAMAGED}|does not follow"),
    "huge-integer": (
        text(
            lambda: b'{"a":{"dtype":"F32","shape":[' + b"9" * 100_000 + b'],"data_offsets":[0,0]}}'
        ),
        f"{DAMAGED}|not JSON",
    ),
    "unknown-dtype": (field(FIRST, "dtype", "O"), f"{DAMAGED}|unknown dtype"),
    "list-as-dtype": (field(FIRST, "dtype", ["F32"]), f"{DAMAGED}|unknown dtype"),
    "appended": (changed(lambda h: None, b"PK\3\4"), f"{DAMAGED}|the file at byte"),
    "a-name-of-a-megabyte": (
        changed(lambda h: h.update({"x" * 1_000_000: h.pop(SECOND)})),
        "a tensor named",
    ),
    "lines-in-a-name": (
        changed(lambda h: h.update({"a\nError\x1b[2J": h.pop(SECOND)})),
        "a tensor named",
    ),
    "header-of-100-mb": (full_header(100), f"{DAMAGED}|header of more than"),
    "header-of-100-mb-announced": (announced(100_000_000, 64), f"{DAMAGED}|header of more than"),
    "header-of-8-eib": (announced((1 << 63) - 1, 64), f"{DAMAGED}|header of more than"),
    "a-terabyte": (announced(100, 1 << 40), DAMAGED),
    "duplicate-key": (duplicate, f"{DAMAGED}|twice"),
    "deep-json": (text(lambda: b'{"a":' + DEEP.encode() + b"}"), f"{DAMAGED}|not JSON"),
    "a-million-entries": (text(lambda: entries(1_000_000)), f"{DAMAGED}|header of more than"),
    "many-entries": (text(lambda: entries(70_000)), "at most are read"),
    "not-utf-8": (text(lambda: b'{"\xff": 1}'), f"{DAMAGED}|not JSON"),
    "metadata-of-numbers": (metadata(evil=1), f"{DAMAGED}|not a table of strings"),
    "nan": (values(FIRST, float("nan")), "not finite|stem.conv1.weight"),
    "infinite": (values("head.bias", float("inf")), "not finite|head.bias"),
    "negative-variance": (
        values("stem.norm1.running_var", -1.0),
        "negative|stem.norm1.running_var",
    ),
    "other-digests": (changed(swapped_digests), "damaged|SHA-256"),
    "digests-of-depth": (metadata(sha256=DEEP), "SHA-256 digests is invalid"),
    "secret-as-file-name": (
        lambda p: p.write("net.safetensors", packed(str(p.secret).encode() + SECRET)),
        DAMAGED,
    ),
}

SPEC: dict[str, tuple[Make, str]] = {
    "a-billion-blocks": (spec(depths=[10**9] * 4), "widths|stages in depths"),
    "a-billion-blocks-in-two-stages": (spec(depths=[10**9, 10**9]), "depths|at most 4096 blocks"),
    "a-million-stages": (spec(depths=[1] * 1_000_000), "characters"),
    "most-blocks-and-stages": (spec(depths=[2048, 2048]), "4096 blocks"),
    "absurd-widths": (spec(widths=[10**9, 10**9]), "widths|must be from 1 to"),
    "widest": (spec(widths=[65536, 65536]), "of another shape"),
    "absurd-classes": (spec(num_classes=10**12), "num_classes"),
    "absurd-groups": (spec(**{"norm.kind": "group", "norm.groups": 10**15}), "norm.groups"),
    "absurd-image": (spec(image_size=10**9), "image_size"),
    "negative-depth": (spec(depths=[-1, 1]), "depths"),
    "text-as-depth": (spec(depths="11"), "depths|expected a list"),
    "unknown-field": (spec(**{"__class__": "os.system"}), "no field"),
    "a-megabyte-of-name": (spec(depths=["x" * 1_000_000, 1]), "characters"),
    "not-json": (metadata(spec="__import__('os').system('true')"), "spec is not JSON"),
    "a-list": (metadata(spec="[]"), "expected an object"),
    "deep": (metadata(spec="[" * 10_000), "spec is not JSON"),
    "digits": (metadata(spec="9" * 10_000), "spec is not JSON"),
    "infinite-eps": (metadata(spec='{"norm": {"eps": 1e999}}'), "norm.eps"),
    "lines-in-a-name": (metadata(spec='{"name": "a\\nError: it failed"}'), "must be printable"),
}

MSGPACK: dict[str, tuple[Make, str]] = {
    "depth": (mp(lambda: (b"\x81" + key("a")) * 100_000 + b"\xc0"), "deeper than"),
    "depth-of-arrays": (mp(lambda: params(b"\x91" * 100_000 + b"\xc0")), "deeper than"),
    "huge-array": (mp(lambda: params(b"\xdd\xff\xff\xff\xff")), "announces"),
    "huge-map": (mp(lambda: b"\xdf\xff\xff\xff\xff"), "announces"),
    "huge-text": (mp(lambda: b"\x81\xdb\xff\xff\xff\xff"), "the key at byte"),
    "huge-binary": (mp(lambda: params(b"\xc6\xff\xff\xff\xff")), "bytes without a type"),
    "huge-extension": (mp(lambda: params(b"\xc9\xff\xff\xff\xff\x01")), "announces"),
    "lying-extension": (
        mp(lambda: params(extension(b"\x93\x91\x02" + key("float32") + b"\xc4\x04" + bytes(8)))),
        "the parts of the array",
    ),
    "lying-shape": (
        mp(lambda: params(shaped([1 << 20], bytes(4)))),
        "does not follow from its shape",
    ),
    "overflowing-shape": (mp(lambda: params(shaped([1 << 63, 2], b""))), "impossible shape"),
    "object-dtype": (mp(lambda: params(shaped([1], bytes(8), "object"))), "has the dtype"),
    "unknown-extension": (mp(lambda: params(extension(b"evil", 42))), "unknown extension type 42"),
    "complex": (mp(lambda: params(extension(b"evil", 2))), "a complex number"),
    "same-key-twice": (mp(lambda: b"\x82" + (key("params") + b"\xc0") * 2), "there twice"),
    "many-leaves": (
        mp(lambda: params(b"\xdd" + struct.pack(">I", 1_000_000) + b"\xc0" * 1_000_000)),
        "more than",
    ),
    "chunks-of-nothing": (mp(lambda: params(chunked({"0": 1 << 60}, b"\x80"))), "impossible shape"),
    "chunks-that-lie": (
        mp(lambda: params(chunked({"0": 1 << 20}, b"\x81" + key("0") + shaped([1], bytes(4))))),
        "does not follow from its shape",
    ),
    "appended": (mp(lambda: params(shaped([1], bytes(4))) + b"PK\3\4"), "the file at byte"),
    "number-as-key": (mp(lambda: b"\x81\x01\xc0"), "expected str"),
    "reserved-byte": (mp(lambda: params(b"\xc1")), "starts no object"),
}

ATTACKS: list[Attack] = (
    attacks("safetensors", SAFETENSORS) + attacks("spec", SPEC) + attacks("msgpack", MSGPACK)
)
