"""Label smoothing in PyTorch: an argument of the loss, which takes logits and class numbers."""

from torch import Tensor
from torch.nn.functional import cross_entropy


def right(logits: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(logits, labels, label_smoothing=0.1)


def wrong(logits: Tensor, labels: Tensor) -> Tensor:
    """Probabilities in the place of logits: nothing complains."""
    return cross_entropy(logits.softmax(1), labels, label_smoothing=0.1)
