"""DINA against slow references and closed forms, its peers against scikit-learn, and what bad input says."""
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from migvis.beyond import dina as dina_module
from migvis.beyond import dina_analysis as dina
from migvis.data import Recording, Standardizer
from migvis.beyond.dina import DINA, DINAConfig, _Decoder, _Retrieval, fit_dina, get_dina_config
from migvis.beyond.dina_analysis import _PixelFeatures, fit_cnn, fit_ridge, retrieval
TINY = replace(get_dina_config("tiny"), channels=4, map_size=4, width=8, scales=2, steps=60, batch_size=32)
QUIET = {"device": "cpu", "progress": False}


def toy(n=260, n_units=40, size=12, seed=0, noise=0.0, repeats=2):
    "Images of six patches of random brightness; every unit answers to a random mixture of them."
    rng = np.random.default_rng(seed)
    levels = rng.uniform(0, 1, (n, 2, 3))
    images = np.kron(levels, np.ones((size // 2, size // 3)))[:, None]
    mix = np.random.default_rng(99).normal(size=(6, n_units))
    trials = (levels.reshape(n, 1, 6) - 0.5) @ mix + noise * rng.normal(size=(n, repeats, n_units))
    return Recording(images, trials.mean(1), pd.DataFrame({"category": ["a", "b"] * (n // 2)}), trials=trials)


@pytest.fixture(scope="module")
def parts():
    return toy().split(0)


@pytest.fixture(scope="module")
def fitted(parts):
    return fit_dina(*parts[:2], replace(TINY, steps=250), **QUIET)


class Flat(nn.Module):
    "Pixels, or units, as they are."
    def forward(self, x): return x.flatten(1)


def plain(n_units, size, image_tower=None, response_tower=None):
    standard = Standardizer(np.zeros(n_units, np.float32), np.ones(n_units, np.float32))
    return _Decoder(image_tower or Flat(), response_tower or Flat(), standard, (size, size)).eval()


# ---------------------------------------------------------------- loss and trials

def test_loss_equals_a_slow_loop():
    scores = torch.randn(6, 6, generator=torch.Generator().manual_seed(0)).double()
    slow = 0.0
    for i in range(6):
        row, column = sum(math.exp(scores[i, j]) for j in range(6)), sum(math.exp(scores[j, i])
                                                                         for j in range(6))
        slow -= (math.log(math.exp(scores[i, i]) / row) + math.log(math.exp(scores[i, i]) / column)) / 12
    assert dina_module.alignment_loss(scores).item() == pytest.approx(slow, rel=1e-10)
    assert dina_module.alignment_loss(torch.zeros(7, 7)).item() == pytest.approx(math.log(7))


def test_scores_are_scaled_cosines_of_whole_maps():
    model, rng = DINA(5, (12, 12), TINY).eval(), torch.Generator().manual_seed(1)
    y, x = torch.rand(3, 1, 12, 12, generator=rng), torch.randn(3, 5, generator=rng)
    with torch.no_grad(): maps, found = (model.image_tower(y), model.response_tower(x)), model(y, x)
    assert maps[0].shape == maps[1].shape == (3, 4, 4, 4)
    for i in range(3):
        for j in range(3):
            cosine = torch.cosine_similarity(maps[0][i].flatten(), maps[1][j].flatten(), dim=0)
            assert found[i, j].item() == pytest.approx(cosine.item() / 0.07, rel=1e-4, abs=1e-4)
    assert model.temperature == pytest.approx(0.07, rel=1e-5)


def test_resampling_equals_a_loop_and_skips_missing_repeats():
    rng = np.random.default_rng(0)
    trials, draws = rng.normal(size=(5, 3, 4)), rng.integers(0, 3, (5, 3))
    trials[1, 2], trials[3, 0, 1], trials[4, 1:] = np.nan, np.nan, np.nan
    draws[4] = [1, 2, 2]
    mean = np.nanmean(trials, axis=1)
    found = dina_module._resample_trials(*(torch.tensor(a) for a in (trials, draws, mean))).numpy()
    for i in range(5):
        for j in range(4):
            drawn = [trials[i, r, j] for r in draws[i] if np.isfinite(trials[i, r, j])]
            assert found[i, j] == pytest.approx(np.mean(drawn) if drawn else mean[i, j])


def test_resampling_has_the_mean_of_the_repeats():
    trials = torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(0))
    draws = torch.randint(4, (20_000, 4), generator=torch.Generator().manual_seed(1))
    found = dina_module._resample_trials(trials.expand(20_000, -1, -1), draws,
                                         trials.mean(1).expand(20_000, -1))
    assert torch.allclose(found.mean(0), trials[0].mean(0), atol=0.02)
    assert torch.allclose(found.var(0), trials[0].var(0, correction=0) / 4, rtol=0.05)


@pytest.mark.parametrize("shape", [(32, 32), (34, 90), (7, 9), (112, 112)])
def test_towers_meet_for_any_image(shape):
    model = DINA(6, shape, replace(TINY, map_size=8))
    assert model(torch.rand(2, 1, *shape), torch.randn(2, 6)).shape == (2, 2)


def test_paper_configuration_has_the_reported_maps():
    config = DINAConfig()
    with torch.no_grad():
        assert dina_module._ImageTower(config)(torch.rand(1, 1, 64, 64)).shape == (1, 64, 32, 32)
    assert dina_module._ResponseTower(10,
                                      replace(config, rank=4))(torch.zeros(1, 10)).shape == (1, 64, 32, 32)
    assert get_dina_config("paper") == config and get_dina_config(TINY) is TINY


# ---------------------------------------------------------------- training

def test_separable_toy_is_retrieved_without_error(fitted, parts):
    found = retrieval(fitted, parts[2])
    assert found.accuracy() == 1.0 and found.mean_reciprocal_rank == 1.0
    assert fitted.retrieve(parts[2], parts[2], k=3)[:, 0].tolist() == list(range(len(parts[2])))
    assert fitted.history["validation"].dropna().iloc[-1] < fitted.history["validation"].dropna().iloc[0]


def test_embeddings_have_length_one_and_do_not_depend_on_the_batch(fitted, parts):
    images, responses = parts[2].images, parts[2].responses
    for embed, features, taken, values in ((fitted.embed_images, fitted.image_features, fitted.pixels,
                                            images), (fitted.embed_responses, fitted.response_features,
                                                      fitted.standardize, responses)):
        found = embed(values)
        assert torch.allclose(found.norm(dim=1), torch.ones(len(found)), atol=1e-5)
        assert torch.allclose(found, fitted.embed(features, taken(values), 7), atol=1e-5)


def test_shuffled_pairs_stay_at_chance():
    rec = toy(300)
    rec = replace(rec, responses=rec.responses[np.random.default_rng(0).permutation(300)], trials=None)
    train, validation, test = rec.split(0)
    low, high = retrieval(fit_dina(train, validation, TINY, **QUIET), test).interval()
    assert low <= 1 / len(test) <= high


def test_an_interrupted_run_goes_on_to_the_same_weights(parts, tmp_path):
    config = replace(TINY, steps=24)
    whole = fit_dina(*parts[:2], config, seed=3, **QUIET)

    class Stop(Exception): pass
    def stop(step, model, row):
        if step == 17: raise Stop

    often = {"checkpoint_every": 8, "log_every": 1}
    options = {"checkpoint": tmp_path, **QUIET}
    with pytest.raises(Stop):
        fit_dina(*parts[:2], config, seed=3, training=often | {"callback": stop}, **options)
    resumed = fit_dina(*parts[:2], config, seed=3, training=often, **options)
    for name, value in whole.state_dict().items():
        assert torch.allclose(value, resumed.state_dict()[name], atol=1e-6), name
    with pytest.raises(ValueError, match="another run"):
        fit_dina(*parts[:2], replace(config, dropout=0.1), seed=3, **options)


def test_seeds_decide(parts):
    config = replace(TINY, steps=3)
    a, b, c = (fit_dina(*parts[:2], config, seed=s, **QUIET).embed_images(parts[2]) for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.allclose(a, c)


def test_a_tenth_is_held_out_without_validation(parts):
    assert len(fit_dina(parts[0], config=replace(TINY, steps=3), **QUIET).history["validation"].dropna())


# ---------------------------------------------------------------- bad input

@pytest.mark.parametrize("change, word",
                         [({"channels": 0}, "channels"), ({"batch_size": 1}, "negatives"),
                          ({"dropout": 1.0}, "dropout"), ({"temperature": 0.0}, "temperature"),
                          ({"rank": 0}, "rank"), ({"steps": 0}, "steps"),])
def test_bad_configurations(change, word):
    with pytest.raises(ValueError, match=word): replace(TINY, **change)


def test_bad_data(fitted, parts):
    train, validation, test = parts
    with pytest.raises(ValueError, match="paper"): get_dina_config("large")
    with pytest.raises(ValueError, match="units"):
        fit_dina(train, validation.select(sites=range(5)), TINY, **QUIET)
    with pytest.raises(ValueError, match="pixels"):
        fit_dina(train, replace(validation, images=validation.images[:, :, :6]), TINY, **QUIET)
    with pytest.raises(ValueError, match="negatives"):
        fit_dina(train.select(images=[0]), validation, TINY, **QUIET)
    with pytest.raises(ValueError, match="40.*the units"): fitted.embed_responses(test.responses[:, :7])
    with pytest.raises(ValueError, match="finite"): fitted.embed_responses(np.full((2, 40), np.nan))
    with pytest.raises(ValueError, match="resize"): fitted.embed_images(test.images[:, :, :, :10])
    with pytest.raises(ValueError, match=r"\[0, 1\]"): fitted.embed_images(test.images * 255)
    with pytest.raises(ValueError, match="k must"): fitted.retrieve(test, test, k=0)
    with pytest.raises(ValueError, match="k must"): fitted.retrieve(test, test, k=1000)


# ---------------------------------------------------------------- retrieval

def test_ranks_equal_a_sort_and_ties_are_chance():
    scores = np.random.default_rng(0).normal(size=(30, 40))
    found = dina._rank_scores(scores)
    rank = np.array([list(np.argsort(-row)).index(i) + 1 for i, row in enumerate(scores)])
    for k in (1, 3, 10):
        assert found.accuracy(k) == pytest.approx((rank <= k).mean()) and found.chance(
            k) == pytest.approx(k / 40)
    assert found.mean_reciprocal_rank == pytest.approx((1 / rank).mean())
    constant = dina._rank_scores(torch.zeros(8, 8))
    assert [constant.accuracy(k) for k in (1, 2, 8)] == pytest.approx([1 / 8, 2 / 8, 1])
    with pytest.raises(ValueError, match="candidates"): dina._rank_scores(scores.T)
    with pytest.raises(ValueError, match="finite"): dina._rank_scores(np.full((3, 3), np.nan))


@pytest.mark.parametrize("hits, n", [(0, 20), (7, 50), (50, 50)])
def test_wilson_interval_is_scipys(hits, n):
    from scipy.stats import binomtest

    expected = binomtest(hits, n).proportion_ci(0.9, method="wilson")
    found = _Retrieval((np.arange(n) >= hits).astype(int), np.ones(n), np.full(n, n)).interval(level=0.9)
    assert found == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_comparison_is_paired():
    good = _Retrieval(np.array([0] * 80 + [1] * 20), np.ones(100), np.full(100, 100))
    poor = _Retrieval(np.array([0] * 40 + [1] * 60), np.ones(100), np.full(100, 100))
    same = dina.compare_retrieval(good, good)
    assert (same["ratio"], same["low"], same["high"], same["difference"]) == (1, 1, 1, 0)
    found = dina.compare_retrieval(good, poor)
    assert found["ratio"] == pytest.approx(
        2) and 1.6 < found["low"] < 2 < found["high"] < 2.7 and found["difference"] == pytest.approx(0.4)
    with pytest.raises(ValueError, match="same images"):
        dina.compare_retrieval(good, _Retrieval(np.zeros(3), np.ones(3), np.full(3, 9)))


def test_retrieval_table_has_chance(fitted, parts):
    table = dina.retrieval_table({"DINA": retrieval(fitted, parts[2])})
    assert table.loc["DINA", "top-1 %"] == 100 and table.loc["chance",
                                                             "top-1 %"] == pytest.approx(100 / len(parts[2]))


# ---------------------------------------------------------------- peers

@pytest.mark.parametrize("n, d", [(30, 12), (20, 45)])
def test_penalties_are_in_units_of_the_mean_eigenvalue(n, d):
    from sklearn.linear_model import Ridge as Reference

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, d)) + 3, rng.normal(size=(n, 2))
    values = np.linalg.eigvalsh(np.cov(x.T, bias=True) * n)[::-1][:min(n, d)]
    expected = Reference(alpha=0.5 * values.mean()).fit(x, y).coef_.T
    assert np.allclose(dina._ridge_weights(x - x.mean(0), y - y.mean(0), 0.5), expected, atol=1e-7)


def test_ridge_decoder_retrieves_what_is_linear_and_whitening_whitens(parts):
    features = _PixelFeatures(parts[0].images, 5)
    assert np.allclose(np.cov(features(torch.tensor(parts[0].images)).numpy().T), np.eye(5), atol=1e-3)
    decoder = fit_ridge(*parts[:2], {"pixels": _PixelFeatures(parts[0].images), "5": features})
    assert retrieval(decoder, parts[2]).accuracy() > 0.95 and set(decoder.chosen) == {"features", "penalty"}


def test_cnn_decoder_draws_pictures_and_is_of_the_same_size(parts, fitted):
    decoder = fit_cnn(*parts[:2], replace(TINY, steps=150), **QUIET)
    with torch.no_grad(): pictures = decoder.response_tower[0](decoder.standardize(parts[2])).numpy()
    mean_image = parts[0].images.mean(0)
    assert np.square(pictures - parts[2].images).mean() < 0.5 * np.square(mean_image - parts[2].images).mean()
    assert retrieval(decoder, parts[2]).accuracy() > 0.3
    sizes = [sum(p.numel() for p in m.parameters())
             for m in (dina._PixelNetwork(40, torch.zeros(1, 12, 12), TINY), fitted)]
    assert sizes[0] / sizes[1] == pytest.approx(1, abs=0.15)


# ---------------------------------------------------------------- interpretation

def test_axes_are_orthonormal_and_aligned(fitted, parts):
    axes = dina.shared_axes(fitted, parts[0], 4)
    assert torch.allclose(axes.directions.T @ axes.directions, torch.eye(4),
                          atol=1e-4) and (axes.variance.diff() <= 0).all()
    assert dina.axis_alignment(fitted, axes, parts[2]).min() > 0.8
    with pytest.raises(ValueError, match="n_axes"): dina.shared_axes(fitted, parts[0], 1000)


class Corner(nn.Module):
    "Looks at the upper left pixels only."
    def forward(self, y): return y[:, :, :3, :3].flatten(1)


def test_saliency_is_where_the_tower_looks_and_equals_differences():
    decoder, images = plain(9, 8, Corner()), np.random.default_rng(0).uniform(0.2, 0.8, (40, 1, 8, 8))
    axes = dina.shared_axes(decoder, images, 2)
    found = dina.saliency(decoder, images[:3], axes, batch_size=2)
    assert found.shape == (3, 2, 8, 8) and found[:, :, 3:].max() == 0 and found[:, :, :, 3:].max() == 0
    place = lambda y: axes.project(decoder.double().image_features(torch.tensor(y))).numpy()
    moved = images[:1].copy()
    moved[0, 0, 1, 2] += 1e-4
    assert np.allclose(np.abs(place(moved) - place(images[:1]))[0] / 1e-4, found[0, :, 1, 2],
                       rtol=1e-2, atol=1e-3)


class Places(nn.Module):
    "Unit i acts on place i of a 3 x 3 map."
    def forward(self, x): return x.reshape(-1, 1, 3, 3) ** 2 + x.reshape(-1, 1, 3, 3)


def pixel_units(n=60, dead=5):
    "Units that are pixels, and some that are not used by the tower."
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(n, 1, 3, 3)).astype(np.float32)
    tower = nn.Linear(9 + dead, 9, bias=False)
    with torch.no_grad(): tower.weight.copy_(torch.eye(9, 9 + dead))
    responses = np.concatenate([images.reshape(n, 9) - 0.5, rng.normal(size=(n, dead))], 1)
    class Centred(nn.Module):
        def forward(self, y): return y.flatten(1) - 0.5
    return plain(9 + dead, 3, Centred(), tower), Recording(images, responses,
                                                           pd.DataFrame({"category": [0] * n}))


def test_importance_is_zero_for_unused_units_and_equals_differences():
    decoder, rec = pixel_units()
    found = dina.unit_importance(decoder, rec, batch_size=13)
    assert (found[9:] == 0).all() and found[:9].min() > 0
    images, x = decoder.embed_images(rec).double(), decoder.standardize(rec).double()
    margin = lambda x: (decoder.double().response_features(x) * (images - images.mean(0))).sum(1).detach()
    step = torch.zeros_like(x)
    step[:, 4] = 1e-4
    slow = ((margin(x + step) - margin(x - step)) / 2e-4 * x[:, 4]).abs().mean().item()
    assert found[4] == pytest.approx(slow, rel=1e-3)


def test_checkpoints_of_shuffled_responses_are_refused(parts, tmp_path):
    train, validation, _ = parts
    shuffled = replace(train, responses=train.responses[::-1].copy(), trials=None)
    config = replace(TINY, steps=3)
    fit_dina(train, validation, config, checkpoint=tmp_path / "dina", device="cpu", progress=False)
    with pytest.raises(ValueError, match="another run"):
        fit_dina(shuffled, validation, config, checkpoint=tmp_path / "dina", device="cpu", progress=False)
    fit_cnn(train, validation, config, checkpoint=tmp_path / "cnn", device="cpu",
            progress=False)
    inverted = replace(train, images=1 - train.images)
    with pytest.raises(ValueError, match="another run"):
        fit_cnn(inverted, validation, config, checkpoint=tmp_path / "cnn", device="cpu",
                progress=False)
