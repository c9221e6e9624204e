"""STOCK: what TorchServe 0.12.0 itself would make of flags, files and environment, modelled step by step.

Every row of the model was held against the real one: tests/e2e/test_precedence.py.
"""

from torchserve_guard.settings.stock.chain import Chain, Origin, Step
from torchserve_guard.settings.stock.disk import Disk, RealDisk
from torchserve_guard.settings.stock.launcher import CommandLine
from torchserve_guard.settings.stock.start import Stock, model

__all__ = ["Chain", "CommandLine", "Disk", "Origin", "RealDisk", "Step", "Stock", "model"]
