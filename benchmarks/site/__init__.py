"""The documentation as a site of static files: the networks side by side, pages of idioms, `docs/`
and the references of the command and of Python.
"""
