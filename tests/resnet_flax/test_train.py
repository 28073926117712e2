"""Training in Flax, beyond what `tests/contract` asks of every trainer: steps that are compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
nnx = pytest.importorskip("flax.nnx")
pytest.importorskip("optax")

import resnet_flax
from resnet_flax import Trainer
from shared import FrameworkError
from shared.training.config import PROBE, Training
from tests.numpy_training import OPTIMIZERS, RATES
from tests.probes import loaded, relative_error, same_weights, small
from tests.training_probes import DROPOUT, UNBIASED, batch_for, masks_for
from tests.zoo import in_zoo

pytestmark = pytest.mark.usefixtures("x64")

# Float64, the same loss as one program and layer by layer, after three steps. Measured: the same
# bits.
SAME_LIMIT = 1e-12
SPEC = small(DROPOUT, (1,))


def test_a_compiled_step_is_the_layerwise_one_and_compiled_once() -> None:
    batch = batch_for(SPEC)
    whole, layerwise = (
        Trainer(loaded(resnet_flax, SPEC), PROBE, compiled=compiled) for compiled in (True, False)
    )
    before = nnx.graphdef(whole.model)
    expected = [
        layerwise.step(*batch, rate, masks_for(SPEC, i)) for i, rate in enumerate(RATES[:3])
    ]
    found = [whole.step(*batch, RATES[0], masks_for(SPEC, 0))]
    compiled: list[str] = []

    def count(event: str, seconds: float, **_: Any) -> None:
        compiled.extend([event] if "backend_compile" in event else [])

    jax.monitoring.register_event_duration_secs_listener(count)
    found += [whole.step(*batch, rate, masks_for(SPEC, i)) for i, rate in enumerate(RATES[:3]) if i]
    assert compiled == []  # the learning rate and the masks are arguments
    np.testing.assert_allclose(found, expected, rtol=SAME_LIMIT)
    for a, b in ((whole.weights(), layerwise.weights()), (whole.state(), layerwise.state())):
        assert max(relative_error(a[name], b[name]) for name in b) <= SAME_LIMIT
    np.testing.assert_allclose(
        whole.evaluate(batch[0]), layerwise.evaluate(batch[0]), rtol=0, atol=SAME_LIMIT
    )
    one, other = (
        whole.gradients(*batch, masks_for(SPEC)),
        layerwise.gradients(*batch, masks_for(SPEC)),
    )
    assert one.loss == pytest.approx(other.loss, rel=SAME_LIMIT)
    assert relative_error(one.images, other.images) <= SAME_LIMIT
    assert compiled  # the listener works
    assert nnx.graphdef(whole.model) == before  # its mode is not changed


@pytest.mark.parametrize(
    ("name", "dtype"), [in_zoo(("adamw-kernels", "float32")), ("adam", "bfloat16")]
)
def test_a_compiled_trainer_goes_on_bit_for_bit(name: str, dtype: str) -> None:
    training, batch, masks = Training(optimizer=OPTIMIZERS[name]), batch_for(SPEC), masks_for(SPEC)
    with jax.enable_x64(False):
        straight = Trainer(loaded(resnet_flax, SPEC, dtype), training)
        for rate in RATES[:2]:
            straight.step(*batch, rate, masks)
        resumed = Trainer(resnet_flax.build(SPEC, seed=7, dtype=dtype), training)
        resnet_flax.load_weights(resumed.model, straight.weights())
        resumed.load_state(straight.state(), straight.steps)
        for rate in RATES[2:]:
            assert straight.step(*batch, rate, masks) == resumed.step(*batch, rate, masks)
        assert same_weights(resumed.weights(), straight.weights())
        assert same_weights(resumed.state(), straight.state())


def test_float64_is_refused_where_jax_has_none() -> None:
    model = loaded(resnet_flax, small(UNBIASED, (1,)))
    with jax.enable_x64(False), pytest.raises(FrameworkError, match="JAX_ENABLE_X64"):
        Trainer(model, PROBE)
