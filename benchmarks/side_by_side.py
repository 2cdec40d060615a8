"""Both sides of a comparison in turn, in one process, with everything needed to read the numbers."""

import argparse
import contextlib
import datetime
import importlib.metadata
import os
import pathlib
import platform
import statistics
import subprocess
import time
from collections.abc import Callable

import torch
from threadpoolctl import threadpool_limits


def arguments(description: str, **extra) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="threads of both sides (default: all cores)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="timings of each side; the median is printed")
    for name, options in extra.items():
        parser.add_argument(f"--{name}", **options)
    return parser.parse_args()


@contextlib.contextmanager
def threads(number: int):
    torch.set_num_threads(number)
    with threadpool_limits(number):
        yield


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def header(packages: list[str], n_threads: int) -> None:
    here = pathlib.Path(__file__).resolve().parent
    git = ["git", "-C", str(here), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "no git"
    versions = []
    for name in packages:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} absent")
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    now = datetime.datetime.now(datetime.UTC)
    print(f"# {now:%Y-%m-%d %H:%M} UTC, commit {commit}, Python {platform.python_version()}")
    print(f"# {_processor()}, {os.cpu_count()} cores, {n_threads} threads for each side; load {load} before")
    print(f"# {', '.join(versions)}", flush=True)


def seconds(run: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of one run."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def in_turn(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float]]:
    """Median wall and CPU seconds of each side, timed one after the other in every round."""
    times = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            times[name].append(seconds(run))
    return {
        name: (statistics.median(w for w, _ in pairs), statistics.median(c for _, c in pairs))
        for name, pairs in times.items()
    }
