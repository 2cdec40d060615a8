"""How the manual is built: `sphinx-build -W --keep-going docs OUT`, without a network."""

import importlib
import importlib.metadata
import os
import pkgutil
import re
from pathlib import Path

# The width of the help must not depend on the terminal that builds the manual.
os.environ["COLUMNS"] = "100"

PACKAGES = {
    "lcl": "the model and its training",
    "neural_fits": "models beside brains and people",
    "stimuli": "what is shown",
    "vision_methods": "comparison models",
}

project = "lcl"
author = "The lcl developers"
copyright = author
try:
    release = importlib.metadata.version("lcl")
except importlib.metadata.PackageNotFoundError:
    release = "checkout"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
templates_path = ["_templates"]

myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3

# In docstrings single backquotes are code, as in the rest of the checkout.
default_role = "literal"
autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"
numpydoc_show_class_members = False

# Blocks without a language are commands and what they print.
highlight_language = "none"

nitpicky = True
# Other packages' inventories are not at hand without a network.
nitpick_ignore_regex = [("py:.*", r"(collections|numpy|pooch|torch|xarray)\..*")]

html_theme = "alabaster"
html_theme_options = {
    "description": "Early visual cortex, learned layer by layer",
    "fixed_sidebar": True,
    "page_width": "1100px",
}
html_sidebars = {"**": ["about.html", "searchfield.html", "navigation.html"]}
html_show_sourcelink = False


def write_if_new(page: Path, text: str) -> None:
    """Pages that stay the same are not read again."""
    page.parent.mkdir(parents=True, exist_ok=True)
    if not page.exists() or page.read_text(encoding="utf-8") != text:
        page.write_text(text, encoding="utf-8")


def write_generated(app, config) -> None:
    """Pages that follow from code and measurements, so that they cannot be out of date."""
    from lcl.cli import parser

    out = Path(app.srcdir) / "generated"
    text = ["# Commands", "", "What every command prints with `--help`.", ""]
    for name, command in parser()[1].items():
        text += [f"## lcl {name}", "", "```text", command.format_help().rstrip(), "```", ""]
    write_if_new(out / "commands.md", "\n".join(text))

    for name, about in PACKAGES.items():
        path = importlib.import_module(name).__path__
        modules = [name, *sorted(each.name for each in pkgutil.walk_packages(path, f"{name}."))]
        listing = "\n".join(f"   {module}" for module in modules)
        summary = f".. autosummary::\n   :toctree: modules\n   :template: module.rst\n\n{listing}"
        write_if_new(out / f"{name}.md", f"# {name}: {about}\n\n```{{eval-rst}}\n{summary}\n```\n")

    # Measurements lie beside the benchmarks that make them.
    for page in (Path(app.srcdir).parent / "benchmarks" / "results").glob("*.md"):
        text = page.read_text(encoding="utf-8")
        if text.startswith("# "):  # Others are tables that a page of the manual holds.
            write_if_new(out / "measured" / page.name, text)


def link_measurements(app, name: str, source: list[str]) -> None:
    """Links to measurements lead to these pages."""
    source[0] = re.sub(r"\]\((?:\.\./)+benchmarks/results/(\w+\.md)", r"](/generated/measured/\1", source[0])


def setup(app) -> None:
    """Write what is generated before the pages are looked for."""
    app.connect("config-inited", write_generated)
    app.connect("source-read", link_measurements)
