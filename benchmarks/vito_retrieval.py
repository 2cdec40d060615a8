"""Frames of held-out moments looked up by clip, in runs of `lcl train-method vito` and in their untrained networks.

    python benchmarks/vito_retrieval.py RUN [RUN ...] [--labelled FOLDER]

The middle of every clip was not trained on. Its frames, or one cropped and changed view of each, are looked up among
the frames trained on, by the cosine of the mean response of every layer that was pooled, and of its attention-pooled
response; the accuracy is the share whose neighbours are of the same clip. The untrained network has the initial weights
of the run's seed, and batch-norm statistics of the pictures looked among. With --labelled (a folder with train and val
by class), classes of those pictures are looked up too. Prints one line of JSON per run.
"""

import argparse
import json
from functools import partial

import numpy as np
import torch

from lcl.labelled_images import central_squares, train_and_validation
from vision_methods.attention_pooling import attend
from vision_methods.backbones import make_backbone
from vision_methods.frame_pairs import changed_views, configured_clips, held_out_frames
from vision_methods.method_run import read_method_config
from vision_methods.probes import classify
from vision_methods.train import CHUNK, mean_responses, with_statistics
from vision_methods.vito import trained_encoder

CPU = torch.device("cpu")


@torch.no_grad()
def attended_responses(encoder, size_px, pictures):
    found = {layer: [] for layer in encoder.pools}
    for index in np.array_split(np.arange(len(pictures)), -(-len(pictures) // CHUNK)):
        maps = encoder.backbone(central_squares(pictures, size_px, index).float() / 255)
        for layer, pool in encoder.pools.items():
            found[layer].append(attend(maps[layer], pool.weights(maps[layer])))
    return {layer: torch.cat(parts).numpy() for layer, parts in found.items()}


def mean_of_layers(backbone, layers, size_px, pictures):
    found = mean_responses(backbone, pictures, np.arange(len(pictures)), layers=layers, size_px=size_px, device=CPU)
    return {layer: values.numpy() for layer, values in found.items()}


def accuracies(responses, known, asked):
    """By layer; ``responses`` is a function of pictures."""
    references, queries = responses(known), responses(asked)
    return {
        layer: round(
            classify(references[layer], known.labels, queries[layer], asked.labels, probe="neighbours").accuracy, 3
        )
        for layer in references
    }


def looked_up(run, labelled):
    _, config, _ = read_method_config(run)
    held = held_out_frames(configured_clips(config), share=config.held_out, most=config.judge_most)
    tasks = {
        "view": (held.references, changed_views(held.middle, size_px=config.size_px)),
        "frame": (held.references, held.middle),
    } | ({"class": labelled} if labelled else {})
    encoder, size_px = trained_encoder(run), config.size_px
    found = {"run": run}
    for task, (known, asked) in tasks.items():
        start = make_backbone(config.backbone, seed=config.seed)
        start = with_statistics(start, known, size_px=size_px, device=CPU)
        layers = list(encoder.pools)
        found[task] = {
            "untrained": accuracies(partial(mean_of_layers, start, layers, size_px), known, asked),
            "mean": accuracies(partial(mean_of_layers, encoder.backbone, layers, size_px), known, asked),
            "attended": accuracies(partial(attended_responses, encoder, size_px), known, asked),
        }
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--labelled")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    labelled = train_and_validation(arguments.labelled, short_side_px=160) if arguments.labelled else None
    for run in arguments.runs:
        print(json.dumps(looked_up(run, labelled)), flush=True)


if __name__ == "__main__":
    main()
