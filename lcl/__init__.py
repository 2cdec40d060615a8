"""Early visual cortex learned from natural images, layer by layer.

Each stage makes the features of two locally deformed versions of a patch alike and decorrelates features across patches
of other images; the deformations are scaled to the stage's receptive field, and no gradient crosses a stage boundary.
"""

from lcl.checkpoint import load
from lcl.stages import LCLV2, Stage, StageChain

__version__ = "0.1.0"

__all__ = ["LCLV2", "Stage", "StageChain", "__version__", "load"]
