"""The rule: one row of the table of hardening, what it is shown, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torchserve_guard.escape import printable
from torchserve_guard.findings import Finding, Location, Severity
from torchserve_guard.settings.reading import Given, Surroundings
from torchserve_guard.settings.settings import Settings


@dataclass(frozen=True, slots=True)
class Told:
    """What a rule may look at: the settings, the words they came from, and where the guard was started."""

    settings: Settings
    given: Mapping[str, Given]
    around: Surroundings

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment of the guard itself."""
        return self.around.environment

    def text(self, key: str) -> str | None:
        """Return the text given for a key, None where none was."""
        given = self.given.get(key)
        return None if given is None else given.text

    def path(self, key: str) -> Path | None:
        """Return the path given for a key, from the working directory when it is relative."""
        text = self.text(key)
        return None if text is None else self.around.cwd / text

    def location(self, key: str | None) -> Location:
        """Return the line of the configuration where a key stands; the file alone for a flag or a default."""
        given = self.given.get(key) if key is not None else None
        return Location(str(self.settings.config), given.line or None if given is not None else None)


@dataclass(frozen=True, slots=True)
class Hit:
    """One place where a rule applies. `severity` and `remedy` are the rule's own where they are None.

    `key` is the key, the variable or whatever else a waiver can be bound to; `path` is the file in question, where that
    is not the configuration.
    """

    message: str
    key: str | None = None
    severity: Severity | None = None
    remedy: str | None = None
    path: Path | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: `why` in one sentence, `hazards` as the ledger numbers them, `also` the other severities it may have."""

    identifier: str
    severity: Severity
    why: str
    remedy: str
    hazards: tuple[str, ...]
    look: Callable[[Told], Iterator[Hit]]
    also: tuple[Severity, ...] = ()

    def check(self, told: Told) -> Iterator[Finding]:
        """Yield a finding for each place where the rule applies."""
        for hit in self.look(told):
            yield Finding(
                self.identifier,
                self.severity if hit.severity is None else hit.severity,
                printable(hit.message),
                printable(hit.remedy or self.remedy),
                Location(str(hit.path)) if hit.path is not None else told.location(hit.key),
                key=hit.key,
            )
