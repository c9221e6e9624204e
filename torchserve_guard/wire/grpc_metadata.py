"""The metadata: what of a call's is believed, and what of TorchServe's goes back.

Of a client's metadata the guard reads a credential and a request id; nothing goes on: TorchServe's interceptor
looks at `authorization` alone (GRPCInterceptor.java), and a handler sees none of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torchserve_guard.errors import BadRequest
from torchserve_guard.wire.headers import REQUEST_ID

Pair = tuple[str, str | bytes]


class CallMetadata(NamedTuple):
    """What a call says of itself; `request_id` is None unless it is well formed, `from_page` tells of an `Origin`."""

    authorization: bytes | None = None
    request_id: bytes | None = None
    from_page: bool = False


def parse_metadata(metadata: Iterable[Pair]) -> CallMetadata:
    """Return what the metadata says. Raises BadRequest when a credential is given twice."""
    authorization: list[bytes] = []
    request_ids: list[bytes] = []
    from_page = False
    for key, value in metadata:
        if key == "authorization":
            authorization.append(_bytes(value))
        elif key == "x-request-id":
            request_ids.append(_bytes(value))
        elif key == "origin":
            from_page = True
    if len(authorization) > 1:
        raise _refused("authorization is given more than once")
    request_id = request_ids[0] if len(request_ids) == 1 and REQUEST_ID.fullmatch(request_ids[0]) else None
    return CallMetadata(authorization[0] if authorization else None, request_id, from_page)


def returned(metadata: Iterable[Pair] | None) -> tuple[Pair, ...]:
    """Return what of TorchServe's trailing metadata the client gets: all but what frames the call."""
    return tuple((key, value) for key, value in metadata or () if not key.startswith(("grpc-", ":", "x-request-id")))


def _bytes(value: str | bytes) -> bytes:
    return value.encode("latin-1", "replace") if isinstance(value, str) else bytes(value)


def _refused(reason: str) -> BadRequest:
    return BadRequest("The call's metadata is not acceptable.", reason=reason, rule="wire.metadata")
