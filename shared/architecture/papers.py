"""The papers that presets are of: what a network is compared with to say what it does otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from shared.architecture.presets import list_presets

# Who wrote the paper released these networks, or its text defines them: patterns of presets' names.
PAPERS = (
    ("arXiv:1512.03385", ("he/*", "cifar/resnet*")),
    ("arXiv:1603.05027", ("fb/preresnet*", "cifar/preresnet*", "ablation/*")),
    ("arXiv:1605.07146", ("wrn/*",)),
    ("arXiv:1611.05431", ("torchvision/resnext*",)),
    ("arXiv:1812.01187", ("timm/resnet[1-9]*d",)),
    ("arXiv:1912.11370", ("bit/*",)),
)


def papers_presets() -> Iterator[tuple[str, str]]:
    """The presets that are a paper's own network, each with its paper.

    >>> dict(papers_presets())["he/resnet50"]
    'arXiv:1512.03385'
    """
    for name in list_presets():
        for paper, patterns in PAPERS:
            if any(fnmatchcase(name, pattern) for pattern in patterns):
                yield name, paper
                break
