"""The errand: one archive to be fetched, with all that it takes."""

from __future__ import annotations

from dataclasses import dataclass

from torchserve_guard.archives.manifest import SubjectEntry
from torchserve_guard.archives.progress import Progress
from torchserve_guard.archives.remote.quarantine import Partial
from torchserve_guard.archives.remote.watch import Watch
from torchserve_guard.origin import Origin
from torchserve_guard.terms import Terms


@dataclass(frozen=True, slots=True)
class Errand:
    """What is fetched, from where, on which terms, into what; `progress` is told the bytes that come."""

    origin: Origin
    subject: SubjectEntry
    terms: Terms
    partial: Partial
    watch: Watch
    progress: Progress | None = None

    def came(self, count: int) -> None:
        """Take note of so many bytes more, for whoever waits and whoever watches."""
        if self.progress is not None:
            self.progress(count)
        self.watch.passed(count)

    @property
    def most(self) -> int:
        """The most bytes that are taken: as many as the manifest lists, if it says."""
        return self.terms.largest if self.subject.size is None else min(self.subject.size, self.terms.largest)

    @property
    def validator(self) -> str | None:
        """What the file that was begun can be continued by, None when it was begun elsewhere."""
        note = self.partial.note
        return note.validator if note is not None and note.origin == str(self.origin) else None

    @property
    def offset(self) -> int:
        """From which byte on the file is wanted: 0 when what is there cannot be continued."""
        return self.partial.size if self.validator is not None and self.partial.size < self.most else 0
