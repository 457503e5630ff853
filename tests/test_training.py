"""The training loop: exact resume, interruption, sharding, files, errors."""
import errno
import gc
import json
import os
import signal
import subprocess
import sys
import time
import warnings
import weakref

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from migvis import training
from migvis.training import (Best, DenoiserConfig, Preset, batch_rows, computing_in, fit, generator, get_preset, list_checkpoints,
                             load_tensors, make_batch, quick_precision, read_csv, resolve_device, save_tensors, warmup_cosine, write_csv)
from tests.conftest import ROOT

X = torch.linspace(-1, 1, 64)[:, None]


def noisy_loss(model, batch):
    "Regression with fresh noise and dropout: everything random is in play."
    target = torch.sin(3 * X[batch.index]) + 0.1 * batch.randn(1)
    loss = (model(X[batch.index]) - target).square().mean()
    return loss, {"half": loss / 2}


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(1, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1))


def run(steps, folder=None, **kw):
    defaults = dict(batch_size=16, lr=1e-2, ema=0.9, clip=1.0, device="cpu", checkpoint=folder, checkpoint_every=7,
                    schedule=warmup_cosine(40, 5), progress=False, seed=3)
    return fit(network(), noisy_loss, len(X), steps=steps, **defaults | kw)


def weights(fitted): return torch.cat([p.detach().flatten() for p in fitted.model.parameters()])


@pytest.mark.parametrize("stop", [3, 7, 20, 39])
def test_resumed_run_equals_uninterrupted_run(tmp_path, stop):
    with pytest.raises(RuntimeError, match="stop"):
        def stopping(model, batch):
            if batch.step == stop: raise RuntimeError("stop")
            return noisy_loss(model, batch)
        fit(network(), stopping, len(X), steps=40, batch_size=16, lr=1e-2, ema=0.9, clip=1.0, device="cpu", checkpoint=tmp_path,
            checkpoint_every=7, schedule=warmup_cosine(40, 5), progress=False, seed=3)
    resumed, straight = run(40, tmp_path), run(40)
    assert resumed.resumed_from == stop // 7 * 7
    assert torch.equal(weights(resumed), weights(straight))
    assert resumed.history.equals(straight.history)


def test_finished_run_is_not_trained_again(tmp_path):
    first = run(20, tmp_path)
    again = run(20, tmp_path)
    assert again.resumed_from == 20 and torch.equal(weights(first), weights(again))


def test_best_weights_survive_resume(tmp_path):
    score = lambda model: (model(X) - torch.sin(3 * X)).square().mean()
    kw = dict(validate=score, keep_best=True, validate_every=3)
    run(21, tmp_path, **kw)
    assert torch.equal(weights(run(40, tmp_path, **kw)), weights(run(40, **kw)))


def test_keep_best_returns_the_lowest_validation_score():
    score = lambda model: (model(X) - torch.sin(3 * X)).square().mean()
    fitted = run(60, validate=score, keep_best=True, validate_every=1, lr=0.3)
    assert float(score(fitted.model)) == pytest.approx(fitted.history.validation.min(), rel=1e-5)


def test_best_by_member_agrees_with_loop():
    torch.manual_seed(0)
    scores, values = torch.rand(10, 5), torch.rand(10, 5, 2)
    best = Best()
    for s, v in zip(scores, values): best.update(s, {"w": v})
    expected = torch.stack([values[scores[:, e].argmin(), e] for e in range(5)])
    assert torch.equal(best.weights["w"], expected) and torch.equal(best.score, scores.min(0).values)


SCRIPT = """
import sys, time, torch
from tests.test_training import X, network, noisy_loss
from migvis.training import fit, warmup_cosine
def slow(model, batch):
    time.sleep(0.01)
    if batch.step == 25: print("started", flush=True)
    return noisy_loss(model, batch)
fitted = fit(network(), slow, len(X), steps=300, batch_size=16, lr=1e-2, ema=0.9, clip=1.0, device="cpu", checkpoint=sys.argv[1],
             checkpoint_every=10, schedule=warmup_cosine(300, 5), progress=False, seed=3)
torch.save(torch.cat([p.detach().flatten() for p in fitted.model.parameters()]), sys.argv[2])
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_killed_process_goes_on_where_it_was(tmp_path, number):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "ckpt"), str(tmp_path / "weights.pt")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) # a background job's shell has it ignored
    assert process.stdout.readline().strip() == "started"
    time.sleep(0.2)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode != 0 and not (tmp_path / "weights.pt").exists()
    kept = list_checkpoints(tmp_path / "ckpt")
    step = max(load_tensors(p, "checkpoint")[1]["step"] for p in kept)
    assert 20 <= step < 300 and (number == signal.SIGKILL or step % 10 or step >= 25)
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    straight = run(300, schedule=warmup_cosine(300, 5))
    assert torch.equal(torch.load(tmp_path / "weights.pt", weights_only=True), weights(straight))
    assert not list((tmp_path / "ckpt").glob(".*")), "no temporary file may be left by a run that ended"


def test_another_runs_checkpoint_is_refused(tmp_path):
    run(10, tmp_path, fingerprint={"preset": "tiny"})
    with pytest.raises(ValueError, match="preset.*'tiny' there, 'demo' here"): run(10, tmp_path, fingerprint={"preset": "demo"})
    with pytest.raises(ValueError, match="seed"): run(10, tmp_path, fingerprint={"preset": "tiny"}, seed=4)


def test_damaged_checkpoint_falls_back_to_the_one_before(tmp_path):
    run(21, tmp_path)
    newest = list_checkpoints(tmp_path)[-1]
    newest.write_bytes(newest.read_bytes()[:100])
    with pytest.warns(UserWarning, match="not a readable"): resumed = run(40, tmp_path)
    assert resumed.resumed_from == 14 and torch.equal(weights(resumed), weights(run(40)))


def test_only_damaged_checkpoints_is_an_error(tmp_path):
    (tmp_path / "step-00000007.safetensors").write_bytes(b"nonsense")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="none of the 1 checkpoints"): run(10, tmp_path)


def test_nan_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    def breaking(model, batch):
        loss, logs = noisy_loss(model, batch)
        return loss * (float("nan") if batch.step == 16 else 1), logs
    with pytest.raises(FloatingPointError, match="step-00000014"):
        fit(network(), breaking, len(X), steps=40, batch_size=16, device="cpu", checkpoint=tmp_path, checkpoint_every=7, progress=False)
    tensors, _ = load_tensors(list_checkpoints(tmp_path)[-1], "checkpoint")
    assert all(torch.isfinite(v).all() for v in tensors.values())


def test_the_error_of_a_nan_does_not_keep_the_graph():
    class Held: ...
    held = []

    class Breaks(torch.autograd.Function): # a node of the graph that holds an object
        @staticmethod
        def forward(ctx, loss):
            ctx.held = Held()
            held.append(weakref.ref(ctx.held))
            return loss * float("nan")
        @staticmethod
        def backward(ctx, gradient): return gradient

    def breaking(model, batch):
        loss, logs = noisy_loss(model, batch)
        loss = Breaks.apply(loss) if batch.step == 16 else loss
        return loss, {"same": loss}
    with pytest.raises(FloatingPointError, match="the loss is nan at step 16") as caught:
        fit(network(), breaking, len(X), steps=40, batch_size=16, device="cpu", progress=False)
    gc.collect()
    assert caught.tb is not None and len(held) == 1 and held[0]() is None


def test_compiling_can_name_a_mode_and_changes_no_weights(monkeypatch):
    modes = []
    monkeypatch.setattr(torch, "compile", lambda model, mode=None: (modes.append(mode), model)[1])
    plain, *compiled = (weights(run(3, compile=how)) for how in (False, True, "reduce-overhead"))
    assert modes == [None, "reduce-overhead"] and all(torch.equal(plain, w) for w in compiled)


def test_what_a_killed_run_left_half_written_is_removed(tmp_path):
    run(10, tmp_path)
    (tmp_path / ".step-00000014-0123456789ab.safetensors").write_bytes(b"half")
    (tmp_path / ".notes").write_text("not ours")
    run(10, tmp_path)
    assert [p.name for p in tmp_path.glob(".*")] == [".notes"]


def test_keeps_only_the_newest_checkpoints(tmp_path):
    run(40, tmp_path, keep=3)
    assert [p.stem for p in list_checkpoints(tmp_path)] == ["step-00000028", "step-00000035", "step-00000040"]


def test_training_leaves_the_callers_randomness_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    network_ = network()
    torch.manual_seed(5)
    fit(network_, noisy_loss, len(X), steps=3, batch_size=16, device="cpu", progress=False)
    assert torch.equal(torch.rand(3), expected)


def test_rows_cover_every_epoch_once():
    rows = torch.stack([batch_rows(50, 10, s, seed=2) for s in range(15)])
    for epoch in rows.split(5): assert sorted(epoch.flatten().tolist()) == list(range(50))
    assert not torch.equal(rows[:5], rows[5:10])
    assert len(batch_rows(6, 10, 3)) == 6


def test_shards_make_up_the_whole_batch():
    whole = make_batch(64, 12, 5, seed=1)
    parts = [make_batch(64, 12, 5, seed=1, process=p, n_processes=3) for p in range(3)]
    assert torch.equal(whole.index, torch.cat([p.index for p in parts]))
    for draw in (lambda b: b.randn(2), lambda b: b.rand(), lambda b: b.randint(9)):
        assert torch.equal(draw(make_batch(64, 12, 5, seed=1)), torch.cat([draw(make_batch(64, 12, 5, 1, process=p, n_processes=3)) for p in range(3)]))
    with pytest.raises(ValueError, match="shared evenly"): make_batch(64, 10, 0, process=0, n_processes=3)


SHARED = """
import json, sys, torch
from accelerate import PartialState
from tests.test_training import shared
fitted, state = shared(), PartialState()
told = {"processes": state.num_processes, "device": state.device.type, "history": fitted.history.to_dict("list")}
open(f"{sys.argv[1]}/{state.process_index}.json", "w").write(json.dumps(told))
"""


def shared():
    "A run with random numbers, but none of the model's own, and logs of two shapes."
    torch.manual_seed(1)
    def loss_fn(model, batch):
        wrong = (model(X[batch.index]) - torch.sin(3 * X[batch.index]) - 0.1 * batch.randn(1)).square()
        return wrong.mean(), {"members": torch.stack([wrong.mean(), 2 * wrong.mean()]), "first_row": float(batch.index[0])}
    return fit(nn.Sequential(nn.Linear(1, 16), nn.ReLU(), nn.Linear(16, 1)), loss_fn, len(X), steps=20, batch_size=16, lr=1e-2,
               ema=0.9, clip=0.1, device="cpu", progress=False, log_every=1)


def test_history_of_two_processes_is_that_of_the_whole_batch(tmp_path):
    # without ACCELERATE_USE_CPU: device="cpu" itself must bring the processes together on the CPU
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    (script := tmp_path / "script.py").write_text(SHARED)
    done = subprocess.run([*launch, str(script), str(tmp_path)], capture_output=True, text=True, timeout=120,
                          env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    (first, second), alone = [json.loads((tmp_path / f"{i}.json").read_text()) for i in (0, 1)], shared().history
    assert (first["processes"], first["device"]) == (2, "cpu") and first == second
    np.testing.assert_allclose(first["history"]["loss"], alone["loss"], rtol=1e-4)
    np.testing.assert_allclose(first["history"]["members"], np.array(alone["members"].tolist()), rtol=1e-4)
    halves = [[float(make_batch(len(X), 16, s, process=p, n_processes=2).index[0]) for p in (0, 1)] for s in range(20)]
    assert first["history"]["first_row"] == np.mean(halves, axis=1).tolist()


def test_generator_streams_are_independent_and_repeatable():
    draws = {key: torch.randn(1000, generator=generator(*key)) for key in [(0,), (0, 1), (1, 0), (0, 0, 1)]}
    assert torch.equal(draws[(0, 1)], torch.randn(1000, generator=generator(0, 1)))
    stacked = torch.stack(list(draws.values()))
    assert (torch.corrcoef(stacked) - torch.eye(4)).abs().max() < 0.15
    with pytest.raises(ValueError, match="negative"): generator(-1)


def test_save_and_load_tensors(tmp_path):
    shared = torch.arange(4.)
    path = save_tensors(tmp_path / "deep" / "x.safetensors", {"a": shared, "b": shared.view(2, 2).T}, {"kind": "thing", "n": 3})
    tensors, meta = load_tensors(path, "thing")
    assert torch.equal(tensors["b"], shared.view(2, 2).T) and meta == {"kind": "thing", "n": 3}
    with pytest.raises(ValueError, match="should hold a 'other'"): load_tensors(path, "other")
    with pytest.raises(FileNotFoundError): load_tensors(tmp_path / "none")
    from safetensors.torch import save_file
    save_file({"a": shared}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="migvis did not write it"): load_tensors(tmp_path / "foreign.safetensors")


@pytest.mark.parametrize("bad, match", [(dict(steps=0), "steps"), (dict(batch_size=0), "batch_size"), (dict(lr=-1), "lr"),
                                        (dict(precision="float8"), "precision"), (dict(keep_best=True), "validate"),
                                        (dict(device="abacus"), "device"), (dict(keep=0), "keep")])
def test_bad_arguments(bad, match):
    with pytest.raises(ValueError, match=match): run(**{"steps": 2} | bad)


def test_presets():
    assert get_preset("paper").denoiser == DenoiserConfig()
    assert get_preset("paper").t_edit == 135 and get_preset("paper").vae.groups == (6, 6, 6, 6)
    with pytest.raises(ValueError, match="preset must be one of"): get_preset("huge")


def test_auto_is_the_cpu_when_accelerate_was_told_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto").type == "cuda"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert resolve_device("auto").type == "cpu" and resolve_device("cuda").type == "cuda"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="sees no CUDA device"): resolve_device("cuda")


@pytest.mark.parametrize("device", ["xpu", "vulkan", "abacus", "cuda:x", "", None, 1.5])
def test_other_devices_are_refused(device):
    with pytest.raises(ValueError, match="device must be 'auto'"): resolve_device(device)


def test_a_cuda_index_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda", 1) and resolve_device("cuda").type == "cuda"
    with pytest.raises(ValueError, match="sees only 2"): resolve_device("cuda:2")


@pytest.mark.parametrize("change", [lambda d: d.pop("t_edit"), lambda d: d.update(strength=3), lambda d: d["vae"].update(depth=2), lambda d: d.update(vae=5)])
def test_presets_of_other_versions_are_named(change):
    entries = get_preset("tiny").to_dict()
    change(entries)
    with pytest.raises(ValueError, match="not make a preset of this version"): Preset.from_dict(entries)


def test_time_ends_training_with_all_that_the_last_step_brings(tmp_path):
    done = fit(network(), noisy_loss, len(X), steps=10**9, seconds=0.5, batch_size=16, lr=1e-2, device="cpu", checkpoint=tmp_path, progress=False,
               validate=lambda m: (m(X) - torch.sin(3 * X)).square().mean(), validate_every=10**9, log_every=10**9)
    assert 1 <= done.steps < 10**9 and len(done.history) == 1 and np.isfinite(done.history["validation"].iloc[-1])
    assert load_tensors(list_checkpoints(tmp_path)[-1], "checkpoint")[1]["step"] == done.steps
    with pytest.raises(ValueError, match="seconds"): fit(network(), noisy_loss, len(X), steps=5, seconds=0, batch_size=16, device="cpu", progress=False)


def test_the_moving_average_is_one():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    average, slow = training._Average(model, 0.9), None
    for _ in range(4):
        with torch.no_grad():
            for p in model.parameters(): p.add_(torch.randn_like(p))
        model(torch.randn(8, 3))
        average.update_parameters(model)
        now = {k: v.clone() for k, v in model.state_dict().items()}
        slow = now if slow is None else {k: 0.9 * slow[k] + 0.1 * v if v.is_floating_point() else v for k, v in now.items()}
    for k, v in slow.items(): torch.testing.assert_close(average.module.state_dict()[k], v)
    assert average.n_averaged == 4 and not any(p.requires_grad and p.grad is not None for p in average.parameters())


def test_a_fused_optimiser_resumes_exactly_though_files_forget_the_layout(tmp_path, monkeypatch):
    "Weights in channels_last order, moments read back in another: what a GPU's fused kernel would take amiss."
    plain = torch.optim.AdamW
    monkeypatch.setattr(torch.optim, "AdamW", lambda *args, **options: plain(*args, **options | {"fused": True}))
    images = torch.rand(16, 3, 6, 6, generator=generator(0))

    def train(folder, steps):
        torch.manual_seed(2)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).to(memory_format=torch.channels_last)
        loss = lambda m, batch: ((m(images[batch.index]) - batch.randn(2, 2, 2)).square().mean(), {})
        return fit(model, loss, 16, steps=steps, batch_size=8, lr=1e-2, ema=0.5, device="cpu", checkpoint=folder, progress=False)
    whole = train(tmp_path / "whole", 12)
    train(tmp_path / "parts", 6)
    resumed = train(tmp_path / "parts", 12)
    assert resumed.resumed_from == 6
    for a, b in zip(whole.model.parameters(), resumed.model.parameters()): assert torch.equal(a, b)


def test_the_device_decides_how_the_optimiser_computes():
    saved = nn.Linear(2, 2)
    fused = torch.optim.AdamW(saved.parameters(), fused=True)
    saved(torch.ones(1, 2)).sum().backward(), fused.step()
    here = torch.optim.AdamW(saved.parameters(), foreach=True)
    training._restore_optimizer(here, *training._flatten_optimizer(fused))
    assert here.param_groups[0]["fused"] is None and here.param_groups[0]["foreach"] is True


@pytest.mark.parametrize("change", [{"weight_decay": 0.5}, {"betas": (0.5, 0.9)}, {"clip": 0.1}, {"ema": 0.5}, {"precision": "bfloat16"}])
def test_checkpoints_of_other_settings_are_refused(tmp_path, change):
    run(4, tmp_path)
    with pytest.raises(ValueError, match=next(iter(change))): run(8, tmp_path, **change)


def test_quick_precision_is_what_the_processor_multiplies_in(monkeypatch):
    assert quick_precision("cpu") in ("float32", "bfloat16")
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"): monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert quick_precision("cpu") == "float32"
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert quick_precision("cpu") == "bfloat16"
    a = torch.randn(4, 4)
    with computing_in("auto", torch.device("cpu")): assert (a @ a).dtype == torch.bfloat16
    with computing_in("float32", torch.device("cpu")): assert (a @ a).dtype == torch.float32
    with pytest.raises(ValueError, match="precision must be"): computing_in("half", torch.device("cpu"))


def test_text_that_a_spreadsheet_would_run_is_written_as_text(tmp_path):
    names = ["=1+1", "@x", "-1+cmd|' /C calc'!A0", "+x", "\t=1", "'=1", "plain", "-", "-0.50 [-0.61, 0.02] (7 read)", "-3.5"]
    table = pd.DataFrame({"name": names, "=head": np.arange(10), "value": [-1.5, np.nan] * 5})
    written = write_csv(table, tmp_path / "a.csv").read_text()
    cells = [line.split(",")[0].strip('"') for line in written.splitlines()]
    assert cells[1:7] == [f"'{name}" for name in names[:6]] and "name,'=head,value" in written
    assert "plain,6,-1.5" in written and "-,7," in written and '"-0.50 [-0.61, 0.02] (7 read)"' in written and "-3.5,9," in written
    pd.testing.assert_frame_equal(read_csv(tmp_path / "a.csv", dtype={"name": str}), table)
    assert "'=row" in write_csv(table[:1].set_index(pd.Index(["=row"])), tmp_path / "b.csv", index=True).read_text()
    assert write_csv(table[:0], tmp_path / "c.csv").read_text() == "name,'=head,value\n"


def test_tables_are_written_in_one_way_alone():
    for module in (ROOT / "migvis").glob("*.py"): # but for the digest of labels, and a log of numbers
        lines = [line for line in module.read_text().splitlines() if ".to_csv(" in line]
        assert len(lines) == {"training": 1, "pipeline": 1, "denoiser": 1}.get(module.stem, 0), module.name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("how", ["ignored", "handled"])
def test_signals_that_the_host_ignores_or_handles_do_not_end_training(tmp_path, how, number):
    came = []
    handler = signal.SIG_IGN if how == "ignored" else lambda *_: came.append(fitted_steps[-1])
    fitted_steps, before = [], signal.signal(number, handler)
    def loss(model, batch):
        fitted_steps.append(batch.step)
        if batch.step in (5, 9): signal.raise_signal(number)
        return noisy_loss(model, batch)
    try:
        options = dict(batch_size=16, lr=1e-2, device="cpu", progress=False)
        done = fit(network(), loss, len(X), steps=20, checkpoint=tmp_path, checkpoint_every=20, **options)
        assert signal.getsignal(number) == handler
    finally: signal.signal(number, before)
    assert done.steps == 20 and torch.equal(weights(done), weights(fit(network(), noisy_loss, len(X), steps=20, **options)))
    assert came == ([] if how == "ignored" else [5, 9])
    assert [p.stem for p in list_checkpoints(tmp_path)][-1] == "step-00000020"


def test_an_interrupted_fit_says_where_it_goes_on(tmp_path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    def loss(model, batch):
        if batch.step == 5: signal.raise_signal(signal.SIGINT)
        return noisy_loss(model, batch)
    options = dict(steps=20, batch_size=16, device="cpu", progress=False)
    try:
        with pytest.raises(KeyboardInterrupt, match=f"after step 6; the same call goes on from {tmp_path}"):
            fit(network(), loss, len(X), checkpoint=tmp_path, **options)
        with pytest.raises(KeyboardInterrupt, match="after step 6; the same call begins anew"): fit(network(), loss, len(X), **options)
        assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    finally: signal.signal(signal.SIGINT, before)
    assert fit(network(), noisy_loss, len(X), checkpoint=tmp_path, **options).resumed_from == 6


def test_a_handler_that_is_set_during_training_stays(tmp_path):
    before, mine = signal.getsignal(signal.SIGTERM), lambda *_: None
    try:
        run(3, callback=lambda *_: signal.signal(signal.SIGTERM, mine), log_every=1)
        assert signal.getsignal(signal.SIGTERM) == mine
    finally: signal.signal(signal.SIGTERM, before)


def test_a_validation_score_that_is_nan_is_never_the_best():
    scores = iter([float("nan"), 2.0, 1.0, float("nan"), 3.0])
    kept = []
    def score(model):
        kept.append(torch.cat([p.detach().flatten().clone() for p in model.parameters()]))
        return torch.tensor(next(scores))
    with pytest.warns(UserWarning, match="validation score is not finite"):
        fitted = run(5, validate=score, validate_every=1, keep_best=True, ema=None)
    assert torch.equal(weights(fitted), kept[2])
    with pytest.warns(UserWarning), pytest.raises(FloatingPointError, match="no validation score was finite"):
        run(2, validate=lambda m: torch.tensor(float("nan")), validate_every=1, keep_best=True)
    best = Best()
    for values in ([float("nan"), 1.0], [2.0, float("nan")], [3.0, 0.5]):
        best.update(torch.tensor(values), {"w": torch.tensor(values)})
    assert best.score.tolist() == [2.0, 0.5] == best.weights["w"].tolist()


@pytest.mark.parametrize("name, value", [("clip", -1), ("clip", 0), ("clip", float("nan")), ("ema", float("nan")), ("ema", 1.0), ("ema", -0.1),
                                         ("lr", float("nan")), ("lr", float("inf")), ("betas", (0.9, 1.0)), ("betas", (0.9,)),
                                         ("weight_decay", -1), ("checkpoint_every", 0), ("log_every", 0), ("validate_every", -3),
                                         ("threads", 0), ("steps", float("inf"))])
def test_settings_that_lead_nowhere_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be"): run(**{"steps": 2} | {name: value})


def test_weights_that_are_not_finite_are_not_returned():
    def breaking(model, batch): # a finite loss, and a gradient that is not
        loss, logs = noisy_loss(model, batch)
        return loss + (0 * loss.sqrt() if batch.step < 2 else (loss - loss.detach()).abs().sqrt()), logs
    with pytest.raises(FloatingPointError, match="at step 3"):
        fit(network(), breaking, len(X), steps=3, batch_size=16, device="cpu", progress=False)


def test_histories_with_nan_resume_exactly_from_json_that_everybody_reads(tmp_path):
    def loss(model, batch):
        value, logs = noisy_loss(model, batch)
        return value, logs | {"pc": torch.tensor([float("nan"), 1.0, float("inf")])}
    options = dict(batch_size=16, device="cpu", progress=False, log_every=1)
    fit(network(), loss, len(X), steps=4, checkpoint=tmp_path, **options)
    from safetensors import safe_open
    with safe_open(list_checkpoints(tmp_path)[-1], "pt") as f: text = f.metadata()["migvis"]
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    resumed, straight = (fit(network(), loss, len(X), steps=8, checkpoint=folder, **options) for folder in (tmp_path, None))
    assert resumed.resumed_from == 4 and repr(resumed.history.to_dict("list")) == repr(straight.history.to_dict("list"))


def test_every_bit_of_a_file_counts(tmp_path):
    path = save_tensors(tmp_path / "x.safetensors", {"a": torch.arange(5.), "b": torch.tensor(3), "c": torch.ones(2, 2).half()},
                        {"kind": "thing", "steps": 12, "note": float("nan")})
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 11):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        if b"sha256" in damaged: # else it is a file without a checksum, which warns
            with pytest.raises(ValueError): load_tensors(path, "thing")
        else:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                try: found = load_tensors(path, "thing")[1]
                except ValueError: continue
            assert "no checksum" in str(told[0].message) and found.items() >= {"kind": "thing", "steps": 12, "note": None}.items()
    path.write_bytes(whole)
    assert load_tensors(path)[1] == {"kind": "thing", "steps": 12, "note": None}
    again = save_tensors(tmp_path / "y.safetensors", *load_tensors(path))
    assert again.read_bytes() == whole


def test_files_without_a_checksum_are_read_with_a_warning(tmp_path):
    from safetensors.torch import save_file
    save_file({"a": torch.ones(2)}, tmp_path / "old.safetensors", metadata={"migvis": json.dumps({"kind": "thing"})})
    with pytest.warns(UserWarning, match="no checksum.*save it again"): tensors, meta = load_tensors(tmp_path / "old.safetensors")
    assert meta == {"kind": "thing"} and tensors["a"].tolist() == [1, 1]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
@pytest.mark.parametrize("where", ["write", "fsync"])
def test_a_full_disk_leaves_nothing_and_names_the_remedy(tmp_path, monkeypatch, where, number):
    path = save_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(3)}, {"kind": "thing"})
    before = path.read_bytes()
    def full(*_, **__):
        if where == "fsync": raise OSError(number, os.strerror(number))
        raise SafetensorError(f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})")
    monkeypatch.setattr(*((os, "fsync") if where == "fsync" else (training, "save_file")), full)
    with pytest.raises(OSError, match="x.safetensors was not written.*free some space") as caught:
        save_tensors(path, {"a": torch.ones(3)}, {"kind": "thing"})
    assert caught.value.errno == number and path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_at_most_so_many_threads_meanwhile():
    before, seen = torch.get_num_threads(), []
    try:
        torch.set_num_threads(2)
        run(2, callback=lambda *_: seen.append(torch.get_num_threads()), log_every=1, threads=1)
        run(1, callback=lambda *_: seen.append(torch.get_num_threads()), log_every=1, threads=8)
        run(1, callback=lambda *_: seen.append(torch.get_num_threads()), log_every=1)
        assert seen == [1, 1, 2, 2] and torch.get_num_threads() == 2
    finally: torch.set_num_threads(before)
def test_networks_far_larger_than_their_file_are_refused_before_they_are_made(tmp_path):
    path = save_tensors(tmp_path / "w.safetensors", {"w": torch.zeros(4)}, {"kind": "x"})
    for make in (lambda: nn.Linear(10**9, 10**9), lambda: nn.ModuleList(nn.Linear(1000, 1000) for _ in range(10**9)), lambda: torch.linspace(0, 1, 10**9),
                 lambda: torch.zeros(size=(10**5, 10**5)), lambda: torch.linspace(0, 1, steps=10**9), lambda: torch.arange(10**12)):
        with pytest.raises(ValueError, match="far larger than the file"), training._building_from(path): make()
    with training._building_from(path): assert nn.Linear(1000, 1000)(torch.ones(1, 1000)).shape == (1, 1000)


def huge_files(folder):
    "Files of every kind whose header describes a network that no memory holds, each with its loader."
    from migvis.denoiser import load_denoiser
    from migvis.infonce import ConvEncoder, Critics, load_critics, save_critics
    from migvis.pretrained import weights_file
    from migvis.readouts import Readouts
    from migvis.vae import NeuralVAE, load_vae
    n = 10**9
    def changed(name, source, change):
        tensors, meta = load_tensors(source)
        change(meta)
        return save_tensors(folder / f"{name}.safetensors", tensors, meta)
    yield changed("unet", weights_file("demo"), lambda m: m["unet"].update(block_out_channels=[n, n, n])), load_denoiser
    yield changed("layers", weights_file("demo"), lambda m: m["unet"].update(layers_per_block=n)), load_denoiser
    judge = ROOT / "migvis" / "weights" / "readouts_demo.safetensors"
    yield changed("readouts", judge, lambda m: m["outputs"].update({k: n for k in m["outputs"]})), Readouts.load
    small = save_critics(Critics(ConvEncoder(8, 2, 4), (2, 2), n_features=3), folder / "small.safetensors")
    yield changed("critics", small, lambda m: m["config"].update(n_features=n)), load_critics
    model = NeuralVAE(3, 2, 2, hidden=4)
    yield save_tensors(folder / "vae.safetensors", model.state_dict(), {"kind": "vae", "config": model.config | {"hidden": n}}), load_vae


def test_no_loader_makes_a_network_that_its_file_could_not_hold(tmp_path):
    for path, load in huge_files(tmp_path):
        with pytest.raises(ValueError, match="far larger than the file"): load(path)
