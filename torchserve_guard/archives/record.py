"""The record: what was staged, as one reading found it, beside the staged tree.

It is believed no further than the manifest says the same.
"""

from __future__ import annotations

from pathlib import Path

from torchserve_guard.archives import manifest, promise, trees
from torchserve_guard.archives.digests import Crew
from torchserve_guard.archives.limits import Limits
from torchserve_guard.archives.manifest import SubjectEntry
from torchserve_guard.archives.reading import read_subject
from torchserve_guard.archives.sighting import Look
from torchserve_guard.archives.sources import Source, open_file
from torchserve_guard.errors import ConfigError, VerificationError

NAME = "record.json"


def read(home: Path, subject: SubjectEntry) -> SubjectEntry:
    """Return the record of a tree, as far as the manifest says the same; raise Drift."""
    place = home / NAME
    try:
        with open_file(place, str(place)) as file:
            found = manifest.subject_entry(file.read(0, min(file.size, manifest.LARGEST)), str(place))
    except (ConfigError, VerificationError) as error:
        raise trees.Drift(str(error)) from error
    if (found.kind, found.sha256) != (subject.kind, subject.sha256):
        raise trees.Drift(f"{place}: is the record of something else")
    if found.members != subject.members:
        raise trees.Drift(f"{place}: does not list the members that the manifest lists")
    return found


def verify_source(
    source: Path, subject: SubjectEntry, found: SubjectEntry, limits: Limits | None, crew: Crew, *, look: Look
) -> SubjectEntry:
    """Return the record to keep if the source still is what the manifest lists; raise VerificationError."""
    if subject.kind == "directory":
        read_subject(source, subject, None, limits, crew.tell)
        return found
    with open_file(source, str(source)) as file:
        look.begin(file)
        noted = _verified(file, subject, found, crew)
        look.end(file)
    return noted


def _verified(file: Source, subject: SubjectEntry, found: SubjectEntry, crew: Crew) -> SubjectEntry:
    # INVARIANT: chunks stand for the whole only where the record says that one reading gave both (see `promise`).
    if subject.chunks is None or found.chunks == subject.chunks:
        promise.verify_archive(file, subject, crew)
        return found
    promise.verify_both(file, subject, crew)
    return found.model_copy(update={"chunks": subject.chunks})
