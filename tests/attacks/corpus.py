"""All attacks, by name."""

from __future__ import annotations

from tests.attacks import (
    flatbuffers,
    folders,
    graphs,
    hdf5s,
    headers,
    networks,
    objects,
    pickles,
    tables,
    zips,
)
from tests.attacks.attack import Attack

ATTACKS: dict[str, Attack] = {
    attack.name: attack
    for module in (
        *(pickles, headers, zips, hdf5s, folders, objects, tables, graphs, networks),
        flatbuffers,
    )
    for attack in module.ATTACKS
}
