"""Memory stays flat whatever the size of the archive."""

from __future__ import annotations

import subprocess
import sys
import zipfile

from corpus.archives import HANDLER, manifest

MEASURE = """
import sys
from pathlib import Path
from torchserve_guard import archives
source, root = map(Path, sys.argv[1:])
subject = archives.describe(source)
store = archives.Store(root)
store.stage(source, subject)
store.stage(source, subject)
store.clear()
lines = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM")))
"""


def test_staging_takes_less_than_sixty_megabytes(tmp_path):
    source = tmp_path / "m.mar"
    with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        file.writestr("handler.py", HANDLER)
        file.writestr("weights.pt", b"0123456789abcdef" * (200 << 16))
        file.writestr("MAR-INF/MANIFEST.json", manifest())
    command = [sys.executable, "-c", MEASURE, str(source), str(tmp_path / "store")]
    peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert peak < 60
