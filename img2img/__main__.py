"""`python -m img2img`."""

from __future__ import annotations

import sys

from img2img.signals import answer_signals, ignore_signals


def main() -> None:
    """Run the command line; a signal ends it in order while that is still being imported."""
    answer_signals()
    try:
        from img2img.cli import main
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    try:
        main()
    except SystemExit as left:
        if not left.code:
            ignore_signals()
        raise


if __name__ == "__main__":
    main()
