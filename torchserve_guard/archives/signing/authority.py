"""The authority: a manifest, the signatures beside it, and whether together they say what may be loaded.

The file is read once: the bytes whose signatures are verified are the bytes that are parsed, and never others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from torchserve_guard.archives import contents, manifest
from torchserve_guard.archives.document import Malformed
from torchserve_guard.archives.manifest import Manifest
from torchserve_guard.archives.signing import bundle, statement
from torchserve_guard.archives.signing.demand import Demand, Signer, different, verify_met
from torchserve_guard.archives.signing.rejection import Rejected
from torchserve_guard.errors import ConfigError, VerificationError

ENDING = ".sigstore.json"
"""`MANIFEST.sigstore.json` and `MANIFEST.WHO.sigstore.json` are the signatures of `MANIFEST`."""

MOST = 32

Whose = Callable[[bundle.Bundle], Signer]


@dataclass(frozen=True, slots=True)
class Authorized:
    """A manifest that may be believed: its bytes' SHA-256, who signed them, and why other signatures do not count.

    `shared` tells of authorities that vouch for several of the roles that are asked for.
    """

    manifest: Manifest
    digest: str
    signers: tuple[Signer, ...] = ()
    ignored: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()


def authorize(path: Path, demand: Demand, now: datetime) -> Authorized:
    """Return the manifest if enough of those who are trusted have signed it and it has not expired.

    Raises ConfigError, or VerificationError that tells of each signature why it does not count.
    """
    data = manifest.read(path)
    signed = _signed(path, data, demand, now) if demand.keys or demand.identities else _Signed()
    try:
        verify_met(demand, signed.signers)
    except Rejected as why:
        raise VerificationError(f"{path}: {why}", *(signed.ignored or (f"{path}: {_how(signed)}",))) from why
    # INVARIANT: these are the bytes that were hashed for the signatures; nothing is read again.
    found = manifest.parse(data, str(path))
    manifest.verify_current(found, str(path), now)
    if demand.count > 0:
        _verify_form(found, path)
    digest = hashlib.sha256(data).hexdigest()
    return Authorized(found, digest, signed.signers, signed.ignored, signed.shared)


def is_signature_of(manifest_name: str, name: str) -> bool:
    """Whether a file beside a manifest is one of its signatures, by the names of both."""
    return name.startswith(manifest_name + ".") and name.endswith(ENDING) and len(name) >= len(manifest_name + ENDING)


def beside(path: Path) -> list[Path]:
    """Return the files of the signatures beside a manifest, sorted; raise ConfigError."""
    try:
        found = [one for one in path.parent.iterdir() if is_signature_of(path.name, one.name)]
    except OSError as error:
        raise ConfigError(f"{path.parent}: the folder of the manifest cannot be read: {error.strerror}") from error
    if len(found) > MOST:
        raise ConfigError(f"{path}: has more than {MOST} signatures beside it; remove those of former versions")
    return sorted(found)


def verify_covers(stated: statement.Statement, data: bytes) -> None:
    """Return if the statement is about exactly these bytes, as one file; raise `Rejected`."""
    digest = hashlib.sha256(data).hexdigest()
    if [name for name, _ in stated.files] != [statement.LONE]:
        raise Rejected(f"signs the {len(stated.files)} files of a folder, and not this manifest")
    if stated.files[0][1] != digest:
        raise Rejected(
            f"signs something else: sha256 {stated.files[0][1]}, and the manifest is {digest}; sign it again after "
            "looking at what has changed"
        )


def _verify_form(found: Manifest, path: Path) -> None:
    """Raise VerificationError for sums or a bundle under the name of a manifest, in whose place they were perhaps put.

    They have no version and no expiry: an old signature over them would outlive both of the manifest's.
    """
    if found.schema_ != manifest.JSON and path.suffix == ".json" and not path.name.endswith(ENDING):
        raise VerificationError(
            f"{path}: has the name of a manifest and is {found.schema_}, which has no version and no expiry; put the "
            "manifest back, or name the file as what it is in `guard.manifest`: SHA256SUMS, `*.sig`, `*.sigstore.json`"
        )


@dataclass(frozen=True, slots=True)
class _Signed:
    signers: tuple[Signer, ...] = ()
    ignored: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    good: int = 0


def _how(signed: _Signed) -> str:
    """Return what to do where no signature is there that does not count."""
    if not signed.signers:
        return "there is no signature beside it; sign it with `tsguard manifest sign`"
    told = "no other signature is beside it"
    if len(signed.signers) < signed.good:
        told = "several signatures are one signer's: of one key, or of keys that one authority certified for one name"
    return f"{told}; whoever is missing signs it too, with `tsguard manifest sign`"


def _signed(path: Path, data: bytes, demand: Demand, now: datetime) -> _Signed:
    """Return the different signers whose word counts, and why each other signature does not."""
    from torchserve_guard.archives.signing import keyless, trust  # noqa: PLC0415 - heavy, only where somebody is trusted

    anchors = trust.load(demand.keys)
    identities = keyless.load(demand.root, demand.identities)
    good: list[Signer] = []
    ignored: list[str] = []
    for where, told in _claims(path, data):
        try:
            good.append(trust.signer(told(), anchors, now, identities))
        except (Rejected, Malformed, ConfigError) as why:
            ignored.append(
                str(why) if isinstance(why, ConfigError) else f"{where}: the signature does not count: {why}"
            )
    return _Signed(different(good), tuple(ignored), trust.shared(anchors, demand.roles), len(good))


def _claims(path: Path, data: bytes) -> Iterator[tuple[str, Callable[[], bundle.Bundle]]]:
    """Yield each signature over the bytes: where it is, and how to get it, which may be refused."""
    if bundle.looks_like_one(data):
        yield str(path), lambda: bundle.parse(data)
    for one in beside(path):
        yield str(one), lambda one=one: covering(one, data)  # type: ignore[misc]


def covering(path: Path, data: bytes) -> bundle.Bundle:
    """Return the bundle in a file if its statement is about these bytes; raise Rejected, Malformed or ConfigError."""
    found = bundle.parse(contents.read(path, bundle.LARGEST, "signature"))
    verify_covers(statement.parse(found.payload), data)
    return found
