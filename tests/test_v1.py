"""Simulated V1 against closed forms, and the loader of the public V1 recording on files of its layout, whole and broken."""
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

from migvis.data import Recording
from migvis.simulate import simulate_hvm
from migvis.v1 import (
    V1Population, calcium_trials, cell_drive, draw_cells, event_rates, gabor_pairs, load_stringer, respond_v1, shrink_images, simulate_v1,
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
    return pd.DataFrame([{"frequency": 4.0, "orientation": 0.3, "phase": 0.7, "x": 0.5, "y": 0.45, "complex": False} | kw])


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
            slow[:, row, column] = 4 * window * (np.cos(angle) - dc * np.cos(phi)), 4 * window * (np.sin(angle) - dc * np.sin(phi))
    assert np.allclose(gabor_pairs(one, size, bandwidth)[0], slow, atol=1e-6)


def test_a_cell_answers_one_to_its_grating_and_nothing_to_grey_or_across():
    one = cell()
    own = grating(64, 4.0, 0.3, 0.7, 0.5, 0.45)
    assert cell_drive(own, one)[0, 0] == pytest.approx(1, abs=0.02)
    assert cell_drive(np.full((1, 1, 64, 64), 0.9), one)[0, 0] == pytest.approx(0, abs=0.02)
    assert cell_drive(grating(64, 4.0, 0.3 + np.pi / 2, 0.7), one.assign(complex=True))[0, 0] < 0.02
    assert cell_drive(grating(64, 4.0, 0.3, 0.7, 0.5, 0.45, contrast=0.3), one)[0, 0] == pytest.approx(0.3, abs=0.02)


def test_complex_cells_ignore_phase_and_simple_cells_do_not():
    phases = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    images = np.concatenate([grating(48, 4.0, 0.3, p) for p in phases])
    simple, energy = cell_drive(images, pd.concat([cell(), cell(complex=True)])).T
    assert np.ptp(energy) < 0.02 and simple.min() == 0 and np.ptp(simple) > 0.9
    half_wave = np.maximum(np.cos(phases - phases[simple.argmax()]), 0)
    assert np.corrcoef(simple, half_wave)[0, 1] > 0.97


def test_populations_are_reproducible_and_keep_their_limits():
    p = V1Population(n_units=3000, frequency=7.0, complex_share=0.25, driven_share=0.8)
    cells = draw_cells(p)
    pd.testing.assert_frame_equal(cells, draw_cells(p))
    assert cells.frequency.between(*p.limits).all() and cells.complex.mean() == pytest.approx(0.25, abs=0.03)
    assert cells.driven.mean() == pytest.approx(0.8, abs=0.03) and np.hypot(cells.x - 0.5, cells.y - 0.5).max() <= p.field
    assert not cells.equals(draw_cells(replace(p, seed=1)))
    octaves = np.log2(draw_cells(V1Population(n_units=4000)).frequency / 3)
    assert octaves.median() == pytest.approx(0, abs=0.05) and octaves.std() == pytest.approx(0.6, abs=0.05)


def test_rates_follow_the_contrast_response():
    p = replace(SMALL, driven_share=1.0)
    images = np.random.default_rng(0).uniform(size=(5, 1, 32, 32)).astype(np.float32)
    cells, drive = draw_cells(p), cell_drive(images, draw_cells(p))
    expected = cells.max_rate.to_numpy() * drive**2 / (p.half_contrast**2 + drive**2)
    assert np.allclose(event_rates(images, p), expected, rtol=1e-4)
    idle = event_rates(images, replace(p, driven_share=0.0))
    assert np.allclose(idle, p.idle * cells.max_rate.to_numpy()) and np.ptp(idle, axis=0).max() == 0


# ---------------------------------------------------------------- noise

def test_moments_of_events():
    p = V1Population(n_units=2, shared_gain=0.0, amplitude_shape=4.0)
    x = calcium_trials(np.full((20_000, 2), [0.5, 3.0], np.float32), 1, p)[:, 0]
    assert np.allclose(x.mean(0), [0.5, 3.0], rtol=0.03)
    assert np.allclose(x.var(0), np.array([0.5, 3.0]) * (1 + 1 / 4), rtol=0.06)   # compound Poisson: rate * E[size^2]
    assert np.allclose((x == 0).mean(0), np.exp([-0.5, -3.0]), atol=0.012)
    assert abs(np.corrcoef(x.T)[0, 1]) < 0.03


def test_shared_gain_correlates_cells_and_keeps_the_mean():
    p = V1Population(n_units=30, shared_gain=0.5)
    x = calcium_trials(np.full((4000, 30), 4.0, np.float32), 1, p)[:, 0]
    assert x.mean() == pytest.approx(4.0, rel=0.05)
    pairs = np.corrcoef(x.T)[np.triu_indices(30, 1)]
    assert pairs.min() > 0.1 and pairs.mean() > 0.25


# ---------------------------------------------------------------- recordings

def test_recording_has_its_parts_and_the_images_of_simulate_hvm(recording):
    assert recording.simulated and recording.trials.shape == (48, 2, 60) and recording.images.shape == (48, 1, 32, 32)
    assert np.allclose(recording.responses, recording.trials.mean(1), atol=1e-6)
    assert set(recording.truth) >= {"frequency", "orientation", "phase", "x", "y", "complex", "driven", "max_rate", "rates"}
    it = simulate_hvm(48, 32, seed=3, background="natural", progress=False)
    assert np.array_equal(it.images, recording.images) and it.labels.equals(recording.labels)
    other = simulate_v1(48, 32, SMALL, seed=3, progress=False)
    assert np.array_equal(other.trials, recording.trials)
    assert not np.array_equal(respond_v1(recording.images, SMALL, seed=4)[1], recording.trials)
    part = recording.select(images=[3, 5, 7], sites=range(10))
    assert np.allclose(part.truth["rates"], recording.truth["rates"][[3, 5, 7], :10])


def test_repeats_average_out_to_the_rates(recording):
    p = replace(SMALL, rate=2.0)
    average, trials, truth = respond_v1(recording.images, p, repeats=300)
    error = average - truth["rates"]
    expected = np.sqrt(truth["rates"] * 1.5 / 300 + (0.25 * 1.5 * truth["rates"]) ** 2 / 300)
    assert (np.abs(error) < 5 * expected + 0.02).mean() > 0.99


@pytest.mark.parametrize("change, word", [
    ({"n_units": 0}, "n_units"), ({"frequency": 20.0}, "limits"), ({"driven_share": 1.2}, "driven_share"), ({"rate": -1.0}, "rate"),
    ({"half_contrast": 0.0}, "half_contrast"),
])
def test_bad_populations(change, word):
    with pytest.raises(ValueError, match=word): replace(SMALL, **change)


def test_bad_images_and_repeats(recording):
    with pytest.raises(ValueError, match="pixels"): event_rates(np.zeros((2, 1, 16, 16)), V1Population(n_units=500))
    with pytest.raises(ValueError, match="square"): event_rates(np.zeros((2, 1, 32, 40)), SMALL)
    with pytest.raises(ValueError, match="repeats"): respond_v1(recording.images, SMALL, repeats=0)


# ---------------------------------------------------------------- the public recording

IMAGES, CELLS = 12, 7


def write_stringer(folder, change_stim=None, images=None, med=True, order=0):
    rng = np.random.default_rng(1)
    pictures = rng.integers(0, 256, (68, 270, IMAGES), dtype=np.uint8) if images is None else images
    istim = np.random.default_rng(order).permutation(np.r_[np.tile(np.arange(1, IMAGES + 1), 2), [IMAGES + 1] * 4])
    stim = {"resp": rng.normal(size=(len(istim), CELLS)).astype(np.float32), "istim": istim[:, None].astype(float), "spont": rng.normal(size=(9, CELLS))}
    if change_stim: stim = change_stim(stim)
    place = rng.uniform(0, 900, (CELLS, 3))
    savemat(folder / "natimg2800_M1_MP1_2017-01-01.mat", {"stim": stim} | ({"med": place} if med else {}))
    savemat(folder / "images_natimg2800_all.mat", {"imgs": pictures})
    return folder / "natimg2800_M1_MP1_2017-01-01.mat", folder / "images_natimg2800_all.mat", stim, pictures, place


def test_load_stringer(tmp_path):
    responses, pictures, stim, raw, place = write_stringer(tmp_path)
    rec = load_stringer(responses, pictures)
    assert isinstance(rec, Recording) and not rec.simulated and rec.name == "Stringer2019 V1 M1_MP1_2017-01-01"
    assert rec.images.shape == (IMAGES, 1, 34, 90) and rec.trials.shape == (IMAGES, 2, CELLS)
    assert np.allclose(rec.sites[["x", "y", "z"]], place) and rec.labels.image_id.tolist() == list(range(IMAGES))
    istim = stim["istim"].ravel()
    for image in range(IMAGES):
        both = stim["resp"][istim == image + 1]
        assert np.allclose(rec.trials[image], both) and np.allclose(rec.responses[image], both.mean(0), atol=1e-6)
    block = raw[2:4, 4:6, 5].astype(float).mean() / 255
    assert rec.images[5, 0, 1, 2] == pytest.approx(block, abs=1e-6)


def test_load_stringer_options(tmp_path):
    paths = write_stringer(tmp_path, med=False)[:2]
    rec = load_stringer(*paths, columns=(90, 180), shrink=1)
    assert rec.images.shape[2:] == (68, 90) and "x" not in rec.sites
    floats = np.random.default_rng(0).uniform(0, 255, (68, 270, IMAGES))
    paths = write_stringer(tmp_path, images=floats)[:2]
    assert load_stringer(*paths, shrink=1).images.max() <= 1


def test_images_shown_once_or_never(tmp_path):
    def fewer(stim):
        keep = (stim["istim"].ravel() != 3) & ~((stim["istim"].ravel() == 5) & (np.arange(len(stim["istim"])) > np.flatnonzero(stim["istim"].ravel() == 5)[0]))
        return {"resp": stim["resp"][keep], "istim": stim["istim"][keep], "spont": stim["spont"]}
    rec = load_stringer(*write_stringer(tmp_path, fewer)[:2])
    assert len(rec) == IMAGES - 1 and 2 not in rec.labels.image_id.tolist()
    assert np.isnan(rec.trials[rec.labels.image_id.tolist().index(4), 1]).all()


def without(name): return lambda stim: {k: v for k, v in stim.items() if k != name}


@pytest.mark.parametrize("change, word", [
    (without("resp"), "resp"), (without("istim"), "istim"),
    (lambda s: s | {"resp": s["resp"][:-1]}, "stim.resp"),
    (lambda s: s | {"istim": s["istim"] + 5}, "whole numbers from 1 to 13"),
    (lambda s: s | {"istim": s["istim"] + 0.5}, "whole numbers"),
    (lambda s: s | {"istim": np.full_like(s["istim"], IMAGES + 1)}, "0 images"),
    (lambda s: s["resp"], "structure"),
    (lambda s: s | {"resp": np.where(np.arange(CELLS) == 2, np.nan, s["resp"])}, "no data at all"),
])
def test_broken_sessions(tmp_path, change, word):
    paths = write_stringer(tmp_path, change)[:2]
    with pytest.raises(ValueError, match=word): load_stringer(*paths)


def test_missing_cells_can_be_dropped(tmp_path):
    paths = write_stringer(tmp_path, lambda s: s | {"resp": np.where(np.arange(CELLS) == 2, np.nan, s["resp"])})[:2]
    with pytest.warns(UserWarning, match="left out"): rec = load_stringer(*paths, missing="drop")
    assert rec.responses.shape == (IMAGES, CELLS - 1)


def test_broken_files(tmp_path):
    responses, pictures, *_ = write_stringer(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"): load_stringer(tmp_path / "nowhere.mat", pictures)
    with pytest.raises(ValueError, match="imgs"): load_stringer(responses, responses)
    with pytest.raises(ValueError, match="stim"): load_stringer(pictures, pictures)
    with pytest.raises(ValueError, match="columns"): load_stringer(responses, pictures, columns=(0, 300))
    with pytest.raises(ValueError, match="shrink"): load_stringer(responses, pictures, shrink=0)
    for damage in (lambda b: b[: len(b) // 2], lambda b: b"not a matlab file at all" * 20, lambda b: b""):
        broken = tmp_path / "broken.mat"
        broken.write_bytes(damage(responses.read_bytes()))
        with pytest.raises(ValueError, match="broken.mat"): load_stringer(broken, pictures)
    newer = tmp_path / "newer.mat"
    newer.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x00" * 64)
    with pytest.raises(ValueError, match="7.3"): load_stringer(newer, pictures)


def test_shrinking_averages_blocks():
    images = np.arange(2 * 5 * 6, dtype=np.float64).reshape(2, 5, 6) / 60
    small = shrink_images(images, 2)
    assert small.shape == (2, 1, 2, 3) and small[1, 0, 0, 2] == pytest.approx(images[1, :2, 4:].mean())
