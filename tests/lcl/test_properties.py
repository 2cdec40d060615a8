"""Tables of single-unit properties from models whose answer is known, and the commands as a user runs them."""

import csv
import json

import numpy as np
import pytest
import torch
import xarray as xr

from lcl.cli import main
from lcl.measure import file_name, named_models
from lcl.properties import (
    layer_units,
    measure_modulation,
    measure_tuning,
    modulation_rows,
    over_units,
    property_rows,
    property_table,
    reading,
    resampled_families,
    similarity_rows,
    texture_set,
    tuning_rows,
    write_properties,
)
from neural_fits.gabor import gabor
from neural_fits.vision_model import VisionModel
from stimuli.drawing import png
from stimuli.stimulus_set import StimulusSet, write_hdf5
from stimuli.textures import matched_noise

SIDE = 32


def dots(n_families=4, n_samples=4):
    """Sparse dots, whose fourth moment noise of their spectrum has not; sizes differ between families."""
    rng = np.random.default_rng(0)
    images, rows = [], []
    for family in range(n_families):
        for sample in range(n_samples):
            picture = np.zeros((SIDE, SIDE))
            size = 1 + family
            for y, x in rng.integers(0, SIDE, (8, 2)):
                picture[np.ix_((y + np.arange(size)) % SIDE, (x + np.arange(size)) % SIDE)] = 1
            picture -= picture.mean()
            noise = matched_noise(picture, seed=[family, sample])
            scale = 0.45 / max(np.abs(picture).max(), np.abs(noise).max())
            for kind, each in (("texture", picture), ("noise", noise)):
                images.append(0.5 + scale * each)
                rows.append((kind, f"dots {family}", sample))
    kind, family, sample = (np.array(column) for column in zip(*rows, strict=True))
    parameters = {"type": kind, "family": family, "sample": sample}
    return StimulusSet(np.array(images, np.float32), parameters, pixels_per_degree=8.0, name="dots")


def moments(x):
    """Two units each: of the second moment, which the spectrum sets, and of the fourth, which it does not."""
    flat = x.flatten(1) - 0.5
    second, fourth = (flat**2).mean(1), (flat**4).mean(1)
    gains = torch.tensor([1.0, 2.0])
    return {"V1": second[:, None] * gains, "V2": fourth[:, None] * gains}


def oriented(x):
    """Rectified Gabor filters of four orientations, and their energies."""
    angles = (20, 65, 110, 155)
    even, odd = (
        np.stack(
            [
                gabor(SIDE, SIDE, orientation_deg=a, frequency_cpp=0.25, phase_deg=p, across_px=3, along_px=3)
                for a in angles
            ]
        )
        for p in (0, 90)
    )
    flat = (x - 0.5).flatten(1)
    e, o = (flat @ torch.from_numpy(bank.reshape(4, -1)).float().T for bank in (even, odd))
    return {"simple": e.relu(), "energy": (e**2 + o**2).sqrt()}


def small(module, name, **options):
    return VisionModel(module, name, channels=1, input_px=SIDE, field_deg=4.0, **options)


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Figures of few pixels: their content is tested with the figures."""
    monkeypatch.setattr("lcl.properties.png", lambda figure: png(figure, dpi=15))


@pytest.fixture(scope="module")
def modulated():
    return measure_modulation({"moments": small(moments, "moments")}, dots(), n_resamples=200)


@pytest.fixture(scope="module")
def tuned():
    models = {"oriented": small(oriented, "oriented"), "one": small(oriented, "one", layers=("energy",))}
    return measure_tuning(models, n_phases=4, n_sized=2, n_resamples=100)


def test_a_unit_of_the_spectrum_has_no_index_and_one_of_higher_order_has(modulated):
    first, second = modulation_rows(modulated)
    assert (first["layer"], second["layer"]) == ("V1", "V2")
    assert first["modulation"] == pytest.approx(0, abs=1e-6)
    fourth = ((dots().images.astype(float) - 0.5) ** 4).mean((1, 2)).reshape(4, 4, 2).mean(1)
    by_hand = ((fourth[:, 0] - fourth[:, 1]) / fourth.sum(1)).mean()
    assert second["modulation"] == pytest.approx(by_hand, rel=1e-3)
    assert second["modulation_low"] > 0.1
    assert second["modulation_families_low"] > 0.1
    assert second["control_low"] < 0 < second["control_high"] < second["modulation_low"]
    assert second["difference"] == pytest.approx(second["modulation"] - first["modulation"])
    assert second["difference_low"] > 0
    assert np.isnan(first["difference"])
    assert reading(second) == "above 0, as in V2"
    assert reading({**second, "modulation_low": -0.1}) == "not told from 0"
    assert second["undefined_units"] == second["undefined_pairs"] == 0
    assert second["n_samples"] == 4
    for kind in ("family", "sample"):
        assert 0 <= second[f"{kind}_accuracy_1_low"] <= second[f"{kind}_accuracy_1"] <= 1
        assert np.isnan(second[f"{kind}_accuracy_3"])  # a layer of two units


def test_families_are_resampled_as_units_are_averaged():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5, 7))
    values[rng.random(values.shape) < 0.3] = np.nan
    values[:, 0] = np.nan
    picks = rng.integers(0, 5, (20, 5))
    counts = np.stack([np.bincount(pick, minlength=5) for pick in picks]).astype(float)
    found = resampled_families(xr.DataArray(values, dims=("family", "unit")), counts)
    for pick, mean in zip(picks, found, strict=True):
        units = [v[np.isfinite(v)].mean() for v in values[pick].T if np.isfinite(v).any()]
        assert mean == pytest.approx(np.mean(units))


def test_intervals_over_units():
    values = np.random.default_rng(0).lognormal(1.0, 0.5, 400)
    average, low, high, undefined = over_units([*values, np.nan], "geometric mean")
    assert undefined == 1
    assert average == pytest.approx(np.exp(np.log(values).mean()))
    assert (np.log(high) - np.log(low)) / 2 == pytest.approx(1.96 * 0.5 / 20, rel=0.15)
    nothing = over_units([np.nan, np.nan], "median")
    assert np.isnan(nothing[:3]).all()
    assert nothing[3] == 2


def test_tuning_of_known_filters(tuned):
    simple, energy, one = tuning_rows(tuned)
    assert simple["simple"] == 1
    assert energy["simple"] == 0
    assert simple["peak_frequency_cpd"] == pytest.approx(2.0, rel=0.1)  # 0.25 cycles/px at 8 px/deg
    assert (simple["n_units"], simple["n_sized"], simple["undriven_units"]) == (4, 2, 0)
    assert simple["circular_variance_low"] <= simple["circular_variance"] <= simple["circular_variance_high"] < 0.3
    # the draws of units that are shown sizes differ, the rest does not
    assert {k: v for k, v in one.items() if k.startswith("circ")} == {
        k: v for k, v in energy.items() if k.startswith("circ")
    }
    assert list(layer_units(tuned["oriented"])) == ["simple", "energy"]
    assert len(layer_units(tuned["oriented"])["energy"].unit) == 4


def test_similarity_counts_units_of_the_right_kind(tuned):
    rows = {(row["model"], row["layer"], row["distribution"]): row for row in similarity_rows(tuned)}
    simple = rows["oriented", "simple", "peak_frequency_cpd/simple_foveal"]
    assert simple["n_units"] == 4
    assert simple["low"] <= simple["score"] + 1e-9
    assert simple["score"] <= simple["high"] + 1e-9
    assert 0 < simple["score"] < simple["ceiling"] <= 1
    none = rows["oriented", "energy", "peak_frequency_cpd/simple_foveal"]
    assert none["n_units"] == 0
    assert np.isnan(none["score"])
    assert rows["oriented", "energy", "summation_field_deg"]["n_units"] == 2  # those that were shown sizes


def test_textures_come_from_a_file_with_their_aperture(tmp_path):
    stimuli = dots()
    path = write_hdf5(stimuli, tmp_path / "textures.h5")
    for source in (path, tmp_path):
        shown = texture_set(source, aperture_deg=1.5)
        assert shown.aperture == "raised cosine, radius 1.5 deg"
        assert (shown.images[:, 0] == 0.5).all()
        assert len(shown) == len(stimuli)
    assert texture_set(path, aperture_deg=0, shifts=2).aperture == "none"
    bare = write_hdf5(StimulusSet(stimuli.images, {"type": stimuli.parameters["type"]}), tmp_path / "bare.h5")
    with pytest.raises(ValueError, match="no column 'family'"):
        texture_set(bare)
    with pytest.raises(FileNotFoundError, match="no stimulus set"):
        texture_set(tmp_path / "nowhere.h5")


def test_everything_is_written_in_one_table(modulated, tuned, tmp_path):
    sections = write_properties(
        tmp_path, tuning_tables=tuned, modulation_tables=modulated, command="lcl properties made"
    )
    names = sorted(path.name for path in tmp_path.iterdir())
    assert [name for name in names if name.endswith(".nc")] == [
        "modulation-moments.nc",
        "tuning-one.nc",
        "tuning-oriented.nc",
    ]
    assert {"properties.csv", "similarity.csv", "modulation.png", "decoding.png", "orientation.png"} <= set(names)
    with (tmp_path / "properties.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["layer"]) for row in rows] == [
        ("moments", "V1"),
        ("moments", "V2"),
        ("oriented", "simple"),
        ("oriented", "energy"),
        ("one", "energy"),
    ]
    assert float(rows[1]["modulation"]) == modulation_rows(modulated)[1]["modulation"]
    assert rows[0]["circular_variance"] == ""
    with xr.open_dataset(tmp_path / "modulation-moments.nc", engine="h5netcdf") as table:
        assert table.attrs["command"] == "lcl properties made"
        assert table.attrs["stimuli"] == "dots"
        assert "numpy" in json.loads(table.attrs["provenance"])["versions"]
        np.testing.assert_allclose(table.modulation, modulated["moments"].modulation)
    assert sections[0].count("<figure>") == 4 + 1 + 3 + 2
    assert "noise against noise" in sections[0]


def test_the_table_of_the_page_shows_intervals_and_what_is_missing(modulated, tuned):
    html = property_table(property_rows(tuned, modulated))
    row = modulation_rows(modulated)[1]
    assert f"<td>{row['modulation']:.3f}<small>{row['modulation_low']:.3f} to " in html
    assert f"<td>{row['modulation']:.3f}<small>{row['modulation_families_low']:.3f} to " in html
    assert "<td>–</td>" in html
    assert html.count('<th scope="row">') == 5


@pytest.fixture
def own_models(tmp_path, monkeypatch):
    """A module of the user's, in the working directory, and a set of textures."""
    lines = [
        "import torch",
        "from neural_fits.vision_model import VisionModel",
        "def make():",
        "    torch.manual_seed(0)",
        "    net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 9), torch.nn.ReLU(), torch.nn.Conv2d(4, 3, 5))",
        "    return VisionModel(net, 'own', channels=1, input_px=32, field_deg=4.0, mean=(0.5,), layers=('1', '2'))",
    ]
    (tmp_path / "properties_models.py").write_text("\n".join(lines), encoding="utf-8")
    write_hdf5(dots(), tmp_path / "textures.h5")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands(own_models, capsys):
    quick = ["--n-resamples", "50", "--no-progress", "--out"]
    textures = ["--textures", "textures.h5", "--shifts", "2", "--aperture-deg", "0"]
    both = ["properties", "properties_models:make", "untrained:properties_models:make", *textures]
    assert main([*both, "--n-phases", "4", "--n-sized", "1", "--layers", "1", *quick, "both"]) == 0
    printed = capsys.readouterr().out
    assert "own 1: modulation" in printed
    assert "own-untrained-seed0 1: circular variance" in printed
    assert "Single units: texture modulation and tuning" in (own_models / "both" / "report.html").read_text("utf-8")
    assert main(["modulation", "properties_models:make", "--n-units", "2", *textures, *quick, "half"]) == 0
    assert not list((own_models / "half").glob("tuning*"))
    with xr.open_dataset(own_models / "half" / "modulation-own.nc", engine="h5netcdf") as table:
        assert table.sizes["layer"] == 2
        assert table.attrs["n_samples"] == 16
    assert main(["tuning", "properties_models:make", "--layers", "1", "--n-units", "2", *quick, "other"]) == 0
    with xr.open_dataset(own_models / "other" / "tuning-own.nc", engine="h5netcdf") as table:
        assert table.sizes["unit"] == 2


def test_models_of_one_name_are_told_apart_by_what_was_written(own_models):
    (own_models / "others.py").write_text((own_models / "properties_models.py").read_text("utf-8"), encoding="utf-8")
    assert list(named_models(["properties_models:make", "others:make", "pixels"])) == [
        "properties_models:make",
        "others:make",
        "pixels",
    ]
    assert file_name("a/seed0") != file_name("b/seed0")


def test_textures_are_shown(own_models, capsys):
    assert main(["textures", "show", "textures.h5", "--out", "sheet.png"]) == 0
    assert "4 families, 4 samples of each" in capsys.readouterr().out
    assert (own_models / "sheet.png").read_bytes()[1:4] == b"PNG"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tuning", "pixels"], "give --out DIR"),
        (["modulation", "pixels", "--textures", "none.h5", "--out", "o"], "no stimulus set at none.h5"),
        (["modulation", "pixels", "--textures", "textures.h5", "--shifts", "0", "--out", "o"], "shifts is 0"),
        (["tuning", "properties_models:make", "--n-sized", "0", "--out", "o"], "n_sized is 0"),
        (["tuning", "properties_models:make", "--layers", "9", "--out", "o"], "has no layer '9'"),
        (["textures", "make", "somewhere", "--out", "o"], "no use for 'somewhere'"),
    ],
)
def test_mistakes_are_answered(own_models, capsys, arguments, message):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not (own_models / "o").exists()
