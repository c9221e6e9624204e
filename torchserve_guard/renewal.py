"""The renewal: certificates that are replaced on the disk are taken without a restart, when they are whole.

What cannot be used, or put on record, is not taken; the old ones stay, and that is said once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import datetime

from torchserve_guard.audit import AuditLog
from torchserve_guard.errors import ConfigError, GuardError
from torchserve_guard.findings import Severity
from torchserve_guard.settings import Tls, check_tls, read_tls

LOOK_EVERY = 30.0


class Renewal:
    """The watch over the files of one `Tls`.

    `take` makes of a new one what then puts it to use, which must not fail; `spread` does so in other processes, and is
    awaited before anybody is told. `now` is the time.
    """

    def __init__(
        self,
        tls: Tls,
        log: AuditLog,
        say: Callable[[str], None],
        take: Callable[[Tls], Callable[[], None]],
        now: Callable[[], datetime],
        *,
        spread: Callable[[Tls], Awaitable[None]] | None = None,
    ) -> None:
        self.tls = tls
        self._log = log
        self._say = say
        self._prepare = take
        self._now = now
        self._spread = spread
        self._seen = tls.stamp
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Have the files read again now (SIGHUP), whether they look changed or not."""
        self._asked.set()

    async def watch(self, every: float = LOOK_EVERY) -> None:
        """Look every `every` seconds, and when asked, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(every):
                    await self._asked.wait()
            asked = self._asked.is_set()
            self._asked.clear()
            await self.look(asked=asked)

    async def look(self, *, asked: bool) -> None:
        """Take what is new; `asked` is told also when there is nothing new."""
        # INVARIANT: the stamp is older than what is read, so whatever is written meanwhile is seen next time.
        stamp = self.tls.sources.stamp()
        if stamp == self._seen and not asked:
            return
        self._seen = stamp
        try:
            await self._renew(asked=asked)
        except GuardError as error:
            self._kept(error)

    async def _renew(self, *, asked: bool) -> None:
        fresh = await asyncio.to_thread(read_tls, self.tls.sources)
        if _material(fresh) == _material(self.tls):
            if asked:
                self._say("the certificates were read again; they are the same")
            return
        broken = [one for one in check_tls(fresh, self._now()) if one.severity >= Severity.CRITICAL]
        if broken:
            raise ConfigError(f"{fresh.sources.shown}: {broken[0].message}")
        take = self._prepare(fresh)
        self._log.event(
            "certificate-reloaded",
            fingerprint=fresh.fingerprint,
            not_after=fresh.not_after.isoformat(),
            names=list(fresh.names),
        )
        take()
        self.tls = fresh
        if self._spread is not None:
            await self._spread(fresh)
        self._say(f"new certificates are in use: {fresh.fingerprint}, until {fresh.not_after:%Y-%m-%d}")

    def _kept(self, error: GuardError) -> None:
        self._say(f"the certificates on the disk are not taken, the old ones stay in use: {error}")
        try:
            self._log.event("certificate-refused", reason=str(error), fingerprint=self.tls.fingerprint)
        except GuardError as unrecorded:
            self._say(f"and that is not on record: {unrecorded}")


def _material(tls: Tls) -> tuple[bytes, bytes, bytes | None]:
    return tls.certificate, tls.key, tls.client_ca
