"""The arrays of the MIG-Vis authors."""

import numpy as np
import pytest

from migvis.recordings.sources import load_recording
from tests.recordings.made import truncate, write_authors


def test_authors_arrays(tmp_path):
    arrays = write_authors(tmp_path)
    one, two, both = (load_recording("authors", tmp_path, subject) for subject in ("M1", "M2", "all"))
    assert (
        one.responses.shape == (16, 58)
        and two.responses.shape == (16, 110)
        and both.responses.shape == (16, 168)
    )
    np.testing.assert_allclose(
        np.hstack([one.responses, two.responses]), arrays["sorted_it_avg_data"], rtol=1e-6
    )
    np.testing.assert_allclose(one.images[:, 0], arrays["stimulus_data_cleaned"] / 255, atol=1e-6)
    assert one.labels["category"].dtype == np.int64 and list(one.labels["ty"]) == list(
        arrays["stimulus_pose_features"][:, 4]
    )
    assert load_recording("authors", tmp_path, size=10).images.shape == (16, 1, 10, 10)


def test_authors_arrays_with_float_images_up_to_255_say_what_was_done(tmp_path):
    images = np.random.default_rng(0).uniform(0, 255, (16, 20, 20))
    write_authors(tmp_path, stimulus_data_cleaned=images)
    with pytest.warns(UserWarning, match="divided by 255"):
        np.testing.assert_allclose(load_recording("authors", tmp_path).images[:, 0], images / 255, atol=1e-6)


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"sorted_it_avg_data": None}, FileNotFoundError, r"sorted_it_avg_data\.npy does not exist"),
        (
            {"sorted_it_avg_data": np.zeros((15, 168))},
            ValueError,
            r"sorted_it_avg_data\.npy.*\(15, 168\), but \(16, sites\)",
        ),
        ({"sorted_it_avg_data": np.zeros((16, 50))}, ValueError, "has 50 sites, but M1's 58"),
        (
            {"stimulus_pose_features": np.zeros((16, 3))},
            ValueError,
            r"pose_features\.npy.*\(16, 3\), but \(16, 6\)",
        ),
        ({"stimulus_category_ids": np.linspace(0, 1, 16)}, ValueError, "whole numbers"),
        (
            {"stimulus_data_cleaned": np.zeros((16, 20, 20, 3))},
            ValueError,
            r"data_cleaned\.npy.*\(n, rows, columns\)",
        ),
        ({"stimulus_data_cleaned": np.full((16, 20, 20), -1.0)}, ValueError, "pictures run from -1 to -1"),
        ({"sorted_it_avg_data": np.array([{}] * 16, dtype=object)}, ValueError, "llow_pickle=False"),
        (
            {
                "sorted_it_avg_data": np.where(
                    np.arange(168) == 3, np.nan, np.random.default_rng(0).normal(size=(16, 168))
                )
            },
            ValueError,
            r"no data at all.*\[3\]",
        ),
    ],
)
def test_broken_authors_arrays(tmp_path, changes, error, message):
    write_authors(tmp_path, **changes)
    with pytest.raises(error, match=message):
        load_recording("authors", tmp_path)


def test_truncated_authors_array(tmp_path):
    write_authors(tmp_path)
    truncate(tmp_path / "stimulus_data_cleaned.npy")
    with pytest.raises(ValueError, match=r"stimulus_data_cleaned\.npy is damaged.*copy it again"):
        load_recording("authors", tmp_path)
