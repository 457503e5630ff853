"""Schedules against formulas and diffusers; the denoiser's algebra, training, resuming and files."""
import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel

from migvis import denoiser as dn
from migvis.ddim_guidance import edit
from migvis.denoiser import Denoiser, NoiseSchedule, build_denoiser
from migvis.infonce import Critics, DenoiserEncoder
from migvis.pipeline import networks_in
from migvis.pretrained import load_pretrained
from migvis.training import DenoiserConfig, generator, get_preset, list_checkpoints, load_tensors, save_tensors

SMALL = DenoiserConfig(image_size=16, width=8, multipliers=(1, 2), layers=1, patch=2, attention=False, T=20, steps=40, batch_size=16, lr=2e-3)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, 9))


def bars(n=64, size=16):
    "Bright vertical bars at random places on grey."
    at = torch.randint(2, size - 2, (n,), generator=generator(0, 10))
    x = torch.arange(size)[None] - at[:, None]
    return (0.5 + 0.4 * (-x.square() / 4.0).exp())[:, None, None, :].expand(n, 1, size, size).contiguous()


# --- schedules -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["sigmoid", "cosine", "linear"])
@pytest.mark.parametrize("T", [2, 20, 150, 1000])
def test_schedule_falls_from_one_to_nearly_nothing(kind, T):
    ab = NoiseSchedule(T, kind).alpha_bar
    assert ab.dtype == torch.float64 and ab.shape == (T + 1,) and ab[0] == 1
    assert (ab.diff() < 0).all() and 0 < ab[-1] < 0.01


def test_sigmoid_is_the_published_formula():
    ab = NoiseSchedule(150).alpha_bar
    sigmoid = lambda x: 1 / (1 + math.exp(-x))
    for t in (1, 40, 75, 135, 149):
        expected = (sigmoid(3) - sigmoid(-3 + 6 * t / 150)) / (sigmoid(3) - sigmoid(-3))
        assert ab[t].item() == pytest.approx(expected, rel=1e-9)
    assert ab[75].item() == pytest.approx(0.5) and (ab[150] / ab[149]).item() == pytest.approx(1e-3)


def test_cosine_agrees_with_diffusers():
    theirs = DDPMScheduler(150, beta_schedule="squaredcos_cap_v2").alphas_cumprod
    torch.testing.assert_close(NoiseSchedule(150, "cosine").alpha_bar[1:].float(), theirs, atol=1e-6, rtol=1e-4)


def test_linear_agrees_with_diffusers():
    theirs = DDPMScheduler(1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear").alphas_cumprod
    torch.testing.assert_close(NoiseSchedule(1000, "linear").alpha_bar[1:].float(), theirs, atol=1e-6, rtol=1e-3)
    stretched = NoiseSchedule(150, "linear").alpha_bar
    assert stretched[1].item() == pytest.approx(1 - 1e-4 * 1000 / 150)


def test_noising_agrees_with_diffusers():
    scheduler, ours = DDPMScheduler(50, beta_schedule="squaredcos_cap_v2"), NoiseSchedule(50, "cosine")
    y0, noise, t = randn(6, 1, 4, 4), randn(6, 1, 4, 4, seed=1), torch.tensor([1, 2, 10, 25, 40, 50])
    torch.testing.assert_close(ours.add_noise(y0, noise, t), scheduler.add_noise(y0, noise, t - 1), atol=1e-5, rtol=1e-4)


def test_conversions_are_inverse_to_each_other():
    s, y0, noise = NoiseSchedule(), randn(5, 1, 3, 3).double(), randn(5, 1, 3, 3, seed=1).double()
    for t in (1, 75, 150, torch.tensor([1, 20, 80, 140, 150])):
        y_t = s.add_noise(y0, noise, t)
        torch.testing.assert_close(s.y0_hat(y_t, noise, t), y0, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(s.eps_hat(y_t, y0, t), noise, atol=1e-9, rtol=1e-9)
    assert torch.equal(s.add_noise(y0, noise, 0), y0)
    assert s.snr[75].item() == pytest.approx(1.0) and math.isinf(s.snr[0])


def test_noised_standard_normal_data_keep_unit_variance():
    s = NoiseSchedule()
    for t in (10, 75, 140): assert s.add_noise(randn(20000), randn(20000, seed=1), t).std().item() == pytest.approx(1, abs=0.02)


def test_schedules_compare_by_what_they_are():
    assert NoiseSchedule(50) == NoiseSchedule(50) != NoiseSchedule(50, "cosine") and NoiseSchedule(50) != NoiseSchedule(51)


@pytest.mark.parametrize("bad", [dict(T=1), dict(T=2.5), dict(kind="square")])
def test_bad_schedules(bad):
    with pytest.raises(ValueError): NoiseSchedule(**bad)


@pytest.mark.parametrize("kw", [dict(t_edit=0), dict(t_edit=21), dict(t_edit=True), dict(t_edit=10, steps=11), dict(t_edit=10, steps=0), dict(steps=2.5)])
def test_bad_times(kw):
    with pytest.raises(ValueError): NoiseSchedule(20).times(**kw)


# --- the exact denoiser --------------------------------------------------------------------------------------------------

def test_mixture_denoiser_is_minus_the_score():
    s, t = NoiseSchedule(), 80
    means, weights, std = randn(3, 2).double(), torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64), 0.3
    ab = s.alpha_bar[t]
    y = randn(5, 2, seed=1).double().requires_grad_()
    mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(weights), torch.distributions.Independent(
        torch.distributions.Normal(ab.sqrt() * means, (ab * std**2 + 1 - ab).sqrt()), 1))
    (score,) = torch.autograd.grad(mixture.log_prob(y).sum(), y)
    eps = dn.mixture_denoiser(means, std, s, weights)(y.detach(), t)
    torch.testing.assert_close(eps, -(1 - ab).sqrt() * score)


def test_mixture_denoiser_takes_images_and_a_time_each():
    s, means = NoiseSchedule(), randn(4, 1, 3, 3)
    eps = dn.mixture_denoiser(means, 0.2, s)
    y, t = randn(5, 1, 3, 3, seed=1), torch.tensor([3, 50, 90, 120, 150])
    torch.testing.assert_close(eps(y, t), torch.cat([eps(y[i:i + 1], int(t[i])) for i in range(5)]), atol=1e-5, rtol=1e-5)


# --- the network ---------------------------------------------------------------------------------------------------------

def plain_unet(channels=1, size=16, out=None):
    return UNet2DModel(sample_size=size, in_channels=channels, out_channels=out or channels, layers_per_block=1, block_out_channels=(8, 16),
                       down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, norm_num_groups=4, add_attention=False)


def test_any_unet_is_accepted_and_its_output_is_eps():
    unet, y = plain_unet().eval(), randn(3, 1, 16, 16)
    denoiser = Denoiser(unet, NoiseSchedule(20))
    t = torch.tensor([1, 7, 20])
    with torch.no_grad():
        torch.testing.assert_close(denoiser(y, t), unet(y, t).sample)
        from_diffusers = Denoiser(unet, NoiseSchedule(20), first_time=0)
        torch.testing.assert_close(from_diffusers(y, 5), unet(y, 4).sample)
    assert denoiser.image_size == 16 and denoiser.channels == 1


def test_time_may_be_a_number_or_one_for_each_image():
    denoiser, y = build_denoiser(SMALL, 0.4).eval(), randn(3, 1, 16, 16)
    with torch.no_grad(): torch.testing.assert_close(denoiser(y, 7), denoiser(y, torch.tensor([7, 7, 7])))


def test_preconditioning_is_exact_for_featureless_data():
    "With a network that answers 0, the denoiser is the exact one of independent Gaussian pixels."
    s = NoiseSchedule(20)
    denoiser = build_denoiser(SMALL, data_std=0.3, data_mean=-0.2)
    torch.nn.init.zeros_(denoiser.unet.conv_out.weight), torch.nn.init.zeros_(denoiser.unet.conv_out.bias)
    exact, y = dn.mixture_denoiser(torch.full((1, 1, 16, 16), -0.2), 0.3, s), randn(4, 1, 16, 16)
    for t in (1, 5, 12, 20):
        with torch.no_grad(): torch.testing.assert_close(denoiser(y, t), exact(y, t), atol=1e-5, rtol=1e-4)


def test_the_network_sees_and_predicts_unit_variance():
    "Target of the network implied by the preconditioning has variance 1 at every time, for Gaussian pixels."
    s, std, mean = NoiseSchedule(20), 0.3, -0.2
    y0, noise = mean + std * randn(20000), randn(20000, seed=1)
    for t in (1, 8, 15, 20):
        ab = s.alpha_bar[t].item()
        var, y = ab * std**2 + 1 - ab, s.add_noise(y0, noise, t)
        centred = (y - ab**0.5 * mean) / var**0.5
        target = (noise - ((1 - ab) / var) ** 0.5 * centred) / (std * (ab / var) ** 0.5)
        assert centred.std().item() == pytest.approx(1, abs=0.03) and target.std().item() == pytest.approx(1, abs=0.03)


def test_v_prediction_is_data_std_one():
    s, t = NoiseSchedule(20), 9
    denoiser, y, ab = build_denoiser(SMALL, data_std=1.0).eval(), randn(2, 1, 16, 16), s.alpha_bar[9].item()
    with torch.no_grad():
        v = denoiser.network(y, torch.tensor([t, t]))
        torch.testing.assert_close(denoiser(y, t), (1 - ab) ** 0.5 * y + ab**0.5 * v, atol=1e-5, rtol=1e-4)


def test_patches_reach_every_pixel():
    for patch in (1, 2, 4):
        denoiser = build_denoiser(replace(SMALL, patch=patch), 0.4)
        y = randn(1, 1, 16, 16).requires_grad_()
        denoiser(y, 5).square().sum().backward()
        assert (y.grad.abs() > 0).all()


def test_initial_weights_depend_on_the_seed_alone():
    a = build_denoiser(SMALL, seed=1)
    torch.manual_seed(99)
    b, c = build_denoiser(SMALL, seed=1), build_denoiser(SMALL, seed=2)
    same = lambda p, q: all(torch.equal(x, y) for x, y in zip(p.parameters(), q.parameters()))
    assert same(a, b) and not same(a, c)


@pytest.mark.parametrize("name", ["tiny", "demo", "paper"])
def test_presets_build_with_wide_heads(name):
    config = get_preset(name).denoiser
    unet = build_denoiser(config).unet
    lowest, heads = config.width * config.multipliers[-1], unet.mid_block.attentions[0].heads if config.attention else 1
    assert unet.config.attention_head_dim == min(32, lowest) and (not config.attention or heads * 32 == lowest)


def test_attention_in_the_lowest_resolutions_and_widths_between_whole_multiples():
    config = replace(SMALL, width=16, multipliers=(1, 1.5, 2), attention=True, attention_levels=2)
    denoiser = build_denoiser(config)
    unet = denoiser.unet
    assert list(unet.config.block_out_channels) == [16, 24, 32]
    assert [hasattr(block, "attentions") for block in unet.down_blocks] == [False, True, True]
    assert [hasattr(block, "attentions") for block in unet.up_blocks] == [True, True, False]
    assert denoiser(torch.randn(2, 1, 16, 16), 5).shape == (2, 1, 16, 16)
    with pytest.raises(ValueError, match="attention_levels must be in 0..3"): build_denoiser(replace(config, attention_levels=4))


def test_tables_follow_the_weights_and_are_made_in_double_precision():
    y = torch.randn(3, 1, 16, 16)
    denoiser = build_denoiser(SMALL, 0.4, -0.8).eval()
    s, var = denoiser.schedule, denoiser.variance()
    double = copy.deepcopy(denoiser).double()
    assert torch.equal(double.shrink, var.rsqrt()) and torch.equal(denoiser.keep, ((1 - s.alpha_bar) / var).sqrt().float())
    assert torch.equal(copy.deepcopy(double).float().shift, denoiser.shift)
    assert not {"shift", "shrink", "keep", "reach"} & set(denoiser.state_dict())
    torch.testing.assert_close(double(y.double(), 7).float(), denoiser(y, 7), atol=1e-5, rtol=1e-4)
    half = copy.deepcopy(denoiser).to(torch.bfloat16)
    assert half.keep.dtype == torch.float32 and next(half.parameters()).dtype == torch.bfloat16
    moved = copy.deepcopy(denoiser).to("meta")
    assert moved.reach.device.type == "meta"


def test_a_schedule_reads_its_own_tables_by_name():
    s, like = NoiseSchedule(20), torch.zeros(4, 1, 2, 2)
    t = torch.tensor([1, 5, 20, 3])
    for name, table in {"alpha_bar": s.alpha_bar, "signal": s.alpha_bar.sqrt(), "noise": (1 - s.alpha_bar).sqrt()}.items():
        assert torch.equal(s.at(name, t, like), s.at(table, t, like)) and torch.equal(s.at(name, 5, like), s.at(table, t, like)[1:2])
        assert s.at(name, t, like.double()).dtype == torch.float64 and s.at(name, 3, like).shape == (1, 1, 1, 1)


def test_networks_that_do_not_fit_are_refused():
    s = NoiseSchedule(20)
    with pytest.raises(TypeError, match="UNet2DModel"): Denoiser(torch.nn.Conv2d(1, 1, 1), s)
    with pytest.raises(ValueError, match="multiple of 4 channels"): Denoiser(plain_unet(), s, patch=2)
    with pytest.raises(ValueError, match="as many channels"): Denoiser(plain_unet(out=3), s)
    with pytest.raises(ValueError, match="square"): Denoiser(plain_unet(size=(16, 32)), s)
    with pytest.raises(ValueError, match="data_std"): Denoiser(plain_unet(), s, data_std=0.0)
    with pytest.raises(ValueError, match="image_size"): build_denoiser(replace(SMALL, image_size=18))
    with pytest.raises(ValueError, match=r"\(B, 1, 16, 16\)"): Denoiser(plain_unet(), s)(torch.zeros(2, 1, 8, 8), 3)


# --- training ------------------------------------------------------------------------------------------------------------

def train(images=None, config=SMALL, **kw):
    return dn.train_denoiser(bars() if images is None else images, config, **dict(device="cpu", progress=False) | kw)


@pytest.fixture(scope="module")
def trained():
    return train()


def test_training_lowers_the_fixed_validation_loss(trained):
    y0, s = dn.check_images(bars(), 16), trained.model.schedule
    score = dn.validation_loss(y0, s)
    fresh = build_denoiser(SMALL, y0.std().item(), y0.mean().item())
    assert score(trained.model) < 0.9 * score(fresh) and torch.equal(score(fresh), score(fresh))
    assert trained.history["validation"].dropna().iloc[-1] == pytest.approx(score(trained.model).item(), rel=1e-4)


def test_loss_of_a_perfect_denoiser_is_the_noise_it_cannot_know():
    s, y0 = NoiseSchedule(20), randn(4000, 1)
    t = torch.full((4000,), 10)
    loss = dn.denoising_loss(dn.mixture_denoiser(torch.zeros(1, 1), 1.0, s), s, y0, t, randn(4000, 1, seed=1))
    assert loss.mean().item() == pytest.approx(s.alpha_bar[10].item(), rel=0.1)  # var(eps | y_t) = alpha_bar for unit data


def test_weights_of_the_loss():
    s = NoiseSchedule()
    snr = s.snr[1:]
    assert torch.equal(dn.loss_weights(s)[1:], torch.ones(150, dtype=torch.float64))
    torch.testing.assert_close(dn.loss_weights(s, "min_snr")[1:], snr.clamp(max=5) / snr)
    torch.testing.assert_close(dn.loss_weights(s, "v")[1:], 1 / s.alpha_bar[1:])
    with pytest.raises(ValueError, match="weighting"): dn.loss_weights(s, "best")


def test_default_weighting_follows_the_network():
    "A plain network gets the paper's unweighted loss, a preconditioned one the loss of v."
    short = replace(SMALL, steps=2)
    same = lambda a, b: all(torch.equal(x, y) for x, y in zip(a.model.parameters(), b.model.parameters()))
    plain = lambda **kw: train(config=short, denoiser=build_denoiser(SMALL), **kw)
    ours = lambda **kw: train(config=short, **kw)
    assert same(plain(), plain(weighting="eps")) and same(ours(), ours(weighting="v")) and not same(ours(), ours(weighting="eps"))


def test_interrupted_training_ends_with_the_same_weights(tmp_path, trained):
    class Stop(Exception): ...
    def stop(step, model, row):
        if step >= 24: raise Stop
    with pytest.raises(Stop): train(checkpoint=tmp_path, checkpoint_every=10, callback=stop, log_every=1)
    resumed = train(checkpoint=tmp_path, checkpoint_every=10)
    assert resumed.resumed_from == 20
    assert all(torch.equal(a, b) for a, b in zip(resumed.model.parameters(), trained.model.parameters()))
    for change in (dict(images=bars(65)), dict(config=replace(SMALL, width=16)), dict(weighting="eps")):
        with pytest.raises(ValueError): train(checkpoint=tmp_path, **change)


def begun_elsewhere(folder, factor):
    "Rewrite the checkpoints as those of a machine whose sums over the pixels differ."
    for path in list_checkpoints(folder):
        tensors, meta = load_tensors(path)
        for name in ("data_std", "data_mean"): meta["fingerprint"]["denoiser"][name] *= factor
        save_tensors(path, tensors, meta)
    return meta["fingerprint"]["denoiser"]


def test_last_digits_of_the_pixel_statistics_do_not_stop_a_run(tmp_path):
    "They depend on device and threads: the resumed network keeps those it began with."
    train(config=replace(SMALL, steps=4), checkpoint=tmp_path)
    told = begun_elsewhere(tmp_path, 1 + 1e-6)
    resumed = train(config=replace(SMALL, steps=4), checkpoint=tmp_path)
    assert resumed.resumed_from == 4 and (resumed.model.data_std, resumed.model.data_mean) == (told["data_std"], told["data_mean"])
    assert dn.pixel_statistics(dn.check_images(bars(), 16)) != (told["data_std"], told["data_mean"])
    begun_elsewhere(tmp_path, 1.01)
    with pytest.raises(ValueError, match="another run"): train(config=replace(SMALL, steps=4), checkpoint=tmp_path)


def test_a_plain_network_in_the_folder_is_not_taken_for_ours(tmp_path):
    short = replace(SMALL, steps=1)
    train(config=short, denoiser=build_denoiser(SMALL), checkpoint=tmp_path)
    with pytest.raises(ValueError, match="another run"): train(config=short, checkpoint=tmp_path)


def test_own_denoiser_and_bfloat16():
    own = Denoiser(plain_unet(), NoiseSchedule(20, "cosine"))
    fit = train(config=replace(SMALL, steps=3, precision="bfloat16"), denoiser=own, weighting="eps", decay=False)
    assert fit.model is own and torch.isfinite(own(randn(1, 1, 16, 16), 3)).all()
    with pytest.raises(ValueError, match="side 16"): train(images=torch.zeros(8, 1, 32, 32), config=replace(SMALL, image_size=32), denoiser=own)


@pytest.mark.parametrize("bad", [torch.zeros(4, 16, 16), torch.zeros(4, 3, 16, 16), torch.zeros(4, 1, 8, 8), torch.full((4, 1, 16, 16), 1.5),
                                 torch.full((4, 1, 16, 16), float("nan")), torch.zeros(0, 1, 16, 16)])
def test_images_that_do_not_fit_are_refused(bad):
    with pytest.raises(ValueError, match="images"): train(images=bad)


def test_arrays_are_images_too():
    assert dn.check_images(np.zeros((2, 1, 16, 16), "float32"), 16).unique().tolist() == [-1]


# --- a condition ---------------------------------------------------------------------------------------------------------

def conditional(n_condition=2, scale=0.5):
    "A conditional denoiser whose embedding has learned something."
    denoiser = build_denoiser(SMALL, 0.4, n_condition=n_condition).eval()
    with torch.no_grad(): denoiser.embedding.outer.weight.copy_(scale * randn(*denoiser.embedding.outer.weight.shape, seed=4))
    return denoiser


def bar_places(n=64, size=16):
    "Where `bars` stand, in [-1, 1]."
    return (torch.randint(2, size - 2, (n, 1), generator=generator(0, 10)) - 7.5) / 6


def test_a_new_condition_changes_nothing():
    free, y, t = build_denoiser(SMALL, 0.4, 0.1, seed=3).eval(), randn(4, 1, 16, 16), torch.tensor([1, 5, 12, 20])
    told = dn.add_condition(free, 2)
    assert told.n_condition == 2 and free.n_condition == 0 and not told.training
    with torch.no_grad():
        for z in (None, randn(4, 2), torch.full((4, 2), math.nan)): assert torch.equal(told(y, t, z), free(y, t))
    assert not {p.data_ptr() for p in told.parameters()} & {p.data_ptr() for p in free.parameters()}
    built = build_denoiser(SMALL, 0.4, 0.1, seed=3, n_condition=2).state_dict()
    assert all(torch.equal(v, built[k]) for k, v in dn.add_condition(free, 2, seed=3).state_dict().items())
    assert {k for k in built if not k.startswith("embedding.")} == set(free.state_dict())


def test_rows_of_nan_are_unconditional():
    denoiser, y, t, z = conditional(), randn(3, 1, 16, 16), torch.tensor([2, 9, 15]), randn(3, 2, seed=1)
    mixed = torch.stack([z[0], torch.full((2,), math.nan), z[2]])
    with torch.no_grad():
        out, told, free = denoiser(y, t, mixed), denoiser(y, t, z), denoiser(y, t)
        torch.testing.assert_close(out, torch.stack([told[0], free[1], told[2]]), atol=1e-5, rtol=1e-5)
        assert torch.equal(free, denoiser(y, t, torch.full((3, 2), math.nan))) and (told - free).abs().amax((1, 2, 3)).min() > 1e-3


def test_guidance_is_the_formula_of_two_answers():
    denoiser, y, t, z, w = conditional(), randn(3, 1, 16, 16), torch.tensor([2, 9, 15]), randn(3, 2, seed=1), torch.tensor([0.5, 2.0, -1.0])
    with torch.no_grad():
        told, free = denoiser(y, t, z), denoiser(y, t)
        expected = (1 + w)[:, None, None, None] * told - w[:, None, None, None] * free
        torch.testing.assert_close(dn.condition_on(denoiser, z, w)(y, t), expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(dn.condition_on(denoiser, z, -1)(y, 7), denoiser(y, 7), atol=1e-5, rtol=1e-4)
        assert torch.equal(dn.condition_on(denoiser, z)(y, t), told)
        one = dn.condition_on(denoiser, z[0], 2.0)(y, t)
        torch.testing.assert_close(one, dn.condition_on(denoiser, z[:1].expand(3, -1), 2.0)(y, t), atol=1e-5, rtol=1e-5)


def test_guidance_is_exact_where_it_is_known():
    "With exact branches, y_0 ~ N(0, 1) and y_0 | z ~ N(z, s^2), guided eps is the one worked out by hand."
    schedule, s, t = NoiseSchedule(20), 0.5, 9
    class Exact(torch.nn.Module):
        n_condition = 1
        def forward(self, y, t, z):
            free = dn.mixture_denoiser(torch.zeros(1, 1, 1, 1), 1.0, schedule)(y, t)
            told = torch.cat([dn.mixture_denoiser(m.view(1, 1, 1, 1), s, schedule)(y[i:i + 1], t[i:i + 1]) for i, m in enumerate(z.nan_to_num())])
            return torch.where(z.isnan()[:, :, None, None], free, told)
    z, y, ab = torch.tensor([[-0.5], [1.0]]), randn(2, 1, 1, 1), schedule.alpha_bar[t].item()
    noise = (1 - ab) ** 0.5
    expected = 3 * noise * (y - ab**0.5 * z[:, :, None, None]) / (ab * s**2 + 1 - ab) - 2 * noise * y
    torch.testing.assert_close(dn.condition_on(Exact(), z, 2.0)(y, t), expected, atol=1e-5, rtol=1e-4)


def test_training_learns_to_use_the_condition():
    config = replace(SMALL, steps=150, lr=1e-2, flips=True)
    places, y0 = bar_places(), dn.check_images(bars(), 16)
    fitted = train(config=config, condition=places)
    loss = lambda **kw: dn.validation_loss(y0, fitted.model.schedule, **kw)(fitted.model).item()
    assert 1.05 * loss(condition=places) < loss() < loss(condition=places.flip(0))
    assert fitted.history["validation"].dropna().iloc[-1] == pytest.approx(loss(condition=places), rel=1e-4)
    wanted = torch.tensor([[-0.8], [0.0], [0.8]])
    drawn = dn.sample_images(fitted.model, 3, steps=None, condition=wanted, batch_size=2)
    assert (drawn.mean((1, 2)).argmax(1) - (7.5 + 6 * wanted[:, 0])).abs().max() < 2, "bars must stand where they were asked for"
    one, each = (dn.sample_images(fitted.model, 3, steps=5, condition=z, weight=1.0) for z in (wanted[0], wanted[:1].expand(3, -1)))
    assert torch.equal(one, each), "one condition is for all images"


def test_images_are_not_flipped_under_a_condition():
    weights = [torch.cat([p.flatten() for p in train(config=replace(SMALL, steps=3, flips=flips), **kw).model.parameters()])
               for kw in (dict(condition=bar_places()), {}) for flips in (True, False)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[2], weights[3])


@pytest.mark.parametrize("drop", [0.0, 0.3])
def test_the_condition_is_dropped_as_often_as_asked(drop):
    seen, denoiser = [], build_denoiser(SMALL, 0.4, n_condition=1)
    denoiser.embedding.register_forward_pre_hook(lambda _, args: None if args[0] is None else seen.append(args[0].isnan().flatten()))
    train(config=replace(SMALL, steps=30, batch_size=32, ema=None), denoiser=denoiser, condition=bar_places(), drop=drop, validate_every=10**6,
          validation=bars()[:1])
    share = torch.cat(seen[:30]).float().mean().item()
    assert share == pytest.approx(drop, abs=0.06) and len(torch.cat(seen[:30])) == 960


def test_conditional_training_resumes_and_checks_the_condition(tmp_path):
    class Stop(Exception): ...
    def stop(step, model, row):
        if step >= 7: raise Stop
    config, places = replace(SMALL, steps=12), bar_places()
    with pytest.raises(Stop): train(config=config, condition=places, checkpoint=tmp_path, checkpoint_every=5, callback=stop, log_every=1)
    with pytest.raises(ValueError, match="condition"): train(config=config, condition=places.flip(0), checkpoint=tmp_path)
    with pytest.raises(ValueError, match="drop"): train(config=config, condition=places, drop=0.2, checkpoint=tmp_path)
    resumed, straight = train(config=config, condition=places, checkpoint=tmp_path), train(config=config, condition=places)
    assert resumed.resumed_from == 5
    assert all(torch.equal(a, b) for a, b in zip(resumed.model.parameters(), straight.model.parameters()))


def test_conditional_files_round_trip(tmp_path):
    denoiser, y, z = conditional(), randn(2, 1, 16, 16), randn(2, 2, seed=1)
    loaded, _ = dn.load_denoiser(dn.save_denoiser(tmp_path / "told.safetensors", denoiser), device="cpu")
    assert loaded.n_condition == 2
    with torch.no_grad(): torch.testing.assert_close(loaded(y, 6, z), denoiser(y, 6, z), atol=1e-6, rtol=0)
    assert "n_condition" not in dn.describe(build_denoiser(SMALL)), "files of unconditional denoisers stay as they were"


def test_conditions_that_do_not_fit_are_refused():
    free, told, y = build_denoiser(SMALL), conditional(), randn(3, 1, 16, 16)
    with pytest.raises(ValueError, match="takes none.*add_condition"): free(y, 3, randn(3, 2))
    with pytest.raises(ValueError, match=r"\(3, 2\).*\(3, 5\)"): told(y, 3, randn(3, 5))
    with pytest.raises(ValueError, match=r"\(3, 2\)"): told(y, 3, randn(2, 2))
    for value in (math.nan, math.inf):
        z = randn(3, 2)
        z[1, 0] = value
        with pytest.raises(ValueError, match="finite, or all NaN.*1 of 3"): told(y, 3, z)
        with pytest.raises(ValueError, match="finite, or all NaN"): dn.condition_on(told, z)
    with pytest.raises(ValueError, match="for 2 images, but 3 came"): dn.condition_on(told, randn(2, 2))(y, 3)
    with pytest.raises(ValueError, match="weight must be finite"): dn.condition_on(told, randn(2, 2), math.nan)
    with pytest.raises(ValueError, match="already"): dn.add_condition(told, 3)
    with pytest.raises(ValueError, match="at least 1"): dn.add_condition(free, 0)
    with pytest.raises(ValueError, match="class_embed_type='identity'"): Denoiser(plain_unet(), NoiseSchedule(20), n_condition=2)
    with pytest.raises(ValueError, match="takes none"): train(denoiser=free, condition=bar_places())
    with pytest.raises(ValueError, match=r"\(64, 2\)"): train(denoiser=told, condition=bar_places())
    with pytest.raises(ValueError, match="row for each of the 64 images"): train(condition=bar_places(63))
    with pytest.raises(ValueError, match="drop"): train(condition=bar_places(), drop=1.0)


# --- samples and files ---------------------------------------------------------------------------------------------------

def test_samples_of_an_exact_denoiser_follow_the_data():
    class Exact(torch.nn.Module):
        channels, image_size, schedule = 1, 2, NoiseSchedule()
        def __init__(self):
            super().__init__()
            self.none = torch.nn.Parameter(torch.zeros(1))
            self.eps = dn.mixture_denoiser(torch.full((1, 1, 2, 2), 0.2), 0.25, self.schedule)
        def forward(self, y, t): return self.eps(y, t)
    samples = 2 * dn.sample_images(Exact(), 2000, steps=None) - 1
    assert samples.mean().item() == pytest.approx(0.2, abs=0.02) and samples.std().item() == pytest.approx(0.25, rel=0.07)


def test_fresh_noise_is_that_of_ddpm_and_keeps_the_variance():
    s, eps, fresh = NoiseSchedule(20), randn(50_000, seed=1), randn(50_000, seed=2)
    for now, after in ((20, 19), (12, 5), (3, 1)):
        a, b = s.alpha_bar[now].item(), s.alpha_bar[after].item()
        posterior = (1 - b) / (1 - a) * (1 - a / b) # variance of q(y_after | y_now, y_0), Ho et al. 2020, Eq. 7
        one = dn.partly_fresh(torch.zeros(3), torch.ones(3), s, now, after, 1.0) * math.sqrt(1 - b)
        assert one.square().mean().item() == pytest.approx(posterior)
        assert dn.partly_fresh(eps, fresh, s, now, after, 0.7).var().item() == pytest.approx(1, abs=0.03)
        assert dn.partly_fresh(eps, None, s, now, after, 0.0) is eps
    assert torch.equal(s.add_noise(eps, dn.partly_fresh(eps, fresh, s, 1, 0, 1.0), 0), eps) # at t = 0 there is no noise of either kind


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ancestral_samples_of_known_data_follow_them(eta):
    "Pixels of independent normal values, where the preconditioning knows everything; finite steps narrow them a little (that of eta = 1 is exact for points)."
    denoiser = build_denoiser(replace(SMALL, T=150), data_std=0.2, data_mean=0.1).eval()
    with torch.no_grad(): denoiser.unet.conv_out.weight.zero_(), denoiser.unet.conv_out.bias.zero_()
    x = 2 * dn.sample_images(denoiser, 64, steps=None, eta=eta) - 1
    assert x.mean().item() == pytest.approx(0.1, abs=0.01) and x.std().item() == pytest.approx(0.2, rel=0.1)


def test_ancestral_samples_do_not_depend_on_the_batch(trained):
    whole = dn.sample_images(trained.model, 5, steps=6, eta=1.0)
    torch.testing.assert_close(dn.sample_images(trained.model, 5, steps=6, eta=1.0, batch_size=2), whole, atol=1e-5, rtol=0)
    assert (whole - dn.sample_images(trained.model, 5, steps=6)).abs().max() > 1e-3
    with pytest.raises(ValueError, match="eta must be between 0 and 1"): dn.sample_images(trained.model, 1, eta=1.5)


def test_samples_are_reproducible(trained):
    a = dn.sample_images(trained.model, 5, steps=8, seed=3)
    assert a.shape == (5, 1, 16, 16) and 0 <= a.min() and a.max() <= 1
    assert torch.equal(a, dn.sample_images(trained.model, 5, steps=8, seed=3))
    torch.testing.assert_close(a, dn.sample_images(trained.model, 5, steps=8, seed=3, batch_size=2), atol=1e-5, rtol=0)


# --- autoguidance --------------------------------------------------------------------------------------------------------

def pair_of_denoisers():
    return [build_denoiser(SMALL, data_std=0.5, seed=seed).eval() for seed in (0, 1)]


@pytest.mark.parametrize("weight", [1.0, 1.5, 3.0])
def test_autoguidance_is_the_formula_of_two_answers(weight):
    strong, weak = pair_of_denoisers()
    for d in (strong, weak): d.unet.conv_out.weight.data.normal_(0, 0.1, generator=generator(3, 9)) # zero, as in new networks, says nothing
    y, t = randn(3, 1, 16, 16), torch.tensor([2, 9, 18])
    with torch.no_grad():
        found, a, b = dn.Autoguided(strong, weak, weight)(y, t), strong(y, t), weak(y, t)
    assert (a - b).abs().max() > 1e-3
    torch.testing.assert_close(found, b + weight * (a - b), atol=1e-5, rtol=1e-5)
    if weight == 1: assert torch.equal(found, a)


def test_autoguidance_narrows_what_two_denoisers_blur():
    "Networks whose output is 0 are linear in y (the answer for Gaussian pixels), so the width of the samples is known at every step."
    widths, denoisers = (0.3, 0.6), [build_denoiser(replace(SMALL, T=150), data_std=width).eval() for width in (0.3, 0.6)]
    for d in denoisers: torch.nn.init.zeros_(d.unet.conv_out.weight), torch.nn.init.zeros_(d.unet.conv_out.bias)
    both, y, expected = dn.Autoguided(*denoisers, 2.0), randn(32, 1, 16, 16), 1.0
    start, s = y.std().item(), both.schedule
    for now, after in zip(s.times()[:-1], s.times()[1:]):
        with torch.no_grad(): e = both(y, now)
        y = s.add_noise(s.y0_hat(y, e, now), e, after)
        a, b = s.alpha_bar[now].item(), s.alpha_bar[after].item()
        slope = sum(w * math.sqrt(1 - a) / (a * width**2 + 1 - a) for w, width in zip((2, -1), widths)) # eps = slope y
        expected *= math.sqrt(b / a) + (math.sqrt(1 - b) - math.sqrt(b / a) * math.sqrt(1 - a)) * slope
    assert y.std().item() == pytest.approx(start * abs(expected), rel=1e-3) and abs(expected) < 0.3


def test_autoguided_denoisers_sample_move_and_come_apart():
    strong, weak = pair_of_denoisers()
    both = dn.Autoguided(strong, weak, 2.0)
    assert dn.alone(both) is strong and dn.alone(strong) is strong and dn.alone(len) is len
    samples = dn.sample_images(both, 3, steps=5)
    assert samples.shape == (3, 1, 16, 16) and samples.isfinite().all()
    double = copy.deepcopy(both).double()
    with torch.no_grad(): assert double(randn(1, 1, 16, 16).double(), 3).dtype == torch.float64


@pytest.mark.parametrize("weak, weight, error, match", [
    (lambda: build_denoiser(replace(SMALL, T=30), 0.5), 2, ValueError, "same channels, image size and schedule"),
    (lambda: build_denoiser(replace(SMALL, image_size=32), 0.5), 2, ValueError, "same channels, image size and schedule"),
    (lambda: conditional(), 2, ValueError, "without a condition"),
    (lambda: None, 2, TypeError, "weaker one must be a Denoiser, got NoneType"),
    (lambda: build_denoiser(SMALL, 0.5), 0.5, ValueError, "finite and at least 1"),
    (lambda: build_denoiser(SMALL, 0.5), math.nan, ValueError, "finite and at least 1")])
def test_what_cannot_be_driven_away_is_refused(weak, weight, error, match):
    with pytest.raises(error, match=match): dn.Autoguided(build_denoiser(SMALL, 0.5), weak(), weight)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 0), (torch.float16, 2e-2), (torch.int8, 5e-2)])
def test_files_round_trip(tmp_path, trained, dtype, tolerance):
    path = dn.save_denoiser(tmp_path / "denoiser.safetensors", trained.model, {"steps": 40}, dtype)
    loaded, meta = dn.load_denoiser(path, device="cpu")
    y = randn(2, 1, 16, 16)
    assert meta == {"steps": 40} and loaded.schedule == trained.model.schedule and not loaded.training
    with torch.no_grad(): torch.testing.assert_close(loaded(y, 6), trained.model(y, 6), atol=tolerance, rtol=0)


def test_files_that_are_damaged_or_foreign_are_refused(tmp_path, trained):
    path = dn.save_denoiser(tmp_path / "denoiser.safetensors", trained.model)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError): dn.load_denoiser(path)
    with pytest.raises(FileNotFoundError): dn.load_denoiser(tmp_path / "none.safetensors")
    from migvis.training import save_tensors
    save_tensors(path, {"w": torch.zeros(1)}, {"kind": "critics"})
    with pytest.raises(ValueError): dn.load_denoiser(path)
    header = dn.describe(trained.model)
    save_tensors(path, {"w": torch.zeros(1)}, {"kind": "denoiser", **header, "meta": {}})
    with pytest.raises(ValueError, match="do not fit"): dn.load_denoiser(path)


def test_inference_mode_leaves_nothing_behind_that_breaks_gradients():
    dn._table_on.cache_clear()
    s, y = NoiseSchedule(17), torch.randn(2, 1, 4, 4)
    with torch.inference_mode(): s.add_noise(y, y, 5), s.snr
    leaf = y.clone().requires_grad_()
    s.add_noise(leaf * leaf, y, torch.tensor([3, 9])).sum().backward()
    assert leaf.grad.abs().sum() > 0 and not s.alpha_bar.is_inference() and not s.snr.is_inference()


def test_a_run_from_other_starting_weights_is_refused(tmp_path):
    images = torch.rand(16, 1, 16, 16, generator=generator(3))
    train = lambda seed: dn.train_denoiser(images, replace(SMALL, steps=2), denoiser=build_denoiser(SMALL, 0.4, 0.0, seed), checkpoint=tmp_path,
                                           device="cpu", progress=False)
    train(0)
    with pytest.raises(ValueError, match="start"): train(1)


def test_initial_weights_leave_the_global_generators_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    build_denoiser(SMALL)
    assert torch.equal(before, torch.random.get_rng_state())


# in any company

@pytest.fixture(params=[1, 2], ids=lambda n: f"{n} threads")
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def shipped_pair(): # the shipped denoiser and, on its features, critics that nobody trained
    denoiser = load_pretrained("demo", "cpu")[0].requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return denoiser, Critics(DenoiserEncoder(denoiser), [2, 2], alpha_bar=denoiser.schedule.alpha_bar)


def test_estimates_in_any_company(threads):
    denoiser, _ = shipped_pair()
    alike, y = dn.in_any_company(denoiser), torch.randn(9, 1, 64, 64, generator=generator(3))
    def estimate(y): # and its gradient
        y = y.clone().requires_grad_()
        eps = alike(y, 70)
        return eps.detach(), torch.autograd.grad((eps * weight[:len(y)]).sum(), y)[0]
    weight = torch.randn(1, 1, 64, 64, generator=generator(4)).expand(9, -1, -1, -1)
    eps, grad = estimate(y)
    torch.testing.assert_close(eps, denoiser(y, 70), atol=1e-4, rtol=0)
    for n in (1, 3, 5, 7):
        some, slope = estimate(y[:n])
        torch.testing.assert_close(some, eps[:n], atol=2e-7, rtol=1e-6)
        torch.testing.assert_close(slope, grad[:n], atol=2e-7, rtol=1e-6)
    assert type(denoiser.unet.conv_in) is torch.nn.Conv2d and denoiser.unet.conv_in.weight is not alike.unet.conv_in.weight
    assert list(denoiser.state_dict()) == list(alike.state_dict())


@pytest.mark.parametrize("layer, shape", [(torch.nn.Linear(5, 3), (5,)), (torch.nn.Linear(5, 3, bias=False), (4, 5)),
                                          (torch.nn.Conv2d(2, 3, 3), (2, 8, 8)), (torch.nn.Conv2d(2, 3, 3, stride=2, bias=False), (2, 8, 8))])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_layers_in_any_company_compute_the_same(layer, shape, n):
    alike, x = dn.in_any_company(torch.nn.Sequential(layer)), torch.randn(n, *shape, requires_grad=True)
    torch.testing.assert_close(alike(x), layer(x))
    for ours, theirs in zip(torch.autograd.grad(alike(x).square().sum(), x), torch.autograd.grad(layer(x).square().sum(), x)):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("mode, gamma", [("selective", 0.2), ("paper", 1e4)])
def test_edits_of_single_precision_do_not_depend_on_their_company(mode, gamma):
    denoiser, critics = shipped_pair()
    (critics, alike), context = networks_in("float32", critics, denoiser, torch.device("cpu"))
    y, z, others = torch.rand(3, 1, 64, 64, generator=generator(5)), *torch.randn(2, 6, 4, generator=generator(6))
    def make(rows, **more):
        with context: return edit(y[rows], z[:3][rows], critics, alike, alike.schedule, "all", (0.0, gamma), negatives=others, z_originals=z[3:][rows],
                                  mode=mode, pairs=True, steps=6, t_edit=120, fixed_point=1, n_negatives=3, **more)
    rows = torch.arange(3)
    whole = make(rows)
    assert (whole[:, :, 1] - whole[:, :, 0]).abs().amax() > 0.01
    for other in (make(rows, batch_size=5), make(rows.flip(0), batch_size=4).flip(0), torch.cat([make(rows[:1]), make(rows[1:])])):
        torch.testing.assert_close(other, whole, atol=1e-5, rtol=0)
