"""TLS at the door: what is negotiated, the handshakes, which are short and not too many, and the transport behind one.

A context is never changed: new certificates make a new one, for the handshakes that begin from then on. So nobody sees
half of a change, and a ticket of the old one, which would let a client in without showing its certificate, is void.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import ssl
from collections.abc import Callable
from typing import cast

from torchserve_guard.errors import BadRequest, ConfigError, Refusal
from torchserve_guard.proxy import answer
from torchserve_guard.proxy.client import peer_of
from torchserve_guard.proxy.enforcement import Asked
from torchserve_guard.proxy.passage import Threshold
from torchserve_guard.proxy.sources import Source, source_of

# Mozilla's intermediate list (server side TLS 5.7) without DHE; TLS 1.3 has its own, all of them sound.
CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)
# The door's own sweep ends what does not end (see `Secured`); uvloop's clock would cut a slow reader's last answer.
_NEVER = 86_400.0


class Context(ssl.SSLContext):
    """A context that gives each handshake what was read before it, and hears of its failure.

    `next` is the handshake whose connection is about to be wrapped; see `Handshake._shaken`.
    """

    next: Handshake | None = None

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # noqa: FBT001, FBT002 - the signature of the class above
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Return the object that does the handshake. Raises `SSLError` when it is nobody's."""
        handshake, self.next = self.next, None
        if handshake is None:
            raise ssl.SSLError("a connection that no handshake was begun for")
        incoming.write(handshake.read_before)
        tls = cast("_Speaking", super().wrap_bio(incoming, outgoing, server_side, server_hostname, session))
        tls.outgoing, tls.send = outgoing, handshake.send
        return tls


class _Speaking(ssl.SSLObject):
    """A handshake that says why it fails: uvloop closes the connection without sending OpenSSL's alert."""

    outgoing: ssl.MemoryBIO
    send: Callable[[bytes], None]

    def do_handshake(self) -> None:
        """Go on with the handshake. Raises `SSLError`."""
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError:
            self.send(self.outgoing.read())
            raise


def context_of(
    certificate: bytes, key: bytes, client_ca: bytes | None, *, weak: bool = False, protocol: str = "http/1.1"
) -> Context:
    """Return a context for listeners, of PEM texts. With `client_ca` clients are asked for a certificate.

    One that does not verify ends the handshake; none leaves the client without a name. With `weak` a key of 1024 bits
    is served, as TorchServe does (TSG063), unless clients are to be believed for what they show. Raises `ConfigError`.
    """
    try:
        return _context(certificate, key, client_ca, CIPHERS, protocol)
    except ssl.SSLError as error:
        # OpenSSL's level is one for both directions: lowered, clients with weak certificates would be believed.
        if weak and client_ca is None:
            return _context(certificate, key, client_ca, f"{CIPHERS}:@SECLEVEL=1", protocol)
        raise ConfigError(
            f"the certificate cannot be served: OpenSSL says {_reason(error)}; make a key and a certificate that are "
            "not weaker than RSA 2048 and SHA-256"
        ) from error


def _context(certificate: bytes, key: bytes, client_ca: bytes | None, ciphers: str, protocol: str) -> Context:
    context = Context(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = _Speaking
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(ciphers)
    context.set_alpn_protocols([protocol])
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    _load(context, certificate + b"\n" + key)
    if client_ca is not None:
        context.load_verify_locations(cadata=client_ca.decode("ascii"))
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _load(context: ssl.SSLContext, pem: bytes) -> None:
    """Load key and chain from memory: the key is never on a disk on its way (`ssl` takes file names only)."""
    descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    """Return a word or two of OpenSSL's about what is wrong."""
    reason = getattr(error, "reason", None) or getattr(error, "verify_message", None)
    return str(reason or type(error).__name__).lower().replace("_", " ")


class Handshakes:
    """The handshakes of one door, and the context of those to come."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._going_on: dict[Handshake, None] = {}

    def begin(self, handshake: Handshake, most: int) -> None:
        """Count one in. When there are too many, the oldest ends: an honest client needs milliseconds."""
        if len(self._going_on) >= most:
            next(iter(self._going_on)).cut()
        self._going_on[handshake] = None

    def end(self, handshake: Handshake) -> None:
        """Count one out."""
        self._going_on.pop(handshake, None)

    def __len__(self) -> int:
        return len(self._going_on)


class Handshake(asyncio.Protocol):
    """One accepted connection until its handshake is done; then it is the protocol's that `speaker` makes."""

    def __init__(
        self,
        passage: Threshold,
        loop: asyncio.AbstractEventLoop,
        handshakes: Handshakes,
        speaker: Callable[[], asyncio.Protocol],
    ) -> None:
        self._passage = passage
        self._loop = loop
        self._handshakes = handshakes
        self._speaker = speaker
        self._raw: asyncio.Transport = cast("asyncio.Transport", None)
        self._since = passage.tick
        self._inside = False
        self._source: Source | None = None
        self.read_before = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the first bytes, unless there are too many connections: one more costs no handshake."""
        self._raw = cast("asyncio.Transport", transport)
        passage = self._passage
        self._source = source_of(transport.get_extra_info("peername"))
        refusal = passage.refusal(self._source)
        if passage.closing or refusal is not None:
            if refusal is not None and not passage.closing:
                self._turned_away(refusal)
            self._raw.abort()
            return
        self._inside = True
        passage.enter(self._source)
        passage.crowd.enter(self)
        self._handshakes.begin(self, passage.limits.handshakes)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a client that went away."""
        del exc
        self._leave()

    def data_received(self, data: bytes) -> None:
        """Begin the handshake; whoever speaks HTTP here is told so in the same language."""
        self._raw.pause_reading()
        if self._raw.is_closing():
            return
        if data[:1].isalpha():
            self._refuse_plain()
            return
        # INVARIANT: bytes come once: reading is paused until the handshake has the transport.
        self.read_before = data
        self._passage.crowd.run(self._shake(), self.cut)

    def _refuse_plain(self) -> None:
        refusal = BadRequest("This port takes HTTPS only.", reason="plain HTTP", rule="proxy.handshake")
        request_id = secrets.token_hex(16).encode()
        self._turned_away(refusal, request_id)
        self._raw.write(answer.refused(refusal, request_id, b"Connection: close\r\n", head_only=False))
        self._raw.close()

    async def _shake(self) -> None:
        try:
            secured = await self._shaken()
        finally:
            self._leave()
        if secured is not None and not secured.is_closing():
            # INVARIANT: nothing is awaited between the end of the handshake and here, and uvloop gives out what was
            # decrypted only in a later turn of the loop: no byte of the client's is lost.
            client = self._speaker()
            secured.set_protocol(client)
            client.connection_made(Secured(secured, self._raw))

    async def _shaken(self) -> asyncio.Transport | None:
        if self._raw.is_closing():
            return None
        context = self._handshakes.context
        # INVARIANT: `start_tls` schedules the wrapping of the connection before it waits for anything, so this runs
        # right before it, with nobody else's in between.
        self._loop.call_soon(setattr, context, "next", self)
        try:
            return await self._loop.start_tls(
                self._raw,
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=_NEVER,
                ssl_shutdown_timeout=_NEVER,
            )
        except ConnectionResetError:
            return None  # a client that went away refused itself
        except OSError as error:  # an SSLError is one, and so is what uvloop raises when time is up
            reason = f"the handshake failed: {_reason(error)}"
            self._turned_away(BadRequest("The TLS handshake failed.", reason=reason, rule="proxy.handshake"))
            return None

    def send(self, alert: bytes) -> None:
        """Send an alert, past uvloop, which is about to close; whoever does not hear it sees the end all the same."""
        if alert and not self._raw.get_write_buffer_size():
            with contextlib.suppress(OSError):
                os.write(self._raw.get_extra_info("socket").fileno(), alert)

    def _leave(self) -> None:
        if self._inside:
            self._inside = False
            self._handshakes.end(self)
            self._passage.leave(self._source)
            self._passage.crowd.leave(self)

    def _turned_away(self, refusal: Refusal, request_id: bytes = b"") -> None:
        """Count a connection that got nowhere, and record one each second: scanners come in floods."""
        passage = self._passage
        passage.counts.refused += 1
        if passage.first_this_tick():
            peer = peer_of(self._raw.get_extra_info("peername"))
            asked = Asked(passage.listener, peer, "", b"", request_id, None, passage.door)
            passage.enforcer.turned_away(asked, refusal)

    # --- as a member of the crowd -----------------------------------------------------------------------------------

    def sweep(self) -> None:
        """End one that takes too long, from the accept on."""
        if self._passage.tick - self._since > self._passage.limits.handshake_time:
            reason = "the handshake failed: it took too long"
            self._turned_away(BadRequest("The TLS handshake failed.", reason=reason, rule="proxy.handshake"))
            self.cut()

    def drain(self) -> None:
        """End: nothing is in flight."""
        self.cut()

    def cut(self) -> None:
        """End at once."""
        self._raw.abort()

    @property
    def busy(self) -> bool:
        """Whether a request is in flight: never."""
        return False


class Secured(asyncio.Transport):
    """The transport behind a handshake: uvloop's, with the end of a connection as the door needs it.

    `close` and `write_eof` say close_notify behind what was written. After `close` the peer's is not waited for (RFC
    8446 section 6.1); after `write_eof` what comes is thrown away until the door's sweep ends it.
    """

    # The transports' own methods, bound once: what is called for each piece of a body costs no call more.
    __slots__ = ("_raw", "_tls", "is_closing", "pause_reading", "resume_reading", "write", "writelines")

    def __init__(self, tls: asyncio.Transport, raw: asyncio.Transport) -> None:
        self._tls = tls
        self._raw = raw
        self.write = tls.write  # type: ignore[method-assign]
        self.writelines = tls.writelines  # type: ignore[method-assign]
        self.is_closing = tls.is_closing  # type: ignore[method-assign]
        self.pause_reading = tls.pause_reading  # type: ignore[method-assign]
        self.resume_reading = tls.resume_reading  # type: ignore[method-assign]

    def get_extra_info(self, name: str, default: object = None) -> object:
        """Return what is known of the connection; the socket also when TLS has parted from it."""
        return self._raw.get_extra_info(name, default) if name == "socket" else self._tls.get_extra_info(name, default)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Limit what is encrypted and not yet taken."""
        self._tls.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait, encrypted or not."""
        return self._tls.get_write_buffer_size() + self._raw.get_write_buffer_size()

    def close(self) -> None:
        """End when what was written is taken."""
        self._tls.close()
        if not self._tls.get_write_buffer_size():
            self._raw.close()

    def can_write_eof(self) -> bool:
        """Whether the end can be told and the rest yet be taken: it can."""
        return True

    def write_eof(self) -> None:
        """Tell the end; take, and throw away, what still comes."""
        self._tls.close()

    def abort(self) -> None:
        """End at once."""
        self._tls.abort()
