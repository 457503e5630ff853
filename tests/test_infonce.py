"""InfoNCE against closed forms, enumeration and slow references; critics against one another; files; bad input."""
import copy
import math
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from migvis.denoiser import NoiseSchedule, _add_condition, build_denoiser
from migvis import infonce
from migvis.infonce import (Critics, _ScoreInputs, _add_noise, _candidate_columns, _describe_critics,
                            _early_times, held_out_mi, info_nce_loss, _info_nce_rows, load_critics, _look_ahead,
                            _look_once, mi_bound, mi_lower_bound, _random_shift, _resolve_groups, save_critics,
                            _scoring_in_double, _separable_score, train_critics)
from migvis.support.encoders import (ConvEncoder, DenoiserEncoder, DINOEncoder, _level_features,
                                     _middle_features)
from migvis.support.presets import CriticConfig, DenoiserConfig
from migvis.support.training import generator
from migvis.support.files import save_tensors

QUIET = {"device": "cpu", "progress": False}
close = torch.testing.assert_close


def gaussian_scores(z, y, rho):
    "Exact log density ratio of jointly Gaussian pairs, one pair at a time: (B, D), (B', D) -> (B', B)."
    def joint(a, b): return (-(a * a + b * b - 2 * rho * a * b) / (2 * (1 - rho**2)) - 0.5 * math.log(1 - rho**2)).sum(-1)
    def independent(a, b): return (-(a * a + b * b) / 2).sum(-1)
    return torch.stack([joint(z, row) - independent(z, row) for row in y])


def gaussian_pairs(n, dim, rho, seed=0):
    z, noise = torch.randn(2, n, dim, generator=generator(seed))
    return z, rho * z + math.sqrt(1 - rho**2) * noise


def rho_for(information, dim):
    return math.sqrt(1 - math.exp(-2 * information / dim))


# ---- loss and bound

def test_loss_equals_the_definition_written_out():
    scores = torch.randn(6, 6, generator=generator(1), dtype=torch.float64)
    total = 0.0
    for i in range(6):
        total -= math.log(math.exp(scores[i, i]) / sum(math.exp(scores[i, j]) for j in range(6))) / 6
    assert info_nce_loss(scores).item() == pytest.approx(total, rel=1e-12)


def test_both_layouts_agree():
    scores = torch.randn(6, 6, generator=generator(2))
    off = scores[~torch.eye(6, dtype=torch.bool)].view(6, 5)
    first = torch.cat([scores.diagonal()[:, None], off], 1)
    close(_info_nce_rows(scores), _info_nce_rows(first, "first"))
    close(info_nce_loss(first[:4]), _info_nce_rows(scores)[:4].mean())      # (4, 6): positive first by its shape
    close(mi_lower_bound(first[:4]), math.log(6) - info_nce_loss(first[:4]))


def test_leading_dimensions_are_batched():
    scores = torch.randn(3, 5, 5, generator=generator(3))
    close(mi_lower_bound(scores), torch.stack([mi_lower_bound(s) for s in scores]))


def test_known_values():
    assert info_nce_loss(torch.zeros(7, 7)).item() == pytest.approx(math.log(7))
    assert info_nce_loss(1000 * torch.eye(7)).item() == pytest.approx(0, abs=1e-6)
    assert info_nce_loss(-1e5 * torch.eye(7)).item() == pytest.approx(1e5 + math.log(6), rel=1e-5)   # no overflow


def test_half_precision_scores_are_summed_in_single():
    scores = 8 * torch.randn(64, 64, generator=generator(10)).bfloat16()
    assert _info_nce_rows(scores).dtype == torch.float32
    close(_info_nce_rows(scores).double(), _info_nce_rows(scores.double()), atol=1e-4, rtol=1e-4)


def test_adding_a_function_of_the_image_changes_nothing_but_one_of_the_latent_does():
    scores = torch.randn(8, 8, generator=generator(4))
    image, latent = 3 * torch.randn(8, 1, generator=generator(5)), 3 * torch.randn(1, 8, generator=generator(6))
    close(info_nce_loss(scores + image), info_nce_loss(scores))
    assert abs(info_nce_loss(scores + latent) - info_nce_loss(scores)) > 0.1


def test_never_above_its_cap():
    for scale in (0.1, 1, 10, 1000):
        scores = scale * torch.randn(16, 16, generator=generator(7)) + scale * torch.eye(16)
        assert mi_lower_bound(scores) <= math.log(16) + 1e-6
    assert mi_lower_bound(1000 * torch.eye(16)).item() == pytest.approx(math.log(16))
    assert mi_bound(1000 * torch.eye(16)).cap == pytest.approx(math.log(16))


def test_log_density_ratio_minimises_the_expected_loss():
    "Discrete z and y, B = 3 candidates: the expectation is a finite sum, and its gradient vanishes at log p(z, y) / p(z) p(y)."
    joint = torch.tensor([[.20, .05, .05], [.02, .18, .10], [.08, .12, .20]], dtype=torch.float64)   # y, z
    p_y, p_z = joint.sum(1), joint.sum(0)
    exact = (joint / p_y[:, None] / p_z).log()
    triples = torch.cartesian_prod(*[torch.arange(3)] * 4)                                           # y, z+, two negatives
    weight = joint[triples[:, 0], triples[:, 1]] * p_z[triples[:, 2]] * p_z[triples[:, 3]]
    def expected(table):
        return (weight * _info_nce_rows(table[triples[:, :1], triples[:, 1:]], "first")).sum()
    table = exact.clone().requires_grad_()
    gradient, = torch.autograd.grad(expected(table), table)
    assert gradient.abs().max() < 1e-12
    information = (joint * exact).sum()
    assert math.log(3) - expected(exact) <= information
    worse = exact + 0.3 * torch.randn(3, 3, generator=generator(8), dtype=torch.float64)
    assert expected(worse) > expected(exact)


@pytest.mark.parametrize("bad, error", [
    (torch.zeros(4), ValueError), (torch.zeros(4, 1), ValueError), (torch.zeros(0, 5), ValueError), (torch.zeros(1, 1), ValueError),
    (torch.zeros(4, 4, dtype=torch.long), TypeError)])
def test_scores_that_cannot_be_meant(bad, error):
    for function in (info_nce_loss, mi_lower_bound, mi_bound):
        with pytest.raises(error, match="scores must be"): function(bad)


def test_bad_positive_and_bad_values():
    with pytest.raises(ValueError, match="diagonal"): info_nce_loss(torch.zeros(3, 5), "diagonal")
    with pytest.raises(ValueError, match="positive must be"): info_nce_loss(torch.zeros(3, 5), "last")
    with pytest.raises(ValueError, match="finite"): mi_bound(torch.full((3, 3), math.nan))
    with pytest.raises(ValueError, match="at least 2 images"): mi_bound(torch.zeros(1, 5))


# ---- known information

@pytest.mark.parametrize("dim", [1, 6, 24])
@pytest.mark.parametrize("candidates", [16, 256])
def test_bracket_holds_the_gaussian_information_up_to_seven_tenths_of_the_cap(dim, candidates):
    for share in (0.1, 0.3, 0.5, 0.69):
        truth = share * math.log(candidates)
        rows = []
        for block in range(max(1, 1024 // candidates)):
            s = gaussian_scores(*gaussian_pairs(candidates, dim, rho_for(truth, dim), seed=100 * dim + block), rho_for(truth, dim))
            rows.append(torch.cat([s.diagonal()[:, None], s[~torch.eye(len(s), dtype=torch.bool)].view(len(s), -1)], 1))
        bound = mi_bound(torch.cat(rows), "first")
        low, high = bound.bracket(0.99)
        assert low <= truth <= high, (share, truth, bound)
        assert bound.value <= bound.cap
        if share <= 0.3: assert bound.interval(0.99)[0] <= truth <= bound.interval(0.99)[1] + 0.06, (share, truth, bound)


def test_intervals_cover_the_mean_of_the_bound():
    "Of 95 % intervals from independent batches, most cover the mean over many batches."
    rho = rho_for(1.5, 3)
    bounds = [mi_bound(gaussian_scores(*gaussian_pairs(64, 3, rho, seed), rho)) for seed in range(200)]
    mean = sum(b.value for b in bounds) / len(bounds)
    covered = sum(b.interval()[0] <= mean <= b.interval()[1] for b in bounds) / len(bounds)
    assert 0.88 <= covered <= 0.99


def test_repeats_are_averaged_within_images_before_the_standard_error():
    scores = torch.randn(10, 6, generator=generator(9))
    assert mi_bound(scores.expand(4, 10, 6), "first") == mi_bound(scores, "first")


def painted(values):
    "Images (n, 1, 8, 8) in [-1, 1] from which two numbers can be read back exactly: one in each half."
    halves = torch.tanh(values / 2)
    return halves[:, None, None].repeat_interleave(4, -1).expand(-1, 1, 8, 8).contiguous()


@pytest.fixture(scope="module")
def gaussian_images():
    "Images of y, latents z (2 informative dimensions of known MI, 1 of noise), and the true information."
    rho, n = 0.9, 3000
    z, y = gaussian_pairs(n, 2, rho, seed=11)
    z = torch.cat([z, torch.randn(n, 1, generator=generator(12))], 1)
    return painted(y), z, -math.log(1 - rho**2)


@pytest.fixture(scope="module")
def trained(gaussian_images):
    "Noise-aware critics of: both informative dimensions, one of them, and the noise."
    images, z, _ = gaussian_images
    config = CriticConfig(width=8, features=16, steps=400, batch_size=128, lr=3e-3, dropout=0.0)
    return train_critics(images[:2400], z[:2400], [(0, 1), (1,), (2,)], NoiseSchedule(T=50), config, pixel_noise=0., **QUIET)


def test_trained_critic_approaches_the_truth(gaussian_images, trained):
    images, z, truth = gaussian_images
    both, one, noise = held_out_mi(trained.model, images[2400:], z[2400:], n_candidates=128)
    assert 0.75 * truth < both.value and both.bracket(0.99)[0] < truth
    assert 0.75 * truth / 2 < one.value < 1.1 * truth / 2
    assert abs(noise.value) < 0.05 + 3 * noise.error


def test_noise_aware_critic_finds_less_in_noisier_images(gaussian_images, trained):
    images, z, _ = gaussian_images
    values = [held_out_mi(trained.model, images[2400:], z[2400:], t=t, repeats=2)[0].value for t in (0, 20, 35, 44, 50)]
    assert all(a > b - 0.03 for a, b in zip(values, values[1:])), values
    assert values[0] > 2 * values[3] and values[-1] < 0.1, values


def test_history_holds_training_and_held_out_bounds(trained):
    checked = trained.history.dropna(subset=["validation"])
    assert all(len(mi) == 3 for mi in trained.history["mi"]) and all(len(mi) == 3 for mi in checked["held_out_mi"])
    caps = 3 * math.log(128)
    for _, row in checked.iterrows(): assert caps - sum(row["held_out_mi"]) == pytest.approx(row["validation"], abs=1e-3)


# ---- critics

@pytest.fixture
def critics():
    torch.manual_seed(0)
    critics = Critics(ConvEncoder(16, width=4, n_features=12, noise_aware=True), [(0, 1, 2), (3,), (1, 4)], n_latents=6,
                      n_features=8, alpha_bar=NoiseSchedule(T=20).alpha_bar)
    critics.center.normal_(), critics.scale.uniform_(0.5, 2)
    with torch.no_grad():
        for block in critics.encoder.blocks: block.modulate.weight.normal_(std=0.3)      # zero at the start of training
    return critics.eval()


@pytest.fixture
def rows():
    return torch.randn(5, 1, 16, 16, generator=generator(20)), torch.randn(7, 6, generator=generator(21))


def test_groups_together_equal_groups_one_at_a_time(critics, rows):
    "A slow reference: every group's layers applied by themselves."
    (y, z), heads = rows, critics.heads
    features = torch.nn.functional.silu(critics.encoder(y, critics.alpha_bar[7].expand(5)))
    standard = (z - critics.center) / critics.scale
    def through(layers, g, x):
        for layer in layers[:-1]: x = torch.nn.functional.silu(x @ layer.weight[g] + layer.bias[g])
        return x @ layers[-1].weight[g] + layers[-1].bias[g]
    for g, dims in enumerate(critics.groups):
        padded = torch.cat([standard[:, list(dims)], torch.zeros(7, 3 - len(dims))], 1)
        f, h = through(heads.image, g, features), through(heads.latent, g, padded)
        close(critics(z, y, t=7)[g], f @ h[:, :-1].T / math.sqrt(8) + h[:, -1])


def test_a_group_sees_its_own_dimensions_only(critics, rows):
    y, z = rows
    for g, dims in enumerate(critics.groups):
        leaf = z.clone().requires_grad_()
        critics(leaf, y)[g].sum().backward()
        touched = {d for d in range(6) if leaf.grad[:, d].abs().max() > 0}
        assert touched == set(dims)


def test_scores_of_an_image_do_not_depend_on_its_batch(critics, rows):
    y, z = rows
    close(critics(z, y)[:, 2:3], critics(z, y[2:3]), atol=1e-5, rtol=1e-4)


def test_no_t_means_t_zero(critics, rows):
    y, z = rows
    close(critics(z, y), critics(z, y, t=0))
    assert (critics(z, y, t=0) - critics(z, y, t=10)).abs().max() > 1e-4


def test_gradient_reaches_the_image(critics, rows):
    y, z = rows
    y = y.clone().requires_grad_()
    info_nce_loss(critics(z, y, t=3)[1], "first").backward()
    assert torch.isfinite(y.grad).all() and (y.grad.flatten(1).norm(dim=1) > 0).all()


def test_level_features_are_finite_and_tell_levels_apart():
    levels = NoiseSchedule(T=150).alpha_bar
    features = _level_features(torch.cat([levels, torch.zeros(1, dtype=levels.dtype)]))
    assert torch.isfinite(features).all()
    assert (features[:-2].diff(dim=0).norm(dim=1) > 1e-4).all()


@pytest.mark.parametrize("call, message", [
    (lambda c, y, z: c(z[:, :5], y), "6 dimensions"),
    (lambda c, y, z: c(z, y[:, :, :8]), r"\(n, C, 16, 16\)"),
    (lambda c, y, z: c(z, y, t=21), "between 0 and 20"),
    (lambda c, y, z: c(z, y, t=-1), "between 0 and 20"),
    (lambda c, y, z: c(z, y, t=torch.tensor([1, 2])), "one for each of the 5"),
])
def test_critics_refuse(critics, rows, call, message):
    with pytest.raises(ValueError, match=message): call(critics, *rows)


def test_clean_critics_take_no_t(rows):
    y, z = rows
    clean = Critics(ConvEncoder(16, width=4), (3, 3))
    assert clean(z, y).shape == (2, 5, 7) and not clean.noise_aware
    with pytest.raises(ValueError, match="clean images"): clean(z, y, t=3)
    with pytest.raises(ValueError, match="clean images.*leave t out"): held_out_mi(clean, y.clamp(-1, 1), z[:5], t=3)


def test_building_refuses():
    for bad in (48, 4, 0):
        with pytest.raises(ValueError, match="power of two"): ConvEncoder(bad)
    with pytest.raises(ValueError, match="stem 2 or 4"): ConvEncoder(64, stem=8)
    for size, stem in ((8, 2), (16, 4), (64, 2), (128, None)):
        assert ConvEncoder(size, 4, 6, stem=stem)(torch.zeros(2, 1, size, size)).shape == (2, 6)
    with pytest.raises(ValueError, match="noise_aware=True"):
        Critics(ConvEncoder(8), (2,), alpha_bar=NoiseSchedule(T=20).alpha_bar)
    with pytest.raises(ValueError, match="alpha_bar must"):
        Critics(ConvEncoder(8, noise_aware=True), (2,), alpha_bar=torch.rand(5))


def test_resolve_groups():
    assert _resolve_groups((2, 3)) == ((0, 1), (2, 3, 4))
    assert _resolve_groups(torch.tensor([2, 3]).tolist(), 6) == ((0, 1), (2, 3, 4))
    assert _resolve_groups([[4], (0, 4)], 5) == ((4,), (0, 4))
    with pytest.raises(ValueError, match="at least one group"): _resolve_groups((), 5)
    for bad in ([(0, 0)], [()], [(0, 5)], [(-1,)], (3, 3)):
        with pytest.raises(ValueError, match="distinct dimensions between 0 and 4"): _resolve_groups(bad, 5)


# ---- negatives

def test_candidates_own_first_all_distinct_and_every_latent_equally_often():
    columns = _candidate_columns(11, 4, torch.randperm(11, generator=generator(30)))
    assert columns[:, 0].tolist() == list(range(11))
    assert all(len(set(row)) == 4 for row in columns.tolist())
    assert columns.flatten().bincount().tolist() == [4] * 11
    for bad in (1, 12):
        with pytest.raises(ValueError, match="between 2 and 11"): _candidate_columns(11, bad)


def test_held_out_mi_equals_the_slow_way(critics):
    images, z = torch.rand(9, 1, 16, 16, generator=generator(31)) * 2 - 1, torch.randn(9, 6, generator=generator(32))
    got = held_out_mi(critics, images, z, n_candidates=9, repeats=2)
    for g in range(3):
        scores = torch.stack([critics(z, images[i:i + 1])[g, 0] for i in range(9)])
        assert got[g].value == pytest.approx(mi_lower_bound(scores.detach()).item(), abs=1e-5)
        assert got[g].n_candidates == 9


def test_all_negatives_named_or_not_train_the_same():
    images, z = torch.rand(40, 1, 8, 8, generator=generator(33)) * 2 - 1, torch.randn(40, 2, generator=generator(34))
    config = CriticConfig(width=4, features=8, steps=5, batch_size=12)
    a, b = (train_critics(images, z, (2,), config=config, n_negatives=k, **QUIET) for k in (None, 11))
    assert a.history["loss"].tolist() == pytest.approx(b.history["loss"].tolist(), abs=1e-4)
    c = train_critics(images, z, (2,), config=config, n_negatives=3, **QUIET)
    assert c.history["loss"].iloc[0] == pytest.approx(math.log(4), abs=0.2) and a.history["loss"].iloc[0] == pytest.approx(math.log(12), abs=0.2)


# ---- training

@pytest.fixture(scope="module")
def small():
    images = torch.rand(60, 1, 8, 8, generator=generator(40)) * 2 - 1
    return images, (torch.randn(60, 3, generator=generator(41)), torch.full((60, 3), -1.0))


CONFIG = CriticConfig(width=4, features=8, steps=12, batch_size=16)


def interrupt_at(last, patched):
    "Make trainings of critics stop after so many steps."
    def stop(step, model, row):
        if step >= last: raise InterruptedError
    patched.setattr(infonce, "_watch", lambda *how, watch=infonce._watch: (watch(*how)[0], stop))


def test_same_seed_same_critics_and_resume_is_exact(small, tmp_path, monkeypatch):
    def run(**more): return train_critics(*small, (2, 1), NoiseSchedule(T=20), CONFIG, **QUIET, **more)
    straight, again, other = (run(seed=seed).model.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(straight[k], again[k]) for k in straight)
    assert any(not torch.equal(straight[k], other[k]) for k in straight)
    with monkeypatch.context() as patched, pytest.raises(InterruptedError):
        interrupt_at(9, patched)
        run(checkpoint=tmp_path, checkpoint_every=4)
    resumed = run(checkpoint=tmp_path)
    assert resumed.resumed_from == 8
    assert all(torch.equal(straight[k], v) for k, v in resumed.model.state_dict().items())


def test_bfloat16_training_stays_near_single_precision(small):
    images, z = small
    single, half = (train_critics(images, z, (2, 1), NoiseSchedule(T=20), CONFIG, precision=p, **QUIET).history
                    for p in ("float32", "bfloat16"))
    assert half["loss"].tolist() == pytest.approx(single["loss"].tolist(), abs=0.1)


def test_checkpoint_of_other_groups_is_refused(small, tmp_path):
    images, z = small
    train_critics(images, z, (2, 1), config=CONFIG, checkpoint=tmp_path, checkpoint_every=6, **QUIET)
    with pytest.raises(ValueError, match="another run"):
        train_critics(images, z, (1, 2), config=CONFIG, checkpoint=tmp_path, **QUIET)


@pytest.mark.parametrize("other", ["images", "mean", "log_var", "held-out images", "held-out mean"])
def test_checkpoint_of_other_data_is_refused(small, tmp_path, other):
    images, (mean, log_var) = small
    data = {"images": images, "mean": mean, "log_var": log_var,
            "held-out images": images[:20], "held-out mean": mean[:20]}
    def train(images, mean, log_var, held_images, held_mean):
        return train_critics(images, (mean, log_var), (2, 1), config=CONFIG, held_out=(held_images, held_mean),
                             checkpoint=tmp_path, **QUIET)
    train(*data.values())
    assert train(*(x.clone() for x in data.values())).resumed_from == CONFIG.steps
    with pytest.raises(ValueError, match="another run"): train(*(data | {other: 0.9 * data[other]}).values())


def test_latents_are_standardised_inside(small):
    images, (mean, log_var) = small
    critics = train_critics(images, (100 + 1000 * mean, log_var), (3,), config=CONFIG,
                            held_out=(images, (mean, log_var)), **QUIET).model
    close(critics.center, (100 + 1000 * mean).mean(0))
    assert ((critics.scale / (1000 * mean.std(0)) - 1).abs() < 0.01).all()


def test_training_refuses(small):
    images, (mean, log_var) = small
    def train(images, z, groups=(2, 1)): return train_critics(images, z, groups, config=CONFIG, **QUIET)
    nan = mean.clone()
    nan[3, 1] = math.nan
    for args, message in {
        (images[:50], mean): "n = 50", (images, (mean, log_var[:, :2])): "log_var", (images, nan): "finite",
        (images * 3, mean): r"\[-1, 1\]", (images[:, 0], mean): r"\(n, C, H, H\)", (images[:1], mean[:1]): "at least 2",
        (images, mean, (2, 2)): "between 0 and 2", (images[..., :6], mean): "images must be square",
    }.items():
        with pytest.raises(ValueError, match=message): train(*args)
    with pytest.raises(ValueError, match="noise_aware=True"):
        train_critics(images, mean, (3,), NoiseSchedule(T=20), CONFIG, encoder=ConvEncoder(8), **QUIET)
    with pytest.warns(UserWarning, match="no value below 0"): train(images.abs(), mean)


def test_random_shift_moves_whole_pixels_within_reach():
    y = torch.arange(64.).view(1, 1, 8, 8).expand(9, 1, 8, 8)
    u = torch.cartesian_prod(*[torch.tensor([0.1, 0.5, 0.9])] * 2)
    moved = _random_shift(y, u, 1)
    for i, (down, right) in enumerate((a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)):
        rows, columns = (torch.arange(8) + down).clamp(0, 7), (torch.arange(8) + right).clamp(0, 7)
        assert torch.equal(moved[i, 0], y[0, 0][rows][:, columns])
    assert torch.equal(_random_shift(y, u, 0), y)


def test_early_times_cover_all_and_prefer_early_ones():
    t = _early_times(torch.linspace(0, 1 - 1e-6, 100_000), 51)
    assert t.min() == 0 and t.max() == 50 and len(t.unique()) == 51
    assert (t.bincount().diff() <= 1).all() and (t < 13).float().mean() > 0.34


def test_add_noise_has_the_right_moments():
    y = torch.ones(2, 1, 64, 64)
    noised = _add_noise(y, torch.tensor([1.0, 0.25]), torch.randn(2, 1, 64, 64, generator=generator(42)))
    assert torch.equal(noised[0], y[0])
    assert noised[1].mean().item() == pytest.approx(0.5, abs=0.05) and noised[1].std().item() == pytest.approx(math.sqrt(0.75), abs=0.05)


# ---- files

def test_round_trip(critics, rows, tmp_path):
    y, z = rows
    path = save_critics(critics, tmp_path / "critics.safetensors")
    again = load_critics(path, device="cpu")
    assert again.groups == critics.groups and again.noise_aware
    assert torch.equal(again(z, y, t=4), critics(z, y, t=4))


def test_files_that_are_not_critics(critics, tmp_path):
    with pytest.raises(FileNotFoundError): load_critics(tmp_path / "missing.safetensors")
    foreign = save_tensors(tmp_path / "vae.safetensors", {"w": torch.zeros(2)}, {"kind": "vae"})
    with pytest.raises(ValueError, match="critics"): load_critics(foreign)
    cut = save_critics(critics, tmp_path / "cut.safetensors")
    cut.write_bytes(cut.read_bytes()[:200])
    with pytest.raises(ValueError, match="cut.safetensors"): load_critics(cut)
    state = critics.state_dict()
    state.pop("heads.image.0.weight")
    with pytest.raises(ValueError, match="does not hold the weights"):
        load_critics(save_tensors(tmp_path / "part.safetensors", state, _describe_critics(critics)))


def test_a_custom_encoder_works_but_is_not_saved(tmp_path):
    class Mean(torch.nn.Module):
        image_size, n_features, noise_aware = 8, 1, False
        def forward(self, y, alpha_bar=None): return y.mean((1, 2, 3))[:, None]
    critics = Critics(Mean(), (2,))
    assert critics(torch.randn(4, 2), torch.randn(3, 1, 8, 8)).shape == (1, 3, 4)
    with pytest.raises(ValueError, match="encoders"): save_critics(critics, tmp_path / "x.safetensors")


# ---- DINO, with random weights in its place

@pytest.fixture(scope="module")
def dino_file(tmp_path_factory):
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("dino") / "dino.safetensors"
    network = timm.create_model("vit_small_patch16_224.dino", pretrained=False, num_classes=0)
    save_file({k: v.half() for k, v in network.state_dict().items()}, path)
    return path


def test_dino_preprocessing_is_what_the_model_was_trained_with(dino_file):
    import timm
    encoder = DINOEncoder(32, weights=dino_file)
    wanted = timm.data.resolve_model_data_config(encoder.backbone)
    image = encoder.preprocess(torch.full((1, 1, 32, 32), 1.0))       # white
    assert image.shape == (1, *wanted["input_size"])
    white = (1 - torch.tensor(wanted["mean"])) / torch.tensor(wanted["std"])
    close(image.mean((0, 2, 3)), white, atol=1e-4, rtol=1e-4)
    black = encoder.preprocess(torch.full((1, 1, 32, 32), -1.0)).mean((0, 2, 3))
    close(black, -torch.tensor(wanted["mean"]) / torch.tensor(wanted["std"]), atol=1e-4, rtol=1e-4)


def test_dino_critics_train_save_and_load_without_its_weights(dino_file, tmp_path):
    images, z = torch.rand(6, 1, 32, 32, generator=generator(50)) * 2 - 1, torch.randn(6, 2, generator=generator(51))
    encoder = DINOEncoder(32, n_features=8, weights=dino_file)
    before = {k: v.clone() for k, v in encoder.backbone.state_dict().items()}
    config = CriticConfig(features=8, steps=2, batch_size=3)
    critics = train_critics(images, z, (2,), config=config, encoder=encoder, held_out=(images[:3], z[:3]), **QUIET).model
    assert all(torch.equal(before[k], v) for k, v in critics.encoder.backbone.state_dict().items())
    path = save_critics(critics, tmp_path / "critics.safetensors")
    assert path.stat().st_size < 4e6
    again = load_critics(path, device="cpu", weights=dino_file)
    y = images[:2].clone().requires_grad_()
    scores = again(z, y)
    close(scores, critics(z, y))
    scores[0, 0, 0].backward()
    assert y.grad[0].abs().max() > 0
    with pytest.raises(ValueError, match="noise_aware=True"):
        train_critics(images, z, (2,), NoiseSchedule(T=20), config, encoder=encoder, **QUIET)


def test_dino_without_weights_says_what_to_do(tmp_path, monkeypatch):
    pytest.importorskip("timm")
    import huggingface_hub
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **k: None)
    with pytest.raises(FileNotFoundError, match="hf download timm/vit_small_patch16_224.dino"): DINOEncoder(32)
    with pytest.raises(FileNotFoundError, match="there is no file"): DINOEncoder(32, weights=tmp_path / "none.safetensors")
    foreign = save_tensors(tmp_path / "foreign.safetensors", {"w": torch.zeros(2)}, {"kind": "x"})
    with pytest.raises(ValueError, match="does not hold weights"): DINOEncoder(32, weights=foreign)
    garbage = tmp_path / "garbage.safetensors"
    garbage.write_bytes(b"not weights")
    with pytest.raises(ValueError, match="does not hold weights"): DINOEncoder(32, weights=garbage)


def test_dino_without_timm_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"migvis\[dino\]"): DINOEncoder(32)


# --- critics that look through a denoiser ---------------------------------------------------------------------------------

def small_denoiser(seed=0, **more):
    config = DenoiserConfig(image_size=16, width=8, multipliers=(1, 2), layers=1, patch=2, attention=False, T=20, **more)
    return build_denoiser(config, data_std=0.4, data_mean=-0.8, seed=seed)

def test_middle_features_are_those_of_a_whole_pass():
    denoiser, seen = small_denoiser(), []
    denoiser.unet.mid_block.register_forward_hook(lambda module, inputs, out: seen.append(out))
    y, t = torch.randn(5, 1, 16, 16), torch.tensor([1, 5, 9, 15, 20])
    denoiser(y, t)
    close(_middle_features(denoiser, y, t), seen[0])

def test_a_denoiser_encoder_reads_the_nearest_time_and_trains_only_its_own_weights():
    denoiser = small_denoiser()
    encoder = DenoiserEncoder(denoiser, width=4, n_features=6).eval()
    y, ab = torch.randn(3, 1, 16, 16, requires_grad=True), denoiser.schedule.alpha_bar.float()
    torch.nn.init.normal_(encoder.modulate.weight, std=0.1)
    close(encoder(y), encoder(y, torch.ones(3)))                       # clean without a level
    a, b = (_middle_features(denoiser, y, torch.full((3,), t)) for t in (7, 14))
    assert not torch.allclose(a, b, atol=1e-3)
    with torch.no_grad():
        for module in (encoder.conv, encoder.modulate):
            for p in module.parameters(): p.zero_()                                        # what is left depends on the denoiser's time alone
    close(encoder(y, ab[[7]].expand(3)), encoder(y, (ab[[7]] + 1e-5).expand(3)))
    assert not torch.allclose(encoder(y, ab[[7]].expand(3)), encoder(y, ab[[14]].expand(3)), atol=1e-4)
    encoder(y, ab[[7]].expand(3)).sum().backward()
    assert y.grad.abs().sum() > 0 and all(p.grad is None for p in encoder.backbone.parameters())
    assert all(p.requires_grad for p in denoiser.parameters())                              # a copy is frozen, not the denoiser
    assert not encoder.train().backbone.training and encoder.training

def test_critics_through_a_denoiser_train_and_round_trip(tmp_path):
    denoiser = small_denoiser()
    images, z = torch.rand(40, 1, 16, 16) * 2 - 1, torch.randn(40, 3)
    before = {k: v.clone() for k, v in denoiser.state_dict().items()}
    config = CriticConfig(features=8, steps=4, batch_size=8)
    critics = train_critics(images, z, (2, 1), denoiser.schedule, config, encoder=DenoiserEncoder(denoiser, 4, 8),
                            **QUIET).model.eval()
    assert all(torch.equal(v, before[k]) for k, v in critics.encoder.backbone.state_dict().items())
    path = save_critics(critics, tmp_path / "critics.safetensors")
    assert path.stat().st_size < 4 * sum(p.numel() for p in critics.parameters())           # without the denoiser
    again = load_critics(path, "cpu", denoiser)
    assert torch.equal(again(z, images, 7), critics(z, images, 7))
    with pytest.raises(ValueError, match="denoiser="): load_critics(path, "cpu")
    with pytest.raises(ValueError, match="another denoiser"): load_critics(path, "cpu", small_denoiser(seed=1))
    with pytest.raises(ValueError, match="unconditional"): DenoiserEncoder(_add_condition(denoiser, 3))


def test_an_encoder_of_ones_own_is_copied_and_tells_checkpoints_apart(tmp_path):
    images, z = torch.rand(24, 1, 16, 16, generator=generator(1)) * 2 - 1, torch.randn(24, 4, generator=generator(2))
    config = CriticConfig(width=4, features=8, steps=3, batch_size=8)
    def encoder(seed):
        torch.manual_seed(seed)
        return ConvEncoder(16, 4, 16, noise_aware=True)
    def train(encoder, schedule=NoiseSchedule(10), **more):
        return train_critics(images, z, (2, 2), schedule, config, encoder=encoder, **QUIET, **more).model
    given = encoder(0)
    before = copy.deepcopy(given.state_dict())
    first, second = train(given, checkpoint=tmp_path), train(given)
    assert all(torch.equal(v, before[k]) for k, v in given.state_dict().items()) and first.encoder is not given
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))
    with pytest.raises(ValueError, match="encoder"): train(encoder(1), checkpoint=tmp_path)
    with pytest.raises(ValueError, match="schedule"): train(given, NoiseSchedule(10, "cosine"), checkpoint=tmp_path)


# --- looking ahead --------------------------------------------------------------------------------------------------------

def test_what_was_seen_reads_like_the_images_themselves():
    denoiser = small_denoiser()
    critics = Critics(DenoiserEncoder(denoiser, n_features=8), (2, 1), n_features=8,
                      alpha_bar=denoiser.schedule.alpha_bar).eval()
    y, z, t = torch.randn(5, 1, 16, 16), torch.randn(6, 3), torch.tensor([0, 3, 9, 15, 20])
    seen = critics.encoder.look(y, critics.alpha_bar[t])
    close(critics(z, seen, t, seen=True), critics(z, y, t))
    assert critics.encoder.looks_once and not DenoiserEncoder(denoiser, 4, 8).looks_once  # a ConvEncoder sees more

def test_looking_once_is_looking_in_the_precision_of_the_processor(monkeypatch):
    denoiser, n = small_denoiser(), 20
    encoder, images = DenoiserEncoder(denoiser, n_features=8), torch.rand(n, 1, 16, 16, generator=generator(5)) * 2 - 1
    t, alpha_bar = torch.arange(n), denoiser.schedule.alpha_bar.float()
    def look(precision):
        monkeypatch.setattr("migvis.infonce._quick_precision", lambda device: precision)
        return _look_once(encoder, images, t, alpha_bar, generator(3), chunk=7)
    single, half = look("float32"), look("bfloat16")
    random = generator(3)
    noise = torch.cat([torch.randn(part.shape, generator=random) for part in images.split(7)])
    with torch.no_grad(): expected = encoder.look(_add_noise(images, alpha_bar[t], noise), alpha_bar[t])
    close(single.float(), expected, rtol=1e-2, atol=1e-3)
    assert 0 < (half.float() - expected).norm() < 0.05 * expected.norm()
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}                      # it was a copy

@pytest.mark.parametrize("kind", ["denoiser", "conv"])
def test_scores_in_double_precision_do_not_depend_on_their_batch(kind):
    denoiser = small_denoiser()
    encoder = ConvEncoder(16, 4, 16, noise_aware=True) if kind == "conv" else DenoiserEncoder(denoiser, n_features=16)
    critics = Critics(encoder, (2, 1), n_features=8, alpha_bar=denoiser.schedule.alpha_bar).eval()
    exact, y, z = _scoring_in_double(critics), torch.randn(9, 1, 16, 16), torch.randn(6, 3)
    scores = exact(z, y, 7)
    assert scores.dtype == torch.float64 and {p.dtype for p in critics.parameters()} == {torch.float32}
    close(scores.float(), critics(z, y, 7), rtol=1e-4, atol=1e-4)
    features = exact.encoder(y, exact.alpha_bar[[7] * 9])                                  # what they score, the same in both
    for n in (1, 4):
        parts = torch.cat([exact.heads.image_features(f) for f in features.split(n)], 1)
        close(_separable_score(parts, exact.latent_features(z)), scores, rtol=1e-12, atol=1e-12)
    with torch.autocast("cpu", torch.bfloat16): assert exact(z, y, 7).dtype == torch.float64

def test_views_are_what_the_encoder_sees_of_shifted_and_noised_images_at_all_times():
    denoiser, n, n_views = small_denoiser(), 30, 5
    encoder, images = DenoiserEncoder(denoiser, n_features=8), torch.rand(n, 1, 16, 16, generator=generator(5)) * 2 - 1
    shown = _ScoreInputs(images, denoiser.schedule.alpha_bar.float(), pixel_noise=0.0, shift=0)
    views = _look_ahead(encoder, shown, n_views, seed=3, progress=False)
    assert views.seen.shape[:2] == views.t.shape == (n_views, n) and views.seen.dtype == torch.float16
    edges = _early_times((torch.arange(n_views + 1) / n_views).clamp(max=1 - 1e-6), len(shown.alpha_bar))
    ordered = views.t.sort(0).values                             # each image once in each share of the times
    for low, t, high in zip(edges, ordered, edges[1:]): assert (t >= low).all() and (t <= high).all()
    clean = (views.t == 0).nonzero()                             # where there is no noise the view is known
    assert len(clean)
    expected = encoder.look(images[clean[:, 1]], torch.ones(len(clean)))
    assert (views.seen[clean[:, 0], clean[:, 1]].float() - expected).abs().max() < 0.03 * expected.abs().max()
    again, other = (_look_ahead(encoder, shown, n_views, seed=s, progress=False) for s in (3, 4))
    assert torch.equal(views.seen, again.seen) and torch.equal(views.t, again.t) and not torch.equal(views.t, other.t)
    batch = SimpleNamespace(index=torch.tensor([7, 7, 2]), rand=lambda: torch.tensor([0.0, 0.99, 0.5]))
    seen, t, looked = views.draw(batch)
    assert looked
    close(seen, views.seen[[0, 4, 2], [7, 7, 2]].float())
    assert torch.equal(t, views.t[[0, 4, 2], [7, 7, 2]])

def test_critics_learn_from_views_and_resume_exactly(tmp_path, monkeypatch):
    denoiser, random = small_denoiser(), generator(11)
    encoder = DenoiserEncoder(denoiser, n_features=16)
    z = torch.rand(160, 2, generator=random) * 2 - 1
    images = z[:, :1, None, None] * 0.4 + 0.05 * torch.randn(160, 1, 16, 16, generator=random) # the first latent is the brightness
    data = images.clamp(-1, 1), z
    config = CriticConfig(features=8, steps=120, batch_size=32, lr=1e-2, views=3, dropout=0.0)
    def train(config=config, **more):
        return train_critics(*data, [(0,), (1,)], denoiser.schedule, config, encoder=encoder, **QUIET, **more)
    whole = train()
    bright, other = held_out_mi(whole.model, *data, n_candidates=32)
    assert bright.value > 0.3 and other.value < bright.value / 3, "the second latent is not in the images"
    with monkeypatch.context() as patched, pytest.raises(InterruptedError):
        interrupt_at(50, patched)
        train(checkpoint=tmp_path, checkpoint_every=20)
    resumed = train(checkpoint=tmp_path, checkpoint_every=20)
    assert resumed.resumed_from == 40
    for a, b in zip(whole.model.parameters(), resumed.model.parameters()): assert torch.equal(a, b)
    with pytest.raises(ValueError, match="views"): train(replace(config, views=4), checkpoint=tmp_path)


@pytest.mark.parametrize("encoder, schedule", [
    (lambda d: DenoiserEncoder(d, 4, 8), True), (lambda d: ConvEncoder(16, 4, 8, noise_aware=True), True),
    (lambda d: None, False)])
def test_views_need_an_encoder_that_can_look_once(encoder, schedule):
    denoiser = small_denoiser()
    with pytest.raises(ValueError, match="views are for noise-aware critics"):
        train_critics(torch.rand(20, 1, 16, 16) * 2 - 1, torch.randn(20, 3), (3,), denoiser.schedule if schedule else None,
                      CriticConfig(width=4, features=4, steps=2, batch_size=4, views=2), encoder=encoder(denoiser), **QUIET)
