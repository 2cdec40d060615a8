"""A study from folders: its files, going on between tasks, mistakes; and the command."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from lcl.cli import main
from vision_methods import continual
from vision_methods.continual import cell_path, dry_run, read_cell, run_study
from vision_methods.continual_config import ContinualConfig, paper
from vision_methods.continual_protocol import split_classes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("classes")
    rng = np.random.default_rng(0)
    for label in range(6):
        for part, count in (("train", 6), ("val", 3 + label % 2)):
            (path / part / f"c{label}").mkdir(parents=True)
            for i in range(count):
                noise = rng.integers(0, 60, (24, 24, 3)) + np.array([40 * label, 0, 255 - 40 * label])
                Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8)).save(path / part / f"c{label}" / f"{i}.png")
    return str(path)


@pytest.fixture
def config(folder):
    return ContinualConfig(
        images=folder, backbone="toy", size_px=16, short_side_px=24, tasks=3, epochs=1, batch=6, projections=20,
        align_epochs=1, device="cpu",
    )  # fmt: skip


METHODS = ["nmc", "onlyprompt+si", "linear+joint"]


def test_a_study_leaves_matrices_tables_and_goes_on(config, tmp_path):
    out, quiet = tmp_path / "study", {"loaders": {}, "progress": False, "say": lambda line: None}
    cells = run_study(config, METHODS, out, seeds=2, **quiet)
    assert [(cell.method, cell.seed) for cell in cells] == [(m, s) for s in range(2) for m in METHODS]
    for cell in cells:
        stages = 1 if "joint" in cell.method else 3
        assert cell.matrix.shape == (stages, 3)
        assert np.isfinite(cell.matrix[-1]).all()
        again, found = read_cell(cell_path(out, cell.method, cell.seed))
        np.testing.assert_array_equal(again.matrix, cell.matrix)
        tasks = split_classes(6, 3, seed=cell.seed)
        assert found["tasks"] == [task.tolist() for task in tasks]
        assert cell.counts.tolist() == [sum(3 + c % 2 for c in task) for task in tasks]
    assert not list(out.glob("cells/*/*.safetensors"))
    before = {path: path.stat().st_mtime_ns for path in out.glob("cells/*/*.json")}
    more = run_study(config, [*METHODS, "ranpac"], out, seeds=2, **quiet)
    assert len(more) == 8
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())
    with pytest.raises(ValueError, match="other settings"):
        run_study(ContinualConfig(**{**config.as_dict(), "epochs": 2}), METHODS, out, seeds=1, **quiet)


@pytest.mark.parametrize(
    "method", ["onlyprompt+ewc", "onlyprompt+si", "hide", "lae", "adam", "ranpac", "finetune:reset_optimizer=false"]
)
def test_a_stopped_study_goes_on_with_the_next_task_as_if_it_had_not_been(method, config, tmp_path, monkeypatch):
    quiet = {"loaders": {}, "progress": False, "say": lambda line: None}
    (whole,) = run_study(config, [method], tmp_path / "whole", seeds=1, **quiet)
    write, written = continual._write_state, []

    def stop(path, *rest):
        write(path, *rest)
        written.append(path)
        raise KeyboardInterrupt

    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(continual, "_write_state", stop)
            with pytest.raises(KeyboardInterrupt):
                run_study(config, [method], tmp_path / "parts", seeds=1, **quiet)
    assert len(written) == 2
    (parts,) = run_study(config, [method], tmp_path / "parts", seeds=1, **quiet)
    np.testing.assert_array_equal(parts.matrix, whole.matrix)
    assert not written[0].exists()


def test_mistakes_are_named_before_anything_is_made(config, tmp_path):
    quiet = {"loaders": {}, "progress": False, "say": lambda line: None}

    def refused(match, methods=("nmc",), error=ValueError, **changes):
        changed = ContinualConfig(**{**config.as_dict(), **changes})
        with pytest.raises(error, match=match):
            run_study(changed, methods, tmp_path / "new", seeds=1, **quiet)
        assert not (tmp_path / "new").exists()

    refused("no images", images="")
    refused("no backbone", backbone="")
    refused("tasks is 7 for 6 classes", tasks=7)
    refused("blocks 0 to 3", ["adapter"], blocks=(4,))
    refused("weights are given", weights="x", backbone="pixels")
    refused("does not exist", error=FileNotFoundError, weights="no-such-file")
    refused("needs a vision transformer", ["l2p"], backbone="pixels")
    refused("v2net's front", backbone="v2net:nothing")
    refused("needs the run folder", backbone="v2net:tuned")
    refused("unknown", backbone="no-such-network")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="holds no study"):
        run_study(config, ["nmc"], tmp_path / "other", seeds=1, **quiet)


def test_the_dry_run_takes_a_step_of_everything():
    config = ContinualConfig(backbone="toy", size_px=16, tasks=3, projections=10, device="cpu")
    methods = ["nmc", "ranpac", "onlyprompt+ewc", "l2p", "dualprompt", "coda", "hide", "lae", "finetune+joint"]
    found = dry_run(config, methods, loaders={}, say=lambda line: None)
    assert [row["method"] for row in found] == methods
    assert all(row["scores"] == (2, 6) for row in found)


def test_the_papers_sizes():
    # What is trained beside the head at the width of ViT-B/16, without running it.
    from vision_methods.continual_methods import METHODS as KNOWN

    made = {
        name: sum(each.numel() for each in KNOWN[name].tuner(paper(), 768, 10, 0).parameters())
        for name in ("l2p", "dualprompt", "hide", "lae", "onlyprompt", "adam", "coda")
    }
    assert made == {
        "l2p": 46_080, "dualprompt": 253_440, "hide": 384_000, "lae": 84_530, "onlyprompt": 768, "adam": 3_840,
        "coda": 153_600,
    }  # fmt: skip


def test_command(folder, tmp_path, capsys):
    shared = [
        "--images",
        folder,
        "--size-px",
        "16",
        "--tasks",
        "3",
        "--epochs",
        "1",
        "--no-progress",
        "--device",
        "cpu",
    ]
    out = tmp_path / "study"
    assert main(["continual", *shared, "--backbone", "toy", "--methods", "nmc", "l2p:query=oracle", "--seeds", "2",
                 "--out", str(out)]) == 0  # fmt: skip
    for name in ("report.html", "summary.csv", "seeds.csv", "accuracy_matrices.json", "figures/accuracy_matrices.png",
                 "figures/parameters.png"):  # fmt: skip
        assert (out / name).stat().st_size > 0
    rows = list(csv.DictReader((out / "summary.csv").read_text().splitlines()))
    assert [row["method"] for row in rows] == ["nmc", "l2p:query=oracle"]
    assert "not a valid method" in (out / "report.html").read_text()
    matrices = json.loads((out / "accuracy_matrices.json").read_text())
    assert len(matrices["nmc"]["1"]) == 3
    (out / "report.html").unlink()
    assert main(["show", str(out)]) == 0
    assert (out / "report.html").stat().st_size > 0
    assert main(["continual", "--list"]) == 0
    assert "onlyprompt" in capsys.readouterr().out
    assert main(["continual", *shared, "--backbone", "toy", "--methods", "l2q"]) == 2
    assert "did you mean l2p" in capsys.readouterr().err
