"""Regressions from model features to responses, by name; all with ``fit``, ``predict`` and ``cross_predict``."""

from neural_fits.pls import PLS
from neural_fits.readouts import Linear, LocationRidge, SeparableRidge
from neural_fits.ridge import KernelRidge, Ridge

#: Classes by name. ``location_ridge`` and ``separable`` take maps (stimulus, channel, height, width), the others
#: features (stimulus, feature).
REGRESSIONS = {
    "pls": PLS,
    "ridge": Ridge,
    "kernel_ridge": KernelRidge,
    "linear": Linear,
    "location_ridge": LocationRidge,
    "separable": SeparableRidge,
}
