"""The page: a sheet of pictures, the data of the script, one file that loads nothing."""
import base64
import io
import json
import re
from itertools import product

import numpy as np
import pytest
from PIL import Image

from migvis.show.frames import precompute
from migvis.show.page import _explorer_data, _explorer_html, _make_sheet, to_html
from tests.show.conftest import album, choices, drawn, plane_choices

BOTH = pytest.mark.parametrize("offer", [choices(), choices(draws=2), plane_choices()], ids=["guidance", "draws", "dimensions"])


def content(sheet): return base64.b64decode(sheet["sprite"].split(",")[1])


@pytest.mark.parametrize("shape", [(16, 16), (30, 21)])
@pytest.mark.parametrize("kind", ["noise", "smooth", "flat"])
def test_sheet_gives_every_picture_back(shape, kind):
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 1, shape[1])[None, None] * rng.random((7, 1, 1)) * np.ones((7, *shape))
    images = {"noise": rng.random((7, *shape)), "smooth": ramp, "flat": np.zeros((7, *shape))}[kind][[0, 1, 2, 0, 3, 4, 5, 6, 2], None]
    sheet = _make_sheet(images)
    cells, (height, width) = sheet["cells"], sheet["cell"]
    assert len(set(cells)) == (1 if kind == "flat" else 7) and cells[0] == cells[3]
    picture = np.asarray(Image.open(io.BytesIO(content(sheet))).convert("L"), float) / 255
    for image, cell in zip(images, cells):
        row, column = divmod(cell, sheet["columns"])
        part = picture[row * height:, column * width:][: shape[0], : shape[1]]
        assert np.sqrt(((part - image[0]) ** 2).mean()) < 0.009


def test_sheet_is_smaller_than_plain_png():
    y, x = np.mgrid[:64, :64] / 64
    waves = np.stack([0.5 + 0.4 * np.sin(9 * x + k) * np.cos(7 * y * x + k) for k in range(16)])[:, None]
    plain = io.BytesIO()
    Image.fromarray((waves.reshape(-1, 64) * 255).astype(np.uint8)).save(plain, "PNG")
    assert len(content(_make_sheet(waves))) < len(plain.getvalue()) / 2


@BOTH
def test_page_data_finds_every_frame(offer):
    grid = precompute(offer, drawn)
    data = json.loads(json.dumps(_explorer_data(grid), default=list))
    picture = np.asarray(Image.open(io.BytesIO(content(data))).convert("L"), float) / 255
    shown = lambda cell: picture[cell // data["columns"] * data["cell"][0]:, cell % data["columns"] * data["cell"][1]:][:16, :16]
    sizes = [len(data["values"][axis]) for axis in data["axes"]]
    for place, values in zip(np.ndindex(*sizes), product(*offer.axes().values())):
        cell = data["cells"][int(np.ravel_multi_index(place, sizes))]
        expected = grid.frames[int(np.ravel_multi_index(place, sizes)), 0]
        assert np.sqrt(((shown(cell) - expected) ** 2).mean()) < 0.01, values
    for image, (_, original) in zip(data["images"], offer.album.values()): assert np.abs(shown(image["cell"]) - original[0]).mean() < 0.01
    if offer.manifold is not None:
        assert set(data["manifold"]["planes"]) == {f"{g},{d}" for g in range(2) for d in range(2)}
        assert len(data["manifold"]["points"]) == 3 * 4 and len(data["manifold"]["fills"]) == len(data["manifold"]["legends"]) == 2


def test_several_draws_are_explained():
    assert ["Draws are" in _explorer_html(precompute(choices(draws=k), drawn)) for k in (1, 2)] == [False, True]


@BOTH
def test_page_holds_everything_and_loads_nothing(offer, tmp_path):
    page = to_html(precompute(offer, drawn), tmp_path / "sub" / "page.html").read_text(encoding="utf-8")
    assert len(page) < 200_000
    assert not re.search(r"(?:https?:)?//[a-z0-9-]+\.[a-z]", re.sub(r"base64,[A-Za-z0-9+/=]+", "", page))
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|EventSource|importScripts|sendBeacon)\b|@import|url\(", page)
    assert set(re.findall(r'(?:src|href)="([^"]*)"', page)) == {"data:,"} and "default-src 'none'" in page
    payload = json.loads(re.search(r'<script type="application/json">(.*?)</script>', page, re.S).group(1))
    assert payload["sprite"].startswith("data:image/") and len(payload["cells"]) == len(offer.keys())
    for said in ("simulated data", offer.caption, 'lang="en"', 'role="region"', 'role="status"', "<title>"): assert said in page


@pytest.mark.parametrize("nasty", ['</script><b>"&', '<!--<script><b>"&', "<!-- <SCRIPT <b>"])
def test_text_cannot_break_the_page(tmp_path, nasty):
    offer = choices(caption=nasty, group_names=(nasty, "plain"), album=album() | {0: (nasty, album()[0][1])})
    page = _explorer_html(precompute(offer, drawn))
    assert page.count("</script>") == 2 and "<b>" not in re.sub(r"<script.*?</script>", "", page, flags=re.S)
    payload = json.loads(re.search(r'<script type="application/json">(.*?)</script>', page, re.S).group(1))
    assert payload["groups"][0]["name"] == nasty and payload["images"][0]["name"] == nasty
    assert "<" not in re.search(r'<script type="application/json">(.*?)</script>', page, re.S).group(1), "<!--<script would swallow the end of the script"


def test_real_data_is_not_called_simulated():
    assert "mv-badge\">" not in _explorer_html(precompute(choices(caption="macaque V4, session 210325"), drawn))


def test_large_pages_warn(tmp_path):
    with pytest.warns(UserWarning, match="fewer originals"): to_html(precompute(choices(caption="x" * 3_000_000), drawn), tmp_path / "a.html")


def test_default_grid_at_128_pixels_stays_below_3_mb_even_for_noise():
    rng, n = np.random.default_rng(0), 9 * 4 * 3 + 3 + 6 # pairs x groups x strengths, unguided frames, images
    per_picture = len(_make_sheet(rng.random((16, 1, 128, 128)).astype(np.float32))["sprite"]) / 16
    assert 10_000 < per_picture < 2_800_000 / n


def test_pages_refuse_what_is_not_frames(tmp_path):
    with pytest.raises(TypeError, match="precompute"): to_html(np.zeros((3, 1, 4, 4)), tmp_path / "a.html")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write"): to_html(precompute(choices(), drawn), tmp_path / "file" / "a.html")


def test_a_grid_shows_itself():
    grid = precompute(choices(), drawn)
    assert grid._repr_html_() == _explorer_html(grid) and "18 frames" in repr(grid)
