"""All attacks, by name."""

from __future__ import annotations

from tests.attacks import folders, hdf5s, headers, pickles, zips
from tests.attacks.attack import Attack

ATTACKS: dict[str, Attack] = {
    attack.name: attack
    for module in (pickles, headers, zips, hdf5s, folders)
    for attack in module.ATTACKS
}
