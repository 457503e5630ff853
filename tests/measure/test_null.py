"A fit to responses that say nothing: what is permuted, what is refitted, what is reported."
import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from migvis import MIGVis
from migvis.measure import report as nu
from migvis.support.files import digest_weights
from migvis.support.presets import EditSettings
from tests.made import SMALL
from tests.measure.worlds import NeighbourJudge

OPTIONS = dict(n_pairs=16, settings=EditSettings(steps=5), gamma=0.2, progress=False)


@pytest.fixture(scope="module")
def result(run, recording, tmp_path_factory):
    folder = tmp_path_factory.mktemp("null")
    return nu.null(run, NeighbourJudge(recording), folder, **OPTIONS), folder


# --- what is permuted
# ----------------------------------------------------------------------------------------------------

def test_responses_move_within_their_part_and_nothing_else_does(recording, run):
    parts = run.split.train, run.split.validation, run.split.test
    whole = replace(recording, trials=np.stack([recording.responses] * 2, 1))
    other = nu.permute_responses(whole, parts, seed=4)
    assert np.array_equal(other.images, recording.images) and other.labels.equals(
        recording.labels) and other.simulated and other.truth is None
    for rows in parts:
        assert np.array_equal(np.sort(other.responses[rows], 0), np.sort(recording.responses[rows], 0))
        assert (other.responses[rows] != recording.responses[rows]).any(1).mean() > 0.8
    assert np.array_equal(other.trials[:, 1], other.responses)
    rows = (other.responses[:, None] == recording.responses).all(2)
    assert (rows.sum(0) == 1).all() and (rows.sum(1) == 1).all(), "whole rows move, each once"
    assert np.array_equal(other.responses, nu.permute_responses(whole, parts, seed=4).responses)
    assert not np.array_equal(other.responses, nu.permute_responses(whole, parts, seed=5).responses)


@pytest.mark.parametrize("parts", [([0, 1],), (range(240), [3]), (range(1, 240), [240])])
def test_parts_that_are_not_a_split_are_refused(recording, parts):
    with pytest.raises(ValueError, match="each of the 240 images once"):
        nu.permute_responses(recording, [np.array(p) for p in parts])


# --- what is refitted
# ----------------------------------------------------------------------------------------------------

def test_everything_but_the_denoiser_is_fitted_anew(run, result):
    permuted = MIGVis.load(result[1] / "permuted", device="cpu")
    assert digest_weights(permuted.denoiser) == digest_weights(run.denoiser)
    assert digest_weights(permuted.vae.model) != digest_weights(run.vae.model) and digest_weights(
        permuted.critics) != digest_weights(run.critics)
    assert np.array_equal(permuted.split.test,
                          run.split.test) and permuted.recording.name.endswith("responses permuted")
    assert not (result[1] / "real").exists(), "the run itself is the real fit"


def test_permuted_responses_show_nothing(result):
    table = result[0].table
    bounds = table[(table["attribute"] == "bound") & (table["fit"] == "permuted")]
    assert len(bounds) == 4 and (bounds["low"] <= 0).all()
    missed, of = result[0].outside()
    assert of >= 12 and missed <= 0.2 * of, result[0].summary()
    real = table[(table["attribute"] == "bound") & (table["fit"] == "real")]
    assert real["value"].max() > bounds["value"].max()


def test_what_is_there_is_not_made_again(run, recording, result, monkeypatch):
    monkeypatch.setattr(MIGVis, "edit", lambda *_, **__: pytest.fail("edited again"))
    again = nu.null(run, NeighbourJudge(recording), result[1], **OPTIONS)
    pd.testing.assert_frame_equal(again.table, nu.NullResult.load(result[1]).table)
    pd.testing.assert_frame_equal(again.summary(), result[0].summary())
    assert isinstance(again.plot(), Figure) and "simulated" in again.settings["caption"]


def test_a_given_denoiser_needs_no_real_fit_of_its_own(run, recording, tmp_path):
    given = copy.copy(run)
    given.options = {**run.options, "denoiser": "0123"}
    given.preset = replace(SMALL, vae=replace(SMALL.vae, steps=5), critic=replace(SMALL.critic, steps=5))
    nu.null(given, NeighbourJudge(recording), tmp_path, **OPTIONS | {"n_pairs": 8})
    assert not (tmp_path / "real").exists()
    other = MIGVis.load(tmp_path / "permuted", device="cpu")
    assert digest_weights(other.denoiser) == digest_weights(run.denoiser)


def test_other_label_terms_need_a_real_fit_of_their_own(run, recording, tmp_path):
    quick = copy.copy(run)
    quick.preset = replace(SMALL, vae=replace(SMALL.vae, steps=5), critic=replace(SMALL.critic, steps=5))
    out = nu.null(quick, NeighbourJudge(recording), tmp_path, **OPTIONS | {"n_pairs": 8},
                  vae={"supervision": ()})
    assert (tmp_path / "real" / "vae.safetensors").is_file() and set(out.table["group"]) == {
        f"Group {g} (no labels)" for g in (1, 2, 3, 4)}
    other = MIGVis.load(tmp_path / "real", device="cpu")
    with pytest.raises(ValueError, match="supervision.*give these"):
        nu.null(other, NeighbourJudge(recording), tmp_path / "again", **OPTIONS)


# --- what is reported
# ----------------------------------------------------------------------------------------------------

def test_a_bound_below_0_counts_as_nothing_and_a_share_does_not():
    rows = [("g", "bound", "permuted", -1, -2, -0.5), ("h", "bound", "permuted", 1, 0.5, 2),
            ("g", "size", "permuted", 0, -1, 1), ("g", "shape", "permuted", -1, -2, -0.5),
            ("g", "albedo", "permuted", np.nan, np.nan, np.nan)]
    rows += [(g, a, "real", 1, 0, 2) for g, a, *_ in rows]
    out = nu.NullResult(pd.DataFrame(rows, columns=["group", "attribute", "fit", "value", "low", "high"]),
                        {"caption": ""})
    inside = out.summary()["contains_0"]
    assert [inside["g", "bound"], inside["h", "bound"], inside["g", "size"],
            inside["g", "shape"]] == [True, False, True, False] and pd.isna(inside["g", "albedo"])
    assert out.outside() == (2, 4)
