"""A rejection: why one signature does not count. Pure."""

from __future__ import annotations


class Rejected(ValueError):
    """The signature, the key or the certificate is not what counts; the text says why."""
