import numpy as np
import pytest
from PIL import Image
from skimage import data

from stimuli import texture_sources as t


def test_photographs_are_windows_of_scikit_images():
    sources = {source.name: source for source in t.photographs()}
    assert np.array_equal(sources["grass"].picture, data.grass()[:256, :256] / 255)
    assert np.array_equal(sources["gravel"].picture, data.gravel()[100:356, 100:356] / 255)
    assert np.array_equal(sources["brick"].picture, data.brick()[128:512, 64:448] / 255)
    luma = data.chelsea()[:80, 176:256] @ [0.299, 0.587, 0.114] / 255
    assert np.abs(sources["fur"].picture - luma).max() < 1 / 255


def test_the_free_sources_may_be_passed_on():
    sources = t.free_sources()
    assert len({source.name for source in sources}) == 15
    allowed = ("CC0", "public domain", "MIT", "that of lcl")
    assert all(source.licence.startswith(allowed) for source in sources)
    assert all(source.origin for source in sources)
    kinds = [source.kind for source in sources]
    assert (kinds.count("photograph"), kinds.count("print"), kinds.count("procedural")) == (10, 1, 4)


def test_the_notice_lies_beside_the_pictures():
    import stimuli

    folder = t.Path(stimuli.__file__).parent / "data" / "portilla_simoncelli"
    assert "LabForComputationalVision" in (folder / "LICENSE").read_text()


@pytest.mark.shared
def test_pictures_of_portilla_and_simoncelli_are_the_originals(shared):
    for source in t.portilla_simoncelli():
        file = {"reptile_skin": "reptil_skin"}.get(source.name, source.name)
        assert np.array_equal(source.picture, t.read_grey(shared / "textures/portilla_simoncelli" / f"{file}.png"))


@pytest.mark.shared
def test_a_users_folder(shared):
    sources = t.folder_sources(shared / "textures" / "dtd", licence="research only")
    assert len(sources) == 15
    assert {source.picture.shape for source in sources} == {(256, 256)}
    assert {source.licence for source in sources} == {"research only"}


def test_shrinking_averages_areas():
    picture = np.random.default_rng(0).random((64, 64))
    blocks = picture.reshape(16, 4, 16, 4).mean(axis=(1, 3))
    assert np.allclose(t.resample(picture, 16), blocks, atol=1e-6)
    assert np.allclose(t.resample(picture, 64), picture, atol=1e-7)
    assert np.allclose(t.resample(np.pad(picture, ((0, 0), (9, 9))), 64), picture, atol=1e-7)
    assert t.resample(picture, 96).shape == (96, 96)


def neumann_laplacian(u):
    padded = np.pad(u, 1, mode="edge")
    return padded[2:, 1:-1] + padded[:-2, 1:-1] + padded[1:-1, 2:] + padded[1:-1, :-2] - 4 * u


def periodic_laplacian(u):
    return sum(np.roll(u, step, axis) for step in (1, -1) for axis in (0, 1)) - 4 * u


@pytest.mark.parametrize("shape", [(32, 32), (31, 40)])
def test_periodic_component_has_the_laplacian_of_the_picture_without_its_jumps(shape):
    u = np.random.default_rng(0).random(shape) + np.linspace(0, 3, shape[1])
    p = t.periodic_component(u)
    assert np.allclose(periodic_laplacian(p), neumann_laplacian(u))
    assert p.mean() == pytest.approx(u.mean())


@pytest.mark.parametrize("name", t.PROCEDURAL)
def test_drawn_textures_repeat_themselves_and_follow_their_seed(name):
    draw = t.PROCEDURAL[name]
    picture = draw(96, 0)
    assert picture.shape == (96, 96)
    assert picture.min() >= 0
    assert picture.max() <= 1
    assert np.array_equal(picture, draw(96, 0))
    assert not np.allclose(picture, draw(96, 1))
    inside = np.abs(np.diff(picture, axis=1)).mean()
    across = np.abs(picture[:, 0] - picture[:, -1]).mean()
    assert across < 2 * inside


def test_files_of_a_folder(tmp_path):
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (20, 30)).astype(np.uint8)
    colours = rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "b.png")
    Image.fromarray(colours).save(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("no picture")
    sources = t.folder_sources(tmp_path, licence="mine")
    assert [source.name for source in sources] == ["a", "b"]
    assert np.array_equal(sources[1].picture, grey / 255)
    assert np.abs(sources[0].picture - colours @ [0.299, 0.587, 0.114] / 255).max() < 1 / 255


def test_bad_input_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no picture in"):
        t.folder_sources(tmp_path)
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match="has mode I"):
        t.folder_sources(tmp_path)
    (tmp_path / "deep.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match="cannot be read as a picture"):
        t.folder_sources(tmp_path)
    with pytest.raises(ValueError, match="'flat' is blank"):
        t.TextureSource("flat", np.ones((4, 4)))
    with pytest.raises(ValueError, match="called 'a/b'"):
        t.TextureSource("a/b", np.eye(4))
    with pytest.raises(ValueError, match="has shape"):
        t.TextureSource("rgb", np.zeros((4, 4, 3)))
