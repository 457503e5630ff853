("What edits moved and kept: pairs, shifts, intervals, realism, criteria, files; against slow versions and "
 "edits that are known.")
import math
from dataclasses import replace
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import same_color
from matplotlib.figure import Figure

from migvis.infonce import Critics
from migvis.measure import edits as es
from migvis.measure.readouts import geodesic_angle
from migvis.simulate.images import sample_labels
from migvis.simulate.objects import object_names
from migvis.simulate.renderer import _plane_rotation
from migvis.support.encoders import ConvEncoder
from migvis.support.labels import Continuous
from migvis.support.presets import EditSettings
from tests.measure.worlds import (DESCRIPTORS, GROUPS, OBJECT, POSE, FakeModel, LabelJudge, edits_of,
                                  pictures, readings_of)


@pytest.fixture(scope="module")
def world():
    ("A judge that reads without error, held-out rows, pairs, and edits that do exactly one thing to a share "
     "gamma of the pairs.")
    labels = sample_labels(700, 5)
    judge, rows = LabelJudge(labels), np.arange(700)
    pairs = es.choose_pairs(judge.read(pictures(rows)), 40, seed=1)
    source, target = (labels.iloc[pairs[:, i]].reset_index(drop=True) for i in (0, 1))
    rng = np.random.default_rng(3)
    siblings = object_names().groupby("category")["object"].apply(list)
    other = [rng.choice([o for o in siblings[c] if o != own]) for c, own in zip(source["category"],
                                                                                source["object"])]
    ideal = [source.assign(**target[POSE]), source.assign(**target[OBJECT]),
             source.assign(object=other), source]
    judge.labels = pd.concat([labels, *ideal], ignore_index=True)
    done = rng.permutation(40) / 40
    edited = np.stack([700 + 40 * g + np.arange(40) for g in range(4)], 1)
    which = np.stack([np.where((done < s)[:, None], edited, pairs[:, :1]) for s in (0.0, 0.5, 1.0)], 2)
    return SimpleNamespace(judge=judge, pairs=pairs, rest=np.setdiff1d(rows, pairs.ravel()), labels=labels,
                           edits=edits_of(pictures(which), pictures(pairs[:, 0]), pictures(pairs[:, 1])))


@pytest.fixture(scope="module")
def result(world):
    second = replace(world.edits, mode="paper", images=world.edits.images[:, :, ::-1])
    critic = {"selective": np.linspace(-3, 0, 40 * 12).reshape(40, 4, 3)}
    return es.measure_edits([world.edits, second], world.judge, pictures(world.rest), critic,
                            settings={"caption": "hand-made"}, n_boot=200)


# --- pairs --------------------------------------------------------------------------------------------------
# -------------

def test_pairs_differ_in_category_and_pose_and_use_no_image_twice():
    labels = sample_labels(600, 2)
    readings = readings_of(labels)
    pairs = es.choose_pairs(readings, 64, min_angle=70, seed=4)
    assert pairs.shape == (64, 2) and len(set(pairs.ravel())) == 128
    category = labels["category"].to_numpy()
    assert (category[pairs[:, 0]] != category[pairs[:, 1]]).all()
    assert geodesic_angle(*readings.rotation[pairs.T]).min() >= 70
    assert pd.Series(category[pairs[:, 0]]).value_counts().max() <= 2 * 64 / 8
    assert np.array_equal(pairs, es.choose_pairs(readings, 64, min_angle=70, seed=4))
    assert not np.array_equal(pairs, es.choose_pairs(readings, 64, min_angle=70, seed=5))


def test_readable_images_first_and_misread_ones_never():
    labels = sample_labels(600, 2)
    readings = readings_of(labels, abstain=0.3)
    pairs = es.choose_pairs(readings, 64, seed=0)
    assert readings.rotation_known[pairs].all() and geodesic_angle(*readings.rotation[pairs.T]).min() >= 60
    wrong = labels["category"].to_numpy().copy()
    wrong[:300] = "nothing it knows"
    assert es.choose_pairs(readings, 64, seed=0, category=wrong).min() >= 300


def test_without_a_rotation_only_the_category_counts():
    readings = replace(readings_of(sample_labels(100, 2)), rotation=None, rotation_known=None)
    pairs = es.choose_pairs(replace(readings, rotation_known=np.zeros(100, bool)), 20)
    assert (readings.category[pairs[:, 0]] != readings.category[pairs[:, 1]]).all()
    assert len(es.choose_pairs(readings, 20)) == 20


def test_too_few_pairs_are_refused():
    readings = readings_of(sample_labels(60, 2))
    with pytest.raises(ValueError, match=r"only \d+ of 64 pairs"): es.choose_pairs(readings, 64)
    with pytest.raises(ValueError, match="only 0 of 5"): es.choose_pairs(readings, 5, min_angle=181)
    with pytest.raises(ValueError, match="at least 1"): es.choose_pairs(readings, 0)


# --- shifts -------------------------------------------------------------------------------------------------
# -------------

def test_class_shift_by_hand():
    source, target = np.array([[0.9, 0.1, 0.0]] * 3), np.array([[0.0, 0.8, 0.2]] * 3)
    edit = np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.3, 0.1, 0.6]])
    shift = es._class_shift(source, target, edit)
    assert shift["before"] == pytest.approx([0.7] * 3) and shift["after"] == pytest.approx([0.7, 0.1, 0.7])
    assert shift["toward"] == pytest.approx([0, 0.6, 0]) and shift["change"] == pytest.approx([0, 0.7, 0.6])
    assert shift["reached"].tolist() == [0, 1, 0] and shift["kept"].tolist() == [1, 0, 0]


def test_vector_shift_by_hand():
    source, target = np.zeros((5, 2)), np.array([[3.0, 4], [3, 4], [3, 4], [3, 4], [0, 0]])
    edit = np.array([[0.0, 0], [3, 4], [1.5, 2], [-4, 3], [1, 0]])
    shift = es._vector_shift(source, target, edit)
    assert shift["toward"][:4] == pytest.approx([0, 5, 2.5, 0]) and np.isnan(shift["toward"][4])
    assert shift["after"] == pytest.approx([5, 0, 2.5, math.hypot(7, 1),
                                            1]) and shift["change"] == pytest.approx([0, 5, 2.5, 5, 1])


def test_toward_does_not_lean_under_noise_although_distances_grow():
    rng = np.random.default_rng(0)
    source, target = rng.standard_normal((4000, 6)), rng.standard_normal((4000, 6))
    shift = es._vector_shift(source, target, source + rng.standard_normal((4000, 6)))
    assert abs(shift["toward"].mean()) < 0.05 and (shift["after"] - shift["before"]).mean() > 0.5


def test_rotation_shift_by_hand():
    turns = lambda *degrees: _plane_rotation(0, 1, np.array(degrees, float))
    known = lambda *k: np.array(k, bool)
    r = lambda rotation, k: SimpleNamespace(rotation=rotation, rotation_known=k)
    source, target = r(turns(0, 0, 0, 0), known(1, 1, 1, 0)), r(turns(90, 90, 90, 90), known(1, 1, 1, 1))
    shift = es._rotation_shift(source, target, r(turns(60, -20, 70, 60), known(1, 1, 0, 1)))
    assert shift["before"][:3] == pytest.approx([90] * 3) and np.isnan(shift["before"][3])
    assert shift["after"][[0, 1, 3]] == pytest.approx([30, 110, 30]) and np.isnan(shift["after"][2])
    assert shift["toward"][:2] == pytest.approx([60, -20]) and np.isnan(shift["toward"][2:]).all()
    assert shift["change"][:2] == pytest.approx([60, 20]) and np.isnan(shift["change"][2:]).all()
    assert shift["kept"][:2].tolist() == [0, 1] and shift["reached"][1] == 0 and np.isnan(shift["kept"][2])


def test_attribute_shifts_are_in_order_and_independent_of_the_rest():
    labels = sample_labels(60, 1)
    readings = readings_of(labels, noise=0.1)
    source, target, edit = readings[np.arange(10)], readings[np.arange(10, 20)], readings[np.arange(20, 50)]
    table = es._attribute_shifts(source, target, edit, DESCRIPTORS,
                                 {"sum": lambda r: r.features.sum(1, keepdims=True)})
    assert len(table) == 30 and table["pair"].tolist() == [p for p in range(10) for _ in range(3)]
    rows = lambda i: np.arange(i, i + 1)
    alone = es._attribute_shifts(source[rows(4)], target[rows(4)], edit[rows(13)], DESCRIPTORS,
                                 {"sum": lambda r: r.features.sum(1, keepdims=True)})
    own = [c for c in table if not c.endswith(("_along", "_way", "pair"))] # the others need other pairs
    pd.testing.assert_series_equal(table.iloc[13][own], alone.iloc[0][own], check_names=False)
    attributes = {c.rsplit("_", 1)[0] for c in table.columns[1:]}
    assert attributes == {"category", "identity", "rotation", "position", "size", "shape", "albedo", "sum"}


def test_what_a_judge_does_not_read_is_left_out():
    readings = replace(readings_of(sample_labels(20, 1)), rotation=None, rotation_known=None,
                       object_prob=None, size=None, descriptors=None)
    table = es._attribute_shifts(readings, readings, readings)
    assert {c.rsplit("_", 1)[0] for c in table.columns[1:]} == {"category", "position"}


def test_descriptors_make_attributes():
    judge = LabelJudge(sample_labels(5, 1))
    readings = judge.read(pictures(np.arange(5)))
    vectors = es._attribute_vectors(("age", *["shape_x"] * 5, "albedo_x", "albedo_y", "age_z"))
    assert list(vectors)[5:] == ["age", "shape", "albedo"]
    assert np.array_equal(vectors["age"](readings), readings.descriptors[:, [0, 8]])


# --- the matrix
# ----------------------------------------------------------------------------------------------------------

def test_edits_that_are_known(result):
    matrix = result.matrix("moved", "selective", 1.0)
    assert list(matrix.index) == list(GROUPS)
    assert matrix.loc[GROUPS[0], "rotation"] == pytest.approx(1) and abs(
        matrix.loc[GROUPS[0], ["category", "identity", "shape", "size"]]).max() < 1e-9
    assert matrix.loc[GROUPS[1], ["category",
                                  "identity"]].min() > 0.9 and abs(matrix.loc[GROUPS[1], "rotation"]) < 1e-6
    assert matrix.loc[GROUPS[1], ["shape", "albedo"]].to_numpy() == pytest.approx([1, 1])
    assert abs(matrix.loc[GROUPS[3]]).max() < 1e-6
    half = result.matrix("moved", "selective", 0.5)
    assert half.loc[GROUPS[1], "category"] == pytest.approx(matrix.loc[GROUPS[1], "category"] / 2, rel=1e-6)
    kept = result.matrix("kept", "selective", 1.0)
    assert kept["category"].tolist() == [1, 0, 1, 1] and kept["identity"].tolist() == [1, 0, 0, 1]


def test_what_was_made_without_the_target_is_not_specific():
    ("Unrelated points go half of the way toward every target; the targets themselves all of the way, and "
     "half-way points half.")
    rng = np.random.default_rng(5)
    s, t, unrelated = rng.standard_normal((3, 400, 3)) + [1, 0, -2]
    scores = {}
    for name, edit in {"unrelated": unrelated, "target": t, "half": (s + t) / 2, "original": s,
                       "mean": np.tile(t.mean(0), (400, 1))}.items():
        shift = es._vector_shift(s, t, edit) | es._specific_shift(s, t, edit, ~np.eye(400, dtype=bool))
        table = pd.DataFrame({"pair": range(400), "mode": "m", "group": "g", "gamma": 1.0,
                              **{f"x_{k}": v for k, v in shift.items()}})
        scores[name] = es._selectivity_scores(table, 200).set_index(["attribute", "quantity"]).loc["x"]
    for name in ("unrelated", "mean"):
        assert scores[name].loc["moved", "low"] > 0.3 and abs(scores[name].loc["specific", "value"]) < 0.1
    for name, value in {"target": 1, "half": 0.5, "original": 0}.items():
        assert scores[name].loc["specific", "value"] == pytest.approx(value, abs=1e-9)
    assert scores["unrelated"].loc["specific", "low"] < 0 < scores["unrelated"].loc["specific", "high"]


def test_the_specific_way_against_a_loop():
    rng = np.random.default_rng(0)
    target, source, edit = rng.standard_normal((5, 2)), rng.standard_normal((10,
                                                                             2)), rng.standard_normal((10, 2))
    target[3], edit[4] = np.nan, np.nan
    able = rng.random((5, 5)) < 0.8
    able[:, 0], able[np.arange(5), np.arange(5)] = True, False
    able[0, 1] = True
    found = es._specific_shift(source, target, edit, able)
    for i in range(10):
        p = i // 2
        axis = target[p] - np.mean([target[q] for q in range(5) if able[p, q] and q != 3], axis=0)
        np.testing.assert_allclose(found["along"][i], (edit[i] - source[i]) @ axis)
        np.testing.assert_allclose(found["way"][i], np.nan if i == 4 else (target[p] - source[i]) @ axis)
    assert np.isnan(es._specific_shift(source[:2], target[:1], edit[:2],
                                       np.zeros((1, 1), bool))["along"]).all()


def test_other_targets_are_those_that_could_have_been_chosen():
    readings = readings_of(sample_labels(400, 3))
    pairs = es.choose_pairs(readings, 60, min_angle=70)
    s, t = (readings[pairs[:, i]] for i in (0, 1))
    able = es._other_targets(s, t)
    least = min(geodesic_angle(s.rotation, t.rotation)[s.rotation_known & t.rotation_known])
    for p, q in np.ndindex(60, 60):
        far = geodesic_angle(s.rotation[[p]],
                             t.rotation[[q]])[0] >= least or not (s.rotation_known[p] and t.rotation_known[q])
        assert able[p, q] == (p != q and s.category[p] != t.category[q] and far)
    assert 0.4 < able.mean() < 0.95


def test_edits_made_without_the_target_are_not_specific_in_any_attribute():
    ("Renders of other objects in other poses, judged by labels: everything has moved, nothing toward its "
     "own target.")
    readings = readings_of(sample_labels(3000, 3))
    pairs = es.choose_pairs(readings[np.arange(1200)], 400, min_angle=60)
    s, t, e = (readings[rows] for rows in (pairs[:, 0], pairs[:, 1],
                                           np.random.default_rng(0).permutation(np.arange(1200, 3000))[:400]))
    scores = es._selectivity_scores(es._attribute_shifts(s, t, e, DESCRIPTORS).assign(mode="m", group="g",
                                                                                      gamma=1.0), 500)
    specific = scores[scores["quantity"] == "specific"].set_index("attribute")
    assert {"category", "identity", "rotation", "position", "size", "shape", "albedo"} == set(specific.index)
    assert (specific["value"].abs() < 0.15).all() and (specific["low"] < 0.03).all() and (specific["high"]
                                                                                          > -0.03).all()


def test_scores_against_a_slow_version(world):
    judge = LabelJudge(world.judge.labels, noise=0.2, abstain=0.15)
    table = es.measure_edits(world.edits, judge, pictures(world.rest), n_boot=50).table
    scores = es._selectivity_scores(table, n_boot=50).set_index([*es._KEYS, "attribute", "quantity"])
    for group in GROUPS[:2]:
        part = table[(table["group"] == group) & (table["gamma"] == 1.0)]
        at = ("selective", group, 1.0)
        read = part.dropna(subset=["rotation_toward"])
        assert scores.loc[(*at, "rotation", "moved"), "value"] == pytest.approx(
            1 - read["rotation_after"].median() / read["rotation_before"].median())
        assert scores.loc[(*at, "rotation", "moved"), "n"] == len(read) < 40
        assert scores.loc[(*at, "rotation",
                           "turned"), "value"] == pytest.approx(part["rotation_change"].median())
        assert scores.loc[(*at, "shape", "moved"), "value"] == pytest.approx(part["shape_toward"].sum()
                                                                             / part["shape_before"].sum())
        assert scores.loc[(*at, "category", "kept"), "value"] == part["category_kept"].mean()


def test_intervals_hold_the_truth_and_exclude_zero_where_they_should(result):
    half = result.scores[(result.scores["gamma"] == 0.5) & (result.scores["mode"] == "selective")
                         & (result.scores["quantity"] == "moved")]
    half = half.set_index(["group", "attribute"])
    row = half.loc[(GROUPS[1], "category")]
    assert 0.25 < row["low"] < row["value"] < row["high"] < 0.75
    assert half.loc[(GROUPS[2], "shape"), "low"] > 0 and half.loc[(GROUPS[3], "shape"),
                                                                  ["low", "high"]].abs().max() < 1e-9


def test_order_of_rows_does_not_matter(result):
    mixed = result.table.sample(frac=1, random_state=0).reset_index(drop=True)
    a, b = (es._selectivity_scores(t, 20).sort_values([*es._KEYS, "attribute", "quantity"]).reset_index(
                drop=True) for t in (result.table, mixed))
    pd.testing.assert_frame_equal(a, b)


# --- realism and images
# --------------------------------------------------------------------------------------------------

def test_image_shifts_by_hand():
    originals = np.zeros((2, 1, 4, 4), np.float32)
    edits = np.stack([originals[0], originals[0] + 0.5, originals[1], originals[1] + 0.1])
    real = np.array([[0.0, 0], [3, 4], [6, 8]])                                    # distances 5, 5, 10
    read = lambda features: SimpleNamespace(features=np.array(features),
                                            textures=np.array(features)[::-1] * 0.1)
    table = es._image_shifts(originals, edits, read(np.zeros((2, 2))),
                             read([[0.0, 0], [0, 10], [20, 0], [100, 0]]), read(np.repeat(real, 4, 0)))
    assert table["pixels_mean"].to_numpy() == pytest.approx([0, 0.5, 0, 0.1], abs=1e-6)
    unit = torch.pdist(torch.tensor(np.repeat(real, 4, 0))).mean().item()
    assert table["features_mean"].to_numpy() == pytest.approx(np.array([0, 10, 20, 100]) / unit)
    assert table["realism_mean"].tolist() == [1, 0, 0, 0] and table["texture_mean"].tolist() == [0, 0, 0, 1]


def test_realism_tells_blends_from_pictures(world):
    "Images that are between two others are not within the manifold; the held-out images are, mostly."
    judge = world.judge
    class Blurry(LabelJudge):
        def read(self, images):
            readings = super().read(np.where(images > 0.9, 0, images))
            far = np.asarray(images)[:, 0, 0, 1] > 0.5
            return replace(readings, features=readings.features + 10 * far[:, None])
    spoilt = world.edits.images.copy()
    spoilt[:, 1, 2, :, 0, 1] = 1
    out = es.measure_edits(replace(world.edits, images=spoilt), Blurry(judge.labels),
                           pictures(world.rest), n_boot=20)
    realism = out.scores[(out.scores["attribute"] == "realism")].set_index(["group", "gamma"])["value"]
    assert (realism[(GROUPS[1], 1.0)] == 0 and realism[(GROUPS[1], 0.0)] > 0.6
            and out.settings["reference"]["realism"] > 0.6)
    kid = out.realism.set_index(["group", "gamma"])["kid"]
    assert kid[(GROUPS[1], 1.0)] > 10 * abs(kid[(GROUPS[1], 0.0)])


# --- critic and latents
# --------------------------------------------------------------------------------------------------

def test_critic_scores_against_one_at_a_time():
    torch.manual_seed(0)
    critics = Critics(ConvEncoder(8, width=8), groups=(2, 3), n_latents=5, n_features=8).eval()
    images, z, negatives = torch.rand(3, 2, 4, 1, 8, 8), torch.randn(3, 5), torch.randn(9, 5)
    fast = es._critic_scores(images.numpy(), critics, z, negatives, groups=[1, 0])
    assert fast.shape == (3, 2, 4)
    for i in range(3):
        for column, g in enumerate((1, 0)):
            scores = critics.scores(torch.cat([z[i:i + 1], negatives]), 2 * images[i, column] - 1)[g]
            np.testing.assert_allclose(fast[i, column], scores.log_softmax(1)[:, 0].detach(), atol=1e-5)


def test_numbers_are_read_back_from_features():
    rng = np.random.default_rng(0)
    features, weight = rng.standard_normal((400, 10)).astype(np.float32), rng.standard_normal((10, 3))
    z, readings = features @ weight + 3, SimpleNamespace(features=features)
    read, r2 = es._fit_readout(features, z)
    assert r2 > 0.999 and es._fit_readout(features, rng.standard_normal((400, 2)))[1] < 0.05
    np.testing.assert_allclose(read(readings), z, atol=0.1)
    assert es._fit_readout(features, z[:, :1])[0](readings).shape == (400, 1)


# --- results ------------------------------------------------------------------------------------------------
# -------------

def test_criteria_of_known_edits(result):
    summary = result.summary().set_index(["mode", "group", "gamma", "criterion"])
    best = summary.loc["selective"].xs(1.0, level="gamma")
    assert best.loc[(GROUPS[0], "rotation error to the target removed"), "met"] == 1
    assert best.loc[(GROUPS[1], "target's category reached"), ["value", "met"]].tolist() == [1, 1]
    # changed, but not toward the target
    assert best.loc[(GROUPS[2], "identity moved, specifically"), "met"] == 0
    assert best.loc[(GROUPS[3], "shape moved, "
                                "specifically"), ["value", "met"]].tolist() == pytest.approx([0, 0], abs=1e-9)
    assert summary.loc[("selective", GROUPS[1], 0.5, "target's category reached"), "met"] == 0
    assert summary.loc[("selective", "all", 0.0, "round trip, RMSE"), "value"] == pytest.approx(0, abs=1e-6)
    assert "KID" in set(summary[summary["wanted"] == "reported"].index.get_level_values("criterion"))
    assert result.best_gamma("selective") == 1.0
    report = result.report()
    assert report.loc[("selective", GROUPS[1], "target's category reached", ">= 0.7"), 1.0] == "1 [1, 1] *"


def test_the_best_strength_moves_something_and_keeps_the_rest(world):
    def best(strengths):
        images = np.stack(strengths, 2)
        return es.measure_edits([replace(world.edits, images=images)], world.judge, pictures(world.rest), n_boot=20).best_gamma("selective")
    nothing, _, whole = world.edits.images.swapaxes(0, 2).swapaxes(1, 2)
    careless = whole.copy()
    careless[:8] = whole[:8, 1:2]  # of every fifth pair, the category goes, too
    assert best([nothing, nothing, careless]) == 1.0, "an edit that changes nothing keeps everything, and shows nothing"
    assert best([nothing, whole, careless]) == 0.5


@pytest.mark.parametrize("strengths, best", [([1.0], 0.5), ([0.0, 0.5, 1.0], 1.0)])
def test_what_is_read_at_some_strengths_only_is_lost_at_the_others(result, strengths, best):
    unread = result.scores["gamma"].isin(strengths) & (result.scores["quantity"] == "kept")
    partial = replace(result, scores=result.scores.assign(value=result.scores["value"].mask(unread)))
    assert partial.best_gamma("selective") == best


def test_criteria_without_a_round_trip_are_those_that_need_none(result):
    partial = replace(result, scores=result.scores[result.scores["gamma"] > 0])
    told = set(partial.summary()["criterion"])
    assert "category kept" in told and not any("round trip" in name for name in told)

def test_curves_and_matrices_are_found_or_refused(result):
    curve = result.curve("selective", GROUPS[1], "category", "reached")
    assert curve["value"].tolist() == [0, 0.5, 1] and list(curve.index) == [0, 0.5, 1]
    assert result.modes == ["selective", "paper"] and result.groups == list(GROUPS)
    with pytest.raises(ValueError, match="there is no 'moved'"): result.matrix("moved", "selective", 7.0)
    with pytest.raises(ValueError, match="there is no 'risen'"): result.matrix("risen", "selective", 1.0)


def test_saved_results_come_back(result, tmp_path):
    back = es.SelectivityResult.load(result.save(tmp_path / "out"))
    for name in ("table", "scores", "realism"):
        pd.testing.assert_frame_equal(getattr(back, name), getattr(result, name))
    assert (back.settings == result.settings and back.settings["caption"] == "hand-made"
            and back.settings["judge"] == {"made": "by hand"})
    pd.testing.assert_frame_equal(back.summary(), result.summary())


def test_damaged_results_are_refused(result, tmp_path):
    with pytest.raises(FileNotFoundError, match="record.npz"): es.SelectivityResult.load(tmp_path)
    folder = result.save(tmp_path / "out")
    assert {path.name for path in folder.iterdir()} == {"record.npz", "table.csv", "scores.csv",
                                                        "realism.csv", "settings.json"}
    (folder / "record.npz").write_text("{")
    with pytest.raises(ValueError, match="record.npz"): es.SelectivityResult.load(folder)


def test_figures(result, world):
    figure = result.plot(1.0)
    assert isinstance(figure, Figure) and len(figure.axes) == 8
    # the style's, though it is no longer in force
    assert same_color(figure.axes[1].lines[0].get_color(), "#0072B2")
    titles = [ax.get_title() for ax in figure.axes]
    assert sum("judge against critic" in t for t in titles) == 1 # only one mode has critic scores
    assert any("selective, γ = 1" in t for t in titles)
    plt.close("all")


def test_images_that_do_not_fit_are_refused(world):
    for wrong in (dict(gammas=(0.0, 1.0)), dict(group_names=GROUPS[:2]),
                  dict(originals=world.edits.originals[:3]), dict(targets=world.edits.targets[:3])):
        with pytest.raises(ValueError, match="images must be"):
            es.measure_edits(replace(world.edits, **wrong), world.judge, pictures(world.rest))
    with pytest.raises(ValueError, match="different modes"):
        es.measure_edits([world.edits, world.edits], world.judge, pictures(world.rest))
    with pytest.raises(ValueError, match="different modes"):
        es.measure_edits([], world.judge, pictures(world.rest))


# --- from a model
# --------------------------------------------------------------------------------------------------------

class Model(FakeModel):
    "Edits by handing out the target where gamma > 0."
    gammas = {"selective": (0.0, 1.0), "paper": (0.0, 1.0)}

    def __init__(self, labels):
        super().__init__(labels, n_train=300)
        rest = np.random.default_rng(0).standard_normal(len(labels))
        self.z = torch.as_tensor(np.c_[labels[["rxy", "ty"]].to_numpy() / [60, 1], rest])

    def latents(self): return self.z

    def edited(self, original, target, settings):
        images = self.recording.images
        rows = np.stack([images[target if gamma else original] for gamma in settings.gammas], 1)
        return np.stack([rows] * 2, 1)


def test_run_on_a_model_and_going_on(tmp_path):
    labels = sample_labels(700, 9)
    judge, model = LabelJudge(labels), Model(labels)
    options = dict(n_pairs=24, latent_images=250, folder=tmp_path, progress=False)
    modes = {"selective": EditSettings(), "paper, strong": EditSettings("paper", gammas=(0.0, 2.0))}
    out = es.run_selectivity(model, judge, settings=modes, **options)
    assert out.modes == ["selective", "paper, strong"] and [how.mode
                                                            for how in model.asked] == ["selective", "paper"]
    assert out.gammas("paper, strong") == [0, 2] and len(out.table) == 2 * 24 * 2 * 2
    moved = out.matrix("moved", "selective", 1.0)
    assert moved.loc[GROUPS[0], ["rotation", "latents 1"]].to_numpy() == pytest.approx([1, 1], abs=1e-3)
    assert (out.settings["latents_r2"][0] > 0.95 > 0.1 > out.settings["latents_r2"][1]
            and out.settings["labels_r2"] == {})
    assert out.table["critic_mean"].max() <= 0 and out.settings["held_out"] == 400 - 48
    again = es.run_selectivity(model, judge, settings=modes, **options)
    assert len(model.asked) == 2
    pd.testing.assert_frame_equal(again.table, es.SelectivityResult.load(tmp_path).table)
    pd.testing.assert_frame_equal(again.scores, out.scores)
    for other in (dict(settings=modes, seed=1), dict(settings=EditSettings(gammas=(0.0, 3.0)))):
        with pytest.raises(ValueError, match="for other|another|other pairs"):
            es.run_selectivity(model, judge, **options | other)


def test_labels_that_the_judge_does_not_know_are_judged_and_named():
    ("An orientation and a colour that features tell: no code but the columns of the labels and the "
     "supervision is needed.")
    rng, labels = np.random.default_rng(0), sample_labels(700, 9)
    turn, tint = 90 * (labels["ty"] - labels["ty"].min()), np.where(labels["tz"] > 0, "red", "green")
    own = labels.assign(orientation=turn, colour=tint, noise=rng.standard_normal(700))
    model = Model(own)
    model.vae = SimpleNamespace(codes=(Continuous(1, "orientation", period=180).code(own),))
    out = es.run_selectivity(model, LabelJudge(own), 24, latent_images=300, progress=False)
    assert {"orientation", "colour", "noise"} <= set(out.scores["attribute"])
    read = out.settings["labels_r2"]
    assert read["orientation"] > 0.5 and read["colour"] > 0.3 and read["noise"] < 0.1
    moved = out.matrix("specific", "selective", 1.0).loc[GROUPS[0]]
    assert moved["orientation"] == pytest.approx(1,
                                                 abs=1e-3) and moved["colour"] == pytest.approx(1, abs=1e-3)
    named = replace(out, scores=out.scores.replace(GROUPS[0], "Group 1 (orientation)"),
                    table=out.table.replace(GROUPS[0], "Group 1 (orientation)"))
    summary = named.summary()
    assert "orientation moved, specifically" in set(summary["criterion"])
    assert any("orientation" in text.get_text() for text in named.plot(1.0).legends[0].get_texts())
    plt.close("all")


def test_pairs_of_a_model_are_test_images():
    labels = sample_labels(700, 9)
    pairs = es._held_out_pairs(Model(labels), LabelJudge(labels), 30, seed=2)
    assert pairs.min() >= 300 and len(set(pairs.ravel())) == 60


def test_a_group_is_judged_by_what_it_was_taught():
    names = ("Group 1 (position)", "Group 1 (pose)", "Group 2 (category)", "Group 3 (no labels)",
             "Group 2 (size_deg)", "Group 1")
    parts = [es._part_of(name) for name in names]
    assert parts == ["position", "pose", "category", "free", "size_deg", "free"]
    for part in ("position", "size_deg"):
        asked = [criterion[:2] for criterion in es._criteria(parts)[part]]
        assert asked == [(part, "specific"), ("category", "kept")]


def test_the_number_of_pairs_fits_the_test_images():
    of = lambda n: SimpleNamespace(split=SimpleNamespace(test=np.arange(n)))
    assert [es._check_n_pairs(of(n)) for n in (12, 80, 128, 1152)] == [4, 26, 42, 64]
    assert es._check_n_pairs(of(128), 62) == 62
    with pytest.raises(ValueError, match="from 4 to 62"): es._check_n_pairs(of(128), 64)
    with pytest.raises(ValueError, match="5 test images are too few"): es._check_n_pairs(of(5), 4)
