"""Anybody's live model as a graph: which ResNet it is, and where it departs from it.

    the user's model --reader--> RawGraph --normaliser--> Net --matcher--> spec and weights

A reader (`resnet_torch.read` and its sisters) translates and decides nothing. The normaliser
(`normal`) removes layouts and spellings. The matcher (`infer`, `overlay`, `verdict`) infers specs
from evidence and proves one by laying its plan over the graph, node for node.
"""
