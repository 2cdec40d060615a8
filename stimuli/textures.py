"""Textures that share the statistics of a photograph, and noise that shares only their spectrum.

The statistics are those of Portilla and Simoncelli (2000), as plenoptic computes them (``pip install "lcl[pyramid]"``;
versions 1.4 and 2). A set has families, one per source, and samples of each, as in Freeman, Ziemba et al. (2013).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from tqdm import tqdm

from stimuli.apertures import apply_aperture, centred, raised_cosine
from stimuli.display import PIXELS_PER_DEGREE
from stimuli.files import replacing
from stimuli.minimise import minimise_each
from stimuli.stimulus_set import StimulusSet, read_hdf5, write_hdf5
from stimuli.texture_sources import TextureSource, periodic_component, resample

#: Largest error of a statistic (:meth:`TextureStatistics.errors`) with which a synthesis counts as converged.
TOLERANCE = 0.02

#: What a family holds; in a set the noise follows its texture.
TYPES = ("texture", "noise")

#: Where the set that comes with the package lies.
READY = Path(__file__).parent / "data" / "textures"


def _portilla_simoncelli_class():
    try:
        import plenoptic
    except ImportError:
        raise ValueError(
            'texture statistics need plenoptic, which is not installed; pip install "lcl[pyramid]".'
        ) from None
    # simul: its place before version 2
    models: Any = getattr(plenoptic, "models", None) or getattr(plenoptic, "simul")  # noqa: B009
    return models.PortillaSimoncelli


class TextureStatistics:
    """Statistics of Portilla and Simoncelli (2000) of square pictures: 710 of them for the parameters of the paper.

    Parameters
    ----------
    size_px : int
        Side of the pictures; a multiple of ``2^n_scales``.
    n_scales, n_orientations, spatial_corr_width : int
        Of plenoptic's ``PortillaSimoncelli``.
    device : str or torch.device
    dtype : torch.dtype

    Attributes
    ----------
    names : list of str
        Of the statistics: group and place in it, such as ``"magnitude_std[0,2]"``.
    groups : ndarray of str, (statistic,)
    scales : list of ndarray of int
        Numbers of the statistics of each scale: the low-pass residual, the scales from coarse to fine, the high-pass
        residual, and the pixels.

    Raises
    ------
    ValueError
        If plenoptic is missing, or the pyramid does not fit the size.

    Examples
    --------
    >>> statistics = TextureStatistics(128)
    >>> picture = torch.rand(2, 128, 128, generator=torch.Generator().manual_seed(0))
    >>> statistics(picture).shape, statistics.names[1]
    (torch.Size([2, 710]), 'pixel_statistics[1]')
    """

    def __init__(
        self,
        size_px: int,
        *,
        n_scales: int = 4,
        n_orientations: int = 4,
        spatial_corr_width: int = 7,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if n_scales < 1 or size_px % 2**n_scales or size_px // 2**n_scales < spatial_corr_width:
            raise ValueError(
                f"size_px is {size_px} with {n_scales} scales; expected a multiple of {2**n_scales} of at least "
                f"{2**n_scales * spatial_corr_width} pixels."
            )
        model_class = _portilla_simoncelli_class()
        state = np.random.get_state()  # noqa: NPY002 - plenoptic draws a picture from the global generator
        try:
            model = model_class(
                (size_px, size_px),
                n_scales=n_scales,
                n_orientations=n_orientations,
                spatial_corr_width=spatial_corr_width,
            )
        finally:
            np.random.set_state(state)  # noqa: NPY002
        self.size_px, self.device, self.dtype = size_px, torch.device(device), dtype
        self._model = model.to(self.device, dtype)
        # before version 2 the moments of a picture depend on the others of its batch
        self._batched = int(_version("plenoptic").split(".")[0]) >= 2
        with torch.no_grad():
            n = self._model(torch.rand(1, 1, size_px, size_px, device=self.device, dtype=dtype)).shape[-1]
        # which statistic lies where in plenoptic's dictionary, whose redundant places hold NaN
        places = self._model.convert_to_dict(torch.arange(n, dtype=torch.float64, device=self.device)[None, None])
        names: list[tuple[str, tuple[int, ...]]] = [("", ())] * n
        for group, values in places.items():
            array = values[0, 0].cpu().numpy()
            for place in np.argwhere(~np.isnan(array)):
                names[int(array[tuple(place)])] = (group, tuple(int(each) for each in place))
        self.names = [f"{group}[{','.join(map(str, place))}]" for group, place in names]
        self.groups = np.array([group for group, _ in names])
        # coarse to fine; statistics of single pixels come last, or they would put specks where later structure belongs
        scales = [each for each in self._model.scales if each != "pixel_statistics"] + ["pixel_statistics"]
        all_of_them = torch.arange(n, device=self.device)[None, None]
        self.scales = [self._model.remove_scales(all_of_them, [scale])[0, 0].cpu().numpy() for scale in scales]

    def __call__(self, images: Tensor) -> Tensor:
        """Statistics of pictures.

        Parameters
        ----------
        images : Tensor, (picture, row, column)

        Returns
        -------
        Tensor, (picture, statistic)
        """
        if self._batched:
            return self._model(images[:, None])[:, 0]
        return torch.cat([self._model(each[None, None])[:, 0] for each in images])

    def _units(self, target: Tensor) -> Tensor:
        unit = torch.ones_like(target)
        mean, variance, skew, kurtosis, least, most = np.flatnonzero(self.groups == "pixel_statistics").tolist()
        deviation = target[..., variance].sqrt()
        unit[..., mean], unit[..., variance] = deviation, target[..., variance]
        unit[..., skew], unit[..., kurtosis] = 1 + target[..., skew].abs(), target[..., kurtosis]
        unit[..., least] = unit[..., most] = torch.inf
        for group, floor in (("std_reconstructed", 1e-2), ("magnitude_std", 1e-2), ("var_highpass_residual", 1e-4)):
            which = np.flatnonzero(self.groups == group)
            scale = deviation[..., None] ** (2 if group.startswith("var") else 1)
            unit[..., which] = torch.maximum(target[..., which], floor * scale)
        which = np.flatnonzero(self.groups == "skew_reconstructed")
        unit[..., which] = 1 + target[..., which].abs()
        which = np.flatnonzero(self.groups == "kurtosis_reconstructed")
        unit[..., which] = target[..., which]
        return unit

    def errors(self, statistics: Tensor, target: Tensor) -> Tensor:
        """Differences of statistics from a target, each without a unit.

        Correlations: as they are. Mean: over the target's standard deviation. Variances, standard deviations and
        kurtoses: over the target's (a band with less than 1 % of the standard deviation of the pixels, or 0.01 % of
        their variance, over that floor). Skewness: over one plus the target's absolute one. The lowest and highest
        pixel count 0: they are single pixels, and the range is bounded in the synthesis.

        Parameters
        ----------
        statistics, target : Tensor, (..., statistic)

        Returns
        -------
        Tensor, (..., statistic)
        """
        return (statistics - target) / self._units(target)


@dataclass(frozen=True, eq=False)
class Synthesis:
    """Pictures that a synthesis made, and how close they came.

    Attributes
    ----------
    pictures : ndarray of float32, (picture, row, column)
        In the levels of the sources; may leave their range a little.
    loss : ndarray, (picture,)
        Sum of the squared errors, and of squared excursions from the source's range in standard deviations.
    worst_error : ndarray, (picture,)
        Largest absolute error of a statistic.
    worst_statistic : ndarray of str, (picture,)
        Which statistic that is.
    rms_error : ndarray, (picture,)
        Root of the mean squared error.
    converged : ndarray of bool, (picture,)
        Whether the largest error is within the tolerance.
    iterations : ndarray of int, (picture,)
    """

    pictures: NDArray[np.float32]
    loss: NDArray[np.float64]
    worst_error: NDArray[np.float64]
    worst_statistic: NDArray[np.str_]
    rms_error: NDArray[np.float64]
    converged: NDArray[np.bool_]
    iterations: NDArray[np.int64]


def compare_statistics(
    images: ArrayLike, sources: ArrayLike, *, statistics: TextureStatistics
) -> tuple[NDArray[np.float64], NDArray[np.str_], NDArray[np.float64]]:
    """How far the texture statistics of pictures are from those of others.

    Parameters
    ----------
    images, sources : array_like, (picture, row, column)
        One source per picture, in the same levels.
    statistics : TextureStatistics

    Returns
    -------
    worst_error, worst_statistic, rms_error : ndarray, (picture,)
        As in :class:`Synthesis`.

    Examples
    --------
    >>> picture = np.random.default_rng(0).random((1, 128, 128))
    >>> worst, _, _ = compare_statistics(picture, picture, statistics=TextureStatistics(128))
    >>> float(worst[0])
    0.0
    """

    def measure(pictures: ArrayLike) -> Tensor:
        tensor = torch.as_tensor(np.array(pictures), dtype=statistics.dtype, device=statistics.device)
        with torch.no_grad():
            return torch.cat([statistics(part) for part in tensor.split(16)])

    errors = statistics.errors(measure(images), measure(sources)).double().cpu().numpy()
    worst = np.abs(errors).argmax(axis=1)
    # the lowest and highest pixel do not count
    rms = np.sqrt((errors**2).sum(axis=1) / (errors.shape[1] - 2))
    return np.abs(errors).max(axis=1), np.array([statistics.names[i] for i in worst]), rms


def synthesise(
    sources: ArrayLike,
    seeds: Sequence[int | Sequence[int]],
    *,
    statistics: TextureStatistics | None = None,
    tolerance: float = TOLERANCE,
    max_iterations: int = 1000,
    coarse_iterations: int = 30,
    history: int = 100,
    progress: bool = False,
) -> Synthesis:
    """Pictures with the texture statistics of others, begun from noise of their spectrum.

    The sum of squared errors of the statistics (:meth:`TextureStatistics.errors`) is minimised over the pixels, for all
    pictures at once and for each on its own: first of the coarsest scale, then with every finer one, then of all. A
    picture is finished when every statistic is within half the tolerance (the other half is left to 8-bit rounding), or
    after ``max_iterations``. What comes out repeats itself at the borders.

    Parameters
    ----------
    sources : array_like, (picture, row, column)
        Square; one source per picture, so one that is repeated gives samples of one family.
    seeds : sequence of int, or of sequences of int
        One per picture. With other batches, devices or versions the same seed ends in another picture of the same
        statistics, since rounding errors grow.
    statistics : TextureStatistics, optional
        For the size of the sources; says the device and precision. Without it those of the paper, on the CPU.
    tolerance : float
    max_iterations : int
        With all statistics.
    coarse_iterations : int
        With those up to each of the coarser scales.
    history : int
        Steps that L-BFGS remembers: ``2 history`` pictures of memory per picture.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    Synthesis

    Raises
    ------
    ValueError
        If the sources are not square or are blank, seeds do not fit, or the tolerance is not positive.

    Notes
    -----
    Portilla and Simoncelli adjust groups of statistics in turn, and plenoptic's ``Metamer`` takes one picture at a
    time; here only the statistics are plenoptic's.

    Examples
    --------
    >>> source = np.random.default_rng(0).random((1, 128, 128)) ** 3
    >>> made = synthesise(source, [0], max_iterations=3, coarse_iterations=1)
    >>> made.pictures.shape, made.converged, made.iterations
    ((1, 128, 128), array([False]), array([7]))
    """
    pictures = np.asarray(sources, dtype=np.float64)
    if pictures.ndim != 3 or pictures.shape[1] != pictures.shape[2] or len(seeds) != len(pictures):
        raise ValueError(
            f"sources have shape {pictures.shape} for {len(seeds)} seeds; expected (picture, row, column), square, and "
            "a seed for each."
        )
    if not tolerance > 0:
        raise ValueError(f"tolerance is {tolerance}; expected a positive number.")
    deviation = pictures.std(axis=(1, 2))
    if (deviation == 0).any():
        raise ValueError(f"source {int(np.argmin(deviation))} is blank; a texture needs contrast.")
    size_px = pictures.shape[1]
    statistics = TextureStatistics(size_px) if statistics is None else statistics

    def tensor(values: NDArray) -> Tensor:
        return torch.as_tensor(values, dtype=statistics.dtype, device=statistics.device)

    with torch.no_grad():
        target = torch.cat([statistics(part) for part in tensor(pictures).split(16)])
    low, high = tensor(pictures.min(axis=(1, 2))), tensor(pictures.max(axis=(1, 2)))
    spread = tensor(deviation)[:, None]
    x = tensor(np.stack([matched_noise(each, seed=seed) for each, seed in zip(pictures, seeds, strict=True)]))
    x, values = x.flatten(1), torch.empty(0)
    iterations = torch.zeros(len(pictures), dtype=torch.int64)
    stages = [np.concatenate(statistics.scales[:i]) for i in range(2, len(statistics.scales) - 1)]
    stages.append(np.arange(len(statistics.names)))
    limits = [coarse_iterations] * (len(stages) - 1) + [max_iterations]
    with tqdm(total=sum(limits), desc="synthesis", unit="step", disable=not progress) as bar:

        def report(iteration: int, finished: int) -> None:
            bar.update()
            bar.set_postfix_str(f"{finished}/{len(pictures)} pictures finished", refresh=False)

        for stage, limit in zip(stages, limits, strict=True):
            used = torch.as_tensor(np.sort(stage), device=statistics.device)

            def loss(x: Tensor, rows: Tensor, used: Tensor = used) -> tuple[Tensor, Tensor]:
                errors = statistics.errors(statistics(x.view(-1, size_px, size_px)), target[rows])[:, used]
                outside = (x - high[rows, None]).clamp_min(0) + (low[rows, None] - x).clamp_min(0)
                value = errors.square().sum(1) + (outside / spread[rows]).square().sum(1)
                return value, errors.detach().abs().amax(1) <= tolerance / 2

            x, values, taken = minimise_each(loss, x, max_iterations=limit, history=history, progress=report)
            iterations += taken
    made = x.view(-1, size_px, size_px).cpu().numpy().astype(np.float32)
    worst, which, rms = compare_statistics(made, pictures, statistics=statistics)
    return Synthesis(made, values.double().cpu().numpy(), worst, which, rms, worst <= tolerance, iterations.numpy())


def matched_noise(images: ArrayLike, *, seed: int | Sequence[int]) -> NDArray[np.float64]:
    """Pictures with exactly the amplitude spectrum of others, and random phases.

    The phases are those of white noise, so the pictures are real. Mean and variance, which the spectrum contains, are
    kept too; nothing is clipped.

    Parameters
    ----------
    images : array_like, (..., row, column)
    seed : int or sequence of int

    Returns
    -------
    ndarray of float64, (..., row, column)

    Raises
    ------
    ValueError
        If the pictures have no rows and columns.

    Examples
    --------
    >>> texture = np.random.default_rng(0).random((2, 16, 16)) ** 3
    >>> noise = matched_noise(texture, seed=1)
    >>> bool(np.allclose(np.abs(np.fft.fft2(noise)), np.abs(np.fft.fft2(texture)), atol=1e-9))
    True
    """
    pictures = np.asarray(images, dtype=np.float64)
    if pictures.ndim < 2 or min(pictures.shape[-2:]) < 2:
        raise ValueError(f"images have shape {pictures.shape}; expected (..., row, column).")
    white = np.fft.rfft2(np.random.default_rng(seed).standard_normal(pictures.shape))
    phase = white / np.abs(white)
    phase[..., 0, 0] = 1.0
    spectrum = np.fft.rfft2(pictures)
    mean = np.where(spectrum[..., 0, 0].real < 0, -1.0, 1.0)
    amplitude = np.abs(spectrum)
    amplitude[..., 0, 0] *= mean
    return np.fft.irfft2(amplitude * phase, s=pictures.shape[-2:])


def spectral_deviation(images: ArrayLike, others: ArrayLike) -> NDArray[np.float64]:
    """Largest difference of two amplitude spectra, over the root mean square amplitude of the second without its mean.

    Parameters
    ----------
    images, others : array_like, (..., row, column)

    Returns
    -------
    ndarray, (...)

    Examples
    --------
    >>> texture = np.random.default_rng(0).random((16, 16))
    >>> bool(spectral_deviation(matched_noise(texture, seed=0), texture) < 1e-12)
    True
    """
    first, second = (np.abs(np.fft.fft2(np.asarray(each, dtype=np.float64))) for each in (images, others))
    energy = (second**2).sum(axis=(-2, -1)) - second[..., 0, 0] ** 2
    rms = np.sqrt(energy / (second.shape[-2] * second.shape[-1] - 1))
    return np.abs(first - second).max(axis=(-2, -1)) / rms


def contrast_factor(
    pictures: ArrayLike,
    *,
    mean_luminance: float = 0.5,
    rms_contrast: float = 0.25,
    clipped_share: float = 0.0,
) -> float:
    """Factor on the contrast of a family and its noise, around the mean luminance.

    It brings the mean standard deviation of the pictures to ``rms_contrast mean_luminance``, or to less: no picture may
    have more than ``clipped_share`` of its pixels outside [0, 1].

    Parameters
    ----------
    pictures : array_like, (picture, row, column)
        Textures and noise of one family; each is taken about its own mean.
    mean_luminance, rms_contrast : float
    clipped_share : float
        Between 0 and 1.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If a value is out of its range.

    Examples
    --------
    >>> picture = np.array([[[-1.0, 1.0], [-1.0, 1.0]]])
    >>> contrast_factor(picture), contrast_factor(picture, rms_contrast=3.0)
    (0.125, 0.5)
    """
    if not (0 < mean_luminance < 1 and rms_contrast > 0 and 0 <= clipped_share < 1):
        raise ValueError(
            f"mean_luminance is {mean_luminance}, rms_contrast {rms_contrast}, clipped_share {clipped_share}; expected "
            "a level between 0 and 1, a positive contrast, and a share from 0 to below 1."
        )
    z = np.asarray(pictures, dtype=np.float64)
    z = (z - z.mean(axis=(1, 2), keepdims=True)).reshape(len(z), -1)
    # the factor at which each pixel would reach black or white
    reach = np.where(z > 0, (1 - mean_luminance), mean_luminance) / np.maximum(np.abs(z), np.finfo(float).tiny)
    allowed = int(clipped_share * z.shape[1])
    limit = np.partition(reach, allowed, axis=1)[:, allowed].min()
    return float(min(rms_contrast * mean_luminance / z.std(axis=1).mean(), limit))


def make_textures(
    sources: Sequence[TextureSource],
    folder: str | Path,
    *,
    n_samples: int = 5,
    size_px: int = 128,
    seed: int = 0,
    pixels_per_degree: float = PIXELS_PER_DEGREE,
    mean_luminance: float = 0.5,
    rms_contrast: float = 0.25,
    clipped_share: float = 0.0,
    tolerance: float = TOLERANCE,
    max_iterations: int = 1000,
    coarse_iterations: int = 30,
    batch_size: int = 15,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> StimulusSet:
    """Make families of textures and their noise; pictures that were made before are kept.

    Textures are synthesised (:func:`synthesise`); the noise of each has exactly its spectrum (:func:`matched_noise`).
    Both get one mean luminance, and a contrast of their family at which neither clips more than ``clipped_share``.
    Writes ``textures.h5`` (:func:`stimuli.stimulus_set.read_hdf5`) and ``textures.json``, which holds all parameters,
    sources and licences, and per picture the loss, worst statistic and deviations, and sha256 of its pixels. Until a
    picture's batch is finished nothing of it is kept; then it lies in ``synthesised/``.

    Parameters
    ----------
    sources : sequence of TextureSource
        A family each; brought to ``size_px`` by :func:`stimuli.texture_sources.resample`, and without the jumps at the
        borders (:func:`stimuli.texture_sources.periodic_component`): the statistics of that picture are the target.
    folder : path
        Made where missing.
    n_samples : int
        Textures per family, and as many pictures of noise.
    size_px : int
        A multiple of 16, at least 112: 7 samples of the coarsest scale, the neighbourhood of the statistics.
    seed : int
    pixels_per_degree : float
    mean_luminance, rms_contrast, clipped_share : float
        See :func:`contrast_factor`.
    tolerance, max_iterations, coarse_iterations
        See :func:`synthesise`.
    batch_size : int
        Pictures that are synthesised at once.
    device : str, optional
        A GPU if there is one, else the CPU.
    progress : bool
        Show progress bars on standard error.

    Returns
    -------
    StimulusSet
        uint8; for every family and sample the texture, then its noise. Columns ``family``, ``sample``, ``type``,
        ``kind``, ``converged`` (no noise is), ``worst_error`` and ``worst_statistic`` (both of the stored picture, of
        noise as well), ``rms_contrast``.

    Raises
    ------
    ValueError
        If there are no sources, two have one name, a value is out of its range, or the folder holds pictures made with
        other parameters.

    Examples
    --------
    >>> import tempfile
    >>> from stimuli.texture_sources import procedural
    >>> folder = Path(tempfile.mkdtemp())
    >>> options = {"max_iterations": 2, "coarse_iterations": 1, "progress": False}
    >>> made = make_textures(procedural(size_px=128)[:1], folder, n_samples=1, **options)
    >>> made.parameters["type"], made.images.shape
    (array(['texture', 'noise'], dtype='<U7'), (2, 128, 128))
    >>> sorted(path.name for path in folder.iterdir())
    ['synthesised', 'textures.h5', 'textures.json']
    """
    names = [source.name for source in sources]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"sources are {names}; expected at least one, each with a name of its own.")
    if n_samples < 1 or batch_size < 1:
        raise ValueError(f"n_samples is {n_samples} and batch_size {batch_size}; expected positive counts.")
    contrast_factor(
        np.ones((1, 2, 2)) * [0.0, 1.0],
        mean_luminance=mean_luminance,
        rms_contrast=rms_contrast,
        clipped_share=clipped_share,
    )
    folder = Path(folder)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device is None else device
    statistics = TextureStatistics(size_px, device=device)
    pictures = {source.name: periodic_component(resample(source.picture, size_px)) for source in sources}
    synthesised = folder / "synthesised"
    synthesised.mkdir(parents=True, exist_ok=True)
    order = [(name, sample) for name in names for sample in range(n_samples)]
    settings = {
        "size_px": size_px,
        "seed": seed,
        "tolerance": tolerance,
        "max_iterations": max_iterations,
        "coarse_iterations": coarse_iterations,
    }

    def path(name: str, sample: int) -> Path:
        return synthesised / f"{name}-{sample + 1:03d}.npz"

    def made_of(name: str) -> str:
        return json.dumps({**settings, "source": _sha256(pictures[name])}, sort_keys=True)

    missing = [each for each in order if not path(*each).is_file()]
    parts = [missing[i : i + batch_size] for i in range(0, len(missing), batch_size)]
    with tqdm(total=len(order), initial=len(order) - len(missing), desc="textures", disable=not progress) as bar:
        for part in parts:
            result = synthesise(
                np.stack([pictures[name] for name, _ in part]),
                [_seed(seed, name, sample) for name, sample in part],
                statistics=statistics,
                tolerance=tolerance,
                max_iterations=max_iterations,
                coarse_iterations=coarse_iterations,
                progress=progress,
            )
            for i, (name, sample) in enumerate(part):
                with replacing(path(name, sample)) as partial, partial.open("wb") as file:
                    np.savez(
                        file,
                        picture=result.pictures[i],
                        loss=result.loss[i],
                        iterations=result.iterations[i],
                        made_of=np.array(made_of(name)),
                    )
            bar.update(len(part))

    images, rows, families = [], [], []
    for source in sources:
        kept = []
        for sample in range(n_samples):
            with np.load(path(source.name, sample), allow_pickle=False) as file:
                if str(file["made_of"]) != made_of(source.name):
                    raise ValueError(
                        f"{path(source.name, sample)} was made with other parameters or another source; choose another "
                        "folder, or delete it."
                    )
                kept.append((file["picture"].astype(np.float64), float(file["loss"]), int(file["iterations"])))
        textures = np.stack([picture for picture, _, _ in kept])
        noise = np.stack(
            [matched_noise(each, seed=[*_seed(seed, source.name, i), 1]) for i, each in enumerate(textures)]
        )
        means = textures.mean(axis=(1, 2), keepdims=True)
        factor = contrast_factor(
            np.concatenate([textures, noise]),
            mean_luminance=mean_luminance,
            rms_contrast=rms_contrast,
            clipped_share=clipped_share,
        )
        exact = {
            name: mean_luminance + factor * (each - means) for name, each in zip(TYPES, (textures, noise), strict=True)
        }
        stored, measured = _stored_and_measured(exact, pictures[source.name], means, factor, statistics)
        for i, (_, loss, iterations) in enumerate(kept):
            for name in TYPES:
                about = {key: values[i].item() for key, values in measured[name].items()}
                synthesis = {"loss": loss, "iterations": iterations} if name == "texture" else {}
                converged = name == "texture" and about["worst_error"] <= tolerance
                which = {"family": source.name, "sample": i + 1, "type": name, "kind": source.kind}
                rows.append({**which, "converged": converged, **synthesis, **about, "sha256": _sha256(stored[name][i])})
                images.append(stored[name][i])
        families.append(
            {
                "family": source.name,
                "kind": source.kind,
                "origin": source.origin,
                "licence": source.licence,
                "source_px": list(source.picture.shape),
                "source_sha256": _sha256(pictures[source.name]),
                "contrast_factor": factor,
            }
        )
    shown = ("family", "sample", "type", "kind", "converged", "worst_error", "worst_statistic", "rms_contrast")
    stimuli = StimulusSet(
        np.stack(images),
        {name: np.array([row[name] for row in rows]) for name in shown},
        pixels_per_degree=pixels_per_degree,
        mean_luminance=mean_luminance,
        name="textures",
    )
    about = {
        "format": 1,
        "statistics": "Portilla and Simoncelli (2000): 4 scales, 4 orientations, neighbourhood 7; plenoptic",
        "versions": {"plenoptic": _version("plenoptic"), "torch": _version("torch"), "numpy": _version("numpy")},
        **settings,
        "n_samples": n_samples,
        "pixels_per_degree": pixels_per_degree,
        "mean_luminance": mean_luminance,
        "rms_contrast": rms_contrast,
        "clipped_share": clipped_share,
        "families": families,
        "pictures": rows,
    }
    write_hdf5(stimuli, folder / "textures.h5")
    with replacing(folder / "textures.json") as partial:
        partial.write_text(json.dumps(about, indent=1), encoding="utf-8")
    return stimuli


def _stored_and_measured(
    exact: dict[str, NDArray[np.float64]],
    source: NDArray[np.float64],
    means: NDArray[np.float64],
    factor: float,
    statistics: TextureStatistics,
) -> tuple[dict[str, NDArray[np.uint8]], dict[str, dict[str, NDArray]]]:
    """8-bit pictures of a family's textures and noise, and what is measured on them."""
    stored = {name: np.rint(255 * np.clip(levels, 0, 1)).astype(np.uint8) for name, levels in exact.items()}
    measured: dict[str, dict[str, NDArray]] = {}
    for name, levels in stored.items():
        shown = levels / 255.0
        # back in the levels of the source, so that mean and variance are compared too
        back = means + (shown - exact[name].mean(axis=(1, 2), keepdims=True)) / factor
        worst, which, rms = compare_statistics(back, np.broadcast_to(source, back.shape), statistics=statistics)
        measured[name] = {
            "worst_error": worst,
            "worst_statistic": which,
            "rms_error": rms,
            "mean": shown.mean(axis=(1, 2)),
            "rms_contrast": shown.std(axis=(1, 2)) / shown.mean(axis=(1, 2)),
            "clipped_share": ((exact[name] < 0) | (exact[name] > 1)).mean(axis=(1, 2)),
        }
    measured["noise"]["spectral_deviation"] = spectral_deviation(exact["noise"], exact["texture"])
    measured["noise"]["spectral_deviation_8bit"] = spectral_deviation(stored["noise"], stored["texture"])
    return stored, measured


def _seed(seed: int, name: str, sample: int) -> list[int]:
    return [seed, zlib.crc32(name.encode()), sample]


def _sha256(pixels: NDArray) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def ready_textures() -> StimulusSet:
    """The texture set that comes with the package: 15 families, 5 samples of each, and their noise.

    128 px, 4.57 degrees at 28 px/deg: room for the 4-degree aperture of Freeman, Ziemba et al. (2013)
    (:func:`apertured`). Synthesised from sources that may be passed on; :func:`describe_ready_textures` names them and
    how close each picture came.

    Returns
    -------
    StimulusSet
        As :func:`make_textures` returns it.

    Examples
    --------
    >>> textures = ready_textures()
    >>> len(textures), textures.images.shape[1:], len(set(textures.parameters["family"]))
    (150, (128, 128), 15)
    """
    return read_hdf5(READY / "textures.h5")


def describe_ready_textures() -> dict[str, Any]:
    """Parameters, sources, licences, and per picture losses and deviations of :func:`ready_textures`.

    Returns
    -------
    dict
        ``textures.json`` of :func:`make_textures`.

    Examples
    --------
    >>> about = describe_ready_textures()
    >>> about["families"][4]["family"], about["families"][4]["licence"]
    ('grass', 'CC0 (CC0Textures)')
    """
    return json.loads((READY / "textures.json").read_text(encoding="utf-8"))


def apertured(stimuli: StimulusSet, *, radius_deg: float = 2.0) -> StimulusSet:
    """A set seen through a raised-cosine aperture, on a ground of its mean luminance.

    The aperture of the modelling copy of the pictures of Freeman, Ziemba et al. (2013):
    :func:`stimuli.apertures.raised_cosine` with a radius of 2 degrees.

    Parameters
    ----------
    stimuli : StimulusSet
        Grey.
    radius_deg : float

    Returns
    -------
    StimulusSet
        float32.

    Raises
    ------
    ValueError
        If the pictures have colours, or the radius is not positive.

    Examples
    --------
    >>> seen = apertured(ready_textures().select([0]))
    >>> seen.aperture, float(seen.images[0, 0, 0])
    ('raised cosine, radius 2 deg', 0.5)
    """
    if stimuli.images.ndim != 3:
        raise ValueError(
            f"the pictures have shape {stimuli.images.shape}; expected grey ones, (stimulus, row, column)."
        )
    rows, columns = stimuli.images.shape[1:]
    window = raised_cosine(np.hypot(*centred(rows, columns, stimuli.pixels_per_degree)), radius_deg)
    levels = stimuli.images / 255.0 if stimuli.images.dtype == np.uint8 else stimuli.images
    return StimulusSet(
        apply_aperture(levels, window, background=stimuli.mean_luminance),
        stimuli.parameters,
        pixels_per_degree=stimuli.pixels_per_degree,
        mean_luminance=stimuli.mean_luminance,
        aperture=f"raised cosine, radius {radius_deg:g} deg",
        name=stimuli.name,
    )


def shifted(stimuli: StimulusSet, n: int) -> StimulusSet:
    """Every picture at ``n x n`` shifts of whole parts of its sides, each a sample of its own.

    For pictures that repeat at their borders, as textures and noise of :func:`make_textures` do: a
    shift brings other features before a receptive field, and leaves all statistics as they are.

    Parameters
    ----------
    stimuli : StimulusSet
        With a column ``sample``; it becomes text, ``SAMPLE/SHIFT``, for more than one shift.
    n : int

    Returns
    -------
    StimulusSet

    Raises
    ------
    ValueError
        If ``n`` is not positive.

    Examples
    --------
    >>> one = StimulusSet(np.eye(4, dtype=np.uint8)[None], {"sample": np.array([7])})
    >>> four = shifted(one, 2)
    >>> four.parameters["sample"].tolist(), four.images[1, 0].tolist()
    (['7/0', '7/1', '7/2', '7/3'], [0, 0, 1, 0])
    """
    if n < 1:
        raise ValueError(f"shifts is {n}; expected 1 (none), 2 (half the width), ...")
    if n == 1:
        return stimuli
    rows, columns = stimuli.images.shape[1:3]
    shifts = [(i * rows // n, j * columns // n) for i in range(n) for j in range(n)]
    images = np.stack([np.roll(stimuli.images, shift, axis=(1, 2)) for shift in shifts], axis=1)
    parameters = {name: np.repeat(values, n * n) for name, values in stimuli.parameters.items()}
    places = np.tile(np.arange(n * n), len(stimuli))
    parameters["sample"] = np.array([f"{s}/{k}" for s, k in zip(parameters["sample"], places, strict=True)])
    return dataclasses.replace(stimuli, images=images.reshape(-1, *stimuli.images.shape[1:]), parameters=parameters)
