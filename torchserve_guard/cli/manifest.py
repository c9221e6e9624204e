"""`tsguard manifest`: create, verify and show the list of what may be loaded."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from torchserve_guard.cli.lines import printable
from torchserve_guard.cli.progress import Progress
from torchserve_guard.errors import ConfigError

app = typer.Typer(
    help="The manifest: the list of archives that may be loaded, with their digests.", no_args_is_help=True
)

NAME = "tsguard-manifest.json"
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
    with Progress(sys.stderr) as progress, _names_are_text(model_store):
        made = archives.create_manifest(
            model_store,
            archives_named or None,
            version=version,
            created=now,
            expires=expires,
            progress=progress.advance,
        )
    _replace(path, archives.render_manifest(made))
    typer.echo(printable(f"{path}: version {version}, {len(made.subjects)} archives"))
    for subject in made.subjects:
        typer.echo(printable(f"{subject.sha256}  {subject.name}"))


@app.command()
def verify(model_store: Store, manifest: ManifestFile = None) -> None:
    """Verify that a model store holds exactly what its manifest lists. Exit code 4 names every difference."""
    from torchserve_guard import archives  # noqa: PLC0415 - heavy, and only needed here

    path = manifest or model_store / NAME
    with Progress(sys.stderr) as progress:
        listed = archives.load_manifest(path, datetime.now(UTC))
        archives.verify_store(listed, model_store, progress=progress.advance)
    typer.echo(printable(f"{path}: version {listed.version}, {len(listed.subjects)} archives, all as listed"))


@app.command()
def show(
    model_store: Store,
    manifest: ManifestFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest itself.")] = False,
    members: Annotated[bool, typer.Option("--members", help="List the members of each archive too.")] = False,
) -> None:
    """Show what a manifest lists."""
    from torchserve_guard import archives  # noqa: PLC0415 - heavy, and only needed here

    listed = archives.load_manifest(manifest or model_store / NAME, None)
    if as_json:
        typer.echo(archives.render_manifest(listed).decode(), nl=False)
        return
    typer.echo(f"version {listed.version}, created {listed.created}, expires {listed.expires or 'never'}")
    for subject in listed.subjects:
        typer.echo(printable(f"{subject.sha256}  {_size(subject.size)}  {subject.name}"))
        for member in subject.members if members else ():
            typer.echo(printable(f"    {member.sha256}  {_size(member.size)}  {member.path}"))


def _size(size: int | None) -> str:
    return f"{'' if size is None else format(size, ','):>15}"


@contextlib.contextmanager
def _names_are_text(model_store: Path) -> Iterator[None]:
    """Turn a name that is not UTF-8, which a manifest cannot spell, into a `ConfigError` that shows it."""
    try:
        yield
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{model_store}: the name {error.object!a} is not UTF-8, which a manifest cannot list; rename it"
        ) from error


def _expiry(now: datetime, days: float) -> datetime:
    try:
        return now + timedelta(days=days)
    except (ValueError, OverflowError) as error:
        raise ConfigError(
            f"--expires-days `{days}` is not a number of days that ends before the year 10000; name fewer"
        ) from error


def _replace(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, through no link: others may write in the folder of a manifest."""
    draft = path.parent / f".tsguard-manifest.{secrets.token_hex(8)}"
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(descriptor, 0o644)
            os.fsync(descriptor)
        draft.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); name another file with --manifest") from error
