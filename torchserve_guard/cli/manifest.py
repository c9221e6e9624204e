"""`tsguard manifest`: create, verify, show and compare the list of what may be loaded."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from torchserve_guard import looks
from torchserve_guard.cli import archive_limits, files, signing
from torchserve_guard.cli.lines import PREFIX
from torchserve_guard.cli.progress import Progress
from torchserve_guard.errors import ConfigError
from torchserve_guard.escape import printable

if TYPE_CHECKING:
    from torchserve_guard.archives import Authorized, Manifest

app = typer.Typer(
    help="The manifest: the list of archives that may be loaded, with their digests.", no_args_is_help=True
)

NAME = files.MANIFEST
ARCHIVES = (".mar", ".model", ".tar.gz", ".tgz", ".war")
DIFFERENT = 1
"""What `diff --exit-code` exits with, as `git diff --exit-code` does."""

Store = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL_STORE|MANIFEST", help="The folder of the archives, or the manifest that lies in such a folder."
    ),
]
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
    *,
    max_members: archive_limits.Members = archive_limits.MEMBERS,
    max_unpacked: archive_limits.Unpacked = archive_limits.UNPACKED,
    max_ratio: archive_limits.Ratio = archive_limits.RATIO,
) -> None:
    """Read the archives of a model store and list them with size, SHA-256 and members.

    Listing an archive says that it may be loaded: look at what is in it first. An existing manifest is
    replaced by one with the next higher version number.
    """
    from torchserve_guard import archives  # noqa: PLC0415 - heavy, and only needed here

    model_store, path = _named(model_store, manifest)
    now = datetime.now(UTC)
    version = archives.next_version(path)
    expires = None if expires_days is None else _expiry(now, expires_days)
    lost = archives.load_manifest(path, None).expires if expires is None and version > 1 else None
    with Progress(sys.stderr) as progress, files.names_are_text(model_store):
        made = archives.create_manifest(
            model_store,
            archives_named or None,
            version=version,
            created=now,
            expires=expires,
            limits=archive_limits.told(max_members, max_unpacked, max_ratio),
            progress=progress,
        )
    files.replace(path, archives.render_manifest(made), "--manifest")
    typer.echo(printable(f"{path}: version {version}, {len(made.subjects)} archives"))
    if lost is not None:
        typer.echo(PREFIX + printable(f"{path}: {_forgotten(version, lost)}"), err=True)
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

    model_store, path = _named(model_store, manifest)
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
        return
    unread = signing.unread(path, listed)
    if unread is not None:
        typer.echo(PREFIX + printable(unread), err=True)


@app.command()
def show(
    model_store: Store,
    manifest: ManifestFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what is listed as one JSON document.")] = False,
    members: Annotated[bool, typer.Option("--members", help="List the members of each archive too.")] = False,
) -> None:
    """Show what a manifest lists."""
    from torchserve_guard import archives  # noqa: PLC0415 - heavy, and only needed here
    from torchserve_guard.archives import document  # noqa: PLC0415

    _, path = _named(model_store, manifest)
    data = archives.read_manifest(path)
    listed = archives.parse_manifest(data, str(path))
    if as_json:
        typer.echo(document.render(listed.model_dump(mode="json", by_alias=True)).decode(), nl=False)
        return
    typer.echo(_heading(listed))
    for line in signing.described(path, data):
        typer.echo(printable(line))
    for subject in listed.subjects:
        typer.echo(printable(f"{subject.sha256}  {_size(subject.size)}  {subject.name}"))
        for member in subject.members if members else ():
            typer.echo(printable(f"    {member.sha256}  {_size(member.size)}  {member.path}"))


@app.command()
def diff(
    old: Annotated[
        Path, typer.Argument(metavar="OLD", help="A manifest, the model store in which it lies, or an archive.")
    ],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="What is to take its place.")],
    stores: Annotated[
        tuple[Path, Path] | None,
        typer.Option("--archives", metavar="OLD_DIR NEW_DIR", help="The model stores: compare texts in archives too."),
    ] = None,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 1 if there are differences.")] = False,
    *,
    max_members: archive_limits.Members = archive_limits.MEMBERS,
    max_unpacked: archive_limits.Unpacked = archive_limits.UNPACKED,
    max_ratio: archive_limits.Ratio = archive_limits.RATIO,
) -> None:
    """Show what a new manifest or archive changes: archive by archive, member by member, and code line by line.

    Lines of code are compared in two archives, and in two manifests with --archives. Each archive is read whole and
    must be what its manifest lists; nothing of it is run.
    """
    old, new = _in_store(old), _in_store(new)
    if _is_archive(old) != _is_archive(new):
        raise ConfigError(f"{old}, {new}: one is an archive and the other is not; name two manifests or two archives")
    if _is_archive(old) and stores is not None:
        raise ConfigError("--archives is for two manifests; two archives are compared line by line anyway")
    from torchserve_guard.cli import comparing  # noqa: PLC0415 - only needed here

    limits = archive_limits.told(max_members, max_unpacked, max_ratio)
    with Progress(sys.stderr) as progress:
        head, rows = (
            comparing.archives_of(old, new, limits, progress)
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
    for why in (*found.ignored, *found.shared):
        typer.echo(printable(why), err=True)


def _forgotten(version: int, expires: datetime) -> str:
    return (
        f"version {version} never expires, and the one before it does at {expires.isoformat()}; "
        "to have this one expire too, give --expires-days"
    )


def _named(given: Path, manifest: Path | None) -> tuple[Path, Path]:
    """Return the model store and its manifest, whichever of them was named; raise ConfigError."""
    if not looks.is_file(given):
        return given, manifest or given / NAME
    if manifest is not None:
        raise ConfigError(f"{given}: is a file, and --manifest names another one; name the folder of the archives here")
    return given.parent, given


def _in_store(path: Path) -> Path:
    """Return the manifest of a model store, and what is no model store as it is."""
    held = path / NAME
    return held if looks.is_file(held) and not looks.is_there(path / "MAR-INF") else path


def _heading(listed: Manifest) -> str:
    if listed.created is None:
        return f"{listed.schema_}, which has no version, no time of creation and no expiry"
    return f"version {listed.version}, created {listed.created}, expires {listed.expires or 'never'}"


def _is_archive(path: Path) -> bool:
    return path.is_dir() or path.name.lower().endswith(ARCHIVES)


def _size(size: int | None) -> str:
    return f"{'' if size is None else format(size, ','):>15}"


def _expiry(now: datetime, days: float) -> datetime:
    try:
        end = now + timedelta(days=days)
    except (ValueError, OverflowError) as error:
        raise ConfigError(
            f"--expires-days `{days}` is not a number of days that ends before the year 10000; name fewer"
        ) from error
    # A manifest's times are whole seconds: what is less may have passed when it is written.
    if end - now < timedelta(seconds=1):
        raise ConfigError(f"--expires-days `{days:g}` would have the manifest expire as it is written; name more")
    return end
