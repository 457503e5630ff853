"""Simulated V1 against closed forms."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from migvis.simulate.it import simulate_hvm
from migvis.simulate.v1 import (
    V1Population,
    _calcium_trials,
    _cell_drive,
    _draw_cells,
    _event_rates,
    _gabor_pairs,
    _respond_v1,
    simulate_v1,
)

SMALL = V1Population(n_units=60, seed=5, driven_share=0.5)


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIGVIS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def recording(own_cache):
    return simulate_v1(48, 32, SMALL, seed=3, progress=False)


def cell(**kw):
    return pd.DataFrame(
        [{"frequency": 4.0, "orientation": 0.3, "phase": 0.7, "x": 0.5, "y": 0.45, "complex": False} | kw]
    )


def grating(size, frequency, orientation, phase, x=0.5, y=0.5, contrast=1.0):
    place = (np.arange(size) + 0.5) / size
    along = (place[None] - x) * np.cos(orientation) + (place[:, None] - y) * np.sin(orientation)
    return (0.5 + 0.5 * contrast * np.cos(2 * np.pi * frequency * along + phase))[None, None]


# ---------------------------------------------------------------- cells


@pytest.mark.parametrize("bandwidth", [1.0, 1.5])
def test_gabors_equal_a_pixel_by_pixel_evaluation(bandwidth):
    one, size = cell(x=0.6), 24
    f, theta, phi, x, y = one.loc[0, ["frequency", "orientation", "phase", "x", "y"]]
    sigma = np.sqrt(np.log(2) / 2) / (np.pi * f) * (2**bandwidth + 1) / (2**bandwidth - 1)
    slow = np.zeros((2, size, size))
    for row in range(size):
        for column in range(size):
            dx, dy = (column + 0.5) / size - x, (row + 0.5) / size - y
            window = np.exp(-(dx**2 + dy**2) / (2 * sigma**2)) / (2 * np.pi * sigma**2 * size**2)
            angle = 2 * np.pi * f * (dx * np.cos(theta) + dy * np.sin(theta)) + phi
            dc = np.exp(-2 * (np.pi * sigma * f) ** 2)
            slow[:, row, column] = (
                4 * window * (np.cos(angle) - dc * np.cos(phi)),
                4 * window * (np.sin(angle) - dc * np.sin(phi)),
            )
    assert np.allclose(_gabor_pairs(one, size, bandwidth)[0], slow, atol=1e-6)


def test_a_cell_answers_one_to_its_grating_and_nothing_to_grey_or_across():
    one = cell()
    own = grating(64, 4.0, 0.3, 0.7, 0.5, 0.45)
    assert _cell_drive(own, one)[0, 0] == pytest.approx(1, abs=0.02)
    assert _cell_drive(np.full((1, 1, 64, 64), 0.9), one)[0, 0] == pytest.approx(0, abs=0.02)
    assert _cell_drive(grating(64, 4.0, 0.3 + np.pi / 2, 0.7), one.assign(complex=True))[0, 0] < 0.02
    assert _cell_drive(grating(64, 4.0, 0.3, 0.7, 0.5, 0.45, contrast=0.3), one)[0, 0] == pytest.approx(
        0.3, abs=0.02
    )


def test_complex_cells_ignore_phase_and_simple_cells_do_not():
    phases = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    images = np.concatenate([grating(48, 4.0, 0.3, p) for p in phases])
    simple, energy = _cell_drive(images, pd.concat([cell(), cell(complex=True)])).T
    assert np.ptp(energy) < 0.02 and simple.min() == 0 and np.ptp(simple) > 0.9
    half_wave = np.maximum(np.cos(phases - phases[simple.argmax()]), 0)
    assert np.corrcoef(simple, half_wave)[0, 1] > 0.97


def test_populations_are_reproducible_and_keep_their_limits():
    p = V1Population(n_units=3000, frequency=7.0, complex_share=0.25, driven_share=0.8)
    cells = _draw_cells(p)
    pd.testing.assert_frame_equal(cells, _draw_cells(p))
    assert cells.frequency.between(*p.limits).all() and cells.complex.mean() == pytest.approx(
        0.25, abs=0.03
    )
    assert (
        cells.driven.mean() == pytest.approx(0.8, abs=0.03)
        and np.hypot(cells.x - 0.5, cells.y - 0.5).max() <= p.field
    )
    assert not cells.equals(_draw_cells(replace(p, seed=1)))
    octaves = np.log2(_draw_cells(V1Population(n_units=4000)).frequency / 3)
    assert octaves.median() == pytest.approx(0, abs=0.05) and octaves.std() == pytest.approx(0.6, abs=0.05)


def test_rates_follow_the_contrast_response():
    p = replace(SMALL, driven_share=1.0)
    images = np.random.default_rng(0).uniform(size=(5, 1, 32, 32)).astype(np.float32)
    cells, drive = _draw_cells(p), _cell_drive(images, _draw_cells(p))
    expected = cells.max_rate.to_numpy() * drive**2 / (p.half_contrast**2 + drive**2)
    assert np.allclose(_event_rates(images, p), expected, rtol=1e-4)
    idle = _event_rates(images, replace(p, driven_share=0.0))
    assert np.allclose(idle, p.idle * cells.max_rate.to_numpy()) and np.ptp(idle, axis=0).max() == 0


# ---------------------------------------------------------------- noise


def test_moments_of_events():
    p = V1Population(n_units=2, shared_gain=0.0, amplitude_shape=4.0)
    x = _calcium_trials(np.full((20_000, 2), [0.5, 3.0], np.float32), 1, p)[:, 0]
    assert np.allclose(x.mean(0), [0.5, 3.0], rtol=0.03)
    assert np.allclose(
        x.var(0), np.array([0.5, 3.0]) * (1 + 1 / 4), rtol=0.06
    )  # compound Poisson: rate * E[size^2]
    assert np.allclose((x == 0).mean(0), np.exp([-0.5, -3.0]), atol=0.012)
    assert abs(np.corrcoef(x.T)[0, 1]) < 0.03


def test_shared_gain_correlates_cells_and_keeps_the_mean():
    p = V1Population(n_units=30, shared_gain=0.5)
    x = _calcium_trials(np.full((4000, 30), 4.0, np.float32), 1, p)[:, 0]
    assert x.mean() == pytest.approx(4.0, rel=0.05)
    pairs = np.corrcoef(x.T)[np.triu_indices(30, 1)]
    assert pairs.min() > 0.1 and pairs.mean() > 0.25


# ---------------------------------------------------------------- recordings


def test_recording_has_its_parts_and_the_images_of_simulate_hvm(recording):
    assert (
        recording.simulated
        and recording.trials.shape == (48, 2, 60)
        and recording.images.shape == (48, 1, 32, 32)
    )
    assert np.allclose(recording.responses, recording.trials.mean(1), atol=1e-6)
    assert set(recording.truth) >= {
        "frequency",
        "orientation",
        "phase",
        "x",
        "y",
        "complex",
        "driven",
        "max_rate",
        "rates",
    }
    it = simulate_hvm(48, 32, seed=3, background="natural", progress=False)
    assert np.array_equal(it.images, recording.images) and it.labels.equals(recording.labels)
    other = simulate_v1(48, 32, SMALL, seed=3, progress=False)
    assert np.array_equal(other.trials, recording.trials)
    assert not np.array_equal(_respond_v1(recording.images, SMALL, seed=4)[1], recording.trials)
    part = recording.select(images=[3, 5, 7], sites=range(10))
    assert np.allclose(part.truth["rates"], recording.truth["rates"][[3, 5, 7], :10])


def test_repeats_average_out_to_the_rates(recording):
    p = replace(SMALL, rate=2.0)
    average, trials, truth = _respond_v1(recording.images, p, repeats=300)
    error = average - truth["rates"]
    expected = np.sqrt(truth["rates"] * 1.5 / 300 + (0.25 * 1.5 * truth["rates"]) ** 2 / 300)
    assert (np.abs(error) < 5 * expected + 0.02).mean() > 0.99


@pytest.mark.parametrize(
    "change, word",
    [
        ({"n_units": 0}, "n_units"),
        ({"frequency": 20.0}, "limits"),
        ({"driven_share": 1.2}, "driven_share"),
        ({"rate": -1.0}, "rate"),
        ({"half_contrast": 0.0}, "half_contrast"),
    ],
)
def test_bad_populations(change, word):
    with pytest.raises(ValueError, match=word):
        replace(SMALL, **change)


def test_bad_images_and_repeats(recording):
    with pytest.raises(ValueError, match="pixels"):
        _event_rates(np.zeros((2, 1, 16, 16)), V1Population(n_units=500))
    with pytest.raises(ValueError, match="square"):
        _event_rates(np.zeros((2, 1, 32, 40)), SMALL)
    with pytest.raises(ValueError, match="repeats"):
        _respond_v1(recording.images, SMALL, repeats=0)
