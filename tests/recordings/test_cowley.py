"""Sessions of Cowley and others."""

import numpy as np
import pandas as pd
import pytest

from migvis.recordings.sources import load_recording
from tests.recordings.made import truncate, write_cowley


def test_cowley_session(tmp_path):
    arrays = write_cowley(tmp_path / "hvm_v4_session7.npz")
    rec = load_recording("cowley-v4", tmp_path / "hvm_v4_session7.npz")
    np.testing.assert_allclose(rec.responses, np.nanmean(arrays["spike_counts"], 2).T, rtol=1e-6)
    np.testing.assert_array_equal(rec.trials, arrays["spike_counts"].transpose(1, 2, 0))
    assert list(rec.sites["site_id"])[:2] == ["session7_00", "session7_01"] and set(rec.sites["region"]) == {
        "V4"
    }
    assert {"object", "variation", "image_id", "background_id", "rxy"} <= set(rec.labels)
    small = load_recording("cowley-v4", tmp_path / "hvm_v4_session7.npz", size=8, trials=False)
    assert small.images.shape == (12, 1, 8, 8) and small.trials is None and "noise_ceiling" in small.sites


def nan_at(index):
    counts = np.ones((4, 12, 5), np.float32) * np.arange(12)[None, :, None]
    counts[index] = np.nan
    return counts


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"spike_counts": None}, r"\['spike_counts'\] are missing"),
        ({"category": None}, r"\['category'\] are missing"),
        (
            {"spike_counts": np.zeros((12, 4, 5))},
            r"'spike_counts' has shape \(12, 4, 5\), but \(sites, 12, repeats\)",
        ),
        ({"rxy": np.zeros(3)}, r"'rxy' has shape \(3,\), but \(12\)"),
        ({"id": np.array(["same"] * 12)}, "image_id holds same more than once"),
        (
            {"spike_counts": nan_at(2)},
            r"1 units have no data at all \(all NaN\) \(numbers \[2\]\); pass missing='drop'",
        ),
        ({"spike_counts": nan_at((slice(None), 5))}, r"1 images have no response \(numbers \[5\]\)"),
        ({"spike_counts": nan_at((1, 5))}, r"1 units lack a response to some images \(numbers \[1\]\)"),
        ({"var": np.array(["high"] * 12)}, "variation levels must be .*, not high"),
    ],
)
def test_broken_cowley_session(tmp_path, changes, message):
    write_cowley(tmp_path / "s.npz", **changes)
    with pytest.raises(ValueError, match=r"s\.npz.*" + message):
        load_recording("cowley-v4", tmp_path / "s.npz")


def test_damaged_cowley_session(tmp_path):
    path = tmp_path / "s.npz"
    write_cowley(path)
    truncate(path)
    with pytest.raises(ValueError, match=r"s\.npz is damaged or not an npz file.*get it again"):
        load_recording("cowley-v4", path)
    np.save(tmp_path / "one.npy", np.ones(3))
    with pytest.raises(ValueError, match="not an npz"):
        load_recording("cowley-v4", tmp_path / "one.npy")


def test_missing_drop_in_a_cowley_session(tmp_path):
    write_cowley(tmp_path / "s.npz", spike_counts=nan_at(2))
    with pytest.warns(UserWarning, match="0 images and 1 units without complete data are left out"):
        rec = load_recording("cowley-v4", tmp_path / "s.npz", missing="drop")
    assert list(rec.sites["site_id"]) == ["s_00", "s_01", "s_03"]


def test_real_v4_session(realdata):
    rec = load_recording("cowley-v4", realdata / "hvm_v4_session210325.npz")
    assert (
        rec.responses.shape == (640, 50)
        and rec.trials.shape == (640, 10, 50)
        and rec.images.shape == (640, 1, 112, 112)
    )
    ceiling = rec.noise_ceiling()
    assert 0.4 < ceiling.min() and ceiling.max() < 1
    metadata = pd.read_csv(realdata / "hvm_metadata.csv").set_index("id").loc[rec.labels["image_id"]]
    assert (metadata["obj"].to_numpy() == rec.labels["object"].to_numpy()).all() and (
        metadata["var"].to_numpy() == rec.labels["variation"].to_numpy()
    ).all()
