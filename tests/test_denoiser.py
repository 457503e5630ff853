"""Schedules against formulas and diffusers; the denoiser's algebra, training, resuming and files."""
import copy
import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel

from migvis import denoiser as dn
from migvis.ddim_guidance import Editor
from migvis.denoiser import Denoiser, NoiseSchedule, build_denoiser
from migvis.infonce import Critics
from migvis.model import _networks_in
from migvis.simulate.pretrained import load_pretrained
from migvis.support.encoders import DenoiserEncoder
from migvis.support.files import load_tensors, save_tensors
from migvis.support.presets import DenoiserConfig, EditSettings, get_preset
from migvis.support.training import generator

SMALL = DenoiserConfig(image_size=16, width=8, multipliers=(1, 2), layers=1, patch=2, attention=False, T=20, steps=20,
                       batch_size=16, lr=2e-3)
close = torch.testing.assert_close


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, 9))


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def bars(n=64, size=16):
    "Bright vertical bars at random places on grey."
    at = torch.randint(2, size - 2, (n,), generator=generator(0, 10))
    x = torch.arange(size)[None] - at[:, None]
    return (0.5 + 0.4 * (-x.square() / 4.0).exp())[:, None, None, :].expand(n, 1, size, size).contiguous()


def bar_places(n=64, size=16):
    "Where `bars` stand, in [-1, 1]."
    return (torch.randint(2, size - 2, (n, 1), generator=generator(0, 10)) - 7.5) / 6


# --- schedules -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["sigmoid", "cosine", "linear"])
@pytest.mark.parametrize("T", [2, 20, 1000])
def test_schedule_falls_from_one_to_nearly_nothing(kind, T):
    alpha_bar = NoiseSchedule(T, kind).alpha_bar
    assert alpha_bar.dtype == torch.float64 and alpha_bar.shape == (T + 1,) and alpha_bar[0] == 1
    assert (alpha_bar.diff() < 0).all() and 0 < alpha_bar[-1] < 0.01


def test_sigmoid_is_the_published_formula():
    alpha_bar = NoiseSchedule(150).alpha_bar
    def sigmoid(x): return 1 / (1 + math.exp(-x))
    for t in (1, 40, 75, 135, 149):
        expected = (sigmoid(3) - sigmoid(-3 + 6 * t / 150)) / (sigmoid(3) - sigmoid(-3))
        assert alpha_bar[t].item() == pytest.approx(expected, rel=1e-9)
    assert (alpha_bar[150] / alpha_bar[149]).item() == pytest.approx(1e-3)


def test_a_given_schedule_is_what_was_given():
    given = (.9, .5, .1)
    schedule = NoiseSchedule(3, "given", given)
    close(schedule.alpha_bar, torch.tensor([1, *given], dtype=torch.float64), atol=0, rtol=0)
    again = NoiseSchedule(**json.loads(json.dumps(asdict(schedule)))) # lists of JSON, numbers of NumPy
    assert again == schedule == NoiseSchedule(3, "given", np.array(given)) and hash(again) == hash(schedule)
    assert schedule != NoiseSchedule(3, "given", (.9, .5, .2)) and "0.9" not in repr(schedule)
    close(schedule.table("snr", torch.zeros(1))[1:], torch.tensor([9, 1, 1 / 9]))


@pytest.mark.parametrize("T, kind, given, message", [
    (4, "given", (.9, .5, .1), "4 values that fall"), (3, "given", (), "kind='given'"), (3, "sigmoid", (.9, .5, .1), "kind='given'"),
    (3, "given", (.9, .5, 0.), "stay above 0"), (3, "given", (.9, .95, .1), "fall"), (3, "given", (1., .5, .1), "below 1"),
    (3, "given", (.9, math.nan, .1), "fall")])
def test_a_schedule_that_is_none_is_refused(T, kind, given, message):
    with pytest.raises(ValueError, match=message): NoiseSchedule(T, kind, given)


def test_a_given_schedule_is_saved_with_its_denoiser(tmp_path):
    denoiser = build_denoiser(SMALL)
    denoiser.schedule = NoiseSchedule(3, "given", (.9, .5, .1))
    loaded, _ = dn.load_denoiser(dn.save_denoiser(tmp_path / "d.safetensors", denoiser), "cpu")
    assert loaded.schedule == denoiser.schedule
    assert "given" not in load_tensors(dn.save_denoiser(tmp_path / "e.safetensors", build_denoiser(SMALL)))[1]["schedule"]


def test_curves_agree_with_diffusers():
    theirs = DDPMScheduler(150, beta_schedule="squaredcos_cap_v2").alphas_cumprod
    close(NoiseSchedule(150, "cosine").alpha_bar[1:].float(), theirs, atol=1e-6, rtol=1e-4)
    theirs = DDPMScheduler(1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear").alphas_cumprod
    close(NoiseSchedule(1000, "linear").alpha_bar[1:].float(), theirs, atol=1e-6, rtol=1e-3)
    assert NoiseSchedule(150, "linear").alpha_bar[1].item() == pytest.approx(1 - 1e-4 * 1000 / 150)


def test_noising_agrees_with_diffusers():
    scheduler, ours = DDPMScheduler(50, beta_schedule="squaredcos_cap_v2"), NoiseSchedule(50, "cosine")
    y0, noise, t = randn(6, 1, 4, 4), randn(6, 1, 4, 4, seed=1), torch.tensor([1, 2, 10, 25, 40, 50])
    close(ours.add_noise(y0, noise, t), scheduler.add_noise(y0, noise, t - 1), atol=1e-5, rtol=1e-4)


def test_conversions_are_inverse_to_each_other():
    s, y0, noise = NoiseSchedule(), randn(5, 1, 3, 3).double(), randn(5, 1, 3, 3, seed=1).double()
    for t in (1, 75, 150, torch.tensor([1, 20, 80, 140, 150])):
        y_t = s.add_noise(y0, noise, t)
        close(s.y0_hat(y_t, noise, t), y0, atol=1e-9, rtol=1e-9)
        close(s.eps_hat(y_t, y0, t), noise, atol=1e-9, rtol=1e-9)
    assert torch.equal(s.add_noise(y0, noise, 0), y0)


def test_tables_by_name_have_the_type_and_rank_of_the_images():
    s, like, t = NoiseSchedule(20), torch.zeros(4, 1, 2, 2), torch.tensor([1, 5, 20, 3])
    ab = s.alpha_bar
    for name, table in {"alpha_bar": ab, "signal": ab.sqrt(), "noise": (1 - ab).sqrt(), "snr": ab / (1 - ab)}.items():
        assert torch.equal(s.at(name, t, like), s.at(table, t, like))
        assert torch.equal(s.at(name, 5, like), s.at(table, t, like)[1:2])
        assert s.at(name, t, like.double()).dtype == torch.float64 and s.at(name, 3, like).shape == (1, 1, 1, 1)


def test_tables_made_in_inference_mode_serve_where_gradients_are_taken():
    dn._schedule_table.cache_clear()
    s, y = NoiseSchedule(17), torch.randn(2, 1, 4, 4)
    with torch.inference_mode(): s.add_noise(y, y, 5)
    leaf = y.clone().requires_grad_()
    s.add_noise(leaf * leaf, y, torch.tensor([3, 9])).sum().backward()
    assert leaf.grad.abs().sum() > 0


@pytest.mark.parametrize("bad, told", [(dict(T=1), "T must be .* got 1"), (dict(T=2.5), "T must be .* got 2.5"),
                                       (dict(kind="square"), "schedule must be one of .* got 'square'")])
def test_bad_schedules(bad, told):
    with pytest.raises(ValueError, match=told): NoiseSchedule(**bad)


@pytest.mark.parametrize("bad", [dict(t_edit=0), dict(t_edit=21), dict(t_edit=True), dict(t_edit=10, steps=11),
                                 dict(t_edit=10, steps=0), dict(steps=2.5)])
def test_bad_times(bad):
    name, value = list(bad.items())[-1]
    with pytest.raises(ValueError, match=f"{name} must be an integer in 1..[12]0, got {value}"): NoiseSchedule(20).times(**bad)


# --- the exact denoiser ----------------------------------------------------------------------------------------

def test_mixture_denoiser_is_minus_the_score():
    s, t, std = NoiseSchedule(), 80, 0.3
    means, weights = randn(3, 2).double(), torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    ab, y = s.alpha_bar[t], randn(5, 2, seed=1).double().requires_grad_()
    components = torch.distributions.Normal(ab.sqrt() * means, (ab * std**2 + 1 - ab).sqrt())
    mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(weights),
                                                    torch.distributions.Independent(components, 1))
    (score,) = torch.autograd.grad(mixture.log_prob(y).sum(), y)
    close(dn.mixture_denoiser(means, std, s, weights)(y.detach(), t), -(1 - ab).sqrt() * score)


def test_mixture_denoiser_takes_images_and_a_time_each():
    eps = dn.mixture_denoiser(randn(4, 1, 3, 3), 0.2, NoiseSchedule())
    y, t = randn(5, 1, 3, 3, seed=1), torch.tensor([3, 50, 90, 120, 150])
    close(eps(y, t), torch.cat([eps(y[i:i + 1], int(t[i])) for i in range(5)]), atol=1e-5, rtol=1e-5)


# --- the network -----------------------------------------------------------------------------------------------

def plain_unet(channels=1, size=16, out=None):
    return UNet2DModel(sample_size=size, in_channels=channels, out_channels=out or channels, layers_per_block=1,
                       block_out_channels=(8, 16), down_block_types=("DownBlock2D",) * 2,
                       up_block_types=("UpBlock2D",) * 2, norm_num_groups=4, add_attention=False)


def test_any_unet_is_accepted_and_its_output_is_eps():
    unet, y, t = plain_unet().eval(), randn(3, 1, 16, 16), torch.tensor([1, 7, 20])
    denoiser = Denoiser(unet, NoiseSchedule(20))
    with torch.no_grad():
        close(denoiser(y, t), unet(y, t).sample)
        close(Denoiser(unet, NoiseSchedule(20), first_time=0)(y, 5), unet(y, 4).sample)
    assert denoiser.image_size == 16 and denoiser.channels == 1


def test_time_may_be_a_number_or_one_for_each_image():
    denoiser, y = build_denoiser(SMALL, 0.4).eval(), randn(3, 1, 16, 16)
    with torch.no_grad(): close(denoiser(y, 7), denoiser(y, torch.tensor([7, 7, 7])))


def test_preconditioning_is_exact_for_featureless_data():
    "With a network that answers 0, the denoiser is the exact one of independent Gaussian pixels."
    denoiser = build_denoiser(SMALL, data_std=0.3, data_mean=-0.2)
    torch.nn.init.zeros_(denoiser.unet.conv_out.weight), torch.nn.init.zeros_(denoiser.unet.conv_out.bias)
    exact = dn.mixture_denoiser(torch.full((1, 1, 16, 16), -0.2), 0.3, denoiser.schedule)
    for t in (1, 5, 12, 20):
        y = randn(4, 1, 16, 16)
        with torch.no_grad(): close(denoiser(y, t), exact(y, t), atol=1e-5, rtol=1e-4)


def test_the_network_sees_and_predicts_unit_variance():
    "For Gaussian pixels, both the input and the target that the preconditioning implies have variance 1."
    denoiser = build_denoiser(SMALL, data_std=0.3, data_mean=-0.2)
    s, noise = denoiser.schedule, randn(80, 1, 16, 16, seed=1)
    y0 = -0.2 + 0.3 * randn(80, 1, 16, 16)
    for t in (1, 8, 15, 20):
        centred = (s.add_noise(y0, noise, t) - denoiser.scaling.shift[t]) * denoiser.scaling.shrink[t]
        target = (noise - denoiser.scaling.keep[t] * centred) / denoiser.scaling.reach[t]
        assert centred.std().item() == pytest.approx(1, abs=0.03) and target.std().item() == pytest.approx(1, abs=0.03)


def test_v_prediction_is_data_std_one():
    denoiser, y, t = build_denoiser(SMALL, data_std=1.0).eval(), randn(2, 1, 16, 16), 9
    ab = denoiser.schedule.alpha_bar[t].item()
    with torch.no_grad():
        patches = torch.nn.functional.pixel_unshuffle(y, denoiser.patch)
        v = torch.nn.functional.pixel_shuffle(denoiser.unet(patches, t).sample, denoiser.patch)
        close(denoiser(y, t), (1 - ab) ** 0.5 * y + ab**0.5 * v, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_patches_reach_every_pixel(patch):
    y = randn(1, 1, 16, 16).requires_grad_()
    build_denoiser(replace(SMALL, patch=patch), 0.4)(y, 5).square().sum().backward()
    assert (y.grad.abs() > 0).all()


def test_initial_weights_depend_on_the_seed_alone_and_leave_the_global_generator():
    first = build_denoiser(SMALL, seed=1)
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    again, other = build_denoiser(SMALL, seed=1), build_denoiser(SMALL, seed=2)
    assert same_weights(first, again) and not same_weights(first, other)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("name", ["tiny", "demo", "paper"])
def test_presets_build_with_wide_heads(name):
    config = get_preset(name).denoiser
    with torch.device("meta"): unet = dn._build_unet(config)
    lowest = config.width * config.multipliers[-1]
    assert unet.config.attention_head_dim == min(32, lowest)
    assert not config.attention or unet.mid_block.attentions[0].heads * 32 == lowest


def test_the_paper_preset_is_the_nearest_network_with_the_published_widths():
    "The paper's 35.7 million are those of another package's U-Net; attention in the middle is common to both."
    paper, sizes = get_preset("paper").denoiser, {}
    assert (paper.width, paper.multipliers, paper.patch, paper.attention) == (64, (1, 2, 4, 8), 1, True)
    for layers in (1, 2):
        for levels in (0, 1):
            with torch.device("meta"): unet = dn._build_unet(replace(paper, layers=layers, attention_levels=levels))
            sizes[layers, levels] = sum(p.numel() for p in unet.parameters()) / 1e6
    assert min(sizes, key=lambda key: abs(sizes[key] - 35.7)) == (paper.layers, paper.attention_levels)
    assert sizes[1, 0] == pytest.approx(39.70, abs=0.01)


def test_attention_in_the_lowest_resolutions_and_widths_between_whole_multiples():
    config = replace(SMALL, width=16, multipliers=(1, 1.5, 2), attention=True, attention_levels=2)
    denoiser = build_denoiser(config)
    assert list(denoiser.unet.config.block_out_channels) == [16, 24, 32]
    assert [hasattr(block, "attentions") for block in denoiser.unet.down_blocks] == [False, True, True]
    assert [hasattr(block, "attentions") for block in denoiser.unet.up_blocks] == [True, True, False]
    assert denoiser(torch.randn(2, 1, 16, 16), 5).shape == (2, 1, 16, 16)
    with pytest.raises(ValueError, match="attention_levels must be in 0..3"):
        build_denoiser(replace(config, attention_levels=4))


def test_tables_follow_the_weights_and_are_made_in_double_precision():
    denoiser, y = build_denoiser(SMALL, 0.4, -0.8).eval(), torch.randn(3, 1, 16, 16)
    ab = denoiser.schedule.alpha_bar
    var, double = ab * 0.4**2 + 1 - ab, copy.deepcopy(denoiser).double()
    assert torch.equal(double.scaling.shrink, var.rsqrt())
    assert torch.equal(denoiser.scaling.keep, ((1 - ab) / var).sqrt().float())
    assert torch.equal(copy.deepcopy(double).float().scaling.shift, denoiser.scaling.shift)
    assert not any(name.startswith("scaling") for name in denoiser.state_dict())
    close(double(y.double(), 7).float(), denoiser(y, 7), atol=1e-5, rtol=1e-4)
    half = copy.deepcopy(denoiser).to(torch.bfloat16)
    assert half.scaling.keep.dtype == torch.float32 and next(half.parameters()).dtype == torch.bfloat16
    assert copy.deepcopy(denoiser).to("meta").scaling.reach.device.type == "meta"


def test_networks_that_do_not_fit_are_refused():
    s = NoiseSchedule(20)
    with pytest.raises(TypeError, match="UNet2DModel"): Denoiser(torch.nn.Conv2d(1, 1, 1), s)
    with pytest.raises(ValueError, match="multiple of 4 channels"): Denoiser(plain_unet(), s, patch=2)
    with pytest.raises(ValueError, match="as many channels"): Denoiser(plain_unet(out=3), s)
    with pytest.raises(ValueError, match="square"): Denoiser(plain_unet(size=(16, 32)), s)
    with pytest.raises(ValueError, match="class_embed_type='identity'"): Denoiser(plain_unet(), s, n_condition=2)
    with pytest.raises(ValueError, match="data_std"): Denoiser(plain_unet(), s, data_std=0.0)
    with pytest.raises(ValueError, match="image_size"): build_denoiser(replace(SMALL, image_size=18))
    with pytest.raises(ValueError, match=r"\(B, 1, 16, 16\)"): Denoiser(plain_unet(), s)(torch.zeros(2, 1, 8, 8), 3)


# --- training --------------------------------------------------------------------------------------------------

def train(images=None, config=SMALL, **settings):
    settings = dict(device="cpu", progress=False) | settings
    return dn.train_denoiser(bars() if images is None else images, config, **settings)


def stop_at(last):
    "A callback that interrupts a training."
    def stop(step, model, row):
        if step >= last: raise InterruptedError
    return stop


@pytest.fixture(scope="module")
def trained():
    return train()


def test_training_lowers_the_fixed_validation_loss(trained):
    y0 = dn._check_images(bars(), 16)
    score = dn.validation_loss(y0, trained.model.schedule)
    fresh = build_denoiser(SMALL, y0.std().item(), y0.mean().item())
    assert score(trained.model) < 0.9 * score(fresh) and torch.equal(score(fresh), score(fresh))
    assert trained.history["validation"].dropna().iloc[-1] == pytest.approx(score(trained.model).item(), rel=1e-4)


def test_loss_of_a_perfect_denoiser_is_the_noise_it_cannot_know():
    s, y0, t = NoiseSchedule(20), randn(4000, 1), torch.full((4000,), 10)
    loss = dn._denoising_loss(dn.mixture_denoiser(torch.zeros(1, 1), 1.0, s), s, y0, t, randn(4000, 1, seed=1))
    assert loss.mean().item() == pytest.approx(s.alpha_bar[10].item(), rel=0.1)  # var(eps | y_t), for unit data


def test_the_loss_follows_the_network():
    "A plain network gets the paper's unweighted loss, a preconditioned one the loss of v."
    s = NoiseSchedule(20)
    assert torch.equal(dn._loss_weights(s, "eps")[1:], torch.ones(20, dtype=torch.float64))
    close(dn._loss_weights(s, "v")[1:], 1 / s.alpha_bar[1:])
    for std, kind in ((None, "eps"), (0.4, "v")):
        seen, weights = [], dn._loss_weights
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(dn, "_loss_weights", lambda schedule, kind: (seen.append(kind), weights(schedule, kind))[1])
            train(config=replace(SMALL, steps=2), denoiser=build_denoiser(SMALL, std))
        assert seen == [kind]


def test_interrupted_training_ends_with_the_same_weights(tmp_path, trained):
    with pytest.raises(InterruptedError):
        train(checkpoint=tmp_path, checkpoint_every=5, callback=stop_at(12), log_every=1)
    resumed = train(checkpoint=tmp_path, checkpoint_every=5)
    assert resumed.resumed_from == 10 and same_weights(resumed.model, trained.model)
    for change in (dict(images=bars(65)), dict(config=replace(SMALL, width=16))):
        with pytest.raises(ValueError, match="is of another run"): train(checkpoint=tmp_path, **change)


def test_the_losses_of_a_resumed_training_are_those_of_an_unbroken_one(tmp_path):
    "At every step, with validation in between."
    settings = dict(log_every=1, checkpoint_every=5)
    with pytest.raises(InterruptedError): train(checkpoint=tmp_path, callback=stop_at(12), **settings)
    resumed, unbroken = train(checkpoint=tmp_path, **settings), train(**settings)
    assert resumed.resumed_from == 10 and len(unbroken.history) == SMALL.steps
    assert resumed.history.equals(unbroken.history)


def test_training_leaves_its_pictures_alone_and_bytes_train_as_floats_do():
    pixels = (255 * bars()).round().to(torch.uint8)
    trained = []
    for images in (pixels.clone(), pixels.float() / 255, (pixels.float() / 255).numpy()):
        before = copy.deepcopy(images)
        trained.append(list(train(images=images, config=replace(SMALL, steps=4)).model.parameters()))
        assert type(images) is type(before) and (images == before).all()
    for weights in trained[1:]:
        for a, b in zip(trained[0], weights): close(a, b, atol=1e-5, rtol=1e-4)


def test_last_digits_of_the_pixel_statistics_do_not_stop_a_run(tmp_path, monkeypatch):
    "They depend on device and threads."
    short, statistics = replace(SMALL, steps=2), dn._pixel_statistics
    train(config=short, checkpoint=tmp_path)
    for factor, message in ((1 + 1e-6, None), (1.01, "another run")):
        monkeypatch.setattr(dn, "_pixel_statistics", lambda y0: tuple(factor * x for x in statistics(y0)))
        if message is None: assert train(config=short, checkpoint=tmp_path).resumed_from == 2
        else:
            with pytest.raises(ValueError, match=message): train(config=short, checkpoint=tmp_path)


def test_runs_from_other_starting_weights_are_refused(tmp_path):
    short = replace(SMALL, steps=1)
    train(config=short, denoiser=build_denoiser(SMALL), checkpoint=tmp_path)
    with pytest.raises(ValueError, match="another run"): train(config=short, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="start"):
        train(config=short, denoiser=build_denoiser(SMALL, seed=1), checkpoint=tmp_path)


def test_own_denoiser_and_bfloat16():
    denoiser = Denoiser(plain_unet(), NoiseSchedule(20, "cosine"))
    fitted = train(config=replace(SMALL, steps=3, precision="bfloat16"), denoiser=denoiser)
    assert fitted.model is denoiser and torch.isfinite(denoiser(randn(1, 1, 16, 16), 3)).all()
    with pytest.raises(ValueError, match="side 16"):
        train(images=torch.zeros(8, 1, 32, 32), config=replace(SMALL, image_size=32), denoiser=denoiser)


@pytest.mark.parametrize("bad", [torch.zeros(4, 16, 16), torch.zeros(4, 1, 16, 8), torch.zeros(4, 1, 8, 8),
                                 torch.full((4, 1, 16, 16), 1.5), torch.full((4, 1, 16, 16), math.nan),
                                 torch.zeros(0, 1, 16, 16)])
def test_images_that_do_not_fit_are_refused(bad):
    with pytest.raises(ValueError, match="images"): train(images=bad)


def test_arrays_are_images_too():
    assert dn._check_images(np.zeros((2, 1, 16, 16), "float32"), 16).unique().tolist() == [-1]


# --- a condition -----------------------------------------------------------------------------------------------

def conditional(n_condition=2):
    "A conditional denoiser whose embedding has learned something."
    denoiser = build_denoiser(SMALL, 0.4, n_condition=n_condition).eval()
    outer = denoiser.embedding.outer.weight
    with torch.no_grad(): outer.copy_(0.5 * randn(*outer.shape, seed=4))
    return denoiser


def test_a_new_condition_changes_nothing():
    free, t = build_denoiser(SMALL, 0.4, 0.1, seed=3).eval(), torch.tensor([1, 5, 12, 20])
    taught, y = dn._add_condition(free, 2), randn(4, 1, 16, 16)
    assert taught.n_condition == 2 and free.n_condition == 0 and not taught.training
    with torch.no_grad():
        for z in (None, randn(4, 2), torch.full((4, 2), math.nan)): assert torch.equal(taught(y, t, z), free(y, t))
    assert not {p.data_ptr() for p in taught.parameters()} & {p.data_ptr() for p in free.parameters()}
    built = build_denoiser(SMALL, 0.4, 0.1, seed=3, n_condition=2)
    assert same_weights(built, dn._add_condition(free, 2, seed=3))


def test_rows_of_nan_are_unconditional():
    denoiser, y, t, z = conditional(), randn(3, 1, 16, 16), torch.tensor([2, 9, 15]), randn(3, 2, seed=1)
    mixed = torch.stack([z[0], torch.full((2,), math.nan), z[2]])
    with torch.no_grad():
        out, given, free = denoiser(y, t, mixed), denoiser(y, t, z), denoiser(y, t)
        close(out, torch.stack([given[0], free[1], given[2]]), atol=1e-5, rtol=1e-5)
        assert torch.equal(free, denoiser(y, t, torch.full((3, 2), math.nan)))
        assert (given - free).abs().amax((1, 2, 3)).min() > 1e-3


def test_guidance_is_the_formula_of_two_answers():
    denoiser, y, t, z = conditional(), randn(3, 1, 16, 16), torch.tensor([2, 9, 15]), randn(3, 2, seed=1)
    nothing, w = torch.full_like(z, math.nan), torch.tensor([0.5, 2.0, -1.0])
    with torch.no_grad():
        given, free = denoiser(y, t, z), denoiser(y, t)
        expected = (1 + w)[:, None, None, None] * given - w[:, None, None, None] * free
        close(dn._conditional_eps(denoiser, nothing, z, 1 + w)(y, t), expected, atol=1e-5, rtol=1e-4)
        close(dn._conditional_eps(denoiser, nothing, z, torch.zeros(3))(y, 7), denoiser(y, 7))
        assert torch.equal(dn._conditional_eps(denoiser, nothing, z, torch.ones(3))(y, t), given)


def test_guidance_is_exact_where_it_is_known():
    "With exact branches, y_0 ~ N(0, 1) and y_0 | z ~ N(z, s^2), guided eps is the one worked out by hand."
    schedule, std, t = NoiseSchedule(20), 0.5, 9
    def exact(y, t, z):
        free = dn.mixture_denoiser(torch.zeros(1, 1, 1, 1), 1.0, schedule)(y, t)
        given = [dn.mixture_denoiser(m.view(1, 1, 1, 1), std, schedule)(y[i:i + 1], t[i:i + 1])
                 for i, m in enumerate(z.nan_to_num())]
        return torch.where(z.isnan()[:, :, None, None], free, torch.cat(given))
    z, y, ab = torch.tensor([[-0.5], [1.0]]), randn(2, 1, 1, 1), schedule.alpha_bar[t].item()
    noise = (1 - ab) ** 0.5
    expected = 3 * noise * (y - ab**0.5 * z[:, :, None, None]) / (ab * std**2 + 1 - ab) - 2 * noise * y
    close(dn._conditional_eps(exact, torch.full_like(z, math.nan), z, torch.full((2,), 3.0))(y, t), expected, atol=1e-5, rtol=1e-4)


def test_training_learns_to_use_the_condition():
    places, y0 = bar_places(), dn._check_images(bars(), 16)
    fitted = train(config=replace(SMALL, steps=150, lr=1e-2, flips=True), condition=places)
    def loss(z=None): return dn.validation_loss(y0, fitted.model.schedule, condition=z)(fitted.model).item()
    assert 1.05 * loss(places) < loss() < loss(places.flip(0))
    assert fitted.history["validation"].dropna().iloc[-1] == pytest.approx(loss(places), rel=1e-4)
    wanted = torch.tensor([[-0.8], [0.0], [0.8]])
    drawn = dn.sample_images(fitted.model, 3, steps=None, condition=wanted, batch_size=2)
    assert (drawn.mean((1, 2)).argmax(1) - (7.5 + 6 * wanted[:, 0])).abs().max() < 2, "bars stand where they should"
    for_all, each = (dn.sample_images(fitted.model, 3, steps=5, condition=z, weight=1.0)
                     for z in (wanted[0], wanted[:1].expand(3, -1)))
    assert torch.equal(for_all, each), "one condition is for all images"


def test_images_are_not_flipped_under_a_condition():
    def run(flips, **settings): return train(config=replace(SMALL, steps=3, flips=flips), **settings).model
    assert same_weights(run(True, condition=bar_places()), run(False, condition=bar_places()))
    assert not same_weights(run(True), run(False))


def test_the_condition_is_dropped_as_often_as_asked():
    seen, denoiser = [], build_denoiser(SMALL, 0.4, n_condition=1)
    def look(_, args):
        if denoiser.training: seen.append(args[0].isnan().flatten())
    denoiser.embedding.register_forward_pre_hook(look)
    train(config=replace(SMALL, steps=30, batch_size=32, ema=None), denoiser=denoiser, condition=bar_places(), drop=0.3)
    assert len(torch.cat(seen)) == 960 and torch.cat(seen).float().mean().item() == pytest.approx(0.3, abs=0.06)


def test_conditional_training_resumes_and_checks_the_condition(tmp_path):
    run = dict(config=replace(SMALL, steps=12), condition=bar_places())
    with pytest.raises(InterruptedError):
        train(**run, checkpoint=tmp_path, checkpoint_every=5, callback=stop_at(7), log_every=1)
    for change in (dict(condition=bar_places().flip(0)), dict(drop=0.2)):
        with pytest.raises(ValueError, match=next(iter(change))): train(**run | change, checkpoint=tmp_path)
    resumed = train(**run, checkpoint=tmp_path)
    assert resumed.resumed_from == 5 and same_weights(resumed.model, train(**run).model)


def test_conditional_files_round_trip(tmp_path):
    denoiser, y, z = conditional(), randn(2, 1, 16, 16), randn(2, 2, seed=1)
    loaded, _ = dn.load_denoiser(dn.save_denoiser(tmp_path / "conditional.safetensors", denoiser), device="cpu")
    assert loaded.n_condition == 2
    with torch.no_grad(): close(loaded(y, 6, z), denoiser(y, 6, z), atol=1e-6, rtol=0)
    assert "n_condition" not in dn._describe_denoiser(build_denoiser(SMALL)), "as in files written before"


def test_conditions_that_do_not_fit_are_refused():
    free, given, y = build_denoiser(SMALL), conditional(), randn(3, 1, 16, 16)
    with pytest.raises(ValueError, match="takes no condition"): free(y, 3, randn(3, 2))
    with pytest.raises(ValueError, match=r"\(3, 2\).*\(3, 5\)"): given(y, 3, randn(3, 5))
    with pytest.raises(ValueError, match=r"\(3, 2\)"): given(y, 3, randn(2, 2))
    for value in (math.nan, math.inf):
        z = randn(3, 2)
        z[1, 0] = value
        with pytest.raises(ValueError, match="finite, or all NaN.*1 of 3"): given(y, 3, z)
    for denoiser, n_condition in ((given, 3), (free, 0)):
        with pytest.raises(ValueError, match="at least 1"): dn._add_condition(denoiser, n_condition)
    with pytest.raises(ValueError, match="takes no condition"): train(denoiser=free, condition=bar_places())
    with pytest.raises(ValueError, match=r"\(64, 2\)"): train(denoiser=given, condition=bar_places())
    with pytest.raises(ValueError, match=r"\(64, .*a row for each image"): train(condition=bar_places(63))
    with pytest.raises(ValueError, match="drop"): train(condition=bar_places(), drop=1.0)


# --- samples ---------------------------------------------------------------------------------------------------

def test_samples_of_an_exact_denoiser_follow_the_data():
    def exact(y, t): return eps(y, t)
    exact.channels, exact.image_size, exact.schedule = 1, 2, NoiseSchedule()
    eps = dn.mixture_denoiser(torch.full((1, 1, 2, 2), 0.2), 0.25, exact.schedule)
    samples = 2 * dn.sample_images(exact, 2000, steps=None) - 1
    assert samples.mean().item() == pytest.approx(0.2, abs=0.02) and samples.std().item() == pytest.approx(0.25, rel=0.07)


def test_eta_noise_is_that_of_ddpm_and_keeps_the_variance():
    s, eps, fresh = NoiseSchedule(20), randn(50_000, seed=1), randn(50_000, seed=2)
    for now, after in ((20, 19), (12, 5), (3, 1)):
        a, b = s.alpha_bar[now].item(), s.alpha_bar[after].item()
        posterior = (1 - b) / (1 - a) * (1 - a / b) # variance of q(y_after | y_now, y_0), Ho et al. 2020, Eq. 7
        noise = dn._eta_noise(torch.zeros(3), torch.ones(3), s, now, after, 1.0) * math.sqrt(1 - b)
        assert noise.square().mean().item() == pytest.approx(posterior)
        assert dn._eta_noise(eps, fresh, s, now, after, 0.7).var().item() == pytest.approx(1, abs=0.03)
        assert dn._eta_noise(eps, None, s, now, after, 0.0) is eps
    assert torch.equal(s.add_noise(eps, dn._eta_noise(eps, fresh, s, 1, 0, 1.0), 0), eps), "at t = 0 there is no noise"


def test_ancestral_samples_of_known_data_follow_them():
    "Pixels of independent normal values, where the preconditioning knows everything."
    denoiser = build_denoiser(replace(SMALL, T=150), data_std=0.2, data_mean=0.1).eval()
    with torch.no_grad(): denoiser.unet.conv_out.weight.zero_(), denoiser.unet.conv_out.bias.zero_()
    x = 2 * dn.sample_images(denoiser, 64, steps=None, eta=1.0) - 1
    assert x.mean().item() == pytest.approx(0.1, abs=0.01) and x.std().item() == pytest.approx(0.2, rel=0.1)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_samples_are_reproducible_and_do_not_depend_on_the_batch(trained, eta):
    samples = dn.sample_images(trained.model, 5, steps=6, seed=3, eta=eta)
    assert samples.shape == (5, 1, 16, 16) and 0 <= samples.min() and samples.max() <= 1
    assert torch.equal(samples, dn.sample_images(trained.model, 5, steps=6, seed=3, eta=eta))
    close(dn.sample_images(trained.model, 5, steps=6, seed=3, eta=eta, batch_size=2), samples, atol=1e-5, rtol=0)
    assert (samples - dn.sample_images(trained.model, 5, steps=6, seed=3, eta=0.5)).abs().max() > 1e-3
    with pytest.raises(ValueError, match="eta must be between 0 and 1"): dn.sample_images(trained.model, 1, eta=1.5)


# --- autoguidance ----------------------------------------------------------------------------------------------

def two_denoisers():
    return [build_denoiser(SMALL, data_std=0.5, seed=seed).eval() for seed in (0, 1)]


@pytest.mark.parametrize("weight", [1.0, 1.5, 3.0])
def test_autoguidance_is_the_formula_of_two_answers(weight):
    strong, weak = two_denoisers()
    for d in (strong, weak): d.unet.conv_out.weight.data.normal_(0, 0.1, generator=generator(3, 9)) # new ones say 0
    y, t = randn(3, 1, 16, 16), torch.tensor([2, 9, 18])
    with torch.no_grad(): guided, a, b = dn.Autoguided(strong, weak, weight)(y, t), strong(y, t), weak(y, t)
    assert (a - b).abs().max() > 1e-3 and (weight > 1 or torch.equal(guided, a))
    close(guided, b + weight * (a - b), atol=1e-5, rtol=1e-5)


def test_autoguidance_narrows_what_two_denoisers_blur():
    "Networks that answer 0 are linear in y, so the width of the samples is known at every step."
    widths = 0.3, 0.6
    denoisers = [build_denoiser(replace(SMALL, T=150), data_std=width).eval() for width in widths]
    for d in denoisers: torch.nn.init.zeros_(d.unet.conv_out.weight), torch.nn.init.zeros_(d.unet.conv_out.bias)
    guided, y, expected = dn.Autoguided(*denoisers, 2.0), randn(32, 1, 16, 16), 1.0
    start, s = y.std().item(), guided.schedule
    for now, after in zip(s.times()[:-1], s.times()[1:]):
        with torch.no_grad(): eps = guided(y, now)
        y = s.add_noise(s.y0_hat(y, eps, now), eps, after)
        a, b = s.alpha_bar[now].item(), s.alpha_bar[after].item()
        slope = sum(w * math.sqrt(1 - a) / (a * width**2 + 1 - a) for w, width in zip((2, -1), widths)) # eps = slope y
        expected *= math.sqrt(b / a) + (math.sqrt(1 - b) - math.sqrt(b / a) * math.sqrt(1 - a)) * slope
    assert y.std().item() == pytest.approx(start * abs(expected), rel=1e-3) and abs(expected) < 0.3


def test_autoguided_denoisers_sample_move_and_come_apart():
    strong, weak = two_denoisers()
    guided = dn.Autoguided(strong, weak, 2.0)
    samples = dn.sample_images(guided, 3, steps=5)
    assert samples.shape == (3, 1, 16, 16) and samples.isfinite().all()
    with torch.no_grad(): assert guided.double()(randn(1, 1, 16, 16).double(), 3).dtype == torch.float64


@pytest.mark.parametrize("weak, weight, error, match", [
    (lambda: build_denoiser(replace(SMALL, T=30), 0.5), 2, ValueError, "same channels, image size and schedule"),
    (lambda: build_denoiser(replace(SMALL, image_size=32), 0.5), 2, ValueError, "same channels, image size"),
    (conditional, 2, ValueError, "without a condition"),
    (lambda: None, 2, TypeError, "takes two Denoisers, got NoneType"),
    (lambda: build_denoiser(SMALL, 0.5), 0.5, ValueError, "finite and at least 1"),
    (lambda: build_denoiser(SMALL, 0.5), math.nan, ValueError, "finite and at least 1")])
def test_pairs_that_cannot_be_autoguided_are_refused(weak, weight, error, match):
    with pytest.raises(error, match=match): dn.Autoguided(build_denoiser(SMALL, 0.5), weak(), weight)


# --- files -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 0), (torch.float16, 2e-2), (torch.int8, 5e-2)])
def test_files_round_trip(tmp_path, trained, dtype, tolerance):
    path = dn.save_denoiser(tmp_path / "denoiser.safetensors", trained.model, {"steps": 40}, dtype)
    loaded, meta = dn.load_denoiser(path, device="cpu")
    y = randn(2, 1, 16, 16)
    assert meta == {"steps": 40} and loaded.schedule == trained.model.schedule and not loaded.training
    with torch.no_grad(): close(loaded(y, 6), trained.model(y, 6), atol=tolerance, rtol=0)


def test_files_that_are_damaged_or_foreign_are_refused(tmp_path, trained):
    path = dn.save_denoiser(tmp_path / "denoiser.safetensors", trained.model)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="denoiser.safetensors is not a readable"): dn.load_denoiser(path)
    with pytest.raises(FileNotFoundError): dn.load_denoiser(tmp_path / "none.safetensors")
    save_tensors(path, {"w": torch.zeros(1)}, {"kind": "critics"})
    with pytest.raises(ValueError, match="critics"): dn.load_denoiser(path)
    header = dn._describe_denoiser(trained.model)
    save_tensors(path, {"w": torch.zeros(1)}, {"kind": "denoiser", **header, "meta": {}})
    with pytest.raises(ValueError, match="do not fit"): dn.load_denoiser(path)


# --- batch-invariant networks ----------------------------------------------------------------------------------

@pytest.fixture(params=[1, 2], ids=lambda n: f"{n} threads")
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def shipped():
    "The shipped denoiser and, on its features, critics that nobody trained."
    denoiser = load_pretrained("demo", "cpu")[0].requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return denoiser, Critics(DenoiserEncoder(denoiser), [2, 2], alpha_bar=denoiser.schedule.alpha_bar)


def test_estimates_and_gradients_do_not_depend_on_their_batch(threads, shipped):
    denoiser, y = shipped[0], torch.randn(5, 1, 64, 64, generator=generator(3))
    invariant, weight = dn.batch_invariant(denoiser), torch.randn(1, 1, 64, 64, generator=generator(4))
    def estimate(y):
        y = y.clone().requires_grad_()
        eps = invariant(y, 70)
        return eps.detach(), torch.autograd.grad((eps * weight).sum(), y)[0]
    eps, gradient = estimate(y)
    with torch.no_grad(): close(eps, denoiser(y, 70), atol=1e-4, rtol=0)
    for n in (1, 3):
        for part, whole in zip(estimate(y[:n]), (eps, gradient)): close(part, whole[:n], atol=2e-7, rtol=1e-6)
    assert type(denoiser.unet.conv_in) is torch.nn.Conv2d, "the network itself is not changed"
    assert list(denoiser.state_dict()) == list(invariant.state_dict())


@pytest.mark.parametrize("layer, shape", [
    (torch.nn.Linear(5, 3), (5,)), (torch.nn.Linear(5, 3, bias=False), (4, 5)),
    (torch.nn.Conv2d(2, 3, 3), (2, 8, 8)), (torch.nn.Conv2d(2, 3, 3, stride=2, bias=False), (2, 8, 8))])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_batch_invariant_layers_compute_the_same(layer, shape, n):
    invariant, x = dn.batch_invariant(torch.nn.Sequential(layer)), torch.randn(n, *shape, requires_grad=True)
    close(invariant(x), layer(x))
    close(*(torch.autograd.grad(network(x).square().sum(), x) for network in (invariant, layer)))


@pytest.mark.parametrize("mode, gamma", [("selective", 0.2), ("paper", 1e4)])
def test_edits_of_single_precision_do_not_depend_on_their_batch(mode, gamma, shipped):
    denoiser, critics = shipped
    critics, denoiser = _networks_in("float32", critics, denoiser, torch.device("cpu"))
    y, (z, others) = torch.rand(3, 1, 64, 64, generator=generator(5)), torch.randn(2, 6, 4, generator=generator(6))
    def make(rows, **more):
        settings = EditSettings(mode, steps=4, t_edit=120, fixed_point=1, n_negatives=3, **more)
        editor = Editor(critics, denoiser, denoiser.schedule, others, settings)
        return editor(y[rows], z[:3][rows], gammas=(0.0, gamma), z_originals=z[3:][rows], paired=True)
    rows = torch.arange(3)
    whole = make(rows)
    assert (whole[:, :, 1] - whole[:, :, 0]).abs().amax() > 0.01
    close(make(rows.flip(0), batch_size=2).flip(0), whole, atol=3e-7, rtol=0)
