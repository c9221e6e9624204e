"""The roster: the members of everything that TorchServe is shown, for handlers that look for themselves.

It lies beside the trees and not in them, so no archive can bring its own. `handlers/verified.py` reads it.
"""

from __future__ import annotations

import json
from pathlib import Path

from torchserve_guard import draft
from torchserve_guard.archives.copies import Files
from torchserve_guard.archives.store import Staged
from torchserve_guard.errors import GuardError

SCHEMA = "tsguard-roster/1"
MODE = 0o400


class Roster:
    """The roster of one guard, in the file at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._subjects: dict[tuple[str, str], dict[str, object]] = {}

    def enter(self, staged: Staged) -> None:
        """Enter what is about to be shown; what was entered before stays, as a model of it may still be served."""
        self._subjects[staged.name, staged.digest] = _subject(staged)
        document = {"schema": SCHEMA, "subjects": list(self._subjects.values())}
        try:
            draft.replace(self._path, json.dumps(document).encode(), MODE, exactly=True)
        except OSError as error:
            raise GuardError(f"{self._path}: the roster cannot be written ({error.strerror or error})") from error


def _subject(staged: Staged) -> dict[str, object]:
    return {
        "name": staged.name,
        "sha256": staged.digest,
        "writable": staged.files is not Files.READ_ONLY,
        "members": [{"path": one.path, "size": one.size, "sha256": one.sha256} for one in staged.members],
    }
