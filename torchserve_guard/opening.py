"""The opening of the doors that are not there before TorchServe is: gRPC's, and that of the porters.

gRPC's is made of the ports that TorchServe is seen to listen on; porters stand where several processes serve inference.
Its modules are imported here and nowhere before: who leaves it closed does not pay for it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from torchserve_guard.audit import AuditLog
from torchserve_guard.audit.access_line import Note
from torchserve_guard.errors import ConfigError
from torchserve_guard.frontend import Frontend
from torchserve_guard.frontend.grpc_ports import grpc_ports
from torchserve_guard.identity import KeyFile
from torchserve_guard.policy import Access
from torchserve_guard.porters.desk import Desk
from torchserve_guard.porters.lodge import Lodge
from torchserve_guard.porters.orders import Logbook, Material, Post
from torchserve_guard.proxy import Enforcer, Limits, ListenerSpec
from torchserve_guard.proxy.descriptors import fitting, shortage
from torchserve_guard.proxy.turns import Turns
from torchserve_guard.proxy.vacancy import bind
from torchserve_guard.settings import Profile, Settings, Tls
from torchserve_guard.wire import Listener

if TYPE_CHECKING:
    from torchserve_guard.proxy.grpc.server import GrpcDoor, GrpcSpec
    from torchserve_guard.proxy.grpc.tls import GrpcTls

SECURE = "grpcs"
PATIENCE = 30.0
DEFAULT_ANSWER = 6_553_500
MANAGEMENT_ANSWER = 64 << 20
MOST_PROCESSES = 8


Listeners = Mapping[Listener, ListenerSpec]


def processes(workers: int | None, processors: int) -> int:
    """Return how many processes are to serve inference; for `auto`, which is None, one for each four processors.

    One serves some twenty times what TorchServe does on a processor: its workers have more use for them.
    """
    return max(1, min(MOST_PROCESSES, processors // 4)) if workers is None else workers


def apart(listeners: Listeners) -> tuple[Listeners, Listeners]:
    """Return what is left for the guard's own process, and what is served on the port of inference."""
    port = listeners[Listener.INFERENCE].address
    ours, theirs = {}, {}
    for listener, spec in listeners.items():
        addresses = dict.fromkeys((spec.address, *spec.also))
        others = [address for address in addresses if address != port]
        if others:
            ours[listener] = replace(spec, address=others[0], also=tuple(others[1:]))
        if port in addresses:
            theirs[listener] = replace(spec, address=port, also=())
    return ours, theirs


def lodge_of(
    size: int,
    listeners: Listeners,
    *,
    settings: Settings,
    access: Access,
    enforcer: Enforcer,
    keys: KeyFile,
    limits: Limits,
    log: AuditLog,
    say: Callable[[str], None],
) -> Lodge:
    """Return the porters of the listeners' one port, who do not stand there yet. Raises `ConfigError`."""
    address = listeners[Listener.INFERENCE].address
    # What one process may have, each has: they are asked for here so that the user hears of it once.
    share, tls, kept = fitting(limits.shared(size), 1, len(listeners) - 1), settings.tls, settings.access_log
    if (fewer := shortage(limits.connections, share.connections * size, "the port of inference")) is not None:
        say(fewer)
    desk = Desk(
        enforcer,
        log,
        listeners,
        share.connections,
        certified=tls is not None and tls.client_ca is not None,
        now=time.time,
    )
    return Lodge(
        size=size,
        post=Post(
            listeners=listeners,
            bound={},
            limits=share,
            access=access,
            keys=keys.hashed(),
            tls=None if tls is None else material(tls, settings.profile),
            access_log=None if kept is None else Logbook(str(kept.path), kept.form, kept.size, kept.count),
        ),
        bound={address: bind(Listener.INFERENCE, address)},
        desk=desk,
        log=log,
        say=say,
        environment=os.environ,
    )


def material(tls: Tls, profile: Profile) -> Material:
    """Return what porters show."""
    return Material(tls.certificate, tls.key, tls.client_ca, weak=profile is Profile.COMPAT)


async def grpc_door(
    settings: Settings,
    frontend: Frontend,
    enforcer: Enforcer,
    limits: Limits,
    *,
    note: Callable[[Note], None] | None = None,
    turns: Turns | None = None,
) -> GrpcDoor | None:
    """Return the gRPC door, not open yet; None when no listener is wanted. Raises `FrontendError`.

    `note` is the access log's; `turns` are the HTTP door's, so that a model has one queue.
    """
    if not settings.grpc_listeners:
        return None
    from torchserve_guard.proxy.grpc.forms import Forms  # noqa: PLC0415
    from torchserve_guard.proxy.grpc.ports import told_apart  # noqa: PLC0415
    from torchserve_guard.proxy.grpc.server import GrpcDoor  # noqa: PLC0415 - see above

    ports = await told_apart(await grpc_ports(frontend.pid, PATIENCE), PATIENCE)
    behind = dict(zip((Listener.INFERENCE, Listener.MANAGEMENT), ports, strict=True))
    specs = {
        listener: _spec(settings, frontend, listener, port)
        for listener, port in behind.items()
        if listener.value in settings.grpc_listeners
    }
    optional = settings.passthrough.get("ts_open_inference_protocol", "").lower() == "true"
    forms = Forms(settings.stream_models, settings.kserve_models, settings.unary_models)
    return GrpcDoor(specs, enforcer, limits, optional=optional, forms=forms, tls=_tls(settings), note=note, turns=turns)


def _tls(settings: Settings) -> GrpcTls | None:
    """Return what the listeners show when they are to speak TLS, as all of them do or none."""
    from torchserve_guard.proxy.grpc.tls import GrpcTls  # noqa: PLC0415 - see above

    secure = any(address.scheme == SECURE for address in settings.grpc_listeners.values())
    if not secure:
        return None
    if settings.tls is None:  # never: the settings complain
        raise ConfigError("enable_grpc_ssl: there is no certificate; set `certificate_file` and `private_key_file`")
    tls, weak = settings.tls, settings.profile is Profile.COMPAT
    return GrpcTls(tls.certificate, tls.key, tls.client_ca, weak=weak)


def _spec(settings: Settings, frontend: Frontend, listener: Listener, port: int) -> GrpcSpec:
    from torchserve_guard.proxy.grpc.server import GrpcSpec  # noqa: PLC0415 - see above

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
