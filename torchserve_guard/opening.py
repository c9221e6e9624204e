"""The opening of the gRPC door: made of the settings, and of the ports that TorchServe is seen to listen on.

grpc is imported here and nowhere before: it takes longer than all the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchserve_guard.errors import ConfigError
from torchserve_guard.frontend import Frontend
from torchserve_guard.frontend.grpc_ports import grpc_ports
from torchserve_guard.proxy import Enforcer, Limits
from torchserve_guard.settings import Settings
from torchserve_guard.wire import Listener

if TYPE_CHECKING:
    from torchserve_guard.proxy.grpc_server import GrpcDoor, GrpcSpec
    from torchserve_guard.proxy.grpc_tls import GrpcTls

SECURE = "grpcs"
PATIENCE = 30.0
DEFAULT_ANSWER = 6_553_500
MANAGEMENT_ANSWER = 64 << 20


async def grpc_door(settings: Settings, frontend: Frontend, enforcer: Enforcer, limits: Limits) -> GrpcDoor | None:
    """Return the gRPC door, not open yet; None when no listener is wanted. Raises `FrontendError`."""
    if not settings.grpc_listeners:
        return None
    from torchserve_guard.proxy.grpc_server import GrpcDoor  # noqa: PLC0415 - see above
    from torchserve_guard.proxy.grpc_upstream import told_apart  # noqa: PLC0415

    ports = await told_apart(await grpc_ports(frontend.pid, PATIENCE), PATIENCE)
    behind = dict(zip((Listener.INFERENCE, Listener.MANAGEMENT), ports, strict=True))
    specs = {
        listener: _spec(settings, frontend, listener, port)
        for listener, port in behind.items()
        if listener.value in settings.grpc_listeners
    }
    optional = settings.passthrough.get("ts_open_inference_protocol", "").lower() == "true"
    return GrpcDoor(specs, enforcer, limits, optional=optional, tls=_tls(settings))


def _tls(settings: Settings) -> GrpcTls | None:
    """Return what the listeners show when they are to speak TLS, as all of them do or none."""
    from torchserve_guard.proxy.grpc_tls import GrpcTls  # noqa: PLC0415 - see above

    secure = any(address.scheme == SECURE for address in settings.grpc_listeners.values())
    if not secure:
        return None
    if settings.tls is None:  # never: the settings complain
        raise ConfigError("enable_grpc_ssl: there is no certificate; set `certificate_file` and `private_key_file`")
    return GrpcTls(settings.tls.certificate, settings.tls.key, settings.tls.client_ca)


def _spec(settings: Settings, frontend: Frontend, listener: Listener, port: int) -> GrpcSpec:
    from torchserve_guard.proxy.grpc_server import GrpcSpec  # noqa: PLC0415 - see above

    address, age = settings.grpc_listeners[listener.value], settings.grpc_ages[f"grpc_{listener.value}"]
    keys, inference = frontend.keys, listener is Listener.INFERENCE
    answer = int(settings.passthrough.get("max_response_size", DEFAULT_ANSWER)) if inference else MANAGEMENT_ANSWER
    return GrpcSpec(
        host=address.host or "",
        port=address.port or 0,
        upstream=port,
        token="" if keys is None else keys.inference if inference else keys.management,
        answer=answer,
        age=age.most,
        grace=age.grace,
    )
