"""Two processes against one. Run as a script, this file is one of the two."""

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from lcl.distributed import (
    barrier,
    gather_over_processes,
    process_group,
    rank,
    sum_gradients,
    sum_over_processes,
    world_size,
)
from lcl.objective import READOUTS, barlow_twins, correlation
from lcl.stages import Stage

ROOT = Path(__file__).resolve().parents[2]
PAIRS = 14
#: Which pairs each process holds: as many each, and not.
SHARES = {"even": (slice(0, 7), slice(7, 14)), "uneven": (slice(0, 4), slice(4, 14))}
CASES = list(product(SHARES, READOUTS, ("float32", "float64")))


def pairs(dtype):
    generator = torch.Generator().manual_seed(1)
    patch = torch.rand(PAIRS, 1, 1, 17, 17, generator=generator, dtype=torch.float64)
    return (patch + 0.3 * torch.rand(PAIRS, 2, 1, 17, 17, generator=generator, dtype=torch.float64)).to(dtype)


def train(own, readout, dtype):
    """Two steps on the pairs ``own`` of the batch: everything that must not depend on how the batch is divided."""
    torch.manual_seed(0)
    stage = Stage(1, 6, kernel=5, stride=2, simple_complex=True, generator=torch.Generator().manual_seed(2)).to(dtype)
    seen = {}
    for step in range(2):
        batch = pairs(dtype).roll(step, 0)[own]
        maps = stage(batch.flatten(0, 1)).unflatten(0, (-1, 2))
        first, second = (READOUTS[readout](maps[:, view]) for view in (0, 1))
        loss = barlow_twins(first, second, weight=0.2)
        stage.zero_grad()
        (loss.total / world_size()).backward()
        sum_gradients(stage.parameters())
        seen |= {f"{step} {name}": value.detach().clone() for name, value in loss._asdict().items()}
        for name, parameter in stage.named_parameters():
            assert parameter.grad is not None
            seen[f"{step} gradient {name}"] = parameter.grad.clone()
            with torch.no_grad():
                parameter.sub_(0.05 * parameter.grad)
        seen |= {f"{step} {name}": buffer.clone() for name, buffer in stage.named_buffers()}
    stage.eval()
    seen["evaluated"] = stage(pairs(dtype)[:, 0]).detach()
    return {name: value.numpy() for name, value in seen.items()}


def probe():
    """Single operations, on values that differ between processes."""
    mine = torch.tensor([1.0, 2.0, 3.0]) * (rank() + 1)
    mine.requires_grad_()
    total = sum_over_processes(mine)
    (total.square().sum() / world_size()).backward()
    rows = (torch.arange(6.0).view(3, 2) + 10 * rank())[: 2 + rank()].requires_grad_()
    gathered = gather_over_processes(rows)
    # A share of the loss that differs between processes: each weighs all rows in a way of its own.
    (gathered.square() * torch.tensor([1.0, 10.0][rank()])).sum().backward()
    assert rows.grad is not None
    one_sided = gather_over_processes(torch.arange(3.0)[: 3 * rank()])
    flags = gather_over_processes(torch.tensor([[True, False]]) if rank() else torch.tensor([[False, False]]))
    held, without = nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(2))
    other = nn.Parameter(torch.zeros(3, 2).T)
    held.grad = torch.arange(6.0).view(2, 3) * (rank() + 1)
    other.grad = torch.arange(6.0).view(3, 2).T * 10 ** rank()
    sum_gradients([held, without, other])
    assert without.grad is None
    barrier()
    features = torch.full((3 + 2 * rank(), 2), 0.7)
    features[:, 1] = torch.arange(float(len(features))) * (1 - 2 * rank())
    constant = correlation(features, features)
    return {
        "world": np.array([world_size(), rank()]),
        "total": total.detach().numpy(),
        "gradient": mine.grad.numpy(),
        "gathered": gathered.detach().numpy(),
        "gathered gradient": rows.grad.numpy(),
        "one-sided": one_sided.numpy(),
        "flags": flags.numpy(),
        "held": held.grad.numpy(),
        "other": other.grad.numpy(),
        "constant": constant.numpy(),
    }


def main(folder, number):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=2)
    try:
        for share, readout, dtype in CASES:
            values = train(SHARES[share][number], readout, getattr(torch, dtype))
            np.savez(folder / f"{share} {readout} {dtype} {number}.npz", **values)
        np.savez(folder / f"probe {number}.npz", **probe())
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes found: a function from the name of a file and a process to its arrays."""
    folder = tmp_path_factory.mktemp("processes")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    if sys.platform == "linux":
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "error", __file__, str(folder), str(number)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in (0, 1)
    ]
    try:
        said = [process.communicate(timeout=120)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(said)

    def load(name, number):
        with np.load(folder / f"{name} {number}.npz") as file:
            return dict(file)

    return load


@pytest.mark.parametrize(("share", "readout", "dtype"), CASES)
def test_two_processes_train_as_one(two, share, readout, dtype):
    alone = train(slice(None), readout, getattr(torch, dtype))
    tolerance = {"float32": 1e-5, "float64": 1e-12}[dtype]
    for number in (0, 1):
        together = two(f"{share} {readout} {dtype}", number)
        assert together.keys() == alone.keys()
        for name, value in alone.items():
            difference = np.abs(together[name] - value).max()
            assert difference <= tolerance * np.abs(value).max(), name
        for term in ("0 total", "0 similarity", "0 decorrelation"):
            assert together[term] == pytest.approx(alone[term], rel=1e-6)
    assert alone["0 total"] > 0.1
    assert alone["1 norm.num_batches_tracked"] == 2


@pytest.mark.parametrize("share", SHARES)
def test_both_processes_hold_exactly_the_same(two, share):
    for readout, dtype in product(READOUTS, ("float32", "float64")):
        first, second = (two(f"{share} {readout} {dtype}", number) for number in (0, 1))
        for name, value in first.items():
            np.testing.assert_array_equal(second[name], value, err_msg=name)


def test_averaged_correlations_would_be_another_loss():
    """The mistake that sums of moments avoid."""
    batch = pairs(torch.float64).flatten(2)[:, :, :6]
    halves = [correlation(batch[own, 0], batch[own, 1]) for own in SHARES["even"]]
    assert (sum(halves) / 2 - correlation(batch[:, 0], batch[:, 1])).abs().max() > 0.01


def test_sums_and_their_gradients(two):
    for number in (0, 1):
        found = two("probe", number)
        assert found["world"].tolist() == [2, number]
        np.testing.assert_array_equal(found["total"], [3, 6, 9])
        # d (total^2) / d mine, each of two processes holding half of the loss.
        np.testing.assert_array_equal(found["gradient"], [6, 12, 18])
        np.testing.assert_array_equal(found["held"], 3 * np.arange(6).reshape(2, 3))
        np.testing.assert_array_equal(found["other"], 11 * np.arange(6).reshape(3, 2).T)


def test_rows_of_all_processes_and_their_gradients(two):
    everything = np.array([[0, 1], [2, 3], [10, 11], [12, 13], [14, 15]])
    for number, own in ((0, slice(0, 2)), (1, slice(2, 5))):
        found = two("probe", number)
        np.testing.assert_array_equal(found["gathered"], everything)
        # d (sum of both shares) / d own rows = 2 (1 + 10) row.
        np.testing.assert_array_equal(found["gathered gradient"], 22 * everything[own])
        np.testing.assert_array_equal(found["one-sided"], [0, 1, 2])
        np.testing.assert_array_equal(found["flags"], [[False, False], [True, False]])


def test_a_feature_constant_on_all_processes_has_no_correlation(two):
    for number in (0, 1):
        np.testing.assert_allclose(two("probe", number)["constant"], [[0, 0], [0, 1]], atol=1e-6)


def test_one_process_needs_no_group():
    assert (world_size(), rank()) == (1, 0)
    values = torch.ones(3, requires_grad=True)
    assert sum_over_processes(values) is values
    assert gather_over_processes(values) is values
    with pytest.raises(ValueError, match="without an axis"):
        gather_over_processes(torch.tensor(1.0))
    barrier()
    with process_group():
        assert not dist.is_initialized()


def test_the_group_of_torchrun_is_joined_and_left(monkeypatch):
    for name, value in {"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)

    def inside():
        with process_group():
            assert dist.is_initialized()
            assert (world_size(), rank()) == (1, 0)
            with process_group():
                pass
            assert dist.is_initialized()  # one that exists is left alone
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        inside()
    assert not dist.is_initialized()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
