"""Shipped denoisers: when they fit a recording, their files, and the command that trains them."""
import math
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from migvis import pretrained as pt
from migvis.data import Recording
from migvis.denoiser import Autoguided, build_denoiser, load_denoiser, save_denoiser, validation_loss
from migvis.simulate import RENDERER, object_names, sample_labels, simulate_hvm
from migvis.training import get_preset, list_checkpoints, load_tensors, save_tensors

QUICK = replace(get_preset("tiny").denoiser, width=8, steps=6, batch_size=8, flips=False)
SIMULATED = {"family": "simulated HvM", "renderer": RENDERER, "background": "none", "size": 64}


@pytest.fixture(scope="module")
def recording():
    return simulate_hvm(40, size=64, seed=3, cache=False, progress=False)


# --- which images --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("seed, subject", [(7, "M2"), (11, "M1")])
def test_any_seed_and_subject_has_the_same_fingerprint(recording, seed, subject):
    other = simulate_hvm(24, size=64, seed=seed, subject=subject, cache=False, progress=False)
    assert pt.image_fingerprint(other) == pt.image_fingerprint(recording) == SIMULATED
    assert pt.pretrained_for(other, "demo") == "demo"


def test_larger_renders_are_shrunk_and_recognised():
    larger = simulate_hvm(24, size=128, seed=3, cache=False, progress=False)
    assert pt.image_fingerprint(larger) == {**SIMULATED, "size": 128} and pt.pretrained_for(larger, "demo") == "demo"


CHANGES = {
    "mirrored": lambda r: replace(r, images=r.images[..., ::-1].copy()),
    "inverted": lambda r: replace(r, images=1 - r.images),
    "noise": lambda r: replace(r, images=np.random.default_rng(0).random(r.images.shape, dtype=np.float32)),
    "black": lambda r: replace(r, images=np.zeros_like(r.images)),
    "others' labels": lambda r: replace(r, labels=r.labels.iloc[::-1].reset_index(drop=True)),
    "no pose": lambda r: replace(r, labels=r.labels[["category", "object"]]),
    "unknown objects": lambda r: replace(r, labels=r.labels.assign(object="teapot")),
    "pose missing": lambda r: replace(r, labels=r.labels.assign(rxy=np.nan)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_images_are_not_recognised(recording, change):
    other = CHANGES[change](recording)
    assert pt.image_fingerprint(other)["family"] == "unknown" and pt.pretrained_for(other, "demo") is None


def test_a_few_foreign_images_are_noticed(recording):
    images = recording.images.copy()
    images[::2] = images[::2, :, ::-1]
    assert not pt.shows_simulated_hvm(replace(recording, images=images))


def test_ones_own_recording_trains_its_own_denoiser():
    rng = np.random.default_rng(0)
    own = Recording(rng.random((30, 1, 64, 64), dtype=np.float32), rng.random((30, 5)), pd.DataFrame({"category": ["a", "b"] * 15}))
    assert pt.pretrained_for(own, "demo") is None


def test_only_the_network_that_a_preset_describes_is_used(recording):
    demo = get_preset("demo")
    assert pt.pretrained_for(recording, "tiny") is None and pt.pretrained_for(recording, "paper") is None
    for change in (dict(width=32), dict(T=100), dict(schedule="cosine"), dict(patch=2)):
        assert pt.pretrained_for(recording, replace(demo, denoiser=replace(demo.denoiser, **change))) is None
    assert pt.pretrained_for(recording, replace(demo, denoiser=replace(demo.denoiser, steps=3, lr=0.1))) == "demo"


# --- the shipped file ----------------------------------------------------------------------------------------------------

def test_the_shipped_denoiser_loads_and_tells_what_it_is():
    denoiser, card = pt.load_pretrained("demo", "cpu")
    assert "demo" in pt.list_pretrained() and pt.weights_file("demo").stat().st_size <= 12e6
    assert denoiser.image_size == get_preset("demo").image_size and not denoiser.training
    assert card["images"] == SIMULATED and card["steps"] > 0 and card["data"]
    assert all(p.isfinite().all() for p in denoiser.parameters())


def test_the_shipped_denoiser_is_better_than_the_linear_answer():
    denoiser, _ = pt.load_pretrained("demo", "cpu")
    y0 = 2 * pt.pool("test", n_images=32)[0].float() / 255 - 1
    with torch.no_grad():
        for t in (30, 75, 120):
            s, noise = denoiser.schedule, torch.randn(y0.shape, generator=torch.Generator().manual_seed(t))
            y_t, ab = s.add_noise(y0, noise, t), s.alpha_bar[t].item()
            linear = (1 - ab) ** 0.5 * (y_t - ab**0.5 * denoiser.data_mean) / (ab * denoiser.data_std**2 + 1 - ab)
            assert (denoiser(y_t, t) - noise).square().mean() < 0.5 * (linear - noise).square().mean()


def test_the_weaker_denoiser_is_weaker_and_of_the_same_kind():
    (denoiser, card), weak = pt.load_pretrained("demo", "cpu"), pt.load_weak("demo", "cpu")
    told = load_tensors(pt.weights_file("demo").with_name("weak_demo.safetensors"), kind="denoiser")[1]["meta"]
    assert told["images"] == card["images"] and told["steps"] < card["steps"]
    y0 = 2 * pt.pool("test", n_images=64)[0].float() / 255 - 1
    loss = validation_loss(y0, denoiser.schedule)
    assert loss(denoiser) < loss(weak) < 1.5 * loss(denoiser)
    assert Autoguided(denoiser, weak, 1.5).weight == 1.5
    assert pt.weights_file("demo").stat().st_size < 12e6 and pt.weights_file("demo").with_name("weak_demo.safetensors").stat().st_size < 6e6


def test_unknown_names_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="demo"): pt.load_pretrained("none", "cpu")
    with pytest.raises(ValueError, match="demo"): pt.load_weak("none", "cpu")
    shutil.copy(pt.weights_file("demo"), tmp_path / "denoiser_demo.safetensors")
    monkeypatch.setattr(pt, "weights_file", lambda name: tmp_path / f"denoiser_{name}.safetensors")
    assert pt.load_weak("demo", "cpu") is None # none lies beside it


def test_saving_needs_a_fingerprint_and_a_size_that_can_be_shipped(tmp_path):
    denoiser = build_denoiser(QUICK, 0.3)
    path = pt.save_pretrained(tmp_path / "d.safetensors", denoiser, {"images": SIMULATED, "steps": 3})
    loaded, card = load_denoiser(path, "cpu")
    assert card == {"images": SIMULATED, "steps": 3}
    for a, b in zip(loaded.parameters(), denoiser.parameters()): torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)
    with pytest.raises(ValueError, match="images"): pt.save_pretrained(tmp_path / "e.safetensors", denoiser, {"steps": 3})
    with pytest.raises(ValueError, match="MB"): pt.save_pretrained(tmp_path / "e.safetensors", denoiser, {"images": SIMULATED}, largest=1e4)
    assert not (tmp_path / "e.safetensors").exists()


def test_files_without_a_fingerprint_are_never_used(recording, tmp_path, monkeypatch):
    path = save_denoiser(tmp_path / "denoiser_demo.safetensors", build_denoiser(get_preset("demo").denoiser, 0.3))
    monkeypatch.setattr(pt, "weights_file", lambda name="demo": path)
    assert pt.pretrained_for(recording, "demo") is None


# --- the training --------------------------------------------------------------------------------------------------------

def test_pools_share_no_view_with_a_recording_but_the_standard_ones():
    trained, recorded = sample_labels(*pt.POOLS["train"]), sample_labels(5760, 0)
    shared = pt.same_views(recorded, trained)
    assert (shared == (recorded["variation"] == "V0")).all() and 0 < shared.sum() < len(recorded)
    fresh = trained[trained["variation"] != "V0"]
    for part in ("validation", "test"):
        held_out = sample_labels(*pt.POOLS[part])
        assert not pt.same_views(held_out[held_out["variation"] != "V0"], fresh).any()


def test_pool_gives_the_renders_it_names():
    images, labels = pt.pool("test", 32, 20)
    assert images.shape == (20, 1, 32, 32) and images.dtype == torch.uint8 and not (labels["variation"] == "V0").any()
    assert torch.equal(pt.pool("test", 32, 8)[0], images[:8]), "a smaller pool is the beginning of a larger one"
    assert len(pt.pool("test", 16, 200, fixed_views=True)[1].query("variation == 'V0'")) > 0
    with pytest.raises(ValueError, match="train"): pt.pool("holdout")


def test_times_are_a_distribution_over_the_schedule():
    schedule = build_denoiser(get_preset("demo").denoiser).schedule
    p = pt.time_density(schedule)
    assert p.shape == (150,) and p.min() >= 0.5 / 150 - 1e-9 and p.sum().item() == pytest.approx(1)
    torch.testing.assert_close(pt.time_density(schedule, even=1.0), torch.full((150,), 1 / 150, dtype=torch.float64))


def test_label_head_sees_the_image_and_leaves_the_noise_estimate_alone():
    denoiser = build_denoiser(QUICK, 0.3).eval()
    y, t = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 9, 20])
    with torch.no_grad(): expected = denoiser(y, t)
    model = pt.WithLabelHead(denoiser, 5).eval()
    torch.nn.init.normal_(model.head.weight)
    eps, read = model(y, t)
    torch.testing.assert_close(eps, expected)
    assert read.shape == (3, 5)
    read.sum().backward()
    assert denoiser.unet.conv_in.weight.grad.abs().sum() > 0 and denoiser.unet.conv_out.weight.grad is None


def test_label_targets_are_objects_and_standardised_poses():
    labels = sample_labels(640, 5)
    objects, values = pt.label_targets(labels)
    names = np.array(sorted(object_names()["object"]))
    assert (names[objects] == labels["object"].to_numpy()).all() and values.shape == (640, 12)
    torch.testing.assert_close(values.mean(0), torch.zeros(12), atol=1e-4, rtol=0)
    assert values.isfinite().all() and pt.label_targets(labels.iloc[:1])[1].isfinite().all()


def train(tmp_path=None, **kw):
    return pt.train_pretrained(tmp_path, QUICK, **dict(n_images=96, device="cpu", progress=False, log_every=1) | kw)


def test_the_command_trains_resumes_and_writes_its_card(tmp_path):
    class Stop(Exception): ...
    def stop(step, model, row):
        if step == 5: raise Stop
    with pytest.raises(Stop): train(tmp_path / "ckpt", checkpoint_every=2, callback=stop)
    denoiser, run = train(tmp_path / "ckpt", path=tmp_path / "d.safetensors")
    straight, _ = train()
    assert run.resumed_from == 4 and all(torch.equal(a, b) for a, b in zip(denoiser.parameters(), straight.parameters()))
    loaded, card = load_denoiser(tmp_path / "d.safetensors", "cpu")
    assert card["images"] == {**SIMULATED, "size": 32} and card["steps"] == 6 and math.isfinite(card["test_eps_loss"])
    assert card["data"].startswith("96 renders") and "0 of them standard views" in card["data"] and card["seeds"]["train"] == 900_000
    assert loaded.image_size == 32 and not loaded.n_condition


def test_going_on_from_weights_leaves_them_as_they_were(tmp_path):
    start = build_denoiser(QUICK, 0.3, -0.9)
    before = pt.digest_weights(start)
    trained, _ = train(start=start, path=tmp_path / "d.safetensors")
    assert pt.digest_weights(start) == before != pt.digest_weights(trained)
    assert load_denoiser(tmp_path / "d.safetensors", "cpu")[1]["start"] == before
    with pytest.raises(ValueError, match="side 16"): train(start=build_denoiser(replace(QUICK, image_size=16)))


def test_a_checkpoint_of_other_weights_is_refused(tmp_path):
    train(tmp_path)
    with pytest.raises(ValueError, match="weights"): train(tmp_path, start=build_denoiser(QUICK, 0.3, -0.9, seed=5))


def test_last_digits_of_the_pixel_statistics_do_not_stop_a_run(tmp_path):
    train(tmp_path)
    for path in list_checkpoints(tmp_path):
        tensors, meta = load_tensors(path)
        meta["fingerprint"]["denoiser"]["data_std"] *= 1 + 1e-6
        save_tensors(path, tensors, meta)
    denoiser, run = train(tmp_path)
    assert run.resumed_from == 6 and denoiser.data_std == meta["fingerprint"]["denoiser"]["data_std"]


# --- training by the clock -----------------------------------------------------------------------------------------------

def test_a_growing_pool_ends_as_the_renders_of_its_labels():
    labels = pt.pool_labels("large", 40)
    growing = pt.GrowingPool(labels, 16, workers=1, chunk=16)
    growing.wait(16)
    assert 16 <= growing.ready() <= 40
    growing.wait(1000) # no more than there are
    assert growing.ready() == 40
    assert torch.equal(growing.images, pt.pool("large", 16, 40)[0])


def test_a_growing_pool_tells_why_it_stopped():
    labels = pt.pool_labels("large", 40)
    labels.loc[30, "object"] = "unicorn"
    with pytest.raises(RuntimeError, match="after 16 images") as told: pt.GrowingPool(labels, 16, workers=1, chunk=16).wait(40)
    assert told.value.__cause__ is not None


def test_the_clock_moves_the_learning_rate(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(pt.time, "monotonic", lambda: now[0])
    rate = pt.clocked(60, warmup=4)
    assert [rate(0), rate(1)] == [0.25, 0.5]
    now[0] = 120.0                 # compilation took 20 s: they do not count
    assert rate(2) == pytest.approx(0.75)
    now[0] = 140.0                 # half of the other 40
    assert rate(100) == pytest.approx(0.5)
    for late in (160.0, 170.0):
        now[0] = late
        assert rate(200) == pytest.approx(0, abs=1e-9)


def test_training_by_the_clock_keeps_snapshots_and_writes_a_card(tmp_path, capsys):
    config = replace(QUICK, batch_size=32)
    _, run = pt.train_by_the_clock(1, tmp_path / "w.safetensors", config, n_images=64, device="cpu", workers=1, chunk=32, progress=False, log_every=1,
                                   callback=pt.snapshots(tmp_path / "w.snapshot.safetensors", every=0))
    denoiser, card = load_denoiser(tmp_path / "w.safetensors", "cpu")
    assert denoiser.image_size == QUICK.image_size and card["config"]["steps"] == card["steps"] == run.steps >= 1
    assert card["images_seen"] == run.steps * 32 and card["start"] is None and math.isfinite(card["test_eps_loss"])
    assert "seed 900003" in card["data"] and "0 of them standard views" in card["data"] and card["command"] == "migvis.pretrained.train_by_the_clock"
    kept = sorted(tmp_path.glob("w.snapshot-*.safetensors"))
    assert [load_denoiser(path, "cpu")[1]["step"] for path in kept] == list(range(1, run.steps + 1))
    assert "loss of eps" in capsys.readouterr().out


def test_only_renders_that_are_there_are_trained_on():
    labels = pt.pool_labels("large", 40)
    images = torch.zeros(40, 1, 32, 32, dtype=torch.uint8)
    images[8:] = 255 # not there yet
    seen = []
    class Spy(torch.nn.Module):
        def forward(self, y, t): seen.append(y); return torch.zeros_like(y), torch.zeros(len(y), len(object_names()) + 12)
    from migvis.denoiser import NoiseSchedule
    from migvis.training import make_batch
    pt.labelled_loss(images, labels, NoiseSchedule(20), ready=lambda: 8)(Spy(), make_batch(40, 40, 0))
    pt.labelled_loss(images, labels, NoiseSchedule(20))(Spy(), make_batch(40, 40, 0))
    assert seen[0].mean() < -0.3 < seen[1].mean()


def test_shipped_weights_carry_checksums():
    import warnings
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in sorted(pt.weights_file("demo").parent.glob("*.safetensors")): assert load_tensors(path)[1]["kind"] in ("denoiser", "readouts")
