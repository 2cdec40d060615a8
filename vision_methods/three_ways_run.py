"""A detector of a configuration, what its run folder holds, and how it is read back.

Besides what every method leaves, ``detector.safetensors`` holds the detector, and ``towers/`` the run of the towers
that it was built on: its text tower turns any words into vectors.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from lcl import distributed
from lcl.checkpoint import read_tensors, write_tensors
from lcl.images import open_images
from lcl.report import name_table, picture, section
from lcl.train import counter_generator
from stimuli.drawing import BLUE, WIDTH_IN, plain, png, styled
from stimuli.files import replacing
from vision_methods.boxed_pictures import BoxedPictures, read_boxes
from vision_methods.captions import Captions, read_captions
from vision_methods.detection import Detections
from vision_methods.image_text_config import ImageTextConfig, ThreeWaysConfig
from vision_methods.image_text_run import ImageTextModel, load_towers
from vision_methods.made_detection import HELD_OUT, made_detection
from vision_methods.method_run import read_method_config
from vision_methods.pyramid import Detector
from vision_methods.self_training import PseudoBoxes, pseudo_boxes
from vision_methods.text_variants import clean_vectors, text_variants
from vision_methods.three_ways import JudgedBoxes, ThreeWays, detect, layer_strides

#: Files of a run of towers that a detector keeps.
TOWER_FILES = ("config.json", "weights.safetensors", "towers.safetensors", "tokenizer.json", "text_model.json")
#: Seed of made pictures to judge by, and what is added to a run's seed for made captions: others than any run's.
JUDGED_SEED, CAPTIONS_SEED = 2**40, 2**41


@dataclass(frozen=True, eq=False)
class OpenVocabulary:
    """A trained detector and how words reach it.

    Attributes
    ----------
    detector : Detector
        In evaluation mode.
    towers : ImageTextModel
    config : ThreeWaysConfig
        Of the run.
    """

    detector: Detector
    towers: ImageTextModel
    config: ThreeWaysConfig

    def texts(self, names: Sequence[str]) -> Tensor:
        """Clean unit vectors of names, as in training: the mean over the prompts, (name, D)."""
        return clean_vectors(self.towers.encode_words, names, self.config.prompts)

    def __call__(self, image: Path | str | np.ndarray, names: Sequence[str], **options: float) -> Detections:
        """Boxes of names in a picture.

        Parameters
        ----------
        image : path or ndarray of uint8, (height, width, 3)
        names : sequence of str
        **options
            Of :func:`vision_methods.detection.best_boxes`.

        Returns
        -------
        Detections
            In pixels of the picture; labels are numbers of the names.
        """
        store = open_images([image], short_side_px=2**20)
        return detect(self.detector, store, [0], self.texts(names), size_px=self.config.size_px, **options)[0]


def new_detector(config: ThreeWaysConfig, model: ImageTextModel) -> Detector:
    """Detector of a configuration on two towers, before training.

    Parameters
    ----------
    config : ThreeWaysConfig
    model : ImageTextModel
        Its network of pictures is taken, not copied.

    Returns
    -------
    Detector

    Raises
    ------
    ValueError
        If the towers have another network, or are not aligned by the pyramid's last layer.
    """
    if model.config.backbone != config.backbone:
        raise ValueError(
            f"The towers have the backbone {model.config.backbone}, not {config.backbone}; give --backbone "
            f"{model.config.backbone}."
        )
    towers = model.towers
    if towers.layer != config.layers[-1]:
        raise ValueError(
            f"The towers are aligned by layer {towers.layer}; expected it as the last of layers, not "
            f"{config.layers[-1]}."
        )
    return Detector(
        towers.image,
        config.layers,
        layer_strides(towers.image, config.layers, config.size_px),
        towers.image_head.weight.detach(),
        beyond=config.beyond,
        depth=config.depth,
        gated=config.gated,
        level_range=config.level_range,
        scale=config.start_scale,
        frozen=config.freeze_backbone,
        generator=counter_generator(config.seed, 10),
    )


def open_boxes(config: ThreeWaysConfig, *, progress: bool = False) -> tuple[BoxedPictures, BoxedPictures, list[str]]:
    """Pictures with boxes of a configuration, with all classes: to train on, to judge by; and the words held out."""
    if not config.images:
        if config.validation_images or config.image_dir:
            raise ValueError("validation_images and image_dir are for boxes that are read; give --images too.")
        train = made_detection(config.made_pictures, seed=config.seed, size_px=config.size_px)
        held = made_detection(min(config.judge_most, 300), seed=JUDGED_SEED, size_px=config.size_px)
        return train.pictures, held.pictures, list(config.held_out_words or HELD_OUT)
    options = _options(config, progress)
    everything = read_boxes(config.images, image_dir=config.image_dir, **options)
    if config.validation_images:
        train, held = everything, read_boxes(config.validation_images, image_dir=config.image_dir, **options)
        if held.classes != train.classes:
            raise ValueError(
                f"{config.validation_images} has other categories than {config.images}; expected the same."
            )
    else:
        train, held = everything.divided(config.held_out, seed=0)
    if len(held) > config.judge_most:
        held = held.subset(np.sort(np.random.default_rng(0).permutation(len(held))[: config.judge_most]))
    return train, held, list(config.held_out_words)


def open_captions(config: ThreeWaysConfig, *, progress: bool = False) -> Captions:
    """Captioned pictures of a configuration, for self-training."""
    if config.captions:
        return read_captions(config.captions, image_dir=config.caption_dir, **_options(config, progress))
    seed = CAPTIONS_SEED + config.seed
    return made_detection(config.made_captioned, seed=seed, size_px=config.size_px).captioned()


def _options(config: ThreeWaysConfig, progress: bool) -> dict[str, object]:
    return {
        "short_side_px": config.short_side_px,
        "memory_cap_bytes": int(config.memory_cap_gb * 2**30),
        "store_cap_bytes": int(config.store_cap_gb * 2**30),
        "store_dir": config.store_dir or None,
        "progress": progress and distributed.rank() == 0,
    }


def train_towers(config: ThreeWaysConfig, *, progress: bool = False) -> None:
    """Train the towers of a configuration, or go on with them, unless their run folder is finished.

    They learn from its captions, or from made pictures where it has none.

    Parameters
    ----------
    config : ThreeWaysConfig
    progress : bool

    Raises
    ------
    ValueError
        If there is no folder for them.
    """
    from vision_methods.presets import PRESETS
    from vision_methods.train import train_method

    if not config.towers:
        raise ValueError(
            "There are no towers to start from; give --towers with a run of `lcl train-method siglip`, or with a "
            "folder that does not exist yet, to train them there."
        )
    run = Path(config.towers)
    done, begun = ((run / name).exists() for name in ("weights.safetensors", "state.safetensors"))
    distributed.barrier()  # before a process makes what another looks for
    if done:
        return
    toy = PRESETS["siglip"]["toy"]()
    assert isinstance(toy, ImageTextConfig)
    given = {"images": config.captions, "image_dir": config.caption_dir, "seed": config.seed, "device": config.device}
    settings = dataclasses.replace(toy, backbone=config.backbone, latent_width=64, **given)
    if begun:
        name, read, _ = read_method_config(run)
        if name != "siglip" or not isinstance(read, ImageTextConfig):
            raise ValueError(f"{run} is a run of {name}; expected one of siglip.")
        settings = read
    train_method("siglip", settings, run, resume=begun, progress=progress)


def build(config: ThreeWaysConfig, device: torch.device, *, progress: bool = False) -> ThreeWays:
    """Learner of a configuration: towers, trained if they have to be, pictures, text variants, and pseudo-boxes.

    Parameters
    ----------
    config : ThreeWaysConfig
    device : torch.device
    progress : bool
        Show progress bars.

    Returns
    -------
    ThreeWays

    Raises
    ------
    FileNotFoundError, ValueError
        If towers, pictures, captions or the teacher cannot be used, or do not fit the settings.
    """
    train_towers(config, progress=progress)
    model = load_towers(config.towers)
    train, held, words = open_boxes(config, progress=progress)
    novel = train.held_out(words)
    base = train.of_classes(np.flatnonzero(~novel))
    texts = text_variants(
        model.encode_words,
        model.towers,
        base.classes,
        config.prompts,
        variants=config.variants,
        dropout=config.text_dropout,
        seed=config.seed,
    )
    clean = clean_vectors(model.encode_words, train.classes, config.prompts)
    boxes = sum(len(each) for each in base.boxes)
    about = (
        f"{len(base)} pictures, {boxes} boxes of {len(base.classes)} classes; {int(novel.sum())} classes held out "
        f"({', '.join(words) or 'no words'}); {len(held)} pictures to judge by"
    )
    pseudo = None
    if config.teacher:
        pseudo, said = _pseudo(config, model, device, progress=progress)
        about = f"{about}\n{said}"
    return ThreeWays(
        new_detector(config, model),
        base,
        texts,
        batch=config.batch,
        size_px=config.size_px,
        least_zoom=config.least_zoom,
        mirror=config.mirror,
        pseudo=pseudo,
        caption_batch=config.caption_batch,
        caption_weight=config.caption_weight,
        seed=config.seed,
        precision=config.precision,
        judged=JudgedBoxes(held, clean, novel, config.size_px),
        towers=config.towers,
        about_data=about,
    ).to(device)


def _pseudo(
    config: ThreeWaysConfig, model: ImageTextModel, device: torch.device, *, progress: bool
) -> tuple[PseudoBoxes, str]:
    """Boxes of the captions by the teacher, and a line about them."""
    teacher = load_detector(config.teacher, device=device)
    captions = open_captions(config, progress=progress)
    # The teacher compares with its own text tower; the detector that is trained, with the towers it starts from.
    found = pseudo_boxes(
        teacher.detector,
        captions,
        teacher.towers.encode_words(captions.flat()),
        size_px=teacher.config.size_px,
    )
    kept = found._replace(texts=model.encode_words(captions.flat())).above(config.least_score)
    return kept, f"{len(kept.picture)} of {len(found.picture)} captions have a box of {config.teacher}"


def write_detector(run: Path, detector: Detector, towers: Path | str | None, scores: Mapping[str, float]) -> None:
    """Write detector, towers and a section of the report into a run folder.

    Parameters
    ----------
    run : Path
    detector : Detector
    towers : path or None
        Run that is kept beside it.
    scores : mapping of str to float
        Of the last epoch.
    """
    write_tensors(run / "detector.safetensors", detector.state_dict())
    if towers is not None:
        (run / "towers").mkdir(exist_ok=True)
        for name in TOWER_FILES:
            if (Path(towers) / name).is_file():
                with replacing(run / "towers" / name) as partial:
                    shutil.copyfile(Path(towers) / name, partial)
    drawn = gates(detector.gates())
    caption = "How far the gate of each branch is open, tanh(alpha): 0 before training, when no branch counts."
    html = name_table({name: f"{value:.4f}" for name, value in scores.items()})
    html += picture(png(drawn), caption=caption, alt=caption, width_in=WIDTH_IN)
    (run / "sections").mkdir(exist_ok=True)
    with replacing(run / "sections" / "detection.html") as partial:
        partial.write_text(section("Average precision, and gates", html), encoding="utf-8")


def load_detector(run: Path | str, *, device: torch.device | str = "cpu") -> OpenVocabulary:
    """Trained detector of a run.

    Parameters
    ----------
    run : path
        Made by ``lcl train-method three-ways``.
    device : torch.device or str

    Returns
    -------
    OpenVocabulary

    Raises
    ------
    FileNotFoundError
        If its training has not finished.
    ValueError
        If it is of another method, or a file is damaged.
    """
    name, config, _ = read_method_config(run)
    if not isinstance(config, ThreeWaysConfig):
        raise ValueError(f"{run} is a run of {name}, which finds no boxes; expected one of three-ways.")
    file = Path(run) / "detector.safetensors"
    if not file.is_file():
        raise FileNotFoundError(
            f"{run} holds no detector.safetensors, so its training has not finished; "
            f"go on with `lcl train-method {name} --resume {run}`."
        )
    model = load_towers(Path(run) / "towers")
    detector = new_detector(config, model)
    try:
        detector.load_state_dict(read_tensors(file)[0])
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"The weights in {run} do not fit its config.json: {reason}") from None
    return OpenVocabulary(detector.eval().to(device), model, config)


@styled
def gates(openness: Mapping[str, float]) -> Figure:
    """Bars of gates, by their names.

    Parameters
    ----------
    openness : mapping of str to float

    Returns
    -------
    Figure

    Examples
    --------
    >>> gates({"pyramid.gates.0": 0.2}).axes[0].get_xlabel()
    'tanh(alpha)'
    """
    figure = Figure((WIDTH_IN, 0.8 + 0.22 * len(openness)))
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    axes.barh([plain(name) for name in openness], list(openness.values()), color=BLUE)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(xlabel="tanh(alpha)", xlim=(-1.02, 1.02))
    axes.invert_yaxis()
    return figure
