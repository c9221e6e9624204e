"""WHY IT IS SO: each value of the configuration explained, as stock would use it and as the guard does."""

from torchserve_guard.explaining.explainer import explain
from torchserve_guard.explaining.explanation import Explained, Explanation, Guarded

__all__ = ["Explained", "Explanation", "Guarded", "explain"]
