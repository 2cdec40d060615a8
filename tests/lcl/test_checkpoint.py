import hashlib

import pytest
import torch

import lcl
from lcl.checkpoint import run_folder, shipped
from lcl.measure import is_run, named_model


@pytest.mark.parametrize("name", shipped())
def test_what_ships_is_small_and_has_a_card_and_fits(name):
    folder = shipped()[name]
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3e6
    card = (folder / "CARD.md").read_text()
    for part in ("data", "command", "hardware", "seed", "Good for", "Not good for"):
        assert part in card
    model = lcl.load(name)
    assert f"{sum(each.numel() for each in model.parameters()):,} weights" in card
    maps = model(torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0)))
    assert list(maps) == ["V1", "V2"]
    assert all(torch.isfinite(each).all() for each in maps.values())


def test_the_weights_are_those_of_the_card():
    file = shipped()["lcl-v2-small"] / "weights.safetensors"
    assert (
        hashlib.sha256(file.read_bytes()).hexdigest()
        == "b7e36b2539bdd61a5ba20ed538d1bc772d9a9318d1f26feda7ee1a7358047c46"
    )


def test_a_folder_comes_before_a_name_of_the_package(tmp_path, monkeypatch):
    assert run_folder("lcl-v2-small") == shipped()["lcl-v2-small"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lcl-v2-small").mkdir()
    with pytest.raises(FileNotFoundError, match=r"lcl-v2-small/config\.json does not exist"):
        lcl.load("lcl-v2-small")


def test_the_name_is_a_model_but_no_folder_to_write_into():
    model, twin = named_model("lcl-v2-small"), named_model("untrained:lcl-v2-small", seed=1)
    assert model.layers == twin.layers == ("V1", "V2")
    assert not is_run("lcl-v2-small")
    assert not torch.equal(
        model.module.state_dict()["stages.V1.conv.weight"], twin.module.state_dict()["stages.V1.conv.weight"]
    )
