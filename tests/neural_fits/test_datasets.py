"""Public data: downloads against a real server that misbehaves, and readers against files made by hand."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import socket
import threading
import zipfile
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import h5py
import numpy as np
import pytest
import scipy.io
import xarray as xr
from PIL import Image

from neural_fits import datasets
from neural_fits.datasets import freeman_ziemba2013, henaff2021, v1_published
from neural_fits.datasets.fetch import DataFile, Entry, cache_folder, check_contents, download, fetch, find, locate
from neural_fits.recordings import recording_from_arrays, write_recording

BODY = bytes(range(256)) * 400
DIGESTS = {name: f"{name}:{hashlib.new(name, BODY).hexdigest()}" for name in ("sha256", "sha1")}


class Answers(BaseHTTPRequestHandler):
    """A server that sends the file, redirects to it, breaks off, sends other bytes, or has nothing."""

    def do_GET(self):
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "/good")
            self.end_headers()
        elif self.path == "/circle":
            self.send_response(302)
            self.send_header("Location", "/circle")
            self.end_headers()
        elif self.path == "/missing":
            self.send_error(404)
        elif self.path == "/mute":
            self.close_connection = True
        else:
            body = {"/good": BODY, "/short": BODY[:5000], "/wrong": BODY[::-1], "/half": BODY[:5000]}[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(BODY) if self.path == "/short" else len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True

    def log_message(self, *_):
        return


@pytest.fixture(scope="module")
def address():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def _own_places(monkeypatch, tmp_path):
    """Neither a proxy nor data of this machine."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("LCL_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def closed_port() -> str:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def toy(address: str, digest: str = DIGESTS["sha256"]) -> DataFile:
    return DataFile("toy.bin", digest, len(BODY), address)


FAILURES = {
    "/short": (ConnectionError, "broke off before its 102400 bytes were here; nothing was kept, so try again"),
    "/half": (ValueError, f"has 5000 bytes, expected {len(BODY)}: it is not the registered file; nothing was kept"),
    "/wrong": (ValueError, "has sha256 [0-9a-f]{64}, expected [0-9a-f]{64}: it is not the registered file"),
    "/missing": (ConnectionError, "answered 404 Not Found for toy.bin; nothing was kept"),
    "/circle": (ConnectionError, "cannot be reached for toy.bin .TooManyRedirects"),
    "/mute": (ConnectionError, "cannot be reached for toy.bin .ConnectionError.; check the network"),
    "closed": (ConnectionError, "cannot be reached for toy.bin .ConnectionError.; check the network"),
}


@pytest.mark.parametrize("digest", DIGESTS.values(), ids=DIGESTS)
@pytest.mark.parametrize("place", ["/good", "/redirect"])
def test_a_download_arrives_whole(address, tmp_path, place, digest):
    path = download(toy(address + place, digest), tmp_path / "made", progress=False)
    assert path == tmp_path / "made" / "toy.bin"
    assert path.read_bytes() == BODY
    assert [each.name for each in path.parent.iterdir()] == ["toy.bin"]
    (tmp_path / "plain").write_bytes(b"")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("place", FAILURES)
def test_a_failed_download_says_why_and_leaves_nothing(address, tmp_path, place):
    kind, sentence = FAILURES[place]
    where = closed_port() if place == "closed" else address + place
    with pytest.raises(kind, match=sentence) as caught:
        download(toy(where), tmp_path / "made", progress=False)
    assert len(str(caught.value).splitlines()) == 1
    assert "127.0.0.1" in str(caught.value)
    assert not list((tmp_path / "made").iterdir())


@pytest.mark.parametrize("place", FAILURES)
def test_files_that_are_there_outlive_a_failure(address, tmp_path, place):
    where = closed_port() if place == "closed" else address + place
    path = tmp_path / "toy.bin"
    path.write_bytes(BODY)
    assert download(toy(where), tmp_path, progress=False).read_bytes() == BODY  # good: nothing is asked of the server
    path.write_bytes(b"older version")
    with pytest.raises(FAILURES[place][0]):
        download(toy(where), tmp_path, progress=False)
    assert path.read_bytes() == b"older version"
    assert [each.name for each in tmp_path.iterdir()] == ["toy.bin"]


def test_a_file_that_is_not_good_is_replaced_by_a_good_one(address, tmp_path, capsys):
    (tmp_path / "toy.bin").write_bytes(BODY[:100])
    assert download(toy(address + "/good"), tmp_path, progress=True).read_bytes() == BODY
    assert "100%" in capsys.readouterr().err


def entry(*files: DataFile, **changes) -> Entry:
    named = {
        "title": "",
        "licence": "",
        "who": "",
        "citation": "",
        "source": "Ask for it.",
    }
    return Entry("toy", files=files, **{**named, **changes})


def test_fetch_puts_files_where_they_are_looked_for(address, tmp_path, monkeypatch):
    one = entry(toy(address + "/good"))
    assert locate(one, one.files[0]) is None
    (path,) = fetch(one, progress=False)
    assert path == cache_folder() / "toy" / "toy.bin"
    assert find(one, one.files[0]) == path
    monkeypatch.setenv("LCL_DATA", str(tmp_path / "mine"))
    (mine,) = fetch(one, progress=False)
    assert mine == tmp_path / "mine" / "toy" / "toy.bin"
    assert find(one, one.files[0]) == mine  # the variable comes before the cache
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "toy.bin").write_bytes(BODY)
    for data in (tmp_path / "given", tmp_path / "given" / "toy.bin"):
        assert find(one, one.files[0], data) == tmp_path / "given" / "toy.bin"
    with pytest.raises(FileNotFoundError, match=r"toy.bin of toy is not here \(looked for .*`lcl data fetch toy`"):
        find(one, one.files[0], tmp_path)  # a path that is given is the only one looked in
    with pytest.raises(FileNotFoundError, match="There is no file or folder"):
        find(one, one.files[0], tmp_path / "nowhere")


def test_what_cannot_be_downloaded_says_where_it_is(address):
    with pytest.raises(ValueError, match=r"toy cannot be downloaded by this command. Ask for it."):
        fetch(entry(DataFile("toy.bin")))
    with pytest.raises(ValueError, match="has no address and hash"):
        download(DataFile("toy.bin", address=address), ".")


def test_a_damaged_copy_is_named(tmp_path):
    path = tmp_path / "toy.bin"
    path.write_bytes(BODY[:-1] + b"x")
    file = toy("")
    with pytest.raises(ValueError, match=r"toy.bin has sha256 .* expected .*: it is damaged or another version"):
        find(entry(file), file, path)
    path.write_bytes(BODY)
    check_contents(path, file)


@pytest.mark.parametrize("name", datasets.REGISTRY)
def test_every_entry_is_complete(name):
    held = datasets.REGISTRY[name]
    assert held.name == name
    assert all((held.title, held.licence, held.who, held.citation, held.source, held.files))
    assert (name in datasets.LOADERS) != (name == "v1_published")
    for file in held.files:
        if file.digest:
            algorithm, digest = file.digest.split(":")
            assert len(digest) == 2 * hashlib.new(algorithm).digest_size
        if file.address:
            assert file.address.startswith("https://")
            assert file.digest


def test_load_reads_files_and_refuses_what_it_does_not_know(tmp_path):
    recording = recording_from_arrays(np.ones((3, 2, 1)), name="toy")
    path = write_recording(recording, tmp_path / "toy.nc")
    loaded = datasets.load(path)
    assert loaded.responses.shape == (3, 2, 1)
    loaded.dataset.close()
    with pytest.raises(ValueError, match="There is no recording 'henaf'; expected one of henaff2021"):
        datasets.load("henaf")
    with pytest.raises(ValueError, match="populations cannot be given"):
        datasets.load(path, populations=("a",))
    with pytest.raises(FileNotFoundError, match=r"henaff2021_v1.h5 of henaff2021 is not here"):
        datasets.load("henaff2021")


def test_verify_names_every_file(tmp_path, address, monkeypatch):
    monkeypatch.setitem(datasets.REGISTRY, "toy", entry(toy(address + "/good"), DataFile("second.bin", "sha1:0")))
    with pytest.raises(FileNotFoundError, match="`lcl data fetch toy`"):
        list(datasets.verify("toy"))
    (tmp_path / "toy.bin").write_bytes(BODY)
    found = list(datasets.verify("toy", tmp_path))
    assert [(path.name, good) for path, good, _ in found] == [("toy.bin", True), ("second.bin", False)]
    assert datasets.here("toy", tmp_path) == []
    renamed = tmp_path / "renamed.bin"
    renamed.write_bytes(BODY)
    assert list(datasets.verify(renamed)) == [(renamed, True, "is as registered")]
    (tmp_path / "toy.bin").write_bytes(b"x")
    ((path, good, finding),) = datasets.verify(tmp_path)
    assert (path.name, good) == ("toy.bin", False)
    assert "has 1 bytes, expected" in finding
    renamed.write_bytes(b"x")
    with pytest.raises(ValueError, match="none of the registered files, neither by name nor by hash"):
        list(datasets.verify(renamed))


# ------------------------------------------------------------------ Hénaff et al. 2021


def henaff_file(path, counts: dict[str, np.ndarray]) -> None:
    """A packed file of the documented layout, with other numbers."""
    shown = list(henaff2021._shown())
    with h5py.File(path, "w") as file:
        file.attrs["format"] = henaff2021.FORMAT
        file["images"] = np.arange(440 * 4, dtype=np.uint8).reshape(440, 2, 2)
        file["image_info/stimulus_id"] = np.arange(1, 441, dtype=np.int16)
        file["image_info/zoom_index"] = [henaff2021.ZOOMS.index(z) for z, _, _, _ in shown]
        file["image_info/category_index"] = [henaff2021.CATEGORIES.index(c) for _, c, _, _ in shown]
        file["image_info/movie_index"] = [m - 1 for _, _, m, _ in shown]
        file["image_info/frame_index"] = [f - 1 for _, _, _, f in shown]
        for name, values in counts.items():
            group = file.create_group(f"populations/{name}")
            group["counts"] = values
            group["cluster_id"] = np.arange(values.shape[2]) + 7
            group["cluster_group"] = np.ones(values.shape[2], int)
            group["blank_rate_hz"] = np.full(values.shape[2], 2.5)
            group.attrs["response_latency_ms"] = 40.0


def test_henaff_populations_share_one_axis(tmp_path):
    rng = np.random.default_rng(0)
    counts = {name: rng.integers(-1, 5, size=(440, n, 2)) for name, n in (("ay2_u007", 3), ("ay4_u005", 5))}
    henaff_file(tmp_path / "toy.h5", counts)
    recording = datasets.load(tmp_path / "toy.h5", populations=("ay4_u005", "ay2_u007"))
    assert recording.repeats().shape == (440, 5, 4)
    for neurons, values in ((slice(0, 2), counts["ay2_u007"]), (slice(2, 4), counts["ay4_u005"])):
        held = recording.repeats()[:, :, neurons]
        assert np.array_equal(held[:, : values.shape[1]], np.where(values < 0, np.nan, values), equal_nan=True)
        assert np.isnan(held[:, values.shape[1] :]).all()
    assert recording.labels("neuron_id").tolist() == ["ay2_u007_c7", "ay2_u007_c8", "ay4_u005_c7", "ay4_u005_c8"]
    assert recording.labels("animal").tolist() == ["ay2", "ay2", "ay4", "ay4"]
    assert recording.labels("window_end_ms").tolist() == [240.0] * 4
    assert np.isnan(recording.size_deg)

    part = henaff2021.read(tmp_path / "toy.h5", populations=["ay2_u007"], categories=("natural", "synthetic"))
    assert part.n_stimuli == 400
    assert set(part.labels("category")) == {"natural", "synthetic"}
    index = henaff2021.sequence_index(part)
    assert (index.sel(category="contrast") == -1).all()
    rows = index.sel(zoom="zoom2x", category="synthetic", movie=4).values
    ids = part.labels("stimulus_id")[rows].tolist()
    assert ids[0] == "zoom2x/movie04/natural01"
    assert ids[1:10] == [f"zoom2x/movie04/synthetic{frame:02d}" for frame in range(2, 11)]
    assert ids[10] == "zoom2x/movie04/natural11"
    contrast = henaff2021.sequence_index(recording).sel(zoom="zoom1x", category="contrast", movie=7).values
    assert recording.labels("stimulus_id")[contrast].tolist() == [
        *(f"zoom1x/movie07/contrast{step:02d}" for step in range(1, 11)),
        "zoom1x/movie07/natural01",
    ]


def test_henaff_groups_keep_what_belongs_together():
    table = henaff2021.stimulus_table(*zip(*henaff2021._shown(), strict=True))
    assert len(set(table["stimulus_id"])) == 440
    sizes = {title: int((table["sequence"] == title).sum()) for title in henaff2021.MOVIES}
    assert sizes == {
        title: 50 if number in henaff2021.CONTRAST_MOVIES else 40 for number, title in enumerate(henaff2021.MOVIES, 1)
    }
    natural = table["category"] == "natural"
    blocks = {int(f): int(b) for f, b in zip(table["frame"][natural], table["frame_block"][natural], strict=True)}
    assert list(blocks.values()) == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3]
    assert set(table["frame_block"][table["category"] == "contrast"]) == {0}


def test_henaff_from_clones(tmp_path):
    """Files of the authors' layout: every number says where it is."""
    responses, images = (tmp_path / name for name in henaff2021.CLONES)
    repeat, unit, frame, movie, category, zoom = np.indices((2, 3, 11, 10, 3, 2))
    values = repeat + 10.0 * unit + 100.0 * frame + 2000.0 * movie + 20000.0 * category + 60000.0 * zoom
    values[1, 2] = np.nan
    (responses / "V1_responses").mkdir(parents=True)
    with h5py.File(responses / "V1_responses" / "ay3_u001_image_sequences.mat", "w", userblock_size=512) as file:
        file["naturalStruct/sortedResponses"] = values
        for name, each in (("cluster_list", [4, 5, 9]), ("cluster_group", [1, 1, 2]), ("mean_blank_rates", [0, 1, 2])):
            file[f"naturalStruct/{name}"] = np.array(each, float)[:, None]
        file["naturalStruct/response_latency"] = [[0.038]]
    pixels = np.zeros((512, 512), np.uint8)
    pixels[:256] = np.arange(512) // 4
    pixels[0, :4] = (0, 1, 1, 1)
    for movie_number in henaff2021.CONTRAST_MOVIES:
        folder = images / "images/acute/stimulus_fullfield/stimSelected-zoom1x" / f"movie{movie_number}"
        folder.mkdir(parents=True)
        for step in range(1, 11):
            Image.fromarray(pixels + np.uint8(step)).save(folder / f"contrast{step:02d}.png", compress_level=1)
    options = {"populations": "ay3_u001", "categories": "contrast"}
    recording = datasets.load("henaff2021", data=tmp_path, **options)
    assert recording.repeats().shape == (40, 2, 3)
    row = recording.labels("stimulus_id").tolist().index("zoom1x/movie04/contrast06")
    assert recording.repeats()[row, :, :2].tolist() == [[46500.0, 46510.0], [46501.0, 46511.0]]
    assert np.isnan(recording.repeats()[row, 1, 2])
    assert recording.labels("window_start_ms").tolist() == [38.0] * 3
    assert recording.labels("neuron_id").tolist() == ["ay3_u001_c4", "ay3_u001_c5", "ay3_u001_c9"]
    assert recording.images is not None
    assert recording.images.shape == (40, 128, 128)
    assert recording.images[row, :, 5].tolist() == [5 + 6] * 64 + [6] * 64
    assert recording.images[0, 0, 0] == 1  # 3/16 + 1, rounded
    whole = henaff2021.from_originals(responses, images, image_px=512, **options)
    assert whole.images is not None
    assert np.array_equal(whole.images[row], pixels + 6)

    with pytest.raises(FileNotFoundError, match=r"natural01.png; clone the images again"):
        henaff2021.from_originals(responses, images, populations="ay3_u001", categories="natural")
    with pytest.raises(FileNotFoundError, match="clone the responses again"):
        henaff2021.from_originals(responses, images, categories="contrast")
    with pytest.raises(ValueError, match="image_px must divide 512, not 100"):
        henaff2021.from_originals(responses, images, image_px=100)
    with pytest.raises(ValueError, match="There is no population 'ay9'"):
        henaff2021.from_originals(responses, images, populations=["ay9"])


def test_henaff_refuses_other_files(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["images"] = np.zeros(3)
    with pytest.raises(ValueError, match="is not a packed henaff2021 file"):
        henaff2021.read(tmp_path / "other.h5")
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file.attrs["format"] = henaff2021.FORMAT
    with pytest.raises(ValueError, match="holds no image_info/zoom_index"):
        henaff2021.read(tmp_path / "empty.h5")


# population: units, reliability (Spearman-Brown, median), units with a ceiling above 0.7; repeats; mean count
PUBLISHED_RELIABILITY = {
    "ay2_u003": (39, 0.65, 28, (30, 50), 1.89),
    "ay2_u007": (16, 0.34, 5, (27, 50), 0.91),
    "ay3_u001": (47, 0.87, 46, (38, 50), 1.70),
    "ay3_u002": (53, 0.89, 50, (31, 50), 1.46),
    "ay4_u001": (13, 0.94, 13, (33, 50), 0.89),
    "ay4_u005": (46, 0.75, 37, (28, 60), 1.25),
    "ay4_u006": (66, 0.88, 54, (24, 50), 1.86),
    "ay5_u002": (31, 0.42, 9, (32, 50), 1.02),
    "ay5_u005": (49, 0.75, 38, (28, 50), 0.86),
}


@pytest.mark.shared
def test_henaff_file_gives_the_known_reliabilities(shared):
    recording = datasets.load("henaff2021", data=shared)
    assert recording.responses.shape == (440, 60, 360)
    assert recording.check() == []
    counts = recording.repeats().astype(float)
    population = recording.labels("population")
    with h5py.File(shared / "henaff2021" / "henaff2021_v1.h5") as file:
        assert set(file["populations"]) == set(henaff2021.POPULATIONS) == set(population)
        assert np.array_equal(henaff2021.sequence_index(recording).values, file["conditions/image_index"][:])
        assert np.array_equal(recording.images, file["images"][:])
        assert [name.decode() for name in file["conditions/movie_names"]] == list(henaff2021.MOVIES)
        paths = [path.decode() for path in file["image_info/source_path"]]
        assert [path.split("-")[-1] for path in paths] == [
            f"{z}/movie{m}/{c}{f:02d}.png" for z, c, m, f in henaff2021._shown()
        ]
        for name in henaff2021.POPULATIONS:
            held = file[f"populations/{name}/counts"][:]
            assert np.nansum(counts[:, :, population == name]) == held[held >= 0].sum()
            assert np.isfinite(counts[:, :, population == name]).sum() == (held >= 0).sum()
    used = counts[np.isin(recording.labels("category"), ("natural", "synthetic"))]
    odd, even = np.nanmean(used[:, 0::2], axis=1), np.nanmean(used[:, 1::2], axis=1)
    z = [(half - half.mean(axis=0)) / half.std(axis=0) for half in (odd, even)]
    r = (z[0] * z[1]).mean(axis=0)
    reliability = 2 * r / (1 + r)
    reliable = reliability > 0.7**2
    for name, (units, median, n_reliable, repeats, mean) in PUBLISHED_RELIABILITY.items():
        at = population == name
        assert at.sum() == units
        assert round(float(np.median(reliability[at])), 2) == median
        assert reliable[at].sum() == n_reliable
        per_image = np.isfinite(counts[:, :, at]).sum(axis=1)
        assert (per_image.min(), per_image.max()) == repeats
        assert round(float(np.nanmean(counts[:, :, at])), 2) == mean
    assert reliable.sum() == 280


@pytest.mark.shared
def test_henaff_published_curvature(shared):
    table = henaff2021.published_curvature(shared)
    assert {len(column) for column in table.values()} == {720}
    assert set(table["population"]) == set(henaff2021.POPULATIONS)
    for name in henaff2021.POPULATIONS:
        for category in ("natural", "synthetic"):
            for step in (1, 2):
                at = (table["population"] == name) & (table["category"] == category) & (table["frame_step"] == step)
                assert table["movie"][at].tolist() == [*range(1, 11)] * 2
                assert table["zoom"][at].tolist() == ["zoom1x"] * 10 + ["zoom2x"] * 10
    # Natural movies are straightened, artificial sequences are bent: the result of the paper.
    straightening = table["delta_curvature_neural_deg"] - table["delta_curvature_control_deg"]
    main = table["frame_step"] == 2
    natural = np.median(straightening[main & (table["category"] == "natural")])
    artificial = np.median(straightening[main & (table["category"] == "synthetic")])
    assert natural < 0 < artificial


def test_henaff_curvature_from_a_clone(tmp_path):
    folder = tmp_path / henaff2021.CLONES[0] / "curvatureEstimations"
    folder.mkdir(parents=True)
    with (folder / "Acute data - combined_235x.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        header = ["Index", "Delta Curvature: neural", "Delta Curvature: control", "Distances"]
        header += ["Rates, correlation empirical vs predicted", "Dataset", "Pixel curvature", "sequence type", "dither"]
        writer.writerow(header)
        for row in range(40):
            kind = 1 + row // 20
            writer.writerow([row + 1, row, row / 2, 0.5, 0.9, "ay2_u003_image_sequences", 100 + row, kind, 2])
    table = henaff2021.published_curvature(tmp_path)
    assert table["population"].tolist() == ["ay2_u003"] * 40
    assert table["category"].tolist() == ["natural"] * 20 + ["synthetic"] * 20
    assert table["zoom"].tolist() == (["zoom1x"] * 10 + ["zoom2x"] * 10) * 2
    assert table["movie"].tolist() == [*range(1, 11)] * 4
    assert table["delta_curvature_control_deg"].tolist() == [row / 2 for row in range(40)]


# ------------------------------------------------------------------ Freeman, Ziemba et al. 2013

FZ = freeman_ziemba2013
SHAPE = (15, 2, 15, 20, 300)  # family, type, sample, repeat, millisecond


@pytest.fixture(scope="module")
def spikes() -> np.ndarray:
    """Two cells in the layout of the file, with a response to texture from 60 ms on; (..., cell)."""
    rng = np.random.default_rng(1)
    rate = np.full((*SHAPE, 2), 0.004)
    rate[:, 0, :, :, 70:170, 0] = 0.02
    rate[:, 1, :, :, 70:170, 0] = np.linspace(0.02, 0.1, 15)[:, None, None, None]
    rate[..., 110:200, 1] = 0.05
    return (rng.random(rate.shape, dtype=np.float32) < rate).astype(np.uint8)


@pytest.fixture(scope="module")
def mat5(spikes, tmp_path_factory):
    path = tmp_path_factory.mktemp("mat5") / "FreemanZiemba2013_V1V2data.mat"
    scipy.io.savemat(path, {"v1": spikes, "v2": spikes[..., :1]}, do_compression=True)
    return path


@pytest.fixture(scope="module")
def mat73(spikes, tmp_path_factory):
    path = tmp_path_factory.mktemp("mat73") / "FreemanZiemba2013_V1V2data.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["v1"] = np.transpose(spikes)
        file["v2"] = np.transpose(spikes[..., 1:])
    return path


def by_hand(spikes: np.ndarray, cell: int, window: slice) -> np.ndarray:
    """Rate in a window of milliseconds for each stimulus in the file's order: (450, repeat)."""
    return np.array(
        [
            [spikes[f, t, s, repeat, window, cell].mean() * 1000 for repeat in range(20)]
            for f in range(15)
            for t in range(2)
            for s in range(15)
        ]
    )


def test_both_mat_versions_are_read(mat5, mat73, spikes):
    older, newer = FZ.load_mat(mat5), datasets.load("freeman_ziemba2013", data=mat73)
    assert np.array_equal(older.repeats(), newer.repeats())
    assert older.repeats().shape == (450, 20, 2)
    assert (older.size_deg, older.window_ms, older.unit) == (4.0, (50.0, 200.0), "spikes/s")
    for cell in range(2):
        expected = by_hand(spikes, cell, slice(50, 200))
        np.testing.assert_allclose(older.repeats()[:, :, cell], expected, rtol=1e-5)
    assert FZ.load_mat(mat73, area="V2").repeats()[:, :, 0].tolist() == newer.repeats()[:, :, 1].tolist()
    assert older.labels("stimulus_id")[15 * 2 * 4 + 15 + 2] == "tex-320x320-im13-smp3"
    assert (older.labels("family")[137], older.labels("type")[137], older.labels("sample")[137]) == (13, "texture", 3)
    assert older.check() == []


def test_time_bins_are_kept_without_a_window(mat73, spikes):
    recording = FZ.load_mat(mat73, window=None)
    assert recording.responses.shape == (450, 20, 2, 30)
    np.testing.assert_allclose(recording.responses[:, :, 1, 11].values, by_hand(spikes, 1, slice(110, 120)), rtol=1e-5)
    windowed = recording.window(50, 200)
    np.testing.assert_allclose(windowed.repeats(), FZ.load_mat(mat73).repeats(), rtol=1e-5)


def test_the_window_of_single_cells_opens_at_their_latency(mat73, spikes):
    recording = FZ.load_mat(mat73, window="single_cell")
    assert recording.labels("window_start_ms").tolist() == [70.0, 110.0]
    assert recording.labels("window_end_ms").tolist() == [180.0, 220.0]
    assert np.isnan(recording.window_ms).all()
    for cell, start in ((0, 70), (1, 110)):
        expected = by_hand(spikes, cell, slice(start, start + 110))
        np.testing.assert_allclose(recording.repeats()[:, :, cell], expected, rtol=1e-5)
        psth = spikes[..., cell].reshape(-1, 30, 10).mean(axis=(0, 2)) * 1000
        assert recording.labels("baseline_hz")[cell] == pytest.approx(psth.min(), rel=1e-5)


def test_latency_by_hand():
    psth = np.full((4, 30, 2), 5.0)
    # Peak at bin 12; the minimum, 2 in bin 3, sets the threshold 2 + 0.15 * 98 = 16.7; bins 0 and 1 are too early.
    psth[0, :13, 1] = (0, 0, 10, 2, 10, 16, 17, 16, 40, 50, 60, 80, 100)
    # Peak at bin 20: the minimum is looked for from bin 10 on, so the lower one in bin 5 does not count.
    psth[1, :, 0] = 30.0
    psth[1, 5, 0], psth[1, 15, 0], psth[1, 20, 0] = 0.0, 20.0, 90.0
    # A larger response after the peak bins does not make the peak, but it makes the range: threshold 5 + 0.15 * 395.
    psth[2, 10:13, 1], psth[2, 25, 1] = (60.0, 70.0, 80.0), 400.0
    # A response at the first peak bin.
    psth[3, 7, 0] = 50.0
    assert FZ.response_latency(psth).tolist() == [8, 20, 11, 7]
    with pytest.raises(ValueError, match="psth_hz has 20 time bins"):
        FZ.response_latency(psth[:, :20])


def test_windows_by_hand():
    rates = np.zeros((4, 2, 1, 30))
    rates[..., :] = 1.0
    rates[2:, :, 0, 10:21] = 100.0
    rates[3, 1, 0, 20] = 89.0
    rates[3, :, 0, 21:] = 7.0
    conditions = np.array([0, 0, 1, 1])
    window = FZ.single_cell_window(rates, conditions)
    assert (window.start_ms.tolist(), window.end_ms.tolist()) == ([100.0], [210.0])
    assert window.rates_hz[:, :, 0].tolist() == [[1.0, 1.0], [1.0, 1.0], [100.0, 100.0], [100.0, 99.0]]
    fixed = FZ.brain_score_window(rates)
    np.testing.assert_allclose(fixed.rates_hz[:, 0, 0], [1.0, 1.0, (5 + 1000) / 15, (5 + 1000) / 15])
    late = np.ones((1, 1, 1, 30))
    late[..., 21] = 50.0
    end = FZ.single_cell_window(late, np.array([0]))
    assert (end.start_ms.item(), end.end_ms.item()) == (210.0, 300.0)  # cut at the end of the record
    with pytest.raises(ValueError, match="the window ends at 200 ms"):
        FZ.brain_score_window(rates[..., :15])
    with pytest.raises(ValueError, match="bin_ms must divide the 300 ms"):
        FZ.binned_rates(np.zeros((2, 300)), bin_ms=7)


@pytest.mark.parametrize("version", ["5", "7.3"])
def test_counts_without_time_are_read(tmp_path, version):
    rng = np.random.default_rng(2)
    cells = [rng.integers(0, 9, size=SHAPE[:-1]).astype(float) for _ in range(5)]
    path = tmp_path / "counts.mat"
    if version == "5":
        held = np.empty((2, 3), dtype=object)
        held[0, :2], held[1, :], held[0, 2] = cells[:2], cells[2:], np.zeros((0, 0))
        scipy.io.savemat(path, {"V1V2_data": held})
    else:
        with h5py.File(path, "w", userblock_size=512) as file:
            references = np.empty((3, 2), dtype=h5py.ref_dtype)
            for number, counts in enumerate(cells):
                file[f"#refs#/{number}"] = np.transpose(counts)
            file["#refs#/empty"] = np.array([0, 0], dtype=np.uint64)
            for place, name in zip(
                [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)], [0, 1, "empty", 2, 3, 4], strict=True
            ):
                references[place] = file[f"#refs#/{name}"].ref
            file["V1V2_data"] = references
    for area, expected in (("V1", cells[:2]), ("V2", cells[2:])):
        recording = FZ.load_mat(path, area=area, window=None)
        assert recording.unit == "spikes"
        assert recording.n_neurons == len(expected)
        for neuron, counts in enumerate(expected):
            assert np.array_equal(recording.repeats()[:, :, neuron], counts.reshape(450, 20))
    with pytest.raises(ValueError, match="holds counts, not records in time; window 'brain_score' needs v1 and v2"):
        FZ.load_mat(path)


def test_other_mat_files_are_refused(tmp_path, mat5):
    scipy.io.savemat(tmp_path / "other.mat", {"x": np.zeros(3)})
    with pytest.raises(ValueError, match=r"other.mat holds x; expected v1 and v2"):
        FZ.load_mat(tmp_path / "other.mat")
    scipy.io.savemat(tmp_path / "turned.mat", {"v1": np.zeros((2, 15, 15, 20, 300, 1), np.uint8)})
    with pytest.raises(ValueError, match=r"has shape \(2, 15, 15, 20, 300\); expected v1 and v2 of shape \(15, 2"):
        FZ.load_mat(tmp_path / "turned.mat")
    (tmp_path / "text.mat").write_text("no matrices here")
    with pytest.raises(ValueError, match="is not a whole MATLAB file"):
        FZ.load_mat(tmp_path / "text.mat")
    with pytest.raises(FileNotFoundError, match="There is no file"):
        FZ.load_mat(tmp_path / "absent.mat")
    whole = mat5.read_bytes()
    for size in (100, 300, len(whole) // 4):
        (tmp_path / "half.mat").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"half.mat (is not a whole MATLAB file|holds nothing)"):
            FZ.load_mat(tmp_path / "half.mat")
    with pytest.raises(ValueError, match="There is no area 'V4'"):
        FZ.load_mat(tmp_path / "other.mat", area="V4")
    with pytest.raises(ValueError, match="There is no window 'late'; expected brain_score, single_cell or None"):
        FZ.load_mat(tmp_path / "other.mat", window="late")


def test_images_come_from_a_folder(mat73, tmp_path):
    names = FZ.stimulus_table()["image_name"]
    for number, name in enumerate(names):
        Image.fromarray(np.full((4, 4), number % 251, np.uint8)).save(tmp_path / name)
    recording = FZ.load_mat(mat73, area="V2", images=tmp_path)
    assert recording.images is not None
    assert recording.images[:, 0, 0].tolist() == [number % 251 for number in range(450)]
    (tmp_path / names[7]).unlink()
    with pytest.raises(FileNotFoundError, match=f"1 of 450 images are missing from .*, such as {names[7]}"):
        FZ.load_mat(mat73, images=tmp_path)


@pytest.fixture(scope="module")
def public(spikes, tmp_path_factory):
    """An assembly, a table and pictures of six images as Brain-Score packs them, in an order of their own."""
    folder = tmp_path_factory.mktemp("public")
    chosen = [(0, 1, 3), (4, 0, 0), (4, 1, 0), (14, 0, 14), (7, 1, 7), (0, 0, 2)]  # family, type, sample
    ids = [hashlib.sha1(repr(each).encode()).hexdigest() for each in chosen]
    order = np.random.default_rng(3).permutation(len(chosen) * 20)
    stimulus, repeat = order // 20, order % 20
    presented = np.stack([spikes[(*chosen[s], r)] for s, r in zip(stimulus, repeat, strict=True)])  # (n, ms, cell)
    values = np.moveaxis(presented, 2, 0)[[0, 1, 1]]
    assembly = xr.DataArray(
        values.astype(float),
        dims=("neuroid", "presentation", "time_bin"),
        coords={
            "neuroid_id": ("neuroid", [1, 2, 103]),
            "region": ("neuroid", ["V1", "V1", "V2"]),
            "image_id": ("presentation", [ids[s] for s in stimulus]),
            "repetition": ("presentation", repeat),
            "time_bin_start": ("time_bin", np.arange(300)),
            "time_bin_end": ("time_bin", np.arange(1, 301)),
        },
        name="movshon.FreemanZiemba2013.public",
    ).transpose("neuroid", "time_bin", "presentation")
    names = [FZ.image_name(FZ.FAMILIES[f], FZ.TYPES[t], s + 1) for f, t, s in chosen]
    with (folder / "set.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image_id", "image_file_name", "texture_type", "texture_family", "sample", "filename"])
        for number, name in enumerate(names):
            family, kind, sample = chosen[number]
            writer.writerow([ids[number], name, FZ.TYPES[kind], FZ.FAMILIES[family], sample + 1, f"{ids[number]}.png"])
    with zipfile.ZipFile(folder / "set.zip", "w") as archive:
        for number, identity in enumerate(ids):
            held = io.BytesIO()
            Image.fromarray(np.full((4, 4, 3), 10 * number, np.uint8)).save(held, "png")
            archive.writestr(f"{identity}.png", held.getvalue())
    return folder, assembly, chosen, ids


@pytest.mark.parametrize("engine", ["h5netcdf", "scipy"])
def test_the_public_assembly_equals_the_whole_file(public, mat73, tmp_path, engine):
    folder, assembly, chosen, ids = public
    path = tmp_path / "public.nc"
    assembly.to_netcdf(path, engine=engine)
    part = FZ.read_public(path, folder / "set.csv", folder / "set.zip")
    whole = FZ.load_mat(mat73)
    rows = {tuple(each): row for row, each in enumerate(np.ndindex(15, 2, 15))}
    assert sorted(part.labels("stimulus_id").tolist()) == sorted(ids)
    for row, identity in enumerate(part.labels("stimulus_id")):
        number = ids.index(identity)
        same = rows[chosen[number]]
        np.testing.assert_allclose(part.repeats()[row], whole.repeats()[same], rtol=1e-5)
        for label in ("image_name", "family", "type", "sample"):
            assert part.labels(label)[row] == whole.labels(label)[same]
        assert part.images is not None
        assert (part.images[row] == 10 * number).all()
    assert part.labels("neuron_id").tolist() == ["V1_1", "V1_2"]
    assert FZ.read_public(path, folder / "set.csv", area="V2").labels("neuron_id").tolist() == ["V2_103"]
    assert FZ.read_public(path, window=None).responses.shape == (6, 20, 2, 30)
    with pytest.raises(ValueError, match="The pictures need the table"):
        FZ.read_public(path, pictures=folder / "set.zip")
    with pytest.raises(ValueError, match="A window needs the table"):
        FZ.read_public(path)


def test_incomplete_public_files_are_named(public, tmp_path):
    folder, assembly, _, ids = public
    assembly.to_netcdf(tmp_path / "public.nc", engine="h5netcdf")
    table = (folder / "set.csv").read_text()
    (tmp_path / "less.csv").write_text("".join(line for line in table.splitlines(True) if ids[2] not in line))
    with pytest.raises(ValueError, match=f"less.csv lacks 1 of 6 stimuli of the assembly, such as {ids[2]}"):
        FZ.read_public(tmp_path / "public.nc", tmp_path / "less.csv")
    (tmp_path / "bare.csv").write_text("image_id,filename\n" + "\n".join(f"{each},x.png" for each in ids))
    with pytest.raises(ValueError, match="does not say family, type and sample"):
        FZ.read_public(tmp_path / "public.nc", tmp_path / "bare.csv")
    (tmp_path / "half.zip").write_bytes((folder / "set.zip").read_bytes()[:300])
    with pytest.raises(ValueError, match=r"half.zip is not a whole ZIP file"):
        FZ.read_public(tmp_path / "public.nc", folder / "set.csv", tmp_path / "half.zip")
    assembly.drop_vars("region").to_netcdf(tmp_path / "bare.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match="has no coordinate region"):
        FZ.read_public(tmp_path / "bare.nc", folder / "set.csv")
    with pytest.raises(
        FileNotFoundError, match=r"assy_movshon_FreemanZiemba2013_public.nc of freeman_ziemba2013_public"
    ):
        datasets.load("freeman_ziemba2013_public", data=tmp_path)


def test_orders_of_families():
    assert sorted(FZ.FAMILIES) == sorted(FZ.ANALYSIS_FAMILIES)
    assert len(set(FZ.FAMILIES)) == 15


# ------------------------------------------------------------------ published V1 distributions


def test_published_distributions_are_whole():
    published = v1_published.published_distributions()
    sizes = {name: held.n for name, held in published.items()}
    assert sizes == {
        "preferred_orientation_deg": 385,
        "peak_frequency_cpd/simple_foveal": 148,
        "peak_frequency_cpd/complex_foveal": 84,
        "peak_frequency_cpd/simple_parafoveal": 78,
        "peak_frequency_cpd/complex_parafoveal": 53,
        "frequency_selective": 87,
        "frequency_bandwidth_percent/simple": 30,
        "frequency_bandwidth_percent/complex": 43,
        "surround_suppression_index": 190,
        "strongly_suppressed": 190,
        "summation_field_deg": 148,
        "surround_diameter_deg": 148,
        "surround_over_summation": 148,
        "preferred_orientation_deg/simple": 246,
        "nx_ny": 79,
    }
    for held in published.values():
        edges = 0 if held.scale == "categories" else 1
        assert all(length == len(held.bins) - edges for length in held.counts.shape)
        assert held.unit
        assert held.definition
        assert "19" in held.citation or "20" in held.citation
        if held.scale == "linear":
            np.testing.assert_allclose(np.diff(held.bins), np.diff(held.bins)[0])
        elif held.scale == "log":
            assert (np.diff(held.bins) > 0).all()
    assert published["nx_ny"].bins[0] == pytest.approx(0.1)
    # Selective cells are those whose bandwidth is known; strongly suppressed ones those whose diameters are.
    selective = dict(zip(published["frequency_selective"].bins, published["frequency_selective"].counts, strict=True))
    assert selective["selective"] == 30 + 43
    assert (
        dict(zip(published["strongly_suppressed"].bins, published["strongly_suppressed"].counts, strict=True))["yes"]
        == 148
    )


def test_another_copy_of_the_distributions_must_be_the_same(tmp_path):
    (path,) = fetch(v1_published.ENTRY)
    (tmp_path / path.name).write_text(json.dumps({**json.loads(path.read_text()), "_note": "changed"}))
    with pytest.raises(ValueError, match=r"published_v1.json has \d+ bytes, expected 5567"):
        v1_published.published_distributions(tmp_path)
