"""A network as one stand-alone file, as a maintainer of the framework would write it.

`facts` finds out of the plan what the blocks of a network share and what tells them apart; `torch`,
`flax` and `keras` write it down.
"""
