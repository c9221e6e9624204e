"""`tsguard manifest`: create, verify, show and compare the list of what may be loaded."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from torchserve_guard.cli import files, signing
from torchserve_guard.cli.progress import Progress
from torchserve_guard.errors import ConfigError
from torchserve_guard.escape import printable

if TYPE_CHECKING:
    from torchserve_guard.archives import Authorized

app = typer.Typer(
    help="The manifest: the list of archives that may be loaded, with their digests.", no_args_is_help=True
)

NAME = files.MANIFEST
ARCHIVES = (".mar", ".model", ".tar.gz", ".tgz", ".war")
DIFFERENT = 1
"""What `diff --exit-code` exits with, as `git diff --exit-code` does."""

Store = Annotated[Path, typer.Argument(metavar="MODEL_STORE", help="The folder of the archives.")]
ManifestFile = Annotated[
    Path | None,
    typer.Option("--manifest", metavar="FILE", help=f"The manifest; {NAME} in the model store unless named."),
]
Whole = Annotated[
    bool,
    typer.Option(help="Compute the SHA-256 of each archive as a whole too, where the manifest lists it in chunks."),
]


@app.command()
def create(
    model_store: Store,
    archives_named: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ARCHIVE]...", help="The archives to list; all of the store unless named."),
    ] = None,
    manifest: ManifestFile = None,
    expires_days: Annotated[
        float | None, typer.Option("--expires-days", min=0.0, help="Let the manifest expire after so many days.")
    ] = None,
) -> None:
    """Read the archives of a model store and list them with size, SHA-256 and members.

    Listing an archive says that it may be loaded: look at what is in it first. An existing manifest is
    replaced by one with the next higher version number.
    """
    from torchserve_guard import archives  # noqa: PLC0415 - heavy, and only needed here

    path = manifest or model_store / NAME
    now = datetime.now(UTC)
    version = archives.next_version(path)
    expires = None if expires_days is None else _expiry(now, expires_days)
    with Progress(sys.stderr) as progress, files.names_are_text(model_store):
        made = archives.create_manifest(
            model_store,
            archives_named or None,
            version=version,
            created=now,
            expires=expires,
            progress=progress,
        )
    files.replace(path, archives.render_manifest(made), "--manifest")
    typer.echo(printable(f"{path}: version {version}, {len(made.subjects)} archives"))
    for subject in made.subjects:
        typer.echo(printable(f"{subject.sha256}  {subject.name}"))


app.command()(signing.sign)


@app.command()
def verify(
    model_store: Store,
    manifest: ManifestFile = None,
    trusted: signing.Trusted = None,
    threshold: signing.Threshold = None,
    *,
    identities: signing.TrustedIdentity = None,
    root: signing.SigstoreRoot = None,
    whole: Whole = False,
) -> None:
    """Verify that a model store holds exactly what its manifest lists, and who signed that.

    Exit code 4 names every difference: what is missing, extra, changed, or of another size. Signatures are verified
    when a key is trusted. A large archive that is listed with its chunks is verified by them, on all cores.
    """
    from torchserve_guard import archives  # noqa: PLC0415 - heavy, and only needed here

    path = manifest or model_store / NAME
    demand = signing.demanded(trusted, threshold, identities, root)
    now = datetime.now(UTC)
    with Progress(sys.stderr) as progress:
        # With nobody to be asked, all that `authorize` adds is what reads signatures, which takes a while to import.
        found = archives.authorize(path, demand, now) if demand is not None else None
        listed = found.manifest if found is not None else archives.load_manifest(path, now)
        archives.verify_store(listed, model_store, whole=whole, progress=progress)
    typer.echo(printable(f"{path}: version {listed.version}, {len(listed.subjects)} archives, all as listed"))
    if found is not None:
        _tell_signers(found)


@app.command()
def show(
    model_store: Store,
    manifest: ManifestFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest itself.")] = False,
    members: Annotated[bool, typer.Option("--members", help="List the members of each archive too.")] = False,
) -> None:
    """Show what a manifest lists."""
    from torchserve_guard import archives  # noqa: PLC0415 - heavy, and only needed here

    path = manifest or model_store / NAME
    data = archives.read_manifest(path)
    listed = archives.parse_manifest(data, str(path))
    if as_json:
        typer.echo(archives.render_manifest(listed).decode(), nl=False)
        return
    typer.echo(f"version {listed.version}, created {listed.created}, expires {listed.expires or 'never'}")
    for line in signing.described(path, data):
        typer.echo(printable(line))
    for subject in listed.subjects:
        typer.echo(printable(f"{subject.sha256}  {_size(subject.size)}  {subject.name}"))
        for member in subject.members if members else ():
            typer.echo(printable(f"    {member.sha256}  {_size(member.size)}  {member.path}"))


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="A manifest, or an archive.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="What is to take its place.")],
    stores: Annotated[
        tuple[Path, Path] | None,
        typer.Option("--archives", metavar="OLD_DIR NEW_DIR", help="The model stores: compare texts in archives too."),
    ] = None,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 1 if there are differences.")] = False,
) -> None:
    """Show what a new manifest or archive changes: archive by archive, member by member, and code line by line.

    Lines of code are compared in two archives, and in two manifests with --archives. Each archive is read whole and
    must be what its manifest lists; nothing of it is run.
    """
    if _is_archive(old) != _is_archive(new):
        raise ConfigError(f"{old}, {new}: one is an archive and the other is not; name two manifests or two archives")
    if _is_archive(old) and stores is not None:
        raise ConfigError("--archives is for two manifests; two archives are compared line by line anyway")
    from torchserve_guard.cli import comparing  # noqa: PLC0415 - only needed here

    with Progress(sys.stderr) as progress:
        head, rows = (
            comparing.archives_of(old, new, progress)
            if _is_archive(old)
            else comparing.manifests_of(old, new, stores, progress)
        )
    for line in (*head, *rows):
        typer.echo(printable(line))
    if exit_code and rows:
        raise typer.Exit(DIFFERENT)


def _tell_signers(found: Authorized) -> None:
    for signer in found.signers:
        key = "" if signer.identity else f", key {signer.fingerprint}"
        typer.echo(printable(f"signed by {signer}{key}"))
    for why in found.ignored:
        typer.echo(printable(why), err=True)


def _is_archive(path: Path) -> bool:
    return path.is_dir() or path.name.lower().endswith(ARCHIVES)


def _size(size: int | None) -> str:
    return f"{'' if size is None else format(size, ','):>15}"


def _expiry(now: datetime, days: float) -> datetime:
    try:
        return now + timedelta(days=days)
    except (ValueError, OverflowError) as error:
        raise ConfigError(
            f"--expires-days `{days}` is not a number of days that ends before the year 10000; name fewer"
        ) from error
