"""WHO IS ASKING: credentials to principals."""

from torchserve_guard.identity.certificate import Certificate
from torchserve_guard.identity.certificate import read as read_certificate
from torchserve_guard.identity.keys import KeyFile, KeyKind
from torchserve_guard.identity.ring import Hashed, KeyRing

__all__ = ["Certificate", "Hashed", "KeyFile", "KeyKind", "KeyRing", "read_certificate"]
