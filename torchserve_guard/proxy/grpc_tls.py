"""TLS of the gRPC listeners: the certificates for the handshakes to come, and whom a client's certificate stands for.

grpc knows two ways only: clients are not asked for a certificate, or must have one. With `guard.client_ca` they must.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Mapping

import grpc

from torchserve_guard.errors import ConfigError
from torchserve_guard.identity import Certificate, read_certificate
from torchserve_guard.proxy.head import Kept

_MOST_REMEMBERED = 256
_PEM = "x509_pem_cert"


class GrpcTls:
    """The certificates that listeners show: PEM texts. `client_ca` says whose clients may enter."""

    def __init__(self, certificate: bytes, key: bytes, client_ca: bytes | None) -> None:
        self.asks = client_ca is not None
        self._current = _configuration(certificate, key, client_ca)
        self._remembered: Kept[bytes, tuple[Certificate | None]] = Kept(_MOST_REMEMBERED)

    def credentials(self) -> grpc.ServerCredentials:
        """Return what a listener negotiates with: at each handshake, the certificates of that moment."""
        fetch: Callable[[], grpc.ServerCertificateConfiguration] = lambda: self._current  # noqa: E731
        return grpc.dynamic_ssl_server_credentials(self._current, fetch, require_client_authentication=self.asks)

    def renewal(self, certificate: bytes, key: bytes, client_ca: bytes | None) -> Callable[[], None]:
        """Return what puts other certificates to use. Raises `ConfigError` when clients were not asked before."""
        if (client_ca is not None) is not self.asks:
            raise ConfigError("guard.client_ca: over gRPC, asking clients for certificates begins or ends with a start")
        fresh = _configuration(certificate, key, client_ca)

        def take() -> None:
            self._current = fresh

        return take

    def certificate(self, context: Mapping[str, Iterable[bytes]]) -> Certificate | None:
        """Return the client's certificate, which the handshake has verified, from the context of a call."""
        shown = next(iter(context.get(_PEM, ())), None) if self.asks else None
        if shown is None:
            return None
        known = self._remembered.get(shown) or self._remembered.keep(shown, (_read(shown),))
        return known[0]


def _read(pem: bytes) -> Certificate | None:
    try:
        return read_certificate(ssl.PEM_cert_to_DER_cert(pem.decode("ascii")))
    except ValueError:
        return None


def _configuration(certificate: bytes, key: bytes, client_ca: bytes | None) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=client_ca)
