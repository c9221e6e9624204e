"""`tsguard manifest sign`, and what `verify` and `show` tell of signatures."""

from __future__ import annotations

import contextlib
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from torchserve_guard import looks
from torchserve_guard.cli import files
from torchserve_guard.cli.lines import PREFIX
from torchserve_guard.cli.progress import Progress
from torchserve_guard.errors import ConfigError
from torchserve_guard.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cryptography import x509

    from torchserve_guard.archives import Manifest
    from torchserve_guard.archives.signing.bundle import Bundle
    from torchserve_guard.archives.signing.demand import Demand
    from torchserve_guard.archives.signing.keys import PrivateKey

LARGEST_KEY = 64 << 10
LARGEST_PASSPHRASE = 4096
OTHERS_MAY_READ = 0o077
SHORT = 12

Trusted = Annotated[
    list[str] | None,
    typer.Option(
        "--trusted-key", metavar="[ROLE=]FILE", help="A public key or certificate that may sign; may be repeated."
    ),
]
TrustedIdentity = Annotated[
    list[str] | None,
    typer.Option(
        "--trusted-identity",
        metavar="[ROLE=]NAME ISSUER",
        help="A mail address or URI, a blank, and the URL of who has seen it: may sign by Sigstore; may be repeated.",
    ),
]
SigstoreRoot = Annotated[
    Path | None,
    typer.Option(
        "--sigstore-root", metavar="FILE", help="The trusted_root.json of the Sigstore that is believed about them."
    ),
]
Threshold = Annotated[
    str | None,
    typer.Option(
        "--signature-threshold",
        metavar="NUMBER|ROLES",
        help="How many different trusted keys, or which roles, must have signed; 1 where any key is trusted.",
    ),
]


def sign(
    path: Annotated[
        Path,
        typer.Argument(metavar="MANIFEST|MODEL_STORE", help="The manifest, or the model store in which it lies."),
    ],
    *,
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="PEM", help="The private key: EC on P-256, P-384 or P-521, or Ed25519."),
    ] = None,
    chain: Annotated[
        list[Path] | None,
        typer.Option(
            "--certificate-chain",
            metavar="PEM",
            help="The key's certificate, and those of the authorities below the trusted one; may be repeated.",
        ),
    ] = None,
    passphrase_file: Annotated[
        Path | None,
        typer.Option(
            "--passphrase-file",
            metavar="FILE",
            envvar="TSGUARD_KEY_PASSPHRASE_FILE",
            help="The file whose first line is the passphrase of an encrypted key.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", metavar="FILE", help="Where to write the signature; beside the manifest if not given."
        ),
    ] = None,
    whole_store: Annotated[
        bool,
        typer.Option(
            "--whole-store", help="Sign the files of the model store, as `model_signing sign` does, and no manifest."
        ),
    ] = False,
    keyless: Annotated[bool, typer.Option("--keyless", help="Refused in this version: sign by an identity.")] = False,
) -> None:
    """Sign a manifest: say that what it lists may be loaded. Look at it first, with `tsguard manifest show`.

    The signature is a file beside the manifest, in the format of OpenSSF model signing; several people sign one after
    the other, and each has a file of his own. It is over the manifest as it is: any change makes it count no more.
    """
    if keyless or key is None:
        raise ConfigError(
            "keyless signing needs a reachable Sigstore, and is left to its own tool: `guard.trusted_identities` takes "
            "what `model_signing sign sigstore` makes; or name a private key with --key"
            if keyless
            else "no key to sign with; name the file of a private key with --key"
        )
    held = _private_key(key, passphrase_file)
    certified = _certificates(chain or [])
    _verify_of_use(certified)
    target, made, told = (
        _signed_store(path, output, held, certified) if whole_store else _signed(path, output, held, certified)
    )
    from torchserve_guard.archives.signing import bundle  # noqa: PLC0415 - heavy, and only needed here

    files.replace(target, bundle.render(made))
    typer.echo(printable(f"{target}: {told}"))


def demanded(
    trusted: list[str] | None, threshold: str | None, identities: list[str] | None = None, root: Path | None = None
) -> Demand | None:
    """Return what the options of `verify` demand, None where none was given; raise ConfigError."""
    if not trusted and not identities and threshold is None and root is None:
        return None
    from torchserve_guard.archives import Demand, Identity  # noqa: PLC0415 - heavy, and most do without
    from torchserve_guard.settings import trusted as spelling  # noqa: PLC0415 - heavy, and most do without

    try:
        keys = spelling.parse_keys(",".join(trusted), Path.cwd()) if trusted else ()
        named = spelling.parse_identities(",".join(identities)) if identities else ()
        trust: spelling.Trusted = (*keys, *named)
        count, roles = spelling.parse_threshold(threshold) if threshold is not None else (min(len(trust), 1), ())
    except ValueError as error:
        raise ConfigError(f"--trusted-key, --trusted-identity, --signature-threshold: {error}") from error
    why = spelling.fault(trust, count, roles)
    if why is not None:
        raise ConfigError(f"--signature-threshold `{threshold}` {why}")
    if bool(named) != (root is not None):
        raise ConfigError("--trusted-identity says whom to trust, --sigstore-root whom to believe of them; give both")
    told = tuple(Identity(one.role, one.name, one.issuer) for one in named)
    return Demand(tuple((one.role, one.path) for one in keys), count, roles, told, root)


def described(path: Path, data: bytes) -> Iterable[str]:
    """Yield a line for each signature beside a manifest: who says to have made it, and whether it is over these bytes.

    Whose word counts is not told here: that is for `verify` and its trusted keys.
    """
    from torchserve_guard.archives.document import Malformed  # noqa: PLC0415 - heavy, and only needed here
    from torchserve_guard.archives.signing import authority, bundle  # noqa: PLC0415
    from torchserve_guard.archives.signing.rejection import Rejected  # noqa: PLC0415

    if bundle.looks_like_one(data):
        try:
            yield f"signature in it: {_claimed(bundle.parse(data))}"
        except (Rejected, Malformed) as why:
            yield f"signature in it: {why}"
    for one in authority.beside(path):
        try:
            yield f"signature {one.name}: {_claimed(authority.covering(one, data))}"
        except (Rejected, Malformed, ConfigError) as why:
            yield f"signature {one.name}: {why}"


def unread(path: Path, listed: Manifest) -> str | None:
    """Return what to say where a manifest may be signed and nobody was named whose signature would count, or None."""
    from torchserve_guard.archives import manifest  # noqa: PLC0415 - heavy, and only needed here

    signed, beside = listed.schema_ == manifest.MODEL_SIGNING, []
    with contextlib.suppress(OSError):
        beside = [one.name for one in path.parent.iterdir() if one.name.startswith(path.name + ".")]
    # What reads signatures takes a while to import, and beside most manifests there is nothing of this name.
    if beside and not signed:
        from torchserve_guard.archives.signing import authority  # noqa: PLC0415 - heavy, and only needed here

        signed = any(authority.is_signature_of(path.name, name) for name in beside)
    where = f"{path}: its signatures were not looked at"
    return f"{where}; name whose count with --trusted-key or --trusted-identity" if signed else None


def _claimed(made: Bundle) -> str:
    from torchserve_guard.archives.signing import certificates, keyless  # noqa: PLC0415 - heavy, and only needed here

    if made.hint is not None:
        return f"by the key {made.hint}, not verified here"
    if made.entry is not None:
        return f"by {keyless.claimed(made.certificates[0])}, not verified here"
    return f"by `{certificates.called(certificates.decode(made.certificates[0]))}`, not verified here"


def _signed(
    path: Path, output: Path | None, key: PrivateKey, chain: tuple[x509.Certificate, ...]
) -> tuple[Path, Bundle, str]:
    """Return where the signature of a manifest goes, the signature, and what it says."""
    from torchserve_guard.archives import manifest  # noqa: PLC0415 - heavy, and only needed here
    from torchserve_guard.archives.signing import authority, keys, signature, statement  # noqa: PLC0415

    file = path / files.MANIFEST if looks.is_folder(path) else path
    data = manifest.read(file)
    listed = manifest.parse(data, str(file))
    manifest.verify_current(listed, str(file), datetime.now(UTC))
    with files.names_are_text(file.parent):
        made = signature.sign(statement.of_file(file.name, data), key, chain)
    short = keys.fingerprint(key.public_key())[:SHORT]
    target = output or file.with_name(f"{file.name}.{short}{authority.ENDING}")
    count = len(listed.subjects)
    return target, made, f"signature by the key {short} over version {listed.version} of {file}, {count} archives"


def _signed_store(
    store: Path, output: Path | None, key: PrivateKey, chain: tuple[x509.Certificate, ...]
) -> tuple[Path, Bundle, str]:
    """Return where the signature of a whole store goes, the signature, and what it says."""
    from torchserve_guard.archives.signing import authority, keys, signature  # noqa: PLC0415 - heavy, only needed here

    if not looks.is_folder(store):
        raise ConfigError(f"{store}: is not a folder, and --whole-store signs the files of one")
    short = keys.fingerprint(key.public_key())[:SHORT]
    target = output or store / f"tsguard-store.{short}{authority.ENDING}"
    left_out = {one.name for one in store.iterdir() if one.name.endswith(authority.ENDING)}
    if target.parent.resolve() == store.resolve():
        left_out.add(target.name)
    with Progress(sys.stderr) as progress, files.names_are_text(store):
        stated = signature.state_folder(store, left_out, progress)
        made = signature.sign(stated, key, chain)
    return target, made, f"signature by the key {short} over the {len(stated.files)} files of {store}"


def _private_key(path: Path, passphrase_file: Path | None) -> PrivateKey:
    from torchserve_guard.archives import contents  # noqa: PLC0415 - heavy, and only needed here
    from torchserve_guard.archives.signing import keys  # noqa: PLC0415

    data = contents.read(path, LARGEST_KEY, "private key")
    if path.stat().st_mode & OTHERS_MAY_READ:
        typer.echo(
            PREFIX + printable(f"{path}: others than its owner may read this private key; `chmod 600` it"), err=True
        )
    passphrase = None
    if passphrase_file is not None:
        passphrase = contents.read(passphrase_file, LARGEST_PASSPHRASE, "passphrase").split(b"\n")[0].rstrip(b"\r")
    return keys.parse_private(data, passphrase or None, str(path))


def _certificates(paths: list[Path]) -> tuple[x509.Certificate, ...]:
    from torchserve_guard.archives import contents  # noqa: PLC0415 - heavy, and only needed here
    from torchserve_guard.archives.signing import certificates, trust  # noqa: PLC0415

    return tuple(
        one
        for path in paths
        for one in certificates.parse(contents.read(path, trust.LARGEST, "certificate"), str(path))
    )


def _verify_of_use(chain: tuple[x509.Certificate, ...]) -> None:
    """Raise ConfigError for a certificate of a signer that no verifier would take."""
    from torchserve_guard.archives.signing import certificates  # noqa: PLC0415 - heavy, and only needed here
    from torchserve_guard.archives.signing.rejection import Rejected  # noqa: PLC0415

    for one in chain:
        if not certificates.is_authority(one):
            try:
                certificates.verify_itself(one, datetime.now(UTC))
            except Rejected as why:
                raise ConfigError(f"{why}; a signature with it would count nowhere") from why
