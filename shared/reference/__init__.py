"""The plan executed by plain NumPy in float64: the witness that says which framework is wrong."""
