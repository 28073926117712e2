"""What has been done to tensors that are not what they should be, from the tensors alone.

Where both sides' weights are at hand, no network needs to be run: a hypothesis explains tensors
that are different if it makes exactly the ones that were found.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from shared.architecture.spec import ResNetSpec
from shared.verification.hypotheses.hypothesis import Array, Hypothesis, Port
from shared.verification.hypotheses.of_weights import of_weights


def explain_tensors(
    spec: ResNetSpec, right: Mapping[str, Array], found: Mapping[str, Array]
) -> tuple[list[tuple[Hypothesis, tuple[str, ...]]], tuple[str, ...]]:
    """(each cause, the tensors that it explains), and the tensors that nothing explains.

    `right` are the canonical tensors of `spec`; of `found`, those that are different count.
    """
    left = {name for name in right if name in found and not alike(found[name], right[name])}
    port = Port(spec, right, np.empty((0, spec.image_size, spec.image_size, spec.in_channels)))
    causes = []
    for hypothesis in sorted(of_weights(spec), key=lambda h: h.rank):
        if not left:
            break
        changed = _of_changed(hypothesis, port)
        names = changed.keys() & left
        if names and all(alike(changed[n], found[n]) for n in changed if n in found):
            causes.append((hypothesis, tuple(n for n in right if n in names)))
            left -= names
    return causes, tuple(name for name in right if name in left)


def alike(a: Array, b: Array) -> bool:
    """The same values, but for what a cast to float32 and back may leave."""
    if a.shape != b.shape:
        return False
    wide_a, wide_b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.allclose(wide_a, wide_b, rtol=1e-6, atol=1e-9)


def _of_changed(hypothesis: Hypothesis, port: Port) -> dict[str, Array]:
    """The tensors that a hypothesis makes others."""
    changed = hypothesis(port)
    if changed is None:
        return {}
    return {
        name: array
        for name, array in changed.weights.items()
        if array is not port.weights[name] and not alike(array, port.weights[name])
    }
