"""How models are compared with brains and people; works with any torch model and knows nothing of :mod:`lcl`."""

from neural_fits.ceiling import CEILINGS
from neural_fits.fits import choose_layer, fit_features, fit_layers, layer_score, read_fit, write_fit
from neural_fits.pls import PLS
from neural_fits.readouts import Linear, LocationRidge, SeparableRidge
from neural_fits.recordings import Recording, read_recording, recording_from_arrays, write_recording
from neural_fits.regressions import REGRESSIONS
from neural_fits.ridge import KernelRidge, Ridge
from neural_fits.score import RULES, Score, score_by_rules, score_predictions
from neural_fits.splits import SPLITS, Splits
from neural_fits.vision_model import VisionModel

__all__ = [
    "CEILINGS",
    "PLS",
    "REGRESSIONS",
    "RULES",
    "SPLITS",
    "KernelRidge",
    "Linear",
    "LocationRidge",
    "Recording",
    "Ridge",
    "Score",
    "SeparableRidge",
    "Splits",
    "VisionModel",
    "choose_layer",
    "fit_features",
    "fit_layers",
    "layer_score",
    "read_fit",
    "read_recording",
    "recording_from_arrays",
    "score_by_rules",
    "score_predictions",
    "write_fit",
    "write_recording",
]
