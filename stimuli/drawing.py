"""How figures look: no text smaller than 8 pt, and colours told apart with any colour vision (Okabe and Ito 2008)."""

import io

import matplotlib as mpl
from matplotlib.figure import Figure

WIDTH_IN = 8.0
BLUE, VERMILION, GREEN, GREY, ORANGE, PURPLE, SKY = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#7F7F7F",
    "#E69F00",
    "#CC79A7",
    "#56B4E9",
)

#: Decorator, or context, under which a figure is made.
styled = mpl.rc_context(
    {
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.labelsize": 9,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "legend.fontsize": 8,
        "legend.frameon": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.facecolor": "white",
        "axes.facecolor": "white",
    }
)


def plain(text: str) -> str:
    r"""Text that matplotlib shows as it is, without mathematics.

    Examples
    --------
    >>> print(plain("$a$"))
    \$a\$
    """
    return text.replace("$", r"\$")


#: Pixels of a PNG per inch of its figure.
DOTS_PER_INCH = 168


def png(figure: Figure, *, dpi: int | None = None) -> bytes:
    """PNG file of a figure.

    Parameters
    ----------
    figure : Figure
    dpi : int, optional
        ``DOTS_PER_INCH`` without it.

    Returns
    -------
    bytes

    Examples
    --------
    >>> png(Figure((1, 1)), dpi=10)[1:4]
    b'PNG'
    """
    buffer = io.BytesIO()
    # Without matplotlib's version the same figure is the same file.
    figure.savefig(buffer, format="png", dpi=dpi or DOTS_PER_INCH, metadata={"Software": None})
    return buffer.getvalue()
