"""Networks as files that are run without us: written by a framework's own exporter, run by the
file's own runtime, compared with the reference and read back as graphs.
"""
