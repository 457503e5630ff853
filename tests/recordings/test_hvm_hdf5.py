"""ventral_neural_data.hdf5, whole and broken."""

import numpy as np
import pytest

from migvis.recordings.sources import load_recording
from tests.recordings.made import UNITS, each, truncate, write_hdf5


def test_hdf5_averages_and_trials(tmp_path):
    path, blocks, average = write_hdf5(tmp_path / "ventral_neural_data.hdf5")
    rec = load_recording("hvm-hdf5", path, subject="M1", size=24, background="keep", trials=True)
    np.testing.assert_allclose(rec.responses, average[:, [0, 1]], atol=1e-6)
    np.testing.assert_array_equal(rec.trials[4:10], blocks["V3"][:, :, [0, 1]].transpose(1, 0, 2))
    assert np.isnan(rec.trials[:4, 2:]).all() and rec.trials.shape == (15, 4, 2)
    assert list(rec.labels["variation"].value_counts().sort_index()) == [4, 6, 5]
    assert {"rxy", "rxz", "ryz", "ty", "tz", "size", "object"} <= set(rec.labels) and "s" not in rec.labels
    both = load_recording("hvm-hdf5", path, size=24, background="keep")
    np.testing.assert_allclose(both.responses, average[:, [0, 1, 4]], atol=1e-6)
    assert both.trials is None and list(both.sites["animal"]) == ["Chabo", "Chabo", "Tito"]


def put(name, values):
    def change(file):
        del file[name]
        if values is not None:
            file[name] = values

    return change


BROKEN_HDF5 = {
    "no images": (put("images", None), r"\['images'\] are missing"),
    "no category": (put("image_meta/category", None), r"\['image_meta/category'\] are missing"),
    "no sites": (put("neural_meta/IT_NEURONS", None), r"\['neural_meta/IT_NEURONS'\] are missing"),
    "no trials": (put("time_averaged/variation_level_3", None), "variation_level_3"),
    "colour images": (
        put("images", np.zeros((15, 24, 24, 3), np.uint8)),
        r"field 'images' has shape \(15, 24, 24, 3\), but \(n, rows, columns\)",
    ),
    "short responses": (
        put("time_averaged_trial_averaged", np.zeros((14, UNITS))),
        r"'time_averaged_trial_averaged' has shape \(14, 6\), but \(15, sites\)",
    ),
    "short labels": (put("image_meta/size", np.zeros(3)), r"'image_meta/size' has shape \(3,\)"),
    "site out of range": (
        put("neural_meta/IT_NEURONS", np.array([0, 9])),
        "index 9 of neural_meta/IT_NEURONS is out of range",
    ),
    "short trials": (
        put("time_averaged/variation_level_3", np.zeros((4, 5, UNITS))),
        r"variation_level_3' has shape \(4, 5, 6\), but \(repeats, 6, 6\)",
    ),
    "all-NaN unit": (
        put("time_averaged/variation_level_0", np.full((2, 4, UNITS), np.nan)),
        "responses: .*missing='drop'",
    ),
}


@each(BROKEN_HDF5)
def test_broken_hdf5_names_file_and_field(tmp_path, change, message):
    path, _, _ = write_hdf5(tmp_path / "v.hdf5", change)
    with pytest.raises(ValueError, match=r"v\.hdf5.*" + message):
        load_recording("hvm-hdf5", path, size=24, background="keep", trials=True)


@pytest.mark.parametrize("how", ["truncated", "foreign"])
def test_damaged_hdf5(tmp_path, how):
    path, _, _ = write_hdf5(tmp_path / "v.hdf5")
    truncate(path) if how == "truncated" else path.write_text("text")
    with pytest.raises(ValueError, match=r"v\.hdf5 is truncated, damaged or not the HDF5 file.*again"):
        load_recording("hvm-hdf5", path)


def test_missing_hdf5(tmp_path):
    pytest.importorskip("h5py")
    with pytest.raises(FileNotFoundError, match="does not exist; it should be the HDF5 file"):
        load_recording("hvm-hdf5", tmp_path / "v.hdf5")
