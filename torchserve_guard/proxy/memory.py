"""The memory: what the door's pieces of bodies are cut from is kept, and what stays is not looked through for garbage.

glibc returns memory beyond its thresholds at once (mallopt(3)), and a body that streams asks for a quarter of a
megabyte again and again: each page then comes back by a fault, which costs more than all the copying. Up to 32 such
pieces are read before the first is let go (uv__read in libuv), and a chunked body is cut out of them once more.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT = 32 << 20
_LONGEST_PIECE = 1 << 20


def keep_memory() -> None:
    """Keep up to 32 MiB of this process's free memory at hand, in pieces of up to 1 MiB; without glibc, do nothing."""
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
        mallopt(_M_MMAP_THRESHOLD, _LONGEST_PIECE)


def spare_what_stays() -> None:
    """Take all there is now for what stays as long as the process: the garbage collector looks at it no more.

    A look through everything that was imported takes milliseconds, and the requests of that moment wait for it.
    """
    gc.freeze()
