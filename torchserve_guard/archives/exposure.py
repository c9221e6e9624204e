"""The exposure: the private model store that TorchServe sees, one link per staged subject.

Seen on 0.12.0: a link `NAME.mar` to a staged tree loads at start and at run time, `modelUrl` stays `NAME.mar`,
and unregistering removes TorchServe's own link in its temporary folder and nothing behind it.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from torchserve_guard.archives import names
from torchserve_guard.archives.store import Staged
from torchserve_guard.errors import GuardError


def expose(staged: Staged, into: Path) -> Path:
    """Show a staged subject under its own name in a directory; return the link, which replaces an older one."""
    why = names.subject_fault(staged.name)
    if why is not None:
        raise GuardError(f"`{staged.name}` {why}")
    into.mkdir(mode=0o700, parents=True, exist_ok=True)
    link = into / staged.name
    if link.exists() and not link.is_symlink():
        raise GuardError(f"{link}: is there already, and is not a link of ours")
    fresh = into / f".{secrets.token_hex(16)}"
    fresh.symlink_to(staged.tree, target_is_directory=True)
    fresh.rename(link)
    return link
