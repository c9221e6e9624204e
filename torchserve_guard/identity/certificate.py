"""The client certificate: a verified one, and whom it stands for.

That it was issued by an authority of `guard.client_ca`, for clients, and that its holder has the key, the handshake has
proved; its dates are looked at again with each request, since a connection may outlive them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from torchserve_guard.access import CERTIFIED, Principal

LONGEST_NAME = 256


@dataclass(frozen=True, slots=True)
class Certificate:
    """Whom a client certificate stands for, and when (seconds since the epoch). `names` are its alternative names."""

    principal: Principal
    names: tuple[str, ...]
    not_before: float
    not_after: float

    def together(self, other: Principal, now: float) -> Principal:
        """Return who asks: the certificate's principal, with what a key in the request adds to it.

        Outside its dates the certificate stands for nobody.
        """
        if not self.not_before <= now <= self.not_after:
            return other
        if not other.roles:
            return self.principal
        return Principal(f"{self.principal.name} with {other.name}", self.principal.roles | other.roles)


def read(der: bytes) -> Certificate | None:
    """Return what a verified certificate says, None when it names nobody or cannot be read."""
    from cryptography import x509  # noqa: PLC0415 - only who asks for client certificates pays for it

    try:
        certificate = x509.load_der_x509_certificate(der)
        names = _alternative_names(certificate)
        subject = certificate.subject.rfc4514_string()
    except (ValueError, TypeError, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return None
    name = subject or (names[0] if names else "")
    if not name:
        return None
    return Certificate(
        Principal(name[:LONGEST_NAME], frozenset({CERTIFIED})),
        names,
        _seconds(certificate.not_valid_before_utc),
        _seconds(certificate.not_valid_after_utc),
    )


def _alternative_names(certificate: object) -> tuple[str, ...]:
    """Return the alternative names as `DNS:x`, `URI:x`, `EMAIL:x`, as OpenSSL writes them; others are left out."""
    from cryptography import x509  # noqa: PLC0415 - see `read`

    assert isinstance(certificate, x509.Certificate)  # noqa: S101 - for the reader of types
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    kinds = {x509.UniformResourceIdentifier: "URI", x509.DNSName: "DNS", x509.RFC822Name: "EMAIL"}
    told = ((kinds.get(type(one)), one) for one in found)
    return tuple(f"{kind}:{one.value}" for kind, one in told if kind is not None)


def _seconds(time: datetime) -> float:
    return time.timestamp()
