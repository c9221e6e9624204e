"""WHO IS ASKING: credentials to principals."""

from torchserve_guard.identity.certificate import Certificate
from torchserve_guard.identity.certificate import read as read_certificate
from torchserve_guard.identity.keys import KeyFile, KeyKind

__all__ = ["Certificate", "KeyFile", "KeyKind", "read_certificate"]
