"""A tap between the guard and TorchServe: it passes every byte on, and writes down each request, read by its own rules.

It takes the place of a unix socket of TorchServe's; the rules are narrower than HTTP's, since the guard writes one
spelling only. What does not keep to them is a complaint, and the bytes are kept.
"""

from __future__ import annotations

import asyncio
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

LINE = re.compile(rb"([A-Z]+) (/[!-~]*) HTTP/1\.1")
HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ((?:[!-~\x80-\xff](?:[ -~\t\x80-\xff]*[!-~\x80-\xff])?)?)")
CHUNK = re.compile(rb"[0-9a-f]{1,16}")
LONGEST_HEAD = 128 * 1024


@dataclass(frozen=True, slots=True)
class Seen:
    """One request that went upstream."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]

    def all(self, name: str) -> list[str]:
        """Return the values of a header, by its name in small letters."""
        return [value for one, value in self.headers if one == name]


@dataclass
class Tap:
    """A listener in the place of the socket at `path`; what it saw is in `seen` and `complaints`."""

    path: Path
    seen: list[Seen] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._real = self.path.with_suffix(".real")
        self.path.rename(self._real)
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(
            asyncio.start_unix_server(self._pass_on, str(self.path), limit=LONGEST_HEAD)
        )
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._real.replace(self.path)

    async def _close(self) -> None:
        self._server.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_unix_connection(str(self._real))
        back = asyncio.ensure_future(_copy(answers, writer))
        try:
            while await self._request(reader, requests):
                pass
        except asyncio.IncompleteReadError as cut:
            # The guard cuts off a client that did not send all it announced; a head is always whole.
            if not isinstance(cut, _InABody):
                self.complaints.append(f"half a head: {cut.partial[:300]!r}")
        except (ValueError, asyncio.LimitOverrunError) as error:
            self.complaints.append(str(error))
        except (OSError, asyncio.CancelledError):
            pass  # TorchServe resets a connection after some answers (hazard H58); or the tap is closed
        finally:
            requests.close()
            back.cancel()
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, requests: asyncio.StreamWriter) -> bool:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as end:
            if not end.partial:
                return False
            raise
        requests.write(head)
        line, *fields = head[:-4].split(b"\r\n")
        asked, headers = LINE.fullmatch(line), [HEADER.fullmatch(one) for one in fields]
        if asked is None or None in headers:
            raise ValueError(f"no request in the guard's spelling: {head!r}")
        told = tuple((one[1].decode().lower(), one[2].decode("latin-1")) for one in headers if one is not None)
        seen = Seen(asked[1].decode(), asked[2].decode(), told)
        self.seen.append(seen)
        await self._body(seen, reader, requests)
        return True

    async def _body(self, seen: Seen, reader: asyncio.StreamReader, requests: asyncio.StreamWriter) -> None:
        lengths, codings = seen.all("content-length"), seen.all("transfer-encoding")
        if len(lengths) + len(codings) > 1 or (codings and codings != ["chunked"]):
            raise ValueError(f"framed twice: {seen}")
        try:
            if lengths:
                requests.write(await reader.readexactly(int(lengths[0])))
            while codings:
                size = await reader.readuntil(b"\r\n")
                if CHUNK.fullmatch(size[:-2]) is None:
                    raise ValueError(f"no chunk size in the guard's spelling: {size!r}")
                data = await reader.readexactly(int(size, 16) + 2)
                requests.write(size + data)
                if not data.endswith(b"\r\n"):
                    raise ValueError(f"a chunk does not end: {data[-20:]!r}")
                if int(size, 16) == 0:
                    break
        except asyncio.IncompleteReadError as cut:
            raise _InABody(cut.partial, cut.expected) from cut
        await requests.drain()


class _InABody(asyncio.IncompleteReadError):
    """The connection ended within a body."""


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
