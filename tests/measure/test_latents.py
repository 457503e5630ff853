"Scores of latents: closed forms, extreme codes, subspaces with known angles, tables, bad input."
import math
import warnings
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import entropy

from migvis.data import Recording, Standardizer
from migvis.measure.latents import (
    group_mig, group_probe_matrix, mig, paper_table, score_members, _bin_factor, _gap_factors,
    _gap_scores, _group_information, _group_slices, _histogram_information, _mean_sd,
    _probe_attribute, _probe_information, _r2_rmse)


@pytest.fixture(scope="module")
def codes():
    "Category (8) and pose (2) in separate groups of three, or both in both groups."
    rng = np.random.default_rng(0)
    n = 1200
    category, pose = rng.integers(0, 8, n), rng.uniform(-1, 1, (n, 2))
    noise = lambda scale, dims: scale * rng.standard_normal((n, dims))
    corners = np.array([[(c >> bit) & 1 for bit in range(3)] for c in range(8)]) * 2.0 - 1
    turned = np.array([[1, -1], [1, 1]]) / 2**0.5
    separate = np.c_[pose @ turned + noise(0.1, 2), noise(0.3, 1), corners[category] + noise(0.25, 3)]
    entangled = np.c_[category[:, None] / 3.5 - 1 + noise(0.2, 1), pose + noise(0.3, 2),
                      corners[category] + noise(0.4, 3) + 0.6 * pose @ rng.standard_normal((2, 3))]
    factors = pd.DataFrame({"category": category, "x": pose[:, 0], "y": pose[:, 1]})
    return separate, entangled, factors


# explained variance

def test_r2_and_rmse_by_hand():
    x = np.array([[1.0, 0.0], [-1.0, 2.0], [1.0, 4.0], [-1.0, 2.0]])
    guess = np.array([[0.5, 2.0], [-0.5, 2.0], [0.5, 2.0], [-0.5, 2.0]])
    scores = _r2_rmse(x, guess)
    assert scores["r2"] == 0.375 and scores["rmse"] == pytest.approx((0.5 + math.sqrt(2)) / 2)
    assert _r2_rmse(x, x) == {"r2": 1, "rmse": 0} and math.isnan(_r2_rmse(x * 0, x)["r2"])


# binning and information

def test_bins():
    assert _bin_factor(pd.Series(["b", "a", "b"])).tolist() == [1, 0, 1]
    assert _bin_factor(pd.Series([3, 3, 7])).tolist() == [0, 0, 1]
    counts = np.bincount(_bin_factor(pd.Series(np.random.default_rng(0).standard_normal(1000)), 10))
    assert counts.tolist() == [100] * 10
    assert _bin_factor(pd.Series(np.r_[np.zeros(500), np.linspace(1, 2, 500)]), 10).max() <= 9
    with pytest.raises(ValueError, match="missing"):
        _bin_factor(pd.Series([1.0, np.nan]))


def test_histogram_information_of_a_gaussian_pair():
    rng = np.random.default_rng(0)
    rho, n = 0.8, 60000
    z = rng.standard_normal(n)
    v = rho * z + math.sqrt(1 - rho**2) * rng.standard_normal(n)
    found = _histogram_information(np.c_[z, rng.standard_normal(n)], _bin_factor(pd.Series(v), 40), bins=40)
    assert found[0] == pytest.approx(-0.5 * math.log(1 - rho**2), abs=0.05)
    assert found[1] < 0.03


def test_probe_information_of_known_channels():
    rng = np.random.default_rng(0)
    bit = rng.integers(0, 2, 3000)
    clean = (2.0 * bit - 1)[:, None] + 0.05 * rng.standard_normal((3000, 1))
    assert _probe_information(clean, bit) == pytest.approx(math.log(2), abs=0.03)
    assert _probe_information(rng.standard_normal((3000, 2)), bit) < 0.01
    flipped = np.where(rng.random(3000) < 0.1, 1 - bit, bit)
    exact = math.log(2) + 0.1 * math.log(0.1) + 0.9 * math.log(0.9)
    assert _probe_information((2.0 * flipped - 1)[:, None], bit) == pytest.approx(exact, abs=0.04)


def test_information_about_rare_classes():
    ("Fewer folds where a class has fewer members than folds; a class of one is told, with the remedy, and "
     "is no number.")
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1, 2], [20, 20, 2])
    z = classes[:, None] + 0.05 * rng.standard_normal((42, 1))
    assert _probe_information(z, classes) > 0.5 * entropy(np.bincount(classes))
    with pytest.warns(UserWarning, match="single image.*more held-out images"):
        assert math.isnan(_probe_information(z[:-1], classes[:-1]))


def test_a_zero_of_an_overfitted_probe_comes_with_a_warning():
    "Half-known positions in groups of six, as at the edge of what a few hundred images allow."
    rng = np.random.default_rng(0)
    place = rng.standard_normal(384)
    z = np.c_[place + 1.2 * rng.standard_normal(384), rng.standard_normal((384, 11))]
    classes = _bin_factor(pd.Series(place), 8)
    with pytest.warns(UserWarning, match="overfits.*more images"):
        assert _probe_information(z[:, :6], classes) == 0
    with pytest.warns(UserWarning, match="overfits"):
        _group_information(z, (6, 6), pd.DataFrame({"place": place}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _probe_information(z[:, :1], classes) > 0.1


def test_the_quadratic_probe_sees_a_factor_in_the_spread():
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 2, 2000)
    z = rng.standard_normal((2000, 2)) * np.where(wide, 4.0, 0.4)[:, None]
    assert _probe_information(z, wide) > 0.5 * math.log(2)


# gaps

def test_gap():
    gaps = group_mig(pd.DataFrame({"a": [0.1, 0.7, 0.4], "b": [0.5, 0.5, 0.0]}))
    assert gaps.to_dict() == pytest.approx({"a": 0.3, "b": 0, "mean": 0.15})


def test_mig_by_group_ranks_separate_groups_above_entangled_ones_and_by_dimension_below(codes):
    separate, entangled, factors = codes
    by_group = [group_mig(_group_information(z, (3, 3), factors))["mean"] for z in (separate, entangled)]
    by_dimension = [mig(z, factors)["mean"] for z in (separate, entangled)]
    assert by_group[0] > by_group[1] + 0.3
    assert by_dimension[0] < by_dimension[1]


def test_mig_of_a_code_with_one_dimension_for_each_factor():
    rng = np.random.default_rng(0)
    category, x = rng.integers(0, 5, 3000), rng.uniform(-1, 1, 3000)
    factors = pd.DataFrame({"category": category, "x": x})
    assert mig(np.c_[category + 0.01 * rng.standard_normal(3000), x], factors, bins=40)["mean"] > 0.9
    assert mig(rng.standard_normal((3000, 4)), factors)["mean"] < 0.02


def test_group_information_is_a_fraction(codes):
    separate, _, factors = codes
    table = _group_information(separate, (3, 3), factors)
    assert table.shape == (2, 3) and (table >= 0).all(axis=None) and (table <= 1).all(axis=None)
    assert table.loc["group 2", "category"] > 0.95 and table.loc["group 1", "category"] < 0.05
    assert table.loc["group 1", "x"] > 0.5 and table.loc["group 2", "x"] < 0.05


# probes

def test_group_probe_matrix(codes):
    separate, _, factors = codes
    labels = pd.DataFrame({"category": factors.category.map("c{}".format), "rxy": factors.x,
                           "rxz": factors.y})
    labels["object"] = labels.category + np.where(np.arange(len(labels)) % 2, "p", "q")
    labels["s"] = 1.0
    table = group_probe_matrix(separate, (3, 3), labels, ("category", "rxy", "size", "identity"))
    assert table.index.tolist() == ["group 1", "group 2", "all"]
    assert table.category["group 2"] > 0.98 and table.category["group 1"] < 0.25
    assert table.rxy["group 1"] > 0.9 and table.rxy["group 2"] < 0.05
    assert np.isnan(table["size"]["all"])
    assert table.identity["all"] == pytest.approx(0.5, abs=0.08)
    near = group_probe_matrix(separate, (3, 3), labels, ("category",), kind="neighbours")
    assert near.category["group 2"] > 0.95


def test_probes_leave_out_rows_without_labels():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((300, 2))
    labels = pd.DataFrame({"ty": z[:, 0], "tz": z[:, 1]})
    labels.loc[:50, "ty"] = np.nan
    assert _probe_attribute(z, labels, "position") > 0.99


# members and tables

@dataclass
class Linear:
    "The least that a fitted ensemble must offer."
    members: pd.DataFrame
    groups: tuple
    standardizer: Standardizer
    codes: tuple = ()

    def latents(self, recording, member):
        return self.standardizer.transform(recording.responses) * (1 + member)

    def reconstruct(self, recording, member, groups=None):
        keep = np.repeat([groups is None or g in groups for g in range(len(self.groups))], self.groups)
        return self.standardizer.transform(recording.responses) * keep


@pytest.fixture(scope="module")
def scores(codes):
    separate, _, factors = codes
    labels = factors.rename(columns={"x": "rxy",
                                     "y": "rxz"}).assign(category=factors.category.map("c{}".format))
    recording = Recording(np.zeros((len(separate), 1, 2, 2), np.float32), separate, labels, simulated=True)
    members = pd.DataFrame({"variant": ["standard VAE", "labels", "PC", "full"] * 2,
                            "seed": [0] * 4 + [1] * 4})
    model = Linear(members, (3, 3), Standardizer.fit(recording.responses))
    parts = {"supervised": (0,), "unsupervised": (1,)}
    table = score_members(model, recording, parts, progress=False)
    return pd.concat([table.assign(subject="M1"), table.assign(subject="M2")], ignore_index=True)


def test_score_members(scores):
    assert len(scores) == 16
    assert np.allclose(scores.r2, 1) and np.allclose(scores.r2_supervised, 0.5)
    assert scores.group_mig.between(0.5, 1).all() and {"mig", "group_mig_category"} <= set(scores)


def test_tables_show_the_paper_beside_ours(scores):
    first = paper_table(scores, 1, "simulated")
    assert first.shape == (8, 2)
    assert first.loc[("M1", "full"), ("R2 %", "paper")] == "76.58 ± 0.64"
    assert first.loc[("M1", "without PC"), ("R2 %", "paper")] == "–"
    assert first.loc[("M2", "standard VAE"), ("R2 %", "simulated")] == "100.00 ± 0.00"
    second = paper_table(scores, 2)
    assert second.loc[("M2", "full"), ("MIG %", "paper")] == "49.85 ± 0.55"
    assert ("group MIG %", "ours") in second and ("group MIG %", "paper") not in second
    third, fourth = paper_table(scores, 3), paper_table(scores, 4)
    assert third.loc[("M1", "supervised"), ("R2 %", "paper")] == "32.50 ± 0.19"
    assert fourth.loc[("M2", "unsupervised"), ("RMSE", "paper")] == "89.65 ± 0.31"
    assert third.index.tolist() == [("M1", "full"), ("M1", "supervised"), ("M2", "full"),
                                    ("M2", "supervised")]
    with pytest.raises(ValueError, match="r2_supervised"):
        paper_table(scores.drop(columns="r2_supervised"), 3)


def test_mean_and_standard_deviation_in_hundredths():
    assert _mean_sd(pd.Series([0.1, 0.2, 0.3])) == "20.00 ± 10.00"
    assert _mean_sd(pd.Series([0.5])) == "50.00"


def test_factors_of_gaps_are_complete_and_vary_and_are_what_was_supervised():
    labels = pd.DataFrame({"category": ["a", "b"], "rxy": [1.0, np.nan], "rxz": [0.0, 0.0], "ryz": [1.0, 2.0],
                           "tilt": [0, 1]})
    assert list(_gap_factors(labels)) == ["category", "ryz"]
    assert list(_gap_factors(labels, [SimpleNamespace(spec=SimpleNamespace(columns=(c,)))
                                      for c in ("tilt", "rxz")])) == ["tilt"]


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="add up to 5"):
        _group_slices((2, 2), 5)
    with pytest.raises(ValueError, match="unknown kind of probe"):
        group_probe_matrix(np.zeros((10, 2)), (2,), pd.DataFrame({"category": list("ab") * 5}), ("category",),
                           kind="oracle")


def test_categories_by_number_score_as_by_name():
    rng = np.random.default_rng(0)
    code = rng.integers(0, 12, 600)
    z = np.eye(12)[code] + 0.1 * rng.standard_normal((600, 12))
    named = pd.DataFrame({"category": [f"c{c:02d}" for c in code]})
    numbered, shuffled = (pd.DataFrame({"category": code}),
                          pd.DataFrame({"category": rng.permutation(12)[code]}))
    assert _probe_attribute(z, named, "category") == _probe_attribute(
        z, numbered, "category") == _probe_attribute(z, shuffled, "category") == 1
    expected = _gap_scores(z, (6, 6), _gap_factors(named))
    for labels in (numbered, shuffled):
        assert _gap_scores(z, (6, 6), _gap_factors(labels)) == pytest.approx(expected, abs=1e-6)


def test_angles_and_places_are_numbers_however_few():
    rng = np.random.default_rng(1)
    labels = pd.DataFrame({"ty": rng.integers(-1, 2, 300), "tz": rng.integers(-1, 2, 300),
                           "rxy": rng.choice([-67.5, -22.5, 22.5, 67.5], 300), "rxz": 0.0, "ryz": 0.0})
    only = labels[["tz"]].to_numpy(float) + 0.01 * rng.standard_normal((300, 1))
    assert _probe_attribute(only, labels, "position") == pytest.approx(0.5, abs=0.05) # one of two columns
    turn = labels[["rxy"]].to_numpy() / 50 + 0.01 * rng.standard_normal((300, 1))
    assert _probe_attribute(turn, labels, "rotation") > 0.95 # what does not vary is left out
    assert np.isnan(_probe_attribute(turn, labels.assign(rxy=0.0), "rotation"))


def test_columns_that_hardly_vary_have_no_nonsense():
    responses = np.random.default_rng(2).standard_normal((100, 3))
    responses[:, 1] = 0.1
    assert _r2_rmse(responses, responses * 0.9)["r2"] == pytest.approx(0.99, abs=0.01)
    mostly = pd.DataFrame({"f": np.r_[np.zeros(370), np.linspace(1, 2, 30)], "one": 1.0})
    z = np.random.default_rng(3).standard_normal((400, 4))
    gaps = mig(z, mostly)
    assert np.isfinite(gaps["f"]) and np.isnan(gaps["one"])


def test_one_name_is_one_name_and_a_misspelt_one_is_refused():
    labels, z = pd.DataFrame({"category": list("ab") * 20,
                              "rxy": np.arange(40.0)}), np.random.default_rng(0).normal(size=(40, 2))
    assert list(group_probe_matrix(z, (1, 1), labels, "category")) == ["category"]
    assert list(group_probe_matrix(z, (1, 1), labels)) == ["category",
                                                           "rxy"], "without a list, all that there are"
    with pytest.raises(ValueError, match="no labels for 'categry'"):
        group_probe_matrix(z, (1, 1), labels, ("category", "categry"))
