"""The README and the manual: examples run as printed, links lead somewhere, commands exist, pages can be found."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import matplotlib as mpl
import pytest

from lcl.cli import parser

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# What the build of the manual generates is checked by the build.
WRITTEN = sorted(page for page in DOCS.rglob("*.md") if "generated" not in page.relative_to(DOCS).parts)
PAGES = [ROOT / "README.md", *WRITTEN]
BLOCKS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_examples_run_and_print_what_they_say(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block, "example", "exec"), {"__name__": "example"})
    # A comment that follows a print is what it prints.
    expected = re.findall(r"^print\(.*\)\n# (.*)$", block, re.M)
    for line in expected:
        assert line in printed.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not re.match(r"https?:", target):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def commands_in(text: str) -> list[str]:
    """Commands in blocks and in running text, without what is said about them."""
    blocks = "\n".join(re.findall(r"^```(?:sh|bash)?\n(.*?)^```", text, re.M | re.S)).replace("\\\n", " ")
    found = re.findall(r"(?:^|&& |-m )(lcl(?:\.cli)? .*)$", blocks, re.M) + re.findall(r"`(lcl [^`\n]+)`", text)
    # A remark stands behind two spaces or in brackets.
    return [re.split(r"\s{2,}(?=[(\w])|\s+\(", command)[0] for command in found]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_their_options_exist(page):
    _, parsers = parser()
    for command in commands_in(page.read_text(encoding="utf-8")):
        words = shlex.split(command)[1:]
        known = parsers.get(" ".join(words[:2])) or parsers.get(words[0])
        assert known or words[0].startswith("-"), f"{page.name}: there is no `lcl {words[0]}`"
        options = {option for action in known._actions for option in action.option_strings} if known else {"--help"}
        for word in words:
            if re.match(r"--\w", word):
                assert word.split("=")[0] in options, f"{page.name}: `{command}` has no {word}"


def test_every_page_is_in_a_table_of_contents():
    listed = {DOCS / "index.md"}
    for page in WRITTEN:
        for entries in re.findall(r"^```\{toctree\}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
            names = [line for line in entries.split("\n") if line and not line.startswith(":")]
            listed |= {each for name in names for each in page.parent.glob(f"{name}.md")}
    assert [str(page) for page in WRITTEN if page not in listed] == []


def test_every_notebook_is_described():
    described = set(re.findall(r"^\| `(\w+)`", (DOCS / "notebooks.md").read_text(encoding="utf-8"), re.M))
    assert described == {file.stem for file in (ROOT / "notebooks").glob("*.py")}
