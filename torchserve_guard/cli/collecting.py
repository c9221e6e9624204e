"""The collecting of garbage: seldom while a command runs that is over in a moment, and not at its end.

Importing makes a hundred thousand objects that all stay, and Python looks through them again and again: a tenth of a
short command's time, and at its end, when the process goes anyway, a sixth.
"""

from __future__ import annotations

import atexit
import gc

SELDOM = 100_000
"""How many more objects there must be than at the last look; what has no cycles is gone at once all the same."""

_USUAL = gc.get_threshold()


def seldom() -> None:
    """Look for garbage seldom from now on, and not when the process ends."""
    gc.set_threshold(SELDOM, *_USUAL[1:])
    # INVARIANT: nothing waits for the collector to be written, closed or removed: a `with`, the last reference, or
    # `weakref.finalize`, which acts at the end of a process by itself, sees to it.
    atexit.register(gc.freeze)


def as_usual() -> None:
    """Look for garbage as Python does by itself: for a command that stays."""
    gc.set_threshold(*_USUAL)
