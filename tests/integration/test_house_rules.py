"""Format, lint, types and import directions hold, as `scripts/check` says."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_checks_pass():
    done = subprocess.run([ROOT / "scripts" / "check"], capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr


def test_help_imports_nothing_that_serving_needs():
    """What makes `tsguard --help` quick; the time itself is in benchmarks/RESULTS.md."""
    program = (
        "import sys; sys.argv = ['tsguard', '--help']\n"
        "from torchserve_guard.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'uvloop', 'pydantic', 'asyncio', 'javaproperties', 'psutil', 'yaml'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.rstrip().endswith("HEAVY []"), done.stdout[-200:]


def test_scripts_are_programs():
    assert all(
        (ROOT / name).stat().st_mode & 0o111
        for name in (*(f"scripts/{one}" for one in ("demo", "test", "check", "bench", "setup", "compat")), ".ci/run")
    )
