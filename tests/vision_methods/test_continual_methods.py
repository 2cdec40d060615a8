"""Names of methods: what they mean, and what is refused."""

import dataclasses

import pytest

from lcl.recognition import RecognitionNet, alexnet_head
from lcl.stages import LCLV2
from vision_methods.continual_config import PRESETS, ContinualConfig
from vision_methods.continual_methods import EXPERIMENTS, METHODS, experiment, read_method
from vision_methods.continual_networks import V2NetBase

CONFIG = ContinualConfig()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_can_be_read(name):
    for text in experiment(name, 96):
        chosen = read_method(text, CONFIG)
        assert chosen.name in METHODS
        assert "{" not in text


def test_settings_and_modifiers():
    chosen = read_method("onlyprompt+si:parameters=48,si_c=0.5", CONFIG)
    assert (chosen.name, chosen.modifiers) == ("onlyprompt", ("si",))
    assert chosen.config == dataclasses.replace(CONFIG, parameters=48, si_c=0.5)
    assert read_method("adapter:blocks=0 2", CONFIG).config.blocks == (0, 2)
    assert read_method("linear:mask=false", CONFIG).config.mask is False
    assert read_method("l2p:batchwise=true", CONFIG).config.batchwise is True


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("l2q", "did you mean l2p"),
        ("nmc+ewc", "takes no \\+ewc"),
        ("onlyprompt+ewc+si", "exclude each other"),
        ("onlyprompt+ewc+ewc", "exclude each other"),
        ("onlyprompt+first+si", "exclude each other"),
        ("onlyprompt:parametres=4", "did you mean parameters"),
        ("onlyprompt:tasks=4", "methods do not have"),
        ("onlyprompt:parameters", "methods do not have"),
        ("onlyprompt:parameters=many", "whole number"),
        ("linear:mask=no", "mask=true or mask=false"),
        ("l2p:top_k=20", "at most the pool"),
        ("coda:coda_length=3", "even"),
    ],
)
def test_mistakes_are_named(text, says):
    with pytest.raises(ValueError, match=says):
        read_method(text, CONFIG)


def test_what_the_network_cannot_do_is_said():
    head = alexnet_head(192, 2, width=8, pool=1, channels=(4, 4, 4))
    base = V2NetBase(RecognitionNet(LCLV2(), head, frozen=["V1", "V2"]))
    with pytest.raises(ValueError, match="needs a vision transformer"):
        read_method("onlyprompt", CONFIG).learner(base, [[0], [1]], seed=0)


def test_oracle_and_batchwise_are_not_valid():
    assert not read_method("coda:query=oracle", CONFIG).valid
    assert not read_method("dualprompt:batchwise=true", CONFIG).valid
    assert all(read_method(name, CONFIG).valid for name in METHODS)


def test_presets_and_refusals():
    assert PRESETS["paper"]().parameters == 768
    for name, value in (("tasks", 0), ("keep", 1.5), ("crop_area", 0.0), ("optimizer", "adamm"), ("batch", 1)):
        with pytest.raises(ValueError, match=name):
            ContinualConfig(**{name: value})
    made = PRESETS["paper"]()
    assert ContinualConfig.from_dict(made.as_dict()) == made
