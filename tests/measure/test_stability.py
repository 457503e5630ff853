("Which groups come back: against rotated, permuted and unrelated latents, a slow version, and fits to a "
 "simulated recording.")
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from sklearn.linear_model import LinearRegression

from migvis import vae as vae_module
from migvis import Recording, simulate_hvm
from migvis.measure import report as st
from migvis.support.presets import get_preset

GROUPS = (6, 6, 6, 6)


def rotated(z, order, seed=0, noise=0.0):
    "The groups in another order, each turned in itself."
    rng = np.random.default_rng(seed)
    parts = [z[:, 6 * g:6 * g + 6] @ np.linalg.qr(rng.standard_normal((6, 6)))[0] for g in order]
    return np.concatenate(parts, 1) + noise * rng.standard_normal(z.shape)


@pytest.fixture(scope="module")
def z(): return np.random.default_rng(0).standard_normal((400, 24))


# --- matching
# ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("order", [(2, 0, 3, 1), (0, 1, 2, 3), (3, 2, 1, 0)])
def test_rotated_groups_in_another_order_are_found(z, order):
    table, similarity = st.compare_groups(z, rotated(z, order), GROUPS, n_null=10, n_boot=50)
    assert [order[m - 1] for m in table["matched"]] == [0, 1, 2,
                                                        3] and table["group"].tolist() == [1, 2, 3, 4]
    assert table["value"].to_numpy() == pytest.approx(1, abs=1e-9) and table["back"].all()
    assert np.diag(similarity) == pytest.approx(np.ones(4)) and (similarity
                                                                 - np.diag(np.diag(similarity)) < 0.05).all()
    assert (table["elsewhere"] < 0.05).all() and (table["chance"] < 0.1).all()


def test_noise_of_the_same_variance_halves_what_is_shared(z):
    table, _ = st.compare_groups(z, rotated(z, (1, 0, 2, 3), noise=1.0), GROUPS, n_null=5, n_boot=200)
    assert table["value"].to_numpy() == pytest.approx(0.5, abs=0.07) and ((table["low"] < 0.5)
                                                                          & (table["high"] > 0.45)).all()


def test_unrelated_latents_score_about_0_and_do_not_come_back(z):
    other = np.random.default_rng(1).standard_normal(z.shape)
    table, similarity = st.compare_groups(z, other, GROUPS, n_null=40, n_boot=100)
    assert abs(similarity).max() < 0.1 and not table["back"].any()


def test_similarity_against_scikit_learn(z):
    a, b = z[:60, :5], z[:60, 3:8] + 0.3 * z[:60, :5]
    found, fold = st._group_similarity(a, b, (3, 2))[0], np.arange(60) % 5
    for i, x in enumerate((slice(0, 3), slice(3, 5))):
        for j, y in enumerate((slice(0, 3), slice(3, 5))):
            r2 = []
            for known, wanted in ((a[:, x], b[:, y]), (b[:, y], a[:, x])):
                error = square = 0
                for k in range(5):
                    guess = LinearRegression().fit(known[fold != k],
                                                   wanted[fold != k]).predict(known[fold == k])
                    error += ((wanted[fold == k] - guess) ** 2).sum()
                    square += ((wanted[fold == k] - wanted[fold != k].mean(0)) ** 2).sum()
                r2.append(1 - error / square)
            assert found[i, j] == pytest.approx(np.mean(r2))


def test_dimensions_that_carry_nothing_are_left_out(z):
    faint = z.copy()
    faint[:, :6] *= 0.05                                             # a perfect copy of hardly anything
    table, _ = st.compare_groups(faint, faint, GROUPS, n_null=5, n_boot=20)
    assert table["value"].tolist() == pytest.approx([0, 1, 1, 1], abs=1e-6) and table["back"].tolist() == [
        False, True, True, True]


@pytest.mark.parametrize("a, b, groups", [((400, 24), (300, 24), GROUPS), ((400, 24), (400, 24), (6, 6)),
                                          ((30, 24), (30, 24), GROUPS)])
def test_latents_that_cannot_be_compared_are_refused(a, b, groups):
    with pytest.raises(ValueError, match="same 40 images or more"):
        st._group_similarity(np.zeros(a), np.zeros(b), groups)


# --- fits ---------------------------------------------------------------------------------------------------
# -------------

@pytest.fixture(scope="module")
def recordings(recording):
    return [recording, simulate_hvm(n_images=240, size=32, subject="M2", seed=3, progress=False)]


@pytest.fixture(scope="module")
def tiny(): return replace(get_preset("tiny"), vae=replace(get_preset("tiny").vae, steps=80))


def test_fits_in_pairs(recordings, tiny, tmp_path):
    out = st.stability(recordings, tiny, n_null=5, progress=False)
    assert {k: len(rows) for k, rows in out.table.groupby("kind", sort=False)} == {"seeds": 4, "units": 8,
                                                                                   "images": 8, "subjects": 8}
    assert len(out.matrix) == 7 * 16 and out.summary().shape == (16, 6) and isinstance(out.plot(), Figure)
    back = out.summary()["back"]
    assert back.loc[["seeds", "images"], "Group 1"].min() == 1 and back.loc["seeds", "Group 2"] == 1, "what labels name comes back"
    one = out.matrix[(out.matrix["kind"] == "units")
                     & (out.matrix["pair"] == 1)].pivot(index="group", columns="other", values="value")
    rows = out.table[(out.table["kind"] == "units") & (out.table["pair"] == 1)]
    assert np.diag(one) == pytest.approx(rows["value"].to_numpy()), "matched groups are on the diagonal"
    assert out.settings["caption"].startswith("simulated recording")
    pd.testing.assert_frame_equal(out.save(tmp_path) and st.StabilityResult.load(tmp_path).table, out.table)
    pd.testing.assert_frame_equal(st.stability(recordings[0], tiny, over=("seeds",), n_null=5,
                                               progress=False).table, out.table[:4])


def test_only_what_was_asked_for_is_fitted(recordings, tiny, monkeypatch):
    asked, fit = [], vae_module.fit_vae
    monkeypatch.setattr(
        st, "fit_vae", lambda train, *a, **kw: asked.append((len(train), train.responses.shape[1],
                                                             tuple(kw["seeds"]))) or fit(train, *a, **kw))
    st.stability(recordings[0], tiny, over=("units", "images"), seeds=1, n_null=2, progress=False,
                 vae={"steps": 5})
    n, units = 168, recordings[0].responses.shape[1]
    assert asked == [(n, units // 2, (0,)), (n, units // 2, (1,)), (n // 2, units, (0,)),
                     (n // 2, units, (1,))]


@pytest.mark.parametrize("options, told",
                         [(dict(over=("mice",)), "over must name"), (dict(over=()), "over must name"),
                          (dict(over=("subjects",)), "two subjects"), (dict(seeds=1), "at least 2"),
                          (dict(over=("units",), seeds=0), "at least 1")])
def test_what_cannot_be_compared_is_told_before_anything_is_fitted(recordings, options, told):
    with pytest.raises(ValueError, match=told): st.stability(recordings[0], "tiny", progress=False, **options)


def test_subjects_must_have_seen_the_same_images(recordings):
    other = Recording(recordings[1].images[::-1].copy(), recordings[1].responses, recordings[1].labels)
    with pytest.raises(ValueError, match="the same images"):
        st.stability([recordings[0], other], "tiny", progress=False)
