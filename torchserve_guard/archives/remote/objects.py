"""Objects: archives in buckets, through fsspec (s3fs and gcsfs are extras), piece by piece.

The service is the one that the machine's own configuration of it names, and so are the credentials; an address names
only the bucket and the key in it.
"""

from __future__ import annotations

from typing import Any, NoReturn

from torchserve_guard.archives.progress import expect
from torchserve_guard.archives.remote.errand import Errand
from torchserve_guard.archives.remote.failure import Unfetched, refused, unfetched
from torchserve_guard.archives.remote.quarantine import Note
from torchserve_guard.errors import ConfigError
from torchserve_guard.origin import Scheme
from torchserve_guard.terms import Terms

PIECE = 8 << 20
EXTRAS = {Scheme.S3: "s3", Scheme.GS: "gcs"}
LONGEST_QUOTE = 200


def transfer(errand: Errand, bucket: Any = None) -> None:
    """Bring the file to its end. Raises `ConfigError`, `VerificationError` or `Unfetched`."""
    origin, partial = errand.origin, errand.partial
    system = filesystem(origin.scheme, errand.terms) if bucket is None else bucket
    place = origin.host + origin.path
    size, mark = _looked_at(errand, system, place)
    _verify_size(errand, size)
    if errand.validator != mark or partial.size > size:
        partial.begin(Note(str(origin), mark, size))
    partial.verify_room(size - partial.size)
    expect(errand.progress, size - partial.size, "fetching")
    while partial.size < size:
        piece = _piece(errand, system, place, min(partial.size + PIECE, size))
        partial.append(piece)
        errand.came(len(piece))
    # Of one that changed meanwhile the pieces may be of two: then its digest is not held against it the first time.
    partial.pieced |= _looked_at(errand, system, place) != (size, mark)


def filesystem(scheme: Scheme, terms: Terms) -> Any:
    """Return fsspec's file system for a scheme, which remembers nothing. Raises `ConfigError`."""
    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if scheme is Scheme.S3:
        # An empty table, unlike none, keeps botocore from the proxies of the environment.
        proxy = terms.proxy
        named = {} if proxy is None else {"https": f"http://{_user(proxy.credentials)}{proxy.host}:{proxy.port}"}
        options["config_kwargs"] = {"proxies": named, "read_timeout": terms.stall, "connect_timeout": terms.stall}
    try:
        import fsspec  # type: ignore[import-untyped]  # noqa: PLC0415 - an extra

        return fsspec.filesystem(scheme.value, **options)
    except ImportError as error:
        extra = EXTRAS[scheme]
        raise ConfigError(
            f"`{scheme.value}://` needs what is not installed: `pip install torchserve-guard[{extra}]`"
        ) from error


def _user(credentials: str | None) -> str:
    return f"{credentials}@" if credentials is not None else ""


def _looked_at(errand: Errand, system: Any, place: str) -> tuple[int, str]:
    """Return the size of an object, and what changes when it does."""
    try:
        return errand.watch.attend(lambda: (int(system.info(place)["size"]), str(system.ukey(place))))
    except Unfetched:
        raise
    except Exception as error:  # noqa: BLE001 - each service has errors of its own, and none is ours
        _failed(errand, error)


def _piece(errand: Errand, system: Any, place: str, end: int) -> bytes:
    begin = errand.partial.size
    try:
        piece = errand.watch.attend(lambda: bytes(system.cat_file(place, start=begin, end=end)))
    except Unfetched:
        raise
    except Exception as error:  # noqa: BLE001 - as above
        _failed(errand, error)
    if len(piece) != end - begin:
        unfetched(errand.origin, f"gives {len(piece)} bytes where {end - begin} were asked for")
    return piece


def _failed(errand: Errand, error: Exception) -> NoReturn:
    errand.watch.verify()
    unfetched(errand.origin, f"is not to be had ({type(error).__name__}: {str(error)[:LONGEST_QUOTE]})", error)


def _verify_size(errand: Errand, size: int) -> None:
    listed = errand.subject.size
    if listed is not None and size != listed:
        refused(errand.origin, f"has {size} bytes, and the manifest lists {listed}")
    if size > errand.terms.largest:
        refused(errand.origin, f"has {size} bytes, more than {errand.terms.largest} (`guard.fetch_max_size`)")
