"""The promise: what the manifest says of an archive's bytes, and whether they keep it.

A large archive is listed twice: with the SHA-256 of the whole, which names it everywhere (the store, the record, other
tools), and with those of its chunks, which all cores can compute at once. What is proved by which:

- The digests of the chunks, with size and order, fix every byte as the digest of the whole does: other bytes with the
  same list would be a collision of SHA-256. They come from the same manifest, under the same signatures.
- That both are of the same bytes is what `create` saw to, reading once. A manifest need not be honest about it: whoever
  writes one could give the digest of an archive that was reviewed, and the chunks of another. So chunks never bring
  anything into the store: a first staging asks for the whole and the members, and for no chunks. A later start that has
  to read the archive again computes both in one reading, refuses an archive that does not keep both, and notes both in
  the store's record. Only where that record has the chunks of the manifest do chunks stand for the whole.
- What a warm start loads is the staged tree, never the archive: that tree came out of bytes whose whole digest was
  compared, and is itself compared member by member. The archive beside it is known by its `sighting`, or by its chunks.
- `manifest verify` has no record: it says that the archives are those whose chunks are listed. Where a manifest
  contradicts itself, that is told by `manifest verify --whole`, and by the first start that reads an archive again.
"""

from __future__ import annotations

from torchserve_guard.archives.digests import Crew, Reckoning, digest_of
from torchserve_guard.archives.manifest import Chunks, SubjectEntry
from torchserve_guard.archives.sources import Source
from torchserve_guard.errors import VerificationError


def verify(where: str, promised: SubjectEntry, digest: str, size: int, cause: Exception | None = None) -> None:
    """Return if digest and size are the promised ones; raise VerificationError with both digests."""
    if digest == promised.sha256 and promised.size in (None, size):
        return
    how = "changed" if promised.size in (None, size) else "changed and resized"
    raise VerificationError(
        f"{where}: is not what the manifest lists as `{promised.name}`: it was {how}: expected sha256 "
        f"{promised.sha256} ({_bytes(promised.size)}), found {digest} ({_bytes(size)}): restore it, "
        "or list the new one with `tsguard manifest create`"
    ) from cause


def verify_chunks(where: str, promised: SubjectEntry, found: Chunks | None) -> None:
    """Return if the chunks of what has the promised digest are the promised ones; raise VerificationError."""
    if promised.chunks is not None and found != promised.chunks:
        raise VerificationError(
            f"{where}: the manifest contradicts itself about `{promised.name}`: the archive has the listed sha256 "
            f"{promised.sha256} and not the listed chunks: find out who made the manifest so, and list the archive "
            "again with `tsguard manifest create`"
        )


def verify_archive(source: Source, promised: SubjectEntry, crew: Crew) -> None:
    """Return if an archive is the promised one: by its chunks where they are listed, else as a whole.

    Raises `VerificationError` with the digest of the whole, which is what can be looked for elsewhere.
    """
    chunks = promised.chunks
    if chunks is None or source.size != promised.size:
        verify(source.where, promised, crew.digest(source), source.size)
    elif crew.chunks(source, chunks.size) != chunks.sha256:
        verify(source.where, promised, digest_of(source, crew.heed), source.size)
        verify_chunks(source.where, promised, None)


def verify_both(source: Source, promised: SubjectEntry, crew: Crew) -> None:
    """Return if one reading finds the whole and the chunks as promised; raise VerificationError."""
    reckoning = Reckoning(promised.chunks.size if promised.chunks is not None else None)
    reckoning.take(source, crew.tell)
    verify(source.where, promised, reckoning.digest(), source.size)
    verify_chunks(source.where, promised, reckoning.chunks())


def _bytes(size: int | None) -> str:
    return "size not listed" if size is None else f"{size} bytes"
