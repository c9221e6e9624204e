"""TorchServe, as installed beside the guard: where, which version, and whether its workers could start."""

from __future__ import annotations

import re
import site
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

from torchserve_guard.errors import FrontendError

# Imported by ts/model_service_worker.py and what it imports; the wheel of 0.12.0 does not ask for pyyaml,
# and without it every worker dies as it starts while /ping says Healthy.
NEEDED = {"yaml": "pyyaml", "psutil": "psutil", "torch": "torch"}
TOKENS_SINCE = (0, 11, 1)


@dataclass(frozen=True, slots=True)
class TorchServe:
    """An installed TorchServe: the directory that holds `ts`, its version, its jars."""

    home: Path
    version: str
    jars: tuple[Path, ...]

    @property
    def tokens(self) -> bool:
        """Whether this version asks for tokens by itself, and writes a key file."""
        return tuple(int(number) for number in re.findall(r"\d+", self.version)[:3]) >= TOKENS_SINCE


def installed() -> tuple[str, ...]:
    """Return the directories that packages are installed into; never the one that we stand in."""
    personal = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    return tuple(path for path in (*site.getsitepackages(), *personal) if Path(path).is_absolute())


def find_torchserve(places: Iterable[str]) -> TorchServe:
    """Return TorchServe as found in `places`, without importing it; raise FrontendError if there is none."""
    spec = PathFinder.find_spec("ts", list(places))
    if spec is None or spec.origin is None:
        raise FrontendError("torchserve: not installed beside the guard; `pip install torchserve==0.12.0`")
    package = Path(spec.origin).parent
    jars = tuple(sorted((package / "frontend").glob("*.jar")))
    try:
        version = (package / "version.txt").read_text(encoding="ascii").strip()
    except (OSError, UnicodeError) as error:
        raise FrontendError(f"torchserve: `{package}` is no TorchServe: {error}; install it anew") from error
    if not jars:
        raise FrontendError(f"torchserve: there is no jar in `{package / 'frontend'}`; install it anew")
    return TorchServe(package.parent, version, jars)


def verify_workers(find: Callable[[str], object | None] = find_spec) -> None:
    """Return if what the workers import is installed; raise FrontendError naming what to install.

    Workers run with the guard's own interpreter, so this looks where it would, and imports nothing.
    """
    missing = [package for module, package in NEEDED.items() if find(module) is None]
    if missing:
        names = " ".join(missing)
        raise FrontendError(
            f"torchserve: its workers import `{names}`, which the guard's interpreter does not have;"
            f" every worker would die as it starts; `pip install {names}`"
        )
