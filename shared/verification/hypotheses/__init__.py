"""Every mistake that ports are known to make: what tests plant and `diagnose` looks for."""
