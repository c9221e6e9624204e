"""WHO IS ASKING: credentials to principals."""

from torchserve_guard.identity.keys import KeyFile, KeyKind

__all__ = ["KeyFile", "KeyKind"]
