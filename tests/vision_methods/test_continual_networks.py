"""Networks without a head, and pictures as they see them."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lcl.images import open_images
from lcl.labelled_images import LabelledImages, central_squares
from lcl.recognition import RecognitionNet, alexnet_head
from lcl.stages import LCLV2
from vision_methods.continual_config import ContinualConfig
from vision_methods.continual_networks import PooledBase, Source, TransformerBase, V2NetBase, make_base
from vision_methods.vit import VITS, ViT

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (70 + i, 80, 3), dtype=np.uint8) for i in range(70)]
    return LabelledImages(open_images(pictures), np.arange(70) % 7, tuple("abcdefg"))


def test_what_is_kept_is_what_is_computed(images):
    base = make_base(ContinualConfig(backbone="toy", size_px=16), seed=0, loaders={})
    index = np.array([3, 69, 0])
    kept, anew = (Source(images, base, 16, cap_bytes=cap, device=CPU) for cap in (2**30, 0))
    squares = central_squares(images, 16, index)
    for source in (kept, anew):
        assert torch.equal(source.squares(index), squares)
        assert torch.equal(source.still(index), squares)
        torch.testing.assert_close(source.features(index), base(squares), rtol=1e-4, atol=1e-5)


def test_crops_follow_the_generator_and_half_are_mirrored(images):
    base = make_base(ContinualConfig(backbone="toy", size_px=16), seed=0, loaders={})
    source, index = Source(images, base, 16, cap_bytes=2**30, device=CPU), np.arange(70)
    one, again, other = (source.crops(index, torch.Generator().manual_seed(seed), 1.0) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_features_of_any_model_are_means_over_places(images):
    base = make_base(ContinualConfig(backbone="lcl-v2-small", size_px=64), seed=0, loaders={})
    assert isinstance(base, PooledBase)
    assert base.tunable == ()
    squares = central_squares(images, 64, np.arange(4))
    model = base.model
    mean, std = torch.tensor(model.mean).view(-1, 1, 1), torch.tensor(model.std).view(-1, 1, 1)
    with torch.no_grad():
        maps = model.module((squares.float() / 255 - mean) / std)[model.layers[-1]]
    torch.testing.assert_close(base(base.still(squares)), maps.mean((2, 3)))
    with pytest.raises(ValueError, match="layer is 'V9'"):
        make_base(ContinualConfig(backbone="lcl-v2-small", size_px=64, layer="V9"), seed=0, loaders={})


def test_v2net_is_the_recognition_network_without_its_last_layer(images):
    squares = central_squares(images, 64, np.arange(4))
    for frozen in (["V1", "V2"], []):
        chain = LCLV2(generator=torch.Generator().manual_seed(0))
        head = alexnet_head(192, 5, width=16, pool=1, dropout=0.0, generator=torch.Generator().manual_seed(1))
        net = RecognitionNet(chain, head, frozen=frozen).eval()
        last = head[-1]
        expected = net(squares.float() / 255)
        base = V2NetBase(net).eval()
        torch.testing.assert_close(last(base(base.still(squares))), expected, rtol=1e-4, atol=1e-5)
        assert base.still(squares).is_floating_point() is bool(frozen)
        maps = chain["V2"](chain["V1"]((squares.float() / 255 - chain.input_mean) / chain.input_std))
        torch.testing.assert_close(base.frozen(base.still(squares)), maps.mean((2, 3)), rtol=1e-4, atol=1e-5)


def test_weights_of_a_transformer_come_from_a_file(tmp_path):
    vit = ViT(**{**VITS["toy"], "size_px": 16}, generator=torch.Generator().manual_seed(5))
    save_file({**vit.state_dict(), "head.weight": torch.zeros(3, 96)}, tmp_path / "vit.safetensors")
    config = ContinualConfig(backbone="toy", size_px=16, weights=str(tmp_path / "vit.safetensors"))
    base = make_base(config, seed=0, loaders={})
    assert isinstance(base, TransformerBase)
    assert not base.seeded
    assert all(torch.equal(value, vit.state_dict()[name]) for name, value in base.vit.state_dict().items())
    assert not any(parameter.requires_grad for parameter in base.parameters())
    with pytest.raises(ValueError, match="read is 'prompts'"):
        TransformerBase(vit, "prompts")
