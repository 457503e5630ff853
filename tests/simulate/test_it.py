"""Simulated IT: tuning, noise and truth against what they claim."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from migvis.data import Recording
from migvis.simulate.images import sample_labels
from migvis.simulate.it import (
    _FACTORS,
    SUBJECTS,
    _firing_rates,
    _make_tuning,
    _reference,
    _respond,
    _spike_trials,
    _standard_features,
    _ground_truth,
    object_features,
    simulate_hvm,
)
from migvis.simulate.objects import object_names

POSE = ["rxy", "rxz", "ryz", "ty", "tz", "s"]


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIGVIS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def recording(own_cache):
    return simulate_hvm(256, 16, seed=3, trials=True, progress=False)


def test_object_features_are_standardised_within_categories():
    table = object_features()
    category = object_names()["category"].to_numpy()
    assert np.allclose(table.groupby(category).mean(), 0, atol=1e-9)
    assert np.allclose(table.groupby(category).std(ddof=0), 1)


@pytest.mark.parametrize("subject, units", [("M1", 58), ("M2", 110)])
def test_drives_have_the_shares_they_claim(subject, units):
    tuning, features = _make_tuning(SUBJECTS[subject]), _standard_features(_reference())
    assert tuning.shares.shape == (units, len(_FACTORS)) and np.allclose(tuning.shares.sum(1), 1)
    for f, factor in enumerate(_FACTORS):
        assert np.allclose((features[factor] @ tuning.weights[factor].T).var(0), tuning.shares[:, f])
    drive = sum(features[factor] @ tuning.weights[factor].T for factor in _FACTORS)
    assert np.allclose(drive.var(0), 1, atol=0.25)  # factors are nearly uncorrelated


def test_rates_are_positive_with_the_mean_they_claim():
    rates = _firing_rates(_reference(), SUBJECTS["M1"])
    assert rates.min() >= 0
    assert np.allclose(rates.mean(0), _make_tuning(SUBJECTS["M1"]).mean_rate)


def test_counts_are_poisson():
    rates = np.tile([[2.0, 10.0, 40.0]], (4000, 1))
    average, trials, _ = _spike_trials(rates, repeats=20, keep=True, seed=1)
    assert np.allclose(trials * 0.1, np.round(trials * 0.1), atol=1e-4)
    assert np.allclose(trials.mean(1), average, atol=1e-3)
    assert np.allclose(average.mean(0), rates[0], rtol=0.02)
    assert np.allclose(average.var(0), rates[0] / (20 * 0.1), rtol=0.1)


def test_shared_gain_makes_noise_correlations_and_keeps_the_mean():
    rates = np.full((2000, 6), 20.0)
    correlation = {}
    for gain in (0.0, 0.4):
        average, trials, _ = _spike_trials(rates, repeats=10, shared_gain=gain, keep=True)
        residual = (trials - trials.mean(1, keepdims=True)).reshape(-1, 6)
        correlation[gain] = np.corrcoef(residual.T)[np.triu_indices(6, 1)].mean()
        assert average.mean() == pytest.approx(20, rel=0.02)
    # counts of mean m = 2 under a gain of variance v: correlation m v / (1 + m v)
    v = np.exp(0.4**2) - 1
    assert abs(correlation[0.0]) < 0.01 and correlation[0.4] == pytest.approx(2 * v / (1 + 2 * v), abs=0.03)


def test_drift_changes_units_from_session_to_session():
    average, _, session = _spike_trials(np.full((4000, 5), 20.0), session_drift=0.5)
    means = np.stack([average[session == k].mean(0) for k in range(4)])
    assert sorted(set(session)) == [0, 1, 2, 3] and means.std(0).min() > 1
    still, _, session = _spike_trials(np.full((4000, 5), 20.0), session_drift=0.0)
    assert np.stack([still[session == k].mean(0) for k in range(4)]).std(0).max() < 0.3


@pytest.mark.parametrize("subject", ["M1", "M2"])
def test_truth_is_consistent(subject):
    truth = _ground_truth(SUBJECTS[subject])
    assert truth["factors"].tolist() == list(_FACTORS)
    assert 0.7 < truth["fraction"].sum(1).mean() < 1.02 and truth["fraction"].min() >= 0
    for factor in _FACTORS:
        basis = truth[f"basis_{factor}"]
        assert np.allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-8), factor
    assert [truth[f"basis_{factor}"].shape[1] for factor in ("category", "position", "size")] == [7, 2, 1]


def test_subspaces_carry_their_factor_and_others_do_not():
    labels = sample_labels(3000, seed=9)
    x, _, truth = _respond(labels, "M2", seed=9)
    x = (x - x.mean(0)) / x.std(0)

    def score(factor, name):
        z, target = x @ truth[f"basis_{factor}"], labels[name].to_numpy()
        return Ridge(1.0).fit(z[:2000], target[:2000]).score(z[2000:], target[2000:])

    for factor, name in {"rotation": "rxz", "position": "tz", "size": "s"}.items():
        others = {"rotation", "category", "albedo", "position", "size"} - {factor}
        assert score(factor, name) > 0.35
        assert score(factor, name) > max(score(other, name) for other in others) + 0.2, factor


def test_pose_is_decodable_in_a_category_never_trained_on():
    labels = sample_labels(5760)
    x = _respond(labels, "M1")[0]
    x, new = (x - x.mean(0)) / x.std(0), (labels["category"] == "Cars").to_numpy()
    readout = Ridge(10.0).fit(x[~new], labels.loc[~new, POSE[:3]])
    assert readout.score(x[new], labels.loc[new, POSE[:3]]) > 0.4


def test_recording_is_complete(recording):
    assert recording.simulated
    assert recording.images.shape == (256, 1, 16, 16) and recording.responses.shape == (256, 58)
    assert 0 <= recording.images.min() and 0.8 < recording.images.max() <= 1
    assert recording.trials.shape == (256, 40, 58)
    assert np.allclose(recording.trials.mean(1), recording.responses, atol=1e-3)
    assert recording.truth["rates"].shape == (256, 58)
    assert np.corrcoef(recording.truth["rates"].ravel(), recording.responses.ravel())[0, 1] > 0.9
    ceiling = recording.noise_ceiling()
    assert 0.75 < np.median(ceiling) < 0.97


def test_recording_depends_on_its_arguments_alone(recording):
    again = simulate_hvm(256, 16, seed=3, progress=False)
    assert np.array_equal(again.images, recording.images)
    assert np.array_equal(again.responses, recording.responses)
    assert again.labels.equals(recording.labels)


def test_subjects_see_the_same_images_with_other_units(recording):
    other = simulate_hvm(256, 16, subject="M2", seed=3, progress=False)
    assert np.array_equal(other.images, recording.images) and other.responses.shape == (256, 110)


def test_the_seed_changes_images_and_noise_but_not_units(recording):
    other = simulate_hvm(256, 16, seed=4, progress=False)
    assert not np.array_equal(other.images, recording.images)
    assert np.array_equal(other.truth["weights_rotation"], recording.truth["weights_rotation"])
    same_images = _respond(recording.labels, "M1", seed=4)[0]
    assert not np.array_equal(same_images, recording.responses)


def test_a_population_of_ones_own(recording):
    population = replace(SUBJECTS["M1"], n_units=7, seed=5, mean_rate=50.0)
    mine = simulate_hvm(64, 16, subject=population, progress=False)
    assert mine.responses.shape == (64, 7) and mine.responses.mean() > 2 * recording.responses.mean()


def test_recording_survives_saving_and_selecting(recording, tmp_path):
    loaded = Recording.load(recording.save(tmp_path / "recording.npz"))
    assert loaded.simulated and set(loaded.truth) == set(recording.truth)
    assert np.array_equal(loaded.truth["rates"], recording.truth["rates"])
    few = recording.select(images=np.arange(10), sites=[0, 5])
    assert few.truth["rates"].shape == (10, 2) and few.truth["drive_fraction"].shape == (2, len(_FACTORS))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"subject": "M3"}, "subject must be 'M1' or 'M2'"),
        ({"repeats": 0}, "repeats >= 1"),
    ],
)
def test_bad_simulations_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate_hvm(**{"n_images": 4, "size": 16, "progress": False} | arguments)
