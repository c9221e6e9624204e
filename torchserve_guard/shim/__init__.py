"""THE SHIM: stock's own command line, and a guarded TorchServe behind it.

`tsguard shim DIR` writes a program called `torchserve` that runs `python -m torchserve_guard.shim`. It says what stock
says, where stock says it, and exits as stock does; what stock would do in silence, it says with the guard's exit codes.
"""
