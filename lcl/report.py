"""One self-contained page for a run, rebuilt from its folder alone.

The page loads nothing: pictures and styles are inside it, and its content security policy lets no script run and no
address be asked, whatever the run folder holds.

Later commands add to the page through plain files: every ``sections/*.html`` of the run folder is appended in the order
of names. Such a file holds what :func:`section` returns, written with :func:`stimuli.files.replacing`; then
:func:`write_report` is called again.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lcl import figures
from lcl.checkpoint import check_format, read_json, read_tensors
from neural_fits.gabor import GABOR_R2, TUNED_SELECTIVITY, fit_gabor, grating_tuning, is_gabor
from stimuli.display import PIXELS_PER_DEGREE
from stimuli.drawing import png
from stimuli.files import replacing

#: A browser shows an inch as 96 px.
CSS_PX_PER_INCH = 96
AT_INIT = "_at_init"

#: Name and rule of the measures of a stage; a measure that is not here is shown under its own name.
MEASURES = {
    "receptive_field_px": ("Receptive field (px)", "Side on the image of what one unit of the stage sees."),
    "receptive_field_deg": ("Receptive field (deg)", "The same in degrees of visual angle."),
    "patch_px": ("Patch (px)", "Side of the training patches."),
    "steps": ("Training steps", "Updates of the stage."),
    "decorrelation_weight": (
        "Weight of decorrelation",
        "Lambda: the balance divided by the number of features less 1.",
    ),
    "held_out_loss": (
        "Held-out loss",
        "Similarity term plus weighted decorrelation term on patches of images not trained on; mean over batches.",
    ),
    "held_out_loss_sd": ("Held-out loss, spread", "Standard deviation over batches."),
    "held_out_similarity": (
        "Similarity term",
        "Σ (1 − C_ii)² over features; C is the cross-correlation between the two views on held-out patches.",
    ),
    "held_out_decorrelation": ("Decorrelation term", "Σ C_ij² over pairs of different features, before its weight."),
    "held_out_shared_dimension": (
        "Shared dimension",
        "(Σ C_ii)² / Σ C_ij²: effective number of independent features that survive the deformation.",
    ),
    "constant_features": ("Constant features", "Features that do not vary over held-out patches."),
    "gabor_fraction": (
        "Gabor-like filters",
        f"Share of filters with r² ≥ {GABOR_R2:g} for the best Gabor function and an orientation selectivity "
        f"(preferred − orthogonal) / (preferred + orthogonal) ≥ {TUNED_SELECTIVITY:.2f} for gratings.",
    ),
    "gabor_one_cycle_fraction": (
        "Gabor-like, at least one cycle",
        "Share of filters that are Gabor-like and prefer a grating of at least one cycle per filter; a single step "
        "edge is Gabor-like and does not.",
    ),
    "gabor_fitted_fraction": ("Filters a Gabor fits", f"Share of filters with r² ≥ {GABOR_R2:g}."),
    "orientation_tuned_fraction": (
        "Filters tuned for orientation",
        f"Share of filters with an orientation selectivity ≥ {TUNED_SELECTIVITY:.2f}.",
    ),
    "gabor_r2_median": ("r² of the Gabor fits, median", "Over all filters."),
    "preferred_frequency_median_cpd": (
        "Preferred frequency, median (cycles/deg)",
        "Of gratings, over the Gabor-like filters.",
    ),
}

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --quiet: #57606a; --paper: #fff; --line: #d0d7de; --shade: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --quiet: #9aa4af; --paper: #12161b; --line: #3a424b; --shade: #1b2127; }
}
body { margin: 0 auto; padding: 1rem; max-width: 60rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; }
h2 { font-size: 1.2rem; margin-top: 2.5rem; padding-bottom: 0.2rem; border-bottom: 1px solid var(--line); }
.scroll { overflow-x: auto; }
figure { margin: 1.2rem 0; }
figure img { display: block; height: auto; background: #fff; border-radius: 4px; }
figcaption, small { color: var(--quiet); font-size: 0.875rem; }
figcaption { margin-top: 0.4rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.35rem 0.7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top;
  overflow-wrap: normal; }
th { font-weight: 600; }
th small, td small { display: block; font-weight: 400; }
thead th { background: var(--shade); }
.numbers th:first-child { min-width: 11rem; }
.numbers td, .numbers thead th + th { text-align: right; white-space: nowrap; }
@media (max-width: 30rem) {
  th, td { padding: 0.35rem 0.3rem; }
  .numbers th:first-child { min-width: 8rem; }
  .numbers td small { white-space: normal; }
}
.names { width: 100%; table-layout: fixed; font-size: 0.875rem; }
.names th { width: 38%; font-weight: 400; color: var(--quiet); overflow-wrap: anywhere; }
.names td { overflow-wrap: anywhere; white-space: pre-wrap; }
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def section(title: str, content: str) -> str:
    """A section of the report.

    Parameters
    ----------
    title : str
        Plain text.
    content : str
        HTML, from :func:`paragraph`, :func:`picture` and :func:`name_table`.

    Returns
    -------
    str
        HTML.

    Examples
    --------
    >>> section("Filters & fits", paragraph("a < b"))
    '<section><h2>Filters &amp; fits</h2><p>a &lt; b</p></section>'
    """
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def paragraph(text: str) -> str:
    """A paragraph of plain text.

    Examples
    --------
    >>> paragraph("a < b")
    '<p>a &lt; b</p>'
    """
    return f"<p>{escape(text)}</p>"


def picture(png: bytes, *, caption: str, alt: str, width_in: float) -> str:
    """A PNG inside the page, with a caption; on a narrow screen it is scrolled rather than made unreadable.

    Parameters
    ----------
    png : bytes
        The file's content.
    caption, alt : str
        Plain text: what to see in it, and what it shows to those who cannot.
    width_in : float
        Width it was drawn for.

    Returns
    -------
    str
        HTML.

    Examples
    --------
    >>> html = picture(b"png", caption="a < b", alt='say "a"', width_in=5)
    >>> "data:image/png;base64,cG5n" in html, "a &lt; b" in html, "say &quot;a&quot;" in html
    (True, True, True)
    """
    width = round(width_in * CSS_PX_PER_INCH)
    # 0.85: 8 pt are then still 9 px high.
    style = f"width: 100%; max-width: {width}px; min-width: {round(0.85 * width)}px"
    data = base64.b64encode(png).decode("ascii")
    return (
        '<figure><div class="scroll" tabindex="0" role="group" aria-label="figure">'
        f'<img style="{style}" alt="{escape(alt)}" src="data:image/png;base64,{data}"></div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def name_table(values: Mapping[str, Any]) -> str:
    """A table of names and values; what is nested is named by its path.

    Parameters
    ----------
    values : mapping
        Plain values, as read from JSON.

    Returns
    -------
    str
        HTML.

    Examples
    --------
    >>> name_table({"a": {"b": "<i>"}})
    '<table class="names"><tr><th scope="row">a.b</th><td>&lt;i&gt;</td></tr></table>'
    """
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(_text(value))}</td></tr>'
        for name, value in _leaves(values)
    )
    return f'<table class="names">{rows}</table>'


def stage_table(stages: Mapping[str, Mapping[str, Any]]) -> str:
    """The numbers of every stage: a row for each measure, with its rule, and a column for each stage.

    Parameters
    ----------
    stages : mapping of str to mapping
        Measures by stage; one that ends in ``_at_init`` is shown below the measure it belongs to.

    Returns
    -------
    str
        HTML.

    Examples
    --------
    >>> html = stage_table({"V1": {"loss": 1.0, "loss_at_init": 61.25}})
    >>> "<td>1<small>at initialisation 61.2</small></td>" in html
    True
    """
    given = dict.fromkeys(name for numbers in stages.values() for name in numbers)
    # One that has no measure without the ending stands for itself.
    names = [name for name in given if not (name.endswith(AT_INIT) and name.removesuffix(AT_INIT) in given)]
    names.sort(key=lambda name: list(MEASURES).index(name) if name in MEASURES else len(MEASURES))
    head = "".join(f'<th scope="col">{escape(stage)}</th>' for stage in stages)
    rows = []
    for name in names:
        title, rule = MEASURES.get(name, (name, ""))
        cells = []
        for numbers in stages.values():
            before = numbers.get(name + AT_INIT)
            small = "" if before is None else f"<small>at initialisation {escape(_number(name, before))}</small>"
            cells.append(f"<td>{escape(_number(name, numbers[name])) if name in numbers else '–'}{small}</td>")
        small = f"<small>{escape(rule)}</small>" if rule else ""
        rows.append(f'<tr><th scope="row">{escape(title)}{small}</th>{"".join(cells)}</tr>')
    return (
        '<div class="scroll" tabindex="0" role="group" aria-label="numbers of every stage"><table class="numbers">'
        f'<thead><tr><th scope="col">measure</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def write_report(run: Path | str) -> Path:
    """Draw the figures of a run and write its report, from what its folder holds.

    Reads config.json and, where they exist, summary.json, metrics.jsonl, analysis.safetensors and ``sections/*.html``;
    writes ``figures/*.png`` and report.html. What is missing is left out, and the report says so. The same folder gives
    the same report.

    Parameters
    ----------
    run : path-like
        A run folder made by ``lcl train``.

    Returns
    -------
    Path
        The report.

    Raises
    ------
    FileNotFoundError
        If the folder or its config.json does not exist.
    ValueError
        If a file is damaged or of another format.

    Examples
    --------
    >>> import tempfile
    >>> run = Path(tempfile.mkdtemp())
    >>> _ = (run / "config.json").write_text('{"format": 1, "preset": "quick"}')
    >>> write_report(run).name
    'report.html'
    """
    run = Path(run)
    config = read_json(run / "config.json")
    check_format(run / "config.json", config.get("format"))
    summary: dict[str, Any] = {}
    if (run / "summary.json").is_file():
        summary = read_json(run / "summary.json")
        check_format(run / "summary.json", summary.get("format"))
    arrays: dict[str, np.ndarray] = {}
    if (run / "analysis.safetensors").is_file():
        arrays = {name: tensor.numpy() for name, tensor in read_tensors(run / "analysis.safetensors")[0].items()}
    metrics = _read_metrics(run / "metrics.jsonl")
    ppd = next((value for name, value in _leaves(config) if name.split(".")[-1] == "pixels_per_degree"), None)

    (run / "figures").mkdir(exist_ok=True)
    html: dict[str, list[str]] = {}
    missing: list[str] = []
    used: set[str] = set()
    for title, name, figure, caption, alt in _figures(
        summary, metrics, arrays, float(ppd or PIXELS_PER_DEGREE), missing
    ):
        file = _file_name(name, used)
        drawn = png(figure)
        with replacing(run / "figures" / file) as partial:
            partial.write_bytes(drawn)
        width_in = float(figure.get_figwidth())
        html.setdefault(title, []).append(picture(drawn, caption=caption, alt=alt, width_in=width_in))

    stages = summary.get("stages", {})
    sections = [section("Numbers", stage_table(stages))] if stages else []
    sections += [section(title, "".join(pictures)) for title, pictures in html.items()]
    sections += [file.read_text(encoding="utf-8") for file in sorted((run / "sections").glob("*.html"))]
    if not summary:
        missing.insert(0, "the numbers of every stage (no summary.json: training or its analysis has not finished)")
    if missing:
        sections.append(section("Left out", "<ul>" + "".join(f"<li>{escape(each)}</li>" for each in missing) + "</ul>"))
    # What describes the run is in both files; the summary's is of the end of the run.
    rest = {name: value for name, value in summary.items() if name not in ("stages", "format")}
    if rest:
        sections.append(section("Run", name_table(rest)))
    sections.append(section("Configuration", name_table({k: v for k, v in config.items() if rest.get(k) != v})))
    with replacing(run / "report.html") as partial:
        # A path that is not UTF-8 must not cost the report.
        text = page(f"Run {run.resolve().name}", _lead(config, summary), sections)
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    return run / "report.html"


def _figures(
    summary: Mapping[str, Any],
    metrics: Mapping[str, Mapping[str, np.ndarray]],
    arrays: Mapping[str, np.ndarray],
    ppd: float,
    missing: list[str],
) -> Iterator[tuple[str, str, Figure, str, str]]:
    """Section, name, figure, caption and description of all that can be drawn; the rest is named in ``missing``."""
    stages = summary.get("stages", {})
    first = next(iter(stages), "the first stage")
    initial, trained = arrays.get("filters/initial"), arrays.get("filters/trained")
    if initial is None or trained is None:
        missing.append("filters, Gabor fits and tuning (no filters in analysis.safetensors)")
    else:
        fits = fit_gabor(initial), fit_gabor(trained)
        tunings = grating_tuning(initial), grating_tuning(trained)
        before, after = (is_gabor(fit, tuning) for fit, tuning in zip(fits, tunings, strict=True))
        counts = f"{after.sum()} of {len(after)} after training, {before.sum()} at initialisation"
        rule = f"r² ≥ {GABOR_R2:g} and orientation selectivity ≥ {TUNED_SELECTIVITY:.2f}"
        title = f"Filters of {first}"
        yield (
            title,
            "filters",
            figures.filters(initial, trained, gabor_r2=fits[1].r2, marked=(before, after), pixels_per_degree=ppd),
            f"All filters of {first}, each scaled by its largest weight around mid-grey. Framed: Gabor-like ({rule}), "
            f"{counts}.",
            f"Two mosaics of the {len(after)} filters of {first}, at initialisation and after training. Gabor-like: "
            f"{counts}.",
        )
        yield (
            title,
            "gabor_fits",
            figures.gabor_fits(trained, fits[1], tunings[1], pixels_per_degree=ppd),
            "Filters after training above their least-squares Gabor functions, at equal steps from the best fit to the "
            "worst, with their preferred gratings.",
            f"Filters above fitted Gabor functions; r² from {fits[1].r2.max():.2f} to {fits[1].r2.min():.2f}, median "
            f"{np.median(fits[1].r2):.2f}.",
        )
        yield (
            title,
            "tuning",
            figures.tuning_distributions(fits[1], tunings[1], fits[0], tunings[0], pixels_per_degree=ppd),
            f"Fit quality of all filters, and preferred orientation (0° is horizontal) and spatial frequency of the "
            f"Gabor-like ones ({rule}), from full-field gratings.",
            f"Histograms of r², preferred orientation and preferred spatial frequency. Gabor-like: {counts}.",
        )
    views = _by_stage(arrays, "views/", stages)
    if not views:
        missing.append("pairs of views (none in analysis.safetensors)")
    for stage, pairs in views.items():
        size_px = stages.get(stage, {}).get("receptive_field_px")
        if size_px is None:
            missing.append(f"pairs of views of {stage} (no receptive_field_px in summary.json)")
            continue
        yield (
            "What each stage saw",
            f"views_{stage}",
            figures.view_pairs(pairs, size_px=size_px, pixels_per_degree=ppd, title=stage),
            f"Pairs of views that {stage} was trained on, one above the other, with its receptive field to "
            "scale. Values beyond black and white, from luminance and contrast jitter and noise, are clipped.",
            f"Pairs of image patches of {pairs.shape[-1]} px with a square of {size_px:g} px, the receptive field of "
            f"{stage}, in the middle.",
        )
    if metrics:
        ends = ", ".join(
            f"{stage} from {lines['loss'][0]:.4g} to {lines['loss'][-1]:.4g}" for stage, lines in metrics.items()
        )
        yield (
            "Training",
            "loss_terms",
            figures.loss_terms(metrics),
            "Loss of the training batches and its two terms: similarity of the pair, and correlation between features "
            "before its weight.",
            f"Loss over training steps: {ends}.",
        )
    else:
        missing.append("loss over steps (no lines in metrics.jsonl)")
    correlations = _by_stage(arrays, "correlation/", stages)
    if correlations:
        yield (
            "Features",
            "correlation",
            figures.correlation_matrix(correlations),
            "Cross-correlation of features between the two views on held-out patches. The objective wants 1 on the "
            "diagonal and 0 elsewhere.",
            "Cross-correlation matrices; mean of the diagonal: "
            + ", ".join(f"{stage} {c.diagonal().mean():.2f}" for stage, c in correlations.items())
            + ".",
        )
    else:
        missing.append("cross-correlations (none in analysis.safetensors)")
    driving = _by_stage(arrays, "driving/", stages)
    if not driving:
        missing.append("patches that drive units most (none in analysis.safetensors)")
    for stage, patches in driving.items():
        units, ranks, _, side, _ = patches.shape
        yield (
            "Features",
            f"driving_{stage}",
            figures.driving_patches(
                patches,
                stage=stage,
                size_px=stages.get(stage, {}).get("receptive_field_px", side),
                pixels_per_degree=ppd,
            ),
            f"For {units} units of {stage}, one a row, the {ranks} image patches that drive them most.",
            f"Image patches of {side} px in {units} rows and {ranks} columns.",
        )


def _by_stage(arrays: Mapping[str, np.ndarray], prefix: str, stages: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays under a prefix, stages from the bottom up (files keep them by name)."""
    found = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    order = [stage for stage in stages if stage in found]
    return {stage: found[stage] for stage in order + [stage for stage in found if stage not in order]}


def _read_metrics(path: Path) -> dict[str, dict[str, np.ndarray]]:
    if not path.is_file():
        return {}
    lines: dict[str, list[tuple[float, ...]]] = {}
    names = ("step", "loss", "similarity", "decorrelation")
    texts = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for number, text in enumerate(texts, 1):
        # A run that was killed may have left half a line at the end.
        if not text.strip() or (number == len(texts) and not text.endswith("\n")):
            continue
        try:
            line = json.loads(text)
            lines.setdefault(line["stage"], []).append(tuple(float(line[name]) for name in names))
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"Line {number} of {path} is no line of metrics; expected JSON with stage, {', '.join(names)}."
            ) from None
    return {stage: dict(zip(names, np.array(rows).T, strict=True)) for stage, rows in lines.items()}


def _file_name(name: str, used: set[str]) -> str:
    """A file name that no stage's name can lead out of the folder or onto another figure."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    candidate, number = plain, 1
    while candidate.lower() in used:
        number += 1
        candidate = f"{plain}-{number}"
    used.add(candidate.lower())
    return f"{candidate}.png"


def _leaves(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "–"
    if isinstance(value, list) and not any(isinstance(each, list | dict) for each in value):
        return ", ".join(map(_text, value))
    if isinstance(value, float):
        return f"{value:.10g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _number(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _text(value)
    if name.endswith("_fraction"):
        return f"{100 * value:.1f} %"
    if isinstance(value, int) or (abs(value) >= 1000 and np.isfinite(value)):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _lead(config: Mapping[str, Any], summary: Mapping[str, Any]) -> Iterable[str]:
    """What the run is, in a line, and what it found, in a line for each stage."""
    facts = []
    if config.get("preset"):
        facts.append(f"preset {config['preset']}")
    seed = next((value for name, value in _leaves(config) if name.split(".")[-1] == "seed"), summary.get("seed"))
    if seed is not None:
        facts.append(f"seed {seed}")
    if isinstance(summary.get("seconds"), int | float):
        minutes, seconds = divmod(round(summary["seconds"]), 60)
        facts.append(f"trained in {minutes} min {seconds} s")
    if facts:
        yield ", ".join(facts)[:1].upper() + ", ".join(facts)[1:] + "."
    for stage, numbers in summary.get("stages", {}).items():
        found = []
        for name, title in (("held_out_loss", "held-out loss"), ("gabor_fraction", "Gabor-like filters")):
            if name in numbers:
                found.append(f"{title} {_number(name, numbers[name])}")
                if name + AT_INIT in numbers:
                    found[-1] += f" ({_number(name, numbers[name + AT_INIT])} at initialisation)"
        if found:
            yield f"{stage}: {'; '.join(found)}."


def page(title: str, lead: Iterable[str], sections: Iterable[str]) -> str:
    """One self-contained HTML page.

    Parameters
    ----------
    title : str
    lead : iterable of str
        Paragraphs of plain text.
    sections : iterable of str
        HTML, from :func:`section`.

    Returns
    -------
    str

    Examples
    --------
    >>> "<h1>a &lt; b</h1>" in page("a < b", [], [])
    True
    """
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body><main><h1>{escape(title)}</h1>"
        + "".join(map(paragraph, lead))
        + "\n"
        + "\n".join(sections)
        + "\n</main></body></html>\n"
    )
