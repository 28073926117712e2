"""The tree of a file's layers, by the words of their names, in natural order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from shared.recognition.layers import Layer
from shared.recognition.names import Words, pieces_of


@dataclass(eq=False)
class Node:
    """A word of names, the layers that are called by it, and the words that follow."""

    path: Words
    layers: list[Layer] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)
    convs: int = 0  # in all of it

    def walk(self) -> Iterator[Layer]:
        """Every layer, in natural order."""
        pending = [self]
        while pending:
            node = pending.pop()
            yield from node.layers
            pending += reversed(node.children)


def make_tree(layers: Iterable[Layer]) -> Node:
    """The tree, its children in natural order: numbers by their size, single letters by the
    alphabet, other words as the file has them.
    """
    root, nodes = Node(()), {}  # type: Node, dict[Words, Node]
    nodes[()] = root
    for layer in layers:
        node = root
        for depth in range(1, len(layer.words) + 1):
            path = layer.words[:depth]
            if path not in nodes:
                nodes[path] = Node(path)
                node.children.append(nodes[path])
            node = nodes[path]
        node.layers.append(layer)
    for node in reversed(nodes.values()):  # children come behind their parents
        node.children.sort(key=_order([child.path[-1] for child in node.children]))
        node.convs = sum(layer.kind == "conv" for layer in node.layers)
        node.convs += sum(child.convs for child in node.children)
    return root


def _order(words: list[str]) -> Callable[[Node], list[tuple[int, int]]]:
    """A key for siblings. Texts have the rank of their first appearance at their place."""
    ranks: dict[tuple[int, str], int] = {}
    for word in words:
        for i, piece in enumerate(pieces_of(word)):
            if isinstance(piece, str):
                ranks.setdefault((i, piece), len(ranks))

    def key(node: Node) -> list[tuple[int, int]]:
        return [
            (0, piece)
            if isinstance(piece, int)
            else (1, ord(piece))
            if len(piece) == 1
            else (2, ranks[i, piece])
            for i, piece in enumerate(pieces_of(node.path[-1]))
        ]

    return key
