"""HTTP/2, as much of it as gRPC needs: frames, header blocks and flow control, strictly, without a socket (RFC 9113).

A breach of the protocol ends the connection; what is the error of one stream ends that stream alone, and counts as if
the peer had reset it (CVE-2025-8671). No header block that we say refers to another.
"""

from torchserve_guard.http2.connection import Connection
from torchserve_guard.http2.frames import Broken, Code
from torchserve_guard.http2.hpack import Fields, encoded
from torchserve_guard.http2.outlet import Rules
from torchserve_guard.http2.stream import Owner, Stream

__all__ = ["Broken", "Code", "Connection", "Fields", "Owner", "Rules", "Stream", "encoded"]
