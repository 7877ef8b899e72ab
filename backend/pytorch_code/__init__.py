"""From a graph to Python source that needs torch alone: a module, or a whole training. Loads no torch.

Nothing of a graph but checked numbers and words of closed lists becomes code: see ``text``.
"""

from __future__ import annotations

from backend.pytorch_code.model import model_source, renamed_weights
from backend.pytorch_code.script import training_source

__all__ = ["model_source", "renamed_weights", "training_source"]
