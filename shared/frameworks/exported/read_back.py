"""An exported file read as anybody's is: the same network, and bit by bit the same weights."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shared.architecture.ops import BatchNorm, Conv
from shared.architecture.plan import make_plan
from shared.architecture.spec import ResNetSpec
from shared.frameworks.exported.kinds import Wanted
from shared.frameworks.identify import identify_target
from shared.graphs.verdict import THIS_SIZE
from shared.weights.canonical import Weights
from shared.weights.folding import fold_norms, folded_spec

APART = (
    1e-5  # of roundings in float32, measured: at most 3e-7 (tests/graphs/test_litert_networks.py)
)
_TINY = 1e-30


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
        apart = _apart(_effects(expected_spec(spec, wanted), tensors), _effects(plain, expected))
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


def _apart(found: Weights, expected: Weights) -> float:
    return max(
        float(np.abs(found[name] - array).max() / max(np.abs(array).max(), _TINY))
        for name, array in expected.items()
    )


def _effects(spec: ResNetSpec, weights: Weights) -> Weights:
    """What a network's tensors do, in float64: norms folded into the convolutions that they alone
    read, and elsewhere as a scale and a shift; standardised kernels.
    """
    exact = {name: array.astype(np.float64) for name, array in weights.items()}
    folded, found = fold_norms(spec, exact)
    nodes = {node.name: node for node in make_plan(folded).nodes()}
    readers = Counter(name for node in nodes.values() for name in node.inputs)
    for node in nodes.values():
        if not isinstance(node.op, BatchNorm):
            continue
        leaves = {leaf: found.pop(f"{node.name}.{leaf}") for leaf in node.op.tensors()}
        scale = leaves.get("weight", 1.0) / np.sqrt(leaves["running_var"] + node.op.eps)
        shift = leaves["bias"] - leaves["running_mean"] * scale
        (source,) = node.inputs
        if source in nodes and isinstance(nodes[source].op, Conv) and readers[source] == 1:
            found[f"{source}.weight"] = found[f"{source}.weight"] * scale[:, None, None, None]
            shift = shift + scale * found.pop(f"{source}.bias", 0.0)
        else:
            found[f"{node.name}.scale"] = scale
        found[f"{node.name}.shift"] = shift
    return found
