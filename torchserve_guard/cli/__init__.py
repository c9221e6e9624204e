"""The command line: one file for each command, and one place where errors become exit codes."""

from torchserve_guard.cli.main import main

__all__ = ["main"]
