"""Assemblies of Brain-Score, both ways."""

import numpy as np
import pandas as pd
import pytest

from migvis.data import Recording
from migvis.recordings.brainscore import from_xarray, to_xarray
from tests.made import make_recording

pytest.importorskip("xarray")


@pytest.fixture(scope="module")
def recording():
    return make_recording()


def test_xarray_round_trip(recording):
    assembly = to_xarray(recording)
    assert dict(assembly.sizes) == {"neuroid": 7, "presentation": 576, "time_bin": 1}
    assert {"stimulus_id", "category_name", "object_name", "repetition", "neuroid_id"} <= set(assembly.coords)
    back = from_xarray(assembly, recording.images)
    np.testing.assert_array_equal(back.trials, recording.trials)
    np.testing.assert_allclose(back.responses, recording.responses, atol=1e-6)
    pd.testing.assert_frame_equal(back.labels[recording.labels.columns], recording.labels)
    assert (
        list(back.sites["site_id"]) == list(recording.sites["site_id"])
        and back.name == "made"
        and back.simulated
    )


def test_xarray_with_averages_missing_repeats_and_multiindex(recording):
    averages = make_recording(trials=None, sites=None, labels=recording.labels.drop(columns="image_id"))
    back = from_xarray(to_xarray(averages), averages.images)
    np.testing.assert_array_equal(back.responses, averages.responses)
    assert back.trials is None
    trials = recording.trials.copy()
    trials[::3, 4:] = np.nan
    holes = make_recording(trials=trials, responses=np.nanmean(trials, 1))
    assembly = to_xarray(holes).set_index(
        presentation=["stimulus_id", "repetition"], neuroid=["neuroid_id", "depth"]
    )
    np.testing.assert_array_equal(from_xarray(assembly, holes.images).trials, trials)


def test_xarray_drops_responses_without_image_and_images_without_responses(recording):
    ids = recording.labels["image_id"].to_numpy()
    part, rows = to_xarray(recording), np.arange(10, 60)
    part = part.isel(presentation=np.flatnonzero(part["stimulus_id"].to_numpy() != ids[20]))
    with pytest.raises(ValueError, match="46 ids have responses but no image"):
        from_xarray(part, recording.images[rows], ids[rows])
    with pytest.warns(UserWarning, match="1 images and 0 units"):
        found = from_xarray(part, recording.images[rows], ids[rows], missing="drop")
    kept = rows[rows != 20]
    assert list(found.labels["image_id"]) == list(ids[kept])
    np.testing.assert_array_equal(found.images, recording.images[kept])
    np.testing.assert_array_equal(found.trials, recording.trials[kept])
    with pytest.raises(ValueError, match="none of the ids"):
        from_xarray(part, recording.images[:2], ["a", "b"], missing="drop")


def test_assemblies_that_count_images_from_1_are_not_shifted():
    images = np.random.default_rng(0).random((4, 6, 6))
    made = to_xarray(
        Recording(
            images,
            np.random.default_rng(1).normal(size=(4, 2)),
            {"category": list("abab"), "image_id": [1, 2, 3, 4]},
        )
    )
    for missing in ("error", "drop"):
        with pytest.raises(ValueError, match="no presentation shows image 0"):
            from_xarray(made, images, np.arange(4), missing)
    with pytest.raises(ValueError, match="the id 1 stands for several images"):
        from_xarray(made, images, [1, 1, 2, 3])


def test_an_image_of_two_categories_is_refused():
    images = np.random.default_rng(0).random((3, 6, 6))
    trials = np.random.default_rng(1).normal(size=(3, 2, 4))
    assembly = to_xarray(
        Recording(
            images,
            trials.mean(1),
            {"category": list("aba"), "object": list("xyz"), "image_id": list("pqr")},
            trials=trials,
        )
    )
    for column in ("category", "object"):
        values = assembly[f"{column}_name"].to_numpy().astype(object)
        values[3] = "other"
        with pytest.raises(ValueError, match=f"presentations of image q differ in {column}"):
            from_xarray(assembly.assign_coords({f"{column}_name": ("presentation", values)}), images)


def test_columns_of_one_name_in_labels_and_sites_survive_xarray():
    images = np.random.default_rng(0).random((3, 6, 6))
    make = lambda **columns: Recording(
        images,
        np.eye(3),
        {"category": list("aba"), "session": [1, 2, 3]} | columns,
        pd.DataFrame({"session": [7, 8, 9]}),
    )
    back = from_xarray(to_xarray(make()), images)
    assert list(back.labels["session"]) == [1, 2, 3] and list(back.sites["site_session"]) == [7, 8, 9]
    with pytest.raises(
        ValueError, match="labels, by their names in Brain-Score, have several columns 'category_name'"
    ):
        to_xarray(make(category_name=0))
    with pytest.raises(ValueError, match="'category_name' and 'category' mean the same, but differ"):
        from_xarray(to_xarray(make()).assign_coords(category=("presentation", list("xyz"))), images)
