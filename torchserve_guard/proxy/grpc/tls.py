"""TLS of the gRPC listeners: as the other listeners', but that a client must show a certificate where it may there."""

from __future__ import annotations

import ssl
from collections.abc import Callable

from torchserve_guard.errors import ConfigError
from torchserve_guard.proxy.tls import Context, Handshakes, context_of


class GrpcTls:
    """The certificates that listeners show: PEM texts. `client_ca` says whose clients may enter.

    `weak` is as in `context_of`.
    """

    def __init__(self, certificate: bytes, key: bytes, client_ca: bytes | None, *, weak: bool = False) -> None:
        self.asks = client_ca is not None
        self._weak = weak
        self.handshakes = Handshakes(self._context(certificate, key, client_ca))

    def renewal(self, certificate: bytes, key: bytes, client_ca: bytes | None) -> Callable[[], None]:
        """Return what puts other certificates to use. Raises `ConfigError` when clients were not asked before."""
        if (client_ca is not None) is not self.asks:
            raise ConfigError("guard.client_ca: over gRPC, asking clients for certificates begins or ends with a start")
        fresh = self._context(certificate, key, client_ca)

        def take() -> None:
            self.handshakes.context = fresh

        return take

    def _context(self, certificate: bytes, key: bytes, client_ca: bytes | None) -> Context:
        context = context_of(certificate, key, client_ca, weak=self._weak, protocol="h2")
        if client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        return context
