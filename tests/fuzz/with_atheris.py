"""Fuzzing with atheris: `python tests/fuzz/with_atheris.py LAW FOLDER [libFuzzer's options]`; see docs/fuzzing.md.

FOLDER keeps the corpus, so that a later run goes on from there; what breaks a law lies there as `LAW-crash-*`.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))

MEMORY = 3 << 30
"""Bytes of address space, with libFuzzer's tables and the threads' stacks: a bomb that is believed is a crash."""

with atheris.instrument_imports(include=["torchserve_guard.archives", "yaml"]):
    from fuzz import laws, seeds


def main(law: str, folder: Path, *options: str) -> None:
    """Fuzz one law until the options say to end, or it is broken."""
    corpus, begin = folder / law / "corpus", folder / "seeds"
    corpus.mkdir(parents=True, exist_ok=True)
    seeds.main(begin)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    limits = [f"-max_len={seeds.LARGEST}", "-timeout=20", "-rss_limit_mb=1024", f"-artifact_prefix={folder}/{law}-"]
    atheris.Setup([sys.argv[0], *limits, *options, str(corpus), str(begin / law)], laws.LAWS[law])
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
