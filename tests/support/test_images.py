"""Images of one form, other sizes, and pictures of other kinds."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from migvis.support.images import check_images, prepare_images, resize_images


@pytest.mark.parametrize(
    "images",
    [
        np.arange(32, dtype=np.uint8).reshape(2, 4, 4),
        np.arange(32, dtype=np.uint8).reshape(2, 1, 4, 4),
        np.arange(32).reshape(2, 4, 4) / 255,
        torch.arange(32).reshape(2, 1, 4, 4) / 255,
    ],
)
def test_images_come_in_many_forms_and_leave_in_one(images):
    out = check_images(images)
    assert out.shape == (2, 1, 4, 4) and out.dtype == np.float32
    np.testing.assert_allclose(out.ravel(), np.arange(32) / 255, atol=1e-7)


@pytest.mark.parametrize(
    "images, message",
    [
        (np.zeros((4, 4)), "have shape"),
        (np.zeros((2, 2, 4, 4)), "grey.*or in colour.*from_images averages or keeps colours"),
        (np.zeros((2, 4, 4, 1)), "have shape"),
        (np.zeros((0, 4, 4)), "have shape"),
        (np.full((2, 4, 4), 1.5), r"from 1.5 to 1.5.*divide by 255"),
        (np.full((2, 4, 4), -0.1), "divide by 255"),
        (np.full((2, 4, 4), np.nan), "missing pixels"),
        (np.zeros((2, 4, 4), dtype=np.int64), "uint8 or floats.*from_images scales whole numbers"),
        (
            np.eye(4, dtype=np.uint8)[None],
            "hold only 0 and 1, which is black; multiply by 255, or give floats",
        ),
    ],
)
def test_images_outside_the_form_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        check_images(images)


def test_rounding_beyond_the_range_is_clipped():
    images = np.full((3, 8, 8), 1 + 1e-6, np.float32)
    images[0] = -1e-7
    assert check_images(images).min() == 0 and check_images(images).max() == 1
    with pytest.raises(ValueError, match="lie in"):
        check_images(images + 1e-3)


def test_images_divided_twice_are_warned_of():
    with pytest.warns(UserWarning, match="brightest pixel of all images is 0.00392.*divided by 255 twice"):
        check_images(np.arange(256).reshape(4, 8, 8) / 255**2)


def test_named_dimensions_are_transposed():
    xarray = pytest.importorskip("xarray")
    images = np.random.default_rng(0).random((4, 4, 4))
    made = check_images(xarray.DataArray(images, dims=("x", "y", "image")))
    np.testing.assert_array_equal(made[:, 0], images.T.astype(np.float32))


def test_resizing_keeps_flat_images_the_mean_and_does_not_alias():
    flat = np.full((2, 1, 30, 30), 0.3, np.float32)
    np.testing.assert_allclose(resize_images(flat, 13), 0.3, atol=1e-6)
    images = np.random.default_rng(0).random((3, 1, 64, 64)).astype(np.float32)
    np.testing.assert_allclose(resize_images(images, 16).mean((1, 2, 3)), images.mean((1, 2, 3)), atol=0.01)
    checker = (np.indices((64, 64)).sum(0) % 2)[None, None].astype(np.float32)
    np.testing.assert_allclose(resize_images(checker, 16)[..., 1:-1, 1:-1], 0.5, atol=0.01)
    assert resize_images(images, 64) is not None and resize_images(images, 100).shape == (3, 1, 100, 100)
    with pytest.raises(ValueError, match="at least 1 pixel"):
        resize_images(images, 0)


def test_pictures_that_are_not_square_are_not_stretched():
    with pytest.raises(
        ValueError, match="24 x 40, and would be stretched to 32 x 32; crop or pad to a square first"
    ):
        resize_images(np.zeros((2, 24, 40)), 32)


# ---------------------------------------------------------------- pictures of other kinds

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (5, 6, 6, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "images",
    [
        COLOUR,
        np.moveaxis(COLOUR, 3, 1),
        list(COLOUR),
        torch.from_numpy(COLOUR),
        [Image.fromarray(p) for p in COLOUR],
        COLOUR / 255,
    ],
)
def test_colours_are_averaged_wherever_the_channels_are(images):
    np.testing.assert_allclose(prepare_images(images)[:, 0], COLOUR.mean(-1) / 255, atol=1e-6)


def test_luminance_weights_green_most():
    expected = (COLOUR @ [0.299, 0.587, 0.114]) / 255
    np.testing.assert_allclose(prepare_images(COLOUR, colour="luminance")[:, 0], expected, atol=1e-6)


def test_grey_bytes_are_what_check_images_makes_of_them():
    grey = COLOUR[..., 0]
    for same in (grey, np.repeat(grey[..., None], 3, 3), grey.astype(int)):
        with (
            pytest.warns(UserWarning, match="taken for 8-bit")
            if same.dtype == int
            else warnings.catch_warnings()
        ):
            np.testing.assert_array_equal(prepare_images(same), check_images(grey))


def test_sixteen_bits_opacity_and_palettes():
    deep = RNG.integers(0, 65536, (6, 6), dtype=np.uint16)
    clear = np.dstack([COLOUR[0], RNG.integers(0, 256, (6, 6), dtype=np.uint8)])
    palette = Image.fromarray(COLOUR[1]).convert("P")
    made = prepare_images([deep, clear, palette, Image.fromarray(clear[..., [0, 3]])])[:, 0]
    np.testing.assert_allclose(made[0], deep / 65535, atol=1e-6)
    np.testing.assert_allclose(made[1], clear[..., :3].mean(-1) * clear[..., 3] / 255**2, atol=1e-6)
    np.testing.assert_allclose(made[2], np.asarray(palette.convert("RGB")).mean(-1) / 255, atol=1e-6)
    np.testing.assert_allclose(made[3], clear[..., 0] / 255 * (clear[..., 3] / 255), atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (5, 8), (6, 6)])
def test_crop_takes_the_middle_and_pad_keeps_everything(shape):
    picture = RNG.random(shape).astype(np.float32)
    cropped, padded = (prepare_images([picture], fit=fit)[0, 0] for fit in ("crop", "pad"))
    short, long = min(shape), max(shape)
    start = [(side - short) // 2 for side in shape]
    np.testing.assert_array_equal(cropped, picture[start[0] : start[0] + short, start[1] : start[1] + short])
    before = [(long - side) // 2 for side in shape]
    inner = padded[before[0] : before[0] + shape[0], before[1] : before[1] + shape[1]]
    np.testing.assert_array_equal(inner, picture)
    assert padded.shape == (long, long) and np.sum(padded == 0.5) >= long**2 - picture.size


def test_pictures_of_several_sizes_need_one_size():
    pictures = [np.full((8, 8), 0.2), np.full((20, 12), 0.8)]
    assert [round(float(p.mean()), 2) for p in prepare_images(pictures, size=6)] == [0.2, 0.8]
    with pytest.raises(ValueError, match="sides of 8 to 12 pixels; give size="):
        prepare_images(pictures)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(images=[]), "at least one picture"),
        (dict(images=COLOUR, size=0), "at least one picture of at least one pixel"),
        (dict(images=COLOUR, colour="red"), r"colour must be one of \['average', 'luminance', 'keep'\], not 'red'"),
        (dict(images=COLOUR, fit="stretch"), "fit must be 'crop' or 'pad', not 'stretch'"),
        (dict(images=np.full((2, 4, 4), 300.0)), "run from 300 to 300"),
        (dict(images=np.full((2, 4, 4), np.nan)), "missing pixels"),
        (dict(images=np.zeros((2, 5, 5, 7))), r"1 to 4 channels, not \(5, 5, 7\)"),
        (dict(images=[Image.new("F", (4, 4))]), "mode F have no known range"),
    ],
)
def test_pictures_that_cannot_be_read_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        prepare_images(**arguments)
