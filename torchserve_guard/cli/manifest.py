"""`tsguard manifest`: create, verify, show and compare the list of what may be loaded."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from torchserve_guard.cli import files, signing
from torchserve_guard.cli.progress import Progress
from torchserve_guard.errors import ConfigError
from torchserve_guard.escape import printable

app = typer.Typer(
    help="The manifest: the list of archives that may be loaded, with their digests.", no_args_is_help=True
)

NAME = files.MANIFEST
Store = Annotated[Path, typer.Argument(metavar="MODEL_STORE", help="The folder of the archives.")]
ManifestFile = Annotated[
    Path | None,
    typer.Option("--manifest", metavar="FILE", help=f"The manifest; {NAME} in the model store unless named."),
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
            progress=progress.advance,
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
) -> None:
    """Verify that a model store holds exactly what its manifest lists, and who signed that.

    Exit code 4 names every difference: what is missing, extra, changed, or of another size. Signatures are verified
    when a key is trusted.
    """
    from torchserve_guard import archives  # noqa: PLC0415 - heavy, and only needed here

    path = manifest or model_store / NAME
    demand = signing.demanded(trusted, threshold)
    with Progress(sys.stderr) as progress:
        found = archives.authorize(path, demand, datetime.now(UTC))
        listed = found.manifest
        archives.verify_store(listed, model_store, progress=progress.advance)
    typer.echo(printable(f"{path}: version {listed.version}, {len(listed.subjects)} archives, all as listed"))
    for signer in found.signers:
        typer.echo(printable(f"signed by {signer}, key {signer.fingerprint}"))
    for why in found.ignored:
        typer.echo(printable(why), err=True)


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
    old: Annotated[Path, typer.Argument(metavar="OLD", help="A manifest.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The manifest that is to take its place.")],
) -> None:
    """Show what a new manifest changes, archive by archive and member by member."""
    from torchserve_guard import archives  # noqa: PLC0415 - heavy, and only needed here

    before, after = archives.load_manifest(old, None), archives.load_manifest(new, None)
    typer.echo(f"version {before.version} -> {after.version}")
    typer.echo(f"expires {before.expires or 'never'} -> {after.expires or 'never'}")
    for line in archives.compare_manifests(before, after):
        typer.echo(printable(line))


def _size(size: int | None) -> str:
    return f"{'' if size is None else format(size, ','):>15}"


def _expiry(now: datetime, days: float) -> datetime:
    try:
        return now + timedelta(days=days)
    except (ValueError, OverflowError) as error:
        raise ConfigError(
            f"--expires-days `{days}` is not a number of days that ends before the year 10000; name fewer"
        ) from error
