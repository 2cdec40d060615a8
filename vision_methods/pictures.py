"""The pictures of a method's configuration: those it trains on, and those with labels that it is judged by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lcl import distributed
from lcl.images import ImageStore, open_images
from lcl.labelled_images import VALIDATION_FOLDERS, LabelledImages, train_and_validation, with_labels
from vision_methods.config import MethodConfig


@dataclass(frozen=True, eq=False)
class Pictures:
    """Decoded pictures.

    Attributes
    ----------
    store : ImageStore
        To train on; no label is used.
    labelled : (LabelledImages, LabelledImages) or None
        Pictures with labels: references, and others that are judged by them.
    about : str
        A line for the user.
    """

    store: ImageStore
    labelled: tuple[LabelledImages, LabelledImages] | None
    about: str


def open_pictures(config: MethodConfig, *, progress: bool = False) -> Pictures:
    """Pictures of a configuration, decoded once.

    A folder with ``train`` and ``val`` is trained on in its first part and judged in its second; of another source with
    labels a share of each class (``held_out``) is held out. Without labels all pictures are trained on, and nothing is
    judged.

    Parameters
    ----------
    config : MethodConfig
    progress : bool
        Show progress bars.

    Returns
    -------
    Pictures

    Raises
    ------
    FileNotFoundError, ValueError
        If they cannot be used, or ``validation_images`` is given and has no labels.
    """
    if not config.images:
        raise ValueError("there are no images; give --images FOLDER, FILE.h5 or DIR/*.tar.")
    options = {
        "short_side_px": config.short_side_px,
        "min_side_px": min(16, config.short_side_px),
        "memory_cap_bytes": int(config.memory_cap_gb * 2**30),
        "store_cap_bytes": int(config.store_cap_gb * 2**30),
        "store_dir": config.store_dir or None,
        "progress": progress and distributed.rank() == 0,
    }
    folder = Path(config.images).expanduser()
    divided = (folder / "train").is_dir() and any((folder / name).is_dir() for name in VALIDATION_FOLDERS)
    if divided or config.validation_images:
        labelled = train_and_validation(config.images, config.validation_images, **options)
    else:
        store = open_images(config.images, **options)
        try:
            labelled = with_labels(store, config.images).divided(config.held_out, seed=0)
        except ValueError as error:
            return Pictures(store, None, f"{store.summary()}; no accuracy at the end of epochs ({error})")
    about = f"{labelled[0].store.summary()}; {len(labelled[1])} pictures to judge by"
    return Pictures(labelled[0].store, labelled, about)


def own_share(pictures: int, batch: int) -> tuple[slice, int]:
    """Part of this process in every batch, and the number of whole batches in an epoch.

    Parameters
    ----------
    pictures : int
    batch : int
        Per step, over all processes.

    Returns
    -------
    own : slice
    per_epoch : int

    Raises
    ------
    ValueError
        If the batch is not a multiple of the processes, or there are fewer pictures.

    Examples
    --------
    >>> own_share(1500, 64)
    (slice(0, 64, None), 23)
    """
    processes = distributed.world_size()
    if batch % processes:
        raise ValueError(f"batch is {batch} for {processes} processes; expected a multiple of {processes}.")
    if batch > pictures:
        raise ValueError(f"batch is {batch}, but there are {pictures} training pictures; lower --batch.")
    share = batch // processes
    return slice(distributed.rank() * share, (distributed.rank() + 1) * share), pictures // batch
