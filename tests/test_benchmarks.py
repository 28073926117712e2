"""The benchmarks compare like with like: the peers are as large as ours, and learn; the loop's
clock adds up.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from itertools import product, repeat
from typing import Any

import numpy as np
import pytest

from benchmarks.loop_speed import Length, Meter, Result, Seconds, measure
from benchmarks.timing import race
from benchmarks.train_speed import PEERS, nets
from shared.architecture.plan import make_plan
from shared.datasets import Batch
from shared.frameworks.registry import FRAMEWORKS
from shared.training.config import OptimizerConfig
from tests.zoo import rest_in_zoo

SGD = OptimizerConfig(momentum=0.9, weight_decay=1e-4)


def _peer(framework: str) -> Any:
    for module in FRAMEWORKS[framework].requires:
        pytest.importorskip(module)
    return importlib.import_module(PEERS[framework])


def _trainable(framework: str, model: Any) -> int:
    if framework == "torch":
        return sum(p.numel() for p in model.parameters())
    if framework == "flax":
        import jax
        from flax import nnx

        return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


@pytest.mark.parametrize(
    ("framework", "place"),
    rest_in_zoo(product(PEERS, (0, 1)), [*((framework, 1) for framework in PEERS), ("torch", 0)]),
)
def test_peers_have_as_many_parameters(framework: str, place: int) -> None:
    net = nets(framework, quick=True)[place]
    peer = _peer(framework)

    def build() -> Any:
        return peer.build(net.name, net.image, net.spec.num_classes)

    if framework == "flax":
        from flax import nnx

        model = nnx.eval_shape(build)  # XLA would compile a program for every tensor
    else:
        model = build()
    assert _trainable(framework, model) == make_plan(net.spec).params


@pytest.mark.parametrize("framework", rest_in_zoo(PEERS, ("torch",)))
def test_peers_learn(framework: str) -> None:
    net = nets(framework, quick=True)[1]
    peer = _peer(framework)
    step = peer.training_step(peer.build(net.name, net.image, net.spec.num_classes), SGD, 0.05)
    batch = net.batch_of_noise()
    losses = [step(*batch) for _ in range(8)]
    assert all(isinstance(loss, float) for loss in losses)
    assert losses[-1] < losses[0]


def test_nets_are_those_of_the_recipe() -> None:
    deep, small = nets("torch")
    assert (deep.batch, deep.image, small.batch, small.image) == (
        8,
        (224, 224, 3),
        128,
        (28, 28, 1),
    )


def test_race_takes_the_best_and_warms_up() -> None:
    calls = {"ours": 0, "theirs": 0}

    def call(who: str, seconds: float) -> None:
        calls[who] += 1
        time.sleep(seconds)

    result = race(
        "a step",
        "a peer",
        lambda: call("ours", 0.01),
        lambda: call("theirs", 0.03),
        rounds=3,
        warmups=2,
    )
    assert calls == {"ours": 5, "theirs": 5}
    assert 10 <= result.ours_ms <= result.peer_ms
    assert result.speedup > 1


def test_meter_tells_the_loop_from_its_steps() -> None:
    length = Length(rounds=2, steps=3, batches=4, warmup=2)
    found: list[Seconds] = []
    batches = repeat(Batch(np.zeros((1, 1, 1, 1), np.float32), np.zeros(1, np.int64), 0, 0))
    meter = Meter(length, batches, found.append)
    done = {"step": 0, "bare": 0}

    def step(kind: str) -> float:
        done[kind] += 1
        time.sleep(0.01)
        return 1.0

    for _ in range(length.total):
        meter.step(lambda: step("step"), lambda: step("bare"))
        time.sleep(0.005)  # what is around the step
    assert done == {"step": 9, "bare": 6}
    (taken,) = found
    assert [len(part) for part in (taken.loop, taken.inside, taken.bare, taken.pipeline)] == [
        2,
        2,
        2,
        2,
    ]
    for loop, inside in zip(taken.loop, taken.inside, strict=True):
        assert inside >= 0.03
        assert loop - inside >= 0.015


def test_result_of_a_loop() -> None:
    length = Length(rounds=3, steps=2, batches=4, warmup=0)
    taken = Seconds(
        loop=[1.0, 1.1, 2.0], inside=[0.9, 1.0, 1.9], bare=[1.0, 1.0, 4.0], pipeline=[0.1, 0.1, 0.1]
    )
    result = Result.of("torch", False, 10, length, taken)
    assert (result.step, result.pipeline, result.ratio) == (20.0, 400.0, 20.0)
    assert result.added == pytest.approx(4.1 / 3.8 - 1)


@pytest.mark.zoo
def test_the_real_loop_is_measured() -> None:
    pytest.importorskip("torch")
    from rich.console import Console

    result = measure("torch", True, Console(stderr=True, quiet=True))
    assert result.framework == "torch"
    assert result.pipeline > result.step > 0
    assert 0 < result.added < 1


def test_unknown_kinds_are_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "trian"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "unknown: trian" in done.stderr
