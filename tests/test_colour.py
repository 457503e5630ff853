"""Images in colour, from the recording to the explorer."""
import base64
import io
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from migvis import MIGVis, Recording, figures, simulate_hvm
from migvis.beyond.dina import fit_dina
from migvis.compare.baselines import _load_baseline, _save_baseline, train_decoder
from migvis.ddim_guidance import invert, sample
from migvis.denoiser import NoiseSchedule, build_denoiser, load_denoiser, mixture_denoiser, save_denoiser, train_denoiser
from migvis.infonce import _random_shift
from migvis.measure.readouts import ReadoutConfig, load_readouts, train_readouts
from migvis.show.widgets import _difference_image, _png_uri
from migvis.simulate.images import _aperture, _tint, render_hvm, render_labels
from migvis.simulate.pretrained import _pretrained_for
from migvis.support.encoders import ConvEncoder, DenoiserEncoder
from migvis.support.labels import POSE_AND_CATEGORY, Continuous
from migvis.support.training import generator
from tests.made import SMALL



def randn(*shape, seed=0): return torch.randn(shape, generator=generator(seed))


@pytest.fixture(scope="module")
def recording(): return simulate_hvm(120, 32, seed=3, progress=False, colour=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory): return tmp_path_factory.mktemp("colour") / "run"


@pytest.fixture(scope="module")
def model(recording, folder):
    "A fitted model with a group for hue; do not change it."
    hue = (*POSE_AND_CATEGORY, Continuous(group=3, columns="hue", period=360))
    return MIGVis(SMALL, device="cpu").fit(recording, out=folder, progress=False, supervision=hue)


@pytest.fixture(scope="module")
def edits(model): return model.edit([0, 1], 5, gammas=(0.0, 0.1), progress=False)


def test_a_hue_moves_the_channels_apart_and_leaves_their_average():
    grey, mask = np.full((3, 1, 1, 1), 0.4, np.float32), np.ones((3, 1, 1, 1), np.float32)
    made = _tint(grey, mask, np.array([0, 120, 240]))[..., 0, 0]
    np.testing.assert_allclose(made, np.where(np.eye(3), 0.8, 0.2), atol=1e-6)
    ends = _tint(np.array([0, 1], np.float32).reshape(2, 1, 1, 1), mask[:2], np.array([30, 200]))
    np.testing.assert_array_equal(ends[..., 0, 0], [[0] * 3, [1] * 3])


def test_coloured_renders_average_to_the_grey_ones(recording):
    grey = simulate_hvm(120, 32, seed=3, progress=False)
    assert recording.images.shape == (120, 3, 32, 32) and "in colour" in repr(recording) + recording.name
    np.testing.assert_allclose(recording.images.mean(1), grey.images[:, 0], atol=1e-6)
    assert 0 <= recording.images.min() and recording.images.max() <= 1
    assert recording.labels["hue"].between(0, 360).all()
    assert recording.labels.drop(columns="hue").equals(grey.labels)
    assert "hue" not in grey.truth["factors"] and recording.truth["factors"][-1] == "hue"
    assert 0.03 < recording.truth["fraction"][:, -1].mean() < 0.3


def test_what_is_behind_the_object_stays_grey():
    images, labels = render_hvm(8, 32, background="natural", progress=False, colour=True)
    masks = render_labels(labels, 32, progress=False)[1][:, None] / 255
    spread = np.ptp(images, axis=1, keepdims=True)
    assert spread[masks * _aperture(32) == 0].max() < 1e-6 < 0.2 < spread[masks == 1].max()


def test_recordings_in_colour_round_trip(recording, tmp_path):
    loaded = Recording.load(recording.save(tmp_path / "r.npz"))
    np.testing.assert_array_equal(loaded.images, recording.images)
    assert "in colour" in repr(loaded) and "in colour" not in repr(simulate_hvm(8, 16, progress=False))


def test_colours_are_kept_and_grey_pictures_get_three_equal_channels():
    rng = np.random.default_rng(0)
    colour, grey = rng.integers(0, 256, (6, 9, 3), np.uint8), rng.integers(0, 256, (6, 6), np.uint8)
    rest = {"responses": np.eye(2), "labels": {"category": ["a", "b"]}}
    both = Recording.from_images([colour, grey], colour="keep", **rest).images
    np.testing.assert_allclose(both[0], np.moveaxis(colour[:, 1:7] / 255, -1, 0), atol=1e-6)
    np.testing.assert_allclose(both[1], np.stack(3 * [grey / 255]), atol=1e-6)
    assert Recording.from_images([grey, grey], colour="keep", **rest).images.shape == (2, 1, 6, 6)
    clear = np.dstack([colour, np.full((6, 9), 51, np.uint8)]) # a fifth of the light passes
    np.testing.assert_allclose(Recording.from_images([clear, colour], colour="keep", **rest).images[0], both[0] / 5,
                               atol=1e-6)


def test_patches_of_three_channels_go_back_to_where_they_came_from():
    denoiser = build_denoiser(SMALL.denoiser, channels=3)
    denoiser.unet.forward = lambda x, t, **known: SimpleNamespace(sample=x)
    y = randn(2, 3, 32, 32)
    assert denoiser.channels == 3 and torch.equal(denoiser(y, 4), y)


def test_an_exact_denoiser_keeps_equal_channels_equal():
    schedule, centres = NoiseSchedule(20), randn(4, 1, 8, 8).expand(-1, 3, -1, -1)
    eps, y0 = mixture_denoiser(centres, 0.2, schedule), centres[:2] + 0.1
    back = sample(invert(y0, eps, schedule, 18, fixed_point=20), eps, schedule, 18)
    assert (back - back[:, :1]).abs().max() < 1e-5 and (back - y0).abs().max() < 1e-3


def test_images_are_shifted_with_all_their_channels():
    y, u = randn(5, 3, 8, 8), torch.rand(5, 2, generator=generator(1))
    assert torch.equal(_random_shift(y, u, 2), torch.cat([_random_shift(c, u, 2) for c in y.split(1, 1)], 1))


def test_an_encoder_of_spread_weights_sees_the_average():
    grey, colour = ConvEncoder(16, 8), ConvEncoder(16, 8, channels=3)
    weights = grey.state_dict()
    weights["blocks.0.conv.weight"] = weights["blocks.0.conv.weight"].repeat(1, 3, 1, 1) / 3
    colour.load_state_dict(weights)
    y = randn(4, 3, 16, 16)
    torch.testing.assert_close(colour(y), grey(y.mean(1, keepdim=True)), atol=1e-5, rtol=1e-4)


def test_a_denoiser_trains_on_colours_and_comes_back_from_its_file(tmp_path):
    images = torch.rand(40, 3, 32, 32, generator=generator(0))
    trained = train_denoiser(images, replace(SMALL.denoiser, steps=2), device="cpu", progress=False).model.eval()
    loaded, _ = load_denoiser(save_denoiser(tmp_path / "d.safetensors", trained), "cpu")
    y = randn(2, 3, 32, 32)
    assert torch.equal(loaded(y, 5), trained(y, 5)) and loaded.channels == 3
    encoder = DenoiserEncoder(loaded, width=8, n_features=6)
    assert encoder(y).shape == (2, 6) and encoder.conv.channels == 3


def test_a_judge_for_colours_begins_as_the_grey_judge_of_their_average(recording):
    grey, config = load_readouts("demo", "cpu"), ReadoutConfig(steps=1, lr=1e-12, precision="float32")
    images = recording.images[:24].repeat(2, 2).repeat(2, 3) # the size of the grey judge
    judge = train_readouts(images, recording.labels[:24], config, start=grey, device="cpu", progress=False)
    for layer, start in zip(judge.net.modules(), grey.net.modules()): # statistics have moved with the first batch
        if isinstance(layer, torch.nn.BatchNorm2d): layer.load_state_dict(start.state_dict())
    ours, theirs = judge.read(images).features, grey.read(images.mean(1)).features
    np.testing.assert_allclose(ours, theirs, atol=2e-3 * theirs.max())
    with pytest.raises(ValueError, match="must be grey.*in colour.*average their colours"): grey.read(images)
    with pytest.raises(ValueError, match="must be in colour.*are grey.*keep"): judge.read(images.mean(1))


def test_unguided_edits_are_the_originals_in_colour(edits, recording):
    assert edits.images.shape == (2, len(edits.group_names), 2, 3, 32, 32)
    np.testing.assert_array_equal(edits.originals, recording.images[:2])
    np.testing.assert_allclose(edits.images[:, :, 0], np.stack(2 * [edits.originals], 1)[:, :1].repeat(4, 1), atol=1e-4)
    assert edits.change().to_numpy()[:, 1].min() > 0


def test_a_run_in_colour_comes_back_with_the_same_edits(model, edits, folder):
    again = MIGVis.load(folder, device="cpu")
    assert again.denoiser.channels == 3 and again.shipped is None
    np.testing.assert_array_equal(again.edit([0, 1], 5, gammas=(0.0, 0.1), progress=False).images, edits.images)


def test_the_page_holds_the_colours(edits, tmp_path):
    page = edits.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', page, re.S)[1])
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(data["sprite"].split(",")[1]))).convert("RGB")) / 255
    (height, width), frames = data["size"], edits.images.reshape(-1, 3, 32, 32)
    for cell, frame in zip(data["cells"], frames):
        row, column = divmod(cell, data["columns"])
        top, left = row * data["cell"][0], column * data["cell"][1]
        shown = sheet[top:top + height, left:left + width]
        assert np.sqrt(((np.moveaxis(shown, -1, 0) - frame) ** 2).mean()) < 0.007
    assert data["colour"] and "has the colour that was added" in page


def test_widgets_show_colours_and_what_was_added():
    red = np.zeros((3, 2, 2), np.float32)
    red[0] = 0.5
    read = np.asarray(Image.open(io.BytesIO(base64.b64decode(_png_uri(red).split(",")[1]))))
    assert read.shape == (2, 2, 3) and (read == [128, 0, 0]).all()
    change = _difference_image(red, np.zeros_like(red))
    assert (change == [255, 127, 127, 255]).all() and not _difference_image(red, red)[..., 3].any()


def test_figures_draw_colours(edits):
    def colours(figure): # of all pictures in it
        shown = [image.get_array() for ax in figure.axes for image in ax.images]
        return [np.ptp(np.asarray(x), axis=-1).max() for x in shown if x.ndim == 3 and x.shape[-1] == 3]
    figure = edits.plot()
    assert len(colours(figure)) == len([i for ax in figure.axes for i in ax.images]) and min(colours(figure)) > 0.1
    (ax,) = figures.plot_examples(edits.originals[[0, 1, 1]], ["a", "b", "b"], 2).axes
    assert (np.asarray(ax.images[0].get_array())[40:, :32] == 1).all() # where there is no image: white


def test_a_decoder_makes_images_in_colour(recording, tmp_path):
    z = randn(len(recording), 4)
    decoder = train_decoder(recording.images, z, (2, 2), width=8, steps=2, device="cpu", progress=False).model.eval()
    loaded = _load_baseline(_save_baseline(tmp_path / "d.safetensors", decoder), "cpu")
    assert torch.equal(loaded(z[:3]), decoder(z[:3])) and decoder(z[:3]).shape == (3, 3, 32, 32)


def test_grey_and_colour_are_not_mixed(model, recording):
    grey, z = recording.images.mean(1, keepdims=True), model.latents()
    averaged = replace(recording, images=grey)
    with pytest.raises(ValueError, match="must be in colour.*are grey"): model.editor()(grey[:1], z[1], z_originals=z[:1])
    with pytest.raises(ValueError, match="must be in colour.*are grey"): model.edit(grey[:1], 5, latents=z[:1])
    with pytest.raises(ValueError, match="must be in colour.*are grey"): model.critics(z[:2], torch.as_tensor(grey[:2]))
    with pytest.raises(ValueError, match=r"\(B, 3, 32, 32\)"): model.denoiser(torch.zeros(1, 1, 32, 32), 3)
    with pytest.raises(ValueError, match="for grey images; leave out start="):
        MIGVis("demo", device="cpu").fit(recording, start="demo", progress=False)
    with pytest.raises(ValueError, match="is for images of 3 channels, and the recording's have 1"):
        MIGVis(SMALL, device="cpu").fit(averaged, denoiser=model.denoiser, progress=False)
    with pytest.raises(ValueError, match="must be grey.*average their colours"): fit_dina(recording, config="tiny")
    assert _pretrained_for(replace(recording, images=grey.repeat(3, 1)), "demo") is None
