"""Class means, RanPAC and online EWC: ours beside LAMDA-PILOT's and Mammoth's own learners, on the same features.

Features of AlexNet's fifth layer (means over places, in the units of their spread) are computed once; the same splits
into tasks, the same projections, first weights and batches go to both sides. The peer's learners run unchanged in a
process of their own, by an interpreter of their own (``--python``), out of checkouts that the user made; what they
import at their heads but do not use here (timm, torchvision) is stood in for, and the backbone gives the features back.

- SimpleCIL: ``models/simplecil.py``, ``utils/inc_net.py``, ``backbone/linears.py`` of LAMDA-PILOT.
- RanPAC: ``models/ranpac.py`` of LAMDA-PILOT. Its last layer is a cosine, so ours is asked that way (``cosine``), and
  as the regression itself. Pictures come in order, so that both choose the penalty on the same fifth.
- EWC: ``models/ewc_on.py`` of Mammoth on its two-layer network (``backbone/MNISTMLP.py``), all classes competing.

::

    git clone https://github.com/LAMDA-CL/LAMDA-PILOT; git clone https://github.com/aimagelab/mammoth
    python -m venv peer; peer/bin/pip install torch numpy scipy tqdm kornia pyyaml pillow
    PYTHONPATH=. python benchmarks/continual_peer.py --images FOLDER --alexnet FILE.npz --pilot LAMDA-PILOT \
        --mammoth mammoth --python peer/bin/python
"""

import argparse
import importlib.abc
import importlib.machinery
import importlib.util
import itertools
import json
import platform
import subprocess
import sys
import tempfile
import time
import types
from functools import partial
from pathlib import Path

import numpy as np
import torch

SEEDS, TASKS, CLASSES, PROJECTIONS, SIZE_PX = (0, 1, 2), 5, 10, 1000, 112
EPOCHS, BATCH, RATE, HIDDEN = 5, 30, 0.01, 100
E_LAMBDAS, GAMMA = (0.0, 1.0, 10.0), 1.0


def made(name):
    """An empty class of this name, of which anything may be asked."""
    inside = {"__init__": lambda self, *a, **k: None, "__getitem__": lambda self, key: self}
    return Anything(name, (), inside | {"__call__": lambda self, *a, **k: self})


class Anything(type):
    """A class any name of which is such a class."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return made(name)


class StandIn(types.ModuleType):
    """A module any name of which is an empty class."""

    __path__ = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return made(name)


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the packages that are named, and whatever is inside them."""

    def __init__(self, *names):
        self.names = names

    def find_spec(self, name, path=None, target=None):  # noqa: D102
        if name.partition(".")[0] in self.names:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):  # noqa: D102
        return StandIn(spec.name)

    def exec_module(self, module):  # noqa: D102
        pass


def stand_in(*names):
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    sys.meta_path.append(StandIns(*missing))
    return missing


class Pictures(torch.utils.data.Dataset):
    """Number, features and place in the order of learning, as LAMDA-PILOT's data sets give them."""

    def __init__(self, features, labels):
        self.features, self.labels = torch.from_numpy(features), labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return i, self.features[i], int(self.labels[i])


class Data:
    """LAMDA-PILOT's data manager, of features: classes are numbered in the order of learning."""

    def __init__(self, work, tasks):
        order = np.concatenate(tasks)
        place = np.argsort(order)
        self.sizes = [len(task) for task in tasks]
        self.parts = {part: (work[f"{part}_x"], place[work[f"{part}_y"]]) for part in ("train", "test")}

    def get_task_size(self, task):  # noqa: D102
        return self.sizes[task]

    def get_dataset(self, indices, source, mode):  # noqa: D102
        x, y = self.parts[source]
        chosen = np.isin(y, indices)
        return Pictures(x[chosen], y[chosen])


def pilot(checkout, work, tasks, seed):
    """SimpleCIL and RanPAC: accuracy matrices, the projection and RanPAC's penalties."""
    sys.path.insert(0, checkout)
    stand_in("timm", "torchvision", "easydict")
    import utils.inc_net as inc_net

    class Identity(torch.nn.Identity):
        out_dim = work["train_x"].shape[1]

    inc_net.get_backbone = lambda args, pretrained=False: Identity()
    from models import ranpac, simplecil
    from torch.utils.data import DataLoader

    in_order = lambda *a, **named: DataLoader(*a, **{**named, "shuffle": False, "num_workers": 0})  # noqa: E731
    simplecil.DataLoader = ranpac.DataLoader = in_order
    args = {"memory_size": 0, "device": ["cpu"], "backbone_type": "features", "batch_size": 48, "init_lr": 0.01}
    args |= {"weight_decay": 5e-4, "min_lr": 0.0, "optimizer": "sgd", "tuned_epoch": 1, "use_RP": True}
    args |= {"M": PROJECTIONS, "nb_classes": CLASSES, "init_cls": 2, "increment": 2}
    found = {}
    for name, module in (("simplecil", simplecil), ("ranpac", ranpac)):
        torch.manual_seed(seed)
        learner, data, rows, ridges = module.Learner(args), Data(work, tasks), [], []
        choose = getattr(learner, "optimise_ridge_parameter", None)
        if choose is not None:
            learner.optimise_ridge_parameter = lambda *a, choose=choose, ridges=ridges: (
                ridges.append(float(choose(*a))) or ridges[-1]
            )
        for _ in tasks:
            learner.incremental_train(data)
            learner.topk = min(5, learner._total_classes)
            answers, labels = learner._eval_cnn(learner.test_loader)
            rows.append(row_of(answers[:, 0] == labels, labels // 2, len(tasks)))
            learner.after_task()
        found[f"{name}_matrix"] = np.stack(rows)
        if name == "ranpac":
            found |= {"projection": learner.W_rand.numpy(), "ridges": np.array(ridges)}
    return found


def row_of(right, task, tasks):
    """Accuracy on each task that was tested."""
    return np.array([right[task == number].mean() if (task == number).any() else np.nan for number in range(tasks)])


def mammoth(checkout, work, tasks, seed):
    """Online EWC at several strengths: accuracy matrices, first and last weights."""
    sys.path.insert(0, checkout)
    stand_in("torchvision", "timm", "kornia", "open_clip", "pandas", "requests", "onedrivedownloader", "wandb")
    from backbone.MNISTMLP import BaseMNISTMLP
    from models.ewc_on import EwcOn

    found = {}
    x, y = torch.from_numpy(work["train_x"]), torch.from_numpy(work["train_y"])
    test_x, test_y = torch.from_numpy(work["test_x"]), work["test_y"]
    task_of = np.empty(CLASSES, int)
    for number, classes in enumerate(tasks):
        task_of[classes] = number
    for strength in E_LAMBDAS:
        torch.manual_seed(seed)
        net = BaseMNISTMLP(x.shape[1], CLASSES, HIDDEN)
        first = net.get_params().detach().clone()
        args = argparse.Namespace(
            e_lambda=strength, gamma=GAMMA, lr=RATE, optimizer="sgd", optim_wd=0, optim_mom=0.9, optim_nesterov=False,
            batch_size=BATCH, label_perc=1, label_perc_by_class=1,
        )  # fmt: skip
        about = types.SimpleNamespace(
            N_CLASSES=CLASSES, N_TASKS=len(tasks), SETTING="class-il", N_CLASSES_PER_TASK=CLASSES // len(tasks)
        )
        model = EwcOn(net, torch.nn.CrossEntropyLoss(), args, None, about)
        model.device = torch.device("cpu")
        rows = []
        for number in range(len(tasks)):
            batches = [torch.from_numpy(work[f"batch_{seed}_{number}_{i}"]) for i in range(int(work["steps"]))]
            for part in batches:
                model.observe(x[part], y[part], x[part])
            loader = [(x[part], y[part]) for part in batches[: len(batches) // EPOCHS]]
            model.end_task(types.SimpleNamespace(train_loader=loader))
            with torch.no_grad():
                scores = net(test_x)
            seen = np.concatenate(tasks[: number + 1])
            tested = np.isin(test_y, seen)
            answers = seen[scores[tested][:, seen].argmax(1).numpy()]
            rows.append(row_of(answers == test_y[tested], task_of[test_y[tested]], len(tasks)))
        found |= {f"ewc_{strength}": np.stack(rows), f"first_{strength}": first.numpy()}
        found[f"last_{strength}"] = net.get_params().detach().numpy()
    return found


def peer(kind, checkout, folder):
    """The peer's process."""
    torch.set_num_threads(1)
    work = np.load(folder / "work.npz")
    checkout = str(Path(checkout).resolve())
    for seed in SEEDS:
        tasks = [work[f"task_{seed}_{number}"] for number in range(TASKS)]
        found = {"pilot": pilot, "mammoth": mammoth}[kind](checkout, work, tasks, seed)
        np.savez(folder / f"{kind}_{seed}.npz", **found)


def prepare(images, alexnet, folder):
    """Features, splits and batches, for both sides."""
    from lcl.labelled_images import train_and_validation
    from vision_methods.continual_config import ContinualConfig
    from vision_methods.continual_networks import Source, make_base
    from vision_methods.continual_protocol import split_classes

    base = make_base(ContinualConfig(backbone=f"alexnet:{alexnet}", layer="conv5", size_px=SIZE_PX), seed=0, loaders={})
    parts = train_and_validation(images, short_side_px=160)
    sources = [Source(part, base, SIZE_PX, cap_bytes=2**30, device=torch.device("cpu")) for part in parts]
    raw = [source.features(np.arange(len(source))).numpy() for source in sources]
    spread = raw[0].std()
    work = {"steps": 0}
    for name, source, features in zip(("train", "test"), sources, raw, strict=True):
        work |= {f"{name}_x": (features / spread).astype(np.float32), f"{name}_y": source.labels}
    for seed in SEEDS:
        tasks = split_classes(CLASSES, TASKS, seed=seed)
        for number, classes in enumerate(tasks):
            work[f"task_{seed}_{number}"] = classes
            for i, part in enumerate(batches_of(work["train_y"], classes, seed, number)):
                work[f"batch_{seed}_{number}_{i}"] = part
                work["steps"] = i + 1
    np.savez(folder / "work.npz", **work)
    return work, sources


def batches_of(labels, classes, seed, task):
    """As :class:`vision_methods.continual_learners.Tuned` draws them."""
    from lcl.train import counter_generator
    from vision_methods.continual_learners import _ORDER

    index = np.flatnonzero(np.isin(labels, classes))
    for epoch in range(EPOCHS):
        order = torch.randperm(len(index), generator=counter_generator(seed, _ORDER, task, epoch)).numpy()
        yield from np.array_split(index[order], max(1, round(len(index) / BATCH)))


def ours(work, seed, theirs):
    """The same methods: accuracy matrices, last weights, penalties and seconds."""
    from vision_methods.continual import accuracies
    from vision_methods.continual_config import ContinualConfig
    from vision_methods.continual_learners import Tuned, seen_classes
    from vision_methods.continual_networks import Base
    from vision_methods.prototypes import ClassMeans, RanPAC

    class Layers(Base):
        tunable = ("layers",)

        def __init__(self):
            super().__init__()
            sizes = (work["train_x"].shape[1], HIDDEN, HIDDEN)
            blocks = [torch.nn.Sequential(torch.nn.Linear(a, b), torch.nn.ReLU()) for a, b in itertools.pairwise(sizes)]
            self.layers = torch.nn.Sequential(*blocks)
            self.width, self.still_width = HIDDEN, sizes[0]

        def frozen(self, still):
            return still

        def forward(self, still):
            return self.layers(still)

    class Given:
        """Features for pictures."""

        def __init__(self, part):
            self.x, self.labels = torch.from_numpy(work[f"{part}_x"]), work[f"{part}_y"]

        def __len__(self):
            return len(self.labels)

        def still(self, index):
            return self.x[index]

        features = still

    class Classifier:
        def __init__(self, classifier):
            self.classifier = classifier

        def learn(self, source, index, task):
            self.classifier.add(source.features(index), torch.from_numpy(source.labels[index]))

        def scores(self, source, index, seen):
            return self.classifier.scores(source.features(index))

    tasks = [work[f"task_{seed}_{number}"] for number in range(TASKS)]
    train, test = Given("train"), Given("test")
    width = work["train_x"].shape[1]
    projection = torch.from_numpy(theirs["pilot"]["projection"])
    make = partial(RanPAC, width, CLASSES, projections=PROJECTIONS, projection=projection)
    learners = {
        "simplecil": Classifier(ClassMeans(width, CLASSES)),
        "ranpac": Classifier(make(cosine=True)),
        "ranpac float32": Classifier(make(cosine=True, dtype=torch.float32)),
        "ranpac regression": Classifier(make()),
    }
    for strength in E_LAMBDAS:
        config = ContinualConfig(
            epochs=EPOCHS, batch=BATCH, optimizer="sgd", learning_rate=RATE, network_rate=RATE, mask=False,
            reset_optimizer=False, ewc_lambda=2 * strength, ewc_gamma=GAMMA, fisher="weighted", fisher_pictures=0,
            regularise_head=True,
        )  # fmt: skip
        learner = Tuned(Layers().requires_grad_(False), tasks, config, seed=seed, network=True, regulariser="ewc")
        together = [*learner.network.parameters(), *learner.head.parameters()]
        torch.nn.utils.vector_to_parameters(torch.from_numpy(theirs["mammoth"][f"first_{strength}"]), together)
        learner.regulariser._anchor()
        learner.regulariser.get_buffer("tasks").zero_()
        learners[f"ewc {strength:g}"] = learner
    found = {}
    for name, learner in learners.items():
        rows, ridges = [], []
        start = time.process_time()
        for number, classes in enumerate(tasks):
            learner.learn(train, np.flatnonzero(np.isin(train.labels, classes)), number)
            rows.append(accuracies(learner, test, tasks, seen_classes(tasks, number)))
            if name.startswith("ranpac"):
                ridges.append(float(learner.classifier.get_buffer("chosen")))
        found[name] = {"matrix": np.stack(rows), "ridges": ridges, "seconds": time.process_time() - start}
        if name.startswith("ewc"):
            parts = [*learner.network.parameters(), *learner.head.parameters()]
            found[name]["last"] = torch.nn.utils.parameters_to_vector(parts).detach().numpy()
    return found


def compare(mine, theirs):
    """Rows of the table: final and average accuracy of both, and the largest difference of two matrices."""
    rows = []
    for name in mine[0]:
        key = f"ewc_{float(name.split()[1])}" if name.startswith("ewc") else f"{name.split()[0]}_matrix"
        kind = "mammoth" if name.startswith("ewc") else "pilot"
        ours_, peers = (np.stack(each) for each in ([m[name]["matrix"] for m in mine], [t[kind][key] for t in theirs]))
        row = {"method": name, "ours": ours_[:, -1].mean(1), "peer": peers[:, -1].mean(1)}
        row["entries that differ"] = int((np.abs(np.nan_to_num(ours_ - peers)) > 1e-9).sum())
        row["largest difference"] = float(np.nanmax(np.abs(ours_ - peers)))
        if kind == "mammoth":
            last = [
                np.abs(m[name]["last"] - t[kind][key.replace("ewc", "last")]) for m, t in zip(mine, theirs, strict=True)
            ]
            row["weights apart"] = float(max(each.max() for each in last))
        if name.startswith("ranpac"):
            row["same penalties"] = all(
                np.allclose(m[name]["ridges"], t[kind]["ridges"]) for m, t in zip(mine, theirs, strict=True)
            )
        rows.append(row)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images")
    parser.add_argument("--alexnet")
    parser.add_argument("--pilot")
    parser.add_argument("--mammoth")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--peer", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        peer(arguments.peer[0], arguments.peer[1], Path(arguments.peer[2]))
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        work, _ = prepare(arguments.images, arguments.alexnet, folder)
        for kind in ("pilot", "mammoth"):
            command = [arguments.python, __file__, "--peer", kind, getattr(arguments, kind), str(folder)]
            subprocess.run(
                command, check=True, stdout=sys.stderr, env={"OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
            )
        theirs = [
            {kind: dict(np.load(folder / f"{kind}_{seed}.npz")) for kind in ("pilot", "mammoth")} for seed in SEEDS
        ]
        mine = [ours(work, seed, each) for seed, each in zip(SEEDS, theirs, strict=True)]
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}")
    for row in compare(mine, theirs):
        plain = {
            key: np.round(100 * value, 2).tolist() if key in ("ours", "peer") else value for key, value in row.items()
        }
        print(json.dumps(plain))


if __name__ == "__main__":
    main()
