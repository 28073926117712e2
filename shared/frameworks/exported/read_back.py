"""An exported file read as anybody's is: the same network, and bit by bit the same weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shared.architecture.plan import make_plan
from shared.architecture.spec import ResNetSpec
from shared.frameworks.exported.kinds import Wanted
from shared.frameworks.identify import identify_target
from shared.graphs.verdict import THIS_SIZE
from shared.weights.canonical import Weights
from shared.weights.folding import APART, apart_by, effects, fold_norms, folded_spec


@dataclass(frozen=True)
class ReadBack:
    """What the graph in the file is. `why` says why there is none, or what is not the same."""

    passed: bool
    same_spec: bool | None
    equal: int = 0  # tensors that are the same bit by bit
    tensors: int = 0
    why: str = ""
    apart: float | None = None  # of norms that are folded, by the largest element of each tensor

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def read_back(
    file: Path, spec: ResNetSpec, weights: Weights, wanted: Wanted, size: int
) -> ReadBack:
    """Identify the network of a file that was exported from `spec` and `weights`."""
    maps = [row.output[:2] for row in make_plan(spec, size).layers if len(row.output) == 3]
    if 1 in (side for sides in maps for side in sides):
        why = f"of {size} x {size} pixels, maps of one pixel are left, in which no layer shows"
        return ReadBack(True, None, why=why)
    answer = identify_target(str(file), size, expected_spec(spec, wanted), keep_weights=True)
    return judged(answer.found, answer.weights, spec, weights, wanted)


def expected_spec(spec: ResNetSpec, wanted: Wanted) -> ResNetSpec:
    """What the file's graph is to be compared with: who folds norms computes standardised kernels,
    too.
    """
    if wanted.fold:
        return folded_spec(spec)
    return spec.replace(weight_std_eps=None) if wanted.folds else spec


def judged(
    found: Mapping[str, Any], tensors: Weights, spec: ResNetSpec, weights: Weights, wanted: Wanted
) -> ReadBack:
    """What an identification against `expected_spec` says of a file with these tensors."""
    departures = found["departures"] if found["spec"] else [{"where": "", "what": found["verdict"]}]
    if found["verdict"] == THIS_SIZE and wanted.image_size:
        departures = []  # those at another size, which the file is not for
    if departures:
        first = departures[0]
        what = f"{first['what']} at {first['where'] or 'the whole'}"
        if wanted.fold:  # biases, scales and additions next to each other have many readings
            return ReadBack(True, None, why=f"the graph has no reading without norms ({what})")
        if wanted.folds:  # constants are computed beforehand: factors, a norm of the images
            why = f"{wanted.folds} has folded constants, and the graph has no reading ({what})"
            return ReadBack(True, None, why=why)
        return ReadBack(False, False, why=what)
    plain, expected = fold_norms(spec, weights) if wanted.fold else (spec, weights)
    unequal = [name for name, array in expected.items() if not _same(tensors.get(name), array)]
    equal = len(expected) - len(unequal)
    if unequal and wanted.folds and found["recognised"]:
        theirs, ours = effects(expected_spec(spec, wanted), tensors), effects(plain, expected)
        apart = max(apart_by(theirs, ours).values())
        folded = ["norms"] * (plain.norm.kind == "batch")
        folded += ["standardised kernels"] * (plain.weight_std_eps is not None)
        why = (
            f"{wanted.folds} has folded {' and '.join(folded)}; folded here as well, "
            f"{len(unequal)} tensors are {'' if apart <= APART else 'not '}the same: "
            f"{apart:.1e} apart"
        )
        return ReadBack(apart <= APART, True, equal, len(expected), why, apart)
    why = f"{len(unequal)} tensors are not the same: {', '.join(unequal[:3])}" if unequal else ""
    return ReadBack(not unequal, True, equal, len(expected), why)


def _same(a: np.ndarray | None, b: np.ndarray) -> bool:
    """Of the same values; what the file has in float32 may have been widened to be read."""
    return a is not None and a.shape == b.shape and np.array_equal(a, b.astype(a.dtype))
