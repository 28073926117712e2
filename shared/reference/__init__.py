"""The plan executed by plain NumPy in float64, independent of every framework."""
