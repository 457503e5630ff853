"""Shipped denoisers: when they fit a recording, their files, and how they are trained."""

import shutil
import threading
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from migvis.data import Recording
from migvis.denoiser import (
    Autoguided,
    NoiseSchedule,
    build_denoiser,
    load_denoiser,
    save_denoiser,
    validation_loss,
)
from migvis.simulate import pretrained as pt
from migvis.simulate.images import _RENDERER, sample_labels
from migvis.simulate.it import simulate_hvm
from migvis.simulate.objects import object_names
from migvis.support.files import load_tensors
from migvis.support.presets import get_preset
from migvis.support.training import _make_batch
from tools import train_denoiser as clock

QUICK = replace(get_preset("tiny").denoiser, width=8, steps=6, batch_size=8, flips=False)
SIMULATED = {"family": "simulated HvM", "renderer": _RENDERER, "background": "none", "size": 64}


@pytest.fixture(scope="module")
def recording():
    return simulate_hvm(40, size=64, seed=3, cache=False, progress=False)


@pytest.fixture(scope="module")
def shipped():
    "The shipped denoiser and its card."
    return pt.load_pretrained("demo", "cpu")


def renders(n):
    "Test renders, in [-1, 1]."
    return 2 * pt._pool("test", n_images=n)[0].float() / 255 - 1


# --- which images


@pytest.mark.parametrize("seed, subject", [(7, "M2"), (11, "M1")])
def test_renders_of_any_seed_and_subject_are_recognised(seed, subject):
    other = simulate_hvm(24, size=64, seed=seed, subject=subject, cache=False, progress=False)
    assert pt._is_rendered(other) and pt._pretrained_for(other, "demo") == "demo"


def test_larger_renders_are_shrunk_and_recognised():
    larger = simulate_hvm(24, size=128, seed=3, cache=False, progress=False)
    assert pt._is_rendered(larger) and pt._pretrained_for(larger, "demo") == "demo"


CHANGES = {
    "mirrored": lambda r: replace(r, images=r.images[..., ::-1].copy()),
    "inverted": lambda r: replace(r, images=1 - r.images),
    "black": lambda r: replace(r, images=np.zeros_like(r.images)),
    "others' labels": lambda r: replace(r, labels=r.labels.iloc[::-1].reset_index(drop=True)),
    "no pose": lambda r: replace(r, labels=r.labels[["category", "object"]]),
    "unknown objects": lambda r: replace(r, labels=r.labels.assign(object="teapot")),
    "pose missing": lambda r: replace(r, labels=r.labels.assign(rxy=np.nan)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_images_are_not_recognised(recording, change):
    other = CHANGES[change](recording)
    assert not pt._is_rendered(other) and pt._pretrained_for(other, "demo") is None


def test_a_few_foreign_images_are_noticed(recording):
    images = recording.images.copy()
    images[::2] = images[::2, :, ::-1]
    assert not pt._is_rendered(replace(recording, images=images))


def test_a_users_recording_trains_its_own_denoiser():
    rng, labels = np.random.default_rng(0), pd.DataFrame({"category": ["a", "b"] * 15})
    images = rng.random((30, 1, 64, 64), dtype=np.float32)
    assert pt._pretrained_for(Recording(images, rng.random((30, 5)), labels), "demo") is None


def test_only_the_network_that_a_preset_describes_is_used(recording):
    demo = get_preset("demo")
    assert pt._pretrained_for(recording, "tiny") is None and pt._pretrained_for(recording, "paper") is None
    for change in (dict(width=32), dict(T=100), dict(schedule="cosine"), dict(patch=2)):
        other = replace(demo, denoiser=replace(demo.denoiser, **change))
        assert pt._pretrained_for(recording, other) is None
    shorter = replace(demo, denoiser=replace(demo.denoiser, steps=3, lr=0.1))
    assert pt._pretrained_for(recording, shorter) == "demo"


# --- the shipped files


def test_the_shipped_denoiser_loads_and_says_what_it_is(shipped):
    denoiser, card = shipped
    assert "demo" in pt.list_pretrained() and pt._weights_file("demo").stat().st_size <= 12e6
    assert denoiser.image_size == get_preset("demo").image_size and not denoiser.training
    assert card["images"] == SIMULATED and card["steps"] > 0 and card["data"]
    assert all(p.isfinite().all() for p in denoiser.parameters())


def test_the_shipped_denoiser_is_better_than_the_linear_answer(shipped):
    denoiser, y0 = shipped[0], renders(32)
    with torch.no_grad():
        for t in (30, 75, 120):
            s, noise = denoiser.schedule, torch.randn(y0.shape, generator=torch.Generator().manual_seed(t))
            y_t, ab = s.add_noise(y0, noise, t), s.alpha_bar[t].item()
            variance = ab * denoiser.data_std**2 + 1 - ab
            linear = (1 - ab) ** 0.5 * (y_t - ab**0.5 * denoiser.data_mean) / variance
            error, linear_error = ((eps - noise).square().mean() for eps in (denoiser(y_t, t), linear))
            assert error < 0.5 * linear_error


def test_the_weaker_denoiser_is_weaker_and_of_the_same_kind(shipped):
    (denoiser, card), weak = shipped, pt._load_weak("demo", "cpu")
    path = pt._weights_file("demo").with_name("weak_demo.safetensors")
    weak_card = load_tensors(path, kind="denoiser")[1]["meta"]
    assert weak_card["images"] == card["images"] and weak_card["steps"] < card["steps"]
    loss = validation_loss(renders(64), denoiser.schedule, n=64)
    assert loss(denoiser) < loss(weak) < 1.5 * loss(denoiser)
    assert Autoguided(denoiser, weak, 1.5).weight == 1.5 and path.stat().st_size < 6e6


def test_shipped_weights_carry_checksums():
    paths = sorted(pt._weights_file("demo").parent.glob("*.safetensors"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert {load_tensors(path)[1]["kind"] for path in paths} == {"denoiser", "readouts"}


def test_unknown_names_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="demo"):
        pt.load_pretrained("none", "cpu")
    shutil.copy(pt._weights_file("demo"), tmp_path / "denoiser_demo.safetensors")
    monkeypatch.setattr(pt, "_weights_file", lambda name: tmp_path / f"denoiser_{name}.safetensors")
    assert pt._load_weak("demo", "cpu") is None  # none lies beside it


def test_files_without_a_fingerprint_are_never_used(recording, tmp_path, monkeypatch):
    denoiser = build_denoiser(get_preset("demo").denoiser, 0.3)
    path = save_denoiser(tmp_path / "denoiser_demo.safetensors", denoiser)
    monkeypatch.setattr(pt, "_weights_file", lambda name="demo": path)
    assert pt._pretrained_for(recording, "demo") is None


# --- the training


def test_pools_share_no_view_with_a_recording_but_the_standard_ones():
    trained, recorded = sample_labels(*pt._POOLS["train"]), sample_labels(5760, 0)
    shared = pt._same_views(recorded, trained)
    assert (shared == (recorded["variation"] == "V0")).all() and 0 < shared.sum() < len(recorded)
    fresh = pt._pool_labels("train")
    for part in ("validation", "test"):
        assert not pt._same_views(pt._pool_labels(part), fresh).any()


def test_pool_gives_the_renders_it_names():
    images, labels = pt._pool("test", 32, 20)
    assert images.shape == (20, 1, 32, 32) and images.dtype == torch.uint8
    assert not (labels["variation"] == "V0").any()
    assert torch.equal(pt._pool("test", 32, 8)[0], images[:8])  # a smaller pool begins a larger one


def test_times_are_a_distribution_over_the_schedule():
    schedule = build_denoiser(get_preset("demo").denoiser).schedule
    p = clock.time_density(schedule)
    assert p.shape == (150,) and p.min() >= 0.5 / 150 - 1e-9 and p.sum().item() == pytest.approx(1)
    even = torch.full((150,), 1 / 150, dtype=torch.float64)
    torch.testing.assert_close(clock.time_density(schedule, even=1.0), even)


def test_label_head_sees_the_image_and_leaves_the_noise_estimate_alone():
    denoiser, t = build_denoiser(QUICK, 0.3).eval(), torch.tensor([3, 9, 20])
    y = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = denoiser(y, t)
    model = clock.WithLabelHead(denoiser, 5).eval()
    torch.nn.init.normal_(model.head.weight)
    eps, outputs = model(y, t)
    torch.testing.assert_close(eps, expected)
    assert outputs.shape == (3, 5)
    outputs.sum().backward()
    assert denoiser.unet.conv_in.weight.grad.abs().sum() > 0 and denoiser.unet.conv_out.weight.grad is None


def test_label_targets_are_objects_and_standardised_poses():
    labels = sample_labels(640, 5)
    objects, values = clock.label_targets(labels)
    names = np.array(sorted(object_names()["object"]))
    assert (names[objects] == labels["object"].to_numpy()).all() and values.shape == (640, 12)
    torch.testing.assert_close(values.mean(0), torch.zeros(12), atol=1e-4, rtol=0)
    assert values.isfinite().all() and clock.label_targets(labels.iloc[:1])[1].isfinite().all()


# --- training by the clock (tools/train_denoiser.py)


def test_a_growing_pool_ends_as_the_renders_of_its_labels():
    growing = clock.GrowingPool(pt._pool_labels("large", 40), 16, workers=1, chunk=16)
    growing.wait(16)
    assert 16 <= growing.ready() <= 40
    growing.wait(1000)  # no more than there are
    assert growing.ready() == 40
    assert torch.equal(growing.images, pt._pool("large", 16, 40)[0])


def test_a_growing_pool_says_why_it_stopped():
    labels = pt._pool_labels("large", 40)
    labels.loc[30, "object"] = "unicorn"
    with pytest.raises(RuntimeError, match="after 16 images") as caught:
        clock.GrowingPool(labels, 16, workers=1, chunk=16).wait(40)
    assert caught.value.__cause__ is not None


def test_few_processes_render_until_training_has_begun(monkeypatch, capsys):
    used, rendered = [], threading.Semaphore(0)

    class Parallel:
        def __init__(self, n, return_as): used.append(n)
        def __call__(self, jobs):
            for _, (part, size), _ in jobs:
                yield np.zeros((len(part), size, size), np.uint8), part
            rendered.acquire(timeout=10)

    monkeypatch.setattr(clock.joblib, "Parallel", Parallel)
    growing = clock.GrowingPool(pt._pool_labels("large", 100), 16, workers=8, chunk=2)
    ready = clock.begun(growing, 0.0)
    growing.wait(4)
    assert [ready() for _ in range(3)] == [4, 4, 4] and not growing.hurry.is_set()
    ready(), rendered.release(5)
    growing.thread.join(10)
    assert used[:2] == [2, 8] and set(used[1:]) == {8} and growing.ready() == 100
    assert "three steps done" in capsys.readouterr().out


def test_the_clock_moves_the_learning_rate(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(clock.time, "monotonic", lambda: now[0])
    rate = clock.clocked(60, warmup=4)
    assert [rate(0), rate(1)] == [0.25, 0.5]
    now[0] = 120.0  # compilation took 20 s: they do not count
    assert rate(2) == pytest.approx(0.75)
    now[0] = 140.0  # half of the other 40
    assert rate(100) == pytest.approx(0.5)
    for late in (160.0, 170.0):
        now[0] = late
        assert rate(200) == pytest.approx(0, abs=1e-9)


def test_training_by_the_clock_keeps_snapshots_and_writes_a_card(tmp_path, capsys):
    config, path = replace(QUICK, batch_size=32), tmp_path / "w.safetensors"
    _, run = clock.train_by_the_clock(
        0.5, path, config, n_images=64, device="cpu", workers=1, chunk=32, log_every=1, snapshot_every=0
    )
    denoiser, card = load_denoiser(path, "cpu")
    assert denoiser.image_size == 32 and card["config"]["steps"] == card["steps"] == run.steps >= 1
    assert card["images_seen"] == run.steps * 32 and card["start"] is None and "seed 900003" in card["data"]
    kept = sorted(tmp_path.glob("w.snapshot-*.safetensors"))
    assert [load_denoiser(path, "cpu")[1]["step"] for path in kept] == list(range(1, run.steps + 1))
    assert "loss of eps" in capsys.readouterr().out


def test_only_renders_that_are_there_are_trained_on():
    labels, images = pt._pool_labels("large", 40), torch.zeros(40, 1, 32, 32, dtype=torch.uint8)
    images[8:] = 255  # not there yet
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, y, t):
            seen.append(y)
            return torch.zeros_like(y), torch.zeros(len(y), len(object_names()) + 12)

    for ready in (lambda: 8, None):
        clock.labelled_loss(images, labels, NoiseSchedule(20), ready=ready)(Spy(), _make_batch(40, 40, 0))
    assert seen[0].mean() < -0.3 < seen[1].mean()
