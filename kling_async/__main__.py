"""`kling` and `python -m kling_async`: says which extra is missing, else hands over to the command line."""

from __future__ import annotations

import sys
from importlib.util import find_spec


def main() -> None:
    """Run the command line, and end the process with its exit code."""
    if find_spec("cyclopts") is None or find_spec("rich") is None:
        print('kling: the command line is an extra: pip install "kling-async[cli]"', file=sys.stderr)  # noqa: T201
        sys.exit(2)
    from kling_async.cli import main as run

    sys.exit(run())


if __name__ == "__main__":
    main()
