"""Receptive fields of chains of convolutions and pools, in pixels and degrees of visual angle."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil

from torch import nn

from stimuli.display import PIXELS_PER_DEGREE, degrees


@dataclass(frozen=True)
class Window:
    """One sliding window: a convolution or a pool, square, the same along both axes.

    Attributes
    ----------
    kernel, stride, padding, dilation : int
        As in :class:`torch.nn.Conv2d`, in units of the window's input.

    Examples
    --------
    >>> Window(11, stride=4, padding=2)
    Window(kernel=11, stride=4, padding=2, dilation=1)
    """

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    def __post_init__(self) -> None:
        for name, least in (("kernel", 1), ("stride", 1), ("padding", 0), ("dilation", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"Window {name} is {value!r}; expected a whole number of at least {least}.")


@dataclass(frozen=True)
class ReceptiveField:
    """Where one output unit looks.

    Attributes
    ----------
    size_px : int
        Side of the square of input pixels that can change a unit.
    jump_px : int
        Distance between neighbouring units, measured on the input.
    start_px : int
        First input pixel of the first unit's square; negative where padding is seen.

    Examples
    --------
    >>> field = ReceptiveField(size_px=19, jump_px=8, start_px=-2)
    >>> field.first_pixel(1), field.centre_px(1), field.size_deg()
    (6, 15.0, 0.6785714285714286)
    """

    size_px: int
    jump_px: int
    start_px: int

    def first_pixel(self, unit: int) -> int:
        """First input pixel (row or column) that unit number ``unit`` sees."""
        return self.start_px + unit * self.jump_px

    def centre_px(self, unit: int) -> float:
        """Centre of unit number ``unit``, in pixels; the centre of pixel ``i`` is at ``i``."""
        return self.first_pixel(unit) + (self.size_px - 1) / 2

    def size_deg(self, pixels_per_degree: float = PIXELS_PER_DEGREE) -> float:
        """Side in degrees of visual angle on a display of ``pixels_per_degree``."""
        return degrees(self.size_px, pixels_per_degree)

    def jump_deg(self, pixels_per_degree: float = PIXELS_PER_DEGREE) -> float:
        """Distance between neighbouring units in degrees of visual angle."""
        return degrees(self.jump_px, pixels_per_degree)


def trace(windows: Iterable[Window]) -> list[ReceptiveField]:
    """Receptive field after every window of a chain.

    ``size += (kernel - 1) * dilation * jump``, ``start -= padding * jump``, ``jump *= stride``, from size 1, jump 1,
    start 0 (papers on receptive-field arithmetic state the same recursion, e.g. Araujo et al. 2019).

    Parameters
    ----------
    windows : iterable of Window
        In the order in which the signal passes through them.

    Returns
    -------
    list of ReceptiveField
        One for every window.

    Examples
    --------
    The first two layers of AlexNet and their pools:

    >>> chain = [Window(11, 4, 2), Window(3, 2), Window(5, 1, 2), Window(3, 2)]
    >>> [(field.size_px, field.jump_px) for field in trace(chain)]
    [(11, 4), (19, 8), (51, 8), (67, 16)]
    """
    size, jump, start, fields = 1, 1, 0, []
    for window in windows:
        size += (window.kernel - 1) * window.dilation * jump
        start -= window.padding * jump
        jump *= window.stride
        fields.append(ReceptiveField(size, jump, start))
    return fields


def receptive_field(chain: nn.Module | Sequence[Window]) -> ReceptiveField:
    """Receptive field of the last unit of a chain.

    Parameters
    ----------
    chain : Module or sequence of Window
        A chain of layers (see :func:`windows`) or its windows; an empty chain sees one pixel.

    Returns
    -------
    ReceptiveField

    Examples
    --------
    >>> receptive_field(nn.Sequential(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)))
    ReceptiveField(size_px=19, jump_px=8, start_px=-2)
    """
    fields = trace(windows(chain) if isinstance(chain, nn.Module) else chain)
    return fields[-1] if fields else ReceptiveField(1, 1, 0)


#: Layers that look at one position at a time.
POINTWISE = (
    nn.Identity,
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Tanh,
    nn.Softplus,
    nn.Dropout,
    nn.Dropout2d,
    nn.BatchNorm2d,
    nn.LocalResponseNorm,
)


def windows(module: nn.Module) -> list[Window]:
    """Sliding windows of a chain of layers, in order.

    Parameters
    ----------
    module : Module
        A convolution, a pool, a point-wise layer, a :class:`torch.nn.Sequential` of these, or any module with a method
        ``windows()`` that returns its own.

    Returns
    -------
    list of Window

    Raises
    ------
    ValueError
        If a layer is not one of these, or its window is not square.

    Examples
    --------
    >>> windows(nn.Sequential(nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.AvgPool2d(2)))
    [Window(kernel=5, stride=1, padding=2, dilation=1), Window(kernel=2, stride=2, padding=0, dilation=1)]
    """
    own: Callable[[], Iterable[Window]] | None = getattr(module, "windows", None)
    if own is not None:
        return list(own())
    if isinstance(module, nn.Sequential):
        return [window for child in module for window in windows(child)]
    if isinstance(module, POINTWISE):
        return []
    if isinstance(module, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)):
        if isinstance(module.padding, str):
            raise ValueError(f"{module} has padding {module.padding!r}; expected a number of pixels.")
        if getattr(module, "ceil_mode", False):
            raise ValueError(f"{module} rounds its output size up; expected ceil_mode=False.")
        stride = module.kernel_size if module.stride is None else module.stride
        values = (module.kernel_size, stride, module.padding, getattr(module, "dilation", 1))
        return [Window(*(_square(module, value) for value in values))]
    raise ValueError(
        f"No receptive field is known for a layer of type {type(module).__name__}; expected convolutions, pools and "
        "point-wise layers in a Sequential, or give the module a method windows() that returns its list of Window."
    )


def _square(module: nn.Module, value: int | tuple[int, ...]) -> int:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if pair[0] != pair[1]:
        raise ValueError(f"{module} is not square ({pair}); expected the same size along both axes.")
    return pair[0]


def map_side(chain: Iterable[Window], side_px: int) -> int:
    """Side of the output map of a chain for a square input; 0 if the input is too small.

    Parameters
    ----------
    chain : iterable of Window
        Windows in order.
    side_px : int
        Side of the input in pixels.

    Returns
    -------
    int

    Examples
    --------
    >>> map_side([Window(11, 4, 2), Window(3, 2)], 224)
    27
    """
    side = side_px
    for window in chain:
        side = (side + 2 * window.padding - window.dilation * (window.kernel - 1) - 1) // window.stride + 1
        if side < 1:
            return 0
    return side


def patch_side(size_px: int, ratio: float = 1.5) -> int:
    """Side of a training patch: ``ceil(ratio * receptive field)``.

    Parameters
    ----------
    size_px : int
        Receptive-field side, pixels.
    ratio : float
        At least 1, so that one unit's whole receptive field is inside.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If ``ratio`` is below 1.

    Examples
    --------
    >>> patch_side(19), patch_side(67)
    (29, 101)
    """
    if ratio < 1:
        raise ValueError(
            f"The patch is {ratio} receptive fields wide; expected at least 1, so that a unit fits inside."
        )
    return ceil(ratio * size_px - 1e-9)  # 1.1 * 50 is a little more than 55
