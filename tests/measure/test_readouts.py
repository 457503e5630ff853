"""Readouts against closed forms and other libraries; training, abstention, files, bad input."""
import copy
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from migvis.measure import readouts
from migvis.measure.readouts import (ReadoutConfig, Readings, Readouts, geodesic_angle, load_readouts,
                                     score_readings, train_readouts, _augment, _blur_images, _calibrate,
                                     _encode_labels, _ReadoutNet, _readout_loss, _rotation_from_6d,
                                     _rotation_loss)
from migvis.simulate.images import render_hvm
from migvis.simulate.it import object_features
from migvis.simulate.objects import object_names
from migvis.simulate.renderer import rotation_matrix
from migvis.support.files import load_tensors, save_tensors
from migvis.support.training import generator, _make_batch

DESCRIPTORS = tuple(object_features().columns)
SMALL = ReadoutConfig(widths=(8, 16), depths=(1, 1), features=32, steps=30, batch_size=32, ema=0.8,
                      precision="float32")
QUIET = {"device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def rendered():
    "400 simulated images of 32 x 32 with all labels."
    images, labels = render_hvm(400, 32, seed=11, progress=False)
    return images, labels.join(object_features(), on="object")


@pytest.fixture(scope="module")
def judge(rendered):
    "A judge after a few steps: all heads, none of them good."
    images, labels = rendered
    table = {name: i % 2 == 0 for i, name in enumerate(object_names()["object"])}
    return train_readouts(images, labels, replace(SMALL, descriptors=DESCRIPTORS[:2]), readable=table,
                          seed=3, **QUIET)


# ---- angles and symmetry

def test_geodesic_angle_is_the_angle_of_the_relative_rotation():
    a, b = Rotation.random(200, random_state=0), Rotation.random(200, random_state=1)
    expected = np.degrees((a.inv() * b).magnitude())
    np.testing.assert_allclose(geodesic_angle(a.as_matrix(), b.as_matrix()), expected, atol=1e-6)
    assert geodesic_angle(np.eye(3), a.as_matrix()).shape == (200,)


def test_geodesic_angle_keeps_small_angles():
    tiny = Rotation.from_rotvec([1e-6, 0, 0]).as_matrix()
    assert geodesic_angle(tiny, np.eye(3)) == pytest.approx(np.degrees(1e-6), rel=1e-5)


# ---- network, targets, losses

def test_rotation_from_6d_gives_rotations_and_keeps_the_first_columns():
    R = Rotation.random(50, random_state=2).as_matrix()
    x = torch.tensor(np.concatenate([R[:, :, 0] * 2.5, R[:, :, 1] * 0.3 + R[:, :, 0]], 1))
    np.testing.assert_allclose(_rotation_from_6d(x).numpy(), R, atol=1e-10)


def test_rotation_loss_by_hand_and_its_best_sigma():
    target = torch.tensor(rotation_matrix(40.0))[None]
    six = torch.eye(3, dtype=torch.float64)[:, :2].T.reshape(1, 6)
    d = 2 * math.sin(math.radians(20))
    loss = lambda log_sigma: _rotation_loss(
        torch.cat([six, torch.full((1, 1), log_sigma, dtype=torch.float64)], 1), target).item()
    assert loss(-0.5) == pytest.approx(d * math.exp(0.5) - 1.5, abs=1e-9)
    grid = np.linspace(-3, 0.5, 701)
    assert math.exp(grid[np.argmin([loss(v) for v in grid])]) == pytest.approx(d / 3, rel=0.01)


def test_rotation_loss_has_finite_gradients_where_the_prediction_is_perfect():
    x = torch.tensor([[1.0, 0, 0, 0, 1, 0, -2.0]], requires_grad=True)
    _rotation_loss(x, torch.eye(3)[None]).sum().backward()
    assert x.grad.isfinite().all()


def test_labels_that_are_missing_are_marked():
    labels = pd.DataFrame({"category": ["Cars", None, "Spoons"], "rxy": [0, 10, np.nan], "rxz": [0, 0, 0],
                           "ryz": [0, 0, 0], "s": [1, np.nan, math.e]})
    targets = _encode_labels(labels, {"category": ("Boats", "Cars")})
    assert set(targets) == {"category", "rotation", "size"}
    assert targets["category"].tolist() == [1, -1, -1]
    assert targets["rotation"].isfinite().all(2).all(1).tolist() == [True, True, False]
    assert targets["size"][2].item() == pytest.approx(1)


def test_loss_is_the_mean_over_known_rows_written_out():
    g = generator(4)
    outputs = {"category": torch.randn(5, 3, generator=g), "position": torch.randn(5, 2, generator=g)}
    targets = {"category": torch.tensor([0, -1, 2, 1, -1]), "position": torch.randn(5, 2, generator=g)}
    targets["position"][3, 1] = math.nan
    cross = [-math.log(math.exp(o[t]) / sum(math.exp(v) for v in o))
             for o, t in zip(outputs["category"].tolist(), targets["category"].tolist()) if t >= 0]
    square = [((outputs["position"][i] - targets["position"][i]) ** 2).mean().item() for i in (0, 1, 2, 4)]
    loss, logs = _readout_loss(outputs, targets)
    assert logs["category"].item() == pytest.approx(
        np.mean(cross), rel=1e-5) and logs["position"].item() == pytest.approx(np.mean(square), rel=1e-5)
    assert loss.item() == pytest.approx(np.mean(cross) + np.mean(square), rel=1e-5)


def test_unknown_rows_get_no_gradient():
    outputs = {"category": torch.zeros(2, 3, requires_grad=True)}
    _readout_loss(outputs, {"category": torch.tensor([-1, 1])})[0].backward()
    assert outputs["category"].grad[0].abs().max() == 0 and outputs["category"].grad[1].abs().max() > 0


@pytest.mark.parametrize("side", [32, 64, 128])
def test_network_takes_any_size_and_each_image_by_itself(side):
    torch.manual_seed(0)
    net = _ReadoutNet(SMALL, {"category": 3}).eval()
    x = torch.rand(4, 1, side, side)
    whole = net(x)
    assert whole["features"].shape == (4, 32) and whole["category"].shape == (4, 3)
    torch.testing.assert_close(net(x[2:3])["features"], whole["features"][2:3], atol=1e-5, rtol=1e-4)


def test_features_know_where_things_are():
    torch.manual_seed(0)
    net, x = _ReadoutNet(SMALL, {}).eval(), torch.zeros(1, 1, 32, 32)
    x[..., 8:12, 8:12] = 1
    moved = net(x.roll((8, 8), (2, 3)))["features"]
    assert (net(x)["features"] - moved).abs().max() > 1e-3


# ---- noise and blur

def test_blur_is_a_gaussian_filter():
    x = torch.zeros(2, 1, 33, 33, dtype=torch.float64)
    x[:, 0, 10:23, 12:20] = torch.rand(13, 8, generator=generator(5), dtype=torch.float64)
    blurred = _blur_images(x, torch.tensor([1.3, 0.0], dtype=torch.float64))
    np.testing.assert_allclose(blurred[0, 0], gaussian_filter(x[0, 0].numpy(), 1.3, truncate=8), atol=1e-6)
    torch.testing.assert_close(blurred[1], x[1])


def test_blur_keeps_constants_up_to_the_edge():
    torch.testing.assert_close(_blur_images(torch.full((1, 1, 16, 16), 0.7), torch.tensor([3.0])),
                               torch.full((1, 1, 16, 16), 0.7))


def test_augmentation_is_seeded_bounded_and_can_be_switched_off():
    x = torch.rand(16, 1, 16, 16, generator=generator(6))
    one, same, other = (_augment(x, _make_batch(16, 16, step), SMALL) for step in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert one.min() >= 0 and one.max() <= 1 and (one - x).abs().mean() > 0.01
    torch.testing.assert_close(_augment(x, _make_batch(16, 16, 0),
                                        replace(SMALL, noise=0.0, blur=0.0, contrast=0.0)), x)


# ---- training, reading

def test_training_learns_what_is_there(rendered):
    rows = rendered[1].category.isin(["Faces", "Planes", "Chairs"]).to_numpy()
    images, labels = rendered[0][rows], rendered[1][rows].reset_index(drop=True)
    only = labels[["category", "ty", "tz"]].assign(ty=labels.ty.where(labels.index % 7 > 0))
    found = train_readouts(images[:110], only[:110],
                           replace(SMALL, widths=(16, 32), steps=120, lr=5e-3), **QUIET)
    readings = found.read(images[110:])
    for name in ("rotation", "rotation_known", "rotation_error", "object", "object_prob", "size",
                 "descriptors"):
        assert getattr(readings, name) is None
    assert readings.category.shape == (len(images) - 110,) and set(readings.category) <= set(labels.category)
    np.testing.assert_allclose(readings.category_prob.sum(1), 1, atol=1e-5)
    scores = found.accuracy(images[110:], labels[110:])["score"]
    assert set(scores.index) == {"category accuracy", "position R2"}
    assert scores["category accuracy"] > 0.6 and scores["position R2"] > 0.3        # chance is 1/3 and 0


def test_readings_have_the_promised_shapes(judge, rendered):
    r = judge.read(rendered[0][:20])
    assert len(r) == 20 and r.features.shape == (
        20, 32) and r.features.dtype == np.float32 and r.textures.shape == (20, 16)
    assert r.category_prob.shape == (20, 8) and r.object_prob.shape == (20,
                                                                        64) and r.descriptors.shape == (20, 2)
    assert r.rotation.shape == (20, 3,
                                3) and r.rotation_known.dtype == bool and r.rotation_error.shape == (20,)
    assert r.position.shape == (20, 2) and r.size.shape == (20,) and (r.size > 0).all()
    np.testing.assert_allclose(r.rotation @ r.rotation.transpose(0, 2, 1),
                               np.broadcast_to(np.eye(3), (20, 3, 3)), atol=1e-5)
    part = r[np.array([3, 5])]
    assert len(part) == 2 and np.array_equal(part.rotation,
                                             r.rotation[[3, 5]]) and part.categories == r.categories


def test_reading_does_not_depend_on_batches_or_type(judge, rendered):
    x = np.round(rendered[0][:30] * 255) / 255
    whole = judge.outputs(x)
    for other in (judge.outputs(x, batch_size=7), judge.outputs(np.round(x * 255).astype(np.uint8)),
                  judge.outputs(torch.from_numpy(x))):
        for name in whole: np.testing.assert_allclose(other[name], whole[name], atol=1e-4)


def test_values_are_in_the_units_of_the_labels(rendered):
    images, labels = rendered
    shifted = labels[["tz", "ty", "s"]].assign(ty=labels.ty * 100 + 500, s=labels.s * 50)
    r = train_readouts(images, shifted, SMALL, **QUIET).read(images)
    assert abs(r.position[:, 0].mean() - 500) < 30 and 35 < np.median(r.size) < 70


def test_objects_that_cannot_be_read_are_withheld(judge, rendered):
    images, net = rendered[0][:200], copy.deepcopy(judge.net)
    with torch.no_grad():                                                # sure of its objects, right or wrong
        net.heads["object"].weight.normal_(0, 1000, generator=generator(0))
        net.heads["object"].bias.copy_(-net.heads["object"].weight
                                       @ torch.from_numpy(judge.read(images).features.mean(0)))
        net.heads["rotation"].bias[6] -= 2                               # and of its rotations
    open_ended = Readouts(net, judge.config, 32, judge.classes, judge.scale, judge.readable,
                          {"factor": 1.0, "limit": 1e9})
    r = open_ended.read(images)
    readable = np.array([judge.readable[name] for name in r.objects])
    assert np.array_equal(r.rotation_known,
                          r.object_prob[:, readable].sum(1) >= 0.5) and 0 < r.rotation_known.mean() < 1
    free = Readouts(net, judge.config, 32, judge.classes, judge.scale, None,
                    {"factor": 2.0, "limit": float(np.median(r.rotation_error)) * 2})
    assert free.read(images).rotation_known.mean() == pytest.approx(0.5, abs=0.02)
    np.testing.assert_allclose(free.read(images).rotation_error, 2 * r.rotation_error, rtol=1e-5)


def test_unreadable_objects_do_not_train_the_rotation(rendered):
    images, labels = rendered
    none = dict.fromkeys(object_names()["object"], False)
    moved = train_readouts(images, labels.assign(rxy=0.0), replace(SMALL, steps=3), readable=none,
                           validation=(images[:50], labels[:50]), **QUIET)
    kept = train_readouts(images, labels, replace(SMALL, steps=3), readable=none,
                          validation=(images[:50], labels[:50]), **QUIET)
    for a, b in zip(moved.net.state_dict().values(), kept.net.state_dict().values()): assert torch.equal(a, b)
    assert not kept.read(images[:50]).rotation_known.any()


def test_interrupted_training_resumes_exactly(rendered, tmp_path, monkeypatch):
    images, labels = rendered
    options = dict(seed=1, validation=(images[:40], labels[:40]), **QUIET)
    config = replace(SMALL, steps=12)
    whole = train_readouts(images, labels, config, **options)
    def stop(step, model, row):
        if step == 8: raise KeyboardInterrupt
    often = partial(readouts.fit, checkpoint_every=5, log_every=1)
    monkeypatch.setattr(readouts, "fit", partial(often, callback=stop))
    with pytest.raises(KeyboardInterrupt):
        train_readouts(images, labels, config, checkpoint=tmp_path, **options)
    monkeypatch.setattr(readouts, "fit", often)
    again = train_readouts(images, labels, config, checkpoint=tmp_path, **options)
    for (name, a), b in zip(whole.net.state_dict().items(), again.net.state_dict().values()):
        assert torch.equal(a, b), name
    with pytest.raises(ValueError, match="another run"):
        train_readouts(images, labels, replace(config, noise=0.3), checkpoint=tmp_path, **options)


def test_a_judge_can_go_on_from_another(judge, rendered):
    images, labels = rendered
    before = copy.deepcopy(judge.net.state_dict())
    few = dict(validation=(images[:40], labels[:40]), **QUIET)
    still = replace(SMALL, steps=1, lr=1e-9, ema=0.0, weight_decay=0.0)
    new = train_readouts(images, labels[["category", "ty", "tz"]], still, start=judge, **few)
    assert set(new.net.heads) == {"category", "position"}
    for name, p in new.net.named_parameters():
        if not name.startswith("heads."): assert torch.allclose(p, before[name], atol=1e-6), name
    assert all(torch.equal(v, before[k]) for k, v in judge.net.state_dict().items())
    with pytest.raises(ValueError, match="another network"):
        train_readouts(images, labels, replace(SMALL, features=16), start=judge, **few)


@pytest.mark.parametrize("other", ["images", "targets", "classes", "unreadable"])
def test_checkpoints_of_other_data_are_refused(rendered, tmp_path, other):
    images, labels = rendered[0][:64], rendered[1][:64]
    ask = lambda images, labels, **kw: train_readouts(images, labels, replace(SMALL, steps=1),
                                                      validation=(images[:40], labels[:40]),
                                                      checkpoint=tmp_path, **kw, **QUIET)
    ask(images, labels)
    assert len(ask(images, labels).history) == 1 and len(list(tmp_path.iterdir())) == 1 # taken up again
    changed = {"images": (images[:, :, ::-1], labels),
               "targets": (images, labels.assign(rxy=labels["rxy"] + 5)),
               "classes": (images, labels.assign(category="the " + labels["category"])),
               "unreadable": (images, labels)}[other]
    options = {"readable": {labels["object"][0]: False}} if other == "unreadable" else {}
    with pytest.raises(ValueError, match=f"another run.*{other}"): ask(*changed, **options)


def test_short_trainings_leave_the_warm_up():
    factor = lambda steps, step: readouts._fit_options(replace(SMALL, steps=steps))["schedule"](step)
    assert factor(100, 15) > 0.9 and factor(8000, 150) < 0.6


def test_calibration_of_known_errors():
    rng = np.random.default_rng(0)
    predicted = rng.uniform(5, 100, 20_000)
    # the chance of a large error is predicted / 100
    error = np.where(rng.random(20_000) < predicted / 100, 90.0, 10.0)
    found = _calibrate(predicted, error, within=30, share=0.8)
    assert found["factor"] == pytest.approx(error.mean() / predicted.mean())
    kept = predicted * found["factor"] <= found["limit"] * (1 + 1e-12)
    assert (error[kept] <= 30).mean() == pytest.approx(
        0.8, abs=0.001) and predicted[kept].max() == pytest.approx(35, abs=2)
    assert _calibrate(predicted, np.full(20_000, 90.0))["limit"] == 0
    assert _calibrate(predicted,
                      np.full(20_000, 1.0))["limit"] == pytest.approx(predicted.max() / predicted.mean())


# ---- scores

def made_up(n=6, **parts):
    base = dict(categories=("Cars", "Faces"), objects=("a", "b"), features=np.zeros((n, 4), np.float32),
                textures=np.zeros((n, 4), np.float32), category_prob=None, object_prob=None, rotation=None,
                rotation_known=None, rotation_error=None, position=None, size=None, descriptors=None)
    return Readings(**base | parts)


def test_scores_of_made_up_readings():
    labels = pd.DataFrame({"category": ["Cars", "Cars", "Faces", "Faces", "Spoons", "Cars"],
                           "rxy": [0.0, 20, 40, 60, 80, np.nan], "rxz": 0.0, "ryz": 0.0, "ty": np.arange(6.0),
                           "tz": np.arange(6.0) ** 2})
    chance = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.1, 0.9], [0.5, 0.5], [0.6, 0.4]])
    position = labels[["ty", "tz"]].to_numpy() + [[1], [-1], [1], [-1], [1], [-1]]
    r = made_up(category_prob=chance, rotation=np.broadcast_to(np.eye(3), (6, 3, 3)), rotation_known=np.array(
                    [1, 1, 1, 0, 0, 1], bool), rotation_error=np.zeros(6), position=position)
    scores = score_readings(r, labels)
    assert scores.loc["category accuracy"].tolist() == [pytest.approx(4 / 5), 5]
    assert scores.loc["rotation error, median (degrees)"].tolist() == [pytest.approx(20), 3]
    assert scores.loc["rotation within 30 degrees"].tolist() == [pytest.approx(2 / 3), 3]
    assert scores.loc["rotation abstained"].tolist() == [pytest.approx(2 / 5), 5]
    assert scores.score["rotation error, none abstained (degrees)"] == pytest.approx(40)
    expected = np.mean([1 - 6 / ((v - v.mean()) ** 2).sum() for v in (labels.ty, labels.tz)])
    assert scores.score["position R2"] == pytest.approx(expected)
    assert "identity accuracy" not in scores.index and "size R2" not in scores.index


# ---- files

def test_files_keep_a_judge(judge, rendered, tmp_path):
    judge.card["note"] = "of a test"
    exact, half = (load_readouts(judge.save(tmp_path / f"{h}.safetensors", half=h), "cpu")
                   for h in (False, True))
    x = rendered[0][:40]
    a, b, c = (j.read(x) for j in (judge, exact, half))
    for name in ("features", "category_prob", "rotation", "rotation_error", "rotation_known", "position",
                 "size", "descriptors"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
    np.testing.assert_allclose(c.category_prob, a.category_prob, atol=0.02)
    assert (exact.card, exact.config, exact.readable, exact.calibration,
            exact.classes) == (judge.card, judge.config, judge.readable, judge.calibration, judge.classes)
    assert (tmp_path / "True.safetensors").stat().st_size < 0.75 * (tmp_path
                                                                    / "False.safetensors").stat().st_size


def test_files_of_others_are_refused(judge, tmp_path):
    save_tensors(tmp_path / "other.safetensors", {"x": torch.zeros(1)}, {"kind": "denoiser"})
    with pytest.raises(ValueError, match="denoiser"): load_readouts(tmp_path / "other.safetensors")
    with pytest.raises(FileNotFoundError): load_readouts(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="demo"): load_readouts("huge")
    weights, meta = load_tensors(judge.save(tmp_path / "a.safetensors"))
    weights.pop(next(iter(weights)))
    save_tensors(tmp_path / "b.safetensors", weights, meta)
    with pytest.raises(ValueError, match="do not fit"): load_readouts(tmp_path / "b.safetensors")


def test_the_shipped_judge_is_good_enough():
    path = readouts.files("migvis") / "weights" / "readouts_demo.safetensors"
    assert path.stat().st_size < 8e6
    shipped = load_readouts("demo", "cpu")
    assert shipped.card["images"]["train"] == {"n": 131_072, "seed": 900_000}
    images, labels = render_hvm(400, 64, seed=4242, progress=False)
    scores = shipped.accuracy(images, labels.join(object_features(), on="object"))["score"]
    assert (scores["category accuracy"] > 0.97 and scores["identity accuracy"] > 0.9
            and scores["rotation error, median (degrees)"] < 15)
    assert scores["rotation within 30 "
                  "degrees"] > 0.82 and scores["rotation abstained"] < 0.4 and scores["position R2"] > 0.92
    symmetric = shipped.read(images[~labels.object.map(shipped.readable).to_numpy(bool)])
    assert symmetric.rotation_known.mean() < 0.1
    assert set(shipped.card["test"]) == set(scores.index)


# ---- bad input

@pytest.mark.parametrize(
    "images, message",
    [(np.zeros((0, 1, 32, 32)), "must be"), (np.zeros((2, 3, 32, 32)), "must be"),
     (np.full((2, 1, 32, 32), -1.0), r"\[0, 1\]"), (np.full((2, 1, 32, 32), 255.0), r"\[0, 1\]"),
     (np.full((2, 1, 32, 32), np.nan), r"\[0, 1\]"), (np.zeros((2, 1, 48, 48)), "side 32, or a multiple"),
     (np.zeros((2, 1, 64, 32)), "side 32"),])
def test_images_that_cannot_be_read(judge, images, message):
    with pytest.raises(ValueError, match=message): judge.read(images)


def test_larger_images_are_reduced_by_averaging(judge, rendered):
    images = np.asarray(rendered[0][:5])
    tripled = images.repeat(3, axis=2).repeat(3, axis=3)
    small, large = judge.outputs(images), judge.outputs(tripled)
    for name in small: np.testing.assert_allclose(large[name], small[name], atol=1e-4)
    assert not np.allclose(judge.outputs(tripled[:, :, ::-1])["features"], small["features"], atol=1e-2)


def test_training_data_that_do_not_fit(rendered):
    images, labels = rendered
    with pytest.raises(ValueError, match="400 images but 10"):
        train_readouts(images, labels[:10], SMALL, **QUIET)
    with pytest.raises(ValueError, match="none of the columns"):
        train_readouts(images, labels[["image_id"]], SMALL, **QUIET)
    with pytest.raises(ValueError, match="weight"):
        train_readouts(images, labels, replace(SMALL, descriptors=("weight",)), **QUIET)
    with pytest.raises(ValueError, match="divides"):
        train_readouts(images[:, :, :30, :30], labels, SMALL, **QUIET)
    with pytest.raises(ValueError, match="2 readings but 3"): score_readings(made_up(2), labels[:3])



def test_a_column_without_any_value_is_not_learnt():
    labels = pd.DataFrame({"category": list("ab") * 10, "object": [None] * 20})
    judge = train_readouts(np.random.default_rng(0).random((20, 1, 32, 32), np.float32), labels,
                           ReadoutConfig(steps=2, batch_size=8), device="cpu", progress=False)
    assert "object" not in judge.classes and judge.classes["category"] == ("a", "b")
