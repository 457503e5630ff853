"""Figures from a run: which there are, what they are drawn from, and what is said where results are missing."""
import copy
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

matplotlib.use("Agg")
from migvis import MIGVis, gallery, simulate_hvm, stimulus_information
from migvis.cli import main
from migvis.comparison import Ablations, Comparison
from migvis.edit_selectivity import SelectivityResult, StoredEdits
from migvis.stimulus_information import InformationResult
from migvis.training import get_preset
from migvis.vae import Categorical, ablation, fit_vae

TINY = get_preset("tiny")
SMALL = replace(TINY, vae=replace(TINY.vae, steps=30, seeds=2), critic=replace(TINY.critic, steps=10), denoiser=replace(TINY.denoiser, steps=8), t_edit=30)
GROUPS, GAMMAS = ("Group 1 (pose)", "Group 2 (category)"), (0.0, 1.0, 2.0)
rng = np.random.default_rng(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory): return tmp_path_factory.mktemp("runs") / "run"


@pytest.fixture(scope="module")
def run(folder):
    return MIGVis(SMALL, seed=1, device="cpu").fit(simulate_hvm(400, size=32, subject="M1", seed=3, progress=False), out=folder, progress=False)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def texts(figure): return [t.get_text() for part in (figure, *figure.axes) for t in part.texts] + [ax.get_title() for ax in figure.axes]


def pictures(figure): return [np.asarray(ax.images[0].get_array()) for ax in figure.axes if ax.images]


def result(modes):
    keys = [(mode, group, gamma) for mode in modes for group in GROUPS for gamma in GAMMAS]
    wanted = {GROUPS[0]: (("rotation", "moved"), ("category", "kept")), GROUPS[1]: (("category", "reached"), ("rotation", "kept"))}
    rows = [(*key, *what, 0.5, 0.4, 0.6, 9) for key in keys for what in wanted[key[1]]]
    realism = pd.DataFrame([(*key, 0.1, 0.01, 0.1) for key in keys], columns=["mode", "group", "gamma", "kid", "kid_sd", "texture_kid"])
    scores = pd.DataFrame(rows, columns=["mode", "group", "gamma", "attribute", "quantity", "value", "low", "high", "n"])
    return SelectivityResult(realism[["mode", "group", "gamma"]].assign(pair=0), scores, realism, {})


def examples(modes):
    make = lambda *shape: np.round(rng.random((2, *shape, 1, 8, 8)) * 65535) / 65535
    return tuple(StoredEdits(make(2, 3), make(), make(), GAMMAS, GROUPS, mode) for mode in modes)


SETTINGS = {"caption": "random pixels", "example_pairs": [[0, 1], [2, 3]]}


@pytest.fixture
def comparison(tmp_path):
    modes = ["a", "b", "c"]
    chosen = pd.DataFrame([(g, m, 2.0) for g in GROUPS for m in modes], columns=["group", "method", "gamma"])
    made = Comparison(result(modes), chosen, pd.DataFrame({"method": modes, "seconds": 1.0, "ratio": 1.0}), examples(modes), SETTINGS)
    made.save(tmp_path / "run" / "comparison" / "methods")
    return made


@pytest.fixture
def ablations(tmp_path):
    values = {"groups": ["groups 2", "groups 4"], "hold": ["hold 0", "hold 1"]}
    made = Ablations({k: result(v) for k, v in values.items()}, {k: examples(v) for k, v in values.items()}, SETTINGS)
    made.save(tmp_path / "run" / "comparison" / "ablations")
    return made


def test_every_figure_and_table_of_the_paper_is_there():
    paper = {f"figure_{k}" for k in (1, 2, 3, 4, 5, 6, "7a", "7b", 8, 9, 10, 11, 12)} | {f"table_{k}" for k in (1, 2, 3, 4)}
    assert paper < set(gallery.FIGURES)


def test_figures_of_a_run_are_written_and_others_say_what_they_need(run, folder, tmp_path):
    made = gallery.make_figures(run, tmp_path, formats=["png"], progress=False, folder=folder)
    assert list(made) == list(gallery.FIGURES)
    missing = {"figure_5", "figure_9", "figure_10", "trade_off", "ablations", "selectivity", "pixel_information", "table_1"}
    for name, files in made.items():
        if name in missing: assert files.startswith("left out: "), name
        else: assert [f.name for f in files] == [f"{name}.png"] and plt.imread(files[0]).std() > 0.05, name
    assert f"migvis compare --run {folder} --out {folder}/comparison" in made["figure_5"] and "--ablations" in made["figure_9"]
    assert f"migvis selectivity --run {folder}" in made["selectivity"] and made["pixel_information"].endswith(f"migvis information --run {folder}")
    assert "'standard VAE'" in made["table_1"] and made["table_1"].endswith(f"migvis scores --run {folder}") and not plt.get_fignums()


def test_asking_for_what_is_not_there_is_an_error(run, folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="migvis compare --run RUN --out RUN/comparison"): gallery.make_figures(run, tmp_path, ["figure_5"], progress=False)
    with pytest.raises(ValueError, match="figure_13"): gallery.make_figures(run, tmp_path, ["figure_13"], progress=False)
    with pytest.raises(ValueError, match=r"variants .* migvis scores --run \S+run$"): gallery.make_figures(run, tmp_path, ["table_1"], folder=folder, progress=False)
    assert not list(tmp_path.iterdir())


def test_stored_comparison_is_drawn(comparison, tmp_path):
    made = gallery.make_figures(None, tmp_path / "out", ["figure_5", "trade_off"], ["png"], progress=False, folder=tmp_path / "run")
    assert [f.name for files in made.values() for f in files] == ["figure_5.png", "trade_off.png"] and all(f.is_file() for files in made.values() for f in files)
    figure = gallery.figure_5(tmp_path / "run", pair=1)
    assert {"a", "b", "c"} <= set(texts(figure)) and any("random pixels" in t for t in texts(figure))
    shown = pictures(figure)
    for edits in comparison.examples: # the chosen strength of each group is shown
        for wanted in (*edits.images[1, :, 2, 0], edits.originals[1, 0], edits.targets[1, 0]):
            assert min(np.abs(picture - wanted).max() for picture in shown) < 1e-4
    assert len(gallery.figure_trade_off(tmp_path / "run").axes) == 2


def test_command_finds_results_in_the_run(run, folder, comparison, tmp_path, capsys):
    command = ["figures", "--run", str(folder), "--out", str(tmp_path / "out"), "--only", "figure_5", "--formats", "png", "--device", "cpu", "--quiet"]
    assert main(command) == 2 and f"make it with: migvis compare --run {folder}" in capsys.readouterr().err
    shutil.copytree(tmp_path / "run" / "comparison", folder / "comparison")
    try: assert main(command) == 0 and capsys.readouterr().out.strip() == f"figure_5: {tmp_path / 'out' / 'figure_5.png'}"
    finally: shutil.rmtree(folder / "comparison")


def test_stored_ablations_are_drawn(ablations, tmp_path):
    figure = gallery.figure_9(tmp_path / "run")
    assert {"groups 2", "groups 4"} <= set(texts(figure)) and len(pictures(figure)) == 2 * (1 + 2 * 2 + 1)
    assert len(gallery.figure_ablations(tmp_path / "run").axes) == 2 * 2
    with pytest.raises(ValueError, match="without 'negatives'"): gallery.figure_10(tmp_path / "run")


def test_selectivity_is_read_from_the_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="selectivity"): gallery.figure_selectivity(tmp_path)
    (tmp_path / "selectivity").mkdir()
    with pytest.raises(FileNotFoundError, match="table.csv"): gallery.figure_selectivity(tmp_path)


def information(n, scale):
    map_ = scale * rng.random((n, 1, 8, 8))
    total = map_.sum((1, 2, 3))
    return InformationResult(map_, map_ / 9, total, total / 9, np.ones(3), np.ones((n, 3)), np.zeros(n), "bits", "made up")


def test_information_is_kept_and_drawn(tmp_path):
    images, results = rng.random((3, 1, 8, 8)).astype(np.float32), {"Group 1": information(3, 1.0), "all": information(3, 0.01)}
    with pytest.raises(FileNotFoundError, match="make it with: migvis information --run"): gallery.figure_pixel_information(tmp_path)
    gallery.save_information(tmp_path, images, results, "made up")
    figure = gallery.figure_pixel_information(tmp_path)
    shown, wanted = pictures(figure), [*images, *results["Group 1"].map, *results["all"].map]
    assert len(shown) == 9
    for a, b in zip(shown, wanted): np.testing.assert_allclose(a, b[0], rtol=1e-6)
    assert {f"{t:.2f} bits" for t in results["all"].total} <= set(texts(figure)) and "made up" in texts(figure)
    tops = [ax.images[0].get_clim()[1] for ax in figure.axes]
    assert tops[3] > 50 * tops[6] > 0 # a scale for each row


# Tables

def scores(variants):
    rows = [(v, s, 0.5 + 0.01 * s, 0.6, 0.3, 0.4, 0.2, 0.9, 0.1, 0.95, "M1") for v in variants for s in range(3)]
    return pd.DataFrame(rows, columns=["variant", "seed", "r2", "rmse", "mig", "group_mig", "r2_supervised", "rmse_supervised", "r2_unsupervised",
                                       "rmse_unsupervised", "subject"])


def test_tables_show_the_run_beside_the_paper(run, tmp_path):
    scores(["standard VAE", "labels", "PC", "full", "migvis"]).to_csv(tmp_path / "scores.csv")
    shown = [texts(gallery.draw_table(run, tmp_path, k)) for k in (1, 2, 3, 4)]
    for k, own, paper in [(0, "51.00 ± 1.00", "78.62 ± 0.58"), (1, "30.00 ± 0.00", "44.23 ± 0.61"), (2, "20.00 ± 0.00", "32.50 ± 0.19"), (3, "10.00 ± 0.00", "20.88 ± 0.25")]:
        assert own in shown[k] and paper in shown[k] and any("simulated" in t and "tiny preset" in t and "3 members" in t for t in shown[k]), k
    assert {"without PC", "without labels"} <= set(shown[0])


def test_scores_are_kept_with_the_run(run, tmp_path):
    made = gallery.member_scores(run, tmp_path)
    assert set(made["subject"]) == {"M1"} and len(made) == 2 and {"r2_supervised", "rmse_unsupervised", "mig"} <= set(made)
    reconstructed, x = run.vae.reconstruct, run.vae.standardizer.transform(run.recording.select(images=run.split.test).responses)
    for member in (0, 1): # R^2 of the labelled groups, over all units, spelt out
        predicted = reconstructed(run.recording.select(images=run.split.test), member, (0, 1))
        assert made["r2_supervised"][member] == pytest.approx(float(np.mean(1 - ((x - predicted) ** 2).sum(0) / ((x - x.mean(0)) ** 2).sum(0))), abs=0.02)
    assert [p.name for p in tmp_path.iterdir()] == ["members.csv"], "scores.csv is for what `migvis scores` makes"
    for name, r2 in (("members.csv", 0.123), ("scores.csv", 0.456)): # the second goes before the first
        made.assign(r2=r2).to_csv(tmp_path / name, index=False)
        assert set(gallery.member_scores(run, tmp_path)["r2"]) == {r2}
    with pytest.raises(ValueError, match="migvis scores --run .* --again$"): gallery.draw_table(run, tmp_path, 1)


# Scores of variants

LITTLE = replace(SMALL, image_size=16, vae=replace(SMALL.vae, groups=(3, 3)), denoiser=replace(SMALL.denoiser, image_size=16, width=8))
COMMON = ["--device", "cpu", "--quiet"]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("little") / "run"
    return MIGVis(LITTLE, seed=2, device="cpu").fit(simulate_hvm(200, size=16, subject="M2", seed=4, progress=False), out=folder, progress=False), folder


@pytest.fixture
def little(fitted, tmp_path):
    return fitted[0], Path(shutil.copytree(fitted[1], tmp_path / "run"))


def test_scores_command_fits_every_variant_and_its_tables_are_drawn(little, tmp_path, capsys):
    model, folder = little
    command = ["scores", "--run", str(folder), "--seeds", "2", "--steps", "20", *COMMON]
    assert main(command) == 0
    printed, made = capsys.readouterr().out, pd.read_csv(folder / "scores.csv")
    assert "standard VAE" in printed and str(folder / "scores.csv") in printed and not (folder / "scores.checkpoints").exists()
    wanted = ablation(LITTLE.vae)
    assert {(v, s) for v, s in zip(made["variant"], made["seed"])} == {(v, s) for v in wanted for s in (0, 1)} and set(made["subject"]) == {"M2"}
    for row in made.itertuples(): assert (row.beta, row.label_weight) == (wanted[row.variant]["beta"], wanted[row.variant]["label_weight"])
    train, validation, test = (model.recording.select(images=getattr(model.split, part)) for part in ("train", "validation", "test"))
    peer = fit_vae(train, validation, replace(LITTLE.vae, steps=20), seeds=2, variants=wanted, device="cpu", progress=False)
    x = peer.standardizer.transform(test.responses)
    for member in range(len(made)): # R^2 of the run's test images, spelt out
        predicted = peer.reconstruct(test, member)
        assert made["r2"][member] == pytest.approx(float(np.mean(1 - ((x - predicted) ** 2).mean(0) / x.var(0))), abs=1e-3)
    drawn = ["figures", "--run", str(folder), "--out", str(tmp_path / "out"), "--only", "table_1", "table_2", "--formats", "png", *COMMON]
    assert main(drawn) == 0 and all(plt.imread(tmp_path / "out" / f"table_{k}.png").std() > 0.05 for k in (1, 2))
    assert {"standard VAE", "without PC", "without labels", "full", "83.72 ± 0.47"} <= set(texts(gallery.draw_table(model, folder, 1)))
    before = (folder / "scores.csv").read_bytes()
    assert main(command) == 2 and "--again" in capsys.readouterr().err and (folder / "scores.csv").read_bytes() == before
    assert main([*command, "--again", "--seeds", "1"]) == 0 and len(pd.read_csv(folder / "scores.csv")) == 5


def test_interrupted_scores_go_on(little, monkeypatch):
    model, folder = little
    def stop(*_): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(gallery, "score_run", stop)
        with pytest.raises(KeyboardInterrupt): gallery.make_scores(model, folder, 1, 4, progress=False)
    assert list((folder / "scores.checkpoints").iterdir()) and not (folder / "scores.csv").exists()
    trained = []
    monkeypatch.setattr(gallery, "fit_vae", lambda *a, **kw: fit_vae(*a, callback=lambda step, *_: trained.append(step), **kw))
    monkeypatch.setattr(gallery, "score_members", lambda vae, *_, **__: vae.members)
    gallery.make_scores(model, folder, 1, 4, progress=False)
    assert trained == [] and (folder / "scores.csv").is_file() and not (folder / "scores.checkpoints").exists()


def test_variants_are_fitted_as_the_run_was(fitted, monkeypatch):
    model, told = copy.copy(fitted[0]), {}
    by_category = fit_vae(model.recording, config=replace(LITTLE.vae, steps=1), supervision=(Categorical(group=1),), seeds=1, likelihood="poisson",
                          device="cpu", progress=False)
    model.vae, model.options = by_category, {"estimator": "'mss'", "likelihood": "'poisson'"}
    monkeypatch.setattr(gallery, "fit_vae", lambda *parts, **options: told.update(options, parts=parts))
    gallery.fit_variants(model, seeds=3)
    train, validation, config = told["parts"]
    assert (told["supervision"], told["likelihood"], told["estimator"], told["seeds"]) == ((Categorical(group=1),), "poisson", "mss", 3)
    assert config == LITTLE.vae and (len(train), len(validation)) == (len(model.split.train), len(model.split.validation))
    np.testing.assert_array_equal(train.responses, model.recording.responses[model.split.train])


@pytest.mark.parametrize("wrong, told", [({"seeds": 0}, "seeds must be at least 1, got 0"), ({"steps": 0}, "steps must be at least 1, got 0")])
def test_scores_refuse_numbers_below_one(little, wrong, told):
    with pytest.raises(ValueError, match=told): gallery.make_scores(*little, progress=False, **wrong)
    assert not (little[1] / "scores.csv").exists() and not (little[1] / "scores.checkpoints").exists()


# Information

def test_information_command_maps_groups_and_its_figure_is_drawn(little, tmp_path, capsys):
    model, folder = little
    command = ["information", "--run", str(folder), "--n-images", "2", "--steps", "2", "2", *COMMON]
    assert main(command) == 0
    out, notes = capsys.readouterr()
    assert "about an image" in out and "nats" in out and str(folder / "information") in out and "migvis: note: " in notes and "held-out pairs show" in notes
    images, maps, unit, caption = gallery.load_information(folder / "information")
    assert list(maps) == [*model.group_names, "All groups"] and unit == "bits" and "held-out" in caption and "tiny preset" in caption
    np.testing.assert_array_equal(images, model.recording.images[gallery.varied(model, 2)].astype(np.float32))
    for values, total in maps.values(): assert values.shape == (2, 1, 16, 16) and np.isfinite(values).all() and (total > 0).all()
    assert not (folder / "information.checkpoints").exists()
    drawn = ["figures", "--run", str(folder), "--out", str(tmp_path / "out"), "--only", "pixel_information", "--formats", "png", *COMMON]
    assert main(drawn) == 0 and plt.imread(tmp_path / "out" / "pixel_information.png").std() > 0.05
    assert main(command) == 2 and "--again" in capsys.readouterr().err


def learned(bound, totals):
    "What `fit_groups` returns, with known maps in nats."
    scaled = {name: information(2, 1.0) for name in totals}
    results = {name: replace(r, unit="nats", map=r.map * total / r.total[:, None, None, None], total=np.full(2, total)) for (name, r), total in
               zip(scaled.items(), totals.values())}
    return SimpleNamespace(bound=bound, maps=lambda images, **_: results)


@pytest.mark.parametrize("bound, total, told", [(0.01, 0.011, "near 0"), (1.0, 3.0, "inflated by overfitting"), (1.0, 0.2, "needs more steps"), (1.0, 1.1, None)])
def test_information_is_learned_from_train_and_test_images_and_doubted(little, monkeypatch, bound, total, told):
    (model, folder), asked = little, {}
    def fit_groups(base, train, held_out, groups, **options):
        asked.update(options, base=base, parts=(train, held_out), groups=groups)
        return learned(bound, {"group 1": total / 2, "all": total})
    monkeypatch.setattr(stimulus_information, "fit_groups", fit_groups)
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        found, results = gallery.make_information(model, folder, 2, (3, 4), seed=5, progress=False)
    assert [told in str(note.message) for note in notes] == [True] * bool(told)
    assert found == bound and list(results) == [model.group_names[0], "All groups"]
    np.testing.assert_allclose(results["All groups"].total, total / np.log(2)) # bits
    assert asked["base"] is model.denoiser and asked["groups"] == model.vae.groups and (asked["steps"], asked["seed"]) == ((3, 4), 5)
    mean, log_var = model.vae.posterior(model.recording)
    for (images, *posterior), rows in zip(asked["parts"], (model.split.train, model.split.test)):
        np.testing.assert_array_equal(images, model.recording.images[rows])
        for part, whole in zip(posterior, (mean, log_var)): np.testing.assert_array_equal(part, whole[rows])


@pytest.mark.parametrize("wrong, told", [({"steps": (0, 3)}, "steps must be two numbers"), ({"steps": (3,)}, "steps must be two numbers"),
                                         ({"n_images": 0}, "n_images must be from 1 to the"), ({"n_images": 999}, "n_images must be from 1 to the")])
def test_information_refuses_numbers_that_cannot_be_meant(little, wrong, told):
    with pytest.raises(ValueError, match=told): gallery.make_information(*little, progress=False, **wrong)
    assert not (little[1] / "information").exists() and not (little[1] / "information.checkpoints").exists()


def test_mapped_images_are_of_many_categories(fitted):
    model = fitted[0]
    shown, labels = gallery.varied(model, 8), model.recording.labels["category"]
    there = set(labels.iloc[model.split.validation])
    assert set(shown) <= set(model.split.validation) and len(set(shown)) == 8 and len(set(labels.iloc[shown])) == min(8, len(there))
    np.testing.assert_array_equal(gallery.varied(model, 3), shown[:3])


# Images

def test_images_are_of_the_category_and_turned_as_asked(run):
    labels, test = run.recording.labels, set(np.asarray(run.split.test).tolist())
    for category in set(labels["category"].iloc[sorted(test)]):
        frontal, oblique = (gallery.find_image(run, category, frontal) for frontal in (True, False))
        members = [i for i in test if labels["category"].iloc[i] == category]
        length = {i: float(np.linalg.norm(labels[["rxy", "rxz", "ryz"]].iloc[i])) for i in members}
        assert length[frontal] == min(length.values()) and abs(length[oblique] - 45) == min(abs(v - 45) for v in length.values())
    assert gallery.find_image(run, "no such category") in test


@pytest.mark.parametrize("labels", [lambda n: {"category": ["own"] * n}, lambda n: {"category": np.arange(n) % 3},
                                    lambda n: {"category": ["Faces", "tools"] * (n // 2), "rxy": [np.nan, 3.0, np.nan, np.nan] * (n // 4), "rxz": 0.0}],
                         ids=["one", "numbers", "poses are missing"])
def test_own_recordings_are_edited_toward_another_image(run, labels):
    own = copy.copy(run)
    own.recording = replace(run.recording, labels=pd.DataFrame(labels(len(run.recording))))
    own.latents = run.latents # the images are the same
    category = own.recording.labels["category"]
    for wanted in [(("Faces", "Tables"), "Fruits"), (("Cars", "Animals"), "Planes"), (("Chairs", "Boats"), "Cars"), (("Cars",), "Chairs"), (("Tables",), "Planes")]:
        originals, target = gallery.find_pair(own, *wanted)
        assert len({*originals, target}) == len(originals) + 1 and {*originals, target} <= set(own.split.test.tolist())
        assert len(set(category[[*originals, target]])) == min(len(originals) + 1, category.nunique())
    angles = gallery.turned(own.recording.labels)
    if np.isfinite(angles).any():
        assert angles[gallery.find_image(own, "tools")] == 3
    else:
        figure = gallery.figure_overview(own, n=2, gammas=(0.0,), steps=3)
        assert not any("front" in t or "turned" in t for t in texts(figure))


def test_overview_shows_recorded_images_and_edits(run):
    figure = gallery.figure_overview(run, gammas=(0.0, 0.3), steps=3)
    shown = pictures(figure)
    assert len(shown) == 4 + 2 + 4 * 2
    assert all(min(np.abs(picture - image[0]).max() for image in run.recording.images) < 1e-6 for picture in shown[:4])
    assert sum("turned" in t or "from the front" in t for t in texts(figure)) == 4 and "In: a recording" in texts(figure)


@pytest.mark.parametrize("bound, total, told", [(3.0, 2.5, []), (0.1, 0.1, ["near 0"]), (-0.5, 0.3, ["near 0"]), (1.0, 2.1, ["inflated"]), (1.0, 0.4, ["more steps"])])
def test_one_doubt_for_each_way_in_which_maps_can_fail(bound, total, told):
    found = gallery.doubts(bound, total)
    assert len(found) == len(told) and all(word in text for word, text in zip(told, found))


def test_a_recording_without_a_name_has_tables(run, tmp_path):
    nameless = copy.copy(run)
    nameless.recording = replace(run.recording, name="")
    for _ in range(2): # the second time from what the first one kept
        assert set(gallery.member_scores(nameless, tmp_path)["subject"]) == {"recording"}
    pd.read_csv(tmp_path / "members.csv").assign(subject="").to_csv(tmp_path / "members.csv", index=False) # as it used to be
    assert set(gallery.member_scores(nameless, tmp_path)["subject"]) == {"recording"}
    gallery.draw_table(nameless, tmp_path, 2)
    assert "recording ;" not in nameless.caption("paper") and nameless.caption("paper").startswith("simulated recording;")


def test_one_name_is_one_figure_and_formats_are_known_before_it_is_drawn(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setitem(gallery.FIGURES, "figure_4", lambda *_: drawn.append(1) or plt.figure())
    with pytest.raises(ValueError, match="formats must be among .*png.* got .'gif87'"): gallery.make_figures(None, tmp_path, "figure_4", ["gif87"], progress=False)
    with pytest.raises(ValueError, match="at least one"): gallery.make_figures(None, tmp_path, "figure_4", [], progress=False)
    assert not drawn
    assert gallery.make_figures(None, tmp_path, "figure_4", "png", progress=False) == {"figure_4": [tmp_path / "figure_4.png"]}
