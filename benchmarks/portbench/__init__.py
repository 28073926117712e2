"""PortBench: ports with known mistakes, and how well `rosetta diagnose` names them."""
