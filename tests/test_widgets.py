"""Explorers without a browser: frames and their cache, choices, sliders, the sheet of pictures, the page."""
import base64
import copy
import io
import json
import re
import threading
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from migvis import MIGVis, simulate_hvm
from migvis.training import get_preset
from migvis.widgets import (Album, Choices, Explorer, FrameCache, FrameGrid, FrameKey, Manifold, ModelFrames, difference_image,
                            dimension_choices, edit_calls, explore_dimension_pairs, explore_guidance, explorer_data, explorer_html, frame,
                            frames, guidance_choices, label_colours, load_grid, make_sheet, manifold_svg, plane_limit, precompute,
                            precompute_dimension_pairs, precompute_guidance, save_grid, to_html, to_svg, varied_images, wanted_latents)

TINY = get_preset("tiny")
SMALL = replace(TINY, vae=replace(TINY.vae, steps=30), critic=replace(TINY.critic, steps=10),
                denoiser=replace(TINY.denoiser, steps=10), t_edit=10)


def drawn(keys):
    "A source whose pictures tell their key: brightness from all of it, a bright column at the group."
    out = np.zeros((len(keys), 1, 16, 16))
    for picture, k in zip(out, keys):
        picture += (0.1 * k.gamma + 0.013 * k.original + 0.029 * k.target + sum(s * (0.17 if d else 0.31) for d, s in zip(k.dims, k.strengths))) % 0.9
        picture[:, :, k.group] = 1
    return out


def album(n=4): return Album(tuple(range(n)), drawn([FrameKey(i, i, 9, 0) for i in range(n)]), tuple(f"image {i}" for i in range(n)))


def choices(**kw):
    return Choices(**dict(album=album(), pairs=((0, 2), (0, 3), (1, 2)), groups=(0, 2), group_names=("first", "second"), gammas=(0.0, 2.0, 5.0),
                          caption="simulated: drawn") | kw)


def manifold(n=50):
    rng = np.random.default_rng(0)
    labels = pd.DataFrame({"category": rng.choice(["a", "b"], n), "angle": rng.normal(size=n)})
    return Manifold(rng.normal(size=(n, 6)), ((0, 1), (2, 3), (4, 5)), np.arange(n), labels)


def plane_choices(**kw): return choices(dims=((0, 1), (1, 0)), strengths=(0.0, 0.5, 1.0), gammas=(2.0,), manifold=manifold(), **kw)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    recording = simulate_hvm(n_images=120, size=32, subject="M1", seed=3, progress=False)
    return MIGVis(SMALL, seed=1, device="cpu").fit(recording, out=tmp_path_factory.mktemp("run"), progress=False)


# frames and their cache

def test_keys_say_what_is_shown_and_no_more():
    assert FrameKey(np.int64(1), 2, 0, 5, [3, 1], [0, 1]) == FrameKey(1, 2, 0, 5.0, (1, 3), (1.0, 0.0))
    assert FrameKey(1, 2, 3, 0.0, (0, 1), (1, 1)).plain == FrameKey(1, 4, 0, 0.0).plain
    assert len({FrameKey(1, 2, 0, 1.0), FrameKey(1, 2, 0, 1), FrameKey(1, 2, 1, 1)}) == 2
    for dims, strengths in [((1,), ()), ((1, 1), (0, 1)), ((), (1,))]:
        with pytest.raises(ValueError, match="distinct dims"): FrameKey(1, 2, 0, 1.0, dims, strengths)


def test_what_is_cached_is_not_computed_again():
    calls, cache = [], FrameCache()
    source = lambda keys: (calls.append(list(keys)), drawn(keys))[1]
    row = [FrameKey(0, 1, 0, g) for g in (1.0, 2.0, 3.0)]
    assert np.allclose(frames([row[2], row[0], row[2]], source, cache), drawn([row[2], row[0], row[2]]))
    assert calls == [[row[2], row[0]]]
    assert np.allclose(frames(row, source, cache), drawn(row)) and calls[1:] == [[row[1]]]
    assert np.allclose(frame(row[1], None, cache), drawn(row)[1]) and len(calls) == 2
    assert frames(row, source, FrameCache(1)).shape == (3, 1, 16, 16)


def test_unguided_frames_are_shared():
    cache = FrameCache()
    frame(FrameKey(1, 2, 3, 0.0), drawn, cache)
    assert FrameKey(1, 9, 0, 0.0) in cache and FrameKey(2, 2, 3, 0.0) not in cache


@pytest.mark.parametrize("source, match", [
    (None, "not among the 0 stored frames"), (lambda keys: np.zeros((2, 1, 4, 4)), r"shape \(1, 1, H, W\)"),
    (lambda keys: np.zeros((1, 4, 4)), "must return"), (lambda keys: np.full((1, 1, 4, 4), np.nan), "finite")])
def test_missing_and_wrong_frames_are_refused(source, match):
    cache = FrameCache()
    with pytest.raises(ValueError, match=match): frame(FrameKey(0, 1, 0, 1.0), source, cache)
    assert len(cache) == 0


def test_cache_is_bounded_and_saved(tmp_path):
    cache = FrameCache(3)
    for g in range(1, 6): cache.put(FrameKey(0, 1, 0, g, (0, 1), (g, 0.5)), np.full((1, 2, 2), g / 10))
    assert len(cache) == 3 and FrameKey(0, 1, 0, 1, (0, 1), (1, 0.5)) not in cache
    loaded = FrameCache.load(cache.save(tmp_path / "cache.npz"))
    assert len(loaded) == 3 and np.array_equal(loaded[FrameKey(0, 1, 0, 4, (0, 1), (4, 0.5))], np.full((1, 2, 2), 0.4, np.float32))
    with pytest.raises(ValueError, match="positive"): FrameCache(0)


def test_damaged_files_are_named(tmp_path):
    (tmp_path / "text.npz").write_text("no")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 and then nothing")
    np.savez(tmp_path / "other.npz", a=np.zeros(2))
    np.save(tmp_path / "array.npy", np.zeros(2))
    grid = precompute(choices(), lambda keys: np.random.default_rng(0).random((len(keys), 1, 16, 16)))
    whole = save_grid(grid, tmp_path / "flipped.npz").read_bytes()
    for start in range(200, len(whole) - 2000, 997): # damage anywhere: wrong checksums, streams that cannot be unpacked
        (tmp_path / "flipped.npz").write_bytes(whole[:start] + bytes(255 - b for b in whole[start:start + 60]) + whole[start + 60:])
        with pytest.raises(ValueError, match="flipped.npz does not hold frames"): load_grid(tmp_path / "flipped.npz")
    for name, load in product(("text.npz", "cut.npz", "other.npz", "array.npy"), (FrameCache.load, load_grid)):
        with pytest.raises(ValueError, match=f"{name} does not hold frames"): load(tmp_path / name)
    with pytest.raises(FileNotFoundError): load_grid(tmp_path / "none.npz")


# frames of a model

def test_calls_cover_exactly_the_keys():
    rng = np.random.default_rng(0)
    every = [FrameKey(o, t, g, gamma, dims, s) for o, t, g, gamma in product(range(2), range(3), range(2), (0.0, 1.0, 2.0))
             for dims, s in [((), ()), ((0, 1), (0.5, 1.0))]]
    for size in (len(every), 40, 7, 1):
        keys = [every[i] for i in rng.permutation(len(every))[:size]]
        covered = [FrameKey(o, t, g, gamma, dims, s) for rows, groups, gammas in edit_calls(keys)
                   for (o, t, dims, s), g, gamma in product(rows, groups, gammas)]
        assert sorted(covered, key=repr) == sorted(keys, key=repr)
    assert len(edit_calls([k for k in every if not k.dims])) == 1


def test_wanted_latents_are_between_original_and_target():
    z = torch.arange(12.0).reshape(2, 6) ** 2
    wanted = wanted_latents(z, (0, 1, (0, 2), (0.5, 2.0)), [3, 4, 5])
    assert wanted[3] == (z[0, 3] + z[1, 3]) / 2 and wanted[5] == 2 * z[1, 5] - z[0, 5] and wanted[4] == z[1, 4]
    assert (wanted_latents(z, (0, 1, (), ()), [3, 4, 5]) == z[1]).all()


@pytest.mark.parametrize("mode", ["paper", "selective"])
def test_a_frame_is_the_edit_of_the_pipeline(model, mode):
    o, t = (int(i) for i in model.split.test[[0, 4]])
    source = ModelFrames(model, (o, t), mode)
    whole = model.edit(o, t, groups=[0, 2], gammas=[0.0, 1.0], mode=mode, progress=False)
    np.testing.assert_allclose(frame(FrameKey(o, t, 2, 1.0), source), whole.images[0, 1, 1], atol=1e-4)
    pair = model.edit(o, t, groups=[2], gammas=[1.0], mode=mode, dims=[0, 3], progress=False).images[0, 0, 0]
    np.testing.assert_allclose(frame(FrameKey(o, t, 2, 1.0, (0, 3), (1, 1)), source), pair, atol=1e-4)
    single = model.edit(o, t, groups=[2], gammas=[1.0], mode=mode, dims=[3], progress=False).images[0, 0, 0]
    np.testing.assert_allclose(frame(FrameKey(o, t, 2, 1.0, (0, 3), (0, 1)), source), single, atol=1e-4)


def test_a_frame_does_not_depend_on_what_else_is_computed(model):
    o, t = tuple(int(i) for i in model.split.train[:2]), tuple(int(i) for i in model.split.train[2:4]) # could be negatives of each other
    grid = precompute_guidance(model, o, t, groups=[0, 1], gammas=[0.0, 1.0], progress=False)
    source = ModelFrames(model, grid.choices.album.numbers)
    for key in (FrameKey(o[0], t[1], 1, 1.0), FrameKey(o[1], t[0], 0, 1.0), FrameKey(o[1], t[1], 1, 0.0)):
        np.testing.assert_allclose(frame(key, source), grid.at(key), atol=1e-4)
    ragged = [FrameKey(o[0], t[0], 0, 1.0), FrameKey(o[1], t[1], 1, 1.0), FrameKey(o[1], t[0], 1, 0.0), FrameKey(o[0], t[1], 1, 1.0, (1, 2), (1, 0))]
    np.testing.assert_allclose(source(ragged)[:3], [grid.at(k) for k in ragged[:3]], atol=1e-4)


def test_grid_of_a_model_names_what_it_shows(model):
    chosen = guidance_choices(model)
    assert len(chosen.pairs) == 9 and len(chosen.keys()) == 9 * 4 * 4 and "simulated" in chosen.caption and "tiny" in chosen.caption
    assert set(chosen.album.numbers) <= set(model.split.test.tolist())
    assert len({name.split()[0] for name in chosen.album.names}) == 6 == len(set(varied_images(model)))
    planes = dimension_choices(model, group=1, strengths=(0, 1))
    assert planes.dims == ((0, 1), (2, 3), (4, 5)) and planes.gammas == (max(model.preset.gammas_of("selective")),)
    assert len(planes.keys()) == 3 * 4 and planes.manifold.plane(1, (0, 1)).shape == (120, 2)
    number = planes.pairs[0][0]
    assert np.allclose(planes.manifold.place(number, 1, (2, 3)), model.latents()[number, list(model.critics.groups[1])[2:4]])


@pytest.mark.parametrize("bad, match", [(dict(originals=999), "originals must be between"), (dict(groups=[7]), "numbers from 0 to 3"),
                                        (dict(originals=3, targets=3), "pairs empty")])
def test_bad_choices_of_a_model(model, bad, match):
    with pytest.raises(ValueError, match=match): guidance_choices(model, **bad)


def test_bad_dimensions_of_a_model(model):
    for dims in ([(0, 6)], [(1, 1)], []):
        with pytest.raises(ValueError, match="pairs of two dimensions in 0..5"): dimension_choices(model, dims=dims)


def test_dimension_pairs_of_a_model_are_one_call_each(model, monkeypatch):
    import migvis.widgets as module
    calls, real = [], module.edit
    monkeypatch.setattr(module, "edit", lambda *a, **k: (calls.append(k["dims"]), real(*a, **k))[1])
    grid = precompute_dimension_pairs(model, group=2, dims=[(0, 1), (4, 2)], strengths=(0, 1), progress=False)
    assert sorted(calls) == [(0, 1), (2, 4)] and len(grid) == 8
    key = grid.choices.key(grid.choices.pairs[0], 2, grid.choices.gammas[0], (4, 2), 1, 0)
    assert key.strengths == (0.0, 1.0)
    np.testing.assert_allclose(grid.at(key), frame(key, ModelFrames(model, grid.choices.album.numbers)), atol=1e-4)


def test_strengths_reach_every_group(model):
    o, t = (int(i) for i in model.split.test[[0, 4]])
    both = precompute_dimension_pairs(model, o, t, group=[0, 2], dims=[(0, 1)], strengths=(0, 1), progress=False)
    for group in (0, 2):
        alone = precompute_dimension_pairs(model, o, t, group=group, dims=[(0, 1)], strengths=(0, 1), progress=False)
        for key in alone.choices.keys(): np.testing.assert_allclose(both.at(key), alone.at(key), atol=1e-4)
        ends = [alone.at(FrameKey(o, t, group, alone.choices.gammas[0], (0, 1), s)) for s in ((0, 0), (1, 1))]
        assert np.abs(ends[0] - ends[1]).max() > 1e-3


def test_a_cache_is_of_one_way_to_make_frames(model, tmp_path):
    o, t = (int(i) for i in model.split.test[[0, 4]])
    grid = precompute_guidance(model, o, t, groups=[1], gammas=[0.0, 1.0], steps=4, progress=False)
    common = dict(originals=o, targets=t, groups=[1], gammas=[0.0, 1.0], background=False)
    filled = [grid.cache(), load_grid(save_grid(grid, tmp_path / "grid.npz")).cache(), FrameCache.load(grid.cache().save(tmp_path / "cache.npz"))]
    for cache in filled:
        assert explore_guidance(model, steps=4, progress=False, cache=cache, **common).worker.seconds is None, "all frames were there"
        for other, match in [(dict(steps=4, mode="paper"), "paper guidance"), (dict(steps=5), "steps=5"), (dict(steps=4, seed=3), "seed=3")]:
            with pytest.raises(ValueError, match=f"the cache holds frames of: .*selective guidance.*{match}.*use another cache"):
                explore_guidance(model, cache=cache, **common | other)
    own = FrameCache()
    frame(FrameKey(o, t, 1, 1.0), drawn, own) # a source that does not say how
    Explorer(choices(), drawn, own, background=False)


def test_targets_are_of_other_categories(model):
    category, test = model.recording.labels["category"], model.split.test
    for original in test:
        chosen = guidance_choices(model, original)
        wanted = {t for _, t in chosen.pairs}
        assert len(wanted) == 3 and category[original] not in set(category[list(wanted)])
        (o, t), = dimension_choices(model, original).pairs
        assert o == original and category[o] != category[t]
    alike = copy.copy(model)
    alike.recording = replace(model.recording, labels=model.recording.labels.assign(category="one"))
    assert all(o != t for o, t in guidance_choices(alike).pairs) and len(dimension_choices(alike).pairs) == 1


# choices and grids

def test_choices_enumerate_every_frame():
    assert len(choices().keys()) == len(set(choices().keys())) == 3 * 2 * 3
    assert choices().keys()[4] == FrameKey(0, 2, 2, 2.0)
    assert plane_choices().keys()[1] == FrameKey(0, 2, 0, 2.0, (0, 1), (0.0, 0.5))


@pytest.mark.parametrize("bad, match", [
    (dict(gammas=()), "gammas empty"), (dict(pairs=()), "pairs empty"), (dict(group_names=("one",)), "2 groups, but 1"),
    (dict(dims=((0, 1),)), "go together"), (dict(pairs=((0, 7),)), r"images \[7\]")])
def test_bad_choices(bad, match):
    with pytest.raises(ValueError, match=match): choices(**bad)


def test_albums_and_manifolds_must_match():
    with pytest.raises(ValueError, match="album needs"): Album((0, 0), np.zeros((2, 1, 4, 4)), ("a", "b"))
    with pytest.raises(ValueError, match="as many"): Manifold(np.zeros((3, 2)), ((0, 1),), np.arange(2), pd.DataFrame({"a": [1, 2, 3]}))


@pytest.mark.parametrize("offer", [choices(), plane_choices()], ids=["guidance", "dimensions"])
def test_grid_round_trip(offer, tmp_path):
    grid = precompute(offer, drawn)
    loaded = load_grid(save_grid(grid, tmp_path / "grid.npz"))
    assert loaded.choices.keys() == offer.keys() and np.array_equal(loaded.frames, grid.frames)
    assert loaded.choices.album.names == offer.album.names and loaded.choices.caption == offer.caption
    if offer.manifold is not None:
        assert np.array_equal(loaded.choices.manifold.plane(2, (1, 0)), offer.manifold.plane(2, (1, 0)))
        assert loaded.choices.manifold.labels.equals(offer.manifold.labels)
    for key, image in zip(offer.keys(), grid.frames): assert np.array_equal(loaded.at(key), image) or key.gamma == 0
    with pytest.raises(ValueError, match="as many as the choices offer"): FrameGrid(offer, grid.frames[1:])


def test_edits_become_a_grid(model):
    o, t = model.split.test[:2], model.split.test[3:5]
    edits = model.edit(o, t, groups=[1, 3], gammas=(0.0, 1.0), progress=False)
    grid = FrameGrid.of_edits(edits)
    assert grid.choices.pairs == tuple(zip(o.tolist(), t.tolist())) and grid.choices.caption == edits.caption
    assert np.array_equal(grid.at(FrameKey(o[1], t[1], 3, 1.0)), edits.images[1, 1, 1])
    with pytest.raises(ValueError, match="not among"): grid.at(FrameKey(o[0], t[1], 3, 1.0))


def test_manifold_thins_but_keeps_what_is_needed():
    thin = manifold(200).thinned((7, 180), n=20)
    assert len(thin.numbers) == 20 and {7, 180} <= set(thin.numbers.tolist())
    assert np.array_equal(thin.place(180, 1, (1, 0)), manifold(200).place(180, 1, (1, 0)))


# drawing

def test_colours():
    colours, legend = label_colours(pd.Series(["b", "a", "b"]))
    assert colours[0] == colours[2] != colours[1] and legend.index("a</span>") < legend.index("b</span>")
    many, legend = label_colours(pd.Series([f"{i:02d}" for i in range(10)]))
    assert len(set(many)) == 9 and "others" in legend
    scale, legend = label_colours(pd.Series([0.0, 5.0, 10.0]))
    assert len(set(scale)) == 3 and "10" in legend
    assert label_colours(pd.Series(["<b>"]))[1].count("<b>") == 0 and len(label_colours(pd.Series([2.0, 2.0]))[0]) == 2


def test_plane_holds_every_place_that_can_be_reached():
    ends, strengths = np.array([0.0, 0.0, 3.0, -4.0]), (-0.5, 2.0)
    limit = plane_limit(np.zeros((5, 2)), ends, strengths)
    assert limit > 8
    assert np.allclose(to_svg(np.zeros(2), limit), [184, 154]) and (to_svg(np.array([limit, limit]) * 5, limit) == [330, 8]).all()
    svg = manifold_svg(np.random.default_rng(0).normal(size=(20, 2)), ["red"] * 20, ends, np.array([3.0, 0.0]), limit, ("a", "b"))
    assert svg.count('fill="red"') == 20 and "http" not in svg
    x, y = to_svg(np.array([3.0, 0.0]), limit).round(1)
    assert f'class="mv-now" cx="{x}" cy="{y}"' in svg


def test_difference_is_red_where_brighter_and_clear_where_equal():
    image = difference_image(np.array([[[0.5, 0.9], [0.1, 0.5]]]), np.full((1, 2, 2), 0.5))
    assert image[0, 0, 3] == image[1, 1, 3] == 0 < image[0, 1, 3]
    assert image[0, 1, 0] > image[0, 1, 2] and image[1, 0, 0] < image[1, 0, 2]


# sliders

def pixels(explorer):
    "The edit on display, decoded."
    uri = re.search(r'data:image/png;base64,([^"]+)', explorer.picture.value).group(1)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri)))) / 255


def test_every_control_changes_the_picture():
    explorer = explore_guidance(precompute(choices(), drawn))
    for name, value in [("gamma", 2.0), ("group", 2), ("target", 3), ("gamma", 5.0), ("group", 0), ("original", 1), ("gamma", 0.0)]:
        explorer.controls[name].value = value
        expected = drawn([explorer.key.plain])[0, 0] if explorer.key.gamma else None
        assert getattr(explorer.key, name) == value
        if expected is not None: assert np.abs(pixels(explorer) - expected).max() < 0.003
        assert all(control.description for control in explorer.controls.values())
    assert "simulated" in str([child.value for child in explorer.children if hasattr(child, "value")])


def test_only_targets_of_the_original_are_offered():
    explorer = explore_guidance(precompute(choices(), drawn))
    explorer.controls["target"].value = 3
    explorer.controls["original"].value = 1
    assert explorer.controls["target"].value == 2 and len(explorer.controls["target"].options) == 1 and explorer.controls["target"].disabled
    explorer.controls["original"].value = 0
    assert "differs from the original" in explorer.status.value
    assert [v for _, v in explorer.controls["target"].options] == [2, 3] and explorer.key.target == 2


def test_strengths_move_picture_and_path():
    explorer = explore_dimension_pairs(precompute(plane_choices(), drawn))
    seen = set()
    for name, value in [("first", 0.0), ("second", 0.5), ("dims", (1, 0)), ("group", 2), ("colour", "angle")]:
        explorer.controls[name].value = value
        seen.add(explorer.picture.value)
        assert np.abs(pixels(explorer) - drawn([explorer.key])[0, 0]).max() < 0.003
    assert len(seen) == 5 and "mv-now" in explorer.picture.value
    assert explorer.key == FrameKey(0, 2, 2, 2.0, (1, 0), (0.0, 0.5))


def test_missing_frames_without_a_model_are_explained():
    cache = FrameCache()
    cache.put(FrameKey(0, 2, 0, 5.0), drawn([FrameKey(0, 2, 0, 5.0)])[0])
    explorer = Explorer(choices(), None, cache)
    assert "not computed" not in explorer.status.value
    explorer.controls["gamma"].value = 2.0
    assert "no model here" in explorer.status.value and "opacity" in explorer.picture.value


def test_errors_are_shown_and_moving_tries_again():
    broken = [True]
    def source(keys):
        if broken[0]: raise FloatingPointError("diverged <badly>")
        return drawn(keys)
    explorer = Explorer(choices(), source, background=False)
    assert "FloatingPointError" in explorer.status.value and "diverged &lt;badly&gt;" in explorer.status.value and 'role="alert"' in explorer.status.value
    assert "Traceback" in explorer.status.value
    broken[0] = False
    explorer.controls["gamma"].value = 2.0
    assert "Error" not in explorer.status.value
    explorer.controls["gamma"].value = 5.0
    assert np.abs(pixels(explorer) - drawn([explorer.key])[0, 0]).max() < 0.003


def test_while_busy_stored_frames_answer_and_only_the_newest_is_computed():
    gate, started, asked = threading.Event(), threading.Event(), []
    def slow(keys):
        asked.extend(keys), started.set()
        assert gate.wait(20)
        return drawn(keys)
    offer, cache = choices(gammas=(1.0, 2.0, 3.0, 4.0, 5.0)), FrameCache()
    cache.put(FrameKey(0, 2, 0, 5.0), drawn([FrameKey(0, 2, 0, 5.0)])[0])
    explorer = Explorer(offer, slow, cache)
    explorer.controls["gamma"].value = 1.0
    assert started.wait(20) and "Computing this frame" in explorer.status.value and "aria-busy" in explorer.picture.value
    explorer.controls["gamma"].value = 5.0
    assert "Computing" not in explorer.status.value and "aria-busy" not in explorer.picture.value
    for gamma in (2.0, 3.0, 4.0): explorer.controls["gamma"].value = gamma
    gate.set()
    finish(explorer)
    assert [key.gamma for key in asked] == [1.0, 4.0]
    assert np.abs(pixels(explorer) - drawn([explorer.key])[0, 0]).max() < 0.003 and "aria-busy" not in explorer.picture.value


def finish(explorer):
    "Wait until nothing is computed any more."
    for _ in range(2000):
        if not explorer.worker.busy: return
        threading.Event().wait(0.01)
    raise AssertionError("still computing")


def test_rows_are_computed_ahead_where_asked():
    asked = []
    explorer = Explorer(choices(), lambda keys: (asked.append([k.gamma for k in keys]), drawn(keys))[1], ahead=True, background=False)
    assert asked == [[5.0, 0.0, 2.0]]
    explorer.controls["gamma"].value = 2.0
    assert len(asked) == 1


def test_a_frame_does_not_fail_with_its_row():
    def source(keys):
        if any(key.gamma == 5 for key in keys): raise FloatingPointError("diverged")
        return drawn(keys)
    explorer = Explorer(choices(), source, ahead=True, background=False)
    assert "diverged" in explorer.status.value
    explorer.controls["gamma"].value = 2.0
    assert "diverged" not in explorer.status.value and np.abs(pixels(explorer) - drawn([explorer.key])[0, 0]).max() < 0.003


def test_all_frames_are_computed_on_demand():
    explorer = Explorer(choices(), drawn, background=False)
    assert "1 of 18" in repr(explorer)
    explorer.fill.click()
    assert "18 of 18" in repr(explorer) and not explorer.worker.filling and "Computing" not in explorer.status.value
    small = Explorer(choices(), drawn, FrameCache(2), background=False) # cannot hold all: does not try for ever
    small.fill.click()
    assert len(small.cache) <= 2
    broken = Explorer(choices(), lambda keys: 1 / 0, background=False)
    broken.fill.click()
    assert not broken.worker.filling and "ZeroDivisionError" in broken.status.value


def test_live_explorers_of_a_model(model):
    o, t = (int(i) for i in model.split.test[[0, 4]])
    explorer = explore_guidance(model, o, t, groups=[1], gammas=[0.0, 1.0], background=False)
    whole = model.edit(o, t, groups=[1], gammas=[0.0, 1.0], progress=False).images[0, 0]
    assert np.abs(pixels(explorer) - whole[1, 0]).max() < 0.004
    assert explorer.worker.seconds > 0 and not explorer.worker.ahead
    pairs = explore_dimension_pairs(model, o, t, group=1, dims=[(0, 1)], strengths=(0, 1), background=False)
    pairs.controls["first"].value = 0.0
    assert len(pairs.cache) == 2 and not pairs.worker.failed
    with pytest.raises(TypeError, match="fitted MIGVis, Edits or a FrameGrid"): explore_guidance(model.recording)
    with pytest.raises(ValueError, match="not fitted"): explore_guidance(MIGVis(SMALL))


# the page

@pytest.mark.parametrize("shape", [(16, 16), (30, 21)])
@pytest.mark.parametrize("kind", ["noise", "smooth", "flat"])
def test_sheet_gives_every_picture_back(shape, kind):
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 1, shape[1])[None, None] * rng.random((7, 1, 1)) * np.ones((7, *shape))
    images = {"noise": rng.random((7, *shape)), "smooth": ramp, "flat": np.zeros((7, *shape))}[kind][[0, 1, 2, 0, 3, 4, 5, 6, 2], None]
    sheet = make_sheet(images, tolerance=0.006)
    assert len(set(sheet.cells)) == (1 if kind == "flat" else 7) and sheet.cells[0] == sheet.cells[3]
    picture = np.asarray(Image.open(io.BytesIO(sheet.content)).convert("L"), float) / 255
    for image, cell in zip(images, sheet.cells):
        row, column = divmod(cell, sheet.columns)
        part = picture[row * sheet.cell[0]:, column * sheet.cell[1]:][: shape[0], : shape[1]]
        assert np.sqrt(((part - image[0]) ** 2).mean()) < 0.009


def test_sheet_is_smaller_than_plain_png():
    y, x = np.mgrid[:64, :64] / 64
    waves = np.stack([0.5 + 0.4 * np.sin(9 * x + k) * np.cos(7 * y * x + k) for k in range(16)])[:, None]
    plain = io.BytesIO()
    Image.fromarray((waves.reshape(-1, 64) * 255).astype(np.uint8)).save(plain, "PNG")
    assert len(make_sheet(waves).content) < len(plain.getvalue()) / 2


@pytest.mark.parametrize("offer", [choices(), plane_choices()], ids=["guidance", "dimensions"])
def test_page_data_finds_every_frame(offer):
    grid = precompute(offer, drawn)
    data = json.loads(json.dumps(explorer_data(grid), default=list))
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data["sprite"].split(",")[1]))).convert("L"), float) / 255
    shown = lambda cell: picture[cell // data["columns"] * data["cell"][0]:, cell % data["columns"] * data["cell"][1]:][:16, :16]
    sizes = [len(data["values"][axis]) for axis in data["axes"]]
    for place, values in zip(np.ndindex(*sizes), product(*offer.axes().values())):
        cell = data["cells"][int(np.ravel_multi_index(place, sizes))]
        expected = grid.frames[int(np.ravel_multi_index(place, sizes)), 0]
        assert np.sqrt(((shown(cell) - expected) ** 2).mean()) < 0.01, values
    for image, original in zip(data["images"], offer.album.images): assert np.abs(shown(image["cell"]) - original[0]).mean() < 0.01
    if offer.manifold is not None:
        assert set(data["manifold"]["planes"]) == {f"{g},{d}" for g in range(2) for d in range(2)}
        assert len(data["manifold"]["points"]) == 3 * 4 and len(data["manifold"]["fills"]) == len(data["manifold"]["legends"]) == 2


@pytest.mark.parametrize("offer", [choices(), plane_choices()], ids=["guidance", "dimensions"])
def test_page_holds_everything_and_loads_nothing(offer, tmp_path):
    page = to_html(precompute(offer, drawn), tmp_path / "sub" / "page.html").read_text(encoding="utf-8")
    assert len(page) < 200_000
    assert not re.search(r"(?:https?:)?//[a-z0-9-]+\.[a-z]", re.sub(r"base64,[A-Za-z0-9+/=]+", "", page))
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|EventSource|importScripts|sendBeacon)\b|@import|url\(", page)
    assert set(re.findall(r'(?:src|href)="([^"]*)"', page)) == {"data:,"} and "default-src 'none'" in page
    payload = json.loads(re.search(r'<script type="application/json">(.*?)</script>', page, re.S).group(1))
    assert payload["sprite"].startswith("data:image/") and len(payload["cells"]) == len(offer.keys())
    for said in ("simulated data", offer.caption, 'lang="en"', 'role="region"', 'role="status"', "<title>"): assert said in page


@pytest.mark.parametrize("nasty", ['</script><b>"&', '<!--<script><b>"&', "<!-- <SCRIPT <b>"])
def test_text_cannot_break_the_page(tmp_path, nasty):
    offer = choices(caption=nasty, group_names=(nasty, "plain"), album=replace(album(), names=(nasty, "b", "c", "d")))
    page = explorer_html(precompute(offer, drawn), title=nasty, lead=nasty)
    assert page.count("</script>") == 2 and "<b>" not in re.sub(r"<script.*?</script>", "", page, flags=re.S)
    payload = json.loads(re.search(r'<script type="application/json">(.*?)</script>', page, re.S).group(1))
    assert payload["groups"][0]["name"] == nasty and payload["images"][0]["name"] == nasty
    assert "<" not in re.search(r'<script type="application/json">(.*?)</script>', page, re.S).group(1), "<!--<script would swallow the end of the script"


@pytest.mark.parametrize("wrong, match", [(dict(gammas=(0.0, float("nan"))), "gamma must be finite"), (dict(gammas=(-1.0,)), "not negative"),
                                          (dict(gammas=(float("inf"),)), "gamma must be finite")])
def test_strengths_that_no_page_could_show_are_refused_early(wrong, match):
    with pytest.raises(ValueError, match=match): choices(**wrong)


def test_places_that_are_not_numbers_are_refused_early():
    with pytest.raises(ValueError, match="strengths must be finite"): replace(plane_choices(), strengths=(0.0, float("nan")))
    manifold = plane_choices().manifold
    with pytest.raises(ValueError, match="latents must be finite"): replace(manifold, latents=np.full_like(manifold.latents, np.nan))


def test_real_data_is_not_called_simulated():
    assert "mv-badge\">" not in explorer_html(precompute(choices(caption="macaque V4, session 210325"), drawn))


def test_large_pages_warn(tmp_path):
    with pytest.warns(UserWarning, match="fewer originals"): to_html(precompute(choices(), drawn), tmp_path / "a.html", lead="x" * 3_000_000)


def test_default_grid_at_128_pixels_stays_below_3_mb_even_for_noise():
    rng, n = np.random.default_rng(0), 9 * 4 * 3 + 3 + 6 # pairs x groups x strengths, unguided frames, images
    per_picture = len(make_sheet(rng.random((16, 1, 128, 128)).astype(np.float32)).uri) / 16
    assert 10_000 < per_picture < 2_800_000 / n


def test_pages_refuse_what_is_not_frames(tmp_path):
    with pytest.raises(TypeError, match="precompute"): to_html(np.zeros((3, 1, 4, 4)), tmp_path / "a.html")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write"): to_html(precompute(choices(), drawn), tmp_path / "file" / "a.html")


def test_a_grid_shows_itself():
    grid = precompute(choices(), drawn)
    assert grid._repr_html_() == explorer_html(grid) and "18 frames" in repr(grid)
