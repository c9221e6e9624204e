"""What others found: scanners that read a staged tree and report findings, by one interface.

A scanner named in `guard.scanners` that is not here is an error, never a scanner that found nothing.
"""

import difflib
from collections.abc import Iterable

from torchserve_guard.errors import ConfigError
from torchserve_guard.scan.scanner import Scanner, Tree
from torchserve_guard.scan.shadowing import Shadowing

BUILT_IN: dict[str, type[Scanner]] = {Shadowing.name: Shadowing}


def scanners(names: Iterable[str] | None = None) -> tuple[Scanner, ...]:
    """Return the scanners of these names, once each, or all built-in ones; raise ConfigError for others."""
    wanted = tuple(dict.fromkeys(names)) if names is not None else tuple(BUILT_IN)
    unknown = [name for name in wanted if name not in BUILT_IN]
    if unknown:
        raise ConfigError.of(f"there is no scanner `{name}`{_nearest(name)}: known are {_known()}" for name in unknown)
    if not wanted:
        raise ConfigError(f"no scanner is named, and what nobody looked at is not clean: known are {_known()}")
    return tuple(BUILT_IN[name]() for name in wanted)


def _known() -> str:
    return ", ".join(f"`{name}`" for name in sorted(BUILT_IN))


def _nearest(name: str) -> str:
    nearest = difflib.get_close_matches(name, BUILT_IN, 1)
    return f" (did you mean `{nearest[0]}`?)" if nearest else ""


__all__ = ["BUILT_IN", "Scanner", "Tree", "scanners"]
