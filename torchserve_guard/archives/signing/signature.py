"""The signature: made by a private key over a statement, with the key's hint or its certificates in the bundle."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cryptography import x509

from torchserve_guard.archives.digests import digest_of
from torchserve_guard.archives.progress import Progress, expect
from torchserve_guard.archives.signing import bundle, certificates, keys, statement
from torchserve_guard.archives.signing.rejection import Rejected
from torchserve_guard.archives.sources import listing, open_directory, open_member, size_of
from torchserve_guard.errors import ConfigError


def sign(stated: statement.Statement, key: keys.PrivateKey, chain: Iterable[x509.Certificate] = ()) -> bundle.Bundle:
    """Return the key's signature over a statement; with certificates, the key's own first. Raises ConfigError."""
    payload = statement.render(stated)
    ordered = _ordered(key, tuple(chain))
    hint = None if ordered else keys.fingerprint(key.public_key())
    draft = bundle.Bundle(payload, b"", hint, tuple(map(certificates.encoded, ordered)))
    return bundle.Bundle(payload, keys.sign(key, draft.signed), hint, draft.certificates)


def state_folder(folder: Path, left_out: Iterable[str], progress: Progress | None = None) -> statement.Statement:
    """Return the statement about every file of a folder, links refused; raise VerificationError."""
    skipped = frozenset(left_out)
    where = str(folder)
    expect(progress, size_of(folder), "reading")
    files: list[tuple[str, str]] = []
    with open_directory(folder, where) as root:
        for path, _ in listing(root, where):
            if path.endswith("/") or path in skipped or path.split("/")[0] in statement.GIT:
                continue
            with open_member(root, path, where) as source:
                files.append((path, digest_of(source, progress)))
    if not files:
        raise ConfigError(f"{folder}: holds no files, and there is nothing to sign")
    return statement.of_files(folder.resolve().name, files, skipped)


def _ordered(key: keys.PrivateKey, chain: tuple[x509.Certificate, ...]) -> tuple[x509.Certificate, ...]:
    """Return the certificates with the key's own first."""
    if not chain:
        return ()
    mine = keys.fingerprint(key.public_key())
    own = [one for one in chain if _fingerprint(one) == mine]
    if len(own) != 1:
        raise ConfigError(
            f"of the {len(chain)} certificates {len(own)} are for this key, and one must be: name the certificate of "
            "the key and those of the authorities between it and the trusted one with --certificate-chain"
        )
    return (*own, *(one for one in chain if one is not own[0]))


def _fingerprint(certificate: x509.Certificate) -> str | None:
    try:
        return keys.fingerprint(keys.accepted(certificate.public_key()))
    except Rejected:
        return None
