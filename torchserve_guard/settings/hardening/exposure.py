"""Exposure: listeners that more hosts reach than was meant."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from torchserve_guard.access import Mode
from torchserve_guard.findings import Severity
from torchserve_guard.settings.address import WILDCARDS, Address
from torchserve_guard.settings.hardening.rule import Hit, Rule, Told

# By mode, and whether the listener is one with TLS.
REACHABLE = {
    (Mode.EXPLICIT, False): Severity.HIGH,
    (Mode.EXPLICIT, True): Severity.MEDIUM,
    (Mode.NONE, False): Severity.MEDIUM,
    (Mode.NONE, True): Severity.LOW,
}
MEDIUM = Severity.MEDIUM
HIGH = Severity.HIGH
SECURED = frozenset({"https", "grpcs"})


def _management_reachable(told: Told) -> Iterator[Hit]:
    yield from _reachable(told, told.settings.management, "management_address")


def _reachable(told: Told, management: Address, key: str) -> Iterator[Hit]:
    if not management.local:
        secured = management.scheme in SECURED
        message = f"the management listener `{management}` can be reached from other hosts"
        yield Hit(message + ("" if secured else ", in clear text"), key, REACHABLE[told.settings.mode, secured])


def _inference_open(told: Told) -> Iterator[Hit]:
    if not told.settings.inference.local and not told.settings.keys_required:
        yield Hit(
            f"anyone who reaches `{told.settings.inference}` may use every model: token authorization is off",
            "disable_token_authorization",
        )


def _inference_in_clear(told: Told) -> Iterator[Hit]:
    inference = told.settings.inference
    if not inference.local and inference.scheme == "http":
        what = "keys and data travel" if told.settings.keys_required else "what clients send and get travels"
        yield Hit(f"{what} in clear text to `{inference}`", "inference_address")


def _wildcards(told: Told) -> Iterator[Hit]:
    settings = told.settings
    grpc = {f"grpc_{name}": listener for name, listener in settings.grpc_listeners.items()}
    for name, listener in {**settings.listeners, **grpc}.items():
        if _is_wildcard(str(listener.host).strip("[]")):
            yield Hit(
                f"the {name} listener `{listener}` listens on every interface of this host, those of tomorrow too",
                f"{name}_address",
                Severity.MEDIUM if "management" in name else Severity.LOW,
            )


def _is_wildcard(host: str) -> bool:
    """Whether a host is every interface, also in the spellings that the resolver takes, such as `0`."""
    try:
        return host in WILDCARDS or not any(socket.inet_aton(host))
    except OSError:
        return False


def _grpc_reachable(told: Told) -> Iterator[Hit]:
    settings = told.settings
    if settings.grpc_management is not None:
        yield from _reachable(told, settings.grpc_management, "grpc_management_address")
    inference = settings.grpc_inference
    if inference is None or inference.local:
        return
    if inference.scheme not in SECURED:
        yield Hit(f"what clients send and get travels in clear text to `{inference}`", "grpc_inference_address", MEDIUM)
    if not settings.keys_required:
        message = f"anyone who reaches `{inference}` may use every model: token authorization is off"
        yield Hit(message, "disable_token_authorization", MEDIUM)


def _metrics_reachable(told: Told) -> Iterator[Hit]:
    for address, names in told.settings.ports.items():
        if "metrics" in names and not address.local:
            yield Hit(
                f"the metrics listener `{address}` can be reached from other hosts, and asks nobody for a key",
                "metrics_address",
            )


def _one_port(told: Told) -> Iterator[Hit]:
    settings, shared = told.settings, told.settings.management
    names = settings.ports[shared]
    if len(names) == 1:
        return
    message = f"{' and '.join(names)} are served on one port, `{shared}`"
    if shared.local or settings.keys_required:
        yield Hit(f"{message}: the management key alone keeps them apart", "management_address")
    else:
        yield Hit(f"{message}, and whoever reaches it lists models: no key is asked for", "management_address", HIGH)


RULES = (
    Rule(
        "TSG001",
        Severity.HIGH,
        "who reaches the management listener may list models, and with the key change them",
        "use `management_address=http://127.0.0.1:8081` or `unix:/path`; where other hosts must reach it, `https://`",
        ("H55", "H62"),
        _management_reachable,
        also=(Severity.MEDIUM, Severity.LOW),
    ),
    Rule(
        "TSG002",
        Severity.MEDIUM,
        "anyone on the network may use every model, and load the machine",
        "remove `disable_token_authorization`, or listen on a loopback address",
        ("H55", "H57"),
        _inference_open,
    ),
    Rule(
        "TSG003",
        Severity.MEDIUM,
        "who listens on the network has the data, and the key until it expires",
        "use `https://` with `certificate_file` and `private_key_file`, or listen on a loopback address",
        ("H62", "H70"),
        _inference_in_clear,
    ),
    Rule(
        "TSG008",
        Severity.LOW,
        "a wildcard address is open on networks that nobody thought of, such as a VPN or a bridge of containers",
        "name the one address that is meant, such as `http://127.0.0.1:8080`",
        ("H53", "H55"),
        _wildcards,
        also=(Severity.MEDIUM,),
    ),
    Rule(
        "TSG009",
        Severity.HIGH,
        "what is true of the HTTP listeners is true of the gRPC ones, and easily forgotten (CVE-2024-35199)",
        "remove the address, which leaves it on loopback, or set the port to 0; otherwise `enable_grpc_ssl=true`",
        ("H02", "H55", "H57"),
        _grpc_reachable,
        also=(Severity.MEDIUM, Severity.LOW),
    ),
    Rule(
        "TSG010",
        Severity.LOW,
        "metrics name the models and tell how much they are used, and are given to anyone",
        "use `metrics_address=http://127.0.0.1:8082`, or `enable_metrics_api=false`",
        ("H60",),
        _metrics_reachable,
    ),
    Rule(
        "TSG138",
        Severity.LOW,
        "who may only infer reaches management, and only a key keeps him from it",
        "give each listener its own address; where one port is all there is, remove `disable_token_authorization`",
        ("H53", "H72"),
        _one_port,
        also=(Severity.HIGH,),
    ),
)
