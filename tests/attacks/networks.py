"""OpenVINO's files: markup that grows, networks that hang together with nothing or in a circle, and
weights that lie elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.attacks.attack import Attack, Make, Placement, attacks
from tests.formats.openvino_files import HEAD, Network, small

LAUGHS = "".join(
    f'<!ENTITY a{k} "{f"&a{k - 1};" * 10 if k else "lol"}">' for k in range(12)
)  # 3e12 bytes


def made(build: Callable[[], Network], *changes: tuple[str, str]) -> Make:
    """A network whose text is changed."""

    def make(place: Placement) -> Path:
        net = build()
        text = net.xml()
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new, 1)
        place.write("net.bin", net.bytes)
        return place.write("net.xml", text.encode())

    return make


def changed(*changes: tuple[str, str]) -> Make:
    return made(small, *changes)


def lying(**lies: str) -> Make:
    """What the file says of the first kernel."""
    return made(lambda: small(**lies))


def text(data: Callable[[], str | bytes]) -> Make:
    def make(place: Placement) -> Path:
        found = data()
        return place.write("net.xml", found.encode() if isinstance(found, str) else found)

    return make


def beside(make_bin: Callable[[Placement], object]) -> Make:
    """Another thing in the place of the weights."""

    def make(place: Placement) -> Path:
        make_bin(place)
        return place.write("net.xml", small().xml().encode())

    return make


def many_layers() -> str:
    one = '<layer id="{}" name="" type="Relu" version="opset1"/>'
    return f'<net version="11"><layers>{"".join(map(one.format, range(70_000)))}</layers></net>'


def many_ports() -> str:
    ports = "".join(f'<port id="{k}"/>' for k in range(300_000))
    layer = f'<layer id="0" name="" type="Concat" version="opset1"><output>{ports}</output></layer>'
    return f'<net version="11"><layers>{layer}</layers></net>'


def shared_in_part() -> Network:
    net = small()
    net.const(np.zeros(4, np.float32), offset="4")
    return net


def sparse(place: Placement) -> Path:
    path = place.write("net.xml", small().xml().encode())
    os.truncate(path, 1 << 40)
    return path


NET = '<net version="11">'
EDGE = '<edge from-layer="0" from-port="0" to-layer="2" to-port="0"/>'

TABLE: dict[str, tuple[Make, str]] = {
    "entities": (text(lambda: f"{HEAD}<!DOCTYPE net [{LAUGHS}]>{NET}&a11;</net>"), "document type"),
    "external-entity": (
        text(lambda: f'<!DOCTYPE net [<!ENTITY x SYSTEM "file:///etc/passwd">]>{NET}&x;</net>'),
        "document type",
    ),
    "external-dtd": (
        text(lambda: f'<!DOCTYPE net SYSTEM "http://127.0.0.1/x.dtd">{NET}</net>'),
        "document type",
    ),
    "unknown-entity": (text(lambda: f"{NET}&x;</net>"), "undefined entity"),
    "nested": (text(lambda: NET + "<a>" * 100_000), "64 deep"),
    "no-end": (text(lambda: small().xml()[:1500]), "damaged"),
    "empty": (text(lambda: ""), "no element found"),
    "other-root": (text(lambda: "<html/>"), "'html'"),
    "no-layers": (text(lambda: f"{NET}</net>"), "no layers"),
    "old-version": (changed(('version="11"', 'version="7"')), "'7'|convert the model again"),
    "new-version": (changed(('version="11"', 'version="99"')), "'99'"),
    "nulls": (text(lambda: b"\0" * 4096), "damaged"),
    "noise": (text(lambda: b"\xff\xfe" + os.urandom(4096)), "damaged"),
    "encoding": (text(lambda: f'<?xml version="1.0" encoding="rot13"?>{NET}</net>'), "damaged"),
    "many-layers": (text(many_layers), "65,536 layers"),
    "many-ports": (text(many_ports), "ports"),
    "too-large": (sparse, "at most are read"),
    "id-twice": (changed(('layer id="2"', 'layer id="1"')), "two layers"),
    "id-of-words": (changed(('layer id="2"', 'layer id="x"')), "expected a number"),
    "id-of-digits": (changed(('layer id="2"', f'layer id="{"9" * 400}"')), "expected a number"),
    "port-twice": (
        changed(('<output><port id="0"/>', '<output><port id="0"/><port id="0"/>')),
        "two outputs",
    ),
    "edge-missing": (changed((EDGE, "")), "connected with no output"),
    "edge-from-nowhere": (
        changed((EDGE, EDGE.replace('from-layer="0"', 'from-layer="99"'))),
        "connected with no output",
    ),
    "edge-from-no-port": (
        changed((EDGE, EDGE.replace('from-port="0"', 'from-port="9"'))),
        "connected with no output",
    ),
    "edge-to-nowhere": (changed((EDGE, EDGE + EDGE.replace('"2"', '"99"'))), "which is not there"),
    "edge-twice": (changed((EDGE, EDGE + EDGE)), "two edges"),
    "circle": (
        changed((EDGE, EDGE.replace('"0" from-port="0"', '"8" from-port="1"'))),
        "computed from itself",
    ),
    "itself": (
        changed((EDGE, EDGE.replace('"0" from-port="0"', '"2" from-port="2"'))),
        "computed from itself",
    ),
    "no-input": (changed(('type="Parameter"', 'type="Something"')), "no input"),
    "no-result": (changed(('type="Result"', 'type="Sink"')), "no result"),
    "result-of-a-constant": (
        changed(('from-layer="8" from-port="1"', 'from-layer="1" from-port="0"')),
        "no result",
    ),
    "input-of-many-axes": (made(lambda: small(",".join(["3"] * 100_000))), "100000 dimensions"),
    "input-of-vectors": (made(lambda: small("?,3")), "images have 4"),
    "beyond": (lying(offset=str(1 << 50)), "which has"),
    "behind-the-end": (lying(offset="500"), "which has 496"),
    "negative-offset": (lying(offset="-4"), "the offset '-4'"),
    "offset-of-words": (lying(offset="\u0664"), "the offset"),
    "negative-size": (lying(size="-432"), "the size '-432'"),
    "other-size": (lying(size="4"), "4 bytes, expected 432"),
    "no-size": (lying(size=""), "the size ''"),
    "negative-shape": (lying(shape="-4, 3, 3, 3"), "the shape"),
    "free-shape": (lying(shape="?,3,3,3"), "the shape"),
    "huge-shape": (lying(shape="99999999999,3,3,3"), "impossible shape"),
    "overflowing-shape": (lying(shape=",".join(["4294967296"] * 4)), "impossible shape"),
    "hundred-dimensions": (lying(shape=",".join(["1"] * 100)), "100 dimensions"),
    "eight-gibibytes": (
        lying(shape="1073741824", element_type="f64", size=str(8 << 30)),
        "which has",
    ),
    "weights-over-each-other": (made(shared_in_part), "others' in part"),
    "missing": (beside(lambda place: None), "cannot be read"),
    "link": (
        beside(lambda p: (p.inside / "net.bin").symlink_to(p.secret)),
        "leads out of its folder",
    ),
    "loop-of-links": (
        beside(lambda p: (p.inside / "net.bin").symlink_to("net.bin")),
        "cannot be read",
    ),
    "pipe": (beside(lambda p: os.mkfifo(p.inside / "net.bin")), "not a regular file"),
    "folder": (beside(lambda p: (p.inside / "net.bin").mkdir()), "not a regular file"),
    "cut": (beside(lambda p: p.write("net.bin", small().bytes[:100])), "which has 100"),
}


ATTACKS: list[Attack] = attacks("openvino", TABLE)
