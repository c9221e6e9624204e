"""Archives as real writers make them of one tree: torch-model-archiver in its forms, zip, jar, Python, tar."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ARCHIVER = [sys.executable, "-m", "model_archiver.model_packaging"]

# Run in the folder that holds the tree `m`.
COMMANDS = {
    "zip.mar": "cd m && zip -qr {out} .",
    "zip-stored.mar": "cd m && zip -q0r {out} .",
    "zip-best-bare.mar": "cd m && zip -q9Xr {out} .",
    "zip-no-directories.mar": "cd m && zip -qDr {out} .",
    "zip-descriptors.mar": "cd m && zip -qr -fd {out} . -x nested/empty.txt",
    "jar.mar": "cd m && jar cfM {out} .",
    "jar-stored.mar": "cd m && jar c0fM {out} .",
    "python-zipfile.mar": f"cd m && {sys.executable} -m zipfile -c {{out}} handler.py MAR-INF nested",
    "tar-pax.tar.gz": "tar --format=pax -czf {out} m",
    "tar-ustar.tar.gz": "tar --format=ustar -czf {out} m",
    "tar-gnu.tar.gz": "tar --format=gnu -czf {out} m",
    "tar-dot.tar.gz": "tar -C m -czf {out} .",
    "tar-piped.tar.gz": "tar -cf - m | gzip -1 > {out}",
    "tar-sorted.tar.gz": "tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -czf {out} m",
}
FORMS = {"default": ".mar", "zip-store": ".mar", "tgz": ".tar.gz", "no-archive": ""}


def tree(folder: Path, handler: bytes, described: bytes) -> Path:
    """Make the tree `m` of a model, before any writer has packed it."""
    root = folder / "m"
    for part in ("MAR-INF", "nested/deeper", "empty"):
        (root / part).mkdir(parents=True)
    (root / "handler.py").write_bytes(handler)
    (root / "MAR-INF" / "MANIFEST.json").write_bytes(described)
    (root / "nested" / "deeper" / "table.bin").write_bytes(bytes(range(256)) * 4000)
    (root / "nested" / "empty.txt").write_bytes(b"")
    return root


def by_commands(folder: Path, store: Path) -> list[Path]:
    """Pack the tree in a folder with each command that is installed."""
    written = []
    for name, command in COMMANDS.items():
        if shutil.which(command.split("&& ")[-1].split()[0]) is None:
            continue
        scratch = folder / ("out.zip" if name.endswith(".mar") else "out.tar.gz")
        subprocess.run(["sh", "-c", command.format(out=scratch)], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        written.append(scratch.rename(store / name))
    return written


def by_python(folder: Path, store: Path) -> list[Path]:
    """Pack the tree with Python's modules, in the ways that differ."""
    files = sorted(path for path in (folder / "m").rglob("*") if path.is_file())
    streamed = store / "python-streamed.mar"
    with streamed.open("wb") as out, zipfile.ZipFile(_Pipe(out), "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            archive.write(path, path.relative_to(folder / "m"))
    written = [streamed]
    for name, form in (("pax", tarfile.PAX_FORMAT), ("ustar", tarfile.USTAR_FORMAT), ("gnu", tarfile.GNU_FORMAT)):
        written.append(store / f"python-{name}.tar.gz")
        with tarfile.open(written[-1], "w:gz", format=form) as archive:
            archive.add(folder / "m", "m")
    return written


def by_archiver(model: str, form: str, handler: Path, store: Path, *more: str) -> Path:
    """Pack a handler as torch-model-archiver does."""
    command = [*ARCHIVER, "--model-name", model, "--version", "1.0", "--archive-format", form]
    command += ["--handler", str(handler), "--export-path", str(store), *more]
    scratch = handler.parent / "archiver"
    scratch.mkdir(exist_ok=True)
    environment = {"TMPDIR": str(scratch), "PATH": os.environ["PATH"]}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return store / f"{model}{FORMS[form]}"


class _Pipe(io.RawIOBase):
    """A file that cannot seek, so that zipfile writes data descriptors."""

    def __init__(self, file: io.BufferedWriter) -> None:
        super().__init__()
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:
        return self._file.write(data)
