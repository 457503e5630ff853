"""Inversion, sampling, guidance and edits against closed forms, diffusers' schedulers and slow reference versions."""
import json
import math

import pytest
import torch

from migvis import ddim_guidance as dg
from migvis.denoiser import (Autoguided, NoiseSchedule, build_denoiser, mixture_denoiser,
                             _mixture_posterior)
from migvis.support.encoders import ConvEncoder
from migvis.infonce import Critics
from migvis.support.presets import DenoiserConfig, EditSettings
from migvis.support.training import generator

SCHEDULE = NoiseSchedule(150)
SHORT = NoiseSchedule(20)
ANCESTRAL = EditSettings("paper", eta=1.0)
SMALL = DenoiserConfig(image_size=16, width=8, multipliers=(1, 2), layers=1, patch=2, attention=False, T=20)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, 7))


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=generator(seed, 8))


@pytest.fixture(scope="module")
def world():
    "Untrained but deterministic models: a denoiser, noise-aware critics of three groups, images and latents."
    denoiser = build_denoiser(SMALL, data_std=0.5).eval()
    torch.manual_seed(0)
    critics = Critics(ConvEncoder(16, width=8, noise_aware=True), groups=(2, 3, 1), n_latents=6, n_features=8, alpha_bar=SHORT.alpha_bar).eval()
    for p in critics.parameters(): p.data.add_(0.2 * torch.randn(p.shape))  # some are zero at first
    return dict(denoiser=denoiser, critics=critics, images=rand(3, 1, 16, 16), z=randn(40, 6))


def editor_of(world, schedule=SHORT, negatives=None, **settings):
    "An editor of the small world; six of its 18 steps, unless told otherwise."
    settings = EditSettings(**{"n_negatives": 16, "fixed_point": 1, "steps": 6} | settings)
    return dg.Editor(world["critics"], world["denoiser"], schedule, world["z"][8:] if negatives is None else negatives, settings)


def small_edit(world, originals=None, targets=None, groups="all", gammas=(0.0, 0.5), z_originals=..., paired=False, dims=None, **how):
    "An edit in the small world; `how`: settings, and what `editor_of` takes."
    originals = world["images"][:2] if originals is None else originals
    targets = world["z"][5] if targets is None else targets
    z = world["z"][:len(originals)] if z_originals is ... else z_originals
    return editor_of(world, **how)(originals, targets, groups, gammas, z_originals=z, paired=paired, dims=dims)


# --- one step ------------------------------------------------------------------------------------------------------------

def test_step_moves_along_the_marginals():
    y0, noise = randn(4, 3), randn(4, 3, seed=1)
    for start, end in ((10, 9), (9, 10), (150, 1), (1, 150), (20, 0), (0, 140)):
        stepped = dg.ddim_step(SCHEDULE.add_noise(y0, noise, start), noise, SCHEDULE.alpha_bar[start], SCHEDULE.alpha_bar[end])
        # from t = T the image is multiplied by 1 / sqrt(alpha_bar_T), about 700, and so is rounding
        torch.testing.assert_close(stepped, SCHEDULE.add_noise(y0, noise, end), atol=2e-6 / SCHEDULE.alpha_bar[start].sqrt().item() + 1e-6, rtol=0)


def test_step_is_the_equation_of_the_notes():
    y, eps, a, b = randn(5).double(), randn(5, seed=1).double(), 0.3, 0.7
    expected = math.sqrt(b / a) * y + math.sqrt(b) * (math.sqrt(1 / b - 1) - math.sqrt(1 / a - 1)) * eps
    torch.testing.assert_close(dg.ddim_step(y, eps, a, b), expected)


@pytest.mark.parametrize("kind, beta_schedule", [("cosine", "squaredcos_cap_v2")])
def test_steps_agree_with_diffusers(kind, beta_schedule):
    from diffusers import DDIMInverseScheduler, DDIMScheduler
    ours, T = NoiseSchedule(50, kind), 50
    forward = DDIMScheduler(T, beta_schedule=beta_schedule, clip_sample=False, set_alpha_to_one=True)
    inverse = DDIMInverseScheduler(T, beta_schedule=beta_schedule, clip_sample=False, set_alpha_to_one=True)
    forward.set_timesteps(T), inverse.set_timesteps(T)
    y, eps = randn(2, 1, 4, 4), randn(2, 1, 4, 4, seed=1)
    for t in (1, 2, 17, 45):  # diffusers counts the same times from 0
        down = forward.step(eps, t - 1, y).prev_sample
        torch.testing.assert_close(dg.ddim_step(y, eps, ours.alpha_bar[t], ours.alpha_bar[t - 1]), down, atol=1e-4, rtol=1e-4)
        up = inverse.step(eps, t - 1, y).prev_sample
        torch.testing.assert_close(dg.ddim_step(y, eps, ours.alpha_bar[t - 1], ours.alpha_bar[t]), up, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("bad", [(0.0, 0.5), (0.5, 0.0), (1.2, 0.5), (float("nan"), 0.5)])
def test_step_refuses_levels_outside_0_1(bad):
    with pytest.raises(ValueError, match="alpha_bar"): dg.ddim_step(randn(2), randn(2), *bad)


# --- round trips with exact denoisers ------------------------------------------------------------------------------------

def literal_step(y, eps, a, b):
    "The step as Algorithm 1 of the paper prints it."
    return math.sqrt(b / a) * y + (math.sqrt(1 / b - 1) - math.sqrt(1 / a - 1)) * eps


def walk(y, denoiser, times, step):
    "Along times in either direction, with the noise estimated at the noisier of two times."
    for now, after in zip(times, times[1:]):
        y = step(y, denoiser(y, max(now, after)), SCHEDULE.alpha_bar[now], SCHEDULE.alpha_bar[after])
    return y


def round_trip(y0, denoiser, fixed_point=0):
    y_t = dg.invert(y0, denoiser, SCHEDULE, 135, fixed_point)
    back = dg.sample(y_t, denoiser, SCHEDULE, 135)
    return (back - y0).square().mean().sqrt().item(), y_t.std().item()


def literal_round_trip(y0, denoiser, forward=literal_step):
    down = SCHEDULE.times(135)
    y_t = walk(y0, denoiser, down[::-1], literal_step)
    return (walk(y_t, denoiser, down, forward) - y0).square().mean().sqrt().item(), y_t.std().item()


def test_inversion_and_sampling_are_walks_along_the_times():
    y0 = 0.1 + 0.345 * randn(20, 1)
    exact, down = mixture_denoiser(torch.tensor([[0.1]]), 0.345, SCHEDULE), SCHEDULE.times(135)
    y_t = dg.invert(y0, exact, SCHEDULE, 135)
    torch.testing.assert_close(y_t, walk(y0, exact, down[::-1], dg.ddim_step))
    torch.testing.assert_close(dg.sample(y_t, exact, SCHEDULE, 135), walk(y_t, exact, down, dg.ddim_step))


def test_round_trip_of_a_gaussian():
    "The exact step returns, and better the more fixed-point iterations; the literal step of Algorithm 1 does neither."
    y0 = 0.1 + 0.345 * randn(2000, 1)
    exact = mixture_denoiser(torch.tensor([[0.1]]), 0.345, SCHEDULE)
    errors = [round_trip(y0, exact, fixed_point=k)[0] for k in (0, 1, 3)]
    assert errors[0] < 0.03 and errors[1] < errors[0] / 3 and errors[2] < errors[1] / 3 and errors[2] < 2e-3
    spread = round_trip(y0, exact, fixed_point=3)[1]
    marginal = (SCHEDULE.alpha_bar[135] * 0.345**2 + 1 - SCHEDULE.alpha_bar[135]).sqrt().item()
    assert 0.8 * marginal < spread < 1.6 * marginal
    both, blown_up = literal_round_trip(y0, exact)
    mixed, _ = literal_round_trip(y0, exact, forward=dg.ddim_step)
    assert both > 3 * errors[0] and mixed > both and blown_up > 8


def test_round_trip_of_a_mixture():
    means = torch.tensor([[-0.6, 0.0], [0.5, 0.5], [0.3, -0.7]])
    y0 = (means[torch.arange(600) % 3] + 0.15 * randn(600, 2)).double()
    exact = mixture_denoiser(means, 0.15, SCHEDULE)
    def error(k):  # a few points lie on the border between components, where the way back is not unique
        y_t = dg.invert(y0, exact, SCHEDULE, 135, fixed_point=k)
        return (dg.sample(y_t, exact, SCHEDULE, 135) - y0).norm(dim=1).quantile(0.98).item()
    plain, fixed, more = (error(k) for k in (0, 3, 10))
    assert plain < 0.05 and fixed < plain / 100 and more < fixed / 100
    literal, blown_up = literal_round_trip(y0, exact, forward=dg.ddim_step)
    assert literal > 0.2 and blown_up > 5


def watched(denoiser):
    "The same denoiser, and the list of times that it is asked for."
    seen = []
    def watching(y, t):
        seen.append(t)
        return denoiser(y, t)
    return watching, seen


def test_strided_steps_visit_fewer_times_and_still_return():
    exact = mixture_denoiser(torch.zeros(1, 2), 0.4, SCHEDULE)
    watching, seen = watched(exact)
    y0 = 0.4 * randn(50, 2)
    y_t = dg.invert(y0, watching, SCHEDULE, 120, steps=24, fixed_point=2)
    assert len(seen) == 24 * 3 and sorted(set(seen)) == list(range(5, 121, 5))
    back = dg.sample(y_t, exact, SCHEDULE, 120, steps=24)
    assert (back - y0).square().mean().sqrt() < 0.02


def test_noise_does_not_come_from_nothing():
    "An image without any irregularity inverts to one without noise; its noise maps begin in white noise."
    means = torch.stack([torch.zeros(400), torch.linspace(-1, 1, 400)])
    exact, ab = mixture_denoiser(means, 0.02, SCHEDULE), SCHEDULE.alpha_bar[135].item()
    y0 = means[1:].clone()
    for y_t, spread in ((dg.invert(y0, exact, SCHEDULE, 135, 2), 0.0), (dg.noise_maps(y0, exact, SCHEDULE, 135)[0], 1.0)):
        noise = (y_t - ab**0.5 * y0) / (ab * 0.02**2 + 1 - ab) ** 0.5
        assert noise.std().item() == pytest.approx(spread, abs=0.12) and abs((noise[:, 1:] * noise[:, :-1]).mean()) < 0.1


# --- exact noise maps ----------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def blobs():
    "Exact denoiser of three random images, and six images near them."
    means = rand(3, 1, 4, 4) * 1.6 - 0.8
    return mixture_denoiser(means, 0.2, SCHEDULE), means.repeat(2, 1, 1, 1) + 0.2 * randn(6, 1, 4, 4)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("t_edit, steps", [(135, None), (135, 25), (135, 1), (60, 7), (150, 50)])
def test_noise_maps_return_at_any_share_and_number_of_steps(blobs, eta, t_edit, steps):
    exact, y0 = blobs
    start, noise = dg.noise_maps(y0, exact, SCHEDULE, t_edit, steps, eta=eta)
    back = dg.sample(start, exact, SCHEDULE, t_edit, steps=steps, noise=noise, settings=EditSettings("paper", eta=eta))
    assert (back - y0).abs().max() < 1e-5 and (start - y0).abs().max() > 0.5
    guided = dg.sample(start, exact, SCHEDULE, t_edit, lambda y0, y, t: y.flatten(1).sum(1), torch.tensor([0.0, 1.0] * 3), steps,
                       EditSettings("paper", eta=eta), noise=noise)
    assert (guided - y0)[::2].abs().max() < 1e-5 and (guided - y0)[1::2].abs().amax((1, 2, 3)).min() > 1e-3


def test_noise_maps_against_the_equations(blobs):
    "Independent draws of q(y_t | y_0), and the noise that leads from one to the next (Huberman-Spiegelglas et al., Eqs. 5, 6)."
    exact, y0 = blobs
    start, noise = dg.noise_maps(y0, exact, SCHEDULE, 120, 6, eta=0.6)
    path, drawn = [start], []
    for now, n in zip((120, 100, 80, 60, 40, 20), noise):
        a, b = SCHEDULE.alpha_bar[now].item(), SCHEDULE.alpha_bar[now - 20].item()
        eps, sigma = exact(path[-1], now), 0.6 * ((1 - b) / (1 - a) * (1 - a / b)) ** 0.5
        path.append(b**0.5 * (path[-1] - (1 - a) ** 0.5 * eps) / a**0.5 + (1 - b - sigma**2) ** 0.5 * eps + n)
    torch.testing.assert_close(path[-1], y0, atol=1e-5, rtol=0)
    for t, y in zip((120, 100, 80, 60, 40, 20), path):
        ab = SCHEDULE.alpha_bar[t].item()
        drawn.append((y - ab**0.5 * y0) / (1 - ab) ** 0.5)
    together = torch.corrcoef(torch.stack(drawn).flatten(1))
    assert (together - torch.eye(6)).abs().max() < 0.4 and 0.9 < torch.stack(drawn).std() < 1.1


def test_noise_of_an_image_does_not_depend_on_the_images_beside_it(blobs):
    exact, y0 = blobs
    start, noise = dg.noise_maps(y0, exact, SCHEDULE, 120, 6)
    for own in (dict(batch_size=4), dict(batch_size=1)):
        again = dg.noise_maps(y0, exact, SCHEDULE, 120, 6, **own)
        assert torch.equal(again[0], start)
        torch.testing.assert_close(again[1], noise, atol=1e-5, rtol=0)
    order = torch.tensor([4, 1])
    part = dg.noise_maps(y0[order], exact, SCHEDULE, 120, 6)
    assert torch.equal(part[0], start[order])
    torch.testing.assert_close(part[1], noise[:, order], atol=1e-5, rtol=0)
    drawn = start - SCHEDULE.alpha_bar[120].sqrt().item() * y0
    assert torch.pdist(drawn.flatten(1)).min() > 1
    assert (dg.noise_maps(y0, exact, SCHEDULE, 120, 6, noise_seed=1)[0] - start).abs().amax((1, 2, 3)).min() > 0.1
    almost = dg.noise_maps(((y0[:1] + 1) * 127.5).round() / 127.5 - 1, exact, SCHEDULE, 120, 6)[0] # as a file of 8 bits a pixel would have it
    assert (almost - start[:1]).abs().max() < 0.01


def test_rows_share_the_noise_of_their_original(blobs):
    exact, y0 = blobs
    start, noise = dg.noise_maps(y0, exact, SCHEDULE, 120, 6)
    of = torch.tensor([3, 3, 0, 5])
    for size in (None, 3): torch.testing.assert_close(dg.sample(start[of], exact, SCHEDULE, 120, steps=6, noise=noise, noise_of=of, settings=ANCESTRAL, batch_size=size), y0[of], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kw, message", [
    (dict(noise=None), "noise="), (dict(steps=5), "same steps"), (dict(noise_of=torch.tensor([0, 6, 1, 2, 3, 4])), "6 images"),
    (dict(noise_of=torch.tensor([0])), "for each row"), (dict(noise=torch.zeros(6, 6, 1, 3, 3)), "noise must be"),
])
def test_noise_that_does_not_fit_is_refused(blobs, kw, message):
    exact, y0 = blobs
    start, noise = dg.noise_maps(y0, exact, SCHEDULE, 120, 6)
    with pytest.raises(ValueError, match=message): dg.sample(start, exact, SCHEDULE, 120, **dict(steps=6, noise=noise, settings=ANCESTRAL) | kw)
    with pytest.raises(ValueError, match="eta"): dg.noise_maps(y0, exact, SCHEDULE, 120, 6, eta=1.5)


def test_strength_is_a_dose(two_clusters):
    "Change grows with gamma, in proportion where it is weak: there is no step between gamma = 0 and the weakest edit."
    exact, y_t, guide = two_clusters
    y0 = torch.tensor([-0.6, 0.2]) + 0.1 * randn(5, 2)
    start, noise = dg.noise_maps(y0, exact, SHORT, 18)
    gammas = (0.0, 1e-4, 1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0)
    change = torch.stack([(dg.sample(start, exact, SHORT, 18, guide, g, noise=noise, settings=ANCESTRAL) - y0).norm(dim=1) for g in gammas])
    assert (change.diff(dim=0) > 0).all() and change[0].max() < 1e-5 and change[1].max() < 1e-3
    assert 5 < (change[3] / change[2]).min() and (change[3] / change[2]).max() < 20


def test_times():
    assert SCHEDULE.times(4) == [4, 3, 2, 1, 0] and SCHEDULE.times(135, 1) == [135, 0]
    times = SCHEDULE.times(135, 25)
    assert times[0] == 135 and times[-1] == 0 and all(a > b for a, b in zip(times, times[1:])) and len(times) == 26


# --- guidance ------------------------------------------------------------------------------------------------------------

def test_exact_guidance_samples_the_posterior():
    "y0 ~ N(m, s^2), z = y0 + N(0, r^2): with the true log p(z | y_t) and gamma = 1 samples follow p(y0 | z)."
    m, s, r, z = 0.2, 0.5, 0.4, -0.6
    schedule = NoiseSchedule(400)
    exact = mixture_denoiser(torch.tensor([[m]]), s, schedule)
    def guide(y0_hat, y_t, t):
        ab = schedule.alpha_bar[t].item()
        mean = m + ab**0.5 * s**2 / (ab * s**2 + 1 - ab) * (y_t - ab**0.5 * m)
        var = s**2 * (1 - ab) / (ab * s**2 + 1 - ab) + r**2
        return (-(z - mean).square() / (2 * var)).sum(1)
    out = dg.sample(randn(4000, 1), exact, schedule, 400, guide, 1.0, settings=EditSettings("paper", gradient="detached"))
    precision = 1 / s**2 + 1 / r**2
    assert out.mean().item() == pytest.approx((m / s**2 + z / r**2) / precision, abs=0.02)
    assert out.std().item() == pytest.approx(precision**-0.5, rel=0.05)


@pytest.mark.parametrize("gradient", ["through", "detached"])
def test_gradient_of_a_quadratic_guide(gradient):
    "log p = -|y0_hat - c|^2 / 2; the Gaussian denoiser makes d y0_hat / d y_t a known constant."
    s, t = 0.5, 90
    ab = SCHEDULE.alpha_bar[t].item()
    exact = mixture_denoiser(torch.zeros(1, 3), s, SCHEDULE)
    y, c = randn(6, 3), torch.tensor([0.5, -0.5, 0.2])
    eps, grad = dg.guidance_gradient(y, t, exact, SCHEDULE, lambda y0, y_t, t: -(y0 - c).square().sum(1) / 2, gradient)
    y0 = ab**0.5 * s**2 / (ab * s**2 + 1 - ab) * y
    slope = ab**0.5 * s**2 / (ab * s**2 + 1 - ab) if gradient == "through" else ab**-0.5
    torch.testing.assert_close(eps, exact(y, t))
    torch.testing.assert_close(grad, slope * (c - y0), atol=1e-5, rtol=1e-4)


def test_guided_eps_is_the_shifted_score():
    eps, grad, gamma, ab = randn(3, 1, 4, 4), randn(3, 1, 4, 4, seed=1), torch.tensor([0.0, 1.0, 2.5]), 0.36
    plain = dg.guided_eps(eps, grad, gamma, ab)
    torch.testing.assert_close(plain, eps - gamma[:, None, None, None] * 0.8 * grad)
    shift = (dg.guided_eps(eps, 100 * grad, gamma, ab, scale="eps") - eps).flatten(1).norm(dim=1)
    torch.testing.assert_close(shift, gamma * eps.flatten(1).norm(dim=1))
    assert torch.equal(dg.guided_eps(eps, 0 * grad, gamma, ab, scale="eps"), eps)  # no direction, no guidance


@pytest.mark.parametrize("size", [1e-45, 1e-40, 1e-38, 1e-30, 1e-24, 1e-19, 1e-15, 1e-8, 1.0, 1e8, 1e15, 1e20, 1e38])
def test_relative_guidance_has_the_length_of_gamma_whatever_the_gradients_size(size):
    eps, gamma, direction = randn(2, 1, 8, 8), torch.tensor([0.1, 2.0]), randn(2, 1, 8, 8, seed=1).clamp(-2, 2)
    length = lambda v: v.flatten(1).norm(dim=1)
    grad = direction * size
    ratio = length(dg.guided_eps(eps, grad, gamma, 0.36, "eps") - eps) / length(eps)
    assert torch.isfinite(ratio).all() and ((ratio / gamma - 1).abs() < 1e-4).logical_or((ratio == 0) & (size < 1e-38)).all()


def test_zero_gradients_give_no_guidance_however_large_the_estimate():
    eps, zero = 1e10 * randn(2, 1, 8, 8), torch.zeros(2, 1, 8, 8)
    for scale in ("none", "eps"): assert torch.equal(dg.guided_eps(eps, zero, torch.ones(2), 0.36, scale), eps)


def test_ordinary_gradients_are_guided_as_before_to_the_bit():
    eps, grad, gamma = randn(3, 1, 8, 8), 1e-3 * randn(3, 1, 8, 8, seed=1), torch.tensor([0.1, 1.0, 2.5])
    length = lambda x: x.double().flatten(1).norm(dim=1).float()
    ratio = length(eps) / length(grad)
    for scale, factor in {"none": 0.8 * gamma, "eps": gamma * ratio}.items():
        assert torch.equal(dg.guided_eps(eps, grad, gamma, 0.36, scale), eps - factor.view(-1, 1, 1, 1) * grad)


@pytest.mark.parametrize("n", [1, 2, 7, 24])
def test_guidance_of_a_row_does_not_depend_on_the_rows_beside_it(n):
    eps, grad, gamma = randn(24, 1, 64, 64), 1e-3 * randn(24, 1, 64, 64, seed=1), torch.linspace(0.05, 0.3, 24)
    whole, parts = dg.guided_eps(eps, grad, gamma, 0.36, "eps"), [slice(i, i + n) for i in range(0, 24, n)]
    assert torch.equal(whole, torch.cat([dg.guided_eps(eps[rows], grad[rows], gamma[rows], 0.36, "eps") for rows in parts]))


def test_guidance_raises_the_log_density_more_the_stronger_it_is():
    exact = mixture_denoiser(torch.tensor([[-0.6], [0.6]]), 0.15, SCHEDULE)
    y_t = dg.invert(-0.6 + 0.1 * randn(64, 1), exact, SCHEDULE, 135, fixed_point=3)
    guide = lambda y0, y_t, t: -(y0[:, 0] - 0.6).square()
    ends = [dg.sample(y_t, exact, SCHEDULE, 135, guide, g).mean().item() for g in (0.0, 1.0, 4.0, 16.0)]
    assert ends[0] == pytest.approx(-0.6, abs=0.05) and ends[0] < ends[1] < ends[2] < ends[3]


def test_gammas_are_per_row():
    exact = mixture_denoiser(torch.tensor([[-0.6], [0.6]]), 0.15, SHORT)
    y_t, guide = randn(3, 1), lambda y0, y_t, t: -(y0[:, 0] - 0.6).square()
    together = dg.sample(y_t, exact, SHORT, 18, guide, torch.tensor([0.0, 1.0, 3.0]))
    apart = torch.cat([dg.sample(y_t[i:i + 1], exact, SHORT, 18, guide, g) for i, g in enumerate((0.0, 1.0, 3.0))])
    torch.testing.assert_close(together, apart, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(together[:1], dg.sample(y_t[:1], exact, SHORT, 18), atol=1e-6, rtol=1e-5) # another batch rounds differently


# --- levers --------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def two_clusters():
    "Exact denoiser of two points in the plane, noise that leads to the first, and a guide to the second."
    exact = mixture_denoiser(torch.tensor([[-0.6, 0.2], [0.6, -0.1]]), 0.15, SHORT)
    y_t = dg.invert(torch.tensor([-0.6, 0.2]) + 0.1 * randn(5, 2), exact, SHORT, 18, fixed_point=3)
    return exact, y_t, lambda y0, y_t, t: -(y0 - torch.tensor([0.6, -0.1])).square().sum(1)


def slow_sample(y, exact, guide, gamma, until=0, eta=0.0, given=None):
    "Guided sampling written out with the clean estimate and the noise of every step."
    for now in range(18, 0, -1):
        a, b = SHORT.alpha_bar[now].item(), SHORT.alpha_bar[now - 1].item()
        x = y.clone().requires_grad_()
        eps = exact(x, now)
        (grad,) = torch.autograd.grad(guide((x - (1 - a) ** 0.5 * eps) / a**0.5, x, now).sum(), x)
        strength = gamma if now > until else 0.0
        y0 = (y - (1 - a) ** 0.5 * (eps.detach() - strength * (1 - a) ** 0.5 * grad)) / a**0.5
        noise = (y - a**0.5 * y0) / (1 - a) ** 0.5
        sigma = eta * ((1 - b) / (1 - a) * (1 - a / b)) ** 0.5
        y = b**0.5 * y0 + (1 - b - sigma**2) ** 0.5 * noise + (given[18 - now] if eta else 0)
    return y


@pytest.mark.parametrize("ours, slow", [
    ({}, {}), (dict(interval=(20, 7)), dict(until=7)), (dict(eta=0.7), dict(eta=0.7)), (dict(interval=(20, 4), eta=0.3), dict(until=4, eta=0.3)),
], ids=lambda d: "+".join(d) or "plain")
def test_levers_against_the_step_written_out(two_clusters, ours, slow):
    exact, y_t, guide = two_clusters
    given = 0.1 * randn(18, *y_t.shape, seed=2)
    fast, plain = (dg.sample(y_t, exact, SHORT, 18, guide, 3.0, settings=EditSettings("paper", **how), noise=given if "eta" in how else None) for how in (ours, {}))
    torch.testing.assert_close(fast, slow_sample(y_t, exact, guide, 3.0, given=given, **slow), atol=1e-4, rtol=1e-4)
    assert not ours or (fast - plain).abs().max() > 1e-3


def test_levers_leave_unguided_rows_alone(two_clusters):
    exact, y_t, guide = two_clusters
    gamma, free = torch.tensor([0.0, 2.0, 0.0, 2.0, 0.0]), dg.sample(y_t, exact, SHORT, 18)
    y0 = torch.tensor([-0.6, 0.2]) + 0.1 * randn(5, 2)
    start, noise = dg.noise_maps(y0, exact, SHORT, 18, eta=0.8)
    for how in ({}, dict(interval=(20, 5)), dict(scale="eps")):
        torch.testing.assert_close(dg.sample(y_t, exact, SHORT, 18, guide, gamma, settings=EditSettings("paper", **how))[gamma == 0], free[gamma == 0], atol=1e-4, rtol=0)
        back = dg.sample(start, exact, SHORT, 18, guide, gamma, noise=noise, settings=EditSettings("paper", eta=0.8, **how))
        torch.testing.assert_close(back[gamma == 0], y0[gamma == 0], atol=1e-4, rtol=0)


def test_guidance_that_begins_late_is_an_edit_that_is_less_deep():
    "With the inversion unguided sampling retraces it: an interval that starts late is an edit with a smaller t'."
    exact = mixture_denoiser(torch.tensor([[-0.6, 0.2], [0.6, -0.1]]), 0.15, SCHEDULE)
    y0, guide = torch.tensor([-0.6, 0.2]) + 0.1 * randn(6, 2), lambda y0, y_t, t: -(y0[:, 0] - 0.6).square()
    deep = dg.sample(dg.invert(y0, exact, SCHEDULE, 135, 6), exact, SCHEDULE, 135, guide, 2.0,
                     settings=EditSettings("paper", interval=(100, 0)))
    shallow = dg.sample(dg.invert(y0, exact, SCHEDULE, 100, 6), exact, SCHEDULE, 100, guide, 2.0)
    torch.testing.assert_close(deep, shallow, atol=0.01, rtol=0)


def test_full_eta_samples_the_marginals_and_forgets_the_start():
    "eta = 1 with white noise is ancestral sampling: whatever the noise it began with, samples of a Gaussian have its spread."
    schedule = NoiseSchedule(100)
    exact, y_t = mixture_denoiser(torch.tensor([0.2])[None], 0.4, schedule), 0.1 * randn(3000, 1)
    a, b = schedule.alpha_bar[1:].flip(0), schedule.alpha_bar[:-1].flip(0)
    sigma = ((1 - b) / (1 - a) * (1 - a / b)).sqrt().float()
    white = sigma[:, None, None] * randn(100, 3000, 1, seed=1)
    spread = [dg.sample(y_t, exact, schedule, 100, noise=noise, settings=EditSettings("paper", eta=eta)).std().item() for eta, noise in ((0.0, None), (1.0, white))]
    assert spread[0] < 0.1 and spread[1] == pytest.approx(0.4, rel=0.05)


def test_no_guide_is_asked_outside_the_interval(two_clusters):
    exact, y_t, guide = two_clusters
    asked = []
    def watching(y0, y, t):
        asked.append(t)
        return guide(y0, y, t)
    dg.sample(y_t, exact, SHORT, 18, watching, 1.0, settings=EditSettings("paper", interval=(15, 6)))
    assert asked == list(range(15, 6, -1))


@pytest.mark.parametrize("how, message", [
    (dict(mode="best"), "mode"), (dict(gradient="around"), "gradient must be one of"), (dict(scale="big"), "scale"),
    (dict(precision="half"), "precision"), (dict(interval=(5, 9)), "interval"), (dict(interval=(5, -1)), "interval"), (dict(interval=(5, 1.5)), "interval"),
    (dict(interval=5), "interval"), (dict(steps=True), "steps"), (dict(eta=1.1), "eta"), (dict(eta=float("nan")), "eta"), (dict(noise_seed=-1), "noise_seed"),
    (dict(hold=-1.0), "hold"), (dict(hold=(1.0, -1.0, 1.0)), "hold"),
    (dict(t_edit=0), "t_edit"), (dict(t_edit=1.5), "t_edit"), (dict(steps=0), "steps"), (dict(gammas=()), "gammas"), (dict(gammas=(float("inf"),)), "gammas"),
    (dict(autoguidance=0.5), "autoguidance"), (dict(candidates=0), "candidates"), (dict(candidates=1.5), "candidates"), (dict(candidates=True), "candidates"),
    (dict(candidates=2, eta=0.0), "candidates"),
], ids=lambda x: str(x)[:40])
def test_settings_that_cannot_be_meant_are_refused(how, message):
    with pytest.raises(ValueError, match=message): EditSettings(**how)


def test_settings_go_through_json_and_say_what_differs():
    settings = EditSettings(hold=torch.tensor([[0.0, 1.0], [2.0, 0.0]]), interval=[20, 4], candidates=3)
    assert settings.hold == ((0.0, 1.0), (2.0, 0.0)) and settings.interval == (20, 4) and hash(settings)
    assert EditSettings(**json.loads(json.dumps(vars(settings)))) == settings
    assert settings.changes() == {"hold": settings.hold, "interval": (20, 4), "candidates": 3} and EditSettings("paper").changes() == {}


def test_settings_are_filled_in_from_those_of_the_same_mode():
    given, preset = EditSettings(eta=0.5), EditSettings(eta=0.2, interval=(9, 3), gammas=(0.0, 1.0))
    full = given.resolve(EditSettings("paper", hold=3.0), preset)
    assert (full.eta, full.interval, full.gammas, full.hold, full.scale) == (0.5, (9, 3), (0.0, 1.0), 1.0, "eps")
    assert EditSettings("paper").resolve(preset) == EditSettings("paper").resolve() and full.resolve() == full


def test_bad_guides_are_refused():
    exact = mixture_denoiser(torch.zeros(1, 1), 0.5, SHORT)
    with pytest.raises(ValueError, match="one number per image"): dg.sample(randn(2, 1), exact, SHORT, 10, lambda y0, y, t: y0.sum(), 1.0)
    with pytest.raises(FloatingPointError, match="t=10"): dg.sample(randn(2, 1), exact, SHORT, 10, lambda y0, y, t: y0[:, 0] * float("nan"), 1.0)
    with pytest.raises(ValueError, match="batch_size"): dg.sample(randn(2, 1), exact, SHORT, 10, batch_size=0)
    with pytest.raises(ValueError, match="fixed_point"): dg.invert(randn(2, 1), exact, SHORT, 10, fixed_point=-1)


# --- the mutual-information guide ----------------------------------------------------------------------------------------

def test_mi_guide_against_one_row_and_group_at_a_time(world):
    critics, y, negatives = world["critics"], 2 * world["images"] - 1, world["z"][10:17]
    wanted, weights = world["z"][[3, 4, 3]], rand(3, 3)
    guide = dg.MIGuide(critics, wanted, negatives, weights, noisy=True)
    fast = guide(None, y, 5)
    slow = torch.zeros(3)
    for i in range(3):
        for g in range(3):
            scores = torch.stack([critics.scores(z[None], y[i:i + 1], 5)[g, 0, 0] for z in [wanted[i], *negatives]])
            slow[i] += weights[i, g] * scores.log_softmax(0)[0]
    torch.testing.assert_close(fast, slow, atol=1e-4, rtol=1e-4)
    part = guide.rows(torch.tensor([2, 0]))
    torch.testing.assert_close(part(None, y[[2, 0]], 5), fast[[2, 0]], atol=1e-5, rtol=1e-5)


def test_mi_guide_looks_at_the_clean_estimate_or_at_the_noisy_image(world):
    y0, y_t = 2 * world["images"] - 1, randn(3, 1, 16, 16)
    clean, noisy = (dg.MIGuide(world["critics"], world["z"][3], world["z"][10:17], noisy=n) for n in (False, True))
    assert torch.equal(clean(y0, y_t, 5), clean(y0, 0 * y_t, 9)) and torch.equal(noisy(y0, y_t, 5), noisy(0 * y0, y_t, 5))
    assert not torch.equal(noisy(y0, y_t, 5), noisy(y0, y_t, 9))


def test_sum_of_guides():
    a, b = (lambda y0, y, t: y0.sum(1)), (lambda y0, y, t: -y0.square().sum(1))
    y = randn(4, 2)
    torch.testing.assert_close(dg.SumGuide([a, b], [1.0, 0.5])(y, y, 3), y.sum(1) - 0.5 * y.square().sum(1))
    with pytest.raises(ValueError, match=r"one for each of 2 guides, got \[1.0\]"): dg.SumGuide([a, b], [1.0])


def test_negatives_are_fixed_and_leave_out_what_they_should():
    pool = randn(50, 4)
    none = pool[:0]
    assert torch.equal(dg._draw_negatives(pool, 10, 3, none), dg._draw_negatives(pool, 10, 3, none))
    assert not torch.equal(dg._draw_negatives(pool, 10, 3, none), dg._draw_negatives(pool, 10, 4, none))
    kept = dg._draw_negatives(pool, 100, 0, exclude=pool[:5])
    assert len(kept) == 45 and not (kept[:, None] == pool[None, :5]).all(-1).any()
    with pytest.raises(ValueError, match="no negatives"): dg._draw_negatives(pool[:2], 5, 0, exclude=pool[:2])


# --- edits ---------------------------------------------------------------------------------------------------------------

def plan_of(world, groups, gammas, targets=None, paired=False, dims=None):
    targets = world["z"][3:6] if targets is None else targets
    return dg._plan_edits(world["images"], targets, world["z"][:3], world["critics"], groups, gammas, paired, dims)


def test_rows_and_wanted_latents(world):
    plan, z, n_targets = plan_of(world, [0, 2], [0.0, 1.0]), world["z"], 3
    assert len(plan.gamma) == 3 * n_targets * 2 * 2 and plan.shape == (3, 3, 2, 2)
    grid = torch.stack([plan.original.double(), plan.group.double(), plan.gamma]).reshape(3, 3, 3, 2, 2)
    assert grid[:, 1, 2, 1, 0].tolist() == [1, 2, 0]
    wanted = plan.wanted.reshape(3, 3, 2, 2, 6)
    assert torch.equal(wanted[1, 2, 0, 1], torch.cat([z[5, :2], z[1, 2:]]))
    assert torch.equal(wanted[0, 1, 1, 0], torch.cat([z[0, :5], z[4, 5:]]))
    first = plan_of(world, [1], [1.0], dims=[0, 2]).wanted
    assert torch.equal(first[0], torch.stack([*z[0, :2], z[3, 2], z[0, 3], z[3, 4], z[0, 5]]))
    paired = plan_of(world, [0], [1.0], paired=True)
    assert paired.original.tolist() == [0, 1, 2] and torch.equal(paired.wanted[:, :2], z[3:6, :2]) and paired.shape == (3, 1, 1)


def test_shapes(world):
    assert small_edit(world).shape == (2, 3, 2, 1, 16, 16)
    out = small_edit(world, targets=world["z"][5:7], groups=[2, 0], gammas=[0.4])
    assert out.shape == (2, 2, 2, 1, 1, 16, 16) and out.dtype == torch.float32 and 0 <= out.min() and out.max() <= 1
    assert small_edit(world, targets=world["z"][5:7], paired=True, groups=[1]).shape == (2, 1, 2, 1, 16, 16)


def test_gamma_zero_is_the_unguided_round_trip(world):
    out = small_edit(world, mode="paper", gammas=(0.0, 5.0), fixed_point=4, steps=18)
    y0 = 2 * world["images"][:2] - 1
    y_t = dg.invert(y0, world["denoiser"], SHORT, 18, 4)
    back = (dg.sample(y_t, world["denoiser"], SHORT, 18) + 1) / 2
    for g in range(3): torch.testing.assert_close(out[:, g, 0], back.clamp(0, 1), atol=1e-6, rtol=0)
    assert (out[:, :, 0] - world["images"][:2, None]).abs().max() < 0.02
    assert all((out[:, g, 1] - out[:, g, 0]).abs().max() > 1e-3 for g in range(3))


@pytest.mark.parametrize("how", [{}, dict(eta=0.3), dict(steps=18), dict(noise_seed=3), dict(batch_size=2)], ids=str)
def test_selective_edits_grow_from_the_original(world, how):
    out = small_edit(world, gammas=(0.0, 1e-3, 0.1, 0.5), **how)
    change = (out - world["images"][:2, None, None]).square().mean((-3, -2, -1)).sqrt()
    assert change[..., 0].max() < 1e-6 and change[..., 1].max() < 2e-3 and (change.diff() > 0).all()


def test_paper_mode_is_algorithm_1_written_out(world):
    "Without noise: inversion and guided sampling step by step, for one group of one original."
    denoiser, critics, y = world["denoiser"], world["critics"], 2 * world["images"][:1] - 1
    ab = SHORT.alpha_bar.tolist()
    negatives = dg._draw_negatives(world["z"][8:], 16, 0, torch.cat([world["z"][5:6], world["z"][:2]]))
    step = lambda y, eps, a, b: (b / a) ** 0.5 * y + ((1 - b) ** 0.5 - (b / a * (1 - a)) ** 0.5) * eps
    with torch.no_grad():
        for t in range(1, 19):
            there = step(y, denoiser(y, t), ab[t - 1], ab[t])
            y = step(y, denoiser(there, t), ab[t - 1], ab[t])
    for t in range(18, 0, -1):
        y = y.detach().requires_grad_()
        eps = denoiser(y, t)
        scores = critics.scores(torch.cat([world["z"][5:6], negatives]), (y - (1 - ab[t]) ** 0.5 * eps) / ab[t] ** 0.5)[1, 0]
        (grad,) = torch.autograd.grad(scores.log_softmax(0)[0], y)
        y = step(y, eps - 2.0 * (1 - ab[t]) ** 0.5 * grad, ab[t], ab[t - 1])
    how = dict(mode="paper", gammas=(2.0,), steps=None)
    out = small_edit(world, **how)[0, 1, 0]
    torch.testing.assert_close(out, ((y[0] + 1) / 2).clamp(0, 1).detach(), atol=1e-5, rtol=0)
    assert torch.equal(out, small_edit(world, noise_seed=7, **how)[0, 1, 0])


def test_draws_differ_and_images_have_their_own(world):
    kw = dict(gammas=(0.0, 0.3))
    first, second = small_edit(world, **kw), small_edit(world, noise_seed=1, **kw)
    torch.testing.assert_close(first[:, :, 0], second[:, :, 0], atol=1e-6, rtol=0)
    assert (first - second)[:, :, 1].abs().amax((2, 3, 4)).min() > 1e-3
    last = small_edit(world, originals=world["images"][[2, 1]], z_originals=world["z"][[2, 1]], negatives=world["z"][20:], n_negatives=99, **kw)
    whole = small_edit(world, originals=world["images"], z_originals=world["z"][:3], negatives=world["z"][20:], n_negatives=99, **kw)
    torch.testing.assert_close(last, whole[[2, 1]], atol=1e-5, rtol=0)


def test_autoguidance_drives_the_edits_and_leaves_the_round_trip_alone(world):
    weak = build_denoiser(SMALL, data_std=0.5, seed=5).eval()
    weak.unet.conv_out.weight.data.normal_(0, 0.1, generator=generator(3, 9))
    for how in (dict(eta=0.0), {}):
        plain, driven, by_one = (small_edit(world | {"denoiser": d}, **how) for d in
                                 (world["denoiser"], Autoguided(world["denoiser"], weak, 2.0), Autoguided(world["denoiser"], weak, 1.0)))
        torch.testing.assert_close(driven[:, :, 0], plain[:, :, 0], atol=1e-6, rtol=0)
        assert torch.equal(by_one, plain) and (driven[:, :, 1] - plain[:, :, 1]).abs().amax((2, 3, 4)).min() > 1e-3
        again = small_edit(world | {"denoiser": Autoguided(world["denoiser"], weak, 2.0)}, batch_size=1, **how)
        torch.testing.assert_close(again, driven, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["paper", "selective"])
def test_same_seed_same_edit_bit_for_bit(world, mode):
    kw = dict(mode=mode, gammas=(0.0, 0.5, 2.0))
    first, second = small_edit(world, **kw), small_edit(world, **kw)
    assert torch.equal(first, second)
    assert not torch.equal(first, small_edit(world, seed=1, **kw))  # other negatives


@pytest.mark.parametrize("mode", ["paper", "selective"])
def test_batch_size_and_order_do_not_matter(world, mode):
    kw = dict(mode=mode, targets=world["z"][5:7], gammas=(0.0, 0.5))
    whole = small_edit(world, **kw)
    torch.testing.assert_close(small_edit(world, batch_size=5, **kw), whole, atol=1e-5, rtol=0)
    flipped = small_edit(world, originals=world["images"][[1, 0]], z_originals=world["z"][[1, 0]], groups=[2, 1, 0], **kw)
    torch.testing.assert_close(flipped.flip(0, 2), whole, atol=1e-5, rtol=0)


def test_every_row_equals_an_edit_of_its_own(world):
    whole = small_edit(world, targets=world["z"][5:7], gammas=(0.0, 0.5), negatives=world["z"][20:], n_negatives=99)
    alone = small_edit(world, originals=world["images"][1:2], z_originals=world["z"][1:2], targets=world["z"][6], groups=[1], gammas=(0.5,),
                       negatives=world["z"][20:], n_negatives=99)
    torch.testing.assert_close(alone[0, 0, 0], whole[1, 1, 1, 1], atol=1e-5, rtol=0)


def test_paper_mode_needs_no_latents_of_the_originals_and_ignores_other_groups(world):
    with_z = small_edit(world, mode="paper", gammas=(2.0,))
    torch.testing.assert_close(small_edit(world, mode="paper", gammas=(2.0,), z_originals=None), with_z, atol=1e-5, rtol=0)
    target = world["z"][5].clone()
    target[:2] += 1.0  # group 0 only
    changed = small_edit(world, mode="paper", gammas=(2.0,), targets=target)
    torch.testing.assert_close(changed[:, 1:], with_z[:, 1:], atol=1e-5, rtol=0)
    assert (changed[:, 0] - with_z[:, 0]).abs().max() > 1e-4


def test_hold_changes_an_edit(world):
    none, one = small_edit(world, hold=0.0), small_edit(world, hold=1.0)
    assert not torch.allclose(none, one, atol=1e-4)
    both = small_edit(world, hold=(1.0, 0.0, 1.0)) # one weight for each group, while it is edited
    torch.testing.assert_close(both[:, [0, 2]], one[:, [0, 2]], atol=1e-5, rtol=0)
    torch.testing.assert_close(both[:, 1], none[:, 1], atol=1e-5, rtol=0)


def test_hold_by_edited_and_held_group(world):
    edited, table = torch.tensor([2, 0]), torch.arange(9.0).reshape(3, 3)
    assert dg._group_weights(edited, 3, table).tolist() == [[6, 7, 1], [1, 1, 2]] # the diagonal says nothing
    assert dg._group_weights(edited, 3, [4.0, 5.0, 6.0]).tolist() == [[6, 6, 1], [1, 4, 4]]
    assert dg._group_weights(edited, 3, 0.5).tolist() == [[0.5, 0.5, 1], [1, 0.5, 0.5]]
    own = small_edit(world, hold=[[0, 1, 1], [0, 0, 0], [1, 1, 0]]) # group 1 may take along what it likes
    torch.testing.assert_close(own, small_edit(world, hold=(1.0, 0.0, 1.0)), atol=1e-5, rtol=0)
    part, whole = (small_edit(world, groups=[0], hold=h) for h in ([[9, 0, 1], [9, 9, 9], [9, 9, 9]], 1.0))
    assert (part - whole).abs().max() > 1e-4


# --- directions ----------------------------------------------------------------------------------------------------------

def test_a_direction_is_a_target_on_either_side(world):
    d, z, how = torch.tensor([0.5, -1.0, 0.0, 0.3, 2.0, 0.0]), world["z"][:2], dict(negatives=world["z"][20:], n_negatives=99)
    both = small_edit(world, targets={0: d[:2], 1: d[2:5]}, groups=[1, 0], gammas=(-0.4, 0.0, 0.2), **how)
    assert both.shape == (2, 2, 3, 1, 16, 16)
    named = small_edit(world, targets={0: d[:2], 1: d[2:5]}, gammas=(-0.4, 0.0, 0.2), **how) # "all": those it names
    torch.testing.assert_close(named, both.flip(1), atol=1e-5, rtol=0)
    ahead, behind = (small_edit(world, targets=z + sign * d, groups=[1, 0], paired=True, gammas=(0.0, 0.2, 0.4), **how) for sign in (1, -1))
    for k, same in enumerate((behind[:, :, 2], ahead[:, :, 0], ahead[:, :, 1])): torch.testing.assert_close(both[:, :, k], same, atol=1e-5, rtol=0)


def test_opposite_directions_move_opposite_ways():
    "A factor that is the brightness: exact critics of three greys; strengths of both signs move it monotonically."
    greys = torch.linspace(-0.8, 0.8, 17)
    images = greys[:, None, None, None].expand(-1, 1, 2, 2)
    exact = mixture_denoiser(images, 0.1, SHORT)
    class Grey:
        groups, n_latents, noise_aware = ((0,),), 1, True
        def scores(self, z, y, t):
            ab = SHORT.alpha_bar[t].item()
            fit = _mixture_posterior(y.flatten(1), images.flatten(1), torch.tensor([[ab**0.5]]), torch.tensor([[ab * 0.1**2 + 1 - ab]]))
            return (fit[:, None] - ((z - greys) / 0.1).square()[None] / 2).logsumexp(2)[None]
    start = torch.tensor([0.0, 0.2])
    editor = dg.Editor(Grey(), exact, SHORT, greys[:, None])
    out = editor((start[:, None, None, None].expand(2, 1, 2, 2) + 1) / 2, {0: [0.4]}, gammas=(-0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2),
                 z_originals=start[:, None])
    level = 2 * out.mean((-3, -2, -1))[:, 0] - 1
    assert (level.diff() > 0).all() and level[:, 3].sub(start).abs().max() < 1e-5
    assert (level[:, -1] - start).min() > 0.1 and (level[:, 0] - start).max() < -0.1


@pytest.mark.parametrize("kw, message", [
    (dict(targets={}), "at least one group"), (dict(targets={0: [1.0]}), "2 finite numbers"), (dict(targets={0: [1.0, float("nan")]}), "2 finite numbers"),
    (dict(targets={0: [0.0, 0.0]}), "not all 0"), (dict(targets={7: [1.0]}), "groups"), (dict(z_originals=None), "z_originals"),
    (dict(groups=[0, 1, 2]), r"nothing about the groups \[2, 3\]"), (dict(gammas=(float("nan"),)), "finite"),
], ids=lambda x: str(x)[:30])
def test_directions_that_lead_nowhere_are_refused(world, kw, message):
    with pytest.raises(ValueError, match=message): small_edit(world, **dict(targets={0: [1.0, 0.0]}, gammas=(-1.0, 1.0)) | kw)


def test_of_several_candidates_the_guides_favourite_is_kept(world):
    kw = dict(mode="selective", gammas=(0.0, 0.5))
    singles = [small_edit(world, noise_seed=s, **kw) for s in (4, 5, 6)]
    kept = small_edit(world, noise_seed=4, candidates=3, **kw)
    assert torch.equal(kept[:, :, 0], singles[0][:, :, 0]) # the round trip is the first one's
    wanted = world["z"][:2].repeat_interleave(3, 0).clone() # the original's latents, with the target's in the edited group
    for row in range(6): wanted[row, world["critics"].groups[row % 3]] = world["z"][5, world["critics"].groups[row % 3]]
    guide = dg.MIGuide(world["critics"], wanted, dg._draw_negatives(world["z"][8:], 16, 0, torch.cat([world["z"][5:6], world["z"][:2]])), noisy=True)
    rows, noise = torch.stack([x[:, :, 1].flatten(0, 1) for x in singles]), torch.randn(1, 16, 16, generator=generator(4, 46))
    def score(y, t): # of finished images in noise
        a = SHORT.alpha_bar[t].item()
        return guide(y, math.sqrt(a) * y + math.sqrt(1 - a) * noise, t)
    best = torch.stack([sum(score(2 * x - 1, t) for t in (0, 2, 5, 8, 10)) for x in rows]).argmax(0)
    assert best.unique().numel() > 1
    torch.testing.assert_close(kept[:, :, 1].flatten(0, 1), rows[best, torch.arange(len(best))], atol=1e-6, rtol=0)
    torch.testing.assert_close(small_edit(world, noise_seed=4, candidates=3, batch_size=5, **kw), kept, atol=1e-5, rtol=0)


LEVERS = dict(interval=(20, 4), scale="none", eta=0.5, noise_seed=1)

@pytest.mark.parametrize("mode", ["paper", "selective"])
def test_edits_with_every_lever_are_deterministic_too(world, mode):
    kw = dict(mode=mode, targets=world["z"][5:7], gammas=(0.0, 2.0), **LEVERS)
    whole = small_edit(world, **kw)
    assert torch.equal(whole, small_edit(world, **kw))
    torch.testing.assert_close(small_edit(world, batch_size=5, **kw), whole, atol=1e-5, rtol=0)
    assert (whole[:, :, :, 1] - whole[:, :, :, 0]).abs().max() > 1e-3


@pytest.mark.parametrize("lever", LEVERS)
def test_edit_passes_every_lever_on(world, lever):
    plain, other = (small_edit(world, gammas=(2.0,), groups=[0], **how) for how in ({}, {lever: LEVERS[lever]}))
    assert (plain - other).abs().max() > 1e-4


def test_all_times_and_strides(world):
    for kw in (dict(t_edit=20, steps=None), dict(t_edit=1, steps=1), dict(t_edit=18)):
        assert torch.isfinite(small_edit(world, gammas=(0.5,), groups=[0], **kw)).all()


BAD = {
    "unknown group": (dict(groups=[3]), "groups"), "negative group": (dict(groups=[-1]), "groups"), "no group": (dict(groups=[]), "groups"),
    "group as text": (dict(groups="pose"), "groups"), "empty dims": (dict(dims=[]), "dims"), "dims outside": (dict(groups=[0], dims=[2]), "dims"),
    "negative gamma": (dict(gammas=(-1.0,)), "gamma"), "nan gamma": (dict(gammas=(float("nan"),)), "gamma"),
    "t_edit too large": (dict(t_edit=21), "t_edit"),
    "too many steps": (dict(t_edit=10, steps=11), "steps"), "other schedule": (dict(schedule=NoiseSchedule(30)), "trained for"),
    "hold of too few": (dict(hold=(1.0, 1.0)), "one for each of the 3 groups"),
    "no latents to hold": (dict(z_originals=None), "z_originals"), "latents of others": (dict(z_originals=torch.zeros(5, 6)), "z_originals"),
    "latent size": (dict(targets=torch.zeros(5)), "latents"), "nan target": (dict(targets=torch.full((6,), float("nan"))), "finite"),
    "pairs": (dict(targets=torch.zeros(3, 6), paired=True), "paired"), "image size": (dict(originals=torch.zeros(2, 1, 8, 8)), "image"),
    "image range": (dict(originals=torch.full((2, 1, 16, 16), 3.0)), r"\[0, 1\]"), "image rank": (dict(originals=torch.zeros(2, 16, 16)), "originals"),
    "no negatives": (dict(negatives=torch.zeros(0, 6)), "negatives"), "interval before it begins": (dict(t_edit=8, interval=(20, 8)), "nothing would be guided"),
    "hold of the wrong shape": (dict(hold=[[1.0, 1.0]] * 3), "matrix"),
    "infinite gamma": (dict(gammas=(float("inf"),)), "gamma"),
    "repeated dims": (dict(dims=[0, 0], groups=[0]), "dims"), "group as float": (dict(groups=[0.5]), "groups"),
}

@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(world, case):
    kw, message = BAD[case]
    with pytest.raises(ValueError, match=message): small_edit(world, **kw)


def test_critics_that_do_not_fit_are_refused(world):
    other = Critics(ConvEncoder(16, width=8, noise_aware=True), groups=(2, 3, 1), n_latents=6, alpha_bar=NoiseSchedule(20, "cosine").alpha_bar)
    clean = Critics(ConvEncoder(16, width=8), groups=(2, 3, 1), n_latents=6)
    for critics, message in ((other, "another noise schedule"), (clean, "noise-aware")):
        with pytest.raises(ValueError, match=message): small_edit(world | {"critics": critics})
    with pytest.raises(TypeError, match="Critics"): small_edit(world | {"critics": object()})
    assert small_edit(world | {"critics": clean}, mode="paper").shape == (2, 3, 2, 1, 16, 16)


def test_negatives_leave_out_the_same_rows_as_a_comparison_of_all_pairs():
    pool = torch.randint(-1, 2, (200, 3), generator=generator(0, 1)).float() # many rows alike
    pool[:5] = -0.0
    exclude = torch.cat([pool[3:9], torch.full((2, 3), 7.0)])
    slow = pool[[not any(torch.equal(row, other) for other in exclude) for row in pool]]
    fast = dg._draw_negatives(pool, 500, seed=1, exclude=exclude)
    assert torch.equal(fast, slow[torch.randperm(len(slow), generator=generator(1, 41))]) and 0 < len(fast) < 200


def test_negatives_of_a_large_pool_are_found_in_little_memory(monkeypatch):
    pool = torch.randn(20_000, 24)
    monkeypatch.setattr(torch.Tensor, "__eq__", lambda *_: pytest.fail("every row of the pool was compared with every one that is left out"))
    assert len(dg._draw_negatives(pool, 127, 0, exclude=pool[:10_000])) == 127


def test_many_rows_are_not_scored_against_what_all_others_want():
    class Products:
        "Critics whose scores are products, which count them."
        groups, n_latents, scored = ((0, 1), (2,)), 3, 0
        def scores(self, z, y, t=None):
            Products.scored += len(z) * len(y)
            return torch.stack([y.flatten(1)[:, :2] @ z[:, :2].T, y.flatten(1)[:, 2:3] @ z[:, 2:].T])
    y, wanted, negatives = torch.randn(1500, 1, 2, 2, dtype=torch.float64), torch.randn(1500, 3, dtype=torch.float64), torch.randn(20, 3, dtype=torch.float64)
    guide = dg.MIGuide(Products(), wanted, negatives)
    fast, scored = dg._log_softmax(guide, y, None), Products.scored
    assert scored <= 1500 * (256 + 20)
    scores = Products().scores(torch.cat([wanted, negatives]), y)
    positive = scores.diagonal(dim1=1, dim2=2)
    expected = positive - torch.cat([positive[..., None], scores[..., 1500:]], 2).logsumexp(2)
    torch.testing.assert_close(fast, expected)
