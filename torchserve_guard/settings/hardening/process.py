"""Process: as whom the guard runs, with which mask, and from which files."""

from __future__ import annotations

import stat
from collections.abc import Iterator

from torchserve_guard.findings import Severity
from torchserve_guard.settings.hardening import places
from torchserve_guard.settings.hardening.rule import Hit, Rule, Told


def _as_root(told: Told) -> Iterator[Hit]:
    if told.around.user == 0:
        yield Hit("the guard runs as root, and so does the code of every model", "root")


def _open_mask(told: Told) -> Iterator[Hit]:
    mask = told.around.umask
    if mask is not None and not mask & stat.S_IWOTH:
        yield Hit(
            f"the umask is {mask:04o}: what is made while it is so may be written by every user of this machine",
            "umask",
        )


def _program(told: Told) -> Iterator[Hit]:
    for path in told.around.programs:
        through = places.writer(path)
        if through is not None:
            place, who = through
            severity = Severity.MEDIUM if who.startswith("user ") else Severity.HIGH
            yield Hit(
                f"{path}, which the guard runs, can be changed by {who}, through {place}",
                None,
                severity,
                path=path,
            )


RULES = (
    Rule(
        "TSG046",
        Severity.HIGH,
        "who can change the program decides everything else as well",
        "install it where only root or the guard's user may write",
        ("H06",),
        _program,
        also=(Severity.MEDIUM,),
    ),
    Rule(
        "TSG055",
        Severity.MEDIUM,
        "a verified model may still be a bad one, and then the machine is its own",
        "run it as a user of its own, for instance with `User=` in the unit of systemd or `USER` in the image",
        ("H14", "H20"),
        _as_root,
    ),
    Rule(
        "TSG056",
        Severity.LOW,
        "what the guard and TorchServe make is theirs alone, but what other steps of the same script made is not",
        "set `umask 077` before the start",
        ("H20", "H56", "L03"),
        _open_mask,
    ),
)
