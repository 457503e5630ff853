"""Denoisers made of diffusers' models against its own schedulers; small networks with random weights."""
import copy
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (AutoencoderKL, DDIMInverseScheduler, DDIMPipeline, DDIMScheduler, DDPMPipeline,
                       DDPMScheduler, FlowMatchEulerDiscreteScheduler, LDMPipeline, UNet2DConditionModel,
                       UNet2DModel, VQModel)
from torch import nn

from migvis.ddim_guidance import Editor, ddim_step, invert, noise_maps, sample
from migvis.denoiser import NoiseSchedule, sample_images
from migvis.model import MIGVis
from migvis.pretrained.diffusers import DiffusersDenoiser, _identify, from_diffusers, preset_for
from migvis.simulate.it import simulate_hvm
from migvis.support.encoders import _middle_features
from migvis.support.files import digest_weights
from migvis.support.presets import EditSettings
from migvis.support.training import generator
from tests.made import SMALL

LEVELS = dict(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4)
PLAIN = dict(down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
BETAS = "linear", "scaled_linear", "squaredcos_cap_v2"
KINDS = "epsilon", "v_prediction", "sample"
close = torch.testing.assert_close


def unet(size=8, channels=3, out=None, **more):
    torch.manual_seed(0)
    return UNet2DModel(sample_size=size, in_channels=channels, out_channels=out or channels,
                       **LEVELS, **PLAIN | more)


def prompted(size=8, **more):
    torch.manual_seed(0)
    blocks = dict(down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                  up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
    return UNet2DConditionModel(sample_size=size, cross_attention_dim=6, attention_head_dim=4,
                                **LEVELS | blocks | more)


def autoencoder(kind):
    torch.manual_seed(1)
    parts = dict(in_channels=3, out_channels=3, latent_channels=4, scaling_factor=.5, norm_num_groups=4,
                 block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2,
                 up_block_types=("UpDecoderBlock2D",) * 2)
    return (VQModel(**parts) if kind == "vq" else AutoencoderKL(**parts, shift_factor=.1)).eval()


def scheduler(kind="epsilon", beta_schedule="linear", T=100, cls=DDIMScheduler, **more):
    clip = {} if cls is FlowMatchEulerDiscreteScheduler else {"clip_sample": False}
    return cls(num_train_timesteps=T, beta_schedule=beta_schedule, prediction_type=kind, **clip, **more)


def pictures(n=2, channels=3, size=8, seed=0):
    return torch.rand(n, channels, size, size, generator=generator(seed, 9))


def latent_pipeline(kind="vq"): return LDMPipeline(autoencoder(kind), unet(4, 4), scheduler())


class Latents:
    "What an editor with a guide of one's own needs of critics."
    groups, n_latents = ((0, 1),), 2


def edit(denoiser, guide, gammas, images, **settings):
    settings = EditSettings("paper", t_edit=60, steps=12, scale="eps", **settings)
    editor = Editor(Latents(), denoiser, denoiser.schedule, settings=settings, guide=lambda *rows: guide)
    return editor(images, torch.zeros(2), gammas=gammas, z_originals=torch.zeros(len(images), 2))[:, 0]


def brighter(y0_hat, y_t, t): return 100 * y0_hat.mean((1, 2, 3))


# --- one step, all steps: diffusers as the oracle -------------------------------------------------

@pytest.mark.parametrize("beta_schedule", BETAS)
@pytest.mark.parametrize("T", [50, 1000])
@pytest.mark.parametrize("cls", [DDPMScheduler, DDIMScheduler])
def test_schedule_is_the_schedulers(beta_schedule, T, cls):
    theirs = scheduler(beta_schedule=beta_schedule, T=T, cls=cls)
    schedule = from_diffusers(unet(), theirs).schedule
    assert schedule.T == T and schedule.alpha_bar[0] == 1
    close(schedule.alpha_bar[1:].float(), theirs.alphas_cumprod, atol=0, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beta_schedule", BETAS)
def test_one_step_is_that_of_ddim(kind, beta_schedule):
    theirs = scheduler(kind, beta_schedule, set_alpha_to_one=True)
    theirs.set_timesteps(10)
    denoiser, y = from_diffusers(unet(), theirs), 2 * pictures() - 1
    for number in (0, 5, 9):
        t = int(theirs.timesteps[number])
        with torch.no_grad():
            expected = theirs.step(denoiser.unet(y, t).sample, t, y).prev_sample
            eps = denoiser(y, t + 1)
        a, b = (denoiser.schedule.alpha_bar[i] for i in (t + 1, max(t + 1 - 10, 0)))
        close(ddim_step(y, eps, a, b), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_inversion_is_that_of_the_inverse_scheduler(kind):
    "From noise estimates: diffusers would convert v and clean images at the time before the network's."
    theirs = scheduler(T=20, cls=DDIMInverseScheduler)
    theirs.set_timesteps(20)
    denoiser, y0 = from_diffusers(unet(), scheduler(kind, T=20)), 2 * pictures() - 1
    y = y0
    for t in theirs.timesteps.tolist():
        with torch.no_grad(): y = theirs.step(denoiser(y, t + 1), t, y).prev_sample
    close(invert(y0, denoiser, denoiser.schedule, 20), y, atol=2e-5, rtol=1e-4)


class Fixed(nn.Module):
    "A network in place of another, which returns what a function says."
    def __init__(self, network, answer):
        super().__init__()
        self.config, self.dtype, self.answer = network.config, torch.float32, answer

    def forward(self, y_t, t): return type("Output", (), {"sample": self.answer(y_t, t)})


def test_predictions_agree_where_they_say_the_same():
    "One noise, told as noise, as v and as clean image."
    network, schedule = unet(), from_diffusers(unet(), scheduler()).schedule
    def eps(y_t, t): return network(y_t, t).sample
    def clean(y_t, t): return schedule.y0_hat(y_t, eps(y_t, t), t + 1)
    def v(y_t, t):
        signal, noise = (schedule.at(name, t + 1, y_t) for name in ("signal", "noise"))
        return signal * eps(y_t, t) - noise * clean(y_t, t)
    y_t, t = torch.randn(2, 3, 8, 8, generator=generator(0, 1)), torch.tensor([20, 90])
    with torch.no_grad():
        for answer, kind in zip((eps, v, clean), KINDS, strict=True):
            denoiser = DiffusersDenoiser(Fixed(network, answer), schedule, kind)
            close(denoiser(y_t, t), network(y_t, t - 1).sample, atol=1e-4, rtol=1e-4)


def test_time_is_a_number_or_one_for_each_image_and_gradients_pass():
    denoiser, y = from_diffusers(unet(), scheduler()), torch.randn(2, 3, 8, 8).requires_grad_()
    with torch.no_grad(): close(denoiser(y, 7), denoiser(y, torch.tensor([7, 7])))
    assert torch.autograd.grad(denoiser(y, 7).sum(), y)[0].abs().sum() > 0
    assert not denoiser.training and not any(p.requires_grad for p in denoiser.parameters())


def test_learned_variances_are_left_out():
    denoiser, y = from_diffusers(unet(out=6), scheduler()), torch.randn(2, 3, 8, 8)
    close(denoiser(y, 5), denoiser.unet(y, torch.tensor([4, 4])).sample[:, :3])


# --- edits ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind, steps", [("epsilon", None), *((kind, 10) for kind in KINDS)])
def test_noise_maps_lead_back(kind, steps):
    denoiser, y0 = from_diffusers(unet(), scheduler(kind)), 2 * pictures() - 1
    y_t, noise = noise_maps(y0, denoiser, denoiser.schedule, 60, steps)
    settings = EditSettings("paper", eta=1.0)
    back = sample(y_t, denoiser, denoiser.schedule, 60, steps=steps, noise=noise, settings=settings)
    assert (back - y0).square().mean().sqrt() / 2 < .002


@pytest.mark.parametrize("channels", [1, 3])
def test_edits_follow_a_guide_and_grow_with_its_strength(channels):
    denoiser = from_diffusers(DDIMPipeline(unet(channels=channels), scheduler()))
    images = .5 * pictures(channels=1)
    edited = edit(denoiser, brighter, (0., .1, .2, .4), images, eta=1.0)
    assert edited.shape == (2, 4, channels, 8, 8)
    assert (edited[:, 0] - images).square().mean().sqrt() < .002 # grey is repeated where there are colours
    assert (edited.mean((2, 3, 4)).diff(dim=1) > 0).all()
    change = (edited - edited[:, :1]).square().mean((0, 2, 3, 4)).sqrt()
    assert (change.diff() > 0).all()


def test_a_guide_moves_what_it_names_and_little_else():
    denoiser = from_diffusers(unet(), scheduler())
    def redder(y0_hat, y_t, t): return 100 * y0_hat[:, 0].mean((1, 2))
    edited = edit(denoiser, redder, (0., .3), .5 * pictures(), eta=1.0)
    red, green, blue = (edited[:, 1] - edited[:, 0]).mean((0, 2, 3)).tolist()
    assert red > .03 and abs(green) < red / 3 and abs(blue) < red / 3


@pytest.mark.parametrize("kind", ["vq", "kl"])
def test_latent_edits_come_back_as_pictures(kind):
    network = autoencoder(kind)
    pipeline = LDMPipeline(network, unet(4, 4), scheduler())
    denoiser, images = from_diffusers(pipeline), pictures()
    assert (denoiser.channels, denoiser.image_size, denoiser.picture_shape) == (4, 4, (3, 8))
    edited = edit(denoiser, brighter, (0., .2, .4), images, eta=1.0, candidates=2)
    assert edited.shape == (2, 3, 3, 8, 8)
    close(edited[:, 0], denoiser.decode(denoiser.encode(images)).clamp(0, 1), atol=2e-3, rtol=0)
    change = (edited - edited[:, :1]).square().mean((0, 2, 3, 4)).sqrt()
    assert (change.diff() > 0).all()


# --- pictures, latents, prompts -------------------------------------------------------------------

def test_pixels_are_encoded_by_their_range():
    denoiser, images = from_diffusers(unet(), scheduler()), pictures()
    close(denoiser.encode(images.numpy()), 2 * images - 1)
    close(denoiser.decode(denoiser.encode(images)), images)
    close(denoiser.encode(images[:, :1]), 2 * images[:, :1].expand(-1, 3, -1, -1) - 1)


@pytest.mark.parametrize("kind", ["vq", "kl"])
def test_latents_are_the_autoencoders_scaled(kind):
    network, images = autoencoder(kind), pictures(5)
    denoiser = from_diffusers(LDMPipeline(network, unet(4, 4), scheduler()))
    with torch.no_grad():
        encoded = network.encode(2 * images - 1)
        raw = encoded.latents if kind == "vq" else encoded.latent_dist.mean
        shift = 0 if kind == "vq" else .1
        y0 = denoiser.encode(images)
        close(y0, (raw - shift) * .5)
        close(denoiser.decode(y0), network.decode(raw).sample / 2 + .5, atol=1e-5, rtol=1e-4)


def test_an_autoencoder_that_loses_nothing_gives_images_back():
    "Its encoder is the identity, so what is left is our scaling."
    network = autoencoder("kl")
    network.encode = lambda x: type("Encoded", (), {"latents": x})
    network.decode = lambda z: type("Decoded", (), {"sample": z})
    denoiser = DiffusersDenoiser(unet(4, 3), NoiseSchedule(20), autoencoder=network)
    close(denoiser.decode(denoiser.encode(pictures())), pictures())


def test_a_prompt_is_the_same_for_all_images_and_belongs_to_the_denoiser():
    network, words = prompted(), torch.randn(5, 6, generator=generator(0, 3))
    denoiser = from_diffusers(network, scheduler(), prompt_embeds=words)
    y = torch.randn(2, 4, 8, 8, generator=generator(0, 4))
    with torch.no_grad():
        expected = network(y, 8, encoder_hidden_states=words.expand(2, 5, 6)).sample
        close(denoiser(y, 9), expected)
    other = from_diffusers(copy.deepcopy(network), scheduler(), prompt_embeds=-words[None])
    assert digest_weights(other) != digest_weights(denoiser)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_models_in_half_precision_are_told_apart(dtype):
    first, second = (from_diffusers(unet().to(dtype), scheduler()) for _ in range(2))
    assert _identify(first) == _identify(second)
    with torch.no_grad(): next(second.unet.parameters()).add_(1)
    assert _identify(first) != _identify(second)
    close(first(2 * pictures() - 1, 5), from_diffusers(unet(), scheduler())(2 * pictures() - 1, 5), atol=.05, rtol=.05)


def test_pipelines_and_networks_give_the_same():
    network, theirs, y = unet(), scheduler(), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        pipelines = DDIMPipeline(network, theirs), DDPMPipeline(network, scheduler(cls=DDPMScheduler))
        answers = [from_diffusers(*source)(y, 5) for source in ((network, theirs), *zip(pipelines))]
    for answer in answers[1:]: close(answer, answers[0], atol=0, rtol=0)
    assert from_diffusers(pipelines[0], scheduler("v_prediction")).prediction == "v_prediction"
    assert from_diffusers(network, theirs, "sample").prediction == "sample"


@pytest.mark.parametrize("kind", ["pixels", "vq"])
def test_samples_are_pictures(kind):
    source = latent_pipeline() if kind == "vq" else DDIMPipeline(unet(), scheduler())
    samples = sample_images(from_diffusers(source), 2, steps=5)
    assert samples.shape == (2, 3, 8, 8) and 0 <= samples.min() <= samples.max() <= 1


# --- runs ------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def recording(): return simulate_hvm(n_images=60, size=32, subject="M1", seed=3, progress=False)


def quick(given, preset="demo"):
    "A preset of this name for a denoiser, trained for seconds."
    preset = preset_for(given, preset)
    return replace(preset, vae=SMALL.vae, critic=replace(preset.critic, steps=4, batch_size=16))


def prompted_pipeline(kind, T):
    pipeline = LDMPipeline(autoencoder("kl"), prompted(16), scheduler(kind, "scaled_linear", T))
    words = torch.randn(5, 6, generator=generator(0, 3))
    return from_diffusers(pipeline, prompt_embeds=words)


GIVEN = { # pixels in colour; latents with an empty prompt; latents without one
    "pixels": lambda: from_diffusers(DDPMPipeline(unet(32, 3), scheduler("v_prediction", "squaredcos_cap_v2", T=24))),
    "prompt": lambda: prompted_pipeline("epsilon", 24),
    "latents": lambda: from_diffusers(LDMPipeline(autoencoder("vq"), unet(16, 4), scheduler("sample", T=50)))}
EDIT = dict(settings=EditSettings(steps=8), gammas=(0., .1, .3), progress=False)


@pytest.fixture(scope="module", params=GIVEN)
def fitted(request, recording, tmp_path_factory):
    given, folder = GIVEN[request.param](), tmp_path_factory.mktemp("runs") / "run"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore") # groups that carry nothing after seconds of training
        model = MIGVis(quick(given), device="cpu").fit(recording, folder, denoiser=given, progress=False)
    return given, model, folder


def test_a_run_edits_with_any_model(fitted, recording):
    given, model, _ = fitted
    edits = model.edit([0, 1], [2, 3], **EDIT)
    assert edits.images.shape == (2, 4, 3, 1, 32, 32) # grey, as the recording
    np.testing.assert_array_equal(edits.originals, recording.images[:2])
    decoded = given.decode(given.encode(recording.images[:2])).mean(1, keepdim=True).clamp(0, 1)
    assert (torch.as_tensor(edits.images[:, 0, 0]) - decoded).square().mean().sqrt() < .002
    change = edits.change()
    assert (change[.1] > 0).all() and change[.3].mean() > change[.1].mean()
    assert (change[.3] > 3 * change[0.]).all() # which is zero


def test_inversion_leads_back_in_the_models_own_space(fitted, recording):
    given, model, _ = fitted
    if given.prediction == "sample": # noise is told badly where there is little: no contraction
        pytest.skip("untrained estimates of the clean image are not inverted, but have exact noise maps")
    y0 = given.encode(recording.images[:2])
    t_edit, steps = model.preset.t_edit, 20
    y_t = invert(y0, model.denoiser, given.schedule, t_edit, fixed_point=5, steps=steps)
    back = sample(y_t, model.denoiser, given.schedule, t_edit, steps=steps)
    assert (y_t - y0).square().mean().sqrt() > .1
    assert (back - y0).square().mean().sqrt() < .005 * y0.std()


def test_the_loss_of_an_autoencoder_is_told_by_itself(fitted, recording):
    given, model, _ = fitted
    report, caption = model.report()["denoiser"], model.edit(0, 1, **EDIT).caption
    assert report["round_trip_rmse"] < .02
    if not given.latent: return _no_autoencoder(report, caption)
    decoded = given.decode(given.encode(recording.images[:1])).mean(1, keepdim=True).clamp(0, 1)
    rmse = (decoded - torch.as_tensor(recording.images[:1])).square().mean().sqrt().item()
    assert rmse > .05 # its weights are random
    assert f"autoencoder alone changes the originals by RMSE {rmse:.3f}" in caption
    assert "given latent denoiser" in caption and report["autoencoder_rmse"] > .05


def _no_autoencoder(report, caption):
    assert "autoencoder_rmse" not in report and "autoencoder" not in caption and "a given denoiser" in caption


def test_critics_see_what_the_model_diffuses(fitted, recording):
    given, model, _ = fitted
    y0, z = given.encode(recording.images[:3]), model.latents()[:3]
    scores = model.critics.eval().scores(z, y0)
    assert scores.shape == (4, 3, 3) and torch.isfinite(scores).all()
    assert model.critics.encoder.channels == given.channels
    with pytest.raises(ValueError, match="images must be"): model.critics.scores(z, torch.zeros(3, 2, 32, 32))


def test_a_run_is_loaded_with_its_model_and_no_other(fitted):
    given, model, folder = fitted
    assert not (folder / "denoiser.safetensors").exists() and digest_weights(given) in model.options["denoiser"]
    loaded, choice = MIGVis.load(folder, "cpu", denoiser=given), ([0, 1], [2, 3])
    np.testing.assert_array_equal(loaded.edit(*choice, **EDIT).images, model.edit(*choice, **EDIT).images)
    with pytest.raises(ValueError, match="load it with denoiser="): MIGVis.load(folder, "cpu")
    other = copy.deepcopy(given)
    with torch.no_grad(): next(other.unet.parameters()).add_(1e-3)
    with pytest.raises(ValueError, match="not the one that this run was fitted with"):
        MIGVis.load(folder, "cpu", denoiser=other)
    again = MIGVis(model.preset, device="cpu").fit(model.recording, folder, denoiser=given, progress=False)
    assert digest_weights(again.critics) == digest_weights(model.critics) # found in the folder
    assert not given.grey # what the user holds is as it was


def test_other_schedules_and_predictions_are_other_models(fitted):
    given, _, folder = fitted
    kinds = {"epsilon": "sample", "sample": "epsilon", "v_prediction": "epsilon"}
    other = copy.copy(given)
    other.prediction = kinds[given.prediction]
    with pytest.raises(ValueError, match="not the one"): MIGVis.load(folder, "cpu", denoiser=other)
    other = copy.copy(given)
    other.schedule = NoiseSchedule(given.schedule.T, "linear")
    with pytest.raises(ValueError, match="not the one"): MIGVis.load(folder, "cpu", denoiser=other)


@pytest.mark.filterwarnings("ignore:groups")
def test_critics_may_look_through_an_encoder_of_their_own(recording):
    given = GIVEN["prompt"]()
    model = MIGVis(quick(given, "tiny"), device="cpu").fit(recording, denoiser=given, progress=False)
    assert model.critics.encoder.config["kind"] == "conv" and model.critics.encoder.channels == 4
    assert (model.edit(0, 1, **EDIT).change()[.3] > 0).all()


@pytest.mark.filterwarnings("ignore:groups")
def test_colours_stay(recording):
    coloured = replace(recording, images=recording.images * np.float32([1, .5, .2])[:, None, None])
    given = GIVEN["latents"]()
    model = MIGVis(quick(given), device="cpu").fit(coloured, denoiser=given, progress=False)
    edits = model.edit(0, 1, **EDIT)
    assert edits.images.shape == (1, 4, 3, 3, 32, 32) and not model.denoiser.grey
    decoded = given.decode(given.encode(coloured.images[:1])).clamp(0, 1)
    assert (torch.as_tensor(edits.images[:, 0, 0]) - decoded).square().mean().sqrt() < .002


@pytest.mark.parametrize("make", [lambda: unet(16, 4), lambda: prompted(16)])
def test_the_middle_is_that_of_a_whole_pass(make):
    network, seen = make(), []
    words = None if isinstance(network, UNet2DModel) else torch.randn(5, 6)
    denoiser, y = from_diffusers(network, scheduler(), prompt_embeds=words), torch.randn(2, 4, 16, 16)
    hook = network.mid_block.register_forward_hook(lambda block, inputs, output: seen.append(output))
    with torch.no_grad(): denoiser(y, 7)
    hook.remove()
    network.up_blocks = nn.ModuleList() # the second half is not needed
    y = y.requires_grad_()
    middle = _middle_features(denoiser, y, 7)
    close(middle, seen[0])
    assert torch.autograd.grad(middle.sum(), y)[0].abs().sum() > 0


def test_presets_fit_the_models_pictures():
    for name, make in GIVEN.items():
        given, preset = make(), preset_for(make(), "demo")
        assert preset.image_size == preset.denoiser.image_size == 32 and preset.denoiser.T == given.schedule.T
        assert preset.t_edit == round(.9 * given.schedule.T)
        assert preset.edits.steps == min(135, preset.t_edit)
        assert preset.edits.interval == (given.schedule.T, round(.3 * given.schedule.T))


@pytest.mark.parametrize("make, error, message", [
    (lambda: from_diffusers(unet(16, 1), scheduler()), ValueError, "preset_for"),
    (lambda: from_diffusers(unet(32, 1), scheduler(T=77)), ValueError, "preset_for"),
    (lambda: from_diffusers(unet(32, 2), scheduler(T=50)), ValueError, "images of 2 channels"),
    (lambda: from_diffusers(latent_pipeline()), ValueError, "preset_for"),
    (lambda: nn.Linear(2, 2), TypeError, "schedule, image_size, channels"),
    (lambda: brighter, TypeError, "must be a Denoiser")])
def test_a_run_refuses_a_denoiser_that_does_not_fit(recording, tmp_path, make, error, message):
    with pytest.raises(error, match=message):
        MIGVis("tiny").fit(recording, out=tmp_path / "run", denoiser=make(), progress=False)
    assert not (tmp_path / "run").exists()


# --- what cannot work -----------------------------------------------------------------------------

def made(*args, **more): return lambda: from_diffusers(*args, **more)


def encoded(channels, images):
    return lambda: from_diffusers(unet(channels=channels), scheduler()).encode(images)




REFUSED = {
    "no network": (made(nn.Linear(2, 2), scheduler()), TypeError, "UNet2DModel"),
    "no scheduler": (made(unet()), ValueError, "give scheduler="),
    "flow": (made(unet(), FlowMatchEulerDiscreteScheduler()), TypeError, "alphas_cumprod"),
    "zero snr": (made(unet(), scheduler(rescale_betas_zero_snr=True)), ValueError, "zero terminal SNR"),
    "prediction": (made(unet(), scheduler(), "flow_prediction"), ValueError, "must be one of"),
    "oblong": (made(unet((8, 16)), scheduler()), ValueError, "square"),
    "no size": (made(unet(None), scheduler()), ValueError, "sample_size"),
    "class": (made(unet(num_class_embeds=3), scheduler()), ValueError, "num_class_embeds"),
    "mask": (made(prompted(in_channels=9), scheduler()), ValueError, "as many channels"),
    "no prompt": (made(prompted(), scheduler()), ValueError, "needs a prompt"),
    "prompt of 7": (made(prompted(), scheduler(), None, torch.zeros(5, 7)), ValueError, r"\(L, 6\)"),
    "two prompts": (made(prompted(), scheduler(), None, torch.zeros(2, 5, 6)), ValueError, "one prompt"),
    "prompt not needed": (made(unet(), scheduler(), None, torch.zeros(5, 6)), ValueError, "takes no prompt"),
    "parts of two": (made(LDMPipeline(autoencoder("vq"), unet(), scheduler())), ValueError, "pipeline"),
    "size": (encoded(3, pictures(size=16)), ValueError, "resize"),
    "two channels": (encoded(3, pictures(channels=2)), ValueError, "images must be"),
    "colour for grey": (encoded(1, pictures()), ValueError, "images must be"),
    "range": (encoded(3, 2 * pictures()), ValueError, r"\[0, 1\]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused(name):
    make, error, message = REFUSED[name]
    with pytest.raises(error, match=message): make()
