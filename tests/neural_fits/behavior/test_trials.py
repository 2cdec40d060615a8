import numpy as np
import pytest

from neural_fits.behavior.exclusions import EXCLUSIONS, NEAR_CHANCE, keep_conditions, kept_conditions, near_chance
from neural_fits.behavior.trials import (
    COLUMNS,
    fraction_correct,
    image_id,
    name_mismatches,
    read_experiment,
    read_experiments,
    trials_from_columns,
)

HEADER = ",".join(COLUMNS)


def write(path, lines, header=HEADER):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "contrast"
    write(
        place / "contrast_subject-02_session_1.csv",
        [
            "subject-02,1,1,0.5,dog,dog,c50,0001_cop_s02_c50_dog_10_n02085936_3.png",
            "subject-02,1,2,NaN,na,cat,c05,0002_cop_s02_c05_cat_10_n02123045_10.png",
        ],
        header="subj,Session,trial,rt,object_response,category,condition,imagename",
    )
    write(
        place / "contrast_subject-01_session_1.csv",
        ["subject-01,1,7,0.8,cat,dog,c50,0007_cop_s01_c50_dog_10_n02085936_3.png"],
    )
    write(
        place / "contrast_alexnet_session-1.csv",
        ["alexnet,1,1,NaN,cat,cat,c05,0001_cop_dnn_c05_cat_10_n02123045_10.png"],
    )
    return tmp_path


def test_names_of_pictures():
    assert image_id("0000_cl_s01_bw_boat_40_n02951358_5952.JPEG") == "n02951358_5952"
    assert image_id("0001_s5n_s01_0_bird_00_bird3-bird2.png") == "bird3-bird2"
    assert image_id("0001_sty_s01_0_bicycle_00_bicycle-0011-ILSVRC2012-val-00011821.png") == (
        "bicycle-0011-ILSVRC2012-val-00011821"
    )
    assert image_id("a/b/dog5.png") == image_id(r"a\b\dog5.png") == image_id("dog5") == "dog5"
    with pytest.raises(ValueError, match="no name after"):
        image_id("a_.png")


def test_experiment_as_distributed(folder):
    trials = read_experiment(folder / "contrast", observers="subject-*")
    assert trials.attrs["name"] == "contrast"
    assert trials.response.dims == ("observer", "image", "condition")
    assert trials.observer.values.tolist() == ["subject-01", "subject-02"]
    assert trials.condition.values.tolist() == ["c05", "c50"]
    assert trials.category.values.tolist() == ["dog", "cat"]
    one = trials.sel(observer="subject-02", image="n02123045_10", condition="c05")
    assert (one.response.item(), one.correct.item(), one.session.item(), one.trial.item()) == ("na", 0, 1, 2)
    assert np.isnan(one.reaction_time_s.item())
    missing = trials.sel(observer="subject-01", image="n02123045_10", condition="c05")
    assert missing.response.item() == ""
    assert all(np.isnan(missing[name].item()) for name in ("correct", "reaction_time_s", "session", "trial"))
    assert int(trials.correct.notnull().sum()) == 3
    assert "texture" not in trials.coords
    assert read_experiment(folder / "contrast").sizes["observer"] == 3


def test_all_experiments_of_a_folder(folder):
    write(folder / "edge" / "a.csv", ["alexnet,1,1,NaN,cat,cat,0,0001_edg_dnn_0_cat_00_cat1.png"])
    assert list(read_experiments(folder)) == ["contrast", "edge"]
    assert list(read_experiments(folder, observers="subject-*")) == ["contrast"]


def test_repeats_are_kept_in_order(tmp_path):
    line = "s,{},{},0.5,{},dog,0,000{}_edg_s01_0_dog_00_dog1.png"
    other = "s,1,9,0.5,cat,cat,0,0009_edg_s01_0_cat_00_cat1.png"
    path = write(tmp_path / "a.csv", [line.format(2, 1, "cat", 1), line.format(1, 5, "dog", 5), other])
    trials = read_experiment(path)
    assert trials.response.dims == ("observer", "image", "condition", "repeat")
    assert trials.response.sel(image="dog1").values.ravel().tolist() == ["dog", "cat"]
    assert trials.session.sel(image="dog1").values.ravel().tolist() == [1, 2]
    assert trials.response.sel(image="cat1").values.ravel().tolist() == ["cat", ""]
    assert fraction_correct(trials).sel(image=["dog1", "cat1"]).values.ravel().tolist() == [0.5, 1.0]


def test_cue_conflict_pictures_have_a_texture():
    same = {"observer": ["a"], "condition": ["0"], "response": ["dog"], "category": ["dog"]}
    assert trials_from_columns(image=["dog1-cat2"], **same).texture.values.tolist() == ["cat"]
    assert "texture" not in trials_from_columns(image=["dog1-fork2"], **same).coords


def test_order_of_labels():
    columns = {"observer": ["vgg16", "alexnet", "b"], "response": ["dog"] * 3, "category": ["dog"] * 3}
    trials = trials_from_columns(condition=["0.7", "inf", "0.55"], image=["dog10", "dog2", "dog1"], **columns)
    assert trials.condition.values.tolist() == ["0.55", "0.7", "inf"]
    assert trials.image.values.tolist() == ["dog1", "dog2", "dog10"]
    assert trials.observer.values.tolist() == ["alexnet", "b", "vgg16"]


def test_name_mismatches_are_listed(tmp_path):
    path = write(
        tmp_path / "a.csv",
        [
            "s1,1,1,0.5,dog,cat,0,0001_edg_s01_0_dog_00_dog1.png",
            "s1,1,2,0.5,dog,cat,c30,0002_cop_s01_c50_cat_10_n02123045_10.png",
        ],
    )
    trials = read_experiment(path)
    lines = name_mismatches(trials, ["x/dog1.png", "y/dog1.jpg", "cat7.png"])
    assert lines == [
        "s1, trial 1: 0001_edg_s01_0_dog_00_dog1.png is named for category dog, listed as cat",
        "s1, trial 2: 0002_cop_s01_c50_cat_10_n02123045_10.png is named for condition c50, listed as c30",
        "image n02123045_10 has trials and no picture",
        "picture cat7.png has no trials",
        "image dog1 has 2 pictures: x/dog1.png, y/dog1.jpg",
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("s,1,1,fast,dog,dog,0,dog1.png", "line 2, is not a trial"),
        ("s,1,1,0.5,dog,dog,0", "line 2, is not a trial"),
        ("s,1,1,0.5,dog,dog,0,dog1.png,7", "line 2, is not a trial"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, message):
    with pytest.raises(ValueError, match=message):
        read_experiment(write(tmp_path / "a.csv", [line]))


def test_bad_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="bethgelab/model-vs-human"):
        read_experiment(tmp_path / "none.csv")
    with pytest.raises(FileNotFoundError, match="git clone"):
        read_experiments(tmp_path)
    path = write(
        tmp_path / "a.csv", ["s,1,1,0.5,dog,dog,0"], header="subj,session,trial,rt,object_response,category,condition"
    )
    with pytest.raises(ValueError, match="no column 'imagename'"):
        read_experiment(path)
    path = write(tmp_path / "b.csv", ["s,1,1,0.5,dog,dog,0,dog1.png"])
    with pytest.raises(ValueError, match="no observer"):
        read_experiment(path, observers="subject-*")
    columns = {"observer": ["a", "b"], "image": ["x", "x"], "condition": ["0", "0"], "response": ["dog", "dog"]}
    with pytest.raises(ValueError, match="'x' has the categories cat, dog"):
        trials_from_columns(category=["dog", "cat"], **columns)
    with pytest.raises(ValueError, match="column category has shape"):
        trials_from_columns(category=["dog"], **columns)


def test_rules_take_labels_by_value():
    noise = ["0.00", "0.03", "0.05", "0.10", "0.20", "0.35", "0.60", "0.90"]
    assert kept_conditions("uniform-noise", noise) == noise[1:6]
    assert kept_conditions("uniform-noise", noise, rule="geirhos2021_as_text") == noise
    assert kept_conditions("false-colour", ["true", "false"]) == ["false"]
    assert kept_conditions("edge", ["0"]) == ["0"]
    assert kept_conditions("edge", ["0", "1"], rule={"edge": ["1.0"]}) == ["0"]
    assert kept_conditions("low-pass", ["0", "1"], rule="none") == ["0", "1"]
    with pytest.raises(ValueError, match="expected one of none"):
        kept_conditions("edge", ["0"], rule="all")
    with pytest.raises(ValueError, match=r"condition 7\.0 of edge, which has 0"):
        kept_conditions("edge", ["0"], rule={"edge": ["7"]})


@pytest.mark.shared
def test_every_trial_of_model_vs_human(shared):
    experiments = read_experiments(shared / "model_vs_human" / "raw-data")
    assert len(experiments) == 17
    assert sum(trials.sizes["observer"] for trials in experiments.values()) == 90
    assert sum(int(trials.correct.notnull().sum()) for trials in experiments.values()) == 85120
    assert sum(int((trials.response == "na").sum()) for trials in experiments.values()) == 597
    assert not any(name_mismatches(trials) for trials in experiments.values())
    # every observer saw every picture once, in one condition
    for trials in experiments.values():
        assert (trials.correct.notnull().sum("condition") == 1).all()
    # the published list follows from the published criterion
    for name, trials in experiments.items():
        assert {float(c) if c.replace(".", "").isdigit() else c for c in near_chance(trials)} == {
            float(c) if c.replace(".", "").isdigit() else c for c in NEAR_CHANCE.get(name, ())
        }
    assert set(EXCLUSIONS["geirhos2021"]) <= set(experiments)
    kept = keep_conditions(experiments["eidolonIII"])
    assert kept.condition.values.tolist() == ["2-0-10", "4-0-10", "8-0-10"]
    assert kept.sizes["image"] == 3 * 160


@pytest.mark.shared
def test_pictures_of_cue_conflict_fit_the_trials(shared):
    pictures = list((shared / "texture_vs_shape" / "stimuli").rglob("*.png"))
    people = read_experiment(shared / "model_vs_human" / "raw-data" / "cue-conflict")
    networks = read_experiment(next((shared / "texture_vs_shape" / "raw-data").iterdir()))
    for trials in (people, networks):
        assert trials.sizes["image"] == 1280
        assert name_mismatches(trials, pictures) == []
        assert int((trials.category != trials.texture).sum()) == 1200
    assert name_mismatches(people, pictures[1:]) == [f"image {pictures[0].stem} has trials and no picture"]
