"""K-means of a batch of dense feature maps, each picture by itself, against scikit-learn picture by picture.

The maps are those of a discovery network on its spanning views: 64 pictures, 14 x 14 cells, 256 features, K = 16. Two
kinds: white noise smoothed over space (a hard case: no true clusters), and clumps with noise (an easy one). Both sides
start with k-means++ in one go and do at most 20 iterations; scikit-learn is also timed with its own 300.

    python benchmarks/kmeans.py [--threads N] [--rounds N] [--pictures 64] [--clusters 16]
"""

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from side_by_side import arguments, header, in_turn, threads
from sklearn.cluster import KMeans

from vision_methods.kmeans import kmeans

SIDE, WIDTH = 14, 256


def smooth(pictures, rng):
    maps = gaussian_filter(rng.standard_normal((pictures, WIDTH, SIDE, SIDE)), (0, 0, 1.5, 1.5))
    maps = maps / maps.std() + 0.3 * rng.standard_normal(maps.shape)
    return np.ascontiguousarray(maps.reshape(pictures, WIDTH, -1).transpose(0, 2, 1), dtype=np.float32)


def clumps(pictures, rng):
    centres = rng.standard_normal((pictures, 20, WIDTH))
    own = rng.integers(0, 20, (pictures, SIDE * SIDE, 1))
    noise = 1.5 * rng.standard_normal((pictures, SIDE * SIDE, WIDTH))
    return (np.take_along_axis(centres, own, 1) + noise).astype(np.float32)


def main():
    args = arguments(__doc__, pictures={"type": int, "default": 64}, clusters={"type": int, "default": 16})
    header(["numpy", "scikit-learn", "torch"], args.threads)
    print(f"{'':28s} {'scikit-learn':>12s} {'ours':>9s} {'wall':>7s} {'CPU':>7s}   mean inertia, ours / theirs")
    with threads(args.threads):
        for kind in (smooth, clumps):
            points = kind(args.pictures, np.random.default_rng(0))
            batch, found = torch.from_numpy(points), {}

            def ours(batch=batch, found=found):
                found["ours"] = kmeans(batch, args.clusters, iterations=20).inertia.mean().item()

            for iterations in (20, 300):

                def theirs(points=points, found=found, iterations=iterations):
                    fits = [
                        KMeans(args.clusters, n_init=1, max_iter=iterations, random_state=0).fit(each)
                        for each in points
                    ]
                    found["theirs"] = np.mean([fit.inertia_ for fit in fits])

                ours()
                times = in_turn({"ours": ours, "theirs": theirs}, args.rounds)
                (wall, cpu), (peer_wall, peer_cpu) = times["ours"], times["theirs"]
                print(
                    f"{kind.__name__ + f', theirs at most {iterations}':28s} {peer_wall:10.3f} s {wall:7.3f} s "
                    f"{peer_wall / wall:6.1f}x {peer_cpu / cpu:6.1f}x   {found['ours']:.5g} / {found['theirs']:.5g}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
