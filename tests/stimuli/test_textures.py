import builtins
import hashlib
import json

import numpy as np
import pytest
import torch
from scipy import stats

from stimuli import textures as t
from stimuli.stimulus_set import StimulusSet, read_hdf5
from stimuli.texture_sources import TextureSource, free_sources, periodic_component, procedural, resample


@pytest.fixture(scope="module")
def statistics():
    return t.TextureStatistics(128)


@pytest.fixture(scope="module")
def gravel():
    """Periodic component of a photograph of gravel, 128 px."""
    source = next(source for source in free_sources() if source.name == "gravel")
    return periodic_component(resample(source.picture, 128))


def plenoptic_statistics(images):
    plenoptic = pytest.importorskip("plenoptic")
    models = plenoptic.models if hasattr(plenoptic, "models") else plenoptic.simul
    model = models.PortillaSimoncelli(images.shape[-2:], n_scales=4, n_orientations=4, spatial_corr_width=7)
    return model, model(images[:, None])


class TestStatistics:
    def test_they_are_plenoptics(self, statistics):
        images = torch.rand(2, 128, 128, generator=torch.Generator().manual_seed(0))
        expected = torch.cat([plenoptic_statistics(each[None])[1] for each in images])
        model, _ = plenoptic_statistics(images[:1])
        assert torch.allclose(statistics(images), expected[:, 0], atol=1e-6)
        as_dict = model.convert_to_dict(expected)
        for i in range(0, len(statistics.names), 37):
            group, place = statistics.names[i][:-1].split("[")
            place = tuple(int(each) for each in place.split(","))
            assert as_dict[group][0, 0][place] == expected[0, 0, i]

    def test_every_statistic_has_one_scale(self, statistics):
        assert sorted(np.concatenate(statistics.scales).tolist()) == list(range(710))

    def test_errors_by_hand(self, statistics, gravel):
        target = statistics(torch.as_tensor(gravel, dtype=torch.float32)[None])
        changed = statistics(torch.as_tensor(0.1 + 1.2 * gravel, dtype=torch.float32)[None])
        errors = dict(zip(statistics.names, statistics.errors(changed, target)[0].tolist(), strict=True))
        deviation = gravel.std(ddof=1)
        assert errors["pixel_statistics[0]"] == pytest.approx((0.1 + 0.2 * gravel.mean()) / deviation, abs=1e-4)
        assert errors["pixel_statistics[1]"] == pytest.approx(1.44 - 1, abs=1e-4)
        assert errors["pixel_statistics[3]"] == pytest.approx(0, abs=1e-4)
        assert errors["pixel_statistics[5]"] == 0
        assert errors["magnitude_std[0,0]"] == pytest.approx(0.2, abs=1e-4)
        assert errors["std_reconstructed[4]"] == pytest.approx(0.2, abs=1e-4)
        assert errors["var_highpass_residual[0]"] == pytest.approx(0.44, abs=1e-4)
        correlations = [value for name, value in errors.items() if "correlation" in name]
        assert np.abs(correlations).max() < 1e-4

    def test_they_do_not_depend_on_where_a_picture_begins(self, statistics, gravel):
        moved = np.roll(gravel, (16, 48), axis=(0, 1))[None]
        worst, _, _ = t.compare_statistics(moved, gravel[None], statistics=statistics)
        assert worst[0] < 1e-4

    @pytest.mark.parametrize("size", [96, 120])
    def test_sizes_that_do_not_fit_are_named(self, size):
        with pytest.raises(ValueError, match=f"size_px is {size}"):
            t.TextureStatistics(size)

    def test_a_missing_plenoptic_names_the_extra(self, monkeypatch):
        original = builtins.__import__

        def without(name, *args, **options):
            if name.split(".")[0] == "plenoptic":
                raise ImportError(name)
            return original(name, *args, **options)

        monkeypatch.setattr(builtins, "__import__", without)
        with pytest.raises(ValueError, match=r"lcl\[pyramid\]"):
            t.TextureStatistics(128)


class TestSynthesis:
    def test_statistics_match_their_source_and_those_of_fresh_noise_do_not(self, statistics, gravel):
        made = t.synthesise([gravel, gravel], [1, 2], statistics=statistics, tolerance=0.1, coarse_iterations=10)
        assert made.converged.all()
        # measured by plenoptic itself
        ours = torch.cat([plenoptic_statistics(torch.as_tensor(each)[None])[1] for each in made.pictures])
        _, source = plenoptic_statistics(torch.as_tensor(gravel, dtype=torch.float32)[None])
        difference = (ours - source)[:, 0].abs().numpy()
        correlations = np.char.find(statistics.groups, "correlation") >= 0
        assert difference[:, correlations].max() < 0.05 + 1e-3
        assert np.allclose(made.pictures.mean(axis=(1, 2)), gravel.mean(), atol=0.05 * gravel.std())
        assert np.allclose(made.pictures.std(axis=(1, 2)), gravel.std(), rtol=0.05)
        # samples of a family are different pictures
        assert abs(np.corrcoef(made.pictures.reshape(2, -1))[0, 1]) < 0.2
        noise = t.matched_noise(made.pictures, seed=5)
        worst, _, rms = t.compare_statistics(noise, [gravel, gravel], statistics=statistics)
        assert (worst > 5 * made.worst_error).all()
        assert (rms > 5 * made.rms_error).all()

    def test_a_seed_gives_the_same_picture(self, statistics, gravel):
        options = {"statistics": statistics, "max_iterations": 2, "coarse_iterations": 1}
        first, again, other = (t.synthesise([gravel], [seed], **options).pictures for seed in (1, 1, 2))
        assert np.array_equal(first, again)
        assert not np.allclose(first, other)

    def test_what_has_not_converged_says_so(self, statistics, gravel):
        made = t.synthesise([gravel], [0], statistics=statistics, max_iterations=1, coarse_iterations=1)
        assert not made.converged[0]
        assert made.worst_error[0] > t.TOLERANCE
        assert made.worst_statistic[0] in statistics.names

    def test_bad_input_is_named(self, statistics):
        with pytest.raises(ValueError, match="sources have shape"):
            t.synthesise(np.zeros((1, 128, 64)), [0])
        with pytest.raises(ValueError, match="for 2 seeds"):
            t.synthesise(np.zeros((1, 128, 128)), [0, 1])
        with pytest.raises(ValueError, match="source 0 is blank"):
            t.synthesise(np.ones((1, 128, 128)), [0])
        with pytest.raises(ValueError, match="tolerance is 0"):
            t.synthesise(np.ones((1, 128, 128)), [0], tolerance=0)


class TestMatchedNoise:
    @pytest.mark.parametrize("shape", [(128, 128), (31, 40), (8, 7)])
    def test_amplitude_spectrum_mean_and_contrast_are_those_of_the_texture(self, shape):
        texture = np.random.default_rng(0).gamma(0.5, size=(3, *shape))
        noise = t.matched_noise(texture, seed=1)
        ours, theirs = np.abs(np.fft.fft2(noise)), np.abs(np.fft.fft2(texture))
        assert np.abs(ours - theirs).max() < 1e-6
        assert (t.spectral_deviation(noise, texture) < 1e-6).all()
        assert np.allclose(noise.mean(axis=(1, 2)), texture.mean(axis=(1, 2)))
        assert np.allclose(noise.std(axis=(1, 2)), texture.std(axis=(1, 2)))

    def test_phases_are_uniform_and_its_own(self, gravel):
        noise = t.matched_noise(np.stack([gravel] * 2), seed=0)
        phase = np.angle(np.fft.rfft2(noise)[:, 1:64, 1:64])
        for each in phase:
            assert stats.kstest(each.ravel(), stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 0.01
        assert abs(np.corrcoef(noise.reshape(2, -1))[0, 1]) < 0.2
        assert abs(np.corrcoef(noise[0].ravel(), gravel.ravel())[0, 1]) < 0.2
        assert np.array_equal(noise, t.matched_noise(np.stack([gravel] * 2), seed=0))

    def test_a_negative_mean_is_kept(self):
        picture = np.random.default_rng(0).random((16, 16)) - 3
        assert t.matched_noise(picture, seed=0).mean() == pytest.approx(picture.mean())


def test_contrast_factor_is_that_of_the_picture_that_would_clip_first():
    pictures = np.zeros((2, 10, 10))
    pictures[0, :, ::2] = 1.0  # deviations of a half
    pictures[1, 0, 0] = 4.0
    z = pictures[1] - 0.04
    assert t.contrast_factor(pictures, rms_contrast=9.0) == pytest.approx(0.5 / z.max())
    # the one light pixel may be clipped
    allowed = t.contrast_factor(pictures, rms_contrast=9.0, clipped_share=0.01)
    assert allowed == pytest.approx(0.5 / 0.5)
    assert t.contrast_factor(pictures[:1], rms_contrast=0.3) == pytest.approx(0.3 * 0.5 / 0.5)
    with pytest.raises(ValueError, match="rms_contrast 0"):
        t.contrast_factor(pictures, rms_contrast=0)


QUICK = {"max_iterations": 2, "coarse_iterations": 1, "progress": False, "batch_size": 2}


class TestMaking:
    def test_goes_on_with_what_is_missing(self, tmp_path, monkeypatch):
        sources = procedural(size_px=128)[:2]
        first = t.make_textures(sources, tmp_path, n_samples=1, **QUICK)
        asked = []
        original = t.synthesise

        def counted(pictures, seeds, **options):
            asked.extend(seeds)
            return original(pictures, seeds, **options)

        monkeypatch.setattr(t, "synthesise", counted)
        more = t.make_textures(sources, tmp_path, n_samples=2, **QUICK)
        assert [seed[2] for seed in asked] == [1, 1]
        assert len(more) == 8
        assert more.parameters["type"].tolist() == ["texture", "noise"] * 4
        kept = more.select(more.parameters["sample"] == 1)
        assert kept.parameters["family"].tolist() == first.parameters["family"].tolist()
        on_disk = read_hdf5(tmp_path / "textures.h5")
        assert np.array_equal(on_disk.images, more.images)
        assert on_disk.size_deg == pytest.approx(128 / 28)

    def test_an_interrupted_making_leaves_whole_pictures(self, tmp_path, monkeypatch):
        sources = procedural(size_px=128)[:2]
        original, calls = t.synthesise, []

        def interrupted(pictures, seeds, **options):
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return original(pictures, seeds, **options)

        monkeypatch.setattr(t, "synthesise", interrupted)
        with pytest.raises(KeyboardInterrupt):
            t.make_textures(sources, tmp_path, n_samples=2, **QUICK)
        assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["cells-001.npz", "cells-002.npz"]
        made = t.make_textures(sources, tmp_path, n_samples=2, **QUICK)
        assert len(calls) == 3
        assert len(made) == 8

    def test_other_parameters_are_refused(self, tmp_path):
        sources = procedural(size_px=128)[:1]
        t.make_textures(sources, tmp_path, n_samples=1, **QUICK)
        with pytest.raises(ValueError, match="was made with other parameters"):
            t.make_textures(sources, tmp_path, n_samples=1, seed=1, **QUICK)
        with pytest.raises(ValueError, match="was made with other parameters"):
            t.make_textures(procedural(size_px=128, seed=9)[:1], tmp_path, n_samples=1, **QUICK)

    def test_bad_input_is_named(self, tmp_path):
        one = procedural(size_px=128)[:1]
        with pytest.raises(ValueError, match="expected at least one"):
            t.make_textures([], tmp_path)
        with pytest.raises(ValueError, match="each with a name of its own"):
            t.make_textures(one + one, tmp_path)
        with pytest.raises(ValueError, match="n_samples is 0"):
            t.make_textures(one, tmp_path, n_samples=0)
        with pytest.raises(ValueError, match="size_px is 100"):
            t.make_textures(one, tmp_path, size_px=100)
        with pytest.raises(ValueError, match="mean_luminance is 2"):
            t.make_textures(one, tmp_path, mean_luminance=2)
        assert list(tmp_path.iterdir()) == []

    def test_the_command(self, tmp_path, capsys):
        from lcl.cli import main

        assert main(["textures", "make", "--out", str(tmp_path / "x"), "--families", "gravle"]) == 2
        assert "there is no source 'gravle'" in capsys.readouterr().err
        assert main(["textures", "make", "--out", str(tmp_path / "x"), "--sources", str(tmp_path / "none")]) == 2
        assert "no folder" in capsys.readouterr().err


@pytest.fixture(scope="module")
def ready():
    return t.ready_textures()


@pytest.fixture(scope="module")
def about():
    return t.describe_ready_textures()


def shipped(about):
    """Sources of the families in the set, in its order."""
    by_name = {source.name: source for source in free_sources()}
    return [by_name[each["family"]] for each in about["families"]]


class TestReadySet:
    """What is shipped, measured again from its pixels."""

    def test_what_it_holds(self, ready, about):
        assert ready.images.shape == (150, 128, 128)
        assert ready.parameters["type"].tolist() == ["texture", "noise"] * 75
        families, counts = np.unique(ready.parameters["family"], return_counts=True)
        assert families.tolist() == [source.name for source in shipped(about)]
        assert (counts == 10).all()
        assert [each["family"] for each in about["families"]] == families.tolist()
        assert ready.size_deg > 4  # the aperture of Freeman, Ziemba et al. fits
        assert sum(path.stat().st_size for path in t.READY.iterdir()) < 8e6

    def test_pixels_are_those_described(self, ready, about):
        for image, row in zip(ready.images, about["pictures"], strict=True):
            assert hashlib.sha256(image.tobytes()).hexdigest() == row["sha256"]
        for source, family in zip(shipped(about), about["families"], strict=True):
            assert source.licence == family["licence"]
            assert source.kind == family["kind"]

    def test_statistics_match_the_sources_and_those_of_noise_do_not(self, ready, about, statistics):
        factor = {each["family"]: each["contrast_factor"] for each in about["families"]}
        for source in shipped(about):
            of_family = ready.select(ready.parameters["family"] == source.name)
            picture = periodic_component(resample(source.picture, 128))
            levels = picture.mean() + (of_family.images / 255 - about["mean_luminance"]) / factor[source.name]
            texture = of_family.parameters["type"] == "texture"
            worst, which, rms = t.compare_statistics(levels, [picture] * 10, statistics=statistics)
            converged = of_family.parameters["converged"][texture]
            assert (worst[texture] <= about["tolerance"]).all(), (source.name, which)
            assert converged.all(), source.name
            assert worst[~texture].min() > 10 * about["tolerance"], source.name
            assert rms[~texture].min() > 10 * rms[texture].max(), source.name

    def test_noise_has_the_spectrum_mean_and_contrast_of_its_texture(self, ready):
        texture, noise = ready.images[::2] / 255, ready.images[1::2] / 255
        # what is left is the rounding to 8 bits
        assert np.abs(texture.mean(axis=(1, 2)) - 0.5).max() < 1e-3
        assert np.abs(noise.mean(axis=(1, 2)) - texture.mean(axis=(1, 2))).max() < 1e-3
        assert np.abs(noise.std(axis=(1, 2)) / texture.std(axis=(1, 2)) - 1).max() < 1e-3
        rounding = np.abs(np.fft.fft2(noise)) - np.abs(np.fft.fft2(texture))
        # of two independent errors of variance 1/12 level, per frequency
        expected = np.sqrt(2 * 128**2 / 12) / 255
        assert rounding[:, 1:, 1:].std() < 1.5 * expected
        assert np.abs(rounding).max() < 8 * expected

    def test_nothing_is_clipped_and_the_exact_spectra_were_equal(self, about):
        assert all(row["clipped_share"] == 0 for row in about["pictures"])
        assert max(row["spectral_deviation"] for row in about["pictures"][1::2]) < 1e-6

    def test_json_is_plain(self):
        text = (t.READY / "textures.json").read_text()
        json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_aperture_of_the_modelling_copy():
    images = np.full((1, 320, 320), 255, np.uint8)
    seen = t.apertured(StimulusSet(images, pixels_per_degree=80.0))
    row = seen.images[0, 160, 160:]
    assert row[0] == pytest.approx(1.0, abs=1e-3)
    assert row[79:81].mean() == pytest.approx(0.75, abs=1e-3)
    assert seen.images[0, 0, 0] == 0.5
    with pytest.raises(ValueError, match="expected grey"):
        t.apertured(StimulusSet(np.zeros((1, 8, 8, 3), np.uint8)))


def test_a_source_of_a_user_needs_no_square():
    source = TextureSource("wide", np.random.default_rng(0).random((128, 200)))
    assert resample(source.picture, 128).shape == (128, 128)


def test_shifts_keep_the_statistics_and_name_their_samples():
    picture = np.random.default_rng(0).random((3, 32, 32)).astype(np.float32)
    stimuli = StimulusSet(picture, {"sample": np.array([1, 2, 3]), "family": np.array(["a", "a", "b"])})
    more = t.shifted(stimuli, 2)
    assert more.parameters["sample"].tolist() == [f"{s}/{k}" for s in (1, 2, 3) for k in range(4)]
    assert more.parameters["family"].tolist() == ["a"] * 8 + ["b"] * 4
    spectrum = np.abs(np.fft.fft2(picture[2]))
    for k in range(4):
        np.testing.assert_allclose(np.abs(np.fft.fft2(more.images[8 + k])), spectrum, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(more.images[11], np.roll(picture[2], (16, 16), (0, 1)))
    assert t.shifted(stimuli, 1) is stimuli
    with pytest.raises(ValueError, match="shifts is 0"):
        t.shifted(stimuli, 0)
