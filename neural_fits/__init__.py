"""How models are compared with brains and people; works with any torch model and knows nothing of :mod:`lcl`."""

from neural_fits.ceiling import CEILINGS
from neural_fits.pls import PLS
from neural_fits.readouts import Linear, LocationRidge, SeparableRidge
from neural_fits.regressions import REGRESSIONS
from neural_fits.ridge import KernelRidge, Ridge
from neural_fits.score import RULES, Score, score_predictions
from neural_fits.splits import SPLITS, Splits

__all__ = [
    "CEILINGS",
    "PLS",
    "REGRESSIONS",
    "RULES",
    "SPLITS",
    "KernelRidge",
    "Linear",
    "LocationRidge",
    "Ridge",
    "Score",
    "SeparableRidge",
    "Splits",
    "score_predictions",
]
