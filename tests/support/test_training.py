"""The training loop: exact resume, interruption, checkpoints, errors."""

import gc
import json
import signal
import weakref

import pytest
import torch
from safetensors import safe_open
from torch import nn

from migvis.support.files import load_tensors
from migvis.support.training import (
    _Best,
    _computing_in,
    _list_checkpoints,
    _make_batch,
    _quick_precision,
    fit,
    generator,
    resolve_device,
    warmup_cosine,
)

X = torch.linspace(-1, 1, 64)[:, None]


def noisy_loss(model, batch):
    "Regression with fresh noise and dropout: everything random is in play."
    target = torch.sin(3 * X[batch.index]) + 0.1 * batch.randn(1)
    loss = (model(X[batch.index]) - target).square().mean()
    return loss, {"half": loss / 2}


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(1, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1))


def run(steps, folder=None, loss=noisy_loss, **kw):
    defaults = dict(
        batch_size=16,
        lr=1e-2,
        ema=0.9,
        clip=1.0,
        device="cpu",
        checkpoint=folder,
        checkpoint_every=7,
        schedule=warmup_cosine(40, 5),
        progress=False,
        seed=3,
    )
    return fit(network(), loss, len(X), steps=steps, **defaults | kw)


def weights(fitted):
    return torch.cat([p.detach().flatten() for p in fitted.model.parameters()])


@pytest.mark.parametrize("stop", [3, 7, 20, 39])
def test_resumed_run_equals_uninterrupted_run(tmp_path, stop):
    with pytest.raises(RuntimeError, match="stop"):

        def stopping(model, batch):
            if batch.step == stop:
                raise RuntimeError("stop")
            return noisy_loss(model, batch)

        run(40, tmp_path, loss=stopping)
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
    best = _Best()
    for s, v in zip(scores, values):
        best.update(s, {"w": v})
    expected = torch.stack([values[scores[:, e].argmin(), e] for e in range(5)])
    assert torch.equal(best.weights["w"], expected) and torch.equal(best.score, scores.min(0).values)


def test_another_runs_checkpoint_is_refused(tmp_path):
    run(10, tmp_path, fingerprint={"preset": "tiny"})
    with pytest.raises(ValueError, match="preset.*'tiny' there, 'demo' here"):
        run(10, tmp_path, fingerprint={"preset": "demo"})
    with pytest.raises(ValueError, match="seed"):
        run(10, tmp_path, fingerprint={"preset": "tiny"}, seed=4)


def test_damaged_checkpoint_falls_back_to_the_one_before(tmp_path):
    run(21, tmp_path)
    newest = _list_checkpoints(tmp_path)[-1]
    newest.write_bytes(newest.read_bytes()[:100])
    with pytest.warns(UserWarning, match="not a readable"):
        resumed = run(40, tmp_path)
    assert resumed.resumed_from == 14 and torch.equal(weights(resumed), weights(run(40)))


def test_only_damaged_checkpoints_is_an_error(tmp_path):
    (tmp_path / "step-00000007.safetensors").write_bytes(b"nonsense")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="none of the 1 checkpoints"):
        run(10, tmp_path)


def test_nan_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    def breaking(model, batch):
        loss, logs = noisy_loss(model, batch)
        return loss * (float("nan") if batch.step == 16 else 1), logs

    with pytest.raises(FloatingPointError, match="step-00000014"):
        fit(
            network(),
            breaking,
            len(X),
            steps=40,
            batch_size=16,
            device="cpu",
            checkpoint=tmp_path,
            checkpoint_every=7,
            progress=False,
        )
    tensors, _ = load_tensors(_list_checkpoints(tmp_path)[-1], "checkpoint")
    assert all(torch.isfinite(v).all() for v in tensors.values())


def test_the_error_of_a_nan_does_not_keep_the_graph():
    class Held: ...

    held = []

    class Breaks(torch.autograd.Function):  # a node of the graph that holds an object
        @staticmethod
        def forward(ctx, loss):
            ctx.held = Held()
            held.append(weakref.ref(ctx.held))
            return loss * float("nan")

        @staticmethod
        def backward(ctx, gradient):
            return gradient

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
    run(40, tmp_path)
    assert [p.stem for p in _list_checkpoints(tmp_path)] == [
        "step-00000035",
        "step-00000040",
    ]


def test_training_leaves_the_callers_randomness_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    network_ = network()
    torch.manual_seed(5)
    fit(network_, noisy_loss, len(X), steps=3, batch_size=16, device="cpu", progress=False)
    assert torch.equal(torch.rand(3), expected)


def test_rows_cover_every_epoch_once():
    rows = torch.stack([_make_batch(50, 10, s, seed=2).index for s in range(15)])
    for epoch in rows.split(5):
        assert sorted(epoch.flatten().tolist()) == list(range(50))
    assert not torch.equal(rows[:5], rows[5:10])
    assert len(_make_batch(6, 10, 3).index) == 6


def test_shards_make_up_the_whole_batch():
    whole = _make_batch(64, 12, 5, seed=1)
    parts = [_make_batch(64, 12, 5, seed=1, process=p, n_processes=3) for p in range(3)]
    assert torch.equal(whole.index, torch.cat([p.index for p in parts]))
    for draw in (lambda b: b.randn(2), lambda b: b.rand(), lambda b: b.randint(9)):
        assert torch.equal(
            draw(_make_batch(64, 12, 5, seed=1)),
            torch.cat([draw(_make_batch(64, 12, 5, 1, process=p, n_processes=3)) for p in range(3)]),
        )
    with pytest.raises(ValueError, match="cannot share 10 rows evenly"):
        _make_batch(64, 10, 0, process=0, n_processes=3)


def test_generator_streams_are_independent_and_repeatable():
    draws = {key: torch.randn(1000, generator=generator(*key)) for key in [(0,), (0, 1), (1, 0), (0, 0, 1)]}
    assert torch.equal(draws[(0, 1)], torch.randn(1000, generator=generator(0, 1)))
    stacked = torch.stack(list(draws.values()))
    assert (torch.corrcoef(stacked) - torch.eye(4)).abs().max() < 0.15
    with pytest.raises(ValueError, match="negative"):
        generator(-1)


@pytest.mark.parametrize(
    "bad, match",
    [
        (dict(steps=0), "steps"),
        (dict(batch_size=0), "batch_size"),
        (dict(lr=-1), "lr"),
        (dict(precision="float8"), "precision"),
        (dict(keep_best=True), "validate"),
        (dict(device="abacus"), "device"),
    ],
)
def test_bad_arguments(bad, match):
    with pytest.raises(ValueError, match=match):
        run(**{"steps": 2} | bad)


def test_auto_is_the_cpu_when_accelerate_was_told_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto").type == "cuda"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert resolve_device("auto").type == "cpu" and resolve_device("cuda").type == "cuda"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="sees no device"):
        resolve_device("cuda")


@pytest.mark.parametrize("device", ["xpu", "vulkan", "abacus", "cuda:x", "", None, 1.5])
def test_other_devices_are_refused(device):
    with pytest.raises(ValueError, match="device must be 'auto'"):
        resolve_device(device)


def test_a_cuda_index_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda", 1) and resolve_device("cuda").type == "cuda"
    with pytest.raises(ValueError, match="sees no device"):
        resolve_device("cuda:2")


def test_a_callback_that_returns_true_ends_training_and_the_last_step_is_kept(tmp_path):
    done = run(10**9, tmp_path, callback=lambda step, model, row: step >= 12, log_every=4,
               validate=lambda m: m(X).mean())
    assert done.steps == 12 and done.history["step"].tolist() == [4, 8, 12]
    assert done.history["validation"].notna().tolist() == [False, False, True]
    assert load_tensors(_list_checkpoints(tmp_path)[-1], "checkpoint")[1]["step"] == 12


def test_the_moving_average_is_one():
    decay, seen = 0.9, []

    def loss(model, batch):
        seen.append([p.detach().clone() for p in model.parameters()])
        return noisy_loss(model, batch)

    fitted = run(4, loss=loss, ema=decay)
    seen.append(list(run(4, ema=None).model.parameters()))
    slow = seen[1]  # after the first step: a copy
    for new in seen[2:]:
        slow = [decay * a + (1 - decay) * b for a, b in zip(slow, new)]
    for a, b in zip(fitted.model.parameters(), slow):
        torch.testing.assert_close(a, b)


def test_a_fused_optimiser_resumes_exactly_though_files_forget_the_layout(tmp_path, monkeypatch):
    "Weights in channels_last order, whose moments a file brings back in another order."
    plain = torch.optim.AdamW
    monkeypatch.setattr(
        torch.optim, "AdamW", lambda *args, **options: plain(*args, **options | {"fused": True})
    )
    images = torch.rand(16, 3, 6, 6, generator=generator(0))

    def train(folder, steps):
        torch.manual_seed(2)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).to(
            memory_format=torch.channels_last
        )
        loss = lambda m, batch: ((m(images[batch.index]) - batch.randn(2, 2, 2)).square().mean(), {})
        return fit(
            model,
            loss,
            16,
            steps=steps,
            batch_size=8,
            lr=1e-2,
            ema=0.5,
            device="cpu",
            checkpoint=folder,
            progress=False,
        )

    whole = train(tmp_path / "whole", 12)
    train(tmp_path / "parts", 6)
    resumed = train(tmp_path / "parts", 12)
    assert resumed.resumed_from == 6
    for a, b in zip(whole.model.parameters(), resumed.model.parameters()):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "change",
    [{"weight_decay": 0.5}, {"betas": (0.5, 0.9)}, {"clip": 0.1}, {"ema": 0.5}, {"precision": "bfloat16"}],
)
def test_checkpoints_of_other_settings_are_refused(tmp_path, change):
    run(4, tmp_path)
    with pytest.raises(ValueError, match=next(iter(change))):
        run(8, tmp_path, **change)


def test_quick_precision_is_what_the_processor_multiplies_in(monkeypatch):
    assert _quick_precision("cpu") in ("float32", "bfloat16")
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert _quick_precision("cpu") == "float32"
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert _quick_precision("cpu") == "bfloat16"
    a = torch.randn(4, 4)
    with _computing_in("auto", torch.device("cpu")):
        assert (a @ a).dtype == torch.bfloat16
    with _computing_in("float32", torch.device("cpu")):
        assert (a @ a).dtype == torch.float32
    with pytest.raises(ValueError, match="precision must be"):
        _computing_in("half", torch.device("cpu"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("how", ["ignored", "handled"])
def test_signals_that_the_host_ignores_or_handles_do_not_end_training(tmp_path, how, number):
    came = []
    handler = signal.SIG_IGN if how == "ignored" else lambda *_: came.append(fitted_steps[-1])
    fitted_steps, before = [], signal.signal(number, handler)

    def loss(model, batch):
        fitted_steps.append(batch.step)
        if batch.step in (5, 9):
            signal.raise_signal(number)
        return noisy_loss(model, batch)

    try:
        options = dict(batch_size=16, lr=1e-2, device="cpu", progress=False)
        done = fit(network(), loss, len(X), steps=20, checkpoint=tmp_path, checkpoint_every=20, **options)
        assert signal.getsignal(number) == handler
    finally:
        signal.signal(number, before)
    assert done.steps == 20 and torch.equal(
        weights(done), weights(fit(network(), noisy_loss, len(X), steps=20, **options))
    )
    assert came == ([] if how == "ignored" else [5, 9])
    assert [p.stem for p in _list_checkpoints(tmp_path)][-1] == "step-00000020"


def test_an_interrupted_fit_says_where_it_goes_on(tmp_path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def loss(model, batch):
        if batch.step == 5:
            signal.raise_signal(signal.SIGINT)
        return noisy_loss(model, batch)

    options = dict(steps=20, batch_size=16, device="cpu", progress=False)
    try:
        with pytest.raises(KeyboardInterrupt, match=f"after step 6; the same call goes on from {tmp_path}"):
            fit(network(), loss, len(X), checkpoint=tmp_path, **options)
        with pytest.raises(KeyboardInterrupt, match="after step 6; the same call begins anew"):
            fit(network(), loss, len(X), **options)
        assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert fit(network(), noisy_loss, len(X), checkpoint=tmp_path, **options).resumed_from == 6


def test_a_handler_that_is_set_during_training_stays(tmp_path):
    before, mine = signal.getsignal(signal.SIGTERM), lambda *_: None
    try:
        run(3, callback=lambda *_: signal.signal(signal.SIGTERM, mine), log_every=1)
        assert signal.getsignal(signal.SIGTERM) == mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_validation_score_that_is_nan_is_never_the_best():
    scores = iter([float("nan"), 2.0, 1.0, float("nan"), 3.0])
    kept = []

    def score(model):
        kept.append(torch.cat([p.detach().flatten().clone() for p in model.parameters()]))
        return torch.tensor(next(scores))

    with pytest.warns(UserWarning, match="validation score is not finite"):
        fitted = run(5, validate=score, validate_every=1, keep_best=True, ema=None)
    assert torch.equal(weights(fitted), kept[2])
    with (
        pytest.warns(UserWarning),
        pytest.raises(FloatingPointError, match="no validation score was finite"),
    ):
        run(2, validate=lambda m: torch.tensor(float("nan")), validate_every=1, keep_best=True)
    best = _Best()
    for values in ([float("nan"), 1.0], [2.0, float("nan")], [3.0, 0.5]):
        best.update(torch.tensor(values), {"w": torch.tensor(values)})
    assert best.score.tolist() == [2.0, 0.5] == best.weights["w"].tolist()


@pytest.mark.parametrize(
    "name, value",
    [
        ("clip", -1),
        ("clip", float("nan")),
        ("ema", float("nan")),
        ("ema", 1.0),
        ("ema", -0.1),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("checkpoint_every", 0),
        ("log_every", 0),
        ("validate_every", -3),
        ("threads", 0),
        ("steps", float("inf")),
    ],
)
def test_settings_that_lead_nowhere_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be"):
        run(**{"steps": 2} | {name: value})


@pytest.mark.parametrize("bad", [{"betas": (0.9, 1.0)}, {"weight_decay": -1}])
def test_settings_that_adamw_refuses_are_refused(bad):
    with pytest.raises(ValueError, match="beta|weight_decay"):
        run(2, **bad)


def test_weights_that_are_not_finite_are_not_returned():
    def breaking(model, batch):  # a finite loss, and a gradient that is not
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
    with safe_open(_list_checkpoints(tmp_path)[-1], "pt") as f:
        text = f.metadata()["migvis"]
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    resumed, straight = (
        fit(network(), loss, len(X), steps=8, checkpoint=folder, **options) for folder in (tmp_path, None)
    )
    assert resumed.resumed_from == 4 and repr(resumed.history.to_dict("list")) == repr(
        straight.history.to_dict("list")
    )


def test_at_most_so_many_threads_meanwhile():
    before, seen = torch.get_num_threads(), []
    try:
        torch.set_num_threads(2)
        run(2, callback=lambda *_: seen.append(torch.get_num_threads()), log_every=1, threads=1)
        run(1, callback=lambda *_: seen.append(torch.get_num_threads()), log_every=1, threads=8)
        run(1, callback=lambda *_: seen.append(torch.get_num_threads()), log_every=1)
        assert seen == [1, 1, 2, 2] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
