"""From a graph to Python source that needs torch alone. Loads no torch.

Nothing of a graph but checked numbers and words of closed lists becomes code: see ``text``.
"""

from __future__ import annotations

from backend.pytorch_code.model import model_source, renamed_weights

__all__ = ["model_source", "renamed_weights"]
