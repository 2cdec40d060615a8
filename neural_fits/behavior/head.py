"""Heads: linear read-outs as the last layer of a network."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neural_fits.activations import parse_reduction
from neural_fits.vision_model import VisionModel, layer_responses


def linear_head(readout, *, classes: Sequence | None = None, absent_logit: float | None = None) -> nn.Linear:
    """Frozen layer whose output is the logits of a fitted linear read-out, so that their softmax is its probabilities.

    Parameters
    ----------
    readout : LinearReadout, RidgeReadout, or PrototypeReadout with metric "euclidean"
    classes : sequence, optional
        Order of the outputs; default that of ``classes_``. Labels that are WordNet ids and
        :func:`neural_fits.behavior.categories.imagenet_classes` give the 1,000 outputs that Brain-Score expects.
    absent_logit : float, optional
        Output of classes that the read-out was not fitted to, such as -inf.

    Returns
    -------
    torch.nn.Linear
        float32.

    Raises
    ------
    ValueError
        If the read-out is not linear, a fitted class is not among ``classes``, or one of them was not fitted and no
        ``absent_logit`` is given.

    Examples
    --------
    >>> from neural_fits.behavior.readout import RidgeReadout
    >>> readout = RidgeReadout([1.0]).fit(torch.eye(4)[[0, 1, 0, 1]], ["n02", "n01", "n02", "n01"])
    >>> head = linear_head(readout, classes=["n01", "n02", "n03"], absent_logit=float("-inf"))
    >>> head(torch.eye(4)[:2]).softmax(1).argmax(1)
    tensor([1, 0])
    """
    if not hasattr(readout, "linear_map"):
        raise ValueError(
            f"{type(readout).__name__} is not linear in the features; expected a linear or ridge read-out."
        )
    weight, bias = readout.linear_map()
    fitted = readout.classes_.tolist()
    classes = fitted if classes is None else list(classes)
    foreign = [name for name in fitted if name not in set(classes)]
    absent = [name for name in classes if name not in set(fitted)]
    if foreign:
        raise ValueError(f"the read-out knows class {foreign[0]!r}, which is not among the {len(classes)} outputs.")
    if absent and absent_logit is None:
        raise ValueError(f"class {absent[0]!r} was not fitted ({len(absent)} such); give their absent_logit.")
    head = nn.Linear(weight.shape[1], len(classes)).requires_grad_(False)
    where = torch.tensor([classes.index(name) for name in fitted])
    head.weight.zero_()
    head.bias.fill_(0.0 if absent_logit is None else absent_logit)
    head.weight[where] = torch.as_tensor(weight, dtype=torch.float32)
    head.bias[where] = torch.as_tensor(bias, dtype=torch.float32)
    return head


class WithReadout(nn.Module):
    """A network with a head on the features of one of its layers; the head is registered last.

    Brain-Score takes the last registered leaf of a model as its 1,000-way output. The network runs in evaluation mode
    and without gradients, as when the read-out was fitted.

    Parameters
    ----------
    network : torch.nn.Module
        Of images as they reach the network: placed and normalised.
    layer : str
        As :func:`neural_fits.vision_model.layer_names` gives it.
    head : torch.nn.Linear
        As :func:`linear_head` gives it.
    reduction : {"all", "spatial_mean", "pool:N"}
        That of the features which the read-out was fitted to (:func:`neural_fits.activations.activations`).

    Examples
    --------
    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    >>> model = WithReadout(network, "1", nn.Linear(4, 1000).requires_grad_(False), reduction="spatial_mean")
    >>> model(torch.rand(2, 3, 16, 16)).shape, list(model._modules)
    (torch.Size([2, 1000]), ['network', 'logits'])
    """

    def __init__(self, network: nn.Module, layer: str, head: nn.Linear, *, reduction: str = "all"):
        super().__init__()
        kept = parse_reduction(reduction)
        if kept.kind not in ("all", "spatial_mean", "pool"):
            raise ValueError(f"reduction is {reduction!r}; expected 'all', 'spatial_mean' or 'pool:N' under a head.")
        self.layer, self._kept = layer, kept
        self.network = network
        self.logits = head

    def forward(self, images: Tensor) -> Tensor:
        """Logits (image, class) of an image batch (image, channel, row, column)."""
        model = VisionModel(self.network, type(self.network).__name__)
        features = layer_responses(model, images, [self.layer])[self.layer].float()
        if self._kept.kind == "spatial_mean" and features.ndim > 2:
            features = features.mean(1 if features.ndim == 3 else (2, 3))
        elif self._kept.kind == "pool" and features.ndim == 4:
            rows, columns = (min(side, self._kept.size or side) for side in features.shape[2:])
            features = F.adaptive_avg_pool2d(features, (rows, columns))
        features = features.flatten(1)
        if features.shape[1] != self.logits.in_features:
            raise ValueError(
                f"layer {self.layer} gives {features.shape[1]} features; expected the {self.logits.in_features} that "
                "the read-out was fitted to (same layer, size of input and reduction)."
            )
        return self.logits(features)
