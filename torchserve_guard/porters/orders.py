"""The orders: what the guard tells a porter, as documents and back. Pure.

A porter believes them: only the guard has the other end. What is in them is told in no other way, neither in a
porter's arguments nor in its environment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torchserve_guard.access import Mode, Principal
from torchserve_guard.audit.access_line import Digests
from torchserve_guard.identity import Hashed
from torchserve_guard.policy import Access
from torchserve_guard.policy.closure import Closure
from torchserve_guard.porters.channel import Document
from torchserve_guard.proxy import Limits, ListenerSpec
from torchserve_guard.wire import Listener

BYTES = "latin-1"

Closed = tuple[tuple[str, str, Closure], ...]
"""The models that are closed: name, version, and why."""


@dataclass(frozen=True, slots=True)
class Material:
    """What listeners with TLS show: the arguments of `proxy.context_of`."""

    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    weak: bool


@dataclass(frozen=True, slots=True)
class Logbook:
    """The arguments of `audit.AccessLog`; lines of several processes are appended whole."""

    path: str
    form: str
    size: int
    count: int


@dataclass(frozen=True, slots=True)
class Post:
    """What a porter begins with.

    `bound` has the descriptors of listening sockets by their address, `shares` that of the shares (`porters.shares`),
    and `place` says which of them is the porter's own.
    """

    listeners: Mapping[Listener, ListenerSpec]
    bound: Mapping[str, tuple[int, ...]]
    limits: Limits
    access: Access
    keys: tuple[Hashed, ...]
    tls: Material | None
    closures: Closed = ()
    access_log: Logbook | None = None
    models: Digests = field(default_factory=dict)
    shares: int = -1
    place: int = 0


def begin(post: Post) -> Document:
    """Return the order to open the door."""
    listeners = {
        listener.value: [spec.address, spec.upstream, spec.token_line.decode(BYTES), list(spec.also)]
        for listener, spec in post.listeners.items()
    }
    return {
        "order": "begin",
        "listeners": listeners,
        "bound": {address: list(numbers) for address, numbers in post.bound.items()},
        "limits": asdict(post.limits),
        "access": {**asdict(post.access), "mode": post.access.mode.value},
        "keys": _keys(post.keys),
        "tls": None if post.tls is None else _material(post.tls),
        "closures": _closures(post.closures),
        "access_log": None if post.access_log is None else asdict(post.access_log),
        "models": _models(post.models),
        "shares": post.shares,
        "place": post.place,
    }


def keys(hashed: Iterable[Hashed]) -> Document:
    """Return the order to take other keys."""
    return {"order": "keys", "keys": _keys(hashed)}


def certificates(material: Material) -> Document:
    """Return the order to show other certificates from the next handshake on."""
    return {"order": "certificates", "tls": _material(material)}


def closures(closed: Closed) -> Document:
    """Return the order to let nobody through to these models, and to all others again."""
    return {"order": "closures", "closures": _closures(closed)}


def models(digests: Digests) -> Document:
    """Return the order to name the models in the access log so."""
    return {"order": "models", "models": _models(digests)}


def close(grace: float) -> Document:
    """Return the order to close the door and to leave."""
    return {"order": "close", "grace": grace}


def beat() -> Document:
    """Return the order to say that one is there."""
    return {"order": "beat"}


def post_of(document: Document) -> Post:
    """Return what `begin` was made of."""
    access = document["access"]
    return Post(
        listeners={
            Listener(name): ListenerSpec(address, upstream, token.encode(BYTES), tuple(also))
            for name, (address, upstream, token, also) in document["listeners"].items()
        },
        bound={address: tuple(numbers) for address, numbers in document["bound"].items()},
        limits=Limits(**document["limits"]),
        access=Access(**{**access, "mode": Mode(access["mode"])}),
        keys=keys_of(document),
        tls=None if document["tls"] is None else material_of(document),
        closures=closures_of(document),
        access_log=None if document["access_log"] is None else Logbook(**document["access_log"]),
        models=document["models"],
        shares=document["shares"],
        place=document["place"],
    )


def keys_of(document: Document) -> tuple[Hashed, ...]:
    """Return the keys in an order."""
    return tuple(
        Hashed(bytes.fromhex(digest), expires, Principal(name, frozenset(roles)))
        for digest, expires, name, roles in document["keys"]
    )


def closures_of(document: Document) -> Closed:
    """Return the closed models in an order."""
    return tuple((model, version, Closure(why, lasting)) for model, version, why, lasting in document["closures"])


def material_of(document: Document) -> Material:
    """Return the certificates in an order."""
    told = document["tls"]
    return Material(
        certificate=told["certificate"].encode(BYTES),
        key=told["key"].encode(BYTES),
        client_ca=None if told["client_ca"] is None else told["client_ca"].encode(BYTES),
        weak=told["weak"],
    )


def _keys(hashed: Iterable[Hashed]) -> list[Any]:
    return [[one.digest.hex(), one.expires, one.principal.name, sorted(one.principal.roles)] for one in hashed]


def _closures(closed: Closed) -> list[Any]:
    return [[model, version, closure.why, closure.lasting] for model, version, closure in closed]


def _models(digests: Digests) -> Document:
    return {name: dict(versions) for name, versions in digests.items()}


def _material(tls: Material) -> Document:
    return {
        "certificate": tls.certificate.decode(BYTES),
        "key": tls.key.decode(BYTES),
        "client_ca": None if tls.client_ca is None else tls.client_ca.decode(BYTES),
        "weak": tls.weak,
    }
