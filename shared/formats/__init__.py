"""Checkpoints of other projects: containers (bytes to named tensors) and schemes (their names to
ours).
"""
