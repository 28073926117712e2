"""Training in PyTorch, beyond what `tests/contract` asks of every trainer: torchvision's step bit
for bit, memory format, and compilation.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import resnet_torch
from resnet_torch.train import Trainer
from shared import get_spec
from shared.training.config import PROBE
from tests.architecture.test_peers import TORCHVISION, peer_name
from tests.numpy_training import RATES
from tests.peers import import_torchvision
from tests.probes import loaded, relative_error, small
from tests.training_probes import BIASED, DROPOUT, batch_for, masks_for

# Float32 of a compiled network against eager, two steps. Measured: 0.
COMPILED_LIMIT = 1e-5


def test_a_step_is_torchvisions_bit_for_bit() -> None:
    """As a plain PyTorch program trains torchvision's ResNet-18 in float32."""
    spec = get_spec("torchvision/resnet18", num_classes=10)
    model = resnet_torch.build(spec)
    peer = (
        import_torchvision().models.resnet18(num_classes=10).to(memory_format=torch.channels_last)
    )
    peer.load_state_dict({peer_name(n, TORCHVISION): t for n, t in model.state_dict().items()})
    optimizer = torch.optim.SGD(peer.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    trainer, (images, labels) = Trainer(model, PROBE), batch_for(spec)
    x = torch.from_numpy(images).float().permute(0, 3, 1, 2)
    for rate in RATES[:3]:
        loss = torch.nn.CrossEntropyLoss(label_smoothing=0.1)(peer(x), torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        assert trainer.step(images, labels, rate) == loss.item()
    found = peer.state_dict()
    assert all(
        torch.equal(t, found[peer_name(n, TORCHVISION)]) for n, t in model.state_dict().items()
    )


def test_training_keeps_channels_last() -> None:
    trainer = Trainer(loaded(resnet_torch, small(BIASED), "float32"), PROBE)
    batch = batch_for(trainer.model.spec)
    trainer.gradients(*batch)
    assert all(parameter.grad is None for parameter in trainer.parameters.values())
    trainer.step(*batch, 0.01)
    trainer.load_state(trainer.state(), trainer.steps)
    trainer.step(*batch, 0.01)
    for kernel in (p for p in trainer.parameters.values() if p.ndim == 4):
        for tensor in (kernel, kernel.grad, trainer.optimizer.state[kernel]["momentum_buffer"]):
            assert tensor.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("preset", [BIASED, DROPOUT])
def test_training_compiles_without_a_graph_break(preset: str) -> None:
    """Forward and backward, with masks, by `model.compile()` in front of the trainer."""
    torch.compiler.reset()
    spec = small(preset, (1,))
    eager, compiled = (Trainer(loaded(resnet_torch, spec, "float32"), PROBE) for _ in range(2))
    compiled.model.compile(backend="aot_eager", fullgraph=True)
    batch, masks = batch_for(spec), masks_for(spec)
    for _ in range(2):
        expected = eager.step(*batch, 0.01, masks)
        assert compiled.step(*batch, 0.01, masks) == pytest.approx(expected, rel=COMPILED_LIMIT)
    found = compiled.weights()
    worst = max(relative_error(found[name], array) for name, array in eager.weights().items())
    assert worst <= COMPILED_LIMIT
    torch.compiler.reset()
