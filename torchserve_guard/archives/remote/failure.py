"""The failure: an archive that could not be fetched, though nothing says that it is not the right one."""

from __future__ import annotations

from typing import NoReturn

from torchserve_guard.errors import GuardError, VerificationError
from torchserve_guard.escape import printable
from torchserve_guard.origin import Origin, redacted


class Unfetched(GuardError):
    """Not here, and not to be had now: told like an archive that is missing from the model store."""

    exit_code = VerificationError.exit_code

    def __init__(self, complaint: str) -> None:
        super().__init__(printable(redacted(complaint)))


def unfetched(origin: Origin, why: str, cause: BaseException | None = None) -> NoReturn:
    """Raise `Unfetched`: the origin is not reached, or does not give the archive."""
    raise Unfetched(f"{origin}: {why}") from cause


def refused(origin: Origin, why: str) -> NoReturn:
    """Raise `VerificationError`: what the origin says is not what may be taken."""
    raise VerificationError(redacted(f"{origin}: {why}"))
