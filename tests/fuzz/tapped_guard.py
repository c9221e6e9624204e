"""A guard that finds relays where TorchServe's gRPC ports are: `FOLDER PORT PORT` come before tsguard's own arguments.

The two ports that TorchServe really has are written to `behind.json` in the folder, for the relays.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from torchserve_guard.cli import main
from torchserve_guard.proxy.grpc import ports


def redirected(folder: Path, relays: tuple[int, int]) -> None:
    """Put the relays between: what told TorchServe's two ports apart tells those of the relays."""
    told_apart = ports.told_apart

    async def relayed(found: tuple[int, ...], patience: float) -> tuple[int, int]:
        (folder / "behind.json").write_text(json.dumps(await told_apart(found, patience)))
        return relays

    ports.told_apart = relayed


if __name__ == "__main__":
    place, first, second = sys.argv[1:4]
    redirected(Path(place), (int(first), int(second)))
    sys.argv[1:4] = []
    sys.exit(main())
