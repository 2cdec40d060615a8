import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lcl import report
from lcl.checkpoint import FORMAT, write_json, write_tensors
from neural_fits.gabor import gabor, gabor_fraction
from stimuli import drawing

EVIL = "<script src='x'>$\\frac{ & \"quote\" ../../V9"
SIDE = 9
VOID = {"meta", "img"}


def bank(seed=0):
    """Four filters, of which half are Gabors."""
    rng = np.random.default_rng(seed)
    filters = 0.3 * rng.normal(size=(4, 3, SIDE, SIDE))
    for place, orientation_deg in enumerate((45, 90)):
        filters[place] = gabor(
            SIDE, SIDE, orientation_deg=orientation_deg, frequency_cpp=0.2, across_px=1.8, along_px=2.2
        )
    return torch.from_numpy(filters).float()


def arrays(*stages):
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "filters/initial": torch.randn(4, 3, SIDE, SIDE, generator=generator),
        "filters/trained": bank(),
    }
    for stage in stages:
        tensors[f"views/{stage}"] = torch.rand(2, 2, 3, 21, 21, generator=generator).half()
        tensors[f"correlation/{stage}"] = torch.eye(6)
        tensors[f"driving/{stage}"] = torch.randint(0, 256, (2, 3, 3, 15, 15), generator=generator, dtype=torch.uint8)
    return tensors


def make_run(run, *stages, drop=()):
    """A run folder without the training; groups of arrays that start with one of ``drop`` are left out."""
    run.mkdir(parents=True, exist_ok=True)
    config = {"format": FORMAT, "preset": "quick", "config": {"seed": 7, "pixels_per_degree": 14.0, "channels": [8, 6]}}
    numbers = {
        "receptive_field_px": 15,
        "held_out_loss": 3.25,
        "held_out_loss_at_init": 61.5,
        "gabor_fraction": 0.5,
        "gabor_fraction_at_init": 0.0,
        "unheard_of": 12345,
    }
    summary = {"format": FORMAT, "stages": dict.fromkeys(stages, numbers), "seconds": 75.2}
    summary |= {"versions": {"torch": "2.13.0"}, "git": {"commit": "abc1234"}, "machine": {"processor": "a processor"}}
    write_json(run / "config.json", config)
    write_json(run / "summary.json", summary)
    lines = [
        {"stage": stage, "step": step, "loss": 9.0 - step, "similarity": 4.0, "decorrelation": 2.0, "pairs_per_s": 1.0}
        for stage in stages
        for step in range(3)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tensors = {name: tensor for name, tensor in arrays(*stages).items() if not name.startswith(drop or "\0")}
    write_tensors(run / "analysis.safetensors", tensors)
    return run


class Page(HTMLParser):
    """Tags with their attributes, the text of each kind of tag, and a check that tags are closed in order."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.texts, self.stack = [], {}, []
        self.feed(html)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if self.stack:
            self.texts.setdefault(self.stack[-1], []).append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def read(path):
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("run") / "mine", "V1", "V2")
    assert report.write_report(run) == run / "report.html"
    return run


@pytest.fixture
def coarse(monkeypatch):
    """Small pictures, for tests that do not look at them."""
    monkeypatch.setattr(drawing, "DOTS_PER_INCH", 30)


def test_every_figure_is_a_file_and_inside_the_page(run):
    page = read(run / "report.html")
    names = sorted(path.name for path in (run / "figures").iterdir())
    assert names == [
        "correlation.png",
        "driving_V1.png",
        "driving_V2.png",
        "filters.png",
        "gabor_fits.png",
        "loss_terms.png",
        "tuning.png",
        "views_V1.png",
        "views_V2.png",
    ]
    embedded = [base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) for image in page.all("img")]
    assert sorted(embedded) == sorted(path.read_bytes() for path in (run / "figures").iterdir())
    for png in embedded:
        with Image.open(io.BytesIO(png)) as image:
            image.load()
            assert image.format == "PNG"
            assert image.width > 500


def test_pictures_are_described_and_wide_enough_to_read(run):
    for image in read(run / "report.html").all("img"):
        assert len(image["alt"]) > 20
        drawn, least = (int(re.search(rf"{name}: (\d+)px", image["style"])[1]) for name in ("max-width", "min-width"))
        assert least >= 0.8 * drawn


def test_nothing_is_loaded_from_elsewhere(run):
    html = (run / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|@import|url\(|<script|<link|<iframe|\son\w+=", html)
    for _, attributes in Page(html).tags:
        assert not {"href", "srcset", "action"} & set(attributes)
        assert attributes.get("src", "data:").startswith("data:")
    [policy] = [meta["content"] for meta in Page(html).all("meta") if "http-equiv" in meta]
    assert "default-src 'none'" in policy
    assert "script" not in policy


def test_numbers_of_every_stage_are_in_the_table(run):
    html = (run / "report.html").read_text(encoding="utf-8")
    table = html[html.index('<table class="numbers">') : html.index("</table>")]
    assert re.findall(r'<th scope="col">(.*?)</th>', table) == ["measure", "V1", "V2"]
    rows = {re.search(r'<th scope="row">([^<]*)', row)[1]: row for row in table.split("<tr>")[2:]}
    assert list(rows) == ["Receptive field (px)", "Held-out loss", "Gabor-like filters", "unheard_of"]
    assert rows["Held-out loss"].count("<td>3.25<small>at initialisation 61.5</small></td>") == 2
    assert "patches of images not trained on" in rows["Held-out loss"]
    assert rows["Gabor-like filters"].count("<td>50.0 %<small>at initialisation 0.0 %</small></td>") == 2
    assert rows["unheard_of"].count("<td>12,345</td>") == 2


def test_the_figures_count_as_the_summary_does(run):
    assert gabor_fraction(bank().numpy()) == 0.5
    [caption] = [text for text in read(run / "report.html").texts["figcaption"] if text.startswith("All filters")]
    assert "2 of 4 after training, 0 at initialisation" in caption


def test_sizes_follow_the_summary_and_the_configuration(tmp_path, monkeypatch, coarse):
    run = make_run(tmp_path / "run", "V1", drop=("filters", "driving", "correlation"))
    given = []
    draw = report.figures.view_pairs

    def view_pairs(pairs, **options):
        given.append(options)
        return draw(pairs, **options)

    monkeypatch.setattr(report.figures, "view_pairs", view_pairs)
    report.write_report(run)
    assert given == [{"size_px": 15, "pixels_per_degree": 14.0, "title": "V1"}]


def test_configuration_seed_versions_machine_and_commit_are_shown(run):
    texts = read(run / "report.html").texts
    assert "Preset quick, seed 7, trained in 1 min 15 s." in texts["p"]
    assert (
        "V1: held-out loss 3.25 (61.5 at initialisation); Gabor-like filters 50.0 % (0.0 % at initialisation)."
        in texts["p"]
    )
    rows = dict(zip(texts["th"][-9:], texts["td"][-9:], strict=True))
    assert {
        "versions.torch": "2.13.0",
        "git.commit": "abc1234",
        "machine.processor": "a processor",
    }.items() <= rows.items()
    assert {"config.seed": "7", "config.channels": "8, 6", "config.pixels_per_degree": "14"}.items() <= rows.items()


def test_the_same_folder_gives_the_same_report(tmp_path, coarse):
    run = make_run(tmp_path / "run", "V1", drop=("correlation", "driving"))
    before = report.write_report(run).read_bytes()
    assert report.write_report(run).read_bytes() == before


def test_names_are_escaped_and_lead_nowhere(tmp_path, coarse):
    run = make_run(tmp_path / "a<b>&", EVIL, drop=("filters", "correlation"))
    config = json.loads((run / "config.json").read_text())
    write_json(run / "config.json", config | {EVIL: {EVIL: EVIL}, "preset": EVIL})
    page = read(report.write_report(run))
    assert {tag for tag, _ in page.tags} & {"script", "b"} == set()
    assert page.texts["title"] == ["Run a<b>&"]
    assert any(EVIL in text for text in page.texts["p"])
    assert EVIL in page.texts["td"]
    plain = re.sub("[^A-Za-z0-9_-]", "_", EVIL)
    written = {path.name for path in (run / "figures").iterdir()}
    assert written == {"loss_terms.png", f"views_{plain}.png", f"driving_{plain}.png"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a<b>&"]


def test_stages_with_like_names_have_files_of_their_own(tmp_path, coarse):
    run = make_run(tmp_path / "run", "V/1", "V:1", "v_1", drop=("filters", "correlation", "driving"))
    report.write_report(run)
    written = {path.name for path in (run / "figures").iterdir()}
    assert written == {"loss_terms.png", "views_V_1.png", "views_V_1-2.png", "views_v_1-3.png"}


@pytest.mark.parametrize(
    ("groups", "pictures", "said"),
    [
        (("filters",), 4, ["filters, Gabor fits and tuning"]),
        (("filters/initial",), 4, ["filters, Gabor fits and tuning"]),
        (("filters", "views", "driving"), 2, ["filters", "pairs of views", "patches that drive"]),
        (("filters", "correlation"), 3, ["filters", "cross-correlations"]),
    ],
)
def test_a_missing_group_is_left_out_and_said(tmp_path, coarse, groups, pictures, said):
    page = read(report.write_report(make_run(tmp_path / "run", "V1", drop=groups)))
    assert len(page.all("img")) == pictures
    assert [line.startswith(start) for line, start in zip(page.texts["li"], said, strict=True)] == [True] * len(said)


def test_an_unfinished_run_has_a_report(tmp_path, coarse):
    run = make_run(tmp_path / "run", "V1")
    (run / "summary.json").unlink()
    (run / "analysis.safetensors").unlink()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "V1", "st')  # killed while writing
    page = read(report.write_report(run))
    assert len(page.all("img")) == 1
    assert len(page.texts["li"]) == 5
    assert "training or its analysis has not finished" in page.texts["li"][0]


def test_only_a_configuration_is_needed(tmp_path):
    write_json(tmp_path / "config.json", {"format": FORMAT})
    page = read(report.write_report(tmp_path))
    assert page.all("img") == []
    assert any("no lines in metrics.jsonl" in line for line in page.texts["li"])


def test_a_path_that_is_not_utf8_is_shown(tmp_path):
    write_json(tmp_path / "config.json", {"format": FORMAT, "command": "lcl train --images caf\udce9"})
    assert r"lcl train --images caf\udce9" in report.write_report(tmp_path).read_text(encoding="utf-8")


def test_stages_are_in_the_order_of_the_summary(tmp_path, coarse):
    run = make_run(tmp_path / "run", "Z", "A", drop=("filters", "driving"))
    captions = [text for text in read(report.write_report(run)).texts["figcaption"] if text.startswith("Pairs")]
    assert [re.search("that (.) was", caption)[1] for caption in captions] == ["Z", "A"]


def test_sections_are_appended_in_the_order_of_names(tmp_path):
    write_json(tmp_path / "config.json", {"format": FORMAT})
    (tmp_path / "sections").mkdir()
    png = (b"\x89PNG", base64.b64encode(b"\x89PNG").decode())
    picture = report.picture(png[0], caption="1 < 2", alt="a picture", width_in=5)
    (tmp_path / "sections" / "b.html").write_text(report.section("Second", report.name_table({"x": 1.5})))
    (tmp_path / "sections" / "a.html").write_text(report.section("First & best", picture))
    (tmp_path / "sections" / "notes.txt").write_text("not a section")
    page = read(report.write_report(tmp_path))
    assert page.texts["h2"][:2] == ["First & best", "Second"]
    assert page.all("img")[0]["src"].endswith(png[1])
    assert "not a section" not in (tmp_path / "report.html").read_text()


def test_a_report_that_cannot_be_put_in_place_leaves_the_old_one(tmp_path, monkeypatch, coarse):
    run = make_run(tmp_path / "run", "V1", drop=("filters", "driving", "correlation"))
    report.write_report(run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    summary = json.loads((run / "summary.json").read_text())
    summary["stages"]["V1"]["held_out_loss"] = 1.0
    write_json(run / "summary.json", summary)
    before.pop(run / "summary.json")

    replace = Path.replace

    def fail(self, target):
        if Path(target).name == "report.html":
            assert self.stat().st_size > 1000  # the new page is complete, beside the old one
            raise OSError("no space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        report.write_report(run)
    assert {path: path.read_bytes() for path in before} == before
    assert {path for path in run.rglob("*") if path.is_file()} == {*before, run / "summary.json"}


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(FileNotFoundError, match=r"config\.json does not exist; expected a run folder"):
            report.write_report(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", ["config.json", "summary.json"])
def test_another_format_is_refused(tmp_path, file):
    run = make_run(tmp_path / "run", "V1")
    write_json(run / file, {"format": FORMAT + 1})
    with pytest.raises(ValueError, match=f"{file} has format {FORMAT + 1}"):
        report.write_report(run)


@pytest.mark.parametrize("line", ["not JSON", '{"stage": "V1"}', "[]", '{"stage": "V1", "step": 1, "loss": "high"}'])
def test_a_broken_line_of_metrics_is_named(tmp_path, line):
    run = make_run(tmp_path / "run", "V1")
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(line + "\n" + text)
    with pytest.raises(ValueError, match=r"Line 1 of .*metrics\.jsonl is no line of metrics"):
        report.write_report(run)
