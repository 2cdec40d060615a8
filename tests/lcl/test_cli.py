"""The command line as a user meets it: help, mistakes, strange image sources, a whole small run."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lcl
from lcl.cli import main
from neural_fits import datasets
from neural_fits.fits import read_fit
from neural_fits.recordings import recording_from_arrays, write_recording

SMALL = [
    *("--channels", "6,8", "--kernels", "5,3", "--strides", "2,1", "--paddings", "2,1", "--steps", "3,2"),
    *("--batch", "16", "--warmup", "1", "--short-side-px", "96", "--log-every", "1", "--no-progress"),
    *("--device", "cpu"),
]


def refused(capsys, *arguments: str) -> str:
    """The single sentence that a command answers a mistake with."""
    try:
        code = main(list(arguments))
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr().err.strip()
    assert code == 2, said
    assert len(said.splitlines()) == 1, said
    return said


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "small"
    assert main(["train", "--out", str(folder), *SMALL]) == 0
    return folder


def test_a_run_folder_holds_everything(run):
    names = {path.name for path in run.iterdir()}
    assert {
        "config.json",
        "weights.safetensors",
        "metrics.jsonl",
        "summary.json",
        "analysis.safetensors",
        "state.safetensors",
        "figures",
        "report.html",
    } <= names
    assert not any("partial" in name for name in names)
    summary = json.loads((run / "summary.json").read_text())
    for name in ("V1", "V2"):
        assert {"held_out_loss", "held_out_loss_at_init"} <= set(summary["stages"][name])
    assert {"gabor_fraction", "gabor_fraction_at_init"} <= set(summary["stages"]["V1"])
    assert list((run / "figures").glob("*.png"))
    assert "http" not in (run / "report.html").read_text().replace("http-equiv", "")


def test_a_run_loads_and_shows_again(run, capsys):
    assert lcl.load(run).names == ["V1", "V2"]
    (run / "report.html").unlink()
    assert main(["show", str(run)]) == 0
    assert (run / "report.html").exists()
    assert str(run / "report.html") in capsys.readouterr().out


def test_a_finished_run_says_so(run, capsys):
    assert main(["train", "--resume", str(run)]) == 0
    assert "is finished" in capsys.readouterr().out


def test_an_existing_folder_is_refused_before_anything_is_written(run, capsys):
    before = (run / "weights.safetensors").read_bytes()
    assert "is not empty; choose another --out" in refused(capsys, "train", "--out", str(run), *SMALL)
    assert (run / "weights.safetensors").read_bytes() == before


def test_settings_cannot_change_on_resume(run, capsys):
    assert "--steps cannot be changed on --resume" in refused(capsys, "train", "--resume", str(run), "--steps", "9")


def test_resume_of_nothing(tmp_path, capsys):
    assert "config.json does not exist" in refused(capsys, "train", "--resume", str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["train", "--stpes", "3"], "there is no option --stpes; did you mean --steps?"),
        (["train", "--lerning-rate=1"], "did you mean --learning-rate?"),
        (["train", "quik"], "'quik' is unknown; did you mean quick?"),
        (["train", "--steps", "many"], "argument --steps: expected a whole number, not 'many'"),
        (["train", "--precision", "fp8"], "expected one of bf16, float32, not 'fp8'"),
        (["train", "--pools", "mean"], "pools is 'mean'; expected one of max, blur, l2."),
        (["train", "--steps", "1,2,3"], "steps has 3 values"),
        (["train", "--batch", "1"], "batch is 1; expected at least 2"),
        (["train", "--amplitudes", "mached"], "expected one of matched, under, over, reversed or fixed:<px>."),
        (["train", "--translation", "-1"], "translation is -1.0; expected a number of 0 or more."),
        (["train", "--device", "abacus"], "device is 'abacus', which cannot be used here"),
        (["train", "imagenette"], "has no images of its own; give --images"),
        (["show", "nowhere"], "nowhere"),
        (["images", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_answered_by_one_sentence(arguments, answer, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert answer in refused(capsys, *arguments)
    assert not list(tmp_path.iterdir())


def test_no_command_prints_help(capsys):
    assert main([]) == 2
    assert "lcl train" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["train", "ablate", "images", "presets", "show"])
def test_help_has_examples(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"examples:\n  lcl {command}" in capsys.readouterr().out


def test_presets_and_images_are_listed(capsys):
    assert main(["presets"]) == 0
    assert main(["images"]) == 0
    listed = capsys.readouterr().out
    for word in ("quick", "imagenette", "imagenet", "astronaut", "CC0", "512 x 512 px"):
        assert word in listed


def test_three_stages_by_their_filters_alone(tmp_path, capsys):
    arguments = [
        "train",
        "--channels",
        "6,8,10",
        "--kernels",
        "3",
        "--strides",
        "1",
        "--paddings",
        "1",
        "--steps",
        "2",
        "--batch",
        "8",
        "--no-progress",
    ]
    assert main([*arguments, "--out", str(tmp_path / "run"), "--short-side-px", "96"]) == 0
    assert lcl.load(tmp_path / "run").names == ["V1", "V2", "stage3"]


def picture(path: Path, width: int, height: int, seed: int = 0) -> None:
    noise = np.random.default_rng(seed).integers(0, 255, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((width, height)).save(path)


class TestStrangeSources:
    """Each ends well or in one clear sentence."""

    def answer(self, capsys, tmp_path, source) -> str:
        said = refused(capsys, "train", "--images", str(source), "--out", str(tmp_path / "run"), *SMALL)
        assert not (tmp_path / "run").exists()
        return said

    def test_empty_folder(self, capsys, tmp_path):
        (tmp_path / "empty").mkdir()
        assert "empty" in self.answer(capsys, tmp_path, tmp_path / "empty")

    def test_missing_path(self, capsys, tmp_path):
        assert "missing" in self.answer(capsys, tmp_path, tmp_path / "missing")

    def test_folder_of_text_files(self, capsys, tmp_path):
        (tmp_path / "texts").mkdir()
        for i in range(3):
            (tmp_path / "texts" / f"{i}.txt").write_text("words")
        assert "texts" in self.answer(capsys, tmp_path, tmp_path / "texts")

    def test_one_picture(self, capsys, tmp_path):
        (tmp_path / "one").mkdir()
        picture(tmp_path / "one" / "a.png", 128, 128)
        assert "1 usable image was given" in self.answer(capsys, tmp_path, tmp_path / "one")

    def test_tiny_pictures(self, capsys, tmp_path):
        (tmp_path / "tiny").mkdir()
        for i in range(50):
            picture(tmp_path / "tiny" / f"{i}.png", 8, 8)
        said = self.answer(capsys, tmp_path, tmp_path / "tiny")
        assert "50" in said
        assert "8" in said

    def test_panorama(self, capsys, tmp_path):
        (tmp_path / "wide").mkdir()
        for i in range(3):
            picture(tmp_path / "wide" / f"{i}.jpg", 20_000 if i == 0 else 200, 400 if i == 0 else 160, i)
        code = main(["train", "--images", str(tmp_path / "wide"), "--out", str(tmp_path / "run"), *SMALL])
        assert code == 0, capsys.readouterr().err
        assert "3 pictures kept" in capsys.readouterr().out


def test_ablation_writes_table_and_figure_and_goes_on(tmp_path, capsys):
    arguments = ["ablate", "--out", str(tmp_path / "ablation"), "--seeds", "1", "--rules", "matched,under", *SMALL]
    assert main(arguments) == 0
    table = json.loads((tmp_path / "ablation" / "ablation.json").read_text())["rows"]
    assert [(row["held_fixed"], row["rule"]) for row in table] == [
        ("", "untrained"),
        ("patch side", "matched"),
        ("patch side", "under"),
        ("amplitude", "matched"),
        ("amplitude", "under"),
    ]
    assert (tmp_path / "ablation" / "ablation.png").stat().st_size > 5000
    assert len((tmp_path / "ablation" / "ablation.csv").read_text().splitlines()) == 6
    capsys.readouterr()
    assert main(arguments) == 0
    assert "held fixed | rule" in capsys.readouterr().out
    assert "other settings" in refused(capsys, *arguments, "--seed", "5")


@pytest.fixture
def server(monkeypatch, tmp_path):
    """Address of a server on this machine, and a data set on it; data of this machine are out of sight."""
    body = b"spikes" * 1000

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/moved":
                self.send_response(301)
                self.send_header("Location", "/whole")
                self.end_headers()
                return
            self.send_response(200 if self.path != "/none" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write({"/half": body[:100], "/wrong": body[::-1]}.get(self.path, body))
            self.close_connection = True

        def log_message(self, *_):
            return

    def publish(place: str, address: str | None = None) -> None:
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        file = datasets.DataFile("toy.h5", digest, len(body), (address or here) + place)
        toy = datasets.Entry("toy", "made up", (file,), "CC0", "everyone", "nobody", "It is made up.")
        monkeypatch.setitem(datasets.REGISTRY, "toy", toy)

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("LCL_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as running:
        here = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield publish
        running.shutdown()
        thread.join()


def test_public_data_are_listed_fetched_and_verified(server, tmp_path, capsys, monkeypatch):
    server("/moved")
    assert main(["data", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(datasets.REGISTRY)
    assert all(line.endswith("not here") for line in lines[1:4])
    assert lines[-1].split() == ["toy", "0.006", "MB", "CC0", "everyone", "not", "here"]
    assert "`lcl data fetch toy`" in refused(capsys, "data", "verify", "toy")

    assert main(["data", "fetch", "toy", "--to", str(tmp_path / "mine" / "toy")]) == 0
    path = tmp_path / "mine" / "toy" / "toy.h5"
    assert capsys.readouterr().out.strip() == str(path)
    assert main(["data", "list", "toy", "--data", str(tmp_path / "mine")]) == 0
    assert capsys.readouterr().out.strip().endswith(str(path))
    monkeypatch.setenv("LCL_DATA", str(tmp_path / "mine"))
    for arguments in ([], ["toy"], [str(path)], ["toy", "--data", str(path)]):
        assert main(["data", "verify", *arguments]) == 0
        assert f"{path} is as registered" in capsys.readouterr().out
    path.write_bytes(path.read_bytes()[:-1])
    said = refused(capsys, "data", "verify", "toy")
    assert (
        said == f"lcl data: {path} has 5999 bytes, expected 6000: it is incomplete or another version; fetch it again."
    )


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("/half", "broke off before its 6000 bytes were here; nothing was kept, so try again."),
        ("/wrong", "it is not the registered file; nothing was kept."),
        ("/none", "answered 404 Not Found for toy.h5; nothing was kept."),
        ("no network", "check the network or the proxy, or give a local copy with --data PATH."),
    ],
)
def test_a_fetch_that_fails_says_why_and_leaves_what_was_there(server, tmp_path, capsys, place, sentence):
    if place == "no network":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            closed = f"http://127.0.0.1:{free.getsockname()[1]}"
        server("/whole", closed)
    else:
        server(place)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "toy.h5").write_bytes(b"older")
    for folder, files in (("made", []), ("kept", ["toy.h5"])):
        assert sentence in refused(capsys, "data", "fetch", "toy", "--to", str(tmp_path / folder), "--no-progress")
        assert [path.name for path in (tmp_path / folder).iterdir()] == files
    assert (tmp_path / "kept" / "toy.h5").read_bytes() == b"older"


def test_data_that_cannot_be_fetched_say_where_they_are(server, tmp_path, capsys):
    said = refused(capsys, "data", "fetch", "henaff2021")
    assert "olivierhenaff/neural-straightening" in said
    assert "give that folder with --data" in said
    assert "ask its authors for FreemanZiemba2013_V1V2data.mat" in refused(
        capsys, "data", "fetch", "freeman_ziemba2013"
    )
    assert "did you mean henaff2021?" in refused(capsys, "data", "fetch", "henaf2021")
    assert "Say what to fetch: henaff2021" in refused(capsys, "data", "fetch")
    assert "There is no data set or path 'toy.nc'" in refused(capsys, "data", "verify", "toy.nc")
    (tmp_path / "other.h5").write_bytes(b"x")
    assert "is none of the registered files" in refused(capsys, "data", "verify", str(tmp_path / "other.h5"))
    assert "'lst' is unknown; did you mean list?" in refused(capsys, "data", "lst")


def test_the_program_starts_as_a_module_and_exits_with_2(tmp_path):
    command = [sys.executable, "-m", "lcl.cli", "train", "--images", str(tmp_path / "missing")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_fit_measures_a_run_and_puts_it_into_the_report(tmp_path, capsys):
    """A short run, fitted to a recording in a file: tables, figures, and a section of the report."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (24, 32, 32), dtype=np.uint8)
    counts = rng.poisson(pictures[:, 14:18, 14:18].mean((1, 2))[:, None, None] / 20, (24, 6, 3))
    recording = recording_from_arrays(
        counts, images=pictures, size_deg=4.0, stimulus={"movie": np.repeat(list("abcd"), 6)}, name="made"
    )
    write_recording(recording, tmp_path / "made.nc")
    run = tmp_path / "run"
    assert main(["train", *SMALL, "--out", str(run)]) == 0
    command = ["fit", str(run), "pixels", "--data", str(tmp_path / "made.nc"), "--regression", "ridge"]
    command += ["--splits", "kfold", "grouped_kfold:movie", "--reduction", "spatial_mean", "--n-bootstrap", "20"]
    assert main([*command, "--no-progress"]) == 0
    printed = capsys.readouterr().out
    assert "run V1: raw" in printed
    folder = run / "fits" / "fit-made-ridge"
    names = sorted(path.name for path in folder.iterdir())
    assert "grouped_kfold-movie.csv" in names
    assert "kfold-scores.png" in names
    assert "Fit to made, grouped_kfold:movie" in (run / "report.html").read_text(encoding="utf-8")
    table = read_fit(next(folder.glob("kfold-*run*.nc")))
    assert table.layer.values.tolist() == ["V1", "V2"]
    assert table.attrs["command"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fit", "pixles", "--data", "made.nc"], "model 'pixles' is unknown"),
        (["fit", "pixels", "--data", "made.nc"], "give --out DIR"),
        (["fit", "pixels", "--data", "made.nc", "--neurons", "area=V1", "--out", "o"], "chooses no neurons"),
        (["fit", "pixels", "--data", "made.nc", "--neurons", "region=V9", "--out", "o"], "no neuron has region 'V9'"),
        (["fit", "pixels", "--data", "made.nc", "--regression", "pls:n=3", "--out", "o"], "'n=3' is no option of pls"),
        (["fit", "alexnet", "--data", "made.nc", "--out", "o"], "give alexnet:FILE.npz"),
        (["fit", "pixels", "--data", "made.nc", "--splits", "movies", "--out", "o"], "splits are 'movies'"),
    ],
)
def test_what_fit_cannot_do_is_said_in_a_sentence(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pictures = np.zeros((12, 8, 8), np.uint8)
    write_recording(
        recording_from_arrays(np.ones((12, 2, 2)), images=pictures, size_deg=4.0, neuron={"region": "V1"}), "made.nc"
    )
    assert main([*arguments, "--no-progress"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "o").exists()
