"""Windows of time bins."""

import numpy as np
import pytest

from migvis.recordings.brainscore import read_assembly

xarray = pytest.importorskip("xarray")


def make(kind=np.float32, edges=(50, 70, 90, 130, 170, 190)):
    values = np.random.default_rng(0).integers(0, 99, (3, 4, len(edges) - 1)).astype(kind)
    coords = {
        "neuroid_id": ("neuroid", list("abc")),
        "stimulus_id": ("presentation", list("wxyz")),
        "time_bin_start": ("time_bin", list(edges[:-1])),
        "time_bin_end": ("time_bin", list(edges[1:])),
    }
    return xarray.DataArray(values, coords, ("neuroid", "presentation", "time_bin")), values


@pytest.mark.parametrize("kind", [np.float32, np.uint8])
def test_bins_of_a_window_are_averaged_by_their_length(kind):
    assembly, values = make(kind)
    expected = (20.0 * values[..., 1] + 40.0 * values[..., 2] + 40.0 * values[..., 3]) / 100
    np.testing.assert_allclose(read_assembly(assembly, (70, 170))[0], expected.T, rtol=1e-6)
    np.testing.assert_array_equal(read_assembly(assembly, (50, 70))[0], values[..., 0].T)


@pytest.mark.parametrize(
    "window, message",
    [
        ((60, 170), "no time bin starts at 60 and ends by 170; there are 50-70, 70-90"),
        ((70, 160), "no time bin starts at 130 and ends by 160"),
        ((170, 70), "from < to"),
        (None, "5 bins; choose some with window="),
    ],
)
def test_windows_that_cannot_be_filled(window, message):
    with pytest.raises(ValueError, match=message):
        read_assembly(make()[0], window)
