"""Figures from a run: which there are, what they are drawn from, and what is said where results are missing."""
import html
import copy
import io
import re
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
from PIL import Image

matplotlib.use("Agg")
from migvis.beyond import group_information
from migvis.beyond.stimulus_information import InformationResult
from migvis.cli import main
from migvis.compare.ablations import Ablations, ablation
from migvis.compare.methods import Comparison
from migvis.support.edits import Edits
from migvis.measure.edits import SelectivityResult
from migvis.partial_correlation import GroupPenalty
from migvis.show import gallery
from migvis.show.frames import _varied_images
from migvis.support.files import digest_weights, load_record, save_record
from migvis.show.gallery import FIGURES, draw_figure, make_figures
from migvis.vae import fit_vae
from tests.made import SMALL
from tests.test_figures import pictures, texts
from tools.draw_gallery import draw_missing

GROUPS, GAMMAS = ("Group 1 (pose)", "Group 2 (category)"), (0.0, 1.0, 2.0)
COMMON = ["--device", "cpu", "--quiet"]
rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture
def own(folder, model, tmp_path):
    "A copy of the run's folder, to write to."
    return Path(shutil.copytree(folder, tmp_path / "run"))


# Names

def test_every_figure_and_table_of_the_paper_is_there():
    parts = {f"figure_{k}{part}" for k in (1, 3, 4, 6, 7, 11, 12) for part in "ab"}
    paper = parts | {f"figure_{k}" for k in (2, 5, 8, 9, 10)} | {f"table_{k}" for k in (1, 2, 3, 4)}
    assert paper < set(FIGURES)


def test_figures_are_found_by_number_and_by_name():
    asked = {"7A": ["figure_7a"], "7a": ["figure_7a"], "figure_7b": ["figure_7b"], "Table 1": ["table_1"], "methods": ["methods"],
             "1": ["figure_1a", "figure_1b"], "4": ["figure_4a", "figure_4b"], "figure_12": ["figure_12a", "figure_12b"], "10": ["figure_10"]}
    for name, found in asked.items(): assert gallery._figure_names(name) == found
    for name in ("13", "figure", "4c", "", "."):
        with pytest.raises(ValueError, match="no figure .*; there are .*figure_1a"): draw_figure(None, name)
    with pytest.raises(ValueError, match="figure '4' has the parts .'figure_4a', 'figure_4b'"): draw_figure(None, "4")


def test_one_name_is_one_figure_and_formats_are_known_before_it_is_drawn(tmp_path, monkeypatch):
    made = []
    for part in "ab": monkeypatch.setitem(FIGURES, f"figure_4{part}", ("a figure", lambda *_: made.append(1) or plt.figure()))
    with pytest.raises(ValueError, match="formats must be among .*png.* got .'gif87'"): make_figures(None, tmp_path, "4", ["gif87"], progress=False)
    with pytest.raises(ValueError, match="at least one"): make_figures(None, tmp_path, "4", [], progress=False)
    assert not made
    assert make_figures(None, tmp_path, "4", "png", progress=False) == {f"figure_4{part}": [tmp_path / f"figure_4{part}.png"] for part in "ab"}


# From a run

def test_figures_of_a_run_are_written_and_others_say_what_they_need(model, own):
    made = make_figures(model, own / "figures", formats="png", progress=False, run=own)
    assert list(made) == list(FIGURES)
    missing = {"figure_5", "figure_9", "figure_10", "methods", "ablations", "pixel_information", "table_1"}
    for name, files in made.items():
        if name in missing: assert files.startswith("left out: "), (name, files)
        else:
            endings = ["png", "csv", "html"] if name.startswith("table_") else ["png"]
            assert [f.name for f in files] == [f"{name}.{ending}" for ending in endings] and plt.imread(files[0]).std() > 0.05, (name, files)
    assert f"migvis compare --run {own} --out {own}/comparison" in made["figure_5"] and "--ablations" in made["figure_9"]
    assert made["pixel_information"].endswith(f"migvis information --run {own}")
    assert "'standard VAE'" in made["table_1"] and made["table_1"].endswith(f"migvis scores --run {own}") and not plt.get_fignums()


def test_asking_for_what_is_not_there_is_an_error(model, folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="migvis compare --run RUN --out RUN/comparison"): make_figures(model, tmp_path, ["5"], progress=False)
    with pytest.raises(ValueError, match=r"variants .* migvis scores --run \S+run$"): make_figures(model, tmp_path, ["table_1"], run=folder, progress=False)
    assert not list(tmp_path.iterdir())


def test_images_are_of_the_category_clear_and_turned_as_asked(model):
    labels, test = model.recording.labels, set(np.asarray(model.split.test).tolist())
    away = np.hypot(labels["ty"], labels["tz"])
    clear = (labels["s"] >= labels["s"].median()) & (away <= away.median())
    for category in set(labels["category"].iloc[sorted(test)]):
        frontal, oblique = (gallery._find_image(model, category, frontal) for frontal in (True, False))
        members = [i for i in test if labels["category"].iloc[i] == category]
        members = [i for i in members if clear[i]] or members
        length = {i: float(np.linalg.norm(labels[["rxy", "rxz", "ryz"]].iloc[i])) for i in members}
        assert length[frontal] == min(length.values()) and abs(length[oblique] - 45) == min(abs(v - 45) for v in length.values())
        every = {i: float(np.linalg.norm(labels[["rxy", "rxz", "ryz"]].iloc[i])) for i in test if labels["category"].iloc[i] == category}
        anywhere = gallery._find_image(model, category, any_size=True)
        assert every[anywhere] == min(every.values()), "small ones count, too"
    assert gallery._find_image(model, "no such category") in test


def test_images_along_an_attribute_rise_and_the_rest_stays():
    one = pd.DataFrame({"s": np.linspace(-2, 2, 41), "turn": 0.0})
    other = one.assign(turn=2.0)
    rows, cost = gallery._along(pd.concat([one, other], ignore_index=True), "s", 5)
    assert len(set(rows)) == 5 and max(rows) < 41 and (np.diff(one["s"][rows]) > 0).all()
    assert 0 <= cost < gallery._along(other, "s", 5)[1]


@pytest.mark.parametrize("labels", [lambda n: {"category": ["own"] * n}, lambda n: {"category": np.arange(n) % 3},
                                    lambda n: {"category": ["Faces", "tools"] * (n // 2), "rxy": [np.nan, 3.0, np.nan, np.nan] * (n // 4), "rxz": 0.0}],
                         ids=["one", "numbers", "poses are missing"])
def test_own_recordings_are_edited_toward_another_image(model, labels):
    own = copy.copy(model)
    own.recording = replace(model.recording, labels=pd.DataFrame(labels(len(model.recording))))
    category = own.recording.labels["category"]
    for wanted in [(("Faces", "Tables"), "Fruits"), (("Cars", "Animals"), "Planes"), (("Chairs", "Boats"), "Cars"), (("Cars",), "Chairs")]:
        originals, target = gallery._find_pair(own, *wanted)
        assert len({*originals, target}) == len(originals) + 1 and {*originals, target} <= set(own.split.test.tolist())
        assert len(set(category[[*originals, target]])) == min(len(originals) + 1, category.nunique())
    if "rxy" in own.recording.labels: assert own.recording.labels["rxy"][gallery._find_image(own, "tools")] == 3


def test_guided_way_ends_in_the_original_and_in_an_edit(model):
    original, target = (int(i) for i in model.split.test[[0, 4]])
    down, up = gallery._guided_way(model, original, target, [0, 5, 10], 0.3)
    np.testing.assert_allclose(down[0], 2 * model.recording.images[original] - 1, atol=1e-6)
    np.testing.assert_allclose(up[0], down[-1], atol=1e-5)
    assert down.shape == up.shape == (3, 1, 32, 32) and np.abs(up[-1] - down[0]).max() > 1e-3


def test_a_figure_for_a_page_has_its_caption_below_it(model, monkeypatch):
    made = plt.figure(figsize=(3, 1))
    made.add_subplot().imshow(rng.random((64, 64)), cmap="gray")
    made.text(0.1, 0.5, "█", color="#0072b2")
    made.supxlabel("random\npixels; seed 0")
    monkeypatch.setitem(FIGURES, "figure_4a", ("Edits", lambda *_: made))
    picture, caption = gallery._captioned(model, "4A")
    assert caption == f"**Figure 4A.** Edits. *random pixels; seed 0; weights of the denoiser {digest_weights(model.denoiser)}.*"
    opened = Image.open(io.BytesIO(picture))
    assert opened.mode == "P" and opened.size[0] > 100 and made.get_supxlabel() == "" and not plt.get_fignums()
    rare = np.abs(np.asarray(opened.convert("RGB")).astype(int) - (0, 114, 178)).max(-1)
    assert rare.min() < 20, "a colour of few points among many greys stays what it is"


# From results of other commands

def result(modes):
    keys = [(mode, group, gamma) for mode in modes for group in GROUPS for gamma in GAMMAS]
    wanted = {GROUPS[0]: (("rotation", "moved"), ("category", "kept")), GROUPS[1]: (("category", "reached"), ("rotation", "kept"))}
    rows = [(*key, *what, 0.5, 0.4, 0.6, 9) for key in keys for what in wanted[key[1]]]
    realism = pd.DataFrame([(*key, 0.1, 0.01, 0.1) for key in keys], columns=["mode", "group", "gamma", "kid", "kid_sd", "texture_kid"])
    scores = pd.DataFrame(rows, columns=["mode", "group", "gamma", "attribute", "quantity", "value", "low", "high", "n"])
    return SelectivityResult(realism[["mode", "group", "gamma"]].assign(pair=0), scores, realism, {})


def examples(modes):
    make = lambda *shape: np.round(rng.random((2, *shape, 1, 8, 8)) * 65535) / 65535
    return tuple(Edits(make(2, 3), make(), make(), GAMMAS, GROUPS, mode) for mode in modes)


SETTINGS = {"caption": "random pixels", "example_pairs": [[0, 1], [2, 3]]}


@pytest.fixture
def comparison(tmp_path):
    modes = ["a", "b", "c"]
    chosen = pd.DataFrame([(g, m, 2.0) for g in GROUPS for m in modes], columns=["group", "method", "gamma"])
    made = Comparison(result(modes), chosen, pd.DataFrame({"method": modes, "seconds": 1.0, "ratio": 1.0}), examples(modes), SETTINGS)
    made.save(tmp_path / "results" / "comparison" / "methods")
    return made


def test_stored_comparison_is_drawn_and_found_by_the_command(comparison, own, tmp_path, capsys):
    figure = draw_figure(None, "5", tmp_path / "results")
    assert {"a", "b", "c"} <= set(texts(figure)) and any("random pixels" in t for t in texts(figure))
    side = comparison.examples[0].images.shape[-1] + 1 # a line between pictures
    shown = [np.asarray(ax.images[0].get_array())[i:i + side - 1, j:j + side - 1] for ax in figure.axes
             for i in range(0, ax.images[0].get_array().shape[0], side) for j in range(0, ax.images[0].get_array().shape[1], side)]
    for edits in comparison.examples: # the chosen strength of each group is shown
        for wanted in (*edits.images[0, :, 2, 0], edits.originals[0, 0], edits.targets[0, 0]):
            assert min(np.abs(picture - wanted).max() for picture in shown) < 1e-4
    assert len(draw_figure(None, "methods", tmp_path / "results").axes) == 2
    command = ["figures", "--run", str(own), "--out", str(tmp_path / "out"), "--only", "5", "--formats", "png", *COMMON]
    assert main(command) == 2 and f"make it with: migvis compare --run {own}" in capsys.readouterr().err
    shutil.copytree(tmp_path / "results" / "comparison", own / "comparison")
    assert main(command) == 0 and capsys.readouterr().out.strip() == f"figure_5: {tmp_path / 'out' / 'figure_5.png'}"


def test_stored_ablations_are_drawn(tmp_path):
    values = {"groups": ["groups 2", "groups 4"], "hold": ["hold 0", "hold 1"]}
    made = Ablations({k: result(v) for k, v in values.items()}, {k: examples(v) for k, v in values.items()}, SETTINGS)
    made.save(tmp_path / "comparison" / "ablations")
    figure = draw_figure(None, "9", tmp_path)
    assert {"groups 2", "groups 4"} <= set(texts(figure)) and len(figure.axes) == 1 + 2 + 1
    assert len(draw_figure(None, "ablations", tmp_path).axes) == 2
    with pytest.raises(ValueError, match="without 'negatives'"): draw_figure(None, "10", tmp_path)


# Tables

def scores(variants):
    rows = [(v, s, 0.5 + 0.01 * s, 0.6, 0.3, 0.4, 0.2, 0.9, 0.1, 0.95, "M1") for v in variants for s in range(3)]
    return pd.DataFrame(rows, columns=["variant", "seed", "r2", "rmse", "mig", "group_mig", "r2_supervised", "rmse_supervised", "r2_unsupervised",
                                       "rmse_unsupervised", "subject"])


def test_tables_show_the_run_beside_the_paper(model, tmp_path):
    scores(["standard VAE", "labels", "PC", "full", "migvis"]).to_csv(tmp_path / "scores.csv")
    for k, mine, paper in [(1, "51.00 ± 1.00", "78.62 ± 0.58"), (2, "30.00 ± 0.00", "44.23 ± 0.61"), (3, "20.00 ± 0.00", "32.50 ± 0.19"),
                           (4, "10.00 ± 0.00", "20.88 ± 0.25")]:
        shown = texts(draw_figure(model, f"table_{k}", tmp_path))
        assert mine in shown and paper in shown and any("simulated" in t and "tiny preset" in t for t in shown), k
        assert any("3 members" in t.replace("\n", " ") for t in shown), k


def test_tables_are_also_written_as_csv_and_html(model, tmp_path):
    scores(["standard VAE", "labels", "PC", "full", "migvis"]).to_csv(tmp_path / "scores.csv")
    made = make_figures(model, tmp_path / "out", ["table_2"], "png", progress=False, run=tmp_path)["table_2"]
    drawn = gallery._make_table(model, tmp_path, 2)[0]
    read = pd.read_csv(made[1], header=list(range(drawn.columns.nlevels)), index_col=list(range(drawn.index.nlevels)))
    assert read.to_numpy().tolist() == drawn.to_numpy().tolist()
    page = made[2].read_text(encoding="utf-8")
    cells = [html.unescape(cell) for cell in re.findall(r"<td [^>]*>(.*?)</td>", page)]
    assert cells == drawn.astype(str).to_numpy().ravel().tolist() and "tiny preset" in page


def test_scores_are_kept_with_the_run(model, tmp_path):
    made = gallery._member_scores(model, tmp_path)
    assert set(made["subject"]) == {"M1"} and len(made) == 2 and {"r2_supervised", "rmse_unsupervised", "mig"} <= set(made)
    assert [p.name for p in tmp_path.iterdir()] == ["members.csv"], "scores.csv is for what `migvis scores` makes"
    for name, r2 in (("members.csv", 0.123), ("scores.csv", 0.456)): # the second goes before the first
        made.assign(r2=r2).to_csv(tmp_path / name, index=False)
        assert set(gallery._member_scores(model, tmp_path)["r2"]) == {r2}
    with pytest.raises(ValueError, match="migvis scores --run .* --again$"): draw_figure(model, "table_1", tmp_path)


def test_a_recording_without_a_name_has_tables(model, tmp_path):
    nameless = copy.copy(model)
    nameless.recording = replace(model.recording, name="")
    for _ in range(2): # the second time from what the first one kept
        assert set(gallery._member_scores(nameless, tmp_path)["subject"]) == {"recording"}
    draw_figure(nameless, "table_2", tmp_path)


def test_scores_command_fits_every_variant_and_its_tables_are_drawn(model, own, tmp_path, capsys):
    command = ["scores", "--run", str(own), "--seeds", "1", "--steps", "20", *COMMON]
    assert main(command) == 0
    printed, made = capsys.readouterr().out, pd.read_csv(own / "scores.csv")
    assert "standard VAE" in printed and str(own / "scores.csv") in printed and not (own / "scores.checkpoints").exists()
    wanted = ablation(SMALL.vae)
    assert set(made["variant"]) == set(wanted) and len(made) == len(wanted) and set(made["subject"]) == {"M1"}
    for row in made.itertuples(): assert (row.beta, row.label_weight) == (wanted[row.variant]["beta"], wanted[row.variant]["label_weight"])
    train, validation, test = (model.recording.select(images=getattr(model.split, part)) for part in ("train", "validation", "test"))
    peer = fit_vae(train, validation, replace(SMALL.vae, steps=20), seeds=1, variants=wanted, penalty=GroupPenalty(), device="cpu", progress=False)
    x = peer.standardizer.transform(test.responses)
    for member in range(len(made)): # R^2 of the run's test images, spelt out
        predicted = peer.reconstruct(test, member)
        assert made["r2"][member] == pytest.approx(float(np.mean(1 - ((x - predicted) ** 2).mean(0) / x.var(0))), abs=1e-3)
    assert {"standard VAE", "without PC", "without labels", "full", "78.62 ± 0.58"} <= set(texts(draw_figure(model, "table_1", own)))
    before = (own / "scores.csv").read_bytes()
    assert main(command) == 2 and "--again" in capsys.readouterr().err and (own / "scores.csv").read_bytes() == before


def test_interrupted_scores_go_on(model, own, monkeypatch):
    def stop(*_): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(gallery, "_score_run", stop)
        with pytest.raises(KeyboardInterrupt): gallery.make_scores(model, own, 1, 4, progress=False)
    assert list((own / "scores.checkpoints").iterdir()) and not (own / "scores.csv").exists()
    trained = []
    monkeypatch.setattr(gallery, "fit_vae", lambda *a, **kw: fit_vae(*a, callback=lambda step, *_: trained.append(step), **kw))
    monkeypatch.setattr(gallery, "score_members", lambda vae, *_, **__: vae.members)
    gallery.make_scores(model, own, 1, 4, progress=False)
    assert trained == [] and (own / "scores.csv").is_file() and not (own / "scores.checkpoints").exists()


def test_variants_are_fitted_as_the_run_was(model, tmp_path, monkeypatch):
    other, asked = copy.copy(model), {}
    other.vae = replace(model.vae, likelihood="poisson") if hasattr(model.vae, "__dataclass_fields__") else model.vae
    other.options = {"estimator": "'mss'"}
    monkeypatch.setattr(gallery, "fit_vae", lambda *parts, **options: asked.update(options, parts=parts))
    monkeypatch.setattr(gallery, "_score_run", lambda *_: pd.DataFrame({"r2": [0.5]}))
    gallery.make_scores(other, tmp_path, 3, progress=False)
    train, validation, config = asked["parts"]
    assert (asked["likelihood"], asked["penalty"], asked["seeds"]) == (other.vae.likelihood, GroupPenalty("mss"), 3)
    assert len(asked["supervision"]) == len(model.vae.codes)
    assert config == SMALL.vae and (len(train), len(validation)) == (len(model.split.train), len(model.split.validation))


@pytest.mark.parametrize("wrong, text", [({"seeds": 0}, "seeds must be at least 1, got 0"), ({"steps": 0}, "steps must be at least 1, got 0")])
def test_scores_refuse_numbers_below_one(model, tmp_path, wrong, text):
    with pytest.raises(ValueError, match=text): gallery.make_scores(model, tmp_path, progress=False, **wrong)
    assert not list(tmp_path.iterdir())


# Information

def information(n, scale):
    "Made-up maps, in bits."
    map_ = scale * rng.random((n, 1, 32, 32))
    total = map_.sum((1, 2, 3))
    return InformationResult(map_, map_ / 9, total, total / 9, np.ones(3), np.ones((n, 3)), np.zeros(n), "bits", "made up")


def test_stored_information_is_drawn(tmp_path):
    one, two = information(3, 1.0), information(3, 0.01)
    kept = gallery._PixelInformation(rng.random((3, 1, 32, 32)), {"Group 1": (one.map, one.total), "all": (two.map, two.total)}, "bits", "made up")
    save_record(tmp_path / "information" / "record.npz", kept)
    figure = draw_figure(None, "pixel_information", tmp_path)
    for a, b in zip(pictures(figure, 32), [*kept.images, *one.map, *two.map]): np.testing.assert_allclose(a, b[0], rtol=1e-5)
    assert {f"{t:.2f} bits" for t in two.total} <= set(texts(figure)) and "made up" in texts(figure)


@pytest.fixture
def learned(monkeypatch):
    "What the information of groups was asked to learn; nothing is trained, and maps are made up."
    asked = SimpleNamespace(bound=1.0, total=1.1)
    def fit_groups(base, train, held_out, groups, **options):
        vars(asked).update(options, base=base, parts=(train, held_out), groups=groups)
        made = {name: information(2, 1.0) for name in ("group 1", "all")}
        nats = {name: replace(r, unit="nats", total=np.full(2, asked.total)) for name, r in made.items()}
        return SimpleNamespace(bound=asked.bound, maps=lambda images, **_: nats)
    monkeypatch.setattr(group_information, "fit_groups", fit_groups)
    return asked


def test_information_command_keeps_maps(model, own, learned, capsys):
    learned.bound = 0.1
    command = ["information", "--run", str(own), "--n-images", "2", "--steps", "2", "2", *COMMON]
    assert main(command) == 0
    out, notes = capsys.readouterr()
    assert "about an image" in out and "nats" in out and str(own / "information") in out and "held-out pairs show" in notes
    kept = load_record(own / "information", gallery._PixelInformation)
    assert list(kept.maps) == [model.group_names[0], "All groups"] and kept.unit == "bits" and "tiny preset" in kept.caption
    np.testing.assert_array_equal(kept.images, model.recording.images[_varied_images(model, 2, "validation")])
    draw_figure(model, "pixel_information", own)
    assert main(command) == 2 and "--again" in capsys.readouterr().err


@pytest.mark.parametrize("bound, total, doubt", [(0.01, 0.011, "near 0"), (1.0, 3.0, "inflated by overfitting"), (1.0, 0.2, "needs more steps"), (1.0, 1.1, None)])
def test_information_is_learned_from_train_and_test_images_and_doubted(model, tmp_path, learned, bound, total, doubt):
    learned.bound, learned.total = bound, total
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        found, results = gallery.make_information(model, tmp_path, 2, (3, 4), seed=5, progress=False)
    assert [doubt in str(note.message) for note in notes] == [True] * bool(doubt)
    assert found == bound and list(results) == [model.group_names[0], "All groups"]
    np.testing.assert_allclose(results["All groups"].total, total / np.log(2)) # bits
    assert learned.base is model.denoiser and learned.groups == model.vae.groups and (learned.steps, learned.seed) == ((3, 4), 5)
    mean, log_var = model.vae.posterior(model.recording)
    for (images, *posterior), rows in zip(learned.parts, (model.split.train, model.split.test)):
        np.testing.assert_array_equal(images, model.recording.images[rows])
        for part, whole in zip(posterior, (mean, log_var)): np.testing.assert_array_equal(part, whole[rows])


@pytest.mark.parametrize("wrong, text", [({"steps": (0, 3)}, "steps must be two numbers"), ({"steps": (3,)}, "steps must be two numbers"),
                                         ({"n_images": 0}, "n_images must be from 1 to the"), ({"n_images": 999}, "n_images must be from 1 to the")])
def test_information_refuses_numbers_that_cannot_be_meant(model, tmp_path, wrong, text):
    with pytest.raises(ValueError, match=text): gallery.make_information(model, tmp_path, progress=False, **wrong)
    assert not list(tmp_path.iterdir())


def test_mapped_images_are_of_many_categories(model):
    shown, labels = _varied_images(model, 8, "validation"), model.recording.labels["category"]
    there = set(labels.iloc[model.split.validation])
    assert set(shown) <= set(model.split.validation) and len(set(shown)) == 8 and len(set(labels.iloc[shown])) == min(8, len(there))
    np.testing.assert_array_equal(_varied_images(model, 3, "validation"), shown[:3])


# All figures by one command

def test_the_gallery_goes_on_with_the_first_figure_that_is_missing(folder, model, tmp_path, monkeypatch, capsys):
    asked = []
    def stopped(model, name, run):
        asked.append(name)
        if len(asked) == 2: raise KeyboardInterrupt
        return plt.figure()
    monkeypatch.setattr(gallery, "draw_figure", stopped)
    names = ["figure_3b", "figure_8", "figure_3a"]
    with pytest.raises(KeyboardInterrupt): draw_missing(model, tmp_path, names)
    draw_missing(model, tmp_path, names)
    assert asked == ["figure_3b", "figure_8", "figure_8", "figure_3a"]
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {f"{name}.png" for name in names}
    monkeypatch.undo()
    draw_missing(model, tmp_path, [*names, "figure_5"])
    assert "figure_5: left out: the run has no folder" in capsys.readouterr().out
