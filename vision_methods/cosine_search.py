"""Search for the keys of the largest cosine with a query: exact, or by faiss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

#: From queries (query, channel) of any length and a number of neighbours to cosines and entries, (query, neighbour),
#: the largest first.
Search = Callable[[Tensor, int], tuple[Tensor, Tensor]]

#: Queries and keys whose similarities are held at once: what fits a processor's cache, or uses a GPU.
QUERIES_AT_ONCE, KEYS_AT_ONCE = 512, 1 << 14
#: Similarities of which the largest is found first; those that are not in a group with a large one are passed over.
GROUP = 16


def largest(similarities: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Largest values of each row and where they are, as :func:`torch.topk`, but faster for few of many.

    The largest of every group of :data:`GROUP` is found first. The k largest values lie in the k groups with the
    largest maxima, so that only these are looked through.

    Parameters
    ----------
    similarities : Tensor, (row, column)
    k : int
        At most the number of columns.

    Returns
    -------
    values, columns : Tensor, (row, k)
        Largest first.

    Examples
    --------
    >>> largest(torch.tensor([[0.1, 0.9, 0.5]]), 2)
    (tensor([[0.9000, 0.5000]]), tensor([[1, 2]]))
    """
    groups = similarities.shape[1] // GROUP
    if groups < 4 * k:
        values, columns = similarities.topk(k, 1)
        return values, columns
    # Column c is in group c modulo the number of groups: maxima are then taken of whole stretches of memory at once.
    grouped = similarities[:, : groups * GROUP].unflatten(1, (GROUP, groups))
    chosen = grouped.amax(1).topk(k, 1, sorted=False).indices[:, None].expand(-1, GROUP, -1)
    columns = (chosen + groups * torch.arange(GROUP, device=chosen.device)[:, None]).flatten(1)
    rest = torch.arange(groups * GROUP, similarities.shape[1], device=columns.device).expand(len(columns), -1)
    candidates = torch.cat([grouped.gather(2, chosen).flatten(1), similarities[:, groups * GROUP :]], 1)
    values, at = candidates.topk(k, 1)
    return values, torch.cat([columns, rest], 1).gather(1, at)


def exact(keys: Tensor, *, device: torch.device | str | None = None) -> Search:
    """Exact search: all cosines, a block at a time.

    Parameters
    ----------
    keys : Tensor, (entry, channel)
        Of length 1, in any type; computed in float32 at least.
    device : device, optional
        Keys are moved there as they are. Default: where they are.

    Returns
    -------
    callable
        Its answers are on the device of the queries, in the wider type of both.

    Examples
    --------
    >>> exact(torch.eye(3))(torch.tensor([[1.0, 5.0, 2.0]]), 2)[1]
    tensor([[1, 2]])
    """
    keys = keys if device is None else keys.to(device)
    kind = torch.promote_types(keys.dtype, torch.float32)

    @torch.no_grad()
    def search(queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        _check_search(queries, keys.shape, k)
        wide = torch.promote_types(kind, queries.dtype)
        unit = F.normalize(queries.to(keys.device, wide), dim=1)
        # One buffer for all products: new memory for each would cost as much as a third of the products themselves.
        buffer = unit.new_empty(min(QUERIES_AT_ONCE, len(unit)) * min(KEYS_AT_ONCE, len(keys)))
        found = None
        for start in range(0, len(keys), KEYS_AT_ONCE):
            block = keys[start : start + KEYS_AT_ONCE].to(wide)
            parts = []
            for rows in unit.split(QUERIES_AT_ONCE):
                products = buffer[: len(rows) * len(block)].view(len(rows), len(block))
                parts.append(largest(torch.mm(rows, block.T, out=products), min(k, len(block))))
            values, entries = (torch.cat(each) for each in zip(*parts, strict=True))
            entries = entries + start
            if found is not None:
                values, entries = (torch.cat(pair, 1) for pair in zip(found, (values, entries), strict=True))
                values, at = values.topk(min(k, values.shape[1]), 1)
                entries = entries.gather(1, at)
            found = values, entries
        assert found is not None
        return found[0].to(queries.device), found[1].to(queries.device)

    return search


def _check_search(queries: Tensor, shape: Sequence[int], k: int) -> None:
    if queries.ndim != 2 or queries.shape[1] != shape[1] or not len(queries):
        raise ValueError(f"queries have shape {tuple(queries.shape)}; expected (query, {shape[1]}), as the keys.")
    if not 1 <= k <= shape[0]:
        raise ValueError(f"{k} neighbours of {shape[0]} entries are asked for; expected 1 to {shape[0]}.")


def faiss_flat(keys: Tensor) -> Search:
    """Exact search by faiss (extra ``faiss``), in float32.

    Parameters
    ----------
    keys : Tensor, (entry, channel)

    Returns
    -------
    callable

    Raises
    ------
    ModuleNotFoundError
        Without faiss.
    """
    index = _faiss().IndexFlatIP(keys.shape[1])
    _fill(index, keys)
    return _faiss_search(index, keys.shape)


def faiss_ivf(keys: Tensor, *, lists: int | None = None, probed: int | None = None, seed: int = 0) -> Search:
    """Approximate search by faiss (extra ``faiss``): keys are clustered, and only the nearest clusters looked through.

    Parameters
    ----------
    keys : Tensor, (entry, channel)
    lists : int, optional
        Clusters. Default: four times the root of the number of keys.
    probed : int, optional
        Clusters looked through for a query. Default: a sixteenth of them, as of the published index (32 of 512).
    seed : int
        Of the clustering.

    Returns
    -------
    callable
        A neighbour that was not found, because too few keys are in the clusters, has the cosine minus infinity.

    Raises
    ------
    ModuleNotFoundError
        Without faiss.
    """
    faiss = _faiss()
    lists = lists or max(1, min(round(4 * math.sqrt(len(keys))), len(keys) // 39))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(keys.shape[1]), keys.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.spherical = seed, True
    index.nprobe = probed or max(1, lists // 16)
    generator = torch.Generator().manual_seed(seed)
    index.train(_plain(keys[torch.randperm(len(keys), generator=generator)[: 64 * lists]]))
    _fill(index, keys)
    return _faiss_search(index, keys.shape)


def _faiss() -> Any:
    try:
        import faiss  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('searches by faiss need faiss: pip install "lcl[faiss]".') from error
    return faiss


def _plain(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().cpu().float().numpy())


def _fill(index: Any, keys: Tensor) -> None:
    for block in keys.split(KEYS_AT_ONCE):
        index.add(_plain(block))


def _faiss_search(index: Any, shape: Sequence[int]) -> Search:
    def search(queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        _check_search(queries, shape, k)
        values, entries = (torch.from_numpy(each) for each in index.search(_plain(F.normalize(queries, dim=1)), k))
        values = values.masked_fill(entries < 0, -math.inf)
        return values.to(queries), entries.clamp(min=0).to(queries.device)

    return search


#: Searches by name, each from keys to a :data:`Search`.
SEARCHES: dict[str, Callable[..., Search]] = {"exact": exact, "faiss-flat": faiss_flat, "faiss-ivf": faiss_ivf}
