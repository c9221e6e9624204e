"""Names: what a member or a subject may be called, and which names are one name on another system.

Pure. A name that two systems, readers or people could take for two things is not a name here.
"""

from __future__ import annotations

import re
import unicodedata

from torchserve_guard.archives.refusal import Fault, Reason

MARKER = ".tsguard"
"""The empty file beside a lone top-level directory of a staged tree; no member may be called so."""

LONGEST = 1024
LONGEST_COMPONENT = 255
DEEPEST = 32

_SUBJECT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")


def subject_fault(name: str) -> str | None:
    """Return what is wrong with a subject's name, or None.

    TorchServe refuses `..` anywhere in a model's URL, and reduces a path to its last component
    (ModelArchive.java, ArchiveUtils.getFilenameFromUrl): so only bare file names can mean one thing.
    """
    if _SUBJECT.fullmatch(name) is None:
        return "is not a bare file name of letters, digits, `_`, `.` and `-`"
    return "contains `..`, which TorchServe refuses" if ".." in name else None


def fault(path: str) -> Fault | None:
    """Return what is wrong with a member's path (a directory's ends in `/`), or None."""
    parts = path.removesuffix("/").split("/")
    encoded = path.encode("utf-8", "surrogatepass")
    faults = (
        (path in {"", "/"}, Reason.EMPTY, "is empty"),
        (not path.isprintable(), Reason.INVISIBLE, "contains a control or invisible character"),
        ("\\" in path, Reason.BACKSLASH, "contains a backslash"),
        (":" in path, Reason.COLON, "contains a colon"),
        (path.startswith("/"), Reason.ABSOLUTE, "is absolute"),
        (".." in parts, Reason.PARENT, "contains a `..` component"),
        ("" in parts or "." in parts, Reason.DOT, "contains an empty or `.` component"),
        (len(encoded) > LONGEST, Reason.LONG, f"is longer than {LONGEST} bytes"),
        (len(parts) > DEEPEST, Reason.DEEP, f"is deeper than {DEEPEST} directories"),
        (
            any(len(part.encode("utf-8", "surrogatepass")) > LONGEST_COMPONENT for part in parts),
            Reason.LONG_COMPONENT,
            f"has a component longer than {LONGEST_COMPONENT} bytes",
        ),
        (parts[0].casefold() == MARKER, Reason.RESERVED, f"uses `{MARKER}`, which is reserved for the guard"),
    )
    return next((Fault(reason, why) for wrong, reason, why in faults if wrong), None)


def parents(path: str) -> list[str]:
    """Return the directories above a path, each ending in `/`."""
    parts = path.removesuffix("/").split("/")[:-1]
    return ["/".join(parts[: depth + 1]) + "/" for depth in range(len(parts))]


class Spellings:
    """The names seen so far: each once after NFC and case folding, and nothing both file and directory."""

    def __init__(self) -> None:
        self._seen: dict[str, str] = {}
        self._listed: set[str] = set()

    def fault(self, path: str) -> Fault | None:
        """Take note of a path; return what is wrong with it beside the others, or None."""
        parts = path.removesuffix("/").split("/")
        for depth in range(1, len(parts)):
            complaint = self._note("/".join(parts[:depth]) + "/")
            if complaint is not None:
                return complaint
        if path in self._listed:
            return Fault(Reason.TWICE, "is there twice")
        self._listed.add(path)
        return self._note(path)

    def _note(self, path: str) -> Fault | None:
        folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold()).removesuffix("/")
        earlier = self._seen.setdefault(folded, path)
        if earlier == path:
            return None
        if earlier.endswith("/") != path.endswith("/"):
            return Fault(Reason.BOTH_KINDS, f"is both a file and a directory (`{earlier}`)")
        return Fault(Reason.COLLISION, f"differs from `{earlier}` only in case or normal form")
