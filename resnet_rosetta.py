"""The command `rosetta`, and the check that `shared` is the package of this distribution.

The name is a common one: a folder or package of the user's may be found in its place, or may have
been installed over it. What is imported first says so.
"""

from __future__ import annotations

import sys
from pathlib import Path


def require_shared() -> None:
    """Raise `ImportError` where another package is called shared, with both places."""
    import shared

    if hasattr(shared, "__rosetta__"):
        return
    found = getattr(shared, "__file__", None)  # None of a folder without __init__.py
    place = Path(found).parent if found else ", ".join(map(str, getattr(shared, "__path__", ())))
    raise ImportError(
        f"the package 'shared' is {place}, and not that of resnet-rosetta, which belongs in "
        f"{Path(__file__).with_name('shared')}; rename the other one, start elsewhere, or install "
        "resnet-rosetta again if it is gone"
    )


def main() -> None:
    """Entry point of the command."""
    try:
        require_shared()
    except ImportError as error:
        print(f"rosetta: {error}", file=sys.stderr)
        sys.exit(2)
    from shared.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
