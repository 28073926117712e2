"""Files that hold a model's graph, read byte for byte, without the framework that wrote them.

Nothing that such a file says is ever run: an operator that no primitive stands for stays opaque.
Sizes, shapes and references are checked before they are used; each function raises
`CheckpointError`.
"""
