"""Backgrounds: partners, segmentation, and their parts."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from migvis.data import Recording
from migvis.recordings.foreground import (
    _Scene,
    _Shapes,
    _appearance_codes,
    _background_likelihood,
    _changed_region,
    _clean_mask,
    _find_partners,
    _learn_reach,
    _learn_silhouettes,
    _location_prior,
    _make_scene,
    _mask_quality,
    _mean_field,
    _object_histograms,
    _own_frame,
    _partner_evidence,
    _picture_grid,
    _without_background,
    remove_background,
)
from migvis.recordings.sources import load_recording

SIZE = 64


def texture(rng, size=SIZE, smooth=2.0):
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(rng.normal(size=(size, size)), smooth)
    return np.clip(0.65 + 0.12 * noise / noise.std(), 0, 1)


def disc(down, right, radius, size=SIZE):
    y, x = (g.numpy() for g in _picture_grid(size, size))
    return np.hypot(y - down, x - right) < radius


def make_set(n_objects=2, per_object=24, partners=False, seed=0):
    "Dark discs on bright textures, where the labels say (.37 of the side per unit), of two sizes; with true masks."
    rng = np.random.default_rng(seed)
    n = n_objects * per_object
    labels = pd.DataFrame(
        {
            "category": np.repeat(np.arange(n_objects), per_object),
            "ty": rng.uniform(-0.5, 0.5, n),
            "tz": rng.uniform(-0.5, 0.5, n),
            "s": rng.uniform(0.8, 1.2, n),
            "ryz": rng.uniform(-90, 90, n),
            "background_id": [f"b{i // 2 if partners else i}" for i in range(n)],
        }
    ).assign(object=lambda t: "object" + t["category"].astype(str))
    radius = (0.1 + 0.04 * labels["category"]) * labels["s"]
    masks = np.stack([disc(-0.37 * t.tz, -0.37 * t.ty, r) for t, r in zip(labels.itertuples(), radius)])
    scenes = {b: texture(rng) for b in labels["background_id"].unique()}
    shade = 0.15 + 0.1 * labels["category"].to_numpy()[:, None, None]
    images = np.where(masks, shade, np.stack([scenes[b] for b in labels["background_id"]]))
    gain = rng.uniform(0.85, 1.0, (n, 1, 1))
    return (
        np.clip(gain * images + 0.01 * rng.normal(size=images.shape), 0, 1).astype(np.float32),
        labels,
        masks,
    )


def iou(one, other):
    return (one & other).sum((1, 2)) / np.maximum((one | other).sum((1, 2)), 1)


@pytest.fixture(scope="module")
def segmented():
    images, labels, masks = make_set()
    return images, labels, masks, remove_background(images, labels)


# ---------------------------------------------------------------- the whole


def test_segmentation_finds_objects_that_stand_out(segmented):
    images, labels, masks, found = segmented
    overlap = iou(found.masks, masks)
    assert np.median(overlap) > 0.85 and overlap.mean() > 0.8
    assert set(found.quality["method"]) == {"segmented"} and (found.quality["flag"] == "good").mean() > 0.9


def test_segmentation_is_better_than_the_labels_alone(segmented):
    images, labels, masks, found = segmented
    scene = _make_scene(images, labels, 0.45)
    n_objects = 2
    prior = (
        _location_prior(
            scene,
            _Shapes(torch.full((n_objects, 2), 0.37), torch.full((n_objects,), 0.2)),
        ).numpy()
        > 0
    )
    assert iou(found.masks, masks).mean() > iou(prior, masks).mean() + 0.1


def test_images_are_black_outside_the_masks_and_untouched_inside(segmented):
    images, _, _, found = segmented
    assert (
        found.images.shape == (48, 1, SIZE, SIZE)
        and found.images.dtype == np.float32
        and found.masks.dtype == bool
    )
    np.testing.assert_array_equal(found.images[:, 0][~found.masks], 0)
    np.testing.assert_array_equal(found.images[:, 0][found.masks], images[found.masks])


def test_the_same_input_gives_the_same_masks(segmented):
    images, labels, _, found = segmented
    np.testing.assert_array_equal(remove_background(images, labels).masks, found.masks)


def test_nothing_is_kept_outside_the_aperture():
    images, labels, _ = make_set()
    found = remove_background(images, labels.assign(ty=1.2), aperture=0.3)
    assert not found.masks[:, ~disc(0, 0, 0.3)].any()
    assert remove_background(images, labels, aperture=None).masks.shape == images.shape


def test_partners_give_masks_without_regard_to_looks():
    images, labels, masks = make_set(partners=True, seed=2)
    found = remove_background(images, labels)
    overlap, alone = iou(found.masks, masks), remove_background(images, labels, partners=False)
    assert (
        set(found.quality["method"]) == {"partner"}
        and (found.quality["partner"].to_numpy() == np.arange(48) + 1 - 2 * (np.arange(48) % 2)).all()
    )
    assert overlap.mean() > 0.85 and overlap.mean() > iou(alone.masks, masks).mean() - 0.01
    assert set(alone.quality["method"]) == {"segmented"}


def test_labels_that_may_lack():
    images, labels, masks = make_set()
    found = remove_background(images, labels[["category", "ty", "tz"]])
    assert iou(found.masks, masks).mean() > 0.7
    with pytest.raises(ValueError, match=r"\['ty', 'tz'\] are missing"):
        remove_background(images, labels[["category"]])
    with pytest.raises(ValueError, match="47 rows of labels"):
        remove_background(images, labels[1:])


def test_a_recording_without_background_says_how_it_went():
    images, labels, masks = make_set()
    images[5] = texture(np.random.default_rng(9))
    rec = Recording(images, np.random.default_rng(0).normal(size=(48, 3)), labels, name="made")
    with pytest.warns(UserWarning, match="could not be removed well .* labels.foreground_flag"):
        cut = _without_background(rec)
    assert {"foreground_method", "foreground_contrast", "foreground_flag"} <= set(cut.labels)
    assert (
        cut.labels["foreground_flag"][5] != "good"
        and cut.labels["foreground_contrast"][5] < cut.labels["foreground_contrast"].median()
    )
    np.testing.assert_array_equal(cut.responses, rec.responses)


# ---------------------------------------------------------------- the parts


def test_changed_region_undoes_contrast_and_finds_both_objects():
    rng = np.random.default_rng(0)
    background, one, other, inside = (
        texture(rng),
        disc(-0.1, 0.1, 0.1),
        disc(0.15, -0.1, 0.12),
        disc(0, 0, 0.45),
    )
    a, b = np.where(one, 0.1, background), 0.7 * np.where(other, 0.2, background) + 0.1
    found = _changed_region(a + 0.01 * rng.normal(size=a.shape), b + 0.01 * rng.normal(size=a.shape), inside)
    assert iou(found[None], (one | other)[None])[0] > 0.9
    assert _changed_region(background, 0.5 * background + 0.2, inside).sum() == 0


def test_find_partners_takes_pairs_both_ways_and_leaves_out_what_does_not_fit():
    rng = np.random.default_rng(1)
    base = texture(rng)
    images = np.stack(
        [
            np.where(disc(-0.1, 0, 0.1), 0.1, base),
            np.where(disc(0.1, 0, 0.1), 0.1, base),
            np.where(disc(0, 0.2, 0.1), 0.1, base),
            texture(rng),
            texture(rng),
        ]
    )
    labels = pd.DataFrame({"category": 0, "ty": np.zeros(5), "tz": 0.0})
    scene = _make_scene(images, labels, 0.45)
    pairs, regions = _find_partners(scene, np.array(["a", "a", "a", "b", "b"]))
    assert {tuple(p) for p in pairs.tolist()} == {
        (i, j) for i in range(3) for j in range(3) if i != j
    } and len(regions) == 6
    none, empty = _find_partners(scene, None)
    assert none.shape == (0, 2) and empty.shape == (0, SIZE, SIZE)


def test_partner_evidence_by_hand():
    inside = torch.zeros(3, 1, 2)
    inside[1, 0, 0] = 1
    pairs, regions = torch.tensor([[0, 1], [1, 0]]), torch.tensor([[[True, False]], [[True, False]]])
    evidence = _partner_evidence(inside, pairs, regions, torch.tensor([0, 1, 2]))
    torch.testing.assert_close(evidence, torch.tensor([[[0.0, -6.0]], [[6.0, -6.0]], [[0.0, 0.0]]]))


def test_appearance_codes_by_hand():
    flat = torch.full((1, 20, 20), 0.5)
    assert set(_appearance_codes(flat).unique().tolist()) == {6 * 3}
    checker = (torch.arange(20)[:, None] // 2 + torch.arange(20) // 2) % 2
    assert set((_appearance_codes(checker[None].float())[0, 5:15, 5:15] % 3).unique().tolist()) == {2}
    assert _appearance_codes(torch.rand(2, 30, 30)).max() < 36


def test_histograms_are_distributions():
    images, labels, masks = make_set()
    scene = _make_scene(images, labels, 0.45)
    looks = _object_histograms(scene, torch.from_numpy(masks).float(), 2)
    torch.testing.assert_close(looks.sum(1), torch.ones(48))
    likelihood = _background_likelihood(scene, 1 - torch.from_numpy(masks).float())
    assert (likelihood >= 0).all() and (likelihood <= 1).all()
    assert (
        likelihood[torch.from_numpy(masks)].mean()
        < 0.2 * likelihood[~torch.from_numpy(masks) & scene.inside].mean()
    )


def test_background_likelihood_is_local():
    "Left half dark, right half bright: dark pixels are usual on the left and unusual on the right."
    image = torch.full((1, 56, 56), 0.2)
    image[..., 28:] = 0.8
    image[0, 28, 50] = 0.2
    scene = _make_scene(image.numpy(), pd.DataFrame({"category": [0], "ty": [0.0], "tz": [0.0]}), None)
    scene = _Scene(**{**scene.__dict__, "codes": (scene.codes // 3) * 3})
    likelihood = _background_likelihood(scene, torch.ones(1, 56, 56))
    assert likelihood[0, 28, 5] > 0.8 and likelihood[0, 28, 50] < 0.2


def frame_scene(**labels):
    values = {"category": [0], "ty": [0.0], "tz": [0.0]} | {k: [v] for k, v in labels.items()}
    return _make_scene(np.zeros((1, SIZE, SIZE), np.float32), pd.DataFrame(values), None)


def test_own_frame_moves_scales_and_turns():
    shapes = _Shapes(torch.full((1, 2), 0.4), torch.tensor([0.2]))
    down, right = _picture_grid(SIZE, SIZE)
    frame = _own_frame(frame_scene(), shapes)[0]
    torch.testing.assert_close(frame, torch.stack([right, down], -1))
    frame = _own_frame(frame_scene(ty=0.5, tz=0.25), shapes)[0]
    torch.testing.assert_close(frame, torch.stack([right + 0.2, down + 0.1], -1))
    frame = _own_frame(frame_scene(s=2.0), shapes)[0]
    torch.testing.assert_close(frame, torch.stack([right, down], -1) / 2)
    clockwise = _own_frame(frame_scene(ryz=90.0), shapes)[0]
    torch.testing.assert_close(clockwise, torch.stack([down, -right], -1), atol=1e-6, rtol=1e-5)


def test_location_prior_peaks_at_the_object_and_excludes_the_outside():
    scene = _make_scene(
        np.zeros((1, SIZE, SIZE), np.float32),
        pd.DataFrame({"category": [0], "ty": [0.5], "tz": [-0.5]}),
        0.45,
    )
    prior = _location_prior(scene, _Shapes(torch.full((1, 2), 0.4), torch.tensor([0.2])))[0]
    row, column = divmod(int(prior.argmax()), SIZE)
    assert abs(row / SIZE - 0.7) < 0.03 and abs(column / SIZE - 0.3) < 0.03
    assert (prior[~scene.inside] == -20).all()


def test_learn_reach_recovers_the_geometry():
    images, labels, masks = make_set(per_object=60)
    reach, radius = _learn_reach(
        _make_scene(images, labels, 0.45), torch.from_numpy(masks).float(), 2
    )
    torch.testing.assert_close(reach, torch.full((2, 2), 0.37), atol=0.03, rtol=0)
    assert radius[1] > radius[0]
    torch.testing.assert_close(radius, torch.tensor([0.1, 0.14]) * 2**0.5, atol=0.02, rtol=0)


def test_learn_silhouettes_finds_a_bar_at_every_roll():
    y, x = _picture_grid(SIZE, SIZE)
    angles = np.linspace(-90, 90, 24)
    turn = np.deg2rad(angles)
    masks = np.stack(
        [
            (abs(np.cos(a) * y.numpy() - np.sin(a) * x.numpy()) < 0.05)
            & (abs(np.cos(a) * x.numpy() + np.sin(a) * y.numpy()) < 0.2)
            for a in turn
        ]
    )
    labels = pd.DataFrame({"category": 0, "ty": np.zeros(24), "tz": 0.0, "ryz": angles})
    scene = _make_scene(np.zeros((24, SIZE, SIZE), np.float32), labels, None)
    outline = _learn_silhouettes(
        scene, torch.from_numpy(masks).float(), _Shapes(torch.full((1, 2), 0.37), torch.tensor([0.2]))
    )[0, 0]
    assert outline[20, 20] > 0.8 and outline[20, 12] > 0.7 and outline[12, 20] < 0.1


def test_mean_field_without_coupling_is_the_logistic_function():
    odds = torch.randn(2, 6, 6)
    torch.testing.assert_close(
        _mean_field(torch.full((2, 6, 6), 0.5), odds, torch.rand(2, 6, 6), 0.0, steps=40),
        torch.sigmoid(odds),
        atol=1e-5,
        rtol=1e-4,
    )


def test_mean_field_fills_in_along_flat_regions_and_stops_at_edges():
    image = torch.full((1, 12, 12), 0.2)
    image[..., 6:] = 0.9
    odds = torch.where(image < 0.5, 1.0, -1.0)
    odds[0, 5, 2] = -1.0
    probability = _mean_field(torch.sigmoid(odds), odds, image, 0.6, steps=30)
    assert probability[0, 5, 2] > 0.8 and probability[0, 5, 8] < 0.2


def test_clean_mask_drops_specks_and_fills_holes():
    ring = disc(0, 0, 0.3) & ~disc(0, 0, 0.1)
    speck = np.zeros_like(ring)
    speck[0, 0] = True
    np.testing.assert_array_equal(_clean_mask((ring | speck).astype(float)), disc(0, 0, 0.3))
    assert not _clean_mask(np.zeros((5, 5))).any()


def test_mask_quality_flags():
    masks = np.stack([disc(0, 0, r) for r in (0.2, 0.2, 0.2, 0.2, 0.05, 0.2)])
    quality = _mask_quality(
        masks,
        np.array([3.0, 1.0, 0.1, 0.1, 3.0, 2.0]),
        SimpleNamespace(objects=torch.zeros(6, dtype=int), scale=torch.ones(6)),
        np.array([-1, -1, -1, 2, -1, -1]),
    )
    assert list(quality["flag"]) == ["good", "doubtful", "failed", "good", "failed", "good"]
    assert list(quality["method"]) == ["segmented"] * 3 + ["partner"] + ["segmented"] * 2


# ---------------------------------------------------------------- on other people's pictures


def test_simulated_pictures_before_procedural_backgrounds():
    from migvis.simulate.images import render_labels, sample_labels

    labels = sample_labels(5760, seed=3)
    labels = (
        labels[labels["object"].isin(sorted(labels["object"].unique())[::16])]
        .groupby("object")
        .head(16)
        .reset_index(drop=True)
    )
    images, masks = render_labels(labels, 64, background="natural", workers=1, progress=False)
    found = remove_background(images, labels)
    overlap = iou(found.masks, (masks > 127) & _make_scene(images, labels, 0.45).inside.numpy())
    assert overlap.mean() > 0.4


def test_real_photographs_partners_against_segmentation(realdata):
    rec = load_recording("cowley-v4", realdata / "hvm_v4_session210325.npz", size=64, trials=False)
    twice = rec.select(images=rec.labels["background_id"].duplicated(keep=False))
    both, alone = remove_background(twice.images, twice.labels), remove_background(
        twice.images, twice.labels, partners=False
    )
    assert len(twice) == 78 and (both.quality["method"] == "partner").all()
    assert 0.02 < both.masks.mean() < 0.12
    assert iou(both.masks, alone.masks).mean() > 0.4
