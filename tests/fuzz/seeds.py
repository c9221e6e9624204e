"""The seeds: what fuzzing starts from, and what found something once; made here, so that no binary file is kept.

`python tests/fuzz/seeds.py FOLDER` writes them, a folder for each law.
"""

from __future__ import annotations

import gzip
import json
import random
import sys
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from corpus import archives, tarballs
from fuzz import laws

from torchserve_guard.archives import manifest as manifests

LARGEST = 64 << 10
"""What is larger teaches a fuzzer little but patience; the tests of the corpus have it."""

BOMBS = frozenset({"bomb", "zeros", "directory of megabytes", "many members", "manifest as a bomb"})
DIGEST = "ab" * 32

CONFIGURATIONS = (
    b"minWorkers: 1\nmaxWorkers: 4\nbatchSize: 8\ndeviceType: gpu\ndeviceIds: [0, 1]\nhandler:\n  top: {k: 5}\n",
    b"parallelType: pp\ntorchrun:\n  nproc-per-node: 2\n  OMP_NUMBER_THREADS: 1\n",
    b"useVenv: true\nminworkers: 300\n'responseTimeout': \"120\"\n",
    b"a: &a [1, 2.5, .inf, 0x1f, 0b1, 1:30, 2001-01-01 10:00:00 +1, ~, yes]\nb: [*a, *a]\n",
    b"? [a]\n: |\n  text\n--- {}\n%YAML 1.1\n!!python/name:os.system x\n<<: *a\n",
    b"a: 2001-99-99\n",
    b"a: 0b_\nb: 1__2\n",
    b"? {}\n: &b *b\n",
    b'key: >-\n  folded\n  text\nother: "\\x41\\u0042\\n"\n',
)
MANIFESTS = (
    archives.manifest(),
    archives.manifest(handler="pkg.deep:f", serializedFile="w.pt", envelope="kserve", modelFile="handler.py"),
    *(archives.manifest(**{field: "../w.pt"}) for field in ("serializedFile", "modelFile", "requirementsFile")),
    archives.manifest(configFile="empty/"),
    archives.manifest(handler="os.path"),
    archives.manifest(envelope="..evil"),
    b'{"runtime": "LSP", "model": {"modelName": 1, "modelName": NaN}, "x": [[[[]]], 1e999, "\\ud800"]}',
)


def _subject(name: str, **more: object) -> dict[str, object]:
    return {"name": name, "kind": name.partition(".")[2], "size": 7, "sha256": DIGEST, "members": []} | more


def _promises() -> Iterator[bytes]:
    member = {"path": "MAR-INF/MANIFEST.json", "size": 2, "sha256": DIGEST}
    subjects = [
        _subject("a.mar", members=[member]),
        _subject("b.tar.gz", size=3 << 20, chunks={"size": 1 << 20, "sha256": [DIGEST] * 3}),
    ]
    whole = {"schema": manifests.JSON, "version": 3, "created": "2030-01-01T00:00:00Z", "subjects": subjects}
    yield json.dumps(whole).encode()
    yield json.dumps(whole | {"expires": "2031-01-01T00:00:00Z"}, indent=2).encode()
    found = manifests.parse(json.dumps(whole).encode(), "seed")
    yield manifests.render(found.model_copy(update={"created": datetime(2030, 6, 1, tzinfo=UTC)}))
    yield f"{DIGEST}  a.mar\n{DIGEST} *b.tar.gz\n\\{DIGEST}  a\\\\b.mar\n".encode()
    yield laws.by_key()


def _corpus(rows: dict[str, object]) -> Iterator[bytes]:
    for name, row in rows.items():
        if name not in BOMBS:
            data = (row[0] if isinstance(row, tuple) else row)()
            if len(data) <= LARGEST:
                yield data


def _swelling() -> bytes:
    """Return an archive with a member of more bytes than it says, and than the limits allow."""
    said = {"size": 7}
    return archives.handler(packed=archives.deflated(bytes(8 << 20)), local=said, central=said)


def _random() -> Iterator[bytes]:
    chance = random.Random(4)  # noqa: S311 - the same ones in every run
    return (chance.randbytes(length) for length in (0, 4, 16, 64, 256) for _ in range(20))


def _real(name: str) -> bytes:
    return (Path(__file__).parents[1] / "corpus" / "sigstore" / name).read_bytes()


def _tars() -> Iterator[bytes]:
    for data in _corpus(tarballs.HARMLESS | tarballs.HOSTILE):
        try:
            yield gzip.decompress(data)
        except (OSError, EOFError, zlib.error):
            continue


SEEDS: dict[str, Callable[[], Iterator[bytes]]] = {
    "zip": lambda: _corpus(archives.HARMLESS | archives.HOSTILE | {"swelling": _swelling}),
    "zip-of-choices": _random,
    "tarball": lambda: _corpus(tarballs.HARMLESS | tarballs.HOSTILE),
    "tar": _tars,
    "own-manifest": lambda: iter(MANIFESTS),
    "model-config": lambda: iter(CONFIGURATIONS),
    "manifest": _promises,
    "bundle": lambda: iter((laws.by_key(), laws.by_certificate(), laws.by_identity())),
    "bundle-of-choices": _random,
    "trusted-root": lambda: iter((laws.WORLD.trusted(), _real("trusted_root.json"))),
}

FOUND: dict[str, tuple[bytes, ...]] = {
    # A SHA256SUMS of nothing that could be loaded was an empty manifest, which has no spelling.
    "manifest": (
        f"{DIGEST}  README.txt\n".encode(),
        # The year was rendered with three digits.
        json.dumps(
            {
                "schema": manifests.JSON,
                "version": 1,
                "created": "2030-01-01T00:00:00Z",
                "expires": "0890-01-01T00:00:00Z",
                "subjects": [],
            }
        ).encode(),
    ),
}
"""What broke a law once, made small; each is replayed for ever."""


def of(law: str) -> list[bytes]:
    """Return the seeds for a law."""
    return [*SEEDS[law](), *FOUND.get(law, ())]


def main(folder: Path) -> None:
    """Write the seeds, a folder for each law."""
    for law in SEEDS:
        (folder / law).mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(of(law)):
            (folder / law / f"seed-{number:03}").write_bytes(data)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
