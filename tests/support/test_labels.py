"Labels: declarations, codes, scores, which group a person means, files."
import numpy as np
import pandas as pd
import pytest
import torch

from migvis.support.labels import (POSE_AND_CATEGORY, Categorical, Continuous, _check_supervision,
                                   _find_group, _group_names, _label_codes, _read_codes, _write_codes)


@pytest.fixture
def labels() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    angles = rng.uniform(-90, 90, (50, 3))
    return pd.DataFrame({"category": rng.choice(list("abcd"), 50), "rxy": angles[:, 0], "rxz": angles[:, 1],
                         "ryz": angles[:, 2], "size_deg": rng.uniform(1, 8, 50)})


@pytest.fixture
def codes(labels):
    return _label_codes(labels, (*POSE_AND_CATEGORY, Continuous(4, "size_deg")), n_groups=4)


@pytest.mark.parametrize("period, width", [(None, 3), (360, 6), (180, 6)])
def test_continuous_codes_standardise_and_come_back(labels, period, width):
    code = Continuous(1, ("rxy", "rxz", "ryz"), period=period).code(labels)
    target = code.encode(labels)
    assert code.width == width and target.shape == (50, width)
    assert torch.allclose(target.mean(0), torch.zeros(width), atol=1e-4)
    values = labels[["rxy", "rxz", "ryz"]].to_numpy()
    assert np.allclose(code.decode(target), values if period is None else values % period, atol=1e-3)
    assert code.score(labels, code.decode(target))["r2"] == pytest.approx(1, abs=1e-5)
    labels.loc[3, "rxy"] = np.nan
    assert torch.isfinite(code.log_likelihood(torch.zeros(50, width), code.encode(labels))).all()


@pytest.mark.parametrize("period, near", [(360, (359.9, 0.1)), (180, (179.9, 0.1)), (24, (23.99, 0.01))])
def test_a_circle_has_no_jump(period, near):
    code = Continuous(1, "x",
                      period=period).code(pd.DataFrame({"x": np.linspace(0, period, 8, endpoint=False)}))
    first, second = code.encode(pd.DataFrame({"x": near}))
    assert (first - second).abs().max() < 0.02
    quarter = code.encode(pd.DataFrame({"x": [period / 4]}))[0]
    assert np.allclose(quarter, [2**0.5, 0], atol=1e-5)   # sine 1, cosine 0, scaled to unit variance


def test_scores_against_their_definitions():
    labels = pd.DataFrame({"a": [1.0, 2.0, np.nan, 4.0], "b": 5.0, "kind": ["x", None, "y", "y"]})
    numbers = np.array([[1.5, 5], [2, 5], [9, 9], [3, 5]])
    both = Continuous(1, ("a", "b")).code(labels)
    expected = 1 - (0.25 + 0 + 1) / ((np.array([1, 2, 4]) - 7 / 3) ** 2).sum()
    assert both.score(labels, numbers)["r2"] == pytest.approx(expected)   # b does not vary and is left out
    assert both.score(labels.assign(a=np.nan), numbers) == {"r2": None}
    kind = Categorical(1, "kind").code(labels)
    assert kind.score(labels, np.array(list("xxxy"))) == {"correct": pytest.approx(2 / 3)}
    assert kind.score(labels.assign(kind=None), np.array(list("xxxx"))) == {"correct": None}


def test_the_circular_score_is_1_minus_the_ratio_of_mean_distances():
    labels, predicted = pd.DataFrame({"x": [0.0, 45.0, 90.0, 170.0]}), np.array([[178.0], [40.0],
                                                                                 [100.0], [5.0]])
    turn = np.exp(2j * np.pi * labels["x"].to_numpy() / 180)
    error = 1 - np.cos(2 * np.pi * (labels["x"].to_numpy() - predicted[:, 0]) / 180)
    expected = 1 - error.mean() / (1 - abs(turn.mean()))
    assert Continuous(1, "x", period=180).code(labels).score(labels,
                                                             predicted)["r2"] == pytest.approx(expected)


def test_categories_unknown_to_training_count_nothing():
    code = Categorical(1).code(pd.DataFrame({"category": ["a", "b", "c", "a"]}))
    target = code.encode(pd.DataFrame({"category": ["b", "z", None]}))
    assert target.tolist() == [1, -1, -1]
    output = torch.randn(3, 3)
    score = code.log_likelihood(output, target)
    assert score[1:].tolist() == [0, 0] and torch.allclose(score[0], output[0].log_softmax(-1)[1])


def test_one_name_is_one_column_and_one_label_is_a_supervision(labels):
    assert Continuous(1, "orientation").columns == ("orientation",) and Continuous(
        1, ["a", "b"]).columns == ("a", "b")
    assert [code.name for code in _label_codes(labels, Continuous(1, "rxy"), 3)] == ["rxy"]
    assert [code.name for code in _label_codes(labels, Categorical(2), 3)] == ["category"]


@pytest.mark.parametrize("make, error, message", [
    (lambda: Continuous(0, "rxy"), ValueError, "numbered from 1"),
    (lambda: Categorical(1, weight=-1.0), ValueError, "weights are not negative"),
    (lambda: Continuous(1, ()), ValueError, "at least one label column"),
    (lambda: Continuous(1, "rxy", period=0), ValueError, "positive number"),
    (lambda: Categorical(1, ("category", "object")), TypeError, "name of one label column"),
])
def test_declarations_that_make_no_sense_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("supervision, message", [
    (Continuous(1, ("rxy", "rxzz")), "supervision names rxzz, but the labels are .*rxz"),
    ((Continuous(1), Categorical(2, "categry")), "supervision names categry"),
    (Categorical(4), "supervision names group 4, but there are 3"),
    ((Categorical(1), Categorical(2)), "same columns .category."),
    ((Continuous(1, ("rxy",)), Continuous(2, ("rxy",))), "same columns .rxy."),
])
def test_supervision_that_cannot_be_is_refused(labels, supervision, message):
    with pytest.raises(ValueError, match=message):
        _label_codes(labels, supervision, 3)


def test_of_the_default_labels_may_be_missing():
    labels = pd.DataFrame({"category": ["none"] * 8})
    assert _check_supervision(labels, POSE_AND_CATEGORY, 3) == POSE_AND_CATEGORY
    with pytest.warns(UserWarning,
                      match="no column rxy, rxz, ryz.*only 1 class.*unsupervised groups: 1, 2, 3"):
        assert _label_codes(labels, POSE_AND_CATEGORY, 3) == ()


@pytest.mark.parametrize("group, index", [
    (1, 0), (np.int64(4), 3), ("2", 1), ("group 3", 2), ("Group 1 (pose)", 0), ("pose", 0), ("rxz", 0),
    ("rxy+rxz+ryz", 0), ("Category", 1), ("size_deg", 3),
])
def test_a_group_is_found_by_number_name_or_label(codes, group, index):
    assert _find_group(group, codes, _group_names(codes, 4)) == index


@pytest.mark.parametrize("group", [0, 5, -1, "hue", "group 5", None])
def test_a_group_that_is_not_there_is_refused(codes, group):
    with pytest.raises(ValueError, match="from 1 to 4.*Group 3 .no labels."):
        _find_group(group, codes, _group_names(codes, 4))


def test_a_label_of_two_groups_names_neither(labels):
    codes = _label_codes(labels, (Continuous(1, ("rxy", "rxz")), Continuous(2, ("rxy", "ryz"))), 2)
    with pytest.raises(ValueError, match="several groups have the label 'rxy'"):
        _find_group("rxy", codes, _group_names(codes, 2))


def test_codes_are_written_and_read(codes):
    assert _read_codes(_write_codes(codes)) == codes
