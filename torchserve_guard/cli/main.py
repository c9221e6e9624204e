"""The entry: what comes before anything heavy is imported."""

from __future__ import annotations

import os
import sys

from torchserve_guard.cli import collecting

INTERRUPTED = 130


def main() -> None:
    """Run the command line, in a process of its own, and exit with a code of the contract."""
    _open_what_is_closed()
    collecting.seldom()
    try:
        from torchserve_guard.cli import commands  # noqa: PLC0415 - heavy; by now garbage is looked for seldom

        commands.run(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _open_what_is_closed() -> None:
    """Open the standard streams that whoever started us has closed, on nothing.

    Else the next file that is opened has their number, and gets what is written for them: TorchServe's log, say.
    """
    for name, flags in (("stdin", os.O_RDONLY), ("stdout", os.O_WRONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, flags)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "r" if flags == os.O_RDONLY else "w", errors="backslashreplace"))
