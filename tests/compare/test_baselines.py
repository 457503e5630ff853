"""The baselines on exact toys with closed forms, against slow reference versions and peers, and with bad input."""
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from migvis.compare import baselines as bl
from migvis.ddim_guidance import Editor, _plan_edits
from migvis.denoiser import NoiseSchedule, build_denoiser, mixture_denoiser
from migvis.support.encoders import ConvEncoder, DenoiserEncoder
from migvis.infonce import Critics
from migvis.support.presets import CriticConfig, DenoiserConfig, EditSettings
from migvis.support.training import generator

SCHEDULE = NoiseSchedule(150)
SHORT = NoiseSchedule(20)
GROUPS, SIZES = ((0, 1), (2, 3)), (2, 2)  # two groups of the four pixels of a 2 x 2 image
SMALL = DenoiserConfig(image_size=16, width=8, multipliers=(1, 2), layers=1, patch=2, attention=False, T=20,
                       steps=60, batch_size=16, lr=2e-3)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, 17))


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=generator(seed, 18))


class Flat(torch.nn.Module):
    "Features: the pixels."
    noise_aware = True

    def __init__(self, n_features=4):
        super().__init__()
        self.n_features = n_features

    def forward(self, y, level): return y.flatten(1)


def pixel_readout(weight=None):
    "A readout whose latents are the pixels in [-1, 1], or a linear map of them."
    readout = bl._Readout(Flat(), SIZES)
    with torch.no_grad():
        readout.head[0].weight.copy_(torch.eye(4) if weight is None else weight), readout.head[0].bias.zero_()
    return readout.eval()


def shrink(s, t=135):
    ("How much of a shift of a Gaussian's mean an edit from t makes, when its deterministic way back is the "
     "shifted Gaussian's.")
    ab = SCHEDULE.alpha_bar[t].item()
    return 1 - s * math.sqrt(ab) / math.sqrt(ab * s**2 + 1 - ab)


@pytest.fixture(scope="module")
def pictures():
    "16 x 16 pictures in [0, 1] that are linear in four latents, which are known with some error."
    z, maps = randn(300, 4), randn(4, 256, seed=1)
    return (0.5 + 0.06 * (z @ maps)).clamp(0, 1).view(-1, 1, 16, 16), (z,
                                                                       torch.full_like(z, 2 * math.log(0.1)))


# --- the plan
# ------------------------------------------------------------------------------------------------------------

def test_plan_wants_the_original_with_the_targets_group():
    z, goals = randn(3, 4), randn(2, 4, seed=1)
    model = SimpleNamespace(groups=GROUPS, n_latents=4)
    plan = _plan_edits(rand(3, 1, 2, 2), goals, z, model, [1, 0], (0.0, 1.0))
    assert plan.shape == (3, 2, 2, 2) and len(plan.wanted) == 24
    for row in range(24):
        o, m, g = row // 8, row // 4 % 2, int(plan.group[row]) # original, target, group, strength
        slow = z[o].clone()
        slow[list(GROUPS[g])] = goals[m][list(GROUPS[g])]
        assert torch.equal(plan.wanted[row],
                           slow) and torch.equal(plan.z_originals[plan.original[row]], z[o])
    one = _plan_edits(rand(3, 1, 2, 2), goals[0], z, model, "all", (1.0,), dims=[1])
    assert one.shape == (3, 2, 1)
    changed = (one.wanted != z[one.original]).nonzero()[:, 1].reshape(3, 2)
    assert changed.tolist() == [[1, 3]] * 3


def test_all_editors_are_called_alike():
    "The same call, the same shape."
    torch.manual_seed(0)
    denoiser, encoder = build_denoiser(SMALL, 0.5).eval(), ConvEncoder(16, width=8, noise_aware=True)
    critics = Critics(encoder, SIZES, n_features=8, alpha_bar=SHORT.alpha_bar).eval()
    settings = EditSettings("paper", t_edit=18, fixed_point=1, n_negatives=5, seed=1, steps=4, batch_size=3)
    editors = [Editor(critics, denoiser, SHORT, randn(9, 4, seed=2), settings),
               bl.TraversalEditor(bl._ImageDecoder(SIZES, 16, 8), settings), bl.readout_editor(
                   bl._Readout(encoder, SIZES, alpha_bar=SHORT.alpha_bar).eval(), denoiser, SHORT, settings),
               bl.ConditionEditor(build_denoiser(SMALL, 0.5, n_condition=4).eval(), SHORT, SIZES, settings)]
    for editor in editors:
        out = editor(rand(2, 1, 16, 16), randn(2, 4), "all", (0.0, 0.5), z_originals=randn(2, 4, seed=3),
                     paired=True)
        assert out.shape == (2, 2, 2, 1, 16,
                             16) and 0 <= out.min() and out.max() <= 1 and out.device.type == "cpu", editor


# --- latent traversal
# ----------------------------------------------------------------------------------------------------

def test_traversal_is_a_straight_line():
    class Linear(torch.nn.Module):
        groups, n_latents, image_size = GROUPS, 4, 2
        def forward(self, z): return z.view(-1, 1, 2, 2)
    z, goal = 0.5 * rand(3, 4), -0.5 * rand(4, seed=1)
    out = bl.TraversalEditor(Linear(), EditSettings("paper", batch_size=4))(
        rand(3, 1, 2, 2), goal, gammas=(0.0, 0.25, 1.0), z_originals=z)
    for g, dims in enumerate(map(list, GROUPS)):
        for k, gamma in enumerate((0.0, 0.25, 1.0)):
            wanted = z.clone()
            wanted[:, dims] += gamma * (goal - z)[:, dims]
            torch.testing.assert_close(out[:, g, k], (wanted.view(3, 1, 2, 2) + 1) / 2)


def test_decoder_learns_a_linear_world(pictures):
    images, z = pictures
    fitted = bl.train_decoder(images, z, SIZES, width=8, steps=250,
                              held_out=(images[250:], (z[0][250:], z[1][250:])), device="cpu", progress=False)
    with torch.no_grad(): error = (fitted.model(z[0][250:]) - (2 * images[250:] - 1)).square().mean()
    assert error < 0.3 * (2 * images[250:] - 1).var(0).mean()
    torch.testing.assert_close(fitted.model.center, z[0].mean(0))
    torch.testing.assert_close(fitted.model.scale, (z[0].var(0) + 0.01).sqrt())


# --- readouts
# ------------------------------------------------------------------------------------------------------------

def test_linear_readout_is_ridge_regression():
    images, strength = rand(80, 1, 2, 2), 3.0
    z = 5 + (2 * images.flatten(1) - 1) @ randn(4, 4) * torch.tensor([1.0, 10.0, 0.1,
                                                                      1.0]) + 0.1 * randn(80, 4, seed=1)
    readout = bl.fit_linear_readout(Flat(), images, z, SIZES, strengths=(strength,))
    x = (2 * images.flatten(1) - 1).double()
    x, goal = (x - x.mean(0)) / x.std(0), ((z - z.mean(0)) / z.std(0)).double()
    slow = x @ torch.linalg.solve(x.T @ x + strength * torch.eye(4).double(),
                                  x.T @ (goal - goal.mean(0))) + goal.mean(0)
    torch.testing.assert_close(readout(2 * images - 1), slow.float(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(readout.standardise(z), goal.float(), atol=1e-4, rtol=1e-4)
    assert not any(p.requires_grad for p in readout.parameters())


def test_linear_readout_leaves_the_encoder_as_it_is():
    encoder, images = ConvEncoder(16, width=8).train(), rand(20, 1, 16, 16)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    readout = bl.fit_linear_readout(encoder, images, randn(20, 4), SIZES)
    assert encoder.training and all(p.requires_grad for p in encoder.parameters())
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
    for p in encoder.parameters(): p.data.zero_()  # nor does the readout change with it
    assert readout.encoder(images, None).abs().sum() > 0


def test_linear_readout_chooses_its_strength():
    images = rand(60, 1, 16, 16)
    noise = bl.fit_linear_readout(Flat(256), images, randn(60, 4), SIZES)           # nothing to learn
    signal = bl.fit_linear_readout(Flat(256), images, images.flatten(1)[:, :4] * 3, SIZES)
    assert noise.head[0].weight.norm() < 0.3 * signal.head[0].weight.norm()


@pytest.mark.parametrize("schedule", [None, SHORT], ids=["clean", "noise-aware"])
def test_regressor_learns_and_is_saved(pictures, schedule, tmp_path):
    images, z = pictures
    fitted = bl.train_regressor(images, z, SIZES, schedule,
                                CriticConfig(width=8, features=32, steps=150, batch_size=64, lr=4e-3),
                                device="cpu", progress=False)
    model, y = fitted.model, 2 * images - 1
    with torch.no_grad(): error = (model(y) - model.standardise(z[0])).square().mean(0)
    assert (error < 0.5).all() and model.noise_aware == (schedule is not None)
    if schedule is not None:
        with torch.no_grad():
            noisy = (model(schedule.add_noise(y, randn(*y.shape), 15),
                           15) - model.standardise(z[0])).square().mean(0)
        # noise hides the latents; predictions fall back to the mean
        assert (noisy > error).all() and (noisy < 1.6).all()
    again = bl._load_baseline(bl._save_baseline(tmp_path / "regressor.safetensors", model), "cpu")
    with torch.no_grad(): assert torch.equal(again(y[:4]), model(y[:4]))
    assert again.groups == model.groups and again.noise_aware == model.noise_aware


@pytest.mark.parametrize("other", ["images", "mean", "log_var", "held-out images"])
@pytest.mark.parametrize(
    "train", [lambda *data, **options: bl.train_regressor(
                  *data, SIZES, None, CriticConfig(width=8, features=8, steps=3, batch_size=8),
                  **options), lambda *data, **options: bl.train_decoder(
                  *data, SIZES, width=8, steps=3, batch_size=8, **options),], ids=["regressor", "decoder"])
def test_checkpoint_of_other_data_is_refused(pictures, tmp_path, train, other):
    images, (mean, log_var) = pictures
    data = {"images": images[:40].numpy(), "mean": mean[:40], "log_var": log_var[:40] + mean[:40],
            "held-out images": images[40:50]}
    def call(images, mean, log_var, held_images):
        return train(images, (mean, log_var), held_out=(held_images, z), checkpoint=tmp_path, device="cpu",
                     progress=False)
    z = mean[40:50]
    call(*data.values())
    assert call(*data.values()).resumed_from == 3
    with pytest.raises(ValueError, match="another run"):
        call(*(data | {other: data[other][::-1].copy() if other == "images"
                       else data[other].flip(0)}).values())


def test_saved_decoder_decodes_the_same(tmp_path):
    decoder = bl._ImageDecoder(SIZES, 16, 8).eval()
    decoder.center.copy_(randn(4))
    again = bl._load_baseline(bl._save_baseline(tmp_path / "decoder.safetensors", decoder), "cpu")
    assert torch.equal(again(randn(3, 4)), decoder(randn(3, 4))) and isinstance(again, bl._ImageDecoder)


# --- guides -------------------------------------------------------------------------------------------------
# -------------

@pytest.mark.parametrize("objective", ["activation", "distance"])
def test_readout_guide_against_one_row_and_latent_at_a_time(objective):
    readout, y, wanted, weights = pixel_readout(randn(4, 4)), randn(5, 1, 2, 2), randn(5, 4,
                                                                                       seed=1), rand(5, 2)
    guide, slow = bl._ReadoutGuide(readout, wanted, weights, objective), torch.zeros(5)
    for i in range(5):
        for g, dims in enumerate(GROUPS):
            for d in dims:
                z, z_hat = wanted[i, d], readout(y[i:i + 1])[0, d]
                slow[i] += weights[i, g] * (z * z_hat if objective == "activation" else -(z - z_hat)**2 / 2)
    torch.testing.assert_close(guide(y, None, 3), slow, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(guide.rows(torch.tensor([3, 0]))(y[[3, 0]], None, 3), slow[[3, 0]],
                               atol=1e-5, rtol=1e-5)


def test_readout_sees_what_it_should():
    seen = []
    class Spy:
        groups, n_latents, noise_aware = GROUPS, 4, True
        def standardise(self, z): return z
        def __call__(self, y, t=None): return seen.append((y, t)) or y.flatten(1)
    y0, y_t, ones = randn(2, 1, 2, 2), randn(2, 1, 2, 2, seed=1), torch.ones(2, 2)
    bl._ReadoutGuide(Spy(), randn(2, 4), ones)(y0, y_t, 90)
    bl._ReadoutGuide(Spy(), randn(2, 4), ones, noisy=True)(y0, y_t, 90)
    bl._ReadoutGuide(Spy(), randn(2, 4), ones, mixed=SCHEDULE.alpha_bar)(y0, y_t, 90)
    share = (1 - SCHEDULE.alpha_bar[90]).sqrt().float()
    assert seen[0] == (y0, None) and seen[1] == (y_t, 90) and seen[2][1] is None
    torch.testing.assert_close(seen[2][0], share * y0 + (1 - share) * y_t)


def test_activation_guidance_shifts_a_gaussian_world_by_its_covariance():
    ("p(y) exp(gamma <a, y>) is a Gaussian with its mean moved by gamma s^2 a; <a, y0_hat(y_t)> is its exact "
     "guide.")
    s, gamma, z = 0.2, 1.5, torch.tensor([[0.6, -0.4, 0.3, 0.8]])
    exact, y0 = mixture_denoiser(torch.zeros(1, 4), s, SCHEDULE), 0.2 * randn(6, 4).clamp(-2, 2)
    editor = bl.readout_editor(pixel_readout(), exact, SCHEDULE,
                               EditSettings("paper", t_edit=135, fixed_point=5))
    out = editor(y0.view(-1, 1, 2, 2) / 2 + 0.5, z, gammas=(0.0, gamma), z_originals=torch.zeros(6, 4))[:, 0]
    moved = 2 * out.flatten(3) - 1 - y0[:, None, None]
    assert moved[:, :, 0].abs().max() < 0.01  # the round trip
    for g, dims in enumerate(map(list, GROUPS)):
        expected = torch.zeros(4)
        expected[dims] = gamma * s**2 * z[0, dims] * shrink(s)
        torch.testing.assert_close(moved[:, g, 1], expected.expand(6, 4), atol=0.004, rtol=0.05)


def test_selective_mode_holds_the_other_latents():
    "Two correlated pixels: guidance of one drags the other along, unless it is held."
    class Correlated:
        "Posterior mean of a Gaussian with correlated pixels 0 and 2, exact at every noise level."
        groups, n_latents, noise_aware = GROUPS, 4, True
        covariance = 0.09 * (torch.eye(4) + 0.9 * torch.tensor([[0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0],
                                                                [0, 1, 0, 0.0]]))
        def gain(self, t):
            ab = SCHEDULE.alpha_bar[t].item()
            return ab**0.5 * self.covariance @ torch.linalg.inv(ab * self.covariance
                                                                + (1 - ab) * torch.eye(4))
        def standardise(self, z): return z
        def __call__(self, y, t): return y.flatten(1) @ self.gain(t).T
        def eps(self, y, t):
            ab = SCHEDULE.alpha_bar[t].item()
            return ((y.flatten(1) - ab**0.5 * self(y, t)) / (1 - ab)**0.5).view_as(y)
    world, y0 = Correlated(), torch.zeros(1, 1, 2, 2)
    def call(hold):
        editor = bl.readout_editor(world, world.eps, SCHEDULE,
                                   EditSettings(hold=hold, scale="none"), "distance")
        return editor(y0 + 0.5, torch.full((4,), 0.6), [0], (20.0,),
                      z_originals=torch.zeros(1, 4))[0, 0, 0].flatten() * 2 - 1
    free, held = call(0.0), call(3.0)
    assert free[0] > 0.4 and (free[2:] > 0.9 * free[:2]).all() and held[0] > 0.15 and (held[2:]
                                                                                       < 0.6 * held[:2]).all()


# --- classifier-free guidance
# ------------------------------------------------------------------------------------------------

class Conditional:
    "y | z ~ N(z, s^2), z ~ N(0, tau^2): the exact conditional and unconditional denoiser."
    s, tau, n_condition = 0.15, 0.25, 4

    def __call__(self, y, t, z):
        z = z.view_as(y)
        free = mixture_denoiser(torch.zeros(1, 4), math.hypot(self.s, self.tau), SCHEDULE)(y, t)
        ab = SCHEDULE.alpha_bar[t].to(y).reshape(-1, *[1] * (y.ndim - 1))
        given = (1 - ab).sqrt() / (ab * self.s**2 + 1 - ab) * (y - ab.sqrt() * z)
        return torch.where(z.isnan(), free, given)


def cfg(y0, z_targets, gammas, z_originals, reference="none", paired=False, mode="paper", **how):
    settings = EditSettings(mode, t_edit=135, fixed_point=5, **how)
    editor = bl.ConditionEditor(Conditional(), SCHEDULE, SIZES, settings, reference)
    out = editor(y0.view(-1, 1, 2, 2) / 2 + 0.5, z_targets, gammas=gammas, z_originals=z_originals,
                 paired=paired)
    return 2 * out.flatten(-3) - 1


def test_conditional_model_follows_the_flow_of_the_wanted_gaussian():
    "gamma = 1: up the unconditional flow, down the conditional one, both known in closed form."
    y0, z, goal = 0.3 * randn(5, 4).clamp(-1.5, 1.5), 0.3 * randn(5, 4, seed=1), torch.tensor([0.3, -0.3, 0.2,
                                                                                               -0.2])
    out, ab, c = cfg(y0, goal, (0.0, 1.0), z), SCHEDULE.alpha_bar[135].item(), Conditional()
    free, own = (math.sqrt(ab * v + 1 - ab) for v in (c.s**2 + c.tau**2, c.s**2))
    assert (out[:, :, 0] - y0[:, None]).abs().max() < 0.01
    for g, dims in enumerate(map(list, GROUPS)):
        wanted = z.clone()
        wanted[:, dims] = goal[dims]
        expected = wanted + c.s * (y0 / math.hypot(c.s, c.tau) * free - ab**0.5 * wanted) / own
        torch.testing.assert_close(out[:, g, 1], expected, atol=0.01, rtol=0.03)


def test_guidance_between_two_conditions_moves_only_what_is_exchanged():
    y0, z, goal = 0.3 * randn(5, 4).clamp(-1.5, 1.5), 0.2 * randn(5, 4, seed=1), torch.tensor([0.3, -0.3, 0.2,
                                                                                               -0.2])
    out = cfg(y0, goal, (0.0, 1.0, 1.7), z, reference="original")
    for g, dims in enumerate(map(list, GROUPS)):
        for k, gamma in enumerate((0.0, 1.0, 1.7)):
            expected = y0.clone()
            expected[:, dims] += gamma * shrink(Conditional.s) * (goal - z)[:, dims]
            torch.testing.assert_close(out[:, g, k], expected.clamp(-1, 1), atol=0.01, rtol=0.03)


@pytest.mark.parametrize("reference", ["none", "original"])
def test_batches_do_not_change_conditional_edits(reference):
    y0, z, goals = 0.2 * randn(3, 4), randn(3, 4, seed=1), 0.3 * randn(3, 4, seed=2)
    whole = cfg(y0, goals, (0.0, 0.5, 2.0), z, reference=reference, paired=True, steps=10)
    torch.testing.assert_close(cfg(y0, goals, (0.0, 0.5, 2.0), z, reference=reference, paired=True, steps=10,
                                   batch_size=2), whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(cfg(y0[1:2], goals[1:2], (2.0,), z[1:2], reference=reference, paired=True,
                                   steps=10)[0, :, 0], whole[1, :, 2], atol=1e-5, rtol=0)


@pytest.mark.parametrize("lever", [dict(eta=0.5), dict(interval=(150, 9)), dict(scale="eps"),
                                   dict(gradient="detached"), dict(noisy=True), dict(hold=1.0)], ids=lambda d: next(iter(d)))
def test_levers_that_a_conditional_edit_cannot_honour_are_refused(lever):
    y0, z = 0.2 * randn(2, 4), randn(2, 4, seed=1)
    with pytest.raises(ValueError, match=next(iter(lever))): cfg(y0, z[0], (1.0,), z, **lever)
    with pytest.raises(ValueError, match="selective.*mode='paper'"): cfg(y0, z[0], (1.0,), z, mode="selective")
    plain = {name: getattr(EditSettings("paper").resolve(), name) for name in lever}
    assert torch.equal(cfg(y0, z[0], (1.0,), z, steps=5, **plain), cfg(y0, z[0], (1.0,), z, steps=5))


def test_conditional_training_uses_the_latents(pictures):
    images, (z, _) = pictures
    base = build_denoiser(SMALL, 0.3).eval()
    fitted = bl.train_conditional(images, z, base, replace(SMALL, lr=1e-2, steps=150), device="cpu",
                                  progress=False)
    assert fitted.model.n_condition == 4 and base.n_condition == 0
    noise = randn(300, 1, 16, 16)
    y = SHORT.add_noise(2 * images - 1, noise, 5)
    with torch.no_grad(): given, free = ((fitted.model(y, 5, *c) - noise).square().mean() for c in ((z,), ()))
    assert given < 0.98 * free


# --- bad input
# -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(
    "change, message",
    [(dict(z_originals=randn(3, 4)), "3 in z_originals"), (dict(z_originals=randn(2, 5)), "4 latents"),
     (dict(groups=[2]), "0..1"), (dict(gammas=(-1.0,)), "not negative"), (dict(gammas=(math.nan,)), "finite"),
     (dict(z_targets=torch.full((4,), math.nan)), "finite"), (dict(originals=rand(2, 2, 2)), "shape"),
     (dict(originals=2 + rand(2, 1, 2, 2)), r"\[0, 1\]"), (dict(dims=[2]), "dims"),
     (dict(z_targets=randn(3, 4), paired=True), "paired=True"),])
@pytest.mark.parametrize("editor", ["readout", "condition", "traversal"])
def test_bad_edits_are_refused(editor, change, message):
    exact = mixture_denoiser(torch.zeros(1, 4), 0.5, SCHEDULE)
    call = {"readout": bl.readout_editor(pixel_readout(), exact, SCHEDULE),
            "condition": bl.ConditionEditor(Conditional(), SCHEDULE, SIZES),
            "traversal": bl.TraversalEditor(bl._ImageDecoder(SIZES, 8, 8))}[editor]
    size = 8 if editor == "traversal" else 2
    arguments = dict(originals=rand(2, 1, size, size), z_targets=randn(4), groups="all", gammas=(0.0, 1.0),
                     z_originals=randn(2, 4)) | change
    if size == 8 and "originals" in change:
        arguments["originals"] = change["originals"].repeat_interleave(4, -1).repeat_interleave(4, -2)
    with pytest.raises(ValueError, match=message):
        call(arguments.pop("originals"), arguments.pop("z_targets"), **arguments)


def test_models_that_do_not_fit_are_refused():
    exact, selective = mixture_denoiser(torch.zeros(1, 4), 0.5, SCHEDULE), EditSettings()
    with pytest.raises(TypeError, match="readout must have"): bl.readout_editor(exact, exact, SCHEDULE)
    with pytest.raises(ValueError, match="noise-aware"):
        bl.readout_editor(pixel_readout(), exact, SCHEDULE, selective)
    with pytest.raises(ValueError, match="another noise schedule"):
        bl.readout_editor(bl._Readout(Flat(), SIZES, alpha_bar=SHORT.alpha_bar), exact, SCHEDULE, selective)
    with pytest.raises(ValueError, match="candidates"):
        bl.readout_editor(pixel_readout(), exact, SCHEDULE, EditSettings("paper", candidates=2, eta=1.0))
    with pytest.raises(ValueError, match="objective"):
        bl.readout_editor(pixel_readout(), exact, SCHEDULE, objective="most")
    with pytest.raises(ValueError, match="mixed"):
        bl.readout_editor(pixel_readout(), exact, SCHEDULE, EditSettings("paper", noisy=True), mixed=True)
    with pytest.raises(ValueError, match="reference"):
        bl.ConditionEditor(Conditional(), SCHEDULE, SIZES, reference="x")
    with pytest.raises(ValueError, match="length 4"): bl.ConditionEditor(Conditional(), SCHEDULE, (3, 3))
    with pytest.raises(ValueError, match="takes no t"): pixel_readout()(randn(1, 1, 2, 2), 5)


def test_bad_training_data_are_refused(pictures):
    images, z = pictures
    with pytest.raises(ValueError, match="z"): bl._pair_images(images, z[0][:5], "cpu")
    with pytest.raises(ValueError, match="finite"): bl._pair_images(images, z[0] * math.nan, "cpu")
    with pytest.raises(ValueError, match="at least 2"): bl._pair_images(images[:1], z[0][:1], "cpu")
    with pytest.raises(ValueError, match="too few"):
        bl._splits(images[:3], z[0][:3], None, 0, torch.device("cpu"))
    with pytest.raises(ValueError, match="image_size"): bl._ImageDecoder(SIZES, 24)
    with pytest.raises(ValueError, match="encoders"): bl._save_baseline("x.safetensors", pixel_readout())


def test_a_regressors_encoder_is_copied_and_tells_checkpoints_apart(tmp_path):
    images, z = rand(16, 1, 16, 16), randn(16, 4)
    def encoder(seed):
        torch.manual_seed(seed)
        return ConvEncoder(16, 4, 16, noise_aware=True)
    train = lambda e: bl.train_regressor(images, z, SIZES, SHORT,
                                         CriticConfig(width=4, features=8, steps=2, batch_size=8), encoder=e,
                                         checkpoint=tmp_path, device="cpu", progress=False)
    own = encoder(0)
    before = [p.detach().clone() for p in own.parameters()]
    train(own)
    assert all(torch.equal(a, b) for a, b in zip(before, own.parameters()))
    with pytest.raises(ValueError, match="encoder"): train(encoder(1))


def test_a_condition_for_another_denoiser_is_another_run(tmp_path):
    images, z = rand(16, 1, 16, 16), randn(16, 4)
    train = lambda seed: bl.train_conditional(images, z, build_denoiser(SMALL, 0.4, 0.0, seed),
                                              replace(SMALL, steps=2), checkpoint=tmp_path, device="cpu",
                                              progress=False)
    train(0)
    with pytest.raises(ValueError, match="start"): train(1)


def test_a_regressor_learns_from_views_of_a_frozen_encoder():
    denoiser, random = build_denoiser(DenoiserConfig(image_size=16, width=8, multipliers=(1, 2),
                                                     layers=1, patch=2, attention=False, T=20), 0.4,
                                      -0.8), generator(12)
    z = torch.rand(160, 2, generator=random) * 2 - 1
    images = 0.5 + 0.3 * z[:, :1, None, None].expand(-1, 1, 16, 16) # the first latent is the brightness
    config = CriticConfig(features=8, steps=150, batch_size=32, lr=1e-2, dropout=0.0, views=3)
    fitted = bl.train_regressor(images, z, (1, 1), denoiser.schedule, config, encoder=DenoiserEncoder(
                                    denoiser, n_features=16), device="cpu", progress=False)
    predicted = fitted.model(images * 2 - 1)
    error = (predicted - fitted.model.standardise(z)).square().mean(0)
    assert error[0] < 0.3 and error[1] > 0.6
