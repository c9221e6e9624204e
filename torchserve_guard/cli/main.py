"""The entry: what comes before anything heavy is imported."""

from __future__ import annotations

import sys

from torchserve_guard.cli import collecting

INTERRUPTED = 130


def main() -> None:
    """Run the command line, in a process of its own, and exit with a code of the contract."""
    collecting.seldom()
    try:
        from torchserve_guard.cli import commands  # noqa: PLC0415 - heavy; by now garbage is looked for seldom

        commands.run(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
