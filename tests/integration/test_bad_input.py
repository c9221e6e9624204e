"""What is no configuration is said so, in a line with the file's name and exit code 2; nothing hangs."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

NOBODY = 65534
DEADLINE = 20.0
CALL = "from torchserve_guard.cli import main; main()"
# The interpreter itself need not be open to another user: what is needed is imported by a first run.
CALL_AS = """
import io, os
from contextlib import redirect_stderr, redirect_stdout, suppress
from torchserve_guard.cli import main
with suppress(SystemExit), redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
    main()
os.seteuid({})
main()
"""
# `check` takes a folder for all the configurations in it.
COMMANDS = {"a directory": ("start",), "empty": ("check", "start"), "a FIFO": ("check", "start")}


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that other users can enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="tsguard-input-") as name:
        Path(name).chmod(0o755)
        (Path(name) / "store").mkdir()
        yield Path(name)


def tsguard(
    place: Path, *arguments: str, user: int | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the real command line in this folder."""
    return subprocess.run(
        [sys.executable, "-c", CALL if user is None else CALL_AS.format(user), *arguments],
        cwd=place,
        env={"PATH": os.environ["PATH"], "HOME": str(place), "PYTHONDONTWRITEBYTECODE": "1", **variables},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=DEADLINE,
        check=False,
    )


def bad(place: Path, kind: str) -> Path:
    """Make a file that is no configuration."""
    path = place / "config.properties"
    match kind:
        case "absent":
            pass
        case "a directory":
            path.mkdir()
        case "a FIFO":
            os.mkfifo(path)
        case "a device":
            path.symlink_to("/dev/zero")
        case "memory of a process":
            path.symlink_to("/proc/self/mem")
        case "a link to itself":
            path.symlink_to(path)
        case "larger than any":
            with path.open("wb") as file:
                file.truncate(100 * 1024 * 1024)
        case "text, larger than any":
            path.write_bytes(b"# a comment\n" * (100 * 1024 * 1024 // 12))
        case _:
            path.write_bytes(CONTENTS[kind])
    return path


LONG = b"x" * 100_000
CONTENTS = {
    "empty": b"",
    "blank": b"\n \n\t\r\n",
    "binary": bytes(range(256)) * 64,
    "a zip": b"PK\x03\x04" + bytes(1000),
    "an executable": Path(sys.executable).read_bytes()[:500_000],
    "UTF-8 with a byte order mark": b"\xef\xbb\xbfmodel_store=store\n",
    "UTF-16": "model_store=store\n".encode("utf-16"),
    "a broken escape": b"model_store=store\ninference_address=\\u12\n",
    "prose": b"It was a dark and stormy night\n" * 20_000,
    "too many complaints": b"debug=1\n" * 50_000,
    "many keys": b"".join(b"key%d=1\n" % number for number in range(60_000)),
    "one long key": LONG + b"=1\nmodel_store=/not/there\n",
    "one long value": b"model_store=" + LONG,
}
KINDS = (
    *(
        "absent",
        "a directory",
        "a FIFO",
        "a device",
        "a link to itself",
        "memory of a process",
        "larger than any",
        "text, larger than any",
    ),
    *CONTENTS,
)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_configuration_is_an_error_that_names_it(place, kind):
    path = bad(place, kind)
    for command in COMMANDS.get(kind, ("check",)):
        told = tsguard(place, command, "--config", str(path))
        assert told.returncode == 2, told.stderr
        assert all(line.startswith("tsguard: ") for line in told.stderr.splitlines())
        assert str(path) in told.stderr
        assert len(told.stderr) < 60_000
        assert "Traceback" not in told.stderr
        assert told.stdout == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take another user's place")
def test_what_this_user_may_not_read_is_an_error_that_says_so(place):
    path = place / "config.properties"
    path.write_text("model_store=store\n")
    path.chmod(0o600)
    told = tsguard(place, "check", "--config", str(path), user=NOBODY)
    assert told.returncode == 2
    assert "Permission denied" in told.stderr


def test_an_empty_file_is_an_error_even_where_flags_would_do(place):
    path = bad(place, "empty")
    told = tsguard(place, "check", "--config", str(path), "--model-store", "store")
    assert told.returncode == 2
    assert "is empty" in told.stderr
    path.write_text("# nothing to say\n")
    assert tsguard(place, "check", "--config", str(path), "--model-store", "store").returncode == 0


def test_latin_1_is_read_as_java_reads_it(place):
    (place / "mod\u00e8les").mkdir()
    path = place / "config.properties"
    path.write_bytes("model_store=mod\u00e8les\n".encode("latin-1"))
    assert tsguard(place, "check", "--config", str(path)).returncode == 0
    path.write_bytes("model_store=mod\u00e8les\n".encode())
    assert tsguard(place, "check", "--config", str(path)).returncode == 2


@pytest.mark.parametrize(
    "line",
    [
        "guard.x\\u000atsguard\\: forged=1",
        "model_store=/x\\u000atsguard\\: forged\\u001b[31m",
        "load_models=a\\u000atsguard\\: forged",
        "vmargs=\\u001b[2Jtsguard\\: forged",
        'models={"\\u000atsguard\\: forged": {}}',
        "inference_address=http\\://x\\u2028tsguard\\: forged\\u202e",
        "guard.fail_on=\\u0085tsguard\\: forged",
    ],
)
def test_nothing_in_a_file_forges_a_line_or_steers_the_terminal(place, line):
    path = place / "config.properties"
    path.write_text(f"{line}\n" + ("" if line.startswith("model_store") else "model_store=store\n"))
    told = tsguard(place, "check", "--config", str(path))
    assert told.returncode == 2
    for text in (told.stdout, told.stderr):
        assert all(line.isprintable() for line in text.split("\n"))
        assert not any(line.startswith("tsguard: forged") for line in text.split("\n"))


@pytest.mark.parametrize("line", ["a\\u000alow\\u001b[31m=1", 'models={"m": {"1": {"\\\\u000aforged\\\\u001b": 1}}}'])
def test_no_finding_forges_one_either(place, line):
    path = place / "config.properties"
    path.write_text(f"{line}\nmodel_store=store\n")
    told = tsguard(place, "check", "--config", str(path))
    assert told.returncode == 0, told.stderr
    assert "TSG0" in told.stdout
    assert all(line.isprintable() for line in told.stdout.split("\n"))
    assert not any(line.startswith(("low", "forged")) for line in told.stdout.split("\n"))


# --- options from the environment ---------------------------------------------------------------------------------


def test_every_option_of_check_and_start_has_its_variable(place):
    path = place / "config.properties"
    path.write_text("enable_model_api=true\n")
    given = {"TSGUARD_CONFIG": str(path), "TSGUARD_MODEL_STORE": "store", "TSGUARD_PROFILE": "compat"}
    told = tsguard(place, "check", **given, TSGUARD_FORMAT="json", TSGUARD_FAIL_ON="low")
    assert '"fail_on": "low"' in told.stdout
    assert "TSG004" not in told.stdout  # the mode follows `enable_model_api`
    told = tsguard(place, "check", **given, TSGUARD_MODEL_CONTROL_MODE="none")
    assert "TSG004" in told.stdout
    told = tsguard(place, "check", **given, TSGUARD_PLUGINS_PATH="/x")
    assert told.returncode == 2
    assert "--plugins-path" in told.stderr


def test_an_option_beats_its_variable(place):
    path = place / "config.properties"
    path.write_text("model_store=store\n")
    told = tsguard(place, "check", "--config", str(path), "--profile", "strict", TSGUARD_PROFILE="lax")
    assert told.returncode == 0, told.stderr
    told = tsguard(place, "check", "--config", str(path), TSGUARD_PROFILE="lax")
    assert "--profile" in told.stderr
