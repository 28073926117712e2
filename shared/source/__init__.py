"""A network as one stand-alone file, as a maintainer of the framework would write it.

`facts` finds out of the plan what the blocks of a network share and what tells them apart;
`torch_file`, `flax_file` and `keras_file` write it down.
"""
