"""Single-unit decoding: against scikit-learn, against the simulation's truth, and what is refused."""
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import NearestCentroid

from migvis import Recording, simulate_hvm
from migvis.measure.readouts import Attribute
from migvis.measure.units import (unit_scores, _complete_attributes, _fold_numbers, _line_scores,
                                  _nearest_mean_scores, _shuffled)

rng = np.random.default_rng(0)


def test_line_scores_agree_with_scikit_learn():
    r, v, fold = rng.normal(size=(90, 3)), rng.normal(size=90), _fold_numbers(90, 5)
    v = v + r[:, 0]
    for unit, score in enumerate(_line_scores(r, v, fold)):
        wrong = total = 0.0
        for k in range(5):
            train, test = fold != k, fold == k
            model = LinearRegression().fit(r[train, unit:unit + 1], v[train])
            wrong += ((v[test] - model.predict(r[test, unit:unit + 1])) ** 2).sum()
            total += ((v[test] - v[train].mean()) ** 2).sum()
        assert score == pytest.approx(1 - wrong / total, abs=1e-6)


def test_nearest_mean_scores_agree_with_scikit_learn():
    r, classes, fold = rng.normal(size=(120, 2)), rng.integers(0, 4, 120), _fold_numbers(120, 4)
    r[:, 0] += classes
    balance = 1 / (4 * np.bincount(classes))
    for unit, score in enumerate(_nearest_mean_scores(r, classes, fold)):
        right = 0.0
        for k in range(4):
            train, test = fold != k, fold == k
            model = NearestCentroid().fit(r[train, unit:unit + 1], classes[train])
            right += balance[classes[test]] @ (model.predict(r[test, unit:unit + 1]) == classes[test])
        assert score == pytest.approx((right - 0.25) / 0.75, abs=1e-6)


def test_a_silent_unit_scores_chance_when_classes_are_unequal():
    classes = np.repeat([0, 1, 2], [30, 5, 5])
    assert _nearest_mean_scores(np.full((40, 1), 3.0), classes,
                                _fold_numbers(40))[0] == pytest.approx(0, abs=0.05)
    labels = {"category": np.repeat(["a", "b"], 20), "object": np.repeat([0, 1, 2, 3], [17, 3, 15, 5])}
    scores = unit_scores(Recording(rng.random((40, 4, 4)), np.zeros((40, 1)), labels), shuffles=3)
    assert scores["score"].abs().max() < 0.05 and not scores["selective"].any()


def test_presentations_of_one_image_do_not_vouch_for_each_other():
    image = np.repeat(np.arange(20), 10)
    values, responses = rng.normal(size=20)[image], rng.normal(size=(20, 30))[image]
    recording = Recording(rng.random((20, 4, 4))[image], responses, {"category": "a", "s": values})
    assert unit_scores(recording, "size", shuffles=20)["selective"].mean() < 0.25


def test_identity_gets_no_credit_for_category():
    category = np.repeat(np.arange(4), 100)
    identity = category * 2 + rng.integers(0, 2, 400)
    r = np.stack([category + 0.01 * rng.normal(size=400), identity % 2 + 0.01 * rng.normal(size=400)], 1)
    only_category, only_identity = _nearest_mean_scores(r, identity, _fold_numbers(400), within=category)
    assert abs(only_category) < 0.2 and only_identity > 0.95


def test_shuffling_within_groups_keeps_groups():
    within, values = np.repeat([0, 1], 50), np.arange(100)
    out = _shuffled(values, rng, within)
    assert sorted(out[:50]) == list(range(50)) and not np.array_equal(out, values)


def test_simulated_units_are_found_mixed_and_noise_is_not():
    recording = simulate_hvm(n_images=800, size=16, subject="M1", seed=1, progress=False)
    scores = unit_scores(recording, shuffles=20)
    selective = scores.groupby("unit")["selective"].sum()
    assert (selective >= 2).mean() > 0.8 and len(selective) == 58
    noise = recording.select(sites=range(40))
    noise = type(noise)(noise.images, rng.normal(size=(800, 40)), noise.labels, simulated=True)
    assert unit_scores(noise, shuffles=20)["selective"].mean() < 0.15


def test_stronger_drive_gives_higher_score():
    recording = simulate_hvm(n_images=1600, size=16, subject="M2", seed=1, progress=False)
    truth = recording.truth["fraction"][:, recording.truth["factors"].tolist().index("size")]
    scores = unit_scores(recording, "size", shuffles=2)["score"]
    assert np.corrcoef(truth, scores)[0, 1] > 0.7


def test_only_known_and_varying_columns_are_used():
    labels = pd.DataFrame({"category": [1, 2] * 5, "s": 1.0, "ty": range(10), "tz": range(10),
                           "object": [None] + ["a"] * 9})
    assert list(_complete_attributes(labels)) == ["category", "position"]
    with pytest.raises(ValueError, match="no attribute is known"): _complete_attributes(labels[["s"]])
    with pytest.raises(ValueError, match="folds must be"): _fold_numbers(3, 5)


def test_real_v4_tells_position_but_not_rotation(realdata):
    from migvis import load_recording
    scores = unit_scores(load_recording("cowley-v4", realdata / "hvm_v4_session210325.npz"), shuffles=20)
    selective = scores.groupby("attribute")["selective"].sum()
    assert selective["position"] >= 20 and selective["rotation"] <= 5


def test_names_that_occur_in_several_categories():
    rng = np.random.default_rng(0)
    category, number = np.repeat(np.arange(3), 40), np.tile(np.repeat(np.arange(4), 10), 3)
    responses = np.c_[number, 10 * category + number] + 0.1 * rng.standard_normal((120, 2))
    def scores(names):
        labels = pd.DataFrame({"category": [f"c{c}" for c in category], "object": names})
        found = unit_scores(Recording(np.zeros((120, 1, 8, 8), np.float32), responses, labels), shuffles=5)
        return found[found["attribute"] == "identity"]
    repeated, unique = scores([f"{n}" for n in number]), scores([f"{c}{n}" for c, n in zip(category, number)])
    assert np.allclose(repeated["score"],
                       unique["score"]) and (repeated["score"] > 0.9).all() and repeated["selective"].all()


def test_a_circular_variable_is_told_by_its_sine_and_cosine():
    ("A unit tuned to orientation responds alike at 0 and 180 degrees: as a number it is hard to read, as an "
     "angle it is not.")
    rng = np.random.default_rng(0)
    orientation = rng.uniform(0, 180, 300)
    response = np.cos(2 * np.radians(orientation)) + 0.1 * rng.standard_normal(300)
    recording = Recording(rng.random((300, 4, 4)), response[:, None],
                          {"category": "a", "orientation": orientation})
    angle = Attribute("orientation", ("orientation",), "angle", period=180)
    score = lambda attribute: unit_scores(recording, attribute, shuffles=5).loc[0]
    assert score(angle)["score"] > 0.4 > 0.1 > score("orientation")["score"] and score(angle)["selective"]
