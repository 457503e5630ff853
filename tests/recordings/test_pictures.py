"""Pictures in archives."""

import zipfile
import numpy as np
import pytest
from PIL import Image

from migvis.recordings.reading import _variation_names, read_pictures
from tests.recordings.made import flat, write_zip


def test_pictures_of_one_name_in_two_folders_are_told_apart(tmp_path):
    pictures = {"set/faces/001.png": flat(51), "set/cars/001.png": flat(102), "set/cars/002.png": flat(204)}
    path = write_zip(tmp_path / "a.zip", pictures)
    read = lambda *names: [round(float(v), 3) for v in read_pictures(path, list(names), 8)[:, 0, 0, 0]]
    assert (
        read("faces/001.png", "cars/001.png", "002.png")
        == [0.2, 0.4, 0.8]
        == read(*pictures)
        == read("cars\\..\\faces/001.png", "x/set/cars/001.png", "y/002.png")
    )
    with pytest.raises(
        ValueError,
        match="'001.png' could be 'set/faces/001.png' or 'set/cars/001.png'; name it with its folders",
    ):
        read("001.png")
    with pytest.raises(
        ValueError,
        match="'faces/002.png' and 'cars/002.png' are different pictures, but the archive has only 'set/cars/002.png'",
    ):
        read("faces/002.png", "cars/002.png")


def test_pictures_of_16_bits_are_scaled_and_transparent_ones_lie_on_black(tmp_path):
    deep = Image.fromarray(np.array([[128, 20], [65535, 30000]], np.uint16))
    clear = Image.fromarray(np.array([[[255, 0], [255, 128]], [[100, 255], [0, 0]]], np.uint8))
    colour = Image.new("RGBA", (2, 2), (255, 255, 255, 0))
    path = write_zip(tmp_path / "a.zip", {"deep.png": deep, "clear.png": clear, "colour.png": colour})
    with pytest.warns(UserWarning, match="2 of 3 pictures have transparent parts, which became black"):
        read = read_pictures(path, ["deep.png", "clear.png", "colour.png"], 2)[:, 0]
    np.testing.assert_allclose(read[0], np.array([[128, 20], [65535, 30000]]) / 65535, atol=1e-6)
    np.testing.assert_allclose(read[1], np.array([[0, 128], [100, 0]]) / 255, atol=1e-6)
    assert read[2].max() == 0


def test_a_picture_that_cannot_be_read_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", b"text")
    with pytest.raises(ValueError, match="the picture 'a.png' cannot be read"):
        read_pictures(tmp_path / "a.zip", ["a.png"], 8)


@pytest.mark.parametrize("level", [3.7, "V3.7", "2.5"])
def test_variations_between_levels_are_refused(level):
    with pytest.raises(ValueError, match=f"variation levels must be 0, 3 and 6, .* not {level}"):
        _variation_names([3, level] if not isinstance(level, str) else ["3", level])
