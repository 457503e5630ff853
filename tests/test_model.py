"""From a recording to edited images: the stages, files, errors, determinism."""
import copy
import functools
import json
import os
import shutil
import subprocess
import sys
import threading
import types
import warnings
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone

import migvis
from migvis import EditSettings, MIGVis, Recording, simulate_hvm
from migvis.denoiser import build_denoiser, validation_loss
from migvis.data import Split, _recording_fingerprint
from migvis.measure.report import _report_vae
from migvis.model import Edits, _as_indices, _check_preset, _denoiser_for, _judge_for
from migvis.support.runs import run_lock, claim_folder
from migvis.show.frames import _as_grid
from migvis.simulate.pretrained import _pretrained_for, load_pretrained
from migvis.support.images import resize_images
from migvis.support.presets import get_preset
from migvis.vae import Continuous, fit_vae
from tests.made import SMALL, seen

ROOT = Path(__file__).parents[1]

@pytest.fixture(scope="module")
def recording(): return simulate_hvm(n_images=120, size=32, subject="M1", seed=3, progress=False)


@pytest.fixture(scope="module")
def run(recording, tmp_path_factory):
    return MIGVis(SMALL, seed=1, device="cpu").fit(recording, out=tmp_path_factory.mktemp("run") / "run", progress=False)


@pytest.fixture(scope="module")
def saved(run, tmp_path_factory): return run.save(tmp_path_factory.mktemp("saved") / "run")


@pytest.fixture
def folder(saved, tmp_path): return Path(shutil.copytree(saved, tmp_path / "saved"))


def edit(model, **kw):
    test = model.split.test
    names = {f.name for f in fields(EditSettings)} - {"gammas"}
    settings = EditSettings(**{name: kw.pop(name) for name in list(kw) if name in names})
    return model.edit(test[:2], test[3], **{"gammas": (0.0, 1.0), "groups": [1, 3], "settings": settings, "progress": False} | kw)


@pytest.mark.parametrize("mode", ["paper", "selective"])
def test_edit_shapes_range_and_determinism(run, mode):
    edits = edit(run, mode=mode)
    assert edits.images.shape == (2, 2, 2, 1, 32, 32) and edits.images.min() >= 0 and edits.images.max() <= 1
    assert np.array_equal(edits.images, edit(run, mode=mode).images)
    assert edits.round_trip_rmse() < (0.02 if mode == "paper" else 1e-5)
    assert (edits.change()[1.0] > 0).all() and (edits.change()[0.0] == 0).all()


def test_batching_and_order_do_not_change_an_edit(run):
    whole = edit(run).images
    np.testing.assert_allclose(edit(run, batch_size=3).images, whole, atol=1e-5)
    np.testing.assert_allclose(edit(run, groups=[3, 1]).images, whole[:, ::-1], atol=1e-5)
    np.testing.assert_allclose(edit(run, gammas=(1.0, 0.0)).images, whole[:, :, ::-1], atol=1e-5)


def test_each_original_can_have_its_own_target(run):
    test = run.split.test
    both = run.edit(test[:2], test[3:5], gammas=[1.0], groups=2, progress=False)
    one = run.edit(test[1], test[4], gammas=[1.0], groups=2, progress=False)
    assert both.target_index == tuple(test[3:5])
    # negatives are drawn without the originals and targets, so they differ by two images: the edits agree but for that
    assert np.abs(both.images[1] - one.images[0]).mean() < 0.05 < np.abs(both.images[0] - one.images[0]).mean()


def test_saved_run_edits_the_same(run, folder):
    assert np.array_equal(edit(MIGVis.load(folder, device="cpu")).images, edit(run).images)
    report = json.loads((folder / "report.json").read_text())
    assert report["preset"] == "tiny" and report["recording"]["simulated"] and 0 <= report["denoiser"]["round_trip_rmse"] < 0.02


def test_interrupted_fit_goes_on_and_ends_the_same(recording, run, tmp_path, monkeypatch):
    from migvis import model as pipeline
    def interrupted(*_, **__): raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "train_critics", interrupted)
        with pytest.raises(KeyboardInterrupt): MIGVis(SMALL, seed=1, device="cpu").fit(recording, out=tmp_path, progress=False)
    assert (tmp_path / "denoiser.safetensors").exists() and not (tmp_path / "critics.safetensors").exists()
    with pytest.raises(FileNotFoundError, match="not finished: critics"): MIGVis.load(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "fit_vae", interrupted), patch.setattr(pipeline, "train_denoiser", interrupted)
        again = MIGVis(SMALL, seed=1, device="cpu").fit(recording, out=tmp_path, progress=False)
    for a, b in zip(again.critics.parameters(), run.critics.parameters()): assert torch.equal(a, b)

@pytest.mark.parametrize("wrong", [dict(likelihood="gausian"), dict(supervison=()), dict(seeds=0), dict(estimator="miss")])
def test_after_a_mistyped_argument_the_corrected_call_goes_on(recording, tmp_path, monkeypatch, wrong):
    from migvis import model as pipeline
    with pytest.raises((ValueError, TypeError, KeyError)): MIGVis(SMALL, seed=1, device="cpu").fit(recording, out=tmp_path, progress=False, **wrong)
    class Reached(Exception): pass
    @functools.wraps(fit_vae) # the arguments that it takes
    def reached(*_, **__): raise Reached
    monkeypatch.setattr(pipeline, "fit_vae", reached)
    with pytest.raises(Reached): MIGVis(SMALL, seed=1, device="cpu").fit(recording, out=tmp_path, progress=False)
    (tmp_path / "vae.checkpoints").mkdir()
    (tmp_path / "vae.checkpoints" / "step-1.safetensors").write_text("")
    with pytest.raises(ValueError, match="its options differ;"): MIGVis(SMALL, seed=1, device="cpu").fit(recording, out=tmp_path, likelihood="poisson")


@pytest.mark.parametrize("seed", [-1, 1.5, "0", None])
def test_a_seed_that_is_none_is_refused(seed):
    with pytest.raises(ValueError, match="seed must be a whole number, 0 or more"): MIGVis("tiny", seed=seed)


def test_an_interrupted_fit_leaves_nothing_of_the_one_before(run, recording, tmp_path, monkeypatch):
    from migvis import model as pipeline
    def interrupted(*_, **__): raise KeyboardInterrupt
    for stage in ("fit_vae", "train_critics"):
        model = copy.copy(run)
        with monkeypatch.context() as patch:
            patch.setattr(pipeline, stage, interrupted)
            with pytest.raises(KeyboardInterrupt): model.fit(recording.select(images=range(100)), out=tmp_path / stage, progress=False)
        for call in (lambda: model.edit(0, 1), model.report, model.latents, lambda: model.save(tmp_path / "x"), model.explore):
            with pytest.raises(ValueError, match="not fitted"): call()
    with pytest.raises(TypeError): (model := copy.copy(run)).fit(recording.images)
    assert model.vae is run.vae and model.recording is run.recording, "a call that was refused changes nothing"


def test_runs_tell_their_version_and_unfinished_ones_how_to_go_on(run, folder):
    assert json.loads((folder / "run.json").read_text())["migvis"] == migvis.__version__
    (folder / "recording.npz").unlink()
    with pytest.raises(FileNotFoundError, match="not finished: recording missing; fit again with the same folder"): MIGVis.load(folder, "cpu")


@pytest.mark.parametrize("change", [lambda d: d.pop("preset"), lambda d: d.pop("seed"), lambda d: d.pop("options"), lambda d: d["preset"].pop("vae"),
                                    lambda d: d["preset"].update(strength=3), lambda d: d["preset"]["critic"].update(depth=3), lambda d: d.update(preset=3)])
def test_runs_of_other_versions_say_so(folder, change):
    told = json.loads((folder / "run.json").read_text())
    change(told)
    del told["digest"]
    (folder / "run.json").write_text(json.dumps(told | {"migvis": "7.8"}))
    with pytest.raises(ValueError, match="made by migvis 7.8: fit the recording again, or install that version"): MIGVis.load(folder, "cpu")


@pytest.fixture(scope="module")
def short_reports():
    "The loss of large networks from few images."
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("migvis.measure.report.validation_loss", functools.partial(validation_loss, n=8))
        yield


@pytest.fixture(scope="module")
def shipped(tmp_path_factory, short_reports):
    "A run with the shipped denoiser, and how to fit it again."
    demo, tiny = get_preset("demo"), get_preset("tiny")
    preset = replace(demo, vae=replace(tiny.vae, steps=5), critic=replace(demo.critic, steps=2, batch_size=8, views=2),
                     t_edit=2, edits=EditSettings())
    rendered = simulate_hvm(60, size=64, seed=3, progress=False)
    fit = lambda folder: MIGVis(preset, device="cpu").fit(rendered, out=folder, progress=False)
    return fit, fit(tmp_path_factory.mktemp("shipped") / "run")


def test_shipped_weights_that_changed_are_noticed(shipped, tmp_path, monkeypatch):
    from migvis import model as pipeline
    fit, first = shipped
    assert first.shipped == "demo" and len(first.weights) == 16 and _denoiser_for(first, 1.0) is first.denoiser
    assert _denoiser_for(first, 1.5).weight == 1.5
    new = first.save(tmp_path / "new")
    assert json.loads((new / "run.json").read_text())["shipped_weights"] == first.weights == MIGVis.load(new, "cpu").weights
    def other(name, device): # newer weights under the same name
        denoiser, card = load_pretrained(name, device)
        with torch.no_grad(): next(denoiser.parameters()).add_(0.1)
        return denoiser, card
    monkeypatch.setattr(pipeline, "load_pretrained", other)
    with pytest.raises(ValueError, match="its shipped_weights differ; choose another folder"): fit(new)


def test_a_report_leaves_out_what_cannot_be_computed(run):
    test = run.recording.select(images=run.split.test)
    whole = _report_vae(run.vae, test)
    quiet = test.responses.copy()
    quiet[:, 3] = 7.5 # answers every image alike
    x, predicted = run.vae.standardizer.transform(quiet), run.vae.reconstruct(quiet)
    others = [u for u in range(x.shape[1]) if u != 3]
    wanted = 100 * np.mean(1 - ((x - predicted) ** 2).mean(0)[others] / x.var(0)[others])
    silent = _report_vae(run.vae, replace(test, responses=quiet, trials=None, truth=None))
    assert silent["r2_percent"] == pytest.approx(wanted, rel=1e-4) and set(silent["labels"]) == set(whole["labels"])
    assert _report_vae(run.vae, replace(test, responses=np.ones_like(quiet), trials=None, truth=None))["r2_percent"] is None


def test_critics_through_the_denoiser_come_back_with_the_run(recording, tmp_path):
    preset = replace(SMALL, critic=replace(SMALL.critic, encoder="denoiser"), edits=EditSettings(eta=0.5, interval=(50, 5)))
    first = MIGVis(preset, device="cpu").fit(recording, out=tmp_path, progress=False)
    again = MIGVis.load(tmp_path, "cpu")
    assert again.critics.encoder.config == first.critics.encoder.config and again.critics.encoder.config["kind"] == "denoiser"
    a, b, plain = (m.edit(0, 1, gammas=[0.0, 0.3], settings=EditSettings(steps=4, **more), progress=False).images
                   for m, more in ((first, {}), (again, {}), (again, {"eta": 0.0, "interval": (50, 0)})))
    assert np.array_equal(a, b) and not np.allclose(a[:, :, 1], plain[:, :, 1], atol=1e-3) # the preset's settings are on unless told otherwise
    assert not list(tmp_path.glob("*.checkpoints"))


def test_edits_are_driven_away_from_a_weaker_denoiser_where_there_is_one(folder, tmp_path):
    model = MIGVis.load(folder, "cpu")
    model.preset = replace(model.preset, edits=EditSettings(autoguidance=2.0))
    assert model.weak is None and model.editor().settings.autoguidance == 1
    with pytest.raises(ValueError, match="autoguidance=3 needs a weaker denoiser"): edit(model, autoguidance=3)
    plain = edit(model, mode="selective", gammas=(0.0, 0.3))
    model.weak = build_denoiser(model.preset.denoiser, 0.3, seed=4).eval()
    weights = [model.edit_settings(s).autoguidance for s in ("paper", None, EditSettings("paper", autoguidance=3.0))]
    assert weights == [1, 2, 3] and _denoiser_for(model, 2).weight == 2
    driven, alone = edit(model, mode="selective", gammas=(0.0, 0.3)), edit(model, mode="selective", gammas=(0.0, 0.3), autoguidance=1)
    assert np.array_equal(alone.images, plain.images) and driven.round_trip_rmse() < 1e-5 # its noise maps are its own
    assert np.abs(driven.images[:, :, 1] - plain.images[:, :, 1]).max() > 1e-3
    again = MIGVis.load(model.save(tmp_path / "again"), "cpu")
    assert np.array_equal(edit(again, mode="selective", gammas=(0.0, 0.3)).images, driven.images) # it is kept with the run
    with torch.no_grad(): next(again.weak.parameters()).add_(1)
    with pytest.raises(ValueError, match="other weights than this model's weak"): again.save(tmp_path / "again")


@pytest.mark.parametrize("stage, wrong, match", [
    ("critic", dict(encoder="eyes"), "encoder must be one of .*conv.*denoiser.*got 'eyes'"),
    ("critic", dict(batch_size=1), "batch_size must be at least 2"),
    ("critic", dict(features=0), "features must be a whole number of at least 1, got 0"),
    ("critic", dict(width=0), "width must be positive, got 0"),
    ("critic", dict(views=4), "views must be 0, or positive with encoder='denoiser', width=0"),
    ("critic", dict(encoder="denoiser", width=0, views=-1), "views must be 0, or a positive whole number, got -1"),
    ("vae", dict(lr=-1), "lr must be positive"),
    ("denoiser", dict(schedule="steep"), "schedule must be one of"),
    ("denoiser", dict(precision="auto"), "precision must be"),
    ("denoiser", dict(multipliers=(1,) * 6), "image_size must be a multiple of 128"),
    ("denoiser", dict(image_size=64), "must be the preset's, 32"),
    ("denoiser", dict(T=8), r"t_edit must be an integer in 1..8, got 10"),
    ("critic", dict(dropout=2), "dropout must be from 0 to below 1, got 2"),
    ("critic", dict(steps=1.5), "steps must be a whole number of at least 1, got 1.5"),
    ("critic", dict(lr=float("nan")), "lr must be positive and finite"),
    ("vae", dict(groups=()), "groups must be a tuple of numbers"),
    ("vae", dict(groups=(6, 0)), "groups must be a whole number of at least 1"),
    ("vae", dict(beta=float("nan")), "beta must be 0 or more"),
    ("denoiser", dict(betas=(0.9, 1.0)), "betas must be from 0 to below 1"),
    ("denoiser", dict(betas=(0.9,)), "betas must be two numbers"),
    ("denoiser", dict(multipliers=(0,)), "multipliers must be positive"),
    ("denoiser", dict(multipliers=()), "multipliers must be a tuple of numbers"),
    ("denoiser", dict(multipliers=(1, 0.01)), "width times each of the multipliers"),
    ("denoiser", dict(ema=1), "ema must be from 0 to below 1"),
    ("denoiser", dict(clip=0), "clip must be positive"),
    (None, dict(t_edit=1.5), "t_edit must be a whole number"),
    (None, dict(t_edit=True), "t_edit must be a whole number"),
    (None, dict(edits=EditSettings(gammas=(-1.0,))), "gammas must be 0 or more"),
    (None, dict(edits=EditSettings(interval=(50, 10))), "nothing would be guided.*t_edit=10"),
])
def test_settings_of_late_stages_are_refused_before_the_first(recording, tmp_path, stage, wrong, match):
    with pytest.raises(ValueError, match=match):
        preset = replace(SMALL, **({stage: replace(getattr(SMALL, stage), **wrong)} if stage else wrong))
        MIGVis(preset, device="cpu").fit(recording, out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_presets_pass_their_own_check():
    for name in ("tiny", "demo", "sharp", "paper"): _check_preset(get_preset(name))


def test_the_sharp_preset_finds_its_weights_and_a_judge():
    rendered = simulate_hvm(24, size=128, seed=3, progress=False)
    model = types.SimpleNamespace(recording=rendered, preset=get_preset("sharp"), device=torch.device("cpu"))
    assert _pretrained_for(rendered, "sharp") == "sharp"
    judge = _judge_for(model)
    assert judge.image_size == 64 and (judge.read(rendered.images).category == rendered.labels["category"]).mean() > 0.8


def test_a_misspelt_label_leaves_no_folder(recording, tmp_path):
    with pytest.raises(ValueError, match="supervision names orientation, but the labels are"):
        MIGVis(SMALL, device="cpu").fit(recording, out=tmp_path / "run", progress=False, supervision=Continuous(1, "orientation"))
    assert not (tmp_path / "run").exists()


def test_arguments_that_fit_does_not_have_leave_no_folder(recording, tmp_path):
    with pytest.raises(TypeError, match=r"fit has no arguments \['likelyhood'\]; .*likelihood"):
        MIGVis(SMALL, device="cpu").fit(recording, out=tmp_path / "run", progress=False, likelyhood="poisson")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("arguments, match", [
    (dict(settings="foo"), "mode must be one of"),
    (dict(settings=()), "at least one mode"),
    (dict(settings=EditSettings(gammas=(0.0, -1.0))), "gamma must be finite and not negative"),
    (dict(settings=["selective", EditSettings("paper", t_edit=51)]), "t_edit"),
    (dict(settings={"a": EditSettings(autoguidance=2.0)}), "needs a weaker denoiser"),
])
def test_selectivity_refuses_before_a_judge_is_trained(run, monkeypatch, arguments, match):
    monkeypatch.setattr("migvis.model._judge_for", lambda *_: pytest.fail("a judge was trained"))
    with pytest.raises(ValueError, match=match): run.selectivity(**arguments)


def test_an_edit_of_many_rows_is_made_in_batches(run):
    seen = []
    hook = run.denoiser.unet.register_forward_pre_hook(lambda _, arguments: seen.append(len(arguments[0])))
    try: images = run.edit(list(range(40)), 41, gammas=(1.0,), settings=EditSettings(steps=2), progress=False).images
    finally: hook.remove()
    assert images.shape[:3] == (40, 4, 1) and max(seen) <= 64


def test_an_image_size_no_critic_can_see_is_refused_early(recording, tmp_path):
    preset = replace(SMALL, image_size=48, denoiser=replace(SMALL.denoiser, image_size=48))
    with pytest.raises(ValueError, match="image_size must be 8, 16, 32"): MIGVis(preset).fit(recording, out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_training_goes_on_from_shipped_weights(tmp_path, short_reports):
    demo, tiny = get_preset("demo"), get_preset("tiny")
    short = replace(demo, vae=replace(tiny.vae, steps=10), critic=replace(tiny.critic, steps=5), t_edit=2, edits=EditSettings(),
                    denoiser=replace(demo.denoiser, steps=1, batch_size=4, lr=1e-6, ema=0.0, precision="float32"))
    photographs = simulate_hvm(80, size=64, seed=3, background="natural", progress=False)
    model = MIGVis(short, device="cpu").fit(photographs, out=tmp_path, start="demo", progress=False)
    shipped = load_pretrained("demo", "cpu")[0].state_dict()
    moved = [(v - shipped[k]).abs().max() for k, v in model.denoiser.state_dict().items()]
    assert model.shipped is None and 0 < max(moved) < 1e-4
    assert "trained on from the shipped 'demo'" in model.caption("selective") == MIGVis.load(tmp_path, "cpu").caption("selective")
    with pytest.raises(ValueError, match="another run|differ"): MIGVis(short, device="cpu").fit(photographs, out=tmp_path, progress=False)
    with pytest.raises(ValueError, match="another network than that of preset 'tiny'"): MIGVis("tiny").fit(photographs, start="demo")
    with pytest.raises(ValueError, match="no shipped denoiser 'none'"): MIGVis("tiny").fit(photographs, start="none")


def test_without_a_folder_nothing_is_left_behind(recording, tmp_path, monkeypatch):
    monkeypatch.setenv("MIGVIS_CACHE", str(tmp_path))
    MIGVis(SMALL, seed=1, device="cpu").fit(recording, progress=False)
    assert not list((tmp_path / "runs").iterdir())


TWICE = """
import sys
from multiprocessing import get_context
from diffusers import UNet2DModel # loaded once, for both
from migvis import MIGVis, Recording
from migvis.support.files import digest_weights
from tests.made import SMALL
recording, together = Recording.load(sys.argv[1]), get_context("fork").Barrier(2)
def fit(_):
    together.wait()
    model = MIGVis(SMALL, seed=1, device="cpu").fit(recording, progress=False)
    return model.latents().sum().item(), digest_weights(model.denoiser), digest_weights(model.critics)
with get_context("fork").Pool(2) as pool: print(*pool.map(fit, range(2), chunksize=1), sep="\\n")
"""

def test_two_processes_may_fit_the_same_run(recording, tmp_path):
    saved = recording.save(tmp_path / "recording.npz")
    done = subprocess.run([sys.executable, "-c", TWICE, str(saved)], cwd=ROOT, capture_output=True, text=True, timeout=300,
                          env=os.environ | {"MIGVIS_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == second and len(first) > 30
    assert done.stderr.count("another process works on the run") == 1
    assert not list((tmp_path / "runs").iterdir())


def test_a_run_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setenv("MIGVIS_CACHE", str(tmp_path))
    entered, order = threading.Event(), []
    def second():
        entered.set()
        with run_lock(tmp_path / "run"): order.append("second")
    with pytest.warns(UserWarning, match="another process works on the run in .*run; waiting"):
        with run_lock(tmp_path / "run"):
            thread = threading.Thread(target=second)
            thread.start()
            entered.wait()
            thread.join(1.0)
            assert thread.is_alive()
            with run_lock(tmp_path / "other"): order.append("another run")
            order.append("first")
        thread.join(30)
    assert order == ["another run", "first", "second"]
    with pytest.raises(KeyError):
        with run_lock(tmp_path / "run"): raise KeyError
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with run_lock(tmp_path / "run"): pass # an error has let go of it
        monkeypatch.setenv("WORLD_SIZE", "2")
        with run_lock(tmp_path / "run"), run_lock(tmp_path / "run"): pass # processes launched together
        monkeypatch.delenv("WORLD_SIZE")
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("MIGVIS_CACHE", str(tmp_path / "file"))
        with run_lock(tmp_path / "run"), run_lock(tmp_path / "run"): pass # nowhere to keep locks


def test_a_run_of_another_kind_is_refused(recording, folder):
    with pytest.raises(ValueError, match="holds another run: its seed, split differ"): MIGVis(SMALL, seed=2, device="cpu").fit(recording, out=folder)
    with pytest.raises(ValueError, match="fingerprint, split differ"):
        MIGVis(SMALL, seed=1, device="cpu").fit(recording.select(images=range(100)), out=folder)


@pytest.mark.parametrize("damage, error, match", [
    (lambda f: (f / "vae.safetensors").write_bytes(b"x" * 50), ValueError, "vae.safetensors"),
    (lambda f: (f / "denoiser.safetensors").write_bytes((f / "vae.safetensors").read_bytes()), ValueError, "should hold a 'denoiser'"),
    (lambda f: (f / "run.json").write_text("{"), ValueError, "run.json is damaged"),
    (lambda f: (f / "run.json").unlink(), FileNotFoundError, "is not a run"),
    (lambda f: (f / "recording.npz").write_bytes(b"PK"), ValueError, "recording.npz"),
])
def test_damaged_runs(folder, damage, error, match):
    damage(folder)
    with pytest.raises(error, match=match): MIGVis.load(folder, device="cpu")


@pytest.mark.parametrize("bad, error, match", [
    (dict(original=999), ValueError, "original must be between 0 and 119"),
    (dict(target=-1), ValueError, "target must be between"),
    (dict(original=1.5), TypeError, "image number"),
    (dict(target=[1, 2, 3]), ValueError, "one target for all originals"),
    (dict(groups=[5]), ValueError, "no group is called 5"),
    (dict(groups="shape"), ValueError, "no group is called"),
    (dict(groups=[]), ValueError, "'all'"),
    (dict(gammas=[-1.0]), ValueError, "gamma must be finite and not negative"),
    (dict(target=None), TypeError, "target must be an image number"),
    (dict(target=[0.5, 1.5]), ValueError, r"latents \(24,\) or \(1, 24\)"),
    (dict(target=np.full(24, np.nan)), ValueError, "finite latents"),
    (dict(target=np.zeros((2, 24))), ValueError, r"got \(2, 24\)"),
    (dict(target={1: np.ones(5)}), ValueError, "group 1 must be 6 finite numbers"),
    (dict(target={1: np.zeros(6)}), ValueError, "not all 0"),
    (dict(target={5: np.ones(6)}), ValueError, "no group is called 5"),
    (dict(target={}), ValueError, "at least one group"),
    (dict(target={1: np.ones(6)}, groups=[1, 2]), ValueError, r"nothing about the groups \[2\]"),
    (dict(gammas=[float("nan")]), ValueError, "gamma must be finite"),
    (dict(settings="paper-like"), ValueError, "mode must be one of"),
    (dict(settings=EditSettings(t_edit=51)), ValueError, "t_edit"),
    (dict(dims=[9], groups=[1]), ValueError, "dims"),
])
def test_bad_edits_are_refused(run, bad, error, match):
    with pytest.raises(error, match=match): run.edit(**{"original": 0, "target": 1, "gammas": (0.0, 1.0), "progress": False} | bad)


@pytest.mark.parametrize("mode", ["paper", "selective"])
def test_a_known_image_given_as_an_array_is_edited_the_same(run, mode):
    numbers = list(run.split.test[:2])
    options = dict(target=int(run.split.test[3]), groups=[1, 3], gammas=(0.0, 1.0), settings=mode, progress=False)
    known = run.edit(numbers, **options)
    new = run.edit(run.recording.images[numbers], latents=run.latents()[numbers], **options)
    assert np.array_equal(new.images, known.images) and np.array_equal(new.originals, known.originals)
    assert new.original_index is None and new.target_index == known.target_index


def test_a_new_image_starts_from_latents_of_its_responses(run, recording, tmp_path):
    picture = np.random.default_rng(0).random((1, 64, 64)).astype(np.float32) # of another size
    responses = recording.responses[:1] + 0.5
    latents = run.transform(responses)
    edits = run.edit(picture, 1, groups=2, gammas=(0.0, 1.0), latents=latents[0], progress=False)
    assert edits.images.shape == (1, 1, 2, 1, 32, 32)
    np.testing.assert_allclose(edits.originals[0], resize_images(picture[None], 32)[0])
    along = run.edit(picture[0], {2: np.ones(6)}, gammas=(-1.0, 0.0, 1.0), latents=latents, progress=False)
    assert along.images.shape[2] == 3 and along.round_trip_rmse() < 1e-5
    loaded = Edits.load(edits.save(tmp_path / "new.npz"))
    assert np.array_equal(loaded.originals, edits.originals) and loaded.original_index is None
    grid = _as_grid(edits)
    assert [name for name, _ in grid.choices.album.values()] == ["new image 1", "image 1"]
    assert np.array_equal(grid.choices.album[-1][1], edits.originals[0])


@pytest.mark.parametrize("original, latents, match", [
    (np.zeros((1, 32, 32)), None, r"new images need their latents.*model.transform\(responses\)"),
    (0, np.zeros(24), "latents= belong to new images"),
    (np.zeros((2, 1, 32, 32)), np.zeros((1, 24)), "latents of 2 new images, not of 1"),
    (np.zeros((1, 32, 32)), np.zeros(23), "latents must have 24 latents each"),
    (np.zeros((1, 32, 32)), np.full(24, np.nan), "latents must be finite"),
    (np.zeros((2, 3, 32, 32)), np.zeros((2, 24)), "images must be grey"),
    (np.full((1, 32, 32), 2.0), np.zeros(24), r"images must lie in \[0, 1\]"),
    (np.zeros((1, 32, 40)), np.zeros(24), "would be stretched"),
    (np.zeros((2, 32), int), np.zeros(24), "images must be uint8 or floats"),
])
def test_new_images_that_do_not_fit_are_refused(run, original, latents, match):
    with pytest.raises(ValueError, match=match): run.edit(original, 1, latents=latents, progress=False)


def test_unfitted_and_wrong_input(recording):
    with pytest.raises(ValueError, match="not fitted"): MIGVis("tiny").edit(0, 1)
    with pytest.raises(ValueError, match="preset must be one of"): MIGVis("enormous")
    with pytest.raises(TypeError, match="needs a migvis.Recording"): MIGVis("tiny").fit(recording.images)
    with pytest.raises(ValueError, match="too few"): MIGVis("tiny").fit(recording.select(images=range(10)))


def test_unwritable_folder(recording, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write into the folder"): MIGVis(SMALL).fit(recording, out=tmp_path / "file" / "run")


def test_silent_unit_is_dropped_with_a_warning(recording, tmp_path):
    quiet = replace(recording, responses=np.concatenate([recording.responses, np.ones((120, 1), np.float32)], 1), sites=None, truth=None)
    with pytest.warns(UserWarning, match="same response to every image"):
        model = MIGVis(SMALL, device="cpu").fit(quiet, out=tmp_path, progress=False)
    assert model.recording.responses.shape[1] == recording.responses.shape[1]
    assert MIGVis.load(tmp_path, "cpu").dropped_units == model.dropped_units == (quiet.responses.shape[1] - 1,)
    np.testing.assert_array_equal(model.transform(quiet.responses), model.transform(recording.responses)) # with it or without
    with pytest.raises(ValueError, match="same response"): MIGVis(SMALL, device="cpu").fit(quiet, out=tmp_path / "b", silent="error")


def test_split_is_disjoint_complete_and_spread(recording):
    split = Split.of(recording, seed=0)
    parts = [split.train, split.validation, split.test]
    assert sorted(np.concatenate(parts).tolist()) == list(range(120))
    counts = recording.labels["category"].iloc[split.test].value_counts()
    assert counts.max() - counts.min() <= 2 and len(counts) == 8
    assert split.name(int(split.test[0])) == "test"


def test_edits_in_bfloat16_are_about_the_same(run):
    exact, fast = (run.edit(0, 1, gammas=[0.0, 0.1], settings=EditSettings(steps=6, precision=p), progress=False).images for p in ("float32", "bfloat16"))
    assert fast.dtype == np.float32 and 0 < np.abs(exact - fast).max() and np.sqrt(((exact - fast) ** 2).mean()) < 0.02

def test_edits_in_single_precision_hardly_depend_on_the_batch(run):
    test, settings = run.split.test, EditSettings(gammas=(0.1, 0.4), steps=6)
    whole = run.edit(test[:4], test[4:8], settings=settings, progress=False)
    turned = run.edit(test[:4][::-1], test[4:8][::-1], settings=replace(settings, batch_size=3), progress=False)
    np.testing.assert_allclose(turned.images[::-1], whole.images, atol=1e-4)

def test_edits_in_double_precision_do_not_depend_on_the_batch(run):
    test, settings = run.split.test, EditSettings(gammas=(0.1, 0.4), precision="float64", steps=8)
    whole = run.edit(test[:3], test[3:6], settings=replace(settings, batch_size=5), progress=False).images
    single = run.edit(test[1], test[4], groups=[3], gammas=0.4, settings=settings, progress=False).images
    np.testing.assert_allclose(whole[1, 2, 1], single[0, 0, 0], atol=2e-7)
    np.testing.assert_allclose(whole, run.edit(test[:3], test[3:6], settings=replace(settings, precision="float32"), progress=False).images, atol=1e-2)
    assert next(run.denoiser.parameters()).dtype == torch.float32

def test_edits_file_round_trip(run, tmp_path):
    edits = edit(run)
    loaded = Edits.load(edits.save(tmp_path / "edits.npz"))
    assert np.array_equal(loaded.images, edits.images) and loaded.group_names == edits.group_names and loaded.caption == edits.caption
    np.savez(tmp_path / "other.npz", a=np.zeros(2))
    with pytest.raises(ValueError, match="not a Edits|not an Edits|is not"): Edits.load(tmp_path / "other.npz")
    whole = (tmp_path / "edits.npz").read_bytes()
    for start in range(300, len(whole) - 2000, len(whole) // 7):
        (tmp_path / "cut.npz").write_bytes(whole[:start] + bytes(255 - b for b in whole[start:start + 60]) + whole[start + 60:])
        with pytest.raises(ValueError, match="cut.npz is damaged"): Edits.load(tmp_path / "cut.npz")
    (tmp_path / "cut.npz").write_bytes(whole[:1000])
    with pytest.raises(ValueError, match="cut.npz is damaged"): Edits.load(tmp_path / "cut.npz")
    with pytest.raises(FileNotFoundError): Edits.load(tmp_path / "none.npz")


def test_latents_are_as_good_a_target_as_their_image(run):
    z, test, kw = run.latents(), run.split.test, dict(gammas=(0.0, 0.3), groups=[1, 3], settings=EditSettings(steps=6), progress=False)
    by_image = run.edit(test[:2], test[3], **kw)
    for target in (z[test[3]], z[test[3]].numpy(), z[[test[3]] * 2], z[test[3]].tolist()):
        by_latents = run.edit(test[:2], target, **kw)
        assert np.array_equal(by_latents.images, by_image.images) and by_latents.targets is None and by_latents.target_index is None
    assert np.array_equal(by_latents.z_targets, z[[test[3]] * 2]) and by_image.z_targets is None


def test_edits_along_a_direction(run, tmp_path):
    test, kw = run.split.test, dict(settings=EditSettings(steps=6), progress=False)
    edits = run.edit(test[:2], {3: np.ones(6), "pose": [0.5, 0, 0, 0, 0, -1]}, **kw)
    assert edits.group_index == (0, 2) and edits.gammas == (-0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2) and edits.images.shape == (2, 2, 7, 1, 32, 32)
    assert edits.direction.tolist() == [0.5, 0, 0, 0, 0, -1] + 6 * [0] + 6 * [1] + 6 * [0] and edits.round_trip_rmse() < 1e-5
    change = edits.change().to_numpy()
    assert (np.diff(change[:, 3:]) > 0).all() and (np.diff(change[:, :4]) < 0).all()
    behind = run.edit(test[:2], run.latents()[test[:2]] - torch.as_tensor(edits.direction), groups=[3], gammas=[0.2], **kw)
    np.testing.assert_allclose(edits.images[:, 1, 0], behind.images[:, 0, 0], atol=0.02) # but for a negative or two
    loaded = Edits.load(edits.save(tmp_path / "edits.npz"))
    assert np.array_equal(loaded.direction, edits.direction) and loaded.targets is None is loaded.target_index and loaded.gammas == edits.gammas
    titles = [ax.get_title() for ax in loaded.plot().axes]
    assert "target" not in titles and "original" in titles
    with pytest.raises(ValueError, match="no target images"): loaded.explore()


def test_direction_of_a_label(run):
    labels, train = run.recording.labels, run.split.train
    z, value = run.latents()[train, 6:12].numpy().astype(float), labels["rxz"].to_numpy(float)[train]
    along = run.direction("rxz", 2, sd=2)
    slope = np.linalg.lstsq(np.c_[z, np.ones(len(z))], value, rcond=None)[0][:6]
    assert slope @ along == pytest.approx(2 * value.std(), rel=1e-4)
    np.testing.assert_allclose(along / np.linalg.norm(along), (t := np.cov(z.T) @ slope) / np.linalg.norm(t), atol=1e-4)
    for label, group, match in (("category", 1, "columns of numbers"), ("none", 1, "columns of numbers"), ("s", 9, "group")):
        with pytest.raises(ValueError, match=match): run.direction(label, group)


def test_captions_say_what_is_simulated_and_tiny(run):
    caption = edit(run).caption
    assert "simulated" in caption and "tiny preset" in caption and "seed 1" in caption


def test_unlabelled_recording_still_fits(recording, tmp_path):
    plain = replace(recording, labels=pd.DataFrame({"category": ["all"] * 120}))
    with pytest.warns(UserWarning, match="unsupervised groups"):
        model = MIGVis(SMALL, device="cpu").fit(plain, out=tmp_path, progress=False)
    assert all("no labels" in name for name in model.group_names) and model.report()["vae"]["labels"] == {}


def test_small_helpers():
    assert _as_indices(np.int64(3), 5, "x") == (3,) and _as_indices([1, 2], 5, "x") == (1, 2)


def test_claiming_a_folder_twice(tmp_path):
    claim_folder(tmp_path / "a", {"seed": 1})
    (tmp_path / "a" / "vae.safetensors").write_text("")
    claim_folder(tmp_path / "a", {"seed": 1})
    with pytest.raises(ValueError, match="another run"): claim_folder(tmp_path / "a", {"seed": 2})
    (tmp_path / "a" / "run.json").write_text("nonsense")
    with pytest.raises(ValueError, match="damaged"): claim_folder(tmp_path / "a", {"seed": 1})


def test_fingerprint_sees_every_part(recording):
    changed = recording.responses.copy()
    changed[0, 0] += 1
    others = [replace(recording, responses=changed, truth=None), replace(recording, labels=recording.labels.assign(ty=0.0)),
              replace(recording, images=recording.images[:, :, ::-1].copy())]
    assert len({_recording_fingerprint(r) for r in (recording, *others)}) == 4


def test_real_v4_recording_runs_to_edited_images(realdata, tmp_path):
    from migvis import load_recording
    v4 = load_recording("cowley-v4", realdata / "hvm_v4_session210325.npz")
    assert v4.labels["category"].nunique() == 6 and v4.responses.shape == (640, 50) and not v4.simulated
    v4.save(tmp_path / "v4.npz")
    model = MIGVis(SMALL, device="cpu").fit(Recording.load(tmp_path / "v4.npz"), out=tmp_path / "run", progress=False)
    edits = edit(model)
    assert edits.round_trip_rmse() < 0.02 and "simulated" not in edits.caption
    edits.plot().savefig(tmp_path / "edit.png")
    assert (tmp_path / "edit.png").stat().st_size > 10_000


def test_changed_weights_are_not_passed_off_as_those_of_the_folder(run, folder):
    changed = MIGVis.load(folder, device="cpu")
    with torch.no_grad(): next(changed.denoiser.parameters()).add_(1)
    before = (folder / "report.json").read_text()
    with pytest.raises(ValueError, match="other weights than this model's denoiser"): changed.save(folder)
    assert (folder / "report.json").read_text() == before
    run.save(folder) # the same weights: nothing to say


def test_one_strength_and_numpy_numbers_will_do(run):
    a, b = edit(run, gammas=0.5, groups=np.int64(1)), edit(run, gammas=(0.5,), groups=[1])
    assert a.gammas == (0.5,) and a.group_index == (0,) and np.array_equal(a.images, b.images)


def flip(path, where=0.5):
    "One bit of a file."
    data = bytearray(path.read_bytes())
    data[int(where * len(data))] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["vae.safetensors", "denoiser.safetensors", "critics.safetensors", "recording.npz", "run.json"])
@pytest.mark.parametrize("where", [0.3, 0.7])
def test_a_flipped_bit_of_a_run_is_noticed(folder, name, where):
    flip(folder / name, where)
    with pytest.raises(ValueError, match=f"{name}.* (damaged|not a readable)|{name} is damaged"): MIGVis.load(folder, "cpu")


def test_a_flipped_bit_of_a_report_is_noticed(folder):
    from migvis.cli import _report_of
    assert _report_of(folder)["seed"] == 1
    (folder / "report.json").write_text((folder / "report.json").read_text().replace('"seed": 1', '"seed": 3'))
    with pytest.raises(ValueError, match="report.json is not the file that this run wrote"): _report_of(folder)


def test_networks_of_another_run_are_refused(run, folder, tmp_path):
    other = copy.deepcopy(run)
    with torch.no_grad():
        for part in (other.vae.model, other.denoiser, other.critics): next(part.parameters()).add_(1)
    foreign = other.save(tmp_path / "other")
    for name in ("vae", "denoiser", "critics"):
        own = (folder / f"{name}.safetensors").read_bytes()
        (folder / f"{name}.safetensors").write_bytes((foreign / f"{name}.safetensors").read_bytes())
        for call in (lambda: MIGVis.load(folder, "cpu"), lambda: MIGVis(SMALL, seed=1, device="cpu").fit(run.recording, out=folder, progress=False)):
            with pytest.raises(ValueError, match=f"{name}.safetensors is not the file that this run wrote.*of another run"): call()
        (folder / f"{name}.safetensors").write_bytes(own)
    mixed = MIGVis.load(foreign, "cpu")
    mixed.critics = run.critics
    assert MIGVis.load(mixed.save(tmp_path / "mixed"), "cpu").critics is not None # what is meant can be saved


@pytest.mark.parametrize("old", [False, True])
def test_a_changed_recording_is_refused(run, folder, old):
    changed = run.recording.responses.copy()
    changed[0, 0] += 1
    replace(run.recording, responses=changed, truth=None).save(folder / "recording.npz")
    if old: forget_digests(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="recording.npz is not the recording that this run was fitted to"):
            MIGVis.load(folder, "cpu")


def forget_digests(folder):
    "As a run that was interrupted before they were noted."
    told = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({k: v for k, v in told.items() if k not in ("digest", "files")}))


def test_runs_without_digests_warn_until_they_are_saved_again(folder):
    forget_digests(folder)
    with pytest.warns(UserWarning, match="no digest of critics.safetensors.*save the run there again to note it"): model = MIGVis.load(folder, "cpu")
    with pytest.warns(UserWarning): model.save(folder)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*no digest")
        MIGVis.load(folder, "cpu")


def test_a_network_that_is_noted_but_gone_is_missed(run, tmp_path):
    model = copy.copy(run)
    model.weak = build_denoiser(model.preset.denoiser, 0.3, seed=4).eval()
    folder = model.save(tmp_path / "weak")
    (folder / "weak.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="weak missing"): MIGVis.load(folder, "cpu")


OPTIONS = """
from tests.made import SMALL, seen
from migvis.support.runs import _deciding
from migvis.support.training import warmup_cosine
print(_deciding({"callback": seen, "schedule": warmup_cosine(9, 2), "like": seen, "n": object(), "estimator": "is"}))
"""


def test_options_are_described_alike_in_every_process():
    from migvis.support.runs import _deciding
    from migvis.support.training import warmup_cosine
    here = _deciding({"callback": seen, "schedule": warmup_cosine(9, 2), "like": seen, "n": object(), "estimator": "is"})
    there = subprocess.run([sys.executable, "-c", OPTIONS], capture_output=True, text=True, cwd=ROOT)
    assert there.stdout.strip() == repr(here), there.stderr[-500:]
    assert set(here) == {"schedule", "like", "n", "estimator"} and here["estimator"] == "'is'"


def test_a_fit_with_a_callback_goes_on(recording, tmp_path, monkeypatch):
    from migvis import model as pipeline
    @functools.wraps(fit_vae) # the arguments that it takes
    def interrupted(*_, **__): raise KeyboardInterrupt
    fit = lambda: MIGVis(SMALL, seed=1, device="cpu").fit(recording, out=tmp_path, progress=False, callback=lambda *_: None)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "train_denoiser", interrupted)
        with pytest.raises(KeyboardInterrupt): fit()
    monkeypatch.setattr(pipeline, "fit_vae", interrupted), monkeypatch.setattr(pipeline, "train_critics", interrupted)
    with pytest.raises(KeyboardInterrupt): fit()
    assert (tmp_path / "denoiser.safetensors").exists()


def test_nothing_is_left_behind_by_killed_processes(run, folder, recording):
    leftovers = [folder / ".run-0123456789ab.json", folder / ".vae-0123456789ab.safetensors", folder / "vae.checkpoints" / "step-00000030.safetensors"]
    (folder / "vae.checkpoints").mkdir()
    for path in (*leftovers, folder / ".notes"): path.write_text("half")
    MIGVis(SMALL, seed=1, device="cpu").fit(recording, out=folder, progress=False)
    assert not any(path.exists() for path in leftovers) and not (folder / "vae.checkpoints").exists() and (folder / ".notes").exists()


def test_the_judges_checkpoints_go_when_selectivity_is_measured(run, tmp_path, monkeypatch):
    from migvis import model as pipeline
    def judge(model, progress, checkpoint):
        checkpoint.mkdir(parents=True)
        return "judge"
    monkeypatch.setattr(pipeline, "_judge_for", judge), monkeypatch.setattr(pipeline, "_check_n_pairs", lambda model, n: n)
    monkeypatch.setattr(pipeline, "run_selectivity", lambda model, judge, *_, folder, **__: (judge, (folder / "judge.checkpoints").exists()))
    assert run.selectivity(folder=tmp_path) == ("judge", True) and not (tmp_path / "judge.checkpoints").exists()


def test_a_tilde_is_the_home_folder(run, tmp_path, monkeypatch):
    from migvis.cli import main
    from migvis.support.files import load_tensors, save_tensors
    monkeypatch.setenv("HOME", str(tmp_path)), monkeypatch.chdir(tmp_path)
    assert run.save("~/run") == tmp_path / "run" and MIGVis.load("~/run", "cpu").seed == 1
    edits = edit(run)
    assert edits.save("~/e.npz") == tmp_path / "e.npz" and Edits.load("~/e.npz").gammas == edits.gammas
    assert edits.to_html("~/e.html") == tmp_path / "e.html" and run.recording.save("~/r.npz") == tmp_path / "r.npz"
    assert len(Recording.load("~/r.npz")) == 120 and load_tensors(save_tensors("~/t.safetensors", {"a": torch.zeros(1)}, {"kind": "x"}))
    assert main(["info", "~/run"]) == 0 and not (tmp_path / "~").exists()


@pytest.mark.parametrize("stage, wrong, match", [
    ("denoiser", dict(clip=-1), "clip must be positive"), ("denoiser", dict(ema=float("nan")), "ema must be"),
    ("denoiser", dict(betas=(0.9, 1.5)), "betas"), ("critic", dict(lr=float("inf")), "lr"), ("critic", dict(dropout=1.0), "dropout"),
    ("vae", dict(beta=float("nan")), "beta"), ("vae", dict(label_weight=-1), "label_weight")])
def test_settings_that_spoil_training_are_refused_early(recording, tmp_path, stage, wrong, match):
    with pytest.raises(ValueError, match=match):
        preset = replace(SMALL, **{stage: replace(getattr(SMALL, stage), **wrong)})
        MIGVis(preset, device="cpu").fit(recording, out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_reports_hold_no_nan(run, tmp_path, monkeypatch):
    model = copy.copy(run)
    monkeypatch.setattr(MIGVis, "report", lambda self: {"eps_loss": float("nan"), "values": [np.float32(2), float("inf")]})
    text = (model.save(tmp_path / "run") / "report.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"eps_loss": None, "values": [2.0, None]}


# --- as scikit-learn's users know it -----------------------------------------------------------------------------------------

def test_settings_are_read_set_and_cloned(run):
    copy_ = clone(run)
    assert copy_.vae is None and copy_.get_params() == run.get_params() and run.vae is not None
    assert copy_.set_params(seed=3).seed == 3 and copy_.to("cpu").device.type == "cpu"
    with pytest.raises(ValueError, match="no setting sed; there are"): copy_.set_params(sed=3)
    with pytest.raises(ValueError, match="preset must be one of"): copy_.set_params(preset="huge")


def test_new_responses_have_latents_and_a_score(run):
    x = run.recording.responses
    np.testing.assert_allclose(run.transform(x[:5]), run.latents()[:5].numpy(), atol=1e-6)
    assert run.score() == pytest.approx(run.score(x[run.split.test])) and run.score() <= 1
    table = run.latents(table=True)
    np.testing.assert_allclose(table["z2.1"], run.latents()[:, 6])
    with pytest.raises(ValueError, match="1 values are missing"): run.transform(np.where(np.arange(x.size).reshape(x.shape) == 3, np.nan, x))
    with pytest.raises(ValueError, match="same .* units"): run.transform(x[:, :-2])


def test_a_split_of_ones_own_is_kept(recording, tmp_path):
    order = np.arange(len(recording))
    split = Split(order[:80], order[80:95], order[95:])
    model = MIGVis(SMALL, device="cpu").fit(recording, out=tmp_path / "run", split=split, progress=False)
    again = MIGVis.load(tmp_path / "run", "cpu")
    assert again.split.digest() == split.digest() and np.array_equal(again.split.test, split.test)
    for bad in (Split(order[:80], order[70:95], order[95:]), Split(order[:80], order[:0], order[80:])):
        with pytest.raises(ValueError, match="none of them twice"): model.fit(recording, split=bad, progress=False)


def test_only_the_denoiser_is_compiled_and_it_does_not_decide_what_a_run_is(recording, run, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda network, mode=None: (compiled.append((type(network).__name__, mode)), network)[1])
    again = MIGVis(SMALL, seed=1, device="cpu").fit(recording, out=tmp_path / "run", compile="default", progress=False)
    assert compiled == [("Denoiser", "default")]
    assert again.identity(again.recording) == run.identity(run.recording)
