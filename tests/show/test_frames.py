"""Frames and their cache, choices, frames of a model, drawings."""
import copy
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from migvis.ddim_guidance import Editor
from migvis.show.frames import (FrameGrid, FrameKey, _as_grid, _frames, _label_colours, _manifold_svg, _varied_images, dimension_frames,
                                guidance_frames, precompute)
from migvis.support.presets import EditSettings
from tests.show.conftest import choices, drawn, manifold, plane_choices

BOTH = pytest.mark.parametrize("offer", [choices(), choices(draws=2), plane_choices()], ids=["guidance", "draws", "dimensions"])


def one(key, source=None): return _frames([key], source, {})[0]


# Frames and their cache

def test_keys_say_what_is_shown_and_no_more():
    assert FrameKey(np.int64(1), 2, 0, 5) == FrameKey(1, 2, 0, 5.0)
    assert FrameKey(1, 2, 3, 0.0, (0, 1), (1, 1), 2).simplest == FrameKey(1, 4, 0, 0.0).simplest
    assert len({FrameKey(1, 2, 0, 1.0), FrameKey(1, 2, 0, 1), FrameKey(1, 2, 1, 1), FrameKey(1, 2, 1, 1, draw=1)}) == 3
    for dims, strengths in [((1,), ()), ((1, 1), (0, 1)), ((), (1,))]:
        with pytest.raises(ValueError, match="distinct dims"): FrameKey(1, 2, 0, 1.0, dims, strengths)


def test_what_is_stored_is_not_computed_again():
    calls, stored = [], {}
    source = lambda keys: (calls.append(list(keys)), drawn(keys))[1]
    row = [FrameKey(0, 1, 0, g) for g in (1.0, 2.0, 3.0)]
    assert np.allclose(_frames([row[2], row[0], row[2]], source, stored), drawn([row[2], row[0], row[2]]))
    assert calls == [[row[2], row[0]]]
    assert np.allclose(_frames(row, source, stored), drawn(row)) and calls[1:] == [[row[1]]]
    assert np.allclose(_frames(row, None, stored), drawn(row)) and len(calls) == 2


def test_unguided_frames_are_shared():
    stored = {}
    unguided = [FrameKey(1, 2, 3, 0.0), FrameKey(1, 9, 0, 0.0), FrameKey(1, 2, 3, 0.0, draw=2)]
    same = _frames(unguided, lambda keys: np.random.default_rng(0).random((len(keys), 1, 4, 4)), stored)
    assert len(stored) == 1 and (same == same[0]).all() and FrameKey(2, 2, 3, 0.0).simplest not in stored


@pytest.mark.parametrize("source, match", [
    (None, "not among the 0 stored frames"), (lambda keys: np.zeros((2, 1, 4, 4)), r"shape \(1, 1 or 3, H, W\)"),
    (lambda keys: np.zeros((1, 4, 4)), "must return"), (lambda keys: np.full((1, 1, 4, 4), np.nan), "finite")])
def test_missing_and_wrong_frames_are_refused(source, match):
    stored = {}
    with pytest.raises(ValueError, match=match): _frames([FrameKey(0, 1, 0, 1.0)], source, stored)
    assert not stored


# Frames of a model

def test_wanted_latents_are_between_original_and_target(model, monkeypatch):
    o, t = (int(i) for i in model.split.test[[0, 4]])
    asked, edit = [], Editor.__call__
    monkeypatch.setattr(Editor, "__call__", lambda self, images, z, *more, **kw: asked.append(z[0]) or edit(self, images, z, *more, **kw))
    for dims, strengths in [((1, 3), (0.5, 2.0)), ((), ())]: guidance_frames(model, o, t)([FrameKey(o, t, 1, 1.0, dims, strengths)])
    z, (i, j) = model.latents(), (model.critics.groups[1][d] for d in (1, 3))
    wanted = z[t].clone()
    assert (asked[1] == wanted).all()
    wanted[i], wanted[j] = (z[o, i] + z[t, i]) / 2, 2 * z[t, j] - z[o, j]
    assert (asked[0] - wanted).abs().max() < 1e-6


@pytest.mark.parametrize("mode, draw", [("paper", 2), ("selective", 0)])
def test_a_frame_is_the_edit_of_the_model(model, mode, draw):
    o, t = (int(i) for i in model.split.test[[0, 4]])
    source, settings = guidance_frames(model, o, t, settings=mode, draws=3), EditSettings(mode, seed=draw, noise_seed=1000 * draw)
    edit = lambda groups, dims: model.edit(o, t, groups=groups, gammas=[1.0], settings=settings, dims=dims, progress=False).images[0, -1, 0]
    np.testing.assert_allclose(one(FrameKey(o, t, 2, 1.0, draw=draw), source), edit([1, 3], None), atol=1e-4)
    for dims, strengths in [([0, 3], (1, 1)), ([3], (0, 1))]:
        np.testing.assert_allclose(one(FrameKey(o, t, 2, 1.0, (0, 3), strengths, draw), source), edit([3], dims), atol=1e-4)


@pytest.mark.parametrize("mode", ["paper", "selective"])
def test_draws_differ_where_there_is_guidance(model, mode):
    o, t = (int(i) for i in model.split.test[[0, 4]])
    grid = guidance_frames(model, o, t, groups=[1], gammas=[0.0, 5.0], settings=EditSettings(mode, scale="eps", n_negatives=8), draws=3).precompute(progress=False)
    trips, edits = ([grid.at(FrameKey(o, t, 0, gamma, draw=k)) for k in range(3)] for gamma in (0.0, 5.0))
    assert len(grid) == 6 and all(np.array_equal(trips[0], trip) for trip in trips)
    assert min(np.abs(edits[i] - edits[j]).max() for i, j in [(0, 1), (0, 2), (1, 2)]) > 1e-4
    with pytest.raises(ValueError, match="draws must be at least 1"): guidance_frames(model, draws=0)


def test_a_frame_does_not_depend_on_what_else_is_computed(model):
    o, t = (tuple(int(i) for i in part) for part in (model.split.train[:2], model.split.train[2:4])) # could be negatives of each other
    source = guidance_frames(model, o, t, groups=[1, 2], gammas=[0.0, 1.0])
    grid = source.precompute(progress=False)
    ragged = [FrameKey(o[0], t[0], 0, 1.0), FrameKey(o[1], t[1], 1, 1.0), FrameKey(o[1], t[0], 1, 0.0),
              FrameKey(o[0], t[1], 1, 1.0, (1, 2), (1, 0))]
    np.testing.assert_allclose(source(ragged)[:3], [grid.at(k) for k in ragged[:3]], atol=1e-4)
    key = FrameKey(o[1], t[0], 0, 1.0)
    np.testing.assert_allclose(one(key, source), grid.at(key), atol=1e-4)


def test_grid_of_a_model_names_what_it_shows(model):
    chosen = guidance_frames(model).choices
    assert len(chosen.pairs) == 9 and len(chosen.keys()) == 9 * 4 * 4 and "simulated" in chosen.caption and "tiny" in chosen.caption
    assert set(chosen.album) <= set(model.split.test.tolist())
    assert len({name.split()[0] for name, _ in chosen.album.values()}) == 6 == len(set(_varied_images(model)))
    planes = dimension_frames(model, group=2, strengths=(0, 1)).choices
    assert planes.gammas == (max(model.edit_settings().gammas),) and len(planes.keys()) == len(planes.dims) * 4
    number, (a, b) = planes.pairs[0][0], planes.dims[-1]
    wanted = model.latents()[number, [model.critics.groups[1][d] for d in (a, b)]]
    assert np.allclose(planes.manifold.latents[number, [planes.manifold.group_dims[1][d] for d in (a, b)]], wanted)


@pytest.mark.parametrize("bad, match", [(dict(originals=999), "originals must be between"), (dict(groups=[7]), "groups must be|group"),
                                        (dict(originals=3, targets=3), "pairs empty")])
def test_bad_choices_of_a_model(model, bad, match):
    with pytest.raises(ValueError, match=match): guidance_frames(model, **bad)


def test_bad_dimensions_of_a_model(model):
    for dims in ([(0, 6)], [(1, 1)], []):
        with pytest.raises(ValueError, match="pairs of two dimensions in 0..5"): dimension_frames(model, dims=dims)


def test_strengths_reach_every_group(model):
    o, t = (int(i) for i in model.split.test[[0, 4]])
    both = dimension_frames(model, o, t, group=[1, 3], dims=[(0, 1)], strengths=(0, 1)).precompute(progress=False)
    for group in (0, 2):
        alone = dimension_frames(model, o, t, group=group + 1, dims=[(0, 1)], strengths=(0, 1)).precompute(progress=False)
        for key in alone.choices.keys(): np.testing.assert_allclose(both.at(key), alone.at(key), atol=1e-4)
        ends = [alone.at(FrameKey(o, t, group, alone.choices.gammas[0], (0, 1), s)) for s in ((0, 0), (1, 1))]
        assert np.abs(ends[0] - ends[1]).max() > 1e-3


def test_targets_are_of_other_categories(model):
    category = model.recording.labels["category"]
    for original in model.split.test[:8]:
        wanted = {t for _, t in guidance_frames(model, original).choices.pairs}
        assert len(wanted) == 3 and category[original] not in set(category[list(wanted)])
    alike = copy.copy(model)
    alike.recording = replace(model.recording, labels=model.recording.labels.assign(category="one"))
    assert all(o != t for o, t in guidance_frames(alike).choices.pairs) and len(dimension_frames(alike).choices.pairs) == 1


# Choices and grids

def test_choices_enumerate_every_frame():
    assert len(choices().keys()) == len(set(choices().keys())) == 3 * 2 * 3
    assert len(set(choices(draws=2).keys())) == 2 * 3 * 2 * 3
    assert choices().keys()[4] == FrameKey(0, 2, 2, 2.0)
    assert plane_choices().keys()[1] == FrameKey(0, 2, 0, 2.0, (0, 1), (0.0, 0.5))


def test_explorers_open_at_the_original():
    assert choices(gammas=(2.0, 0.0, 5.0)).start() == {"pair": 0, "group": 0, "gamma": 1, "draw": 0}
    plane = plane_choices(strengths=(-1.0, 0.0, 1.0), gammas=(1.0, 5.0)).start()
    assert plane == {"pair": 0, "group": 0, "gamma": 1, "draw": 0, "dims": 0, "first": 1, "second": 1}


@pytest.mark.parametrize("bad, match", [
    (dict(gammas=()), "gammas empty"), (dict(pairs=()), "pairs empty"), (dict(group_names=("one",)), "there are 2 groups, but"),
    (dict(dims=((0, 1),)), "go together"), (dict(pairs=((0, 7),)), r"images \[7\]"), (dict(gammas=(0.0, float("nan"))), "gamma must be finite"),
    (dict(gammas=(-1.0,)), "not negative"), (dict(dims=((0, 1),), strengths=(0.0, float("nan"))), "strengths must be finite")])
def test_bad_choices(bad, match):
    with pytest.raises(ValueError, match=match): choices(**bad)


@BOTH
def test_grid_has_every_frame(offer):
    grid = precompute(offer, drawn)
    for key, image in zip(offer.keys(), grid.frames): assert np.array_equal(grid.at(key), image)
    with pytest.raises(ValueError, match="as many as the choices offer"): FrameGrid(offer, grid.frames[1:])


def test_edits_become_a_grid(model):
    o, t = model.split.test[:2], model.split.test[3:5]
    edits = model.edit(o, t, groups=[2, 4], gammas=(0.0, 1.0), progress=False)
    grid = _as_grid(edits)
    assert grid.choices.pairs == tuple(zip(o.tolist(), t.tolist())) and grid.choices.caption == edits.caption
    assert np.array_equal(grid.at(FrameKey(o[1], t[1], 3, 1.0)), edits.images[1, 1, 1])
    with pytest.raises(ValueError, match="not among"): grid.at(FrameKey(o[0], t[1], 3, 1.0))
    with pytest.raises(ValueError, match="no target images"): _as_grid(replace(edits, target_index=None))


def test_manifold_thins_but_keeps_what_is_needed():
    thin = manifold(200).thinned((7, 180), n=20)
    assert len(thin.labels) == 20 and {7, 180} <= set(thin.labels.index)
    assert np.array_equal(thin.latents[thin.labels.index.get_loc(180)], manifold(200).latents[180])


# Drawings

def test_colours():
    colours, legend = _label_colours(pd.Series(["b", "a", "b"]))
    assert colours[0] == colours[2] != colours[1] and legend.index("a</span>") < legend.index("b</span>")
    many, legend = _label_colours(pd.Series([f"{i:02d}" for i in range(23)]))
    assert len(set(many)) == 21 and "others" in legend
    scale, legend = _label_colours(pd.Series([0.0, 5.0, 10.0]))
    assert len(set(scale)) == 3 and "10" in legend
    assert _label_colours(pd.Series(["<b>"]))[1].count("<b>") == 0 and len(_label_colours(pd.Series([2.0, 2.0]))[0]) == 2


def test_plane_holds_every_place_that_can_be_reached():
    offer = plane_choices(strengths=(-0.5, 2.0), group_names=("<b>", "second"))
    latents = 0 * offer.manifold.latents
    latents[2, :2], latents[3, 0] = (3, -4), 99 # the last one is far away
    far = replace(offer.manifold, latents=latents)
    offer = replace(offer, manifold=far, pairs=((0, 2), (1, 2)))
    svg, ends = _manifold_svg(offer, far, FrameKey(0, 2, 0, 2.0, (0, 1), (1.0, 2.0)), ["red"] * 50)
    assert svg.count('fill="red"') == 50 and "http" not in svg and "<b>" not in svg and 'cx="330.0"' in svg
    assert ends.shape == (2, 2, 2) and (ends[:, 0] == [184, 154]).all() and (ends[0, 1] == ends[1, 1]).all()
    x, y = ends[0, 0] + [1, 2] * (ends[0, 1] - ends[0, 0])
    found = re.search(r'class="mv-now" cx="([\d.]+)" cy="([\d.]+)"', svg)
    assert np.allclose([float(v) for v in found.groups()], [x, y], atol=0.2) and 38 < x < 330 and 8 < y < 300
