"""The `lcl` command: the only place that imports from every package; a command imports what it needs when it runs."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import functools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

#: Exit code for a mistake in what the user gave.
USAGE = 2

NO_IMAGES = "The preset {} has no images of its own; give --images FOLDER, FILE.h5 or DIR/*.tar."


class Parser(argparse.ArgumentParser):
    """Parser that suggests the right name for a misspelt option or choice."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(
            *arguments,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **named,
        )

    def error(self, message: str) -> NoReturn:
        """One sentence on standard error, and exit code 2."""
        self.exit(USAGE, f"{self.prog}: {message}\n")

    def refuse_unknown(self, unknown: Sequence[str]) -> None:
        """Name the first argument that no option takes, and the option that was probably meant."""
        known = [option for action in self._actions for option in action.option_strings]
        for argument in unknown:
            if argument.startswith("-"):
                name = argument.split("=")[0]
                near = difflib.get_close_matches(name, known, 1, 0.5)
                hint = f"did you mean {near[0]}?" if near else f"see `{self.prog} --help`."
                self.error(f"there is no option {name}; {hint}")
        if unknown:
            self.error(f"there is no use for {unknown[0]!r}; see `{self.prog} --help`.")


def one_of(names: Sequence[str]) -> Callable[[str], str]:
    """Type of an argument that is one of some names; a misspelt one is answered with the nearest."""

    def parse(text: str) -> str:
        if text in names:
            return text
        near = difflib.get_close_matches(text, names, 1, 0.4)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(names)}."
        raise argparse.ArgumentTypeError(f"{text!r} is unknown; {hint}")

    return parse


def add_settings(parser: argparse.ArgumentParser, config: Any = None, preset: str = "quick") -> None:
    """One option per field of a configuration, derived from its type and line of prose.

    The configuration has the values of the preset that is named; without one it is that of `lcl train`.
    """
    from lcl.config import Config, parse_value
    from lcl.views import Deformation

    config = config or Config()
    kind = type(config)

    def typed(kind: Any) -> Callable[[str], Any]:
        def parse(text: str) -> Any:
            try:
                return parse_value(text, kind)
            except ValueError as error:
                raise argparse.ArgumentTypeError(str(error)) from None

        return parse

    lists = "Where a preset gives several values, one per stage, give one for all stages or a list: 1500,500."
    settings = parser.add_argument_group("settings", lists if kind is Config else None)
    kinds = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.name == "deformation":
            continue
        option = "--" + field.name.replace("_", "-")
        value = getattr(config, field.name)
        shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
        about = f"{field.metadata['about']} ({preset}: {shown!s})".replace("%", "%%")
        if kinds[field.name] is bool:
            settings.add_argument(option, action=argparse.BooleanOptionalAction, default=None, help=about)
        else:
            settings.add_argument(option, type=typed(kinds[field.name]), metavar="VALUE", help=about)
    if kind is not Config:
        return
    views = parser.add_argument_group(
        "deformations", "Largest displacement in receptive fields, or photometric amplitude; see lcl.views.Deformation."
    )
    for field in dataclasses.fields(Deformation):
        option = "--" + field.name.replace("_", "-")
        about = f"(quick: {getattr(config.deformation, field.name)})"
        views.add_argument(option, type=typed(float), metavar="VALUE", help=about)


def settings_from(arguments: argparse.Namespace, preset: str) -> Any:
    """Configuration of a preset with the options that were given."""
    from lcl.config import PRESETS, Config
    from lcl.views import Deformation

    config = PRESETS[preset]()
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    fields = {field.name for field in dataclasses.fields(Config)}
    deformation = {f.name: given[f.name] for f in dataclasses.fields(Deformation) if f.name in given}
    changes = {name: value for name, value in given.items() if name in fields}
    # Stages are counted by --channels; lists of the preset that are too long or too short are cut or extended.
    stages = len(changes.get("channels", config.channels))
    for name in fields - set(changes):
        value = getattr(config, name)
        if isinstance(value, tuple) and len(value) not in (1, stages):
            changes[name] = (value + value[-1:] * stages)[:stages]
    changes["deformation"] = dataclasses.replace(config.deformation, **deformation)
    return dataclasses.replace(config, **changes)


def finish(run: Path, config: Any, model: Any, store: Any, seconds: float) -> None:
    """Analyse a trained model, write its report and say what it shows."""
    from lcl.analysis import write_analysis
    from lcl.report import write_report
    from lcl.train import choose_device

    summary = write_analysis(run, config, model, store, choose_device(config.device), seconds=seconds)
    report = write_report(run)
    for name, numbers in summary["stages"].items():
        line = f"{name}: held-out loss {numbers['held_out_loss_at_init']:.3g} -> {numbers['held_out_loss']:.3g}"
        if "gabor_fraction" in numbers:
            line += (
                f"; {numbers['gabor_fraction']:.0%} of the filters are Gabor-like and tuned for orientation "
                f"({numbers['gabor_fraction_at_init']:.0%} at initialisation)"
            )
        print(line)
    print(f"Report: {report}")


def loaders() -> dict[str, Callable[..., Any]]:
    """What reads runs that `lcl.measure` cannot know, by their kind."""
    from vision_methods.method_run import KIND, method_model

    return {KIND: method_model}


def reports() -> dict[str, Callable[[Path], Path]]:
    """What writes the report of a run, by its kind; that of `lcl train` has none."""
    from lcl.recognition_report import write_recognition_report
    from lcl.report import write_report
    from vision_methods.continual import KIND as CONTINUAL
    from vision_methods.continual_report import rewrite_study
    from vision_methods.method_report import write_method_report
    from vision_methods.method_run import KIND

    known = {"": write_report, "recognition": write_recognition_report}
    return {**known, KIND: write_method_report, CONTINUAL: rewrite_study}


def write_any_report(run: Path) -> Path:
    """Write the report of a run of whatever kind."""
    from lcl.checkpoint import read_json

    kind, known = read_json(run / "config.json").get("kind", ""), reports()
    if kind not in known:
        raise ValueError(f"{run} is a run of kind {kind!r}, which this version does not know.")
    return known[kind](run)


def train(arguments: argparse.Namespace) -> None:
    """`lcl train`."""
    from lcl import distributed
    from lcl.checkpoint import read_tensors
    from lcl.train import build, choose_device, open_store, read_config, refuse_to_overwrite
    from lcl.train import train as train_model

    if arguments.resume:
        run = arguments.resume
        given = {key for key, value in vars(arguments).items() if value is not None}
        extra = given - {"resume", "progress", "command", "run_command", "preset"}
        if extra or arguments.preset:
            wrong = "--" + sorted(extra)[0].replace("_", "-") if extra else f"the preset {arguments.preset}"
            raise ValueError(f"{wrong} cannot be changed on --resume: a run goes on with its own settings.")
        config, everything = read_config(run)
        preset = everything.get("preset", "")
        if (run / "report.html").exists():
            print(f"{run} is finished; `lcl show {run}` draws its report again.")
            return
    else:
        preset = arguments.preset or "quick"
        config = settings_from(arguments, preset)
        if not config.images:
            raise ValueError(NO_IMAGES.format(preset))
        run = arguments.out or Path("runs") / f"{preset}-{time.strftime('%Y%m%d-%H%M%S')}"

    with distributed.process_group():
        main = distributed.rank() == 0
        device = choose_device(config.device)
        if not arguments.resume:
            refuse_to_overwrite(run)
        store = open_store(config, build(config), progress=arguments.progress and main)
        model = train_model(
            config,
            run,
            store=store,
            resume=bool(arguments.resume),
            preset=preset,
            progress=arguments.progress,
        )
        if main:
            _, metadata = read_tensors(run / "state.safetensors")
            finish(run, config, model.to(device), store, float(metadata["seconds"]))
        distributed.barrier()


def presets(arguments: argparse.Namespace) -> None:
    """`lcl presets`."""
    import inspect

    from lcl.config import PRESETS

    for name, preset in PRESETS.items():
        config = preset()
        print(f"{name}\n{'-' * len(name)}\n{inspect.getdoc(preset)}\n")
        stages = " + ".join(
            f"{steps} steps of {batch}"
            for steps, batch in zip(config.per_stage("steps"), config.per_stage("batch"), strict=True)
        )
        print(
            f"  {stages} patches; filters {config.channels}; {config.optimizer}, learning rates "
            f"{config.per_stage('learning_rate')}\n"
        )
    from lcl import recognition_config

    for name, recipe in recognition_config.PRESETS.items():
        title = f"recognize {name}"
        print(f"{title}\n{'-' * len(title)}\n{inspect.getdoc(recipe)}\n")


def images(arguments: argparse.Namespace) -> None:
    """`lcl images`."""
    from lcl.images import BUILTIN, open_images

    if arguments.source:
        print(open_images(arguments.source, progress=True).summary())
        return
    width = max(len(photograph.name) for photograph in BUILTIN)
    for photograph in BUILTIN:
        size = f"{photograph.width_px} x {photograph.height_px}"
        kind = "colour" if photograph.colour else "grey"
        print(f"{photograph.name:<{width}}  {size:>9} px  {kind:<6}  {photograph.licence}  ({photograph.source})")


def ablate(arguments: argparse.Namespace) -> None:
    """`lcl ablate`."""
    from lcl.ablation import ablate as run_ablation
    from lcl.ablation import summary_lines
    from lcl.views import AMPLITUDE_RULES

    preset = arguments.preset or "quick"
    config = settings_from(arguments, preset)
    if not config.images:
        raise ValueError(NO_IMAGES.format(preset))
    rules = arguments.rules.split(",") if arguments.rules else AMPLITUDE_RULES
    rows = run_ablation(config, arguments.out, rules=rules, seeds=arguments.seeds, progress=arguments.progress)
    print("\n".join(summary_lines(rows)))
    print(f"Table and figure: {arguments.out}")


def fit(arguments: argparse.Namespace) -> None:
    """`lcl fit`."""
    from lcl import measure
    from neural_fits.datasets import load

    models = measure.named_models(arguments.models, seed=arguments.seed, loaders=loaders())
    recording = load(arguments.data)
    for text in arguments.neurons or ():
        recording = recording.select(neurons=measure.rows_where(recording, "neuron", text))
    for text in arguments.stimuli or ():
        recording = recording.select(stimuli=measure.rows_where(recording, "stimulus", text))
    run = Path(arguments.models[0]) if measure.is_run(arguments.models[0]) else None
    regression, options = measure.regression_of(arguments.regression)
    name = f"fit-{recording.name}-{regression}"
    out = arguments.out or (run / "fits" / name if run else None)
    if out is None:
        raise ValueError("give --out DIR, or a run folder as the first model, whose report then takes the results.")
    split_options = {
        key: value for key in ("n_folds", "n_splits", "train_size") if (value := getattr(arguments, key)) is not None
    }
    tables = measure.fit_models(
        models,
        recording,
        splits=arguments.splits,
        split_options=split_options,
        regression=regression,
        regression_options=options,
        layers=arguments.layers,
        reduction=arguments.reduction,
        size_deg=arguments.size_deg,
        rules=arguments.rules.split(","),
        ceiling=arguments.ceiling,
        min_reliability=arguments.min_reliability,
        correlate=arguments.correlate,
        nested_groups=arguments.nested_groups,
        control=arguments.control,
        choose=arguments.choose_layer,
        n_bootstrap=arguments.n_bootstrap,
        seed=arguments.seed,
        batch_size=arguments.batch,
        device=arguments.device,
        cache=arguments.cache,
        progress=arguments.progress,
        say=functools.partial(print, flush=True),
    )
    from lcl.checkpoint import command_line

    sections = measure.write_fits(tables, out, command=command_line())
    report = measure.publish(sections, out, run=None if arguments.out else run, name=name, report=write_any_report)
    print(f"Tables and figures: {out}\nReport: {report}")


def data(arguments: argparse.Namespace) -> None:
    """`lcl data`."""
    from neural_fits import datasets

    name, registry = arguments.name, datasets.REGISTRY
    if arguments.action == "verify":
        if name and name not in registry and not Path(name).exists():
            raise ValueError(f"There is no data set or path {name!r}; expected a path or {', '.join(registry)}.")
        wrong = []
        for path, good, finding in datasets.verify(name, arguments.data):
            print(f"{path} {finding}")
            wrong += [] if good else [f"{path} {finding}"]
        if wrong:
            raise ValueError("; ".join(wrong))
        return
    if name and name not in registry:
        near = difflib.get_close_matches(name, registry, 1, 0.4)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(registry)}."
        raise ValueError(f"There is no data set {name!r}; {hint}")
    if arguments.action == "fetch":
        if not name:
            raise ValueError(f"Say what to fetch: {', '.join(registry)}.")
        for path in datasets.fetch(registry[name], to=arguments.to, progress=arguments.progress):
            print(path)
        return
    rows = [("name", "size", "licence", "who may use it", "where it is")]
    for entry in [registry[name]] if name else registry.values():
        size = "unknown" if entry.size_bytes is None else f"{entry.size_bytes / 1e6:.3g} MB"
        here = ", ".join(map(str, datasets.here(entry.name, arguments.data))) or "not here"
        rows.append((entry.name, size, entry.licence, entry.who, here))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip())


def textures(arguments: argparse.Namespace) -> None:
    """`lcl textures`."""
    if arguments.action == "show":
        show_textures(arguments)
        return
    from stimuli.texture_sources import folder_sources, free_sources
    from stimuli.textures import make_textures

    if arguments.set is not None:
        raise ValueError(f"there is no use for {str(arguments.set)!r}; give the folder to make as --out.")
    sources = folder_sources(arguments.sources, licence=arguments.licence) if arguments.sources else free_sources()
    if arguments.families:
        names = [source.name for source in sources]
        unknown = sorted(set(arguments.families) - set(names))
        if unknown:
            raise ValueError(f"there is no source {unknown[0]!r}; expected some of {', '.join(names)}.")
        sources = [source for source in sources if source.name in arguments.families]
    made = make_textures(
        sources,
        arguments.out,
        n_samples=arguments.samples,
        size_px=arguments.size,
        seed=arguments.seed,
        batch_size=arguments.batch,
        device=arguments.device,
        progress=arguments.progress,
    )
    is_texture = made.parameters["type"] == "texture"
    errors = made.parameters["worst_error"]
    worst = max(range(len(made)), key=lambda i: errors[i] if is_texture[i] else 0.0)
    print(
        f"{int(is_texture.sum())} textures and as many of noise: {arguments.out / 'textures.h5'}\n"
        f"{int(made.parameters['converged'].sum())} converged; worst error {errors[worst]:.3f}, "
        f"{made.parameters['worst_statistic'][worst]} of {made.parameters['family'][worst]}; "
        f"noise at best {errors[~is_texture].min():.2f}"
    )


def show_textures(arguments: argparse.Namespace) -> None:
    """`lcl textures show`: a sheet of pictures, and how they came out."""
    from lcl.properties import texture_lines, texture_set
    from neural_fits.figures_modulation import texture_sheet
    from stimuli.drawing import png
    from stimuli.files import replacing

    stimuli = texture_set(arguments.set, aperture_deg=0, shifts=1)
    print("\n".join(texture_lines(stimuli)))
    path = arguments.out if arguments.out.suffix == ".png" else arguments.out / "textures.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    data = png(texture_sheet(stimuli))
    with replacing(path) as partial:
        partial.write_bytes(data)
    print(f"Pictures: {path}")


def properties(arguments: argparse.Namespace) -> None:
    """`lcl tuning`, `lcl modulation`, and both at once, `lcl properties`."""
    from lcl import measure
    from lcl.checkpoint import command_line
    from lcl.properties import measure_modulation, measure_tuning, texture_set, write_properties

    kind, models = arguments.command, measure.named_models(arguments.models, seed=arguments.seed, loaders=loaders())
    run = Path(arguments.models[0]) if measure.is_run(arguments.models[0]) else None
    out = arguments.out or (run / kind if run else None)
    if out is None:
        raise ValueError("give --out DIR, or a run folder as the first model, whose report then takes the results.")
    measure.move(models, arguments.device)
    shared = {
        "layers": arguments.layers,
        "places": arguments.places,
        "n_units": arguments.n_units,
        "n_resamples": arguments.n_resamples,
        "seed": arguments.seed,
        "batch_size": arguments.batch,
        "say": functools.partial(print, flush=True),
    }
    tuned, modulated = {}, {}
    if kind != "tuning":
        stimuli = texture_set(arguments.textures, aperture_deg=arguments.aperture_deg, shifts=arguments.shifts)
        modulated = measure_modulation(models, stimuli, baseline=arguments.baseline, **shared)
    if kind != "modulation":
        tuned = measure_tuning(
            models, n_sized=arguments.n_sized, n_phases=arguments.n_phases, progress=arguments.progress, **shared
        )
    sections = write_properties(out, tuning_tables=tuned, modulation_tables=modulated, command=command_line())
    report = measure.publish(sections, out, run=None if arguments.out else run, name=kind, report=write_any_report)
    print(f"Tables and figures: {out}\nReport: {report}")


def straighten(arguments: argparse.Namespace) -> None:
    """`lcl straighten`."""
    from lcl import measure
    from lcl.checkpoint import command_line
    from lcl.straighten import straighten as measure_straightening
    from lcl.straighten import write_straightening
    from neural_fits.datasets import henaff2021
    from neural_fits.figures_straightening import straightening_lines

    models = measure.named_models(arguments.models, seed=arguments.seed, loaders=loaders())
    recording = henaff2021.load(arguments.data)
    table = measure_straightening(
        models,
        recording,
        size_deg=arguments.size_deg,
        layers=arguments.layers,
        without=arguments.without or (),
        step=arguments.step,
        transform=arguments.transform,
        n_resamples=arguments.n_resamples,
        seed=arguments.seed,
        progress=arguments.progress,
    )
    print("\n".join(straightening_lines(table)))
    published = henaff2021.published_curvature(arguments.data)
    sections = write_straightening(table, published, arguments.out, command=command_line())
    report = measure.publish(sections, arguments.out, run=None, name="straightening-henaff2021")
    print(f"Table and figure: {arguments.out}\nReport: {report}")


def align(arguments: argparse.Namespace) -> None:
    """`lcl align`."""
    from lcl import measure
    from lcl.align import people_trials
    from lcl.checkpoint import command_line

    models = measure.named_models(arguments.models, seed=arguments.seed, loaders=loaders())
    under = [name for name in (arguments.distortions or "").split(",") if name]
    cues = bool(arguments.stimuli or arguments.decisions or not under)
    if cues and not arguments.trials:
        raise ValueError("there are no decisions of people; give --trials, the folder raw-data of model-vs-human.")
    if under and not (arguments.images and models):
        raise ValueError("there is nothing to distort; give models and --images, a folder of pictures by class.")
    if cues:
        people_trials(arguments.trials, "cue-conflict")  # a wrong folder is said before models run
    layers = None if arguments.layers is None else measure.layers_of(models, arguments.layers)
    names = ("readout", "reduction", "size_deg", "seed", *(("per_category", "n_resamples") if cues else ()))
    record = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    record |= {"command": command_line()}
    options = {name: getattr(arguments, name) for name in ("readout", "reduction", "size_deg", "progress")}
    options |= {"batch_size": arguments.batch, "seed": arguments.seed}
    sections = align_cues(arguments, models, layers, options, record) if cues else []
    if under:
        sections += align_distortions(arguments, models, layers, under, options, record)
    report = measure.publish(sections, arguments.out, run=None, name="alignment")
    print(f"Tables and figures: {arguments.out}\nReport: {report}")


def align_cues(
    arguments: argparse.Namespace, models: Any, layers: Any, options: dict[str, Any], record: dict[str, Any]
) -> list[str]:
    """`lcl align` on cue-conflict pictures: sections of the page."""
    from lcl.align import align_cue_conflict, write_alignment
    from neural_fits.figures_behavior import alignment_lines

    table, trials, rows = align_cue_conflict(
        models,
        trials=arguments.trials,
        stimuli=arguments.stimuli,
        train_images=arguments.train_images,
        layers=layers,
        decisions=arguments.decisions,
        per_category=arguments.per_category or None,
        n_resamples=arguments.n_resamples,
        **options,
    )
    for row in rows:
        if row["training_pictures"]:
            print(
                f"{row['model']} {row['layer']}: read-out of {row['training_pictures']} pictures, accuracy for "
                f"held-out photographs {row['held_out_accuracy']:.3f}, mean over categories "
                f"{row['held_out_balanced_accuracy']:.3f}"
            )
    print("\n".join(alignment_lines(table)))
    return write_alignment(table, trials, rows, arguments.out, record=record)


def align_distortions(
    arguments: argparse.Namespace,
    models: Any,
    layers: Any,
    distortions: list[str],
    options: dict[str, Any],
    record: dict[str, Any],
) -> list[str]:
    """`lcl align` under distortions: sections of the page."""
    from lcl.align import last_layers
    from lcl.align_distortions import distortion_accuracies, people_under, write_curves
    from lcl.labelled_images import train_and_validation

    people = people_under(arguments.trials, distortions) if arguments.trials else {}
    training, shown = train_and_validation(arguments.images, progress=arguments.progress)
    table = distortion_accuracies(
        models,
        last_layers(models) if layers is None else layers,
        training,
        shown,
        distortions=distortions,
        per_class=arguments.per_class,
        **options,
    )
    lines, sections = write_curves(table, people, arguments.out, record={**record, "images": arguments.images})
    print("\n".join(lines))
    return sections


def probe(arguments: argparse.Namespace) -> None:
    """`lcl probe`."""
    from lcl import measure
    from lcl.checkpoint import command_line
    from lcl.labelled_images import train_and_validation
    from vision_methods.probe_report import merged, write_probes
    from vision_methods.probe_tables import classification, has_weights, probe_table, segmentation, some_of_each
    from vision_methods.segments import divided, read_instances

    if not arguments.images and not arguments.segments:
        raise ValueError("there is nothing to probe with; give --images FOLDER, --segments FILE, or both.")
    if len(arguments.segments or ()) > 2:
        raise ValueError(f"--segments names {len(arguments.segments)} files; expected one, or one for each part.")
    names = list(dict.fromkeys(arguments.models))
    models = measure.named_models(names, seed=arguments.seed, loaders=loaders())
    run = Path(names[0]) if measure.is_run(names[0]) else None
    out = arguments.out or (run / "probes" if run else None)
    if out is None:
        raise ValueError("give --out DIR, or a run folder as the first model, whose report then takes the results.")
    layers = measure.layers_of(models, arguments.layers)
    twins = {
        short: measure.named_model(f"untrained:{name}", seed=arguments.seed, loaders=loaders())
        for short, name in zip(models, names, strict=True)
        if arguments.untrained and has_weights(models[short]) and not name.startswith("untrained:")
    }
    for each in (models, twins):
        measure.move(each, arguments.device)
    shared = {
        "batch_size": arguments.batch,
        "progress": arguments.progress,
        "say": functools.partial(print, flush=True),
    }
    pictures, photographs = None, None
    if arguments.images:
        parts = train_and_validation(arguments.images, arguments.validation_images or "", seed=arguments.seed)
        pictures = [some_of_each(part, arguments.per_class, seed=arguments.seed) for part in parts]
    if arguments.segments:
        read = [read_instances(file, arguments.photos) for file in arguments.segments]
        photographs = read if len(read) == 2 else divided(read[0], seed=arguments.seed)
    sums, records, examples = {}, [], []
    if pictures is not None:
        found, record = classification(models, twins, layers, *pictures, n_features=arguments.n_features, **shared)
        sums |= found
        records.append(record)
    if photographs is not None:
        options = {"level": arguments.level, "n_pixels": arguments.pixels, "seed": arguments.seed}
        found, record, examples = segmentation(models, twins, layers, *photographs, **options, **shared)
        sums |= found
        records.append(record)
    table = probe_table(sums, merged(records), n_resamples=arguments.n_resamples, seed=arguments.seed)
    sections = write_probes(table, examples, out, command=command_line())
    report = measure.publish(sections, out, run=None if arguments.out else run, name="probes", report=write_any_report)
    print(f"Tables and figures: {out}\nReport: {report}")


def zero_shot(arguments: argparse.Namespace) -> None:
    """`lcl zero-shot`."""
    from lcl.checkpoint import command_line, write_json
    from lcl.labelled_images import open_labelled
    from vision_methods.image_text_report import TEMPLATES, zero_shot
    from vision_methods.image_text_run import load_towers

    model = load_towers(arguments.run, device=arguments.device)
    images = open_labelled(arguments.images, short_side_px=model.config.short_side_px, progress=arguments.progress)
    found = zero_shot(model, images, templates=arguments.templates or TEMPLATES, names=arguments.names)
    out = arguments.out or arguments.run / "zero-shot.json"
    write_json(out, {"command": command_line(), "run": str(arguments.run), "images": arguments.images, **found})
    for name, accuracy in found["classes"].items():
        print(f"{name}: {accuracy:.3f}")
    print(
        f"Accuracy on {found['pictures']} pictures: {found['accuracy']:.3f} (95 % interval {found['low']:.3f} to "
        f"{found['high']:.3f}); by chance {found['chance']:.3f}\n{out}"
    )


def match(arguments: argparse.Namespace) -> None:
    """`lcl match`."""
    from lcl.checkpoint import command_line, write_json
    from vision_methods.captions import read_captions
    from vision_methods.image_text_report import match, match_lines
    from vision_methods.image_text_run import load_towers

    model = load_towers(arguments.run, device=arguments.device)
    options = {"short_side_px": model.config.short_side_px, "progress": arguments.progress}
    captions = read_captions(arguments.captions, image_dir=arguments.image_dir or "", **options)
    found = match(model, captions, at=arguments.at)
    out = arguments.out or arguments.run / "match.json"
    write_json(out, {"command": command_line(), "run": str(arguments.run), "captions": arguments.captions, **found})
    print(*match_lines(found), out, sep="\n")


def detect(arguments: argparse.Namespace) -> None:
    """`lcl detect`."""
    from lcl.checkpoint import command_line, write_json
    from lcl.images import open_images
    from stimuli.drawing import png
    from stimuli.files import replacing
    from vision_methods.detection_figure import as_rows, draw_boxes
    from vision_methods.three_ways_run import load_detector

    model = load_detector(arguments.run, device=arguments.device)
    if not Path(arguments.picture).is_file():
        raise FileNotFoundError(f"There is no picture {arguments.picture}; expected a file.")
    pixels = open_images([arguments.picture], short_side_px=2**20)[0]
    found = model(pixels, arguments.words, least_score=arguments.least_score, most=arguments.most)
    out = arguments.out or Path(f"{Path(arguments.picture).stem}-detected.png")
    rows = as_rows(found, arguments.words)
    with replacing(out) as partial:
        partial.write_bytes(png(draw_boxes(pixels, found, arguments.words)))
    settings = {"command": command_line(), "run": str(arguments.run), "picture": arguments.picture}
    write_json(out.with_suffix(".json"), {**settings, "words": arguments.words, "detections": rows})
    for row in rows:
        print(f"{row['score']:.3f}  {row['name']}  {', '.join(f'{side:.0f}' for side in row['box'])}")
    print(f"{len(rows)} boxes: {out}, {out.with_suffix('.json')}")


def retrieve(arguments: argparse.Namespace) -> None:
    """`lcl retrieve`."""
    from lcl import measure
    from lcl.checkpoint import command_line
    from vision_methods.dense_memory import RETRIEVALS
    from vision_methods.dense_retrieval import SegmentedPictures, some_photographs
    from vision_methods.retrieval_report import retrieve_models, write_retrieval
    from vision_methods.segments import classes_at, divided, read_instances

    models = measure.named_models(arguments.models, seed=arguments.seed, loaders=loaders())
    run = Path(arguments.models[0]) if measure.is_run(arguments.models[0]) else None
    out = arguments.out or (run / "retrieval" if run else None)
    if out is None:
        raise ValueError("give --out DIR, or a run folder as the first model, whose report then takes the results.")
    measure.move(models, arguments.device)
    images = read_instances(arguments.prompts, arguments.photos)
    names, class_of = classes_at(images, arguments.level)
    if arguments.queries:
        prompts, queries = images, read_instances(arguments.queries, arguments.photos)
        if queries.categories != images.categories:
            raise ValueError(
                f"{arguments.queries} and {arguments.prompts} have different categories; expected the same."
            )
    else:
        prompts, queries = divided(images, seed=arguments.seed)
    if arguments.n_prompts is not None:
        prompts = some_photographs(prompts, arguments.n_prompts, seed=arguments.seed)
    retrieval = RETRIEVALS[arguments.setting]
    given = {f.name: getattr(arguments, f.name) for f in dataclasses.fields(retrieval)}
    retrieval = dataclasses.replace(retrieval, **{name: value for name, value in given.items() if value is not None})
    asked = SegmentedPictures(queries, class_of)
    rows, record, examples = retrieve_models(
        models,
        measure.layers_of(models, arguments.layers),
        SegmentedPictures(prompts, class_of),
        asked,
        classes=names,
        retrieval=retrieval,
        search=arguments.search,
        side=arguments.side,
        n_resamples=arguments.n_resamples,
        seed=arguments.seed,
        batch_size=arguments.batch,
        progress=arguments.progress,
        say=functools.partial(print, flush=True),
    )
    record |= {"setting": arguments.setting, "level": arguments.level}
    sections = write_retrieval(rows, record, examples, asked, out, command=command_line())
    report = measure.publish(
        sections, out, run=None if arguments.out else run, name="retrieval", report=write_any_report
    )
    print(f"Table and figures: {out}\nReport: {report}")


def compare(arguments: argparse.Namespace) -> None:
    """`lcl compare`."""
    from lcl.checkpoint import command_line, provenance
    from vision_methods.compare import compare as compare_models
    from vision_methods.compare import usable_measurements, write_tables
    from vision_methods.compare_measures import open_sources
    from vision_methods.compare_models import COMPARISONS
    from vision_methods.compare_report import write_comparison

    names = [*(COMPARISONS[arguments.preset] if arguments.preset or not arguments.models else ()), *arguments.models]
    names = [name for name in names if name not in (arguments.without or ())]
    options = ("images", "segments", "recording", "splits", "size_deg", "stimuli", "neurons", "cue_pictures", "trials")
    given = {name: getattr(arguments, name) for name in (*options, "cue_training", "per_class", "seed")}
    sources = open_sources(distortions=arguments.distortions.split(","), **given)
    usable_measurements(sources, arguments.measurements)
    start = time.perf_counter()
    cells = compare_models(
        list(dict.fromkeys(names)),
        arguments.out,
        sources=sources,
        measurements=arguments.measurements,
        train_images=arguments.train_images,
        labelled=arguments.images,
        seed=arguments.seed,
        batch_size=arguments.batch,
        device=arguments.device,
        budget=arguments.budget,
        loaders=loaders(),
        progress=arguments.progress,
        command=command_line(),
        say=functools.partial(print, flush=True),
    )
    table = write_tables(cells, arguments.out)
    record = given | {"train_images": arguments.train_images, "command": command_line()} | provenance()
    report = write_comparison(table, cells, arguments.out, names=sources.names, record=record)
    failed = [cell for cell in cells if cell["error"]]
    kept = sum(cell["hit"] for cell in cells)
    minutes, new = (time.perf_counter() - start) / 60, len(cells) - kept - len(failed)
    print(f"{len(cells)} cells in {minutes:.1f} minutes: {kept} kept, {new} measured, {len(failed)} failed.")
    print(f"Table: {arguments.out / 'comparison.csv'}\nReport: {report}")


def few_shot(arguments: argparse.Namespace) -> None:
    """`lcl few-shot`."""
    from lcl import measure
    from lcl.checkpoint import command_line
    from lcl.labelled_images import train_and_validation
    from vision_methods.few_shot import SHOTS
    from vision_methods.few_shot_models import few_shot_models, made_classes, towers_of_runs
    from vision_methods.few_shot_report import write_few_shot
    from vision_methods.image_text_scores import filled
    from vision_methods.made_captions import made_prompts
    from vision_methods.probe_tables import some_of_each

    if bool(arguments.images) == bool(arguments.made):
        raise ValueError(f"give --images FOLDER, or --made ATTRIBUTE{', not both' if arguments.made else ''}.")
    names = list(dict.fromkeys(arguments.models))
    models = measure.named_models(names, seed=arguments.seed, loaders=loaders())
    towers = towers_of_runs(dict(zip(models, names, strict=True)), device=arguments.device)
    if arguments.prompts and (arguments.made or not towers):
        reason = "made pictures have their own" if arguments.made else "no model here has a text tower"
        raise ValueError(f"--prompts are of no use: {reason}; leave them out.")
    run = Path(names[0]) if measure.is_run(names[0]) else None
    out = arguments.out or (run / "few-shot" if run else None)
    if out is None:
        raise ValueError("give --out DIR, or a run folder as the first model, whose report then takes the results.")
    # What a model compares pictures and texts by is its default; of others it is the layers that they declare.
    models = {name: model for name, model in models.items() if arguments.layers or name not in towers}
    layers = measure.layers_of(models, arguments.layers) if models else {}
    measure.move(models, arguments.device)
    if arguments.made:
        parts = made_classes(arguments.made, 4000, 2000, seed=arguments.seed)
        prompts = made_prompts(arguments.made)
    else:
        parts = train_and_validation(arguments.images, arguments.validation_images or "", seed=arguments.seed)
        prompts = filled(arguments.prompts or ["a photo of a {}"], parts[0].classes)
    train, held = (some_of_each(part, arguments.per_class, seed=arguments.seed) for part in parts)
    least = min((train.labels == k).sum() for k in range(len(train.classes)))
    rows, record = few_shot_models(
        models,
        layers,
        towers,
        train,
        held,
        prompts=prompts,
        shots=arguments.shots or [count for count in SHOTS if count <= least],
        seeds=range(arguments.seed, arguments.seed + arguments.draws),
        adapters=arguments.adapters,
        n_features=arguments.n_features,
        batch_size=arguments.batch,
        progress=arguments.progress,
        say=functools.partial(print, flush=True),
    )
    record["pictures"] = arguments.images or f"made, by {arguments.made}"
    if towers:
        record["prompts of the first class"] = list(next(iter(prompts.values())))
    sections = write_few_shot(rows, record, out, command=command_line())
    report = measure.publish(
        sections, out, run=None if arguments.out else run, name="few-shot", report=write_any_report
    )
    print(f"Tables and figure: {out}\nReport: {report}")


def recognize(arguments: argparse.Namespace) -> None:
    """`lcl recognize`."""
    from lcl import distributed
    from lcl.recognition_config import PRESETS, RecognitionConfig
    from lcl.recognition_evaluate import RULES, STANDARD

    given = {f.name: getattr(arguments, f.name) for f in dataclasses.fields(RecognitionConfig)}
    given = {name: value for name, value in given.items() if value is not None}
    distortions = tuple(arguments.distortions.split(",")) if arguments.distortions else STANDARD
    rule, say = arguments.rule or "undistorted", functools.partial(print, flush=True)
    if rule not in RULES:
        raise ValueError(f"rule is {rule!r}; expected one of {', '.join(RULES)}.")
    if arguments.action == "evaluate":
        if extra := set(given) - {"images", "validation_images", "device"}:
            raise ValueError(f"--{sorted(extra)[0].replace('_', '-')} cannot be changed on evaluation.")
        if not arguments.names:
            raise ValueError("say which runs: lcl recognize evaluate RUN ...")
        runs = [Path(name) for name in arguments.names]
        recognize_evaluate(runs, arguments.out or runs[0] / "comparison", given, distortions, rule, arguments.progress)
        return
    names = arguments.names or ["quick"]
    if len(names) > 1 or names[0] not in PRESETS:
        raise ValueError(f"the preset is {' '.join(names)!r}; expected one of {', '.join(PRESETS)}.")
    with distributed.process_group():
        if arguments.action == "train":
            recognize_train(arguments, given, names[0], say)
            return
        if not (arguments.front_ends and arguments.out):
            raise ValueError("give --front-ends lcl:RUN supervised ... and --out DIR.")
        from lcl.recognition_compare import train_twins

        config = dataclasses.replace(PRESETS[names[0]](), **given)
        train_twins(
            config,
            arguments.front_ends,
            arguments.out,
            seeds=arguments.seeds or 3,
            preset=names[0],
            progress=arguments.progress,
            say=say,
        )
        if distributed.rank() == 0:
            own = {"device": config.device}
            recognize_evaluate([arguments.out], arguments.out, own, distortions, rule, arguments.progress)
        distributed.barrier()


def recognize_train(
    arguments: argparse.Namespace, given: dict[str, Any], preset: str, say: Callable[[str], None]
) -> None:
    """`lcl recognize train`: one run, or one below the folder for each seed."""
    from lcl import distributed
    from lcl.recognition_config import PRESETS
    from lcl.recognition_report import write_recognition_report
    from lcl.recognition_run import read_recognition_config
    from lcl.recognition_train import train_recognition

    if arguments.resume:
        if given or arguments.out or arguments.names or arguments.seeds:
            wrong = next(iter(given), "out" if arguments.out else "seeds").replace("_", "-")
            raise ValueError(f"--{wrong} cannot be changed on --resume: a run goes on with its own settings.")
        config, everything = read_recognition_config(arguments.resume)
        jobs = {arguments.resume: config}
        preset = everything.get("preset", "")
    else:
        config = dataclasses.replace(PRESETS[preset](), **given)
        kind = config.front_end.partition(":")[0]
        out = arguments.out or Path("runs") / f"recognize-{kind}-{time.strftime('%Y%m%d-%H%M%S')}"
        seeds = range(config.seed, config.seed + (arguments.seeds or 1))
        jobs = {out / f"seed{seed}": dataclasses.replace(config, seed=seed) for seed in seeds}
        jobs = jobs if len(jobs) > 1 else {out: config}
    for run, config in jobs.items():
        if (run / "weights.safetensors").exists():
            say(f"{run} is finished; `lcl show {run}` draws its report again.")
            continue
        train_recognition(
            config, run, resume=bool(arguments.resume), preset=preset, progress=arguments.progress, say=say
        )
        if distributed.rank() == 0:
            say(f"Report: {write_recognition_report(run)}")
        distributed.barrier()


def recognize_evaluate(
    runs: list[Path], out: Path, given: dict[str, Any], distortions: Sequence[str], rule: str, progress: bool
) -> None:
    """`lcl recognize evaluate`: the accuracies of runs under distortions, side by side."""
    from lcl.recognition_compare import evaluate_runs, record_of, runs_below
    from lcl.recognition_evaluate import summary_rows
    from lcl.recognition_report import summary_text, write_comparison
    from lcl.recognition_run import read_recognition_config

    cells = runs_below(runs)
    table = evaluate_runs(cells, distortions=distortions, progress=progress, **given)
    record = record_of(read_recognition_config(next(iter(cells)))[0], cells)
    report = write_comparison(table, out, rule=rule, record=record)
    print("\n".join(summary_text(summary_rows(table, rule=rule))))
    print(f"Report: {report}")


def methods(arguments: argparse.Namespace) -> None:
    """`lcl methods`."""
    import inspect

    from vision_methods.methods import METHODS
    from vision_methods.presets import PRESETS

    for name, method in METHODS.items():
        print(f"{name}\n{'-' * len(name)}\n{method.about}. Page: docs/{method.page}\n")
        for preset, make in PRESETS[name].items():
            print(f"{preset}: {inspect.getdoc(make)}\n")


def train_method(arguments: argparse.Namespace) -> None:
    """`lcl train-method`."""
    from lcl import distributed
    from vision_methods.method_report import write_method_report
    from vision_methods.method_run import read_method_config
    from vision_methods.methods import METHODS
    from vision_methods.presets import PRESETS
    from vision_methods.train import train_method as train_model

    name = getattr(arguments, "method", None)
    if name is None:
        raise ValueError(f"say which method: {', '.join(METHODS)} (see `lcl methods`).")
    given = {f.name: getattr(arguments, f.name) for f in dataclasses.fields(METHODS[name].config)}
    given = {name: value for name, value in given.items() if value is not None}
    run, preset = arguments.resume, arguments.preset or "toy"
    if run:
        if given or arguments.out or arguments.preset:
            wrong = next(iter(given), "out" if arguments.out else "preset").replace("_", "-")
            raise ValueError(f"--{wrong} cannot be changed on --resume: a run goes on with its own settings.")
        trained, config, everything = read_method_config(run)
        if trained != name:
            raise ValueError(f"{run} is a run of {trained}; go on with `lcl train-method {trained} --resume {run}`.")
        preset = everything.get("preset", "")
        if (run / "weights.safetensors").exists():
            print(f"{run} is finished; `lcl show {run}` draws its report again.")
            return
    else:
        config = dataclasses.replace(PRESETS[name][preset](), **given)
        run = arguments.out or Path("runs") / f"{name}-{preset}-{time.strftime('%Y%m%d-%H%M%S')}"
    with distributed.process_group():
        train_model(
            name,
            config,
            run,
            resume=bool(arguments.resume),
            preset=preset,
            progress=arguments.progress,
            say=functools.partial(print, flush=True),
        )
        if distributed.rank() == 0:
            print(f"Report: {write_method_report(run)}")
        distributed.barrier()


def continual(arguments: argparse.Namespace) -> None:
    """`lcl continual`."""
    from lcl.checkpoint import command_line, provenance
    from vision_methods.continual import dry_run, run_study
    from vision_methods.continual_config import PRESETS, ContinualConfig
    from vision_methods.continual_methods import METHODS, MODIFIERS, experiment
    from vision_methods.continual_networks import make_base
    from vision_methods.continual_report import write_study

    if arguments.list:
        for name, method in METHODS.items():
            takes = " ".join(f"+{each}" for each in method.modifiers)
            print(f"{name:14}{method.about}{f' [{takes}]' if takes else ''}")
        print(f"Modifiers: {', '.join(MODIFIERS)}. Settings: NAME:SETTING=VALUE,... (see `lcl continual --help`).")
        return
    given = {f.name: getattr(arguments, f.name) for f in dataclasses.fields(ContinualConfig)}
    config = PRESETS[arguments.preset or "toy"]()
    config = dataclasses.replace(config, **{name: value for name, value in given.items() if value is not None})
    methods = list(arguments.methods or ())
    if arguments.experiment:
        width = make_base(config, seed=config.seed, loaders=loaders()).width
        methods += [text for name in arguments.experiment for text in experiment(name, width)]
    methods = list(dict.fromkeys(methods)) or list(experiment("main", 1))
    say = functools.partial(print, flush=True)
    if arguments.dry_run:
        dry_run(config, methods, loaders=loaders(), say=say)
        return
    out = arguments.out or Path("runs") / f"continual-{time.strftime('%Y%m%d-%H%M%S')}"
    named = {"seeds": arguments.seeds, "loaders": loaders(), "command": command_line()}
    cells = run_study(config, methods, out, **named, progress=arguments.progress, say=say)
    record = {"config": config.as_dict(), "command": command_line(), **provenance()}
    report = write_study(cells, out, record=record)
    print(f"Tables, accuracy matrices and figures: {out}\nReport: {report}")


def submit(arguments: argparse.Namespace) -> None:
    """`lcl submit`."""
    from lcl.submit import BIBTEX, check_plugin, write_plugin

    needed = {"RUN": arguments.run, "--identifier NAME": arguments.identifier}
    needed |= {"--weights-url URL": arguments.weights_url, "--out DIR": arguments.out}
    missing = [name for name, value in needed.items() if value is None]
    if arguments.check:
        if len(missing) < len(needed):
            raise ValueError("--check takes the folder of a plugin alone; write it first, without --check.")
        check_plugin(arguments.check, python=arguments.python)
        print(f"{arguments.check} passes.")
        return
    if missing:
        raise ValueError(f"missing: {', '.join(missing)}; or give --check DIR.")
    regions = dict(text.partition("=")[::2] for text in arguments.regions or ())
    if wrong := [region for region, layer in regions.items() if not layer]:
        raise ValueError(f"region {wrong[0]!r} has no layer; expected REGION=LAYER, such as V1=stages.V1.")
    bibtex = arguments.bibtex.read_text(encoding="utf-8") if arguments.bibtex else BIBTEX
    out = write_plugin(
        arguments.run,
        arguments.out,
        identifier=arguments.identifier,
        weights_url=arguments.weights_url,
        regions=regions,
        readout=arguments.readout,
        bibtex=bibtex,
        licence=arguments.licence,
    )
    print(
        f"Plugin: {out}\nPut {arguments.run / 'weights.safetensors'} at {arguments.weights_url}, then try it: "
        f"lcl submit --check {out} --python PYTHON-OF-BRAIN-SCORE"
    )


def show(arguments: argparse.Namespace) -> None:
    """`lcl show`."""
    print(f"Report: {write_any_report(arguments.run)}")


def parser() -> tuple[Parser, dict[str, Parser]]:
    """The command line: the top parser, and the parser of every command."""
    top = Parser(
        prog="lcl",
        description="Early visual cortex learned from natural images, layer by layer.",
        epilog="examples:\n  lcl train\n  lcl train --images ~/photographs --out runs/mine\n  lcl show runs/mine",
    )
    from lcl import __version__

    top.add_argument("--version", action="version", version=f"lcl {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND")
    parsers: dict[str, Parser] = {}

    def command(name: str, run: Callable[[argparse.Namespace], None], about: str, examples: str) -> Parser:
        added = commands.add_parser(name, help=about, description=about, epilog=f"examples:\n{examples}")
        added.set_defaults(run_command=run, command=name)
        parsers[name] = added
        return added

    from lcl.config import PRESETS

    added = command(
        "train",
        train,
        "Learn V1 and V2 from images, layer by layer; writes a run folder with a report.",
        "  lcl train                                       (built-in photographs, minutes on a laptop)\n"
        "  lcl train --images ~/photographs --out runs/mine\n"
        "  lcl train quick --steps 3000,1000 --amplitudes under --seed 1\n"
        "  lcl train --channels 64,192,384 --kernels 11,5,3 --strides 4,1,1 --paddings 2,2,1   (three stages)\n"
        "  lcl train --resume runs/mine\n"
        "  torchrun --nproc-per-node 4 -m lcl.cli train imagenet --images imagenet/train --out runs/big",
    )
    added.add_argument("preset", nargs="?", type=one_of(list(PRESETS)), help=f"{', '.join(PRESETS)} (default: quick)")
    added.add_argument("--out", type=Path, metavar="RUN", help="run folder to make (default: runs/PRESET-DATE-TIME)")
    added.add_argument("--resume", type=Path, metavar="RUN", help="go on with an interrupted run")
    added.add_argument("--progress", action=argparse.BooleanOptionalAction, default=True, help="progress bars")
    add_settings(added)

    added = command(
        "ablate",
        ablate,
        "Train under matched, under, over and reversed amplitudes, and patch sides, and compare: table and figure.",
        "  lcl ablate --out runs/ablation\n"
        "  lcl ablate --images ~/photographs-by-class --steps 800,300 --seeds 3 --out runs/ablation",
    )
    added.add_argument("preset", nargs="?", type=one_of(list(PRESETS)), help=f"{', '.join(PRESETS)} (default: quick)")
    added.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the table; goes on in it")
    added.add_argument("--seeds", type=int, default=3, help="number of seeds (default: 3)")
    added.add_argument("--rules", help="some of matched,under,over,reversed (default: all)")
    added.add_argument("--progress", action=argparse.BooleanOptionalAction, default=True, help="progress bars")
    add_settings(added)

    added = command(
        "fit",
        fit,
        "How well each layer of one or more models predicts a recording: tables, figures and a section of the report.",
        "  lcl fit runs/mine --data henaff2021 --size-deg 4\n"
        "  lcl fit runs/mine untrained:runs/mine pixels gabor-energy alexnet:alexnet.npz --data recording.nc \\\n"
        "      --regression location_ridge --splits grouped_kfold:movie grouped_kfold:frame_block --out fits\n"
        "  lcl fit mypackage.models:make --layers 'features.*' --data v1.nc --regression pls:n_components=25 \\\n"
        "      --splits stratified:type --out fits                     (Brain-Score's regression and splits)",
    )
    added.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="run folder, pixels, gabor-energy, steerable-pyramid, alexnet:FILE.npz, untrained:MODEL, module:function",
    )
    added.add_argument("--data", required=True, metavar="NAME", help="recording: file, or name in `lcl data list`")
    added.add_argument("--out", type=Path, metavar="DIR", help="folder of the results (default: in the run folder)")
    added.add_argument("--layers", nargs="+", metavar="PATTERN", help="layers, by name or pattern (default: declared)")
    added.add_argument("--neurons", action="append", metavar="LABEL=VALUE", help="only these, or LABEL!=VALUE,...")
    added.add_argument("--stimuli", action="append", metavar="LABEL=VALUE", help="only these, or LABEL!=VALUE,...")
    added.add_argument(
        "--regression",
        default="pls",
        metavar="NAME[:OPTION=VALUE,...]",
        help="pls, ridge, kernel_ridge, linear, location_ridge or separable (default: pls)",
    )
    added.add_argument(
        "--splits",
        nargs="+",
        default=["kfold"],
        metavar="NAME[:LABEL]",
        help="kfold, random, stratified:LABEL, grouped:LABEL, grouped_kfold:LABEL; several are done in turn",
    )
    added.add_argument("--n-folds", type=int, metavar="N", help="folds of k-fold splits (default: 10)")
    added.add_argument("--n-splits", type=int, metavar="N", help="random splits (default: 10)")
    added.add_argument("--train-size", type=float, metavar="SHARE", help="of random splits (default: 0.9)")
    added.add_argument(
        "--rules",
        default="raw,r2_over_ceiling,r_over_ceiling_squared,noise_corrected_per_neuron",
        help="score rules (default: %(default)s)",
    )
    added.add_argument("--ceiling", default="spearman_brown", help="reliability (default: spearman_brown)")
    added.add_argument("--min-reliability", type=float, metavar="R", help="score only neurons above this reliability")
    added.add_argument("--correlate", default="split", type=one_of(["split", "pooled"]), help="split or pooled")
    added.add_argument("--size-deg", type=float, metavar="DEG", help="size of the pictures where it is not known")
    added.add_argument("--reduction", metavar="NAME", help="of the features: all, spatial_mean, pool:N, pca:N, ...")
    added.add_argument(
        "--nested-groups",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep groups together inside the training part too, where a penalty is chosen",
    )
    added.add_argument("--control", action=argparse.BooleanOptionalAction, default=True, help="re-ordered responses")
    added.add_argument("--choose-layer", action="store_true", help="choose a layer inside each training part as well")
    added.add_argument("--n-bootstrap", type=int, default=1000, metavar="N", help="resamples (default: 1000)")
    added.add_argument("--seed", type=int, default=0, help="of splits, control, bootstrap, untrained: (default: 0)")
    added.add_argument("--batch", type=int, default=32, help="pictures at once (default: 32)")
    added.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")
    added.add_argument("--cache", type=Path, metavar="DIR", help="keep activations here, keyed by content")
    added.add_argument("--progress", action=argparse.BooleanOptionalAction, default=True, help="progress bars")

    added = command(
        "straighten",
        straighten,
        "Curvature of natural and artificial movies in pixels, in layers and in V1 populations (Henaff et al. 2021).",
        "  lcl straighten runs/mine pixels --data henaff2021_v1.h5 --size-deg 8 --out straightening\n"
        "  lcl straighten gabor-energy --step 1 --without ay5_u005 --size-deg 8 --out straightening",
    )
    added.add_argument("models", nargs="*", metavar="MODEL", help="as in `lcl fit`; none: pixels and populations alone")
    added.add_argument("--data", type=Path, metavar="PATH", help="the recording (default: where `lcl data` finds it)")
    added.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the results")
    added.add_argument("--layers", nargs="+", metavar="PATTERN", help="layers, by name or pattern (default: declared)")
    added.add_argument("--size-deg", type=float, default=8.0, metavar="DEG", help="assumed width (default: 8)")
    added.add_argument("--without", nargs="+", metavar="POPULATION", help="left out of the mean over populations")
    added.add_argument("--step", type=int, default=2, help="every how many frames (default: 2, as published)")
    added.add_argument("--transform", default="sqrt", help="of counts: none, sqrt or anscombe (default: sqrt)")
    added.add_argument("--n-resamples", type=int, default=1000, metavar="N", help="of movies (default: 1000)")
    added.add_argument("--seed", type=int, default=0, help="of the intervals, and of untrained: (default: 0)")
    added.add_argument("--progress", action=argparse.BooleanOptionalAction, default=True, help="progress bars")

    added = command(
        "align",
        align,
        "Layers beside people: shape bias and error consistency on cue-conflict pictures, accuracy under distortions.",
        "  lcl align runs/mine untrained:runs/mine alexnet:alexnet.npz --layers V2 pool5 --trials raw-data \\\n"
        "      --stimuli style-transfer-preprocessed-512 --train-images coco --out alignment\n"
        "  lcl align my_nets:resnet --layers fc --readout imagenet --trials raw-data \\\n"
        "      --stimuli style-transfer-preprocessed-512 --out alignment\n"
        "  lcl align --decisions raw-data/my-networks --trials raw-data --out alignment\n"
        "  lcl align runs/mine --layers V1 V2 --distortions contrast,low-pass --images FOLDER-BY-CLASS \\\n"
        "      --trials raw-data --out curves         (accuracy beside people's; no error consistency: other pictures)",
    )
    added.add_argument("models", nargs="*", metavar="MODEL", help="as in `lcl fit`")
    added.add_argument("--trials", type=Path, metavar="DIR", help="raw-data of model-vs-human")
    added.add_argument("--distortions", metavar="NAME,...", help="show --images at every level of these")
    added.add_argument("--images", metavar="FOLDER", help="pictures by class: to train read-outs, and to be distorted")
    added.add_argument("--per-class", type=int, metavar="N", help="distort so many of each class (default: all)")
    added.add_argument("--stimuli", type=Path, metavar="DIR", help="cue-conflict pictures, such as cat/cat1-dog2.png")
    added.add_argument(
        "--train-images",
        metavar="FOLDER",
        help="for the read-outs: a folder for each of the 16 categories, or instances.json and images as in COCO",
    )
    added.add_argument("--decisions", type=Path, metavar="DIR", help="CSV files of networks to set beside the models")
    added.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the results")
    added.add_argument("--layers", nargs="+", metavar="PATTERN", help="layers, by name or pattern (default: the last)")
    added.add_argument(
        "--readout",
        default="ridge",
        metavar="NAME",
        help="ridge (default), linear, neighbours, prototypes; imagenet: the layer is the 1,000 outputs",
    )
    added.add_argument("--reduction", default="pool:4", metavar="NAME", help="of the features (default: pool:4)")
    added.add_argument(
        "--per-category", type=int, default=12, metavar="N", help="boxes of a category (default: 12; 0: all)"
    )
    added.add_argument(
        "--size-deg", type=float, metavar="DEG", help="width of the pictures (default: each model's field)"
    )
    added.add_argument("--n-resamples", type=int, default=1000, metavar="N", help="of pictures (default: 1000)")
    added.add_argument("--seed", type=int, default=0, help="of the intervals, and of untrained: (default: 0)")
    added.add_argument("--batch", type=int, default=32, help="pictures at once (default: 32)")
    added.add_argument("--progress", action=argparse.BooleanOptionalAction, default=True, help="progress bars")

    from vision_methods.segments import LEVELS

    added = command(
        "probe",
        probe,
        "Frozen probes of layers: classes of pictures, classes of pixels, objects; beside the untrained network.",
        "  lcl probe runs/mine --images ~/photographs-by-class\n"
        "  lcl probe runs/mine alexnet:alexnet.npz gabor-energy --layers V2 'conv*' complex \\\n"
        "      --images ~/photographs-by-class --segments coco/instances.json --out probes\n"
        "  lcl probe my_nets:resnet --layers layer4 --segments instances_train2017.json instances_val2017.json \\\n"
        "      --photos coco/images --level category --out probes",
    )
    added.add_argument("models", nargs="+", metavar="MODEL", help="as in `lcl fit`")
    added.add_argument("--images", metavar="FOLDER", help="a folder for each class, or train and val of these")
    added.add_argument("--validation-images", metavar="FOLDER", help="to judge by (default: val, else a fifth)")
    added.add_argument("--per-class", type=int, metavar="N", help="at most so many pictures of a class in each part")
    added.add_argument(
        "--segments",
        nargs="+",
        metavar="FILE",
        help="objects as in COCO: one file that names splits (or a fifth is held out), or one to learn from and one to "
        "judge by",
    )
    added.add_argument("--photos", type=Path, metavar="DIR", help="photographs of --segments (default: images beside)")
    added.add_argument(
        "--level", default="supercategory", type=one_of(LEVELS), help=f"{', '.join(LEVELS)} (default: supercategory)"
    )
    added.add_argument("--out", type=Path, metavar="DIR", help="folder of the results (default: in the run folder)")
    added.add_argument("--layers", nargs="+", metavar="PATTERN", help="layers, by name or pattern (default: declared)")
    added.add_argument(
        "--n-features", type=int, default=4096, metavar="N", help="at most, by averaging maps (default: 4096; 1: mean)"
    )
    added.add_argument("--pixels", type=int, default=20_000, metavar="N", help="to learn from (default: 20000)")
    added.add_argument(
        "--untrained", action=argparse.BooleanOptionalAction, default=True, help="probe random weights as well"
    )
    added.add_argument("--n-resamples", type=int, default=1000, metavar="N", help="of pictures (default: 1000)")
    added.add_argument("--seed", type=int, default=0, help="of what is drawn, and of untrained: (default: 0)")
    added.add_argument("--batch", type=int, default=32, help="pictures at once (default: 32)")
    added.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")
    added.add_argument("--progress", action=argparse.BooleanOptionalAction, default=True, help="progress bars")

    added = command(
        "zero-shot",
        zero_shot,
        "Classes of pictures named by words alone, by a run that learned from captions.",
        "  lcl zero-shot runs/siglip --images ~/photographs-by-class\n"
        "  lcl zero-shot runs/siglip --images imagenette/val --names tench 'springer spaniel' 'cassette player' \\\n"
        "      'chain saw' church 'french horn' 'garbage truck' 'gas pump' 'golf ball' parachute \\\n"
        "      --templates 'a photo of a {}' 'a drawing of a {}'",
    )
    added.add_argument("run", type=Path, metavar="RUN", help="made by `lcl train-method siglip`, acid or lixp")
    added.add_argument("--images", required=True, metavar="SOURCE", help="pictures with classes: a folder for each")
    added.add_argument(
        "--names", nargs="+", metavar="WORDS", help="of the classes, in their order (default: their own)"
    )
    added.add_argument(
        "--templates", nargs="+", metavar="TEXT", help="prompts, with {} for the name; they are averaged"
    )
    added.add_argument("--out", type=Path, metavar="FILE", help="JSON to write (default: zero-shot.json in the run)")
    added.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")
    added.add_argument("--progress", action=argparse.BooleanOptionalAction, default=True, help="progress bars")

    added = command(
        "match",
        match,
        "Captions of pictures and pictures of captions, found by a run that learned from captions: recall at 1 and 5.",
        "  lcl match runs/siglip --captions coco/captions_val2017.json --image-dir coco/val2017\n"
        "  lcl match runs/siglip --captions 'pairs/*.tar' --at 1 5 10",
    )
    added.add_argument("run", type=Path, metavar="RUN", help="made by `lcl train-method siglip`, acid or lixp")
    added.add_argument("--captions", required=True, metavar="SOURCE", help="COCO JSON, FILE.csv, FILE.jsonl, DIR/*.tar")
    added.add_argument("--image-dir", metavar="DIR", help="folder of the pictures (default: beside the captions)")
    added.add_argument("--at", nargs="+", type=int, default=[1, 5], metavar="K", help="recall at these (default: 1 5)")
    added.add_argument("--out", type=Path, metavar="FILE", help="JSON to write (default: match.json in the run)")
    added.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")
    added.add_argument("--progress", action=argparse.BooleanOptionalAction, default=True, help="progress bars")

    added = command(
        "detect",
        detect,
        "Boxes around what words name in a picture, whether a detector was trained on the words or not.",
        "  lcl detect runs/three-ways street.jpg --words dog 'traffic light' 'a red umbrella'\n"
        "  lcl detect runs/three-ways street.jpg --words dog --least-score 0.1 --out boxes.png",
    )
    added.add_argument("run", type=Path, metavar="RUN", help="made by `lcl train-method three-ways`")
    added.add_argument("picture", metavar="PICTURE", help="file of a picture")
    added.add_argument("--words", nargs="+", required=True, metavar="WORDS", help="what to look for; any words")
    added.add_argument(
        "--least-score", type=float, default=0.3, metavar="SCORE", help="boxes below are left out (default: 0.3)"
    )
    added.add_argument("--most", type=int, default=100, metavar="N", help="at most so many boxes (default: 100)")
    added.add_argument(
        "--out", type=Path, metavar="FILE", help="figure, beside JSON of its name (default: PICTURE-detected.png)"
    )
    added.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")

    from vision_methods.cosine_search import SEARCHES
    from vision_methods.dense_memory import RETRIEVALS

    added = command(
        "retrieve",
        retrieve,
        "Classes of pixels by retrieval from a few annotated photographs, without training: Hummingbird's evaluation.",
        "  lcl retrieve runs/mine --prompts coco/instances.json\n"
        "  lcl retrieve runs/mine untrained:runs/mine alexnet:alexnet.npz vision_methods.dense_retrieval:colour \\\n"
        "      --layers V1 V2 'conv*' colour --prompts coco/instances.json --out retrieval\n"
        "  lcl retrieve my_nets:vit --layers norm --prompts instances_train2017.json --photos coco/images \\\n"
        "      --queries instances_val2017.json --n-prompts 80 --setting low-data --device cuda --out low-data",
    )
    added.add_argument("models", nargs="+", metavar="MODEL", help="as in `lcl fit`")
    added.add_argument("--prompts", required=True, metavar="FILE", help="annotated photographs, as in COCO")
    added.add_argument("--queries", metavar="FILE", help="to predict (default: splits of --prompts, else a fifth)")
    added.add_argument("--photos", type=Path, metavar="DIR", help="photographs (default: images beside the file)")
    added.add_argument("--n-prompts", type=int, metavar="N", help="so many of the prompts, at random (default: all)")
    added.add_argument(
        "--level", default="supercategory", type=one_of(LEVELS), help=f"{', '.join(LEVELS)} (default: supercategory)"
    )
    added.add_argument("--out", type=Path, metavar="DIR", help="folder of the results (default: in the run folder)")
    added.add_argument("--layers", nargs="+", metavar="PATTERN", help="layers, by name or pattern (default: declared)")
    added.add_argument(
        "--setting",
        default="standard",
        type=one_of(list(RETRIEVALS)),
        help="standard (default), low-data; gives the next",
    )
    added.add_argument("--neighbours", type=int, metavar="K", help="patches that a patch reads")
    added.add_argument("--temperature", type=float, metavar="T", help="of the softmax of cosines")
    added.add_argument("--augmentations", type=int, metavar="N", help="times a prompt is shown; 0: once, as it is")
    added.add_argument("--capacity", type=int, metavar="N", help="patches that are remembered, at most")
    added.add_argument("--side", type=int, default=28, metavar="N", help="at most so many patches a side (default: 28)")
    added.add_argument("--search", default="exact", type=one_of(list(SEARCHES)), help=", ".join(SEARCHES))
    added.add_argument("--n-resamples", type=int, default=1000, metavar="N", help="of queries (default: 1000)")
    added.add_argument("--seed", type=int, default=0, help="of what is drawn, and of untrained: (default: 0)")
    added.add_argument("--batch", type=int, default=16, help="pictures at once (default: 16)")
    added.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")
    added.add_argument("--progress", action=argparse.BooleanOptionalAction, default=True, help="progress bars")

    from vision_methods.few_shot import ADAPTERS, SHOTS
    from vision_methods.made_captions import ATTRIBUTES

    added = command(
        "few-shot",
        few_shot,
        "Classes of pictures from a few labelled ones, by adapters that need no training, and from texts alone.",
        "  lcl few-shot runs/mine --layers V2 --images FOLDER-BY-CLASS\n"
        "  lcl few-shot runs/siglip runs/lixp --images FOLDER-BY-CLASS --prompts 'a photo of a {}' --out few-shot\n"
        "  lcl few-shot runs/lixp --made colour --shots 1 4 16",
    )
    added.add_argument("models", nargs="+", metavar="MODEL", help="as in `lcl fit`; of siglip and its kin with texts")
    added.add_argument("--images", metavar="FOLDER", help="a folder for each class, or train and val of these")
    added.add_argument("--validation-images", metavar="FOLDER", help="to judge by (default: val, else a fifth)")
    added.add_argument(
        "--made", type=one_of(list(ATTRIBUTES)), metavar="ATTRIBUTE", help=f"made pictures by {', '.join(ATTRIBUTES)}"
    )
    added.add_argument("--per-class", type=int, metavar="N", help="at most so many pictures of a class in each part")
    added.add_argument("--prompts", nargs="+", metavar="TEXT", help="of classes, with {} (default: a photo of a {})")
    added.add_argument("--out", type=Path, metavar="DIR", help="folder of the results (default: in the run folder)")
    added.add_argument(
        "--layers", nargs="+", metavar="PATTERN", help="(default: declared; with a text tower its embedding alone)"
    )
    added.add_argument(
        "--shots",
        type=int,
        nargs="+",
        metavar="N",
        help=f"labelled pictures of each class (default: {', '.join(map(str, SHOTS))}, as far as there are)",
    )
    added.add_argument("--draws", type=int, default=5, metavar="N", help="of labelled pictures (default: 5)")
    added.add_argument(
        "--adapters", nargs="+", type=one_of(list(ADAPTERS)), metavar="NAME", help=f"{', '.join(ADAPTERS)}"
    )
    added.add_argument(
        "--n-features", type=int, default=1, metavar="N", help="at most, by averaging maps (default: 1: mean)"
    )
    added.add_argument("--seed", type=int, default=0, help="of what is drawn, and of untrained: (default: 0)")
    added.add_argument("--batch", type=int, default=32, help="pictures at once (default: 32)")
    added.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")
    added.add_argument("--progress", action=argparse.BooleanOptionalAction, default=True, help="progress bars")

    from lcl.recognition_config import RecognitionConfig
    from vision_methods.compare_measures import MEASUREMENTS
    from vision_methods.compare_models import COMPARISONS, RECIPES

    added = command(
        "compare",
        compare,
        "Learning rules on one architecture, measured by everything: one table with intervals, a figure a measure.",
        "  lcl compare --preset quick --out comparison\n"
        "  lcl compare lcl lcl-untrained mine=runs/mine alexnet:alexnet.npz --images IMAGES --out comparison\n"
        "  lcl compare --preset quick --recording henaff2021 --size-deg 8 --splits grouped_kfold:sequence \\\n"
        "      --cue-pictures STIMULI --trials RAW-DATA --cue-training COCO --segments COCO/instances.json "
        "--out comparison\n"
        "Only missing cells are computed: the same command again goes on where it was stopped.",
    )
    added.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help=f"rows: {', '.join(RECIPES)}, or models as in `lcl fit`; ROW=MODEL names a row",
    )
    added.add_argument("--preset", type=one_of(list(COMPARISONS)), help=f"rows that are set: {', '.join(COMPARISONS)}")
    added.add_argument("--without", nargs="+", metavar="ROW", help="rows of the preset that are left out")
    added.add_argument(
        "--out", type=Path, default=Path("comparison"), metavar="DIR", help="folder (default: comparison)"
    )
    added.add_argument(
        "--measurements",
        nargs="+",
        metavar="NAME",
        help=f"some of {', '.join(MEASUREMENTS)} (default: all that can be)",
    )
    added.add_argument(
        "--train-images", default="builtin", metavar="IMAGES", help="photographs to train rows on (default: builtin)"
    )
    added.add_argument("--budget", type=float, default=1.0, metavar="SHARE", help="of the training steps (default: 1)")
    shown = added.add_argument_group("what is shown", "Empty: what comes with the package, or not measured.")
    shown.add_argument("--images", default="", metavar="FOLDER", help="pictures by class (default: textures by family)")
    shown.add_argument(
        "--per-class", type=int, default=40, metavar="N", help="at most so many of a class (default: 40)"
    )
    shown.add_argument("--segments", default="", metavar="FILE", help="objects as in COCO (default: texture mosaics)")
    shown.add_argument("--recording", default="", metavar="DATA", help="recording as in `lcl fit --data`")
    shown.add_argument("--splits", default="kfold", help="of the recording, as in `lcl fit` (default: kfold)")
    shown.add_argument("--size-deg", type=float, metavar="DEG", help="width of its pictures, where it does not say")
    shown.add_argument("--stimuli", nargs="+", default=(), metavar="LABEL=VALUES", help="its pictures to take")
    shown.add_argument("--neurons", nargs="+", default=(), metavar="LABEL=VALUES", help="its neurons to take")
    shown.add_argument(
        "--cue-pictures", default="", metavar="DIR", help="cue-conflict pictures, as `lcl align --stimuli`"
    )
    shown.add_argument("--trials", default="", metavar="DIR", help="decisions of people, as `lcl align --trials`")
    shown.add_argument("--cue-training", default="", metavar="SOURCE", help="as `lcl align --train-images`")
    shown.add_argument(
        "--distortions",
        default="contrast,uniform-noise,low-pass",
        metavar="NAMES",
        help="of stimuli.distortions (default: contrast,uniform-noise,low-pass)",
    )
    added.add_argument("--seed", type=int, default=0, help="of training, of random weights and of what is drawn")
    added.add_argument("--batch", type=int, default=32, help="pictures at once (default: 32)")
    added.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")
    added.add_argument("--progress", action=argparse.BooleanOptionalAction, default=True, help="progress bars")

    added = command(
        "recognize",
        recognize,
        "Train LCL-V2Net (a frozen front end under a recognition network) and its twins; judge them under distortions.",
        "  lcl recognize compare --front-ends lcl:runs/mine supervised --images FOLDER --seeds 3 --out twins\n"
        "  lcl recognize train --front-end lcl:runs/mine --images FOLDER --out runs/net\n"
        "  lcl recognize train --resume runs/net\n"
        "  lcl recognize evaluate runs/net runs/other --distortions contrast,low-pass\n"
        "  torchrun --nproc-per-node 4 -m lcl.cli recognize train imagenet224 --front-end lcl:runs/big \\\n"
        "      --images imagenet --out runs/big-net",
    )
    added.add_argument("action", type=one_of(["train", "evaluate", "compare"]), help="train, evaluate, compare")
    added.add_argument("names", nargs="*", metavar="PRESET|RUN", help="train, compare: preset; evaluate: run folders")
    added.add_argument("--out", type=Path, metavar="DIR", help="folder to make; compare goes on in it")
    added.add_argument("--resume", type=Path, metavar="RUN", help="train: go on with an interrupted run")
    added.add_argument("--front-ends", nargs="+", metavar="KIND[:RUN]", help="compare: the first is the reference")
    added.add_argument("--seeds", type=int, metavar="N", help="number of seeds (train: 1, compare: 3)")
    added.add_argument("--distortions", metavar="NAME,...", help="by default eight of Geirhos et al. (2021)")
    added.add_argument("--rule", metavar="NAME", help="levels that count: undistorted (default), geirhos2021, none")
    added.add_argument("--progress", action=argparse.BooleanOptionalAction, default=True, help="progress bars")
    add_settings(added, RecognitionConfig())

    from vision_methods.methods import METHODS
    from vision_methods.presets import PRESETS as METHOD_PRESETS

    command("methods", methods, "List the comparison methods and their presets.", "  lcl methods")
    added = command(
        "train-method",
        train_method,
        "Train a comparison method; its run folder is a model for `lcl fit`, `lcl properties` and the others.",
        "".join(
            f"  lcl train-method {name} --images {method.images or '~/photographs'} --out runs/{name}\n"
            for name, method in METHODS.items()
        )
        + "  lcl train-method detcon --help                  (the settings of a method)",
    )
    of_method = added.add_subparsers(title="methods", metavar="METHOD")
    for name, method in METHODS.items():
        start = f"  lcl train-method {name}"
        own = of_method.add_parser(
            name,
            help=method.about,
            description=f"{method.about}. More: docs/{method.page}.",
            epilog=f"examples:\n{start} --images {method.images or '~/photographs-by-class'} --out runs/{name}\n"
            f"{start} --images {method.images or '~/photographs'} --epochs 5 --seed 1\n"
            f"{start} --resume runs/{name}\n"
            f"  torchrun --nproc-per-node 4 -m lcl.cli train-method {name} --preset paper "
            f"--images {method.images or 'imagenet/train'}",
        )
        own.set_defaults(method=name, command=f"train-method {name}")
        parsers[f"train-method {name}"] = own
        known = list(METHOD_PRESETS[name])
        own.add_argument("--preset", type=one_of(known), help=f"{', '.join(known)} (default: toy)")
        own.add_argument("--out", type=Path, metavar="RUN", help="run folder to make (default: runs/NAME-DATE-TIME)")
        own.add_argument("--resume", type=Path, metavar="RUN", help="go on with an interrupted run")
        own.add_argument("--progress", action=argparse.BooleanOptionalAction, default=True, help="progress bars")
        add_settings(own, METHOD_PRESETS[name]["toy"](), "toy")

    from vision_methods.continual_config import PRESETS as CONTINUAL_PRESETS
    from vision_methods.continual_methods import EXPERIMENTS

    added = command(
        "continual",
        continual,
        "Learn classes task by task without rehearsal: accuracy, forgetting and parameters of prompts and others.",
        "  lcl continual --images ~/photographs-by-class --backbone runs/hummingbird --seeds 3 --out study\n"
        "  lcl continual --images FOLDER --backbone RUN --methods nmc ranpac onlyprompt+ewc:parameters=960\n"
        "  lcl continual --images FOLDER --backbone RUN --experiment queries sizes\n"
        "  lcl continual --images FOLDER --backbone v2net:lcl:runs/mine --experiment front --size-px 112\n"
        "  lcl continual --preset paper --dry-run\n"
        "  lcl continual --list                            (the methods)\n"
        "The same command again goes on where a study was stopped.",
    )
    added.add_argument("--methods", nargs="+", metavar="METHOD", help="NAME[+MODIFIER...][:SETTING=VALUE,...]")
    added.add_argument("--experiment", nargs="+", type=one_of(list(EXPERIMENTS)), help=", ".join(EXPERIMENTS))
    added.add_argument("--preset", type=one_of(list(CONTINUAL_PRESETS)), help="toy (default), paper")
    added.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds, each with its order of classes (3)")
    added.add_argument("--out", type=Path, metavar="DIR", help="folder to make, or to go on in")
    added.add_argument("--dry-run", action="store_true", help="parameters and one step of every method, on noise")
    added.add_argument("--list", action="store_true", help="say which methods there are")
    added.add_argument("--progress", action=argparse.BooleanOptionalAction, default=True, help="progress bar")
    add_settings(added, CONTINUAL_PRESETS["toy"](), "toy")

    command("presets", presets, "List the presets: source, command, hardware, time, expected result.", "  lcl presets")
    added = command(
        "images",
        images,
        "List the built-in photographs, or check what can be read from a folder, HDF5 file or shards.",
        "  lcl images\n  lcl images ~/photographs\n  lcl images stimuli.h5:/images",
    )
    added.add_argument("source", nargs="?", help="folder, FILE.h5[:/DATASET] or DIR/*.tar")
    added = command(
        "data",
        data,
        "List public data, get them or say where they are, and check that they are whole.",
        "  lcl data list\n"
        "  lcl data list henaff2021 --data ~/recordings\n"
        "  lcl data fetch freeman_ziemba2013_public --to ~/recordings\n"
        "  lcl data verify\n"
        "  lcl data verify ~/recordings/henaff2021_v1.h5\n"
        "Files are looked for in --data; else in the folder named by the variable LCL_DATA, then in the user's cache.",
    )
    added.add_argument("action", type=one_of(["list", "fetch", "verify"]), help="list, fetch, verify")
    added.add_argument("name", nargs="?", metavar="NAME|PATH", help="a data set; for verify a file or folder as well")
    added.add_argument("--data", type=Path, metavar="PATH", help="local copy: a file or a folder that holds it")
    added.add_argument("--to", type=Path, metavar="DIR", help="folder to put files in (default: LCL_DATA or the cache)")
    added.add_argument("--progress", action=argparse.BooleanOptionalAction, default=True, help="progress bars")
    added = command(
        "textures",
        textures,
        "Make textures with the statistics of photographs, and their spectrally matched noise; or show a set.",
        "  lcl textures show --out textures.png                              (the set that comes with the package)\n"
        "  lcl textures show mine/textures.h5 --out mine\n"
        "  lcl textures make --out textures                                  (the set of the package, again)\n"
        "  lcl textures make --out textures --samples 15 --size 256\n"
        "  lcl textures make --out mine --sources ~/photographs --licence CC0 --samples 3",
    )
    added.add_argument("action", type=one_of(["make", "show"]), help="make (goes on in a folder), show")
    added.add_argument("set", nargs="?", type=Path, metavar="SET", help="show: file or folder (default: the package's)")
    added.add_argument("--out", type=Path, required=True, metavar="PATH", help="make: folder; show: folder or PNG file")
    added.add_argument("--sources", type=Path, metavar="DIR", help="folder of pictures (default: the 15 free sources)")
    added.add_argument("--licence", default="not stated", help="of the pictures of --sources, kept with the set")
    added.add_argument("--families", nargs="+", metavar="NAME", help="only these sources")
    added.add_argument("--samples", type=int, default=5, metavar="N", help="per family (default: 5)")
    added.add_argument("--size", type=int, default=128, metavar="PX", help="a multiple of 16 (default: 128)")
    added.add_argument("--seed", type=int, default=0, help="(default: 0)")
    added.add_argument("--batch", type=int, default=15, help="pictures at once (default: 15)")
    added.add_argument("--device", help="cpu, cuda (default: a GPU if there is one)")
    added.add_argument("--progress", action=argparse.BooleanOptionalAction, default=True, help="progress bars")
    for name, about, examples in (
        (
            "tuning",
            "Tuning of single units to gratings, and its likeness to published distributions of macaque V1.",
            "  lcl tuning runs/mine\n"
            "  lcl tuning runs/mine untrained:runs/mine gabor-energy --layers V1 complex --out tuning\n"
            "  lcl tuning alexnet:alexnet.npz --layers 'conv[1-3]' --n-units 64 --seed 1 --out tuning",
        ),
        (
            "modulation",
            "Responses to textures against matched noise: like V1 (index near 0) or V2 (above 0); tolerance, decoding.",
            "  lcl modulation runs/mine\n"
            "  lcl modulation runs/mine untrained:runs/mine gabor-energy --out modulation\n"
            "  lcl modulation runs/mine --textures mine/textures.h5 --shifts 2 --out modulation",
        ),
        (
            "properties",
            "Both `lcl modulation` and `lcl tuning`: one table of single-unit properties, a row for each layer.",
            "  lcl properties runs/mine untrained:runs/mine gabor-energy alexnet:alexnet.npz \\\n"
            "      --layers V1 V2 simple complex normalised 'conv[1-3]' --out properties",
        ),
    ):
        added = command(name, properties, about, examples)
        added.add_argument("models", nargs="+", metavar="RUN_OR_MODEL", help="as in `lcl fit`")
        added.add_argument("--out", type=Path, metavar="DIR", help="folder of the results (default: in the run folder)")
        added.add_argument("--layers", nargs="+", metavar="PATTERN", help="by name or pattern (default: declared)")
        added.add_argument("--places", default="centre", type=one_of(["centre", "all"]), help="centre or all of maps")
        added.add_argument("--n-units", type=int, metavar="N", help="at most so many units of a layer (default: all)")
        if name != "tuning":
            added.add_argument("--textures", type=Path, metavar="SET", help="file or folder (default: the package's)")
            added.add_argument("--aperture-deg", type=float, default=2.0, metavar="DEG", help="radius (default: 2)")
            added.add_argument(
                "--shifts", type=int, metavar="N", help="show at N x N shifts (default: 2; 1 with --textures)"
            )
            added.add_argument(
                "--baseline",
                default="subtract",
                type=one_of(["subtract", "subtract_unclipped", "keep"]),
                help="response to a blank: subtract and clip at 0, subtract_unclipped, keep (default: subtract)",
            )
        if name != "modulation":
            added.add_argument(
                "--n-sized", type=int, default=24, metavar="N", help="units of a layer shown sizes (default: 24)"
            )
            added.add_argument("--n-phases", type=int, default=8, metavar="N", help="of gratings (default: 8)")
        added.add_argument("--n-resamples", type=int, default=1000, metavar="N", help="of intervals (default: 1000)")
        added.add_argument("--seed", type=int, default=0, help="of units, resamples, untrained: (default: 0)")
        added.add_argument("--batch", type=int, default=32, help="pictures at once (default: 32)")
        added.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")
        added.add_argument("--progress", action=argparse.BooleanOptionalAction, default=True, help="progress bars")
    added = command(
        "submit",
        submit,
        "Write a run as a plugin of Brain-Score, or run Brain-Score's own checks of one.",
        "  lcl submit runs/mine --identifier lcl-v2-mine --weights-url https://example.org/mine.safetensors \\\n"
        "      --out lcl_v2_mine\n"
        "  lcl submit --check lcl_v2_mine --python brain-score/bin/python",
    )
    added.add_argument("run", nargs="?", type=Path, metavar="RUN", help="run folder of `lcl train` or `lcl recognize`")
    added.add_argument("--identifier", metavar="NAME", help="of the model on Brain-Score; no other may have it")
    added.add_argument("--weights-url", metavar="URL", help="where weights.safetensors of the run is to be had")
    added.add_argument("--out", type=Path, metavar="DIR", help="folder to make; its name is that of the plugin")
    added.add_argument("--regions", nargs="+", metavar="REGION=LAYER", help="in place of the stages, or besides")
    added.add_argument("--readout", metavar="LAYER", help="for behaviour (default: the last stage or hidden layer)")
    added.add_argument("--bibtex", type=Path, metavar="FILE", help="what to cite (default: the paper of the method)")
    added.add_argument("--licence", metavar="NAME", help="of the model, for its metadata")
    added.add_argument("--check", type=Path, metavar="DIR", help="check the plugin in this folder instead")
    added.add_argument("--python", default=sys.executable, metavar="PATH", help="Python that has brainscore-vision")
    added = command("show", show, "Draw the figures and the report of a run again.", "  lcl show runs/mine")
    added.add_argument("run", type=Path, metavar="RUN", help="run folder")
    return top, parsers


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process without it.

    Returns
    -------
    int
        Exit code: 0, or 2 after a mistake in what was given, or 128 + the signal after an interruption.

    Examples
    --------
    >>> main(["show", "no-such-run"])
    2
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    top, parsers = parser()
    # A misspelt option is answered before its value could be taken for something else.
    chosen = parsers.get(" ".join(argv[:2])) or parsers.get("".join(argv[:1]))
    if chosen:
        known = {option for action in chosen._actions for option in action.option_strings}
        chosen.refuse_unknown([a for a in argv if a.startswith("--") and a.split("=")[0] not in known])
    arguments, unknown = top.parse_known_args(argv)
    name = getattr(arguments, "command", None)
    (parsers[name] if name else top).refuse_unknown(unknown)
    if name is None:
        top.print_help()
        return USAGE
    from lcl.train import Interrupted

    try:
        arguments.run_command(arguments)
    except (ValueError, OSError, FloatingPointError, MemoryError) as error:
        print(f"lcl {name}: {error}", file=sys.stderr)
        return USAGE
    except ImportError as error:
        if "lcl[" not in str(error):  # nothing that an extra would bring
            raise
        print(f"lcl {name}: {error}", file=sys.stderr)
        return USAGE
    except Interrupted as stop:
        print(f"\n{stop}", file=sys.stderr)
        return 128 + stop.signal_number
    return 0


if __name__ == "__main__":
    sys.exit(main())
