"""Tuning to gratings of the units of a model, or of recorded neurons, in one table.

The measures are those of :mod:`neural_fits.tuning_curves`; :mod:`neural_fits.distribution_similarity` compares them
with published distributions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from neural_fits.tuning_curves import (
    contrast_response,
    frequency_tuning,
    orientation_tuning,
    phase_modulation,
    size_tuning,
)
from neural_fits.units import choose_units, unit_responses
from neural_fits.vision_model import VisionModel
from stimuli.gratings import grating
from stimuli.stimulus_set import factorial

Array = NDArray[np.float64]

#: Half-octave steps, the edges of the bins of De Valois et al. (1982); those the pixels cannot show are left out.
FREQUENCIES_CPD = (0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0, 11.2, 16.0, 22.4)
#: Half-octave steps from a quarter of a degree; those beyond the field are left out.
DIAMETERS_DEG = (0.25, 0.35, 0.5, 0.71, 1.0, 1.41, 2.0, 2.83, 4.0, 5.66, 8.0)
CONTRASTS = (0.03, 0.06, 0.125, 0.25, 0.5, 1.0)

_SHARPNESS = ("orientation_bandwidth_deg", "circular_variance", "orthogonal_preferred_ratio")


def tuning_properties(
    responses: ArrayLike,
    *,
    orientations_deg: ArrayLike,
    frequencies_cpd: ArrayLike,
    smoothing_deg: float = 0.0,
) -> xr.Dataset:
    """Orientation, frequency and phase properties of units from responses to every grating.

    Curves are the mean response over phases (F0). The preferred grating is the one with the largest; orientation is
    measured at its frequency and frequency at its orientation.

    Parameters
    ----------
    responses : array_like, (orientation, frequency, phase, unit)
        Rates, not negative; a drifting grating's time bins over one period can stand for phases.
    orientations_deg : array_like, (orientation,)
        Evenly spaced over 180 degrees.
    frequencies_cpd : array_like, (frequency,)
        Positive, rising.
    smoothing_deg : float
        Of orientation curves, see :func:`~neural_fits.tuning_curves.orientation_tuning`.

    Returns
    -------
    xarray.Dataset
        Over ``unit``, all measures of :func:`~neural_fits.tuning_curves.orientation_tuning`,
        :func:`~neural_fits.tuning_curves.frequency_tuning` and
        :func:`~neural_fits.tuning_curves.phase_modulation`; ``max_dc`` and ``min_dc``, the largest and the smallest F0
        over orientations; ``circular_variance_bandwidth_ratio``, ``orthogonal_preferred_ratio_minus_circular_variance``
        and ``orientation_selective``, whether the bandwidth is defined (Ringach et al. 2002; Marques et al. 2021);
        ``best_orientation_deg`` and ``best_frequency_cpd``, of the grating itself. The curves are
        ``orientation_curve`` and ``frequency_curve``.

    Raises
    ------
    ValueError
        If shapes and values do not fit.

    Examples
    --------
    >>> theta, f = np.arange(0, 180, 22.5), np.array([1.0, 2.0, 4.0])
    >>> phase = np.deg2rad(np.arange(0, 360, 30))
    >>> curve = np.exp(np.cos(np.deg2rad(2 * (theta - 67.5))))[:, None] * [1.0, 3.0, 1.0]
    >>> responses = curve[..., None, None] * np.maximum(np.cos(phase), 0)[:, None]
    >>> units = tuning_properties(responses, orientations_deg=theta, frequencies_cpd=f)
    >>> [float(units[name][0].round(2)) for name in ("preferred_orientation_deg", "peak_frequency_cpd", "simple")]
    [67.5, 2.0, 1.0]
    """
    r = np.asarray(responses, dtype=np.float64)
    theta, f = np.asarray(orientations_deg, dtype=np.float64), np.asarray(frequencies_cpd, dtype=np.float64)
    if r.ndim != 4 or r.shape[:2] != (*theta.shape, *f.shape):
        raise ValueError(
            f"responses have shape {r.shape}; expected (orientation, frequency, phase, unit) with {theta.size} "
            f"orientations and {f.size} frequencies."
        )
    f0 = r.mean(axis=2)
    unit = np.arange(r.shape[3])
    complete = np.isfinite(f0).all(axis=(0, 1))
    best_o, best_f = np.divmod(np.where(complete, f0, 0.0).reshape(-1, len(unit)).argmax(axis=0), len(f))
    over_orientation, over_frequency = f0[:, best_f, unit], f0[best_o, :, unit].T
    oriented = orientation_tuning(theta, over_orientation, smoothing_deg=smoothing_deg)
    bandwidth, variance, ratio = (oriented[name] for name in _SHARPNESS)
    driven = complete & (over_orientation.max(axis=0) > 0)
    measures = {
        **oriented,
        **frequency_tuning(f, over_frequency),
        **phase_modulation(r[best_o, best_f, :, unit].T),
        "max_dc": over_orientation.max(axis=0),
        "min_dc": over_orientation.min(axis=0),
        "circular_variance_bandwidth_ratio": variance / bandwidth,
        "orthogonal_preferred_ratio_minus_circular_variance": ratio - variance,
        "orientation_selective": np.where(driven, np.isfinite(bandwidth).astype(np.float64), np.nan),
        "best_orientation_deg": np.where(driven, theta[best_o], np.nan),
        "best_frequency_cpd": np.where(driven, f[best_f], np.nan),
    }
    return xr.Dataset(
        {
            **{name: ("unit", value) for name, value in measures.items()},
            "orientation_curve": (("orientation_deg", "unit"), over_orientation),
            "frequency_curve": (("frequency_cpd", "unit"), over_frequency),
        },
        coords={"orientation_deg": theta, "frequency_cpd": f},
        attrs={"undriven_units": int((~driven).sum()), "smoothing_deg": smoothing_deg},
    )


def measure_tuning(
    respond: Callable[[NDArray[np.float32]], ArrayLike],
    *,
    size_deg: float,
    pixels_per_degree: float,
    n_orientations: int = 12,
    frequencies_cpd: ArrayLike = FREQUENCIES_CPD,
    n_phases: int = 12,
    contrast: float = 1.0,
    diameters_deg: ArrayLike | None = DIAMETERS_DEG,
    contrasts: ArrayLike | None = CONTRASTS,
    sized: ArrayLike | None = None,
    x_deg: float = 0.0,
    y_deg: float = 0.0,
    baseline: str = "subtract",
    smoothing_deg: float = 0.0,
) -> xr.Dataset:
    """Show gratings to anything that responds to pictures, and measure the tuning of its units.

    Full-field gratings of every orientation, frequency and phase come first. Then every unit is shown its best grating
    in discs of several diameters and, full field, at several contrasts; each response is the mean over phases. Units
    that share a best grating share its pictures: ``n_phases (n_orientations n_frequencies + best gratings (n_diameters
    + n_contrasts))`` pictures in all, so ``sized`` is what keeps size and contrast affordable.

    Parameters
    ----------
    respond : callable
        From pictures (stimulus, row, column), float32 in [0, 1], to responses (stimulus, unit), the same units always.
    size_deg, pixels_per_degree : float
        Of the pictures.
    n_orientations, n_phases : int
        Evenly spaced over 180 and 360 degrees.
    frequencies_cpd : array_like
        Those that the pixels cannot show are left out.
    contrast : float
        Of the gratings of orientation, frequency and size.
    diameters_deg, contrasts : array_like, optional
        ``None`` leaves out size or contrast; diameters beyond ``size_deg`` are left out.
    sized : array_like of bool, (unit,), optional
        Units whose size and contrast tuning is measured, all by default; the others' is NaN.
    x_deg, y_deg : float
        Centre of the discs, degrees to the right of and below the centre of the picture.
    baseline : {"subtract", "keep"}
        Whether the response to a blank is subtracted. Negative values are then set to 0 in either case.
    smoothing_deg : float
        Of orientation curves.

    Returns
    -------
    xarray.Dataset
        :func:`tuning_properties` with the measures of :func:`~neural_fits.tuning_curves.size_tuning` and
        :func:`~neural_fits.tuning_curves.contrast_response`, ``blank``, ``sized``, ``size_curve`` and
        ``contrast_curve``.

    Raises
    ------
    ValueError
        If the baseline is unknown, fewer than 3 frequencies are left, or responses or ``sized`` have another shape.

    Examples
    --------
    >>> from neural_fits.gabor import gabor
    >>> g = gabor(32, 32, orientation_deg=30, frequency_cpp=0.125, across_px=4, along_px=4).ravel()
    >>> units = measure_tuning(
    ...     lambda images: np.maximum((images - 0.5).reshape(len(images), -1) @ g, 0)[:, None],
    ...     size_deg=2, pixels_per_degree=16, diameters_deg=None, contrasts=None,
    ... )
    >>> float(units.preferred_orientation_deg[0].round()), float(units.peak_frequency_cpd[0].round(1))
    (30.0, 1.9)
    """
    if baseline not in ("subtract", "keep"):
        raise ValueError(f"baseline is {baseline!r}; expected 'subtract' or 'keep'.")
    f = np.asarray(frequencies_cpd, dtype=np.float64)
    f = f[f <= pixels_per_degree / 2]
    if len(f) < 3:
        raise ValueError(
            f"{len(f)} of the frequencies are shown by {pixels_per_degree:g} pixels per degree; expected at least 3: "
            "lower them or raise the resolution."
        )
    theta = np.arange(n_orientations) * 180.0 / n_orientations
    phase = np.arange(n_phases) * 360.0 / n_phases
    screen = {"size_deg": size_deg, "pixels_per_degree": pixels_per_degree}
    blank = _responses(respond, grating(orientation_deg=0, frequency_cpd=0, contrast=0, **screen))[0]
    subtracted = blank if baseline == "subtract" else 0.0

    def rates(images: NDArray[np.float32]) -> Array:
        return np.maximum(_responses(respond, images) - subtracted, 0.0)

    responses = np.empty((len(theta), len(f), n_phases, len(blank)))
    for i, orientation in enumerate(theta):
        table = factorial({"frequency_cpd": f, "phase_deg": phase})
        images = grating(orientation_deg=orientation, contrast=contrast, **table, **screen)
        responses[i] = rates(images).reshape(len(f), n_phases, -1)
    units = tuning_properties(responses, orientations_deg=theta, frequencies_cpd=f, smoothing_deg=smoothing_deg)
    best = units.best_orientation_deg.values, units.best_frequency_cpd.values
    chosen = np.ones(len(blank), dtype=bool) if sized is None else np.asarray(sized, dtype=bool)
    if chosen.shape != blank.shape:
        raise ValueError(f"sized has shape {chosen.shape}; expected a truth value for each of {len(blank)} units.")

    def at_best(name: str, values: Array, **fixed) -> Array:
        """Mean response over phases of every unit to its best grating, a parameter taking several values."""
        curve = np.full((len(values), len(blank)), np.nan)
        driven = np.isfinite(best[0]) & chosen
        for orientation, frequency in sorted(set(zip(best[0][driven], best[1][driven], strict=True))):
            table = factorial({name: values, "phase_deg": phase})
            images = grating(orientation_deg=orientation, frequency_cpd=frequency, **table, **fixed, **screen)
            mine = driven & (best[0] == orientation) & (best[1] == frequency)
            curve[:, mine] = rates(images)[:, mine].reshape(len(values), n_phases, -1).mean(axis=1)
        return curve

    if diameters_deg is not None:
        d = np.asarray(diameters_deg, dtype=np.float64)
        d = d[d <= size_deg]
        curve = at_best("diameter_deg", d, contrast=contrast, x_deg=x_deg, y_deg=y_deg)
        units = units.assign({name: ("unit", value) for name, value in size_tuning(d, curve).items()})
        units = units.assign(size_curve=(("diameter_deg", "unit"), curve)).assign_coords(diameter_deg=d)
    if contrasts is not None:
        c = np.asarray(contrasts, dtype=np.float64)
        curve = at_best("contrast", c)
        units = units.assign({name: ("unit", value) for name, value in contrast_response(c, curve).items()})
        units = units.assign(contrast_curve=(("contrast", "unit"), curve)).assign_coords(contrast=c)
    return units.assign(blank=("unit", blank), sized=("unit", chosen)).assign_attrs(
        size_deg=size_deg,
        pixels_per_degree=pixels_per_degree,
        grating_contrast=contrast,
        n_phases=n_phases,
        baseline=baseline,
    )


def _responses(respond: Callable, images: NDArray[np.float32]) -> Array:
    responses = np.asarray(respond(images), dtype=np.float64)
    if responses.ndim != 2 or len(responses) != len(images):
        raise ValueError(
            f"responses to {len(images)} pictures have shape {responses.shape}; expected (stimulus, unit)."
        )
    return responses


def tuning(
    model: VisionModel,
    *,
    layers: str | Sequence[str] | None = None,
    places: str = "centre",
    n_units: int | None = None,
    n_sized: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
    **options,
) -> xr.Dataset:
    """Tuning to gratings of the units of any layers of any model.

    Gratings are drawn at the model's own resolution over its whole field, so nothing is resampled. Responses are
    rectified.

    Parameters
    ----------
    model : VisionModel
    layers : str or sequence of str, optional
        Names or patterns; the model's own without it.
    places : {"centre", "all"}
        Units at the centre of each map, or anywhere. Discs are centred on the field, so size tuning means something
        for central units alone.
    n_units : int, optional
        At most so many units per layer, drawn at random.
    n_sized : int, optional
        At most so many of these have their size and contrast tuning measured.
    seed : int
        Of the draws.
    batch_size : int
        Pictures at once.
    progress : bool
        Count the pictures on standard error.
    **options
        Of :func:`measure_tuning`.

    Returns
    -------
    xarray.Dataset
        Over ``unit``, with coordinates ``layer``, ``channel``, ``row`` and ``column``; see :func:`measure_tuning`.

    Raises
    ------
    ValueError
        If a layer or an option is unknown.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 7), torch.nn.ReLU())
    >>> model = VisionModel(net, "net", channels=1, input_px=32, field_deg=4.0)
    >>> units = tuning(model, layers="1", n_orientations=4, n_phases=4, diameters_deg=None, contrasts=None)
    >>> units.circular_variance.shape, units.layer.values.tolist()
    ((3,), ['1', '1', '1'])
    """
    units = choose_units(model, layers, places=places, n_units=n_units, seed=seed)
    if n_sized is not None:
        if n_sized < 1:
            raise ValueError(f"n_sized is {n_sized}; expected at least 1, or diameters_deg=None and contrasts=None.")
        order = np.random.default_rng(seed).random(len(units))
        rank = [int((order[units.layer == name] < each).sum()) for name, each in zip(units.layer, order, strict=True)]
        options["sized"] = np.array(rank) < n_sized
    with tqdm(desc=f"{model.name}: gratings", unit="picture", disable=not progress) as bar:

        def respond(images: NDArray[np.float32]) -> Array:
            answers = unit_responses(model, images, units, size_deg=model.field_deg, batch_size=batch_size)
            bar.update(len(images))
            return np.maximum(answers, 0.0)

        screen = {"size_deg": model.field_deg, "pixels_per_degree": model.pixels_per_degree}
        measured = measure_tuning(respond, **screen, **options)
    return measured.assign_coords(units.coordinates()).assign_attrs(model=model.name, places=places, seed=seed)
