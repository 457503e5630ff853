("What versions of the same edits have in common: against known variances, a slow version, and a model that "
 "is known.")
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from migvis.measure import edits as edits_module
from migvis.measure.readouts import geodesic_angle
from migvis.measure import report as co
from migvis.simulate.images import sample_labels
from tests.measure.worlds import FakeModel, LabelJudge, pictures, readings_of

NAMES = ["Group 1 (pose)", "Group 2 (category)"]


# --- the shares
# ----------------------------------------------------------------------------------------------------------

def drawn(k=3, n=4000, d=6, target=1.0, private=1.0, leaving=0.0, seed=0):
    ("Changes and their control: what the target asks for, what every draw adds, and what is left of the "
     "original whatever the target.")
    rng = np.random.default_rng(seed)
    away = leaving * rng.standard_normal((n, d))
    changes = away + target * rng.standard_normal((n, d)) + private * rng.standard_normal((k, n, d))
    return {"size": changes[:, :, None]}, {"size": (away + target * rng.standard_normal((n, d))
                                                    + private * rng.standard_normal((n, d)))[:, None]}


@pytest.mark.parametrize("target, private, leaving", [(1, 1, 0), (2, 1, 0), (0, 1, 1), (1, 0, 0), (1, 1, 2)])
@pytest.mark.parametrize("k", [2, 5])
def test_shares_are_ratios_of_variances(target, private, leaving, k):
    table = co.share_table(*drawn(k, 4000, 6, target, private, leaving), ["g"],
                           n_boot=300).set_index(["group", "attribute", "quantity"])
    wanted = {"common": (target**2 + leaving**2) / (target**2 + private**2 + leaving**2),
              "own": target**2 / (target**2 + private**2)}
    for quantity, share in wanted.items():
        row = table.loc[("g", "size", quantity)]
        assert row["value"] == pytest.approx(
            share, abs=0.03) and row["low"] - 0.01 <= share <= row["high"] + 0.01 and row["n"] == 4000


def test_random_pictures_in_place_of_edits_have_common_but_no_own_share():
    rng = np.random.default_rng(3)
    original, pictures_ = rng.standard_normal((2000, 1, 5)), rng.standard_normal((4, 2000, 1, 5))
    table = co.share_table({"size": pictures_[:3] - original}, {"size": pictures_[3] - original}, ["g"],
                           n_boot=100).set_index("quantity")
    assert table.loc["common", "value"].iloc[0] == pytest.approx(0.5, abs=0.03)
    assert table.loc["own", "low"].iloc[0] < 0 < table.loc["own", "high"].iloc[0]


def test_parts_against_a_loop():
    rng = np.random.default_rng(1)
    d, control = rng.standard_normal((3, 7, 2)), rng.standard_normal((7, 2))
    d[1, 2, 0], control[4] = np.nan, np.nan
    within, common, other = co._change_parts(d, control)
    for i in range(7):
        if i == 2:
            assert np.isnan([within[i], common[i], other[i]]).all()
            continue
        assert within[i] == pytest.approx(np.mean([d[a, i] @ d[a, i] for a in range(3)]))
        assert common[i] == pytest.approx(np.mean([d[a, i] @ d[b, i] for a in range(3)
                                                   for b in range(3) if a != b]))
        assert np.isnan(other[i]) if i == 4 else other[i] == pytest.approx(np.mean([d[a, i] @ control[i]
                                                                                    for a in (1, 2)]))


def test_all_groups_and_attributes_together_are_ratios_of_sums():
    rng = np.random.default_rng(2)
    changes = {name: rng.standard_normal((3, 20, 2, d)) for name, d in {"pixels": 9, "size": 1,
                                                                        "rotation": 4}.items()}
    controls = {name: rng.standard_normal(change.shape[1:]) for name, change in changes.items()}
    changes["rotation"][0, 3, 1] = np.nan
    table = co.share_table(changes, controls, NAMES,
                           n_boot=5).set_index(["group", "attribute", "quantity"])["value"]
    parts = lambda a, g: co._change_parts(changes[a][:, :, g], controls[a][:, g])[:2]
    sums = np.array([[np.nansum(part, 0) for part in parts(a, g)]
                     for a in ("size", "rotation") for g in (0, 1)]).reshape(2, 2, 2)
    ratio = lambda x: x.reshape(-1, 2).sum(0)[1] / x.reshape(-1, 2).sum(0)[0]
    assert table[NAMES[1], "together", "common"] == pytest.approx(ratio(sums[:, 1]))
    assert table["all groups", "rotation", "common"] == pytest.approx(ratio(sums[1]))
    assert table["all groups", "together", "common"] == pytest.approx(ratio(sums))


# --- changes and starts
# --------------------------------------------------------------------------------------------------

def test_changes_are_in_units_of_real_images_whatever_an_attribute_s_width():
    labels = sample_labels(400, 1)
    judge, rows = LabelJudge(labels), np.random.default_rng(0).integers(0, 400, (2, 60, 1))
    images, first = pictures(rows), pictures(np.arange(60))
    real = judge.read(pictures(np.arange(400)))
    changes = co._attribute_changes(list(images), [first, first], judge, real)
    assert set(changes) == {"pixels", "category", "identity", "rotation", "position", "size",
                            "shape", "albedo"}
    assert changes["size"][1, 7, 0, 0] == pytest.approx(np.log(labels["s"][rows[1, 7, 0]] / labels["s"][7])
                                                        / np.log(labels["s"]).std(ddof=0))
    # two unrelated images are twice the variance apart
    for name in ("category", "position", "size", "shape", "rotation"):
        assert (changes[name] ** 2).sum(-1).mean() == pytest.approx(2, rel=0.35), name


def test_starting_images_are_of_one_category_and_pose_and_used_once():
    readings = readings_of(sample_labels(900, 2), abstain=0.2)
    pairs = edits_module._held_out_pairs(
        SimpleNamespace(recording=SimpleNamespace(images=pictures(np.arange(900)),
                                                  labels=sample_labels(900, 2)),
                        split=SimpleNamespace(test=np.arange(900))), LabelJudge(sample_labels(900, 2)), 20)
    kept, starts = co._choose_starts(readings, pairs, 3)
    assert len(kept) > 10 and starts.shape == (len(kept), 3) and np.array_equal(starts[:, 0], pairs[kept, 0])
    assert len(set(starts.ravel()) | set(pairs[:, 1])) == starts.size + 20
    assert (readings.category[starts] == readings.category[starts[:, :1]]).all()
    for row in starts:
        if not readings.rotation_known[row[0]]: continue
        assert readings.rotation_known[row].all() and geodesic_angle(readings.rotation[row[1:]],
                                                                     readings.rotation[row[:1]]).max() <= 45
    with pytest.raises(ValueError, match="only 0 of 20"): co._choose_starts(readings, pairs, 800)
    with pytest.raises(ValueError, match="k = 2"): co._choose_starts(readings, pairs, 1)


def test_another_target_could_have_been_chosen_and_is_never_the_own_one():
    readings = readings_of(sample_labels(400, 3))
    pairs = edits_module._held_out_pairs(
        SimpleNamespace(recording=SimpleNamespace(images=pictures(np.arange(400)),
                                                  labels=sample_labels(400, 3)),
                        split=SimpleNamespace(test=np.arange(400))), LabelJudge(sample_labels(400, 3)), 30)
    source, target = (readings[rows] for rows in pairs.T)
    other = co._another_target(source, target)
    assert sorted(other) == list(range(30)) and edits_module._other_targets(source, target)[np.arange(30),
                                                                                            other].all()
    few = [r[np.arange(2)] for r in (source, target)]
    assert co._another_target(*few).tolist() == [1, 0]


# --- the dose
# ------------------------------------------------------------------------------------------------------------

def dosed(reach):
    "Edits whose RMSE to the original is exactly `reach` at each strength."
    images = np.zeros((6, 1, len(reach), 1, 4, 4)) + np.asarray(reach)[:, None, None, None]
    return co.dose_table(images, np.zeros((6, 1, 4, 4)), range(len(reach)), ["g"], n_boot=20)


@pytest.mark.parametrize("reach, weakest, largest, grows, smooth",
                         [((0.0, 0.02, 0.05, 0.1), 0.2, 0.5, True, True),
                          ((0.0, 0.08, 0.09, 0.1), 0.8, 0.8, True, False),
                          ((0.0, 0.02, 0.02, 0.1), 0.2, 0.8, False, False)])
def test_a_dose_is_told_from_a_jump(reach, weakest, largest, grows, smooth):
    table = dosed(reach)
    assert table["value"].tolist() == pytest.approx(list(reach)) and (table["low"] <= table["value"]).all()
    row = co.ConsistencyResult(None, table, {}).transition().loc["g"]
    assert row["weakest"] == pytest.approx(weakest) and row["largest_step"] == pytest.approx(largest)
    assert bool(row["grows"]) == grows and bool(row["smooth"]) == smooth


def test_without_gamma_0_the_first_strength_is_a_step_too():
    images = np.array([0.8, 1.0]).reshape(1, 1, 2, 1, 1, 1) * np.ones((3, 1, 1, 1, 2, 2))
    dose = co.dose_table(images, np.zeros((3, 1, 2, 2)), (0.1, 0.2), ["g"], 5)
    row = co.ConsistencyResult(None, dose, {}).transition().loc["g"]
    assert row["largest_step"] == pytest.approx(0.8) and not row["smooth"]
    with pytest.raises(ValueError, match="must grow"):
        co.dose_table(images, np.zeros((3, 1, 2, 2)), (0.2, 0.1), ["g"])


# --- a model that is known
# -----------------------------------------------------------------------------------------------

class Model(FakeModel):
    ("Edits by handing out the target (group 1, whatever the noise) or a test image that noise, steps and "
     "negatives choose (group 2).")
    def edited(self, original, target, how):
        images = self.recording.images
        chance = np.random.default_rng([how.steps, how.seed, how.noise_seed,
                                        len(original)]).integers(100, len(images), len(original))
        ends = images[target], images[chance]
        path = [[images[original] + g / max(how.gammas) * (end - images[original]) for g in how.gammas]
                for end in ends]
        return np.stack([np.stack(part, 1) for part in path], 1)

    def made(self): return [(how.steps, how.seed, how.noise_seed) for how in self.asked]


@pytest.fixture(scope="module")
def world():
    labels = sample_labels(1300, 9)
    return Model(labels), LabelJudge(labels)


def test_a_model_whose_groups_are_known(world, tmp_path):
    model, judge = world
    model.asked.clear()
    options = dict(n_pairs=40, folder=tmp_path, progress=False)
    out = co.consistency(model, judge, **options)
    # control and starts have settings of the base and the draws
    assert len(model.asked) == 1 + 1 + 3 + 2 + 2 + 3 and len(set(model.made())) == 8
    rows = out.table.set_index(["versions", "group", "attribute", "quantity"])
    for kind in ("draws", "steps", "negatives"):
        # both quantities
        assert rows.loc[(kind, NAMES[0],
                         ["together", "pixels", "size"]), "value"].to_numpy() == pytest.approx(1)
        assert rows.loc[(kind, NAMES[1], "together",
                         "common"), "value"] == pytest.approx(0.5, abs=0.1), "what is common is the original"
        own = rows.loc[(kind, NAMES[1], "together", "own")]
        assert own["low"] < 0 < own["high"] < 0.4
    assert rows.loc[("starts", NAMES[0], "together",
                     "own"), "low"] > 0.4 > 0.2 > rows.loc[("starts", NAMES[1], "together", "own"), "low"]
    assert out.transition().loc[NAMES[0], "grows"] and "all groups" in out.shares().index and isinstance(
        out.plot(), Figure)
    again = co.consistency(model, judge, **options)
    assert len(model.asked) == 12, "edits in the folder are not made again"
    pd.testing.assert_frame_equal(again.table, co.ConsistencyResult.load(tmp_path).table)
    pd.testing.assert_frame_equal(again.dose, out.dose)
    with pytest.raises(ValueError, match="other|another"): co.consistency(model, judge, **options, gamma=0.1)


def test_only_the_versions_that_were_asked_for_are_made(world):
    model, judge = world
    model.asked.clear()
    out = co.consistency(model, judge, 10, over=("steps",), versions={"steps": (9, 5)}, progress=False)
    assert model.made() == [(9, 0, 0), (9, 0, 0), (5, 0, 0)] and set(out.table["versions"]) == {"steps"}


@pytest.mark.parametrize("options, told",
                         [(dict(over=()), "over must name"), (dict(over=("noise",)), "over must name"),
                          (dict(gamma=0.0), "must be above 0"), (dict(gamma=0.3), "must be above 0, of"),
                          (dict(versions={"steps": (9, 9)}), "at least two different"),
                          (dict(versions={"draws": 1}), "at least two different")])
def test_bad_arguments_are_refused_before_anything_is_edited(world, options, told):
    model, judge = world
    model.asked.clear()
    with pytest.raises(ValueError, match=told): co.consistency(model, judge, 10, progress=False, **options)
    assert not model.asked


def test_a_result_that_is_not_there_or_damaged_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="record"): co.ConsistencyResult.load(tmp_path)
    co.ConsistencyResult(pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [1]}), {}).save(tmp_path)
    (tmp_path / "record.npz").write_text("{")
    with pytest.raises(ValueError, match="record.npz"): co.ConsistencyResult.load(tmp_path)
