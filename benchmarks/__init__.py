"""What is timed, against the peers, in one run: `python -m benchmarks`."""
