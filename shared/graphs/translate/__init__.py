"""From what frameworks and files call their operators to the primitives.

Nothing here imports a framework: a translator is given the framework's own objects, or messages
that `shared.graphs.files` has parsed, and only reads them. A framework's package says how a model
becomes such objects.
"""
