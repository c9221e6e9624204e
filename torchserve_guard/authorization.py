"""The authorization: the manifest that counts for these settings, who signed it, and that it is not an old one.

`tsguard check`, a start and every registration ask here, each time anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from torchserve_guard import archives
from torchserve_guard.archives import history
from torchserve_guard.errors import VerificationError
from torchserve_guard.findings import Finding, Location, Severity
from torchserve_guard.settings import Settings

SOON = timedelta(days=14)


@dataclass(frozen=True, slots=True)
class Authorization:
    """A manifest that may be believed, and where its version is remembered.

    `overruled` is why it would not be without `--allow-rollback`, `needless` that the flag was given for nothing.
    """

    authorized: archives.Authorized
    places: tuple[Path, ...]
    overruled: str | None = None
    needless: bool = False

    @property
    def manifest(self) -> archives.Manifest:
        """The manifest itself."""
        return self.authorized.manifest


def demand_of(settings: Settings) -> archives.Demand:
    """Return whose signatures the settings ask for."""
    return archives.Demand(
        keys=tuple((key.role, key.path) for key in settings.trusted_keys),
        count=settings.signature_threshold,
        roles=settings.signature_roles,
        identities=tuple(archives.Identity(one.role, one.name, one.issuer) for one in settings.trusted_identities),
        root=settings.sigstore_root,
    )


def authorized(settings: Settings, now: datetime, *, allow_rollback: bool = False) -> Authorization:
    """Return the manifest if it is signed as demanded, has not expired, and is not older than the last one started.

    Raises `ConfigError` or `VerificationError`.
    """
    # Where it leads to is looked at before it is read: a link that is turned meanwhile is found at the next start.
    places = history.places(settings.state_dir, settings.manifest)
    found = archives.authorize(settings.manifest, demand_of(settings), now)
    try:
        version = history.Version(found.manifest.version, found.digest)
        signed = settings.signature_threshold > 0
        history.verify_not_older(history.last(places), version, str(settings.manifest), signed=signed)
    except VerificationError as error:
        if not allow_rollback:
            raise
        return Authorization(found, places, overruled=str(error))
    return Authorization(found, places, needless=allow_rollback)


def remember(started: Authorization) -> None:
    """Remember the manifest as the last one started. Raises `ConfigError`."""
    history.remember(started.places, history.Version(started.manifest.version, started.authorized.digest))


def remembered(settings: Settings) -> bool:
    """Return whether a start was ever made from this manifest."""
    return bool(history.last(history.places(settings.state_dir, settings.manifest)))


def check(settings: Settings, found: Authorization, now: datetime) -> tuple[Finding, ...]:
    """Return what is to be said of a manifest that counts."""
    return tuple(_findings(settings, found, now))


def _findings(settings: Settings, found: Authorization, now: datetime) -> Iterator[Finding]:
    where = Location(str(settings.manifest))
    if (settings.trusted_keys or settings.trusted_identities) and settings.signature_threshold == 0:
        yield Finding(
            "TSG090",
            Severity.MEDIUM,
            "keys are trusted and none of them needs to have signed: who can write the manifest decides what is loaded",
            "set `guard.signature_threshold` to 1 or more, or leave it out",
            where,
            key="guard.signature_threshold",
        )
    for why in found.authorized.ignored:
        yield Finding(
            "TSG091",
            Severity.LOW,
            why,
            "remove the file of the signature, or sign this manifest again",
            where,
        )
    if settings.signature_threshold > 0 and (found.manifest.version == 0 or found.manifest.expires is None):
        lacking = "no version and no expiry" if found.manifest.version == 0 else "no expiry"
        yield Finding(
            "TSG092",
            Severity.LOW,
            f"the signed manifest has {lacking}: its signatures count for as long as their keys do",
            "write a JSON manifest with `tsguard manifest create --expires-days 90`, and sign that",
            where,
        )
    for shared in found.authorized.shared:
        yield Finding(
            "TSG095",
            Severity.MEDIUM,
            f"`guard.signature_threshold` asks for different roles, and {shared}",
            "give each role an authority of its own, or name the keys or identities that hold it",
            where,
            key="guard.trusted_keys",
        )
    yield from _ending(settings, found, now, where)
    if found.overruled is not None:
        yield Finding(
            "TSG094",
            Severity.MEDIUM,
            f"--allow-rollback was given, and without it this would have been refused: {found.overruled}",
            "leave --allow-rollback out of what starts the guard every time",
            where,
        )
    if found.needless:
        yield Finding(
            "TSG096",
            Severity.LOW,
            f"--allow-rollback was given, and version {found.manifest.version} of the manifest needs it for nothing",
            "leave --allow-rollback out: where it stays, it lets the next older manifest through",
            where,
        )


def _ending(settings: Settings, found: Authorization, now: datetime, where: Location) -> Iterator[Finding]:
    """Yield what will end a start within days: the manifest's expiry, and that of a certificate that signed it."""
    ends = [("the manifest", found.manifest.expires)]
    if settings.signature_threshold > 0:
        ends += [(f"the certificate of {signer.name}", signer.until) for signer in found.authorized.signers]
    for what, end in ends:
        if end is not None and end - now < SOON:
            yield Finding(
                "TSG093",
                Severity.LOW,
                f"{what} expires at {end.isoformat()}; from then on no start and no registration will succeed",
                "create the next version of the manifest and have it signed before",
                where,
            )
