"""Finding ResNets among named tensors, and recognising one whose names are not known.

Pure functions of names, shapes and, where two tensors may be the same, values.
"""
