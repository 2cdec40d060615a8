"""A few tokens in the place of many, without parameters: what MC-ViT remembers of a segment (Balazevic et al. 2024).

Three ways: tokens at random, a greedy coreset (the token farthest from those taken, again and again), and k-means
(means of tokens that are alike). Each item of a batch is consolidated by itself, and exactly as many tokens are kept as
are asked for: copies would weigh twice in the attention that reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lcl.train import counter_generator
from vision_methods.kmeans import _means, _rows, _squares_less_own

#: Lloyd's iterations of :func:`kmeans_means`, as published.
ITERATIONS = 5


def token_orders(seeds: Sequence[int], tokens: int, *, segment: int = 0, layers: int = 1) -> Tensor:
    """Random orders of the tokens of a segment, for every layer and item: all the randomness of consolidation.

    An item's orders depend on its own seed and the segment's number alone, not on the batch it is in.

    Parameters
    ----------
    seeds : sequence of int, (B,)
    tokens : int
        N.
    segment : int
        From 0.
    layers : int

    Returns
    -------
    Tensor of int64, (layers, B, N)
        Permutations of 0 to N - 1.

    Examples
    --------
    >>> token_orders([3, 4], 5, layers=2).shape
    torch.Size([2, 2, 5])
    >>> bool((token_orders([4], 5)[0, 0] == token_orders([3, 4], 5)[0, 1]).all())
    True
    """
    uniform = torch.empty(layers, len(seeds), tokens, dtype=torch.float64)
    for item, seed in enumerate(seeds):
        uniform[:, item] = torch.rand(
            layers, tokens, dtype=torch.float64, generator=counter_generator(int(seed), segment)
        )
    return uniform.argsort(2)


def random_tokens(tokens: Tensor, count: int, order: Tensor) -> Tensor:
    """The first tokens of a random order: chosen without replacement.

    Parameters
    ----------
    tokens : Tensor, (B, N, D)
    count : int
        K.
    order : Tensor of int64, (B, N)
        From :func:`token_orders`.

    Returns
    -------
    Tensor, (B, K, D)
        Gradients pass to the chosen tokens.

    Examples
    --------
    >>> random_tokens(torch.tensor([[[0.0], [1], [10], [11]]]), 2, torch.tensor([[2, 0, 1, 3]])).flatten().tolist()
    [10.0, 0.0]
    """
    return _rows(tokens, order[:, :count])


def coreset_tokens(tokens: Tensor, count: int, order: Tensor) -> Tensor:
    """Greedy farthest points: the token that is farthest from its nearest chosen one is chosen next (Gonzalez 1985).

    The published method's first token was not available to us; here it is the first of the random order. Of equally far
    tokens that of the lowest number is taken. K steps of O(N D), one after the other.

    Parameters
    ----------
    tokens : Tensor, (B, N, D)
    count : int
        K.
    order : Tensor of int64, (B, N)
        Its first entry is used.

    Returns
    -------
    Tensor, (B, K, D)
        In the order of choice; no token is taken twice. Gradients pass to the chosen tokens.

    Examples
    --------
    >>> coreset_tokens(torch.tensor([[[0.0], [1], [10], [11]]]), 3, torch.tensor([[0, 1, 2, 3]])).flatten().tolist()
    [0.0, 11.0, 1.0]
    """
    points = tokens.detach()
    chosen = [order[:, :1]]
    nearest = torch.full_like(points[..., 0], torch.inf)
    while len(chosen) < count:
        # Differences, not products, so that copies of a chosen token are at distance 0 exactly.
        nearest = torch.minimum(nearest, (points - _rows(points, chosen[-1])).square().sum(2))
        nearest = nearest.scatter(1, chosen[-1], -1.0)
        chosen.append(nearest.argmax(1, keepdim=True))
    return _rows(tokens, torch.cat(chosen[:count], 1))


def kmeans_means(tokens: Tensor, count: int, order: Tensor, *, iterations: int = ITERATIONS) -> Tensor:
    """Means of the clusters that Lloyd's iterations find, started at random tokens.

    What the published method does with a cluster that has lost its last token was not available to us; here its centre
    stays where it is (:func:`vision_methods.kmeans.kmeans` would move it).

    Parameters
    ----------
    tokens : Tensor, (B, N, D)
    count : int
        K.
    order : Tensor of int64, (B, N)
        Its first K entries are the first centres.
    iterations : int

    Returns
    -------
    Tensor, (B, K, D)
        Gradients pass to the tokens through the last means; which tokens these are of has none.

    Examples
    --------
    >>> kmeans_means(torch.tensor([[[0.0], [1], [10], [11]]]), 2, torch.tensor([[0, 2, 1, 3]])).flatten().tolist()
    [0.5, 10.5]
    """
    # Distances would be small differences of large numbers where the tokens lie far from the origin.
    middle = tokens.detach().mean(1, keepdim=True)
    points = tokens - middle
    centres = _rows(points, order[:, :count])
    for _ in range(iterations):
        nearest = _squares_less_own(points.detach(), centres.detach()).argmin(2)
        centres = _means(points, nearest, centres.detach())
    return centres + middle


#: Consolidations by name; each is called with tokens (B, N, D), their number K and a random order (B, N).
CONSOLIDATIONS: dict[str, Callable[[Tensor, int, Tensor], Tensor]] = {
    "random": random_tokens,
    "coreset": coreset_tokens,
    "kmeans": kmeans_means,
}


def consolidate(tokens: Tensor, count: int, order: Tensor, *, method: str = "kmeans") -> Tensor:
    """A few tokens in the place of all, item by item.

    Parameters
    ----------
    tokens : Tensor of floating point, (B, N, D)
        Half precisions are computed in float32.
    count : int
        K, from 0 to N.
    order : Tensor of int64, (B, N)
        A random order of each item's tokens (:func:`token_orders`).
    method : {"kmeans", "coreset", "random"}

    Returns
    -------
    Tensor, (B, K, D)
        Of the type of ``tokens``.

    Raises
    ------
    ValueError
        If shapes, type or number do not fit, or the method is unknown.

    Examples
    --------
    >>> tokens = torch.randn(2, 64, 8)
    >>> consolidate(tokens, 4, token_orders([0, 1], 64)[0]).shape
    torch.Size([2, 4, 8])
    """
    if tokens.ndim != 3 or not tokens.is_floating_point():
        raise ValueError(f"tokens are {tokens.dtype} of shape {tuple(tokens.shape)}; expected floats (B, N, D).")
    if order.shape != tokens.shape[:2]:
        raise ValueError(
            f"order has shape {tuple(order.shape)}; expected that of the tokens, {tuple(tokens.shape[:2])}."
        )
    if not 0 <= count <= tokens.shape[1]:
        raise ValueError(f"{count} of {tokens.shape[1]} tokens are to be kept; expected 0 to {tokens.shape[1]}.")
    if method not in CONSOLIDATIONS:
        raise ValueError(f"consolidation is {method!r}; expected one of {', '.join(CONSOLIDATIONS)}.")
    if count == 0:
        return tokens[:, :0]
    with torch.autocast(tokens.device.type, enabled=False):
        full = tokens if tokens.dtype == torch.float64 else tokens.float()
        return CONSOLIDATIONS[method](full, count, order).to(tokens.dtype)
