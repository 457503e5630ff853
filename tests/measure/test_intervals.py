"Bootstrap in matrix form: against drawing rows one by one, and against theory."
import numpy as np
import pytest

from migvis.measure.edits import _bootstrap_counts, _interval, _weighted_median, _weighted_ratio


@pytest.fixture(scope="module")
def holes():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((13, 4)) + np.arange(4)
    values[rng.random((13, 4)) < 0.2] = np.nan
    values[:, 3] = np.nan
    return values, _bootstrap_counts(13, 50, seed=2)


def test_counts_are_resamples():
    counts = _bootstrap_counts(13, 500, seed=2)
    assert (counts[0] == 1).all() and (counts.sum(1) == 13).all() and np.array_equal(
        counts, _bootstrap_counts(13, 500, seed=2))
    assert counts[1:].mean() == pytest.approx(1) and counts[1:].var(0).mean() == pytest.approx(12 / 13,
                                                                                               rel=0.1)
    with pytest.raises(ValueError, match="at least one pair"): _bootstrap_counts(0)


def test_weighted_median_and_ratio_against_drawing_rows(holes):
    values, counts = holes
    top, median, ratio = values**2, _weighted_median(counts, values), _weighted_ratio(counts,
                                                                                      values**2, values)
    mean = _weighted_ratio(counts, values)
    for b, row in enumerate(counts.astype(int)):
        drawn, over = np.repeat(values, row, 0), np.repeat(top, row, 0)
        np.testing.assert_allclose(median[b, :3], np.nanmedian(drawn[:, :3], 0))
        np.testing.assert_allclose(ratio[b, :3], np.nansum(over[:, :3], 0) / np.nansum(drawn[:, :3], 0))
        np.testing.assert_allclose(mean[b, :3], np.nanmean(drawn[:, :3], 0))
    assert np.isnan(median[:, 3]).all() and np.isnan(ratio[:, 3]).all()


def test_interval_of_a_mean_is_that_of_theory():
    x = np.random.default_rng(1).standard_normal((400, 1))
    row = _interval(_weighted_ratio(_bootstrap_counts(400, 4000), x)).iloc[0]
    assert row["value"] == pytest.approx(x.mean())
    assert (row["high"] - row["low"]) / 2 == pytest.approx(1.96 * x.std() / 20, rel=0.06)
