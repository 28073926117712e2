"""Why a port's outputs are not what they should be: `diagnose`, and what it needs."""
