"""Folders of Sensorium, whole and broken."""

import zipfile

import numpy as np
import pandas as pd
import pytest

from migvis.recordings.sources import load_recording
from tests.recordings.made import SHOWN, TIERS, each, write_sensorium


def load(folder, **options):
    return load_recording("sensorium", folder, **({"tier": "all"} | options))


def test_trials_are_repeats_of_images_as_numpy_reads_them(tmp_path):
    write_sensorium(tmp_path)
    rec = load(tmp_path)
    ids = [7, 3, 5, 9, 8, 11, 12]
    assert list(rec.labels["image_id"]) == ids and set(rec.labels["category"]) == {"natural image"}
    assert list(rec.labels["tier"]) == ["test", "test", "train", "train", "train", "validation", "train"]
    for row, image in enumerate(ids):
        trials = np.flatnonzero(SHOWN == image)
        shown = [np.load(tmp_path / f"data/responses/{k}.npy") for k in trials]
        np.testing.assert_allclose(rec.trials[row, : len(trials)], shown, rtol=1e-6)
        assert np.isnan(rec.trials[row, len(trials) :]).all()
        np.testing.assert_allclose(rec.responses[row], np.mean(shown, axis=0), rtol=1e-5)
        picture = np.load(tmp_path / f"data/images/{trials[0]}.npy")
        np.testing.assert_allclose(rec.images[row], picture[:, :, 3:12] / 255, atol=1e-6)


def test_what_is_known_of_cells(tmp_path):
    files = write_sensorium(tmp_path)
    sites = load(tmp_path).sites
    assert list(sites["site_id"]) == [40, 41, 42, 43, 44] and set(sites["animal"]) == {"22846"}
    assert list(sites["region"]) == ["V1", "V1", "LM", "V1", "LM"] and sites["layer"][1] == "L4"
    np.testing.assert_array_equal(sites[["x", "y", "z"]], files["meta/neurons/cell_motor_coordinates"])
    assert load(tmp_path, area="LM", subject="22846").responses.shape == (7, 2)


def test_without_what_not_every_recording_has(tmp_path):
    def change(files):
        for name in [n for n in files if n.startswith("meta/neurons") or n.endswith("frame_image_id")]:
            del files[name]

    write_sensorium(tmp_path / "few", change)
    write_sensorium(tmp_path / "all")
    few, every = load(tmp_path / "few"), load(tmp_path / "all")
    np.testing.assert_array_equal(few.trials, every.trials)
    assert list(few.sites.columns) == ["site_id", "noise_ceiling"]
    assert few.labels["image_id"].is_unique and few.labels["image_id"].str.len().eq(16).all()
    with pytest.raises(ValueError, match=r"columns of the sites \['region'\] are missing"):
        load(tmp_path / "few", area="V1")


@pytest.mark.parametrize("tier, ids", [("train", [5, 9, 8, 12]), ("test", [7, 3])])
def test_tiers(tmp_path, tier, ids):
    write_sensorium(tmp_path)
    rec = load(tmp_path, tier=tier)
    assert list(rec.labels["image_id"]) == ids and rec.trials.shape[1] == (3 if tier == "test" else 1)
    assert ("noise_ceiling" in rec.sites) == (tier == "test")
    if tier == "train":
        assert len(load_recording("sensorium", tmp_path)) == 4


def test_archives_with_a_folder_inside(tmp_path):
    write_sensorium(tmp_path / "a")
    with zipfile.ZipFile(tmp_path / "static1.zip", "w") as archive:
        for file in (tmp_path / "a").rglob("*.npy"):
            archive.write(file, f"static1/{file.relative_to(tmp_path / 'a')}")
    packed = load(tmp_path / "static1.zip")
    np.testing.assert_array_equal(packed.trials, load(tmp_path / "a").trials)
    np.testing.assert_array_equal(packed.images, load(tmp_path / "a").images)
    assert packed.name == "Sensorium static1"
    write_sensorium(tmp_path / "b")
    with pytest.raises(ValueError, match="are of different recordings; name the folder of one"):
        load(tmp_path)


def test_labels_of_the_user(tmp_path):
    write_sensorium(tmp_path / "a")
    labels = pd.DataFrame({"image_id": [12, 5, 7, 3, 9, 8, 11, 99], "category": list("abcdefgh")})
    labels.to_csv(tmp_path / "labels.csv", index=False)
    for given in (labels, tmp_path / "labels.csv"):
        rec = load(tmp_path / "a", labels=given)
        assert list(rec.labels["image_id"]) == [12, 5, 7, 3, 9, 8, 11]
        np.testing.assert_allclose(rec.trials[0, 0], np.load(tmp_path / "a/data/responses/9.npy"), rtol=1e-6)
    few = labels[:4]
    with pytest.raises(ValueError, match=r"3 of 7 images have no row in labels, for example .*9"):
        load(tmp_path / "a", labels=few)
    assert len(load(tmp_path / "a", labels=few, missing="drop")) == 4
    with pytest.raises(ValueError, match="7 of 7 images have no row"):
        load(tmp_path / "a", labels=few.assign(image_id=range(100, 104)), missing="drop")


def test_withheld_responses_are_left_out(tmp_path):
    def withhold(files):
        for k in np.flatnonzero(TIERS == "test"):
            files[f"data/responses/{k}"] = np.zeros(5)

    write_sensorium(tmp_path, withhold)
    with pytest.warns(UserWarning, match=r"5 of 10 trials have the response 0 of every cell.*\['test'\]"):
        rec = load(tmp_path)
    assert list(rec.labels["image_id"]) == [5, 9, 8, 11, 12]
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="all responses are withheld"):
        load(tmp_path, tier="test")


def test_wide_pictures_cropped_or_padded(tmp_path):
    write_sensorium(tmp_path)
    assert load(tmp_path).images.shape == (7, 1, 9, 9)
    padded = load(tmp_path, fit="pad").images
    assert padded.shape == (7, 1, 16, 16) and (padded[:, :, 0] == 0.5).all()
    assert load(tmp_path, size=6).images.shape == (7, 1, 6, 6)


def put(name, values):
    return lambda files: files.__setitem__(name, values)


def drop(name):
    return lambda files: files.__delitem__(name)


def other_picture(files):
    files["data/images/2"] = files["data/images/2"] + np.float32(1) * (files["data/images/2"] < 9)


BROKEN = {
    "no tiers": (drop("meta/trials/tiers"), r"files \['meta/trials/tiers.npy'\] are missing"),
    "tiers of two axes": (put("meta/trials/tiers", TIERS[None]), r"tiers.npy' has shape \(1, 10\)"),
    "tiers of objects": (put("meta/trials/tiers", TIERS.astype(object)), r"tiers.npy is damaged or not a plain array .*llow_pickle=False"),
    "more tiers": (put("meta/trials/tiers", np.append(TIERS, "test")), r"frame_image_id.npy' has shape \(10,\), but \(11\)"),
    "fewer ids": (put("meta/trials/frame_image_id", SHOWN[:-1]), r"frame_image_id.npy' has shape \(9,\), but \(10\)"),
    "no picture": (drop("data/images/4"), r"files \['data/images/4.npy'\] are missing"),
    "no response": (drop("data/responses/4"), r"files \['data/responses/4.npy'\] are missing"),
    "two colours": (put("data/images/3", np.zeros((2, 9, 16))), r"images/3.npy has shape \(2, 9, 16\), but grey"),
    "video": (put("data/images/3", np.zeros((1, 9, 16, 3))), "two colours and videos are not read"),
    "negative": (put("data/images/3", np.full((1, 9, 16), -3.0)), "pictures run from -3"),
    "one picture changed": (other_picture, "trials of the image 7 show 2 different pictures"),
    "other cells": (put("data/responses/3", np.ones(4)), r"responses/3.npy.*shape \(4,\), but \(5\)"),
    "traces": (put("data/responses/0", np.ones((5, 30))), r"responses/0.npy.*shape \(5, 30\)"),
    "NaN": (put("data/responses/3", np.full(5, np.nan)), "1 images have no response"),
    "unit ids": (put("meta/neurons/unit_ids", np.arange(4)), r"unit_ids.npy' has shape \(4,\), but \(5\)"),
    "unit ids twice": (put("meta/neurons/unit_ids", np.zeros(5, int)), "0 more than once"),
    "animals": (put("meta/neurons/animal_ids", np.ones((5, 2))), r"animal_ids.npy' has shape \(5, 2\)"),
    "area": (put("meta/neurons/area", np.array("V1")), r"area.npy' has shape \(\), but \(5\)"),
    "layer": (put("meta/neurons/layer", np.array(["L4"] * 6)), r"layer.npy' has shape \(6,\)"),
    "places": (put("meta/neurons/cell_motor_coordinates", np.ones((5, 2))), r"coordinates.npy' has shape \(5, 2\)"),
}


@each(BROKEN)
def test_broken_files_are_named(tmp_path, change, message):
    write_sensorium(tmp_path, change)
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("name", ["data/images/3.npy", "data/responses/3.npy", "meta/trials/tiers.npy"])
@pytest.mark.parametrize("keep", [0, 40, 130])
def test_damaged_files(tmp_path, name, keep):
    write_sensorium(tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=name):
        load(tmp_path)


def test_a_header_that_promises_too_much_is_refused(tmp_path):
    write_sensorium(tmp_path)
    path = tmp_path / "data/responses/3.npy"
    path.write_bytes(path.read_bytes().replace(b"(5,), }" + b" " * 9, b"(5000000000,), }"))
    with pytest.raises(ValueError, match="responses/3.npy is said to hold 40 GB"):
        load(tmp_path)


def test_what_cannot_be_asked_for(tmp_path):
    write_sensorium(tmp_path)
    with pytest.raises(ValueError, match=r"no trial is of the tier 'final'; there are \['test', 'train'"):
        load(tmp_path, tier="final")
    with pytest.raises(ValueError, match="fit must be 'crop' or 'pad'"):
        load(tmp_path, fit="stretch")
    with pytest.raises(FileNotFoundError, match="should be a folder or zip archive of Sensorium"):
        load(tmp_path / "nowhere")
    (tmp_path / "not.zip").write_text("text")
    with pytest.raises(ValueError, match="not.zip is truncated, damaged or not a folder or zip archive"):
        load(tmp_path / "not.zip")
