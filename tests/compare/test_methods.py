"""Methods and ablations on a small run: the same edits as `MIGVis.edit`, curves and choices by hand, files, resuming, bad input."""
import math
from dataclasses import replace
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from migvis.compare import ablations as ab
from migvis import MIGVis, simulate_hvm
from migvis.compare import methods as cp
from migvis.measure.edits import SelectivityResult
from migvis.measure.readouts import Readings
from migvis.simulate.objects import CATEGORIES, object_names
from migvis.simulate.renderer import rotation_matrix
from migvis.support.presets import EditSettings
from tests.made import SMALL

DEEPER = replace(SMALL, t_edit=30)  # the default of 25 steps fits
CATEGORY_NAMES, OBJECTS = tuple(CATEGORIES), tuple(object_names()["object"])
FEW = ("latent traversal", "AP-LR", "AP-CFG", "MIG-Vis, paper", "MIG-Vis, selective")


class NearestJudge:
    "Reads from an image what is known of the most similar image of the recording."
    config, card = SimpleNamespace(descriptors=()), {"made": "by hand"}

    def __init__(self, recording):
        self.labels, self.known = recording.labels, torch.as_tensor(recording.images).flatten(1)

    def read(self, images):
        flat = torch.as_tensor(np.asarray(images)).float().flatten(1)
        shown = self.labels.iloc[torch.cdist(flat, self.known).argmin(1).numpy()]
        chance = lambda names, column: (np.array(names)[None]
                                        == shown[column].to_numpy()[:, None]).astype(float)
        features = torch.nn.functional.avg_pool2d(flat.view(-1, 1, 32, 32), 8).flatten(1).numpy()
        return Readings(categories=CATEGORY_NAMES, objects=OBJECTS, features=features,
                        textures=features[:, :3], category_prob=chance(CATEGORY_NAMES, "category"),
                        object_prob=chance(OBJECTS, "object"),
                        rotation=rotation_matrix(*shown[["rxy", "rxz", "ryz"]].to_numpy().T),
                        rotation_known=np.ones(len(flat), bool), rotation_error=np.full(len(flat), 10.0),
                        position=shown[["ty", "tz"]].to_numpy(), size=shown["s"].to_numpy(), descriptors=None)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    recording = simulate_hvm(n_images=200, size=32, subject="M1", seed=3, progress=False)
    return MIGVis(DEEPER, seed=1, device="cpu").fit(recording, out=tmp_path_factory.mktemp("run") / "run",
                                                   progress=False)


@pytest.fixture(scope="module")
def judge(run): return NearestJudge(run.recording)


@pytest.fixture(scope="module")
def folder(tmp_path_factory): return tmp_path_factory.mktemp("comparison")


BY = ["group", "method"]
OPTIONS = dict(n_validation=4, min_angle=10.0, steps=3, n_boot=50, progress=False)


@pytest.fixture(scope="module")
def comparison(run, judge, folder):
    return cp.compare_methods(run, FEW, 5, (0, 1), judge=judge, folder=folder, **OPTIONS)


# --- edits --------------------------------------------------------------------------------------------------
# -------------

def test_methods_make_the_edits_that_the_run_makes(run):
    pairs = run.split.test[:4].reshape(2, 2)
    for name, mode in (("MIG-Vis, paper", "paper"), ("MIG-Vis, selective", "selective")):
        settings = EditSettings(mode, gammas=(0.0, 0.3), seed=2, steps=4)
        ours = cp._edit_trial(run, replace(cp.standard_methods()[name], settings=settings), run.critics,
                              pairs, [0, 1])
        theirs = run.edit(pairs[:, 0].tolist(), pairs[:, 1].tolist(), groups=[1, 2], settings=settings,
                          progress=False).images
        assert np.array_equal(ours, theirs)


MODELS = ("critics", "linear", "regressor", "conditional", "decoder")


def fitted(run, folder, names=MODELS): return {name: cp._fit_model(run, name, folder / "models", False) for name in names}


def test_all_standard_methods_edit(run, folder):
    models, pairs = fitted(run, folder), run.split.test[:4].reshape(2, 2)
    trips = {}
    for name, method in cp.standard_methods().items():
        settings = replace(method.settings, gammas=(0.0, method.settings.gammas[-2]), steps=3, batch_size=3)
        images = cp._edit_trial(run, replace(method, settings=settings), models[method.model], pairs, [0, 1])
        assert images.shape == (2, 2, 2, 1, 32, 32) and np.isfinite(
            images).all() and 0 <= images.min() and images.max() <= 1, name
        assert not np.allclose(images[:, :, 0], images[:, :, 1], atol=1e-6), name
        if method.model in ("critics", "linear", "regressor"):
            trips.setdefault(method.settings.mode, []).append(images[:, :, 0])
    assert set(trips) == {"paper", "selective"}
    for same in trips.values():   # without guidance those of a mode are one
        for trip in same: np.testing.assert_allclose(trip, same[0], atol=1e-5)
    originals = run.recording.images[pairs[:, 0]][:, None]
    for trip in trips["selective"]:
        np.testing.assert_allclose(trip, np.broadcast_to(originals, trip.shape), atol=1e-5)


def test_fitted_models_are_kept(run, folder, monkeypatch):
    first = fitted(run, folder)
    def fail(*_, **__): raise AssertionError("trained again")
    for name in ("train_regressor", "train_decoder", "train_conditional"): monkeypatch.setattr(cp, name, fail)
    again = fitted(run, folder, MODELS[2:])
    for name, model in again.items():
        for a, b in zip(model.parameters(), first[name].parameters()): assert torch.equal(a, b)
    with pytest.raises(ValueError, match="must be 'critics'.*got 'critic'"): fitted(run, folder, ["critic"])


# --- curves and choices
# ---------------------------------------------------------------------------------------------------

def scores(rows):
    "A result with given values: (mode, group, gamma, attribute, quantity, value)."
    table = pd.DataFrame(rows, columns=["mode", "group", "gamma", "attribute", "quantity", "value"]).assign(
        low=lambda t: t["value"] - 0.1, high=lambda t: t["value"] + 0.2, n=9)
    return SelectivityResult(table[["mode", "group", "gamma"]].drop_duplicates().assign(pair=0), table,
                             pd.DataFrame(), {})


def hand_made():
    pose, category, rows = "Group 1 (pose)", "Group 2 (category)", []
    for mode, gamma, reached, kept in (("a", 0.0, 0.0, 1.0), ("a", 1.0, 0.4, 0.9), ("a", 2.0, 0.6, 0.6),
                                       ("a", 4.0, 0.9, 0.1), ("b", 0.0, 0.0, 1.0), ("b", 1.0, -0.2, 1.0),
                                       ("b", 2.0, math.nan, 0.9)):
        rows += [(mode, pose, gamma, "rotation", "moved", reached),
                 (mode, pose, gamma, "category", "kept", kept),
                 (mode, category, gamma, "category", "reached", reached / 2),
                 (mode, category, gamma, "position", "changed", 1 - kept)]
    return scores(rows)


def test_trade_off_is_the_harmonic_mean_of_reached_and_kept():
    curves = cp.trade_off(hand_made()).set_index(["group", "method", "gamma"])
    row = curves.loc["Group 1 (pose)", "a", 1.0]
    assert row["score"] == pytest.approx(2 * 0.4 * 0.9 / 1.3) and row["reached_low"] == pytest.approx(
        0.3) and row["kept_high"] == pytest.approx(1.1)
    # without a rotation the position stands in, turned round with its interval
    turned = curves.loc["Group 2 (category)", "a", 1.0]
    assert turned["kept"] == pytest.approx(0.9) and turned["kept_low"] == pytest.approx(
        0.7) and turned["kept_high"] == pytest.approx(1.0)
    assert curves.loc["Group 1 (pose)", "b", 1.0]["score"] == 0 and math.isnan(curves.loc["Group 1 (pose)",
                                                                                          "b", 2.0]["score"])


def test_each_method_gets_the_strength_with_the_best_score():
    chosen = cp._best_rows(cp.trade_off(hand_made()), BY).set_index(["group", "method"])["gamma"]
    assert chosen["Group 1 (pose)", "a"] == 2.0      # .6 against .554 and .18
    assert chosen["Group 2 (category)", "a"] == 2.0  # .4 against .327 and .164
    # nothing is reached: the smaller of equals, and never the round trip
    assert chosen["Group 1 (pose)", "b"] == 1.0
    assert list(chosen.index.get_level_values("method")) == ["a", "b", "a", "b"]


def test_groups_without_labels_have_no_trade_off():
    with pytest.raises(ValueError, match="no labels|has labels"):
        cp.trade_off(scores([("a", "Group 3 (no labels)", 0.0, "category", "kept", 1.0)]))
    assert [cp._part_of(g) for g in ("Group 1 (pose)", "Group 2 (category)", "Group 1 (position)",
                                     "Group 4 (no labels)")] == ["pose", "category", "position", "free"]


# --- comparison
# ----------------------------------------------------------------------------------------------------------

def test_comparison_holds_all_pairs_methods_and_strengths(comparison, run):
    assert comparison.result.modes == list(FEW) and comparison.settings["n_pairs"] == 5
    table = comparison.result.table
    counts = table.groupby("mode").size()
    assert all(counts[name] == 10 * 2 * len(cp.standard_methods()[name].settings.gammas) for name in FEW)
    assert set(table["group"]) == {"Group 1 (pose)", "Group 2 (category)"} and table["pair"].nunique() == 10
    assert (comparison.chosen["gamma"] > 0).all() and len(comparison.chosen) == 2 * len(FEW)
    assert comparison.seconds.set_index("method")["ratio"][cp._REFERENCE] == 1
    still = table[(table["gamma"] == 0) & table["mode"].str.startswith("MIG")]
    assert still["pixels_mean"].max() < 0.1 and (
        table[(table["gamma"] == 0)].groupby("mode")["pixels_mean"].mean().idxmax() == "latent traversal")


def test_table_has_every_measure_at_the_chosen_strength(comparison):
    table = comparison.table()
    measures = {"reached", "category kept", "identity kept", "rotation kept", "position changed",
                "size changed", "precision", "texture precision", "KID", "pixel distance", "feature distance",
                "time, relative"}
    assert set(table["measure"]) == measures
    assert not table.duplicated(["group", "method",
                                 "measure"]).any() and len(table) == 2 * len(FEW) * len(measures)
    merged = table.merge(comparison.chosen, on=["group", "method"], suffixes=("", "_chosen"))
    assert (merged["gamma"] == merged["gamma_chosen"]).all()
    with_interval = table[~table["measure"].isin(["time, relative"])].dropna(subset=["value"])
    assert (with_interval["low"] <= with_interval["value"]
            + 1e-9).all() and (with_interval["value"] <= with_interval["high"] + 1e-9).all()
    report = comparison.report()
    assert report.shape == (2 * len(FEW), len(measures)) and list(
        report.index.get_level_values("method")[:len(FEW)]) == list(FEW)
    s = comparison.result.scores.set_index(["mode", "group", "gamma", "attribute", "quantity"])["value"]
    row = comparison.chosen.iloc[3]
    assert (table.set_index(["group", "method", "measure"])["value"][row["group"], row["method"], "category "
                                                                                                  "kept"]
            == s[row["method"], row["group"], row["gamma"], "category", "kept"])


def test_the_report_says_from_how_many_edits_a_share_was_read():
    rows = [("g", "m", 1.0, "category kept", 0.5, 0.4, 0.6, 72),
            ("g", "m", 1.0, "rotation kept", 0.55, 0.4, 0.7, 55),
            ("g", "m", 1.0, "KID", 0.1, np.nan, np.nan, np.nan)]
    report = cp._report_table(pd.DataFrame(rows, columns=["group", "method", "gamma", "measure", "value",
                                                          "low", "high", "n"])).iloc[0]
    assert report.tolist() == ["0.50 [0.40, 0.60]", "0.55 [0.40, 0.70] (55 read)", "0.10"]


def test_an_interrupted_comparison_goes_on(run, judge, folder, comparison, monkeypatch):
    made = []
    original = cp._edit_trial
    monkeypatch.setattr(cp, "_edit_trial", lambda *a, **k: made.append(a) or original(*a, **k))
    monkeypatch.setattr(cp, "_time_methods", lambda *a, **k: comparison.seconds)
    again = cp.compare_methods(run, FEW, 5, (0, 1), judge=judge, folder=folder, **OPTIONS)
    assert not made and again.table().equals(comparison.table())
    more = cp.compare_methods(run, FEW[-1:], 5, (0, 2), judge=judge, folder=folder, **OPTIONS)
    # only the new seed; the folder may hold other comparisons of the run
    assert len(made) == 1 and more.result.modes == [FEW[-1]]


def test_comparison_is_saved_and_drawn(comparison, tmp_path):
    again = cp.Comparison.load(comparison.save(tmp_path / "saved"))
    pd.testing.assert_frame_equal(again.table(), comparison.table(), check_dtype=False)
    for a, b in zip(again.examples, comparison.examples):
        np.testing.assert_allclose(a.images, b.images, atol=1e-4)
    figure = again.plot()
    assert [ax.get_title().split("\n")[0] for ax in figure.axes] == ["Group 1 (pose)", "Group 2 (category)"]
    own = comparison.curves().merge(comparison.chosen,
                                    on=["group", "method", "gamma"]).query("group == 'Group 1 (pose)'")
    lengths = [bar.get_width() for bar in figure.axes[0].patches]
    np.testing.assert_allclose(lengths, [*own["reached"], *own["kept"]])
    five = again.figure_5(1)
    assert len(five.axes) == 4 and len([t for t in five.axes[1].texts if t.get_text()]) == 3 * len(FEW)
    np.testing.assert_allclose(five.axes[0].images[0].get_array()[:32],
                               comparison.examples[0].originals[1, 0], atol=1e-4)
    plt.close("all")
    with pytest.raises(ValueError, match="pair"): again.figure_5(9)
    with pytest.raises(FileNotFoundError, match="there is no file"): cp.Comparison.load(tmp_path)


def test_columns_rise_to_the_chosen_strength(comparison):
    edits, chosen = (comparison.examples[-1],
                     pd.DataFrame({"group": ["g"], "method": [comparison.examples[-1].mode], "gamma": [0.3]}))
    assert cp._rising(edits, "g", chosen) == [2, 3, 4]
    assert cp._rising(edits, "g", chosen.assign(gamma=0.05)) == [1, 2, 3] and cp._rising(edits, "g", chosen[:0]) == [3, 4, 5]


# --- ablations
# -----------------------------------------------------------------------------------------------------------

PLAIN = ab.Variant(EditSettings(gammas=(0.0, 0.3)))


@pytest.fixture(scope="module")
def ablations(run, judge, folder):
    variants = {
        "hold": {"0": ab.Variant(replace(PLAIN.settings, hold=0.0)), "1": PLAIN},
        "steps": {"2": ab.Variant(replace(PLAIN.settings, steps=2)), "3": PLAIN},
        "groups": {"2": replace(PLAIN, name="G2", groups=(12, 12)), "4": PLAIN}}
    return ab.ablate(run, variants, 4, judge=judge, folder=folder, min_angle=10, steps=3, n_boot=20,
                     progress=False)


def test_ablations_change_one_thing(ablations, run, folder):
    table = ablations.table()
    assert list(dict.fromkeys(table["value"])) == ["hold 0", "hold 1", "steps 2", "steps 3",
                                                   "groups 2", "groups 4"]
    base = [table[table["value"] == v].drop(columns=["ablation", "value"]).reset_index(drop=True)
            for v in ("hold 1", "steps 3", "groups 4")]
    pd.testing.assert_frame_equal(base[0], base[1]), pd.testing.assert_frame_equal(base[0], base[2])
    assert sum("-run-" in p.name
               for p in (folder / "ablation-edits").iterdir()) == 3, "the unchanged ones are one"
    for name in ("hold", "steps", "groups"):
        one, other = (e.images[:, :, 1] for e in ablations.examples[name])
        assert np.abs(one - other).mean() > 1e-4, name
    z, critics = ab._refit(run, replace(PLAIN, name="G2", groups=(12, 12)), folder / "models", False)
    assert z.shape == (200, 24) and [len(g) for g in critics.groups] == [12, 12]
    best = ablations.best()
    assert len(best) == 12 and (best["gamma"] > 0).all()


def test_ablations_are_saved_and_drawn(ablations, tmp_path):
    again = ab.Ablations.load(ablations.save(tmp_path))
    pd.testing.assert_frame_equal(again.table(), ablations.table(), check_dtype=False)
    bars = again.plot().axes[0].patches
    assert len(bars) == 2 * again.best()["value"].nunique()
    figure = again.figure("groups", 1)
    names = [ax.get_title() for ax in figure.axes]
    assert names[0] == "original" and names[-1] == "target" and len(names) == 4
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["groups 2", "groups 4"]
    plt.close("all")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        ab.Ablations.load(tmp_path / "nowhere")


def test_standard_ablations_cover_the_choices_and_share_models(run):
    known = ab.standard_ablations(run)
    assert {"hold", "scale", "critic", "depth", "negatives", "groups", "steps"} <= set(known)
    for name, variants in known.items(): assert len(variants) > 1, name
    assert set(known["groups"]) == {"2", "3", "4", "6", "8"} and str(run.preset.t_edit) in known["depth"]
    assert all(v.settings.mode == "selective" for variants in known.values() for v in variants.values())


def test_other_critics_are_fitted_with_what_was_asked(run, tmp_path):
    z, clean = ab._refit(run, ab.Variant(name="clean", critic={"noise_aware": False}), tmp_path, False)
    assert not clean.noise_aware and torch.equal(z, run.latents())
    _, few = ab._refit(run, ab.Variant(name="B2", training={"n_negatives": 1}), tmp_path, False)
    assert few.noise_aware and any(not torch.equal(a, b) for a, b in zip(few.parameters(),
                                                                         run.critics.parameters()))
    assert {p.name for p in tmp_path.glob("*.safetensors")} == {"critics-clean.safetensors",
                                                                "critics-B2.safetensors"}


# --- one command, bad input
# ---------------------------------------------------------------------------------------------

def test_main_writes_figures_and_tables(run, judge, folder, ablations, comparison):
    written = ab._main(run, folder, FEW, (), n_pairs=5, seeds=(0, 1), n_validation=4,
                                     min_angle=10.0, steps=3, judge=judge, progress=False)
    names = {p.name for p in written}
    assert {"trade-off.png", "figure-5-1.png", "comparison-table.csv"} <= names
    assert all(p.stat().st_size > 500 for p in written)
    again = ab._main(run, folder, (), ["hold"], n_ablation=4, min_angle=10.0, steps=3,
                                   judge=judge, progress=False)
    assert {"ablations.png", "ablation-table.csv"} <= {p.name for p in again} and "trade-off.png" not in {
        p.name for p in again}


def test_bad_input_is_refused_early(run, judge, folder, comparison):
    with pytest.raises(ValueError, match="unknown methods"):
        cp.compare_methods(run, ["BrainDiVE"], judge=judge, folder=folder)
    with pytest.raises(ValueError, match="at least one method"): cp.compare_methods(run, [], judge=judge, folder=folder)
    with pytest.raises(ValueError, match="strength above 0"):
        cp._ready(run, {"x": ab.Variant(EditSettings("paper", gammas=(0.0,)))}, None, "float32")
    with pytest.raises(ValueError, match="seeds"):
        cp.compare_methods(run, FEW[-1:], 2, (0, 0), judge=judge, folder=folder, **OPTIONS)
    with pytest.raises(ValueError, match="only .* pairs found"):
        cp.compare_methods(run, FEW[-1:], 18, (0,), judge=judge, folder=folder,
                           **OPTIONS | {"min_angle": 179.0})
    with pytest.raises(ValueError, match="not fitted"):
        cp.compare_methods(MIGVis("tiny"), FEW[-1:], judge=judge, folder=folder)
    with pytest.raises(ValueError, match="not fitted"): ab.ablate(MIGVis("tiny"), folder=folder)
    with pytest.raises(ValueError, match="unknown ablations"):
        ab.ablate(run, ["holding"], folder=folder)
    with pytest.raises(ValueError, match="at least one ablation"):
        ab.ablate(run, [], folder=folder)
    other = MIGVis(DEEPER, seed=2, device="cpu")
    other.recording, other.denoiser, other.vae, other.split, other.critics = (run.recording, run.denoiser,
                                                                              run.vae, run.split, run.critics)
    with pytest.raises(ValueError, match="another run"):
        cp.compare_methods(other, FEW[-1:], 4, (0,), judge=judge, folder=folder, **OPTIONS)


@pytest.mark.parametrize("options, match", [
    (dict(n_pairs=500), "n_pairs must be from 4 to 18 .two of 40 test images.*got 500"),
    (dict(n_validation=32), "n_validation must be from 4 to 8"),
    (dict(seeds=()), "seeds must be distinct, at least one"), (dict(steps=0), "steps"),
    (dict(precision="half"), "precision must be one of"),
    (dict(ablations=["holding"]), "unknown ablations"),
    (dict(ablations=["hold"], n_ablation=21), "n_ablation must be from 4 to 18")])
def test_what_cannot_be_compared_is_refused_before_a_judge_is_trained(run, tmp_path, monkeypatch, options, match):
    monkeypatch.setattr(cp, "_judge_for", lambda *_: pytest.fail("a judge was trained"))
    with pytest.raises(ValueError, match=match):
        ab._main(run, tmp_path, FEW[-1:], **dict(n_pairs=5, n_validation=4) | options)
    with pytest.raises(ValueError, match="n_pairs must be from 4 to 18"):
        ab.ablate(run, n_pairs=21, folder=tmp_path)


# --- what must not be rewarded or mistaken
# ---------------------------------------------------------------------------------

def test_a_strength_whose_edits_cannot_be_read_is_not_chosen():
    result = hand_made()
    ruined = result.scores["gamma"].eq(4.0) & result.scores["group"].eq(
        "Group 1 (pose)") & result.scores["attribute"].eq("category")
    # kept, as far as one edit tells
    table = result.scores.assign(value=result.scores["value"].where(~ruined, 1.0),
                                 n=result.scores["n"].where(~ruined, 1))
    curves = cp.trade_off(replace(result, scores=table)).set_index(["group", "method", "gamma"])
    assert math.isnan(curves.loc["Group 1 (pose)", "a", 4.0]["score"])
    assert cp._best_rows(curves.reset_index(), BY).set_index(
        ["group", "method"])["gamma"]["Group 1 (pose)", "a"] == 2.0


def test_few_images_left_as_real_are_told_before_anything_is_made():
    model = SimpleNamespace(split=SimpleNamespace(test=np.arange(100)),
                            recording=SimpleNamespace(images=np.arange(100)))
    trial = lambda *pairs: SimpleNamespace(pairs=np.array(pairs))
    with pytest.warns(UserWarning, match="leave 30 of 100"):
        assert len(cp._unused_images(model, [trial(*[(i, i + 35) for i in range(35)])])) == 30
    with pytest.raises(ValueError, match="leave 2 of 100.*fewer pairs"):
        cp._unused_images(model, [trial(*[(i, i + 49) for i in range(49)])])


def test_stored_edits_know_their_editor_and_model():
    a, b = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    method = cp.standard_methods()["AP-LR"]
    assert cp._made_by(method, a) == cp._made_by(method, a) != cp._made_by(method, b)
    assert cp._made_by(replace(method, make=print),
                       a) != cp._made_by(method, a) != cp._made_by(replace(method, model="other"), a)
    trial = cp._Trial("test", 0, np.array([[1, 2]]))
    assert cp._file_name(trial, "guide 1.0", {}) != cp._file_name(trial, "guide 1-0", {})
