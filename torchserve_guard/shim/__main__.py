"""The program that the written `torchserve` runs."""

from torchserve_guard.shim.program import main

main()
