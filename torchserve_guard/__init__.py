"""torchserve_guard: a drop-in security layer around a stock TorchServe."""

__version__ = "0.1.0"
