"""The file of Bashivan and others, whole and broken."""

import numpy as np
import pandas as pd
import pytest

from migvis.recordings.sources import load_recording
from tests.recordings.made import each, truncate, write_bashivan

h5py = pytest.importorskip("h5py")


def load(path, **options):
    return load_recording("bashivan", path, **({"size": 14} | options))


@pytest.mark.parametrize("stimuli", ["naturalistic", "synthetic"])
@pytest.mark.parametrize("subject, setting", [("n", "stretch"), ("n", "ohp"), ("s", "stretch")])
def test_sessions_as_h5py_reads_them(tmp_path, stimuli, subject, setting):
    path, _ = write_bashivan(tmp_path / "npc_v4_data.h5")
    rec = load(path, subject=subject, setting=setting, stimuli=stimuli)
    place = f"monkey_{subject}/{setting}/session_1"
    with h5py.File(path) as file:
        trials = file[f"neural/{stimuli}/{place}"][:]
        shown = file["images/naturalistic" if stimuli == "naturalistic" else f"images/synthetic/{place}"][:]
    np.testing.assert_allclose(rec.trials, np.swapaxes(trials, 0, 1), rtol=1e-6)
    np.testing.assert_allclose(rec.responses, trials.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rec.images[:, 0], shown / 255, atol=1e-6)
    assert set(rec.sites["animal"]) == {subject} and set(rec.sites["region"]) == {"V4"}
    assert list(rec.labels["image_id"]) == list(range(len(shown)))
    assert set(rec.labels["category"]) == {"natural image"}


def test_all_animals_side_by_side(tmp_path):
    path, arrays = write_bashivan(tmp_path / "a.h5")
    rec = load(path, subject="all")
    one, two = (arrays[f"neural/naturalistic/monkey_{m}/stretch/session_1"] for m in "ns")
    np.testing.assert_allclose(rec.responses, np.hstack([one.mean(0), two.mean(0)]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rec.trials[:, :2, 3:], two.swapaxes(0, 1), rtol=1e-6)
    assert np.isnan(rec.trials[:, 2:, 3:]).all() and list(rec.sites["animal"]) == list("nnnsssss")
    assert rec.sites["site_id"].is_unique and rec.name == "Bashivan2019 naturalistic stretch 1"
    with pytest.raises(ValueError, match="every animal saw synthetic images of its own"):
        load(path, subject="all", stimuli="synthetic")


def test_labels_of_the_user(tmp_path):
    path, arrays = write_bashivan(tmp_path / "a.h5")
    labels = pd.DataFrame({"image_id": [5, 0, 2, 1, 4, 3], "category": list("abcdef")})
    rec = load(path, labels=labels)
    trials = arrays["neural/naturalistic/monkey_n/stretch/session_1"]
    np.testing.assert_allclose(rec.trials[0], trials[:, 5], rtol=1e-6)
    np.testing.assert_allclose(rec.images[0, 0], arrays["images/naturalistic"][5] / 255, atol=1e-6)
    with pytest.raises(ValueError, match="1 of 6 images have no row in labels"):
        load(path, labels=labels[:-1])
    assert len(load(path, labels=labels[:-1], missing="drop")) == 5


@pytest.mark.parametrize("missing", ["error", "drop"])
def test_labels_numbered_from_1_are_not_shifted(tmp_path, missing):
    path, _ = write_bashivan(tmp_path / "a.h5")
    labels = pd.DataFrame({"image_id": range(1, 7), "category": list("abcdef")})
    with pytest.raises(ValueError, match="numbers run from 1 to 6, while the images count from 0 to 5"):
        load(path, labels=labels, missing=missing)
    with pytest.warns(UserWarning, match="if they count from 1, every picture is the wrong one"):
        assert len(load(path, labels=labels[:4], missing="drop")) == 4


def put(name, values=None):
    def change(file):
        del file[name]
        if values is not None:
            file[name] = values

    return change


PLACE = "neural/naturalistic/monkey_n/stretch/session_1"
BROKEN = {
    "no images": (put("images"), r"fields \['images'\] are missing"),
    "no natural images": (put("images/naturalistic"), r"\['images/naturalistic'\] are missing"),
    "images in colour": (put("images/naturalistic", np.zeros((6, 9, 9, 3))), r"shape \(6, 9, 9, 3\)"),
    "negative images": (put("images/naturalistic", np.full((6, 9, 9), -1.0)), "pictures run from -1"),
    "no responses": (put("neural/naturalistic"), r"\['neural/naturalistic'\] are missing"),
    "no session": (put(PLACE), r"no session 1 of subject 'n' .*'stretch'.*\['n ohp 1', 's stretch 1'\]"),
    "other images": (put(PLACE, np.zeros((4, 7, 3))), r"session_1' has shape \(4, 7, 3\), but \(repeats, 6, sites\)"),
    "averages": (put(PLACE, np.zeros((6, 3))), r"shape \(6, 3\)"),
    "all NaN": (put(PLACE, np.full((4, 6, 3), np.nan)), "6 images have no response"),
}


@each(BROKEN)
def test_broken_fields_are_named(tmp_path, change, message):
    path, _ = write_bashivan(tmp_path / "a.h5", change)
    with pytest.raises(ValueError, match=r"a\.h5.*" + message):
        load(path)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"subject": "m"}, "no session 1 of subject 'm'"),
        ({"session": 2}, "no session 2 of subject 'n'"),
        ({"setting": "max"}, "with setting 'max'"),
        ({"stimuli": "both"}, "stimuli must be 'naturalistic' or 'synthetic', not 'both'"),
        ({"area": "IT"}, "no unit of subject 'n' in area 'IT'"),
    ],
)
def test_what_cannot_be_asked_for(tmp_path, options, message):
    path, _ = write_bashivan(tmp_path / "a.h5")
    with pytest.raises(ValueError, match=message):
        load(path, **options)


def test_damaged_files(tmp_path):
    path, _ = write_bashivan(tmp_path / "a.h5")
    truncate(path)
    with pytest.raises(ValueError, match=r"a\.h5 is truncated, damaged or not the file npc_v4_data.h5"):
        load(path)
