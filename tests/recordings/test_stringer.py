"""Sessions of Stringer and others."""

import numpy as np
import pytest

from migvis.data import Recording
from migvis.recordings.sources import load_recording
from tests.recordings.made import CELLS, N as IMAGES, write_stringer


def test_a_session(tmp_path):
    responses, pictures, stim, raw, place = write_stringer(tmp_path)
    rec = load_recording("stringer", responses, images=pictures)
    assert (
        isinstance(rec, Recording) and not rec.simulated and rec.name == "Stringer2019 V1 M1_MP1_2017-01-01"
    )
    assert rec.images.shape == (IMAGES, 1, 34, 90) and rec.trials.shape == (IMAGES, 2, CELLS)
    assert np.allclose(rec.sites[["x", "y", "z"]], place) and rec.labels.image_id.tolist() == list(
        range(IMAGES)
    )
    istim = stim["istim"].ravel()
    for image in range(IMAGES):
        both = stim["resp"][istim == image + 1]
        assert np.allclose(rec.trials[image], both) and np.allclose(
            rec.responses[image], both.mean(0), atol=1e-6
        )
    block = raw[2:4, 4:6, 5].astype(float).mean() / 255
    assert rec.images[5, 0, 1, 2] == pytest.approx(block, abs=1e-6)


def test_options(tmp_path):
    paths = write_stringer(tmp_path, med=False)[:2]
    rec = load_recording("stringer", paths[0], columns=(90, 180), shrink=1)
    assert rec.images.shape[2:] == (68, 90) and "x" not in rec.sites
    floats = np.random.default_rng(0).uniform(0, 255, (68, 270, IMAGES))
    paths = write_stringer(tmp_path, images=floats)[:2]
    assert load_recording("stringer", paths[0], shrink=1).images.max() <= 1


def test_images_shown_once_or_never(tmp_path):
    def fewer(stim):
        keep = (stim["istim"].ravel() != 3) & ~(
            (stim["istim"].ravel() == 5)
            & (np.arange(len(stim["istim"])) > np.flatnonzero(stim["istim"].ravel() == 5)[0])
        )
        return {"resp": stim["resp"][keep], "istim": stim["istim"][keep], "spont": stim["spont"]}

    rec = load_recording("stringer", write_stringer(tmp_path, fewer)[0])
    assert len(rec) == IMAGES - 1 and 2 not in rec.labels.image_id.tolist()
    assert np.isnan(rec.trials[rec.labels.image_id.tolist().index(4), 1]).all()


def without(name):
    return lambda stim: {k: v for k, v in stim.items() if k != name}


@pytest.mark.parametrize(
    "change, word",
    [
        (without("resp"), "resp"),
        (without("istim"), "istim"),
        (lambda s: s | {"resp": s["resp"][:-1]}, "stim.resp"),
        (lambda s: s | {"istim": s["istim"] + 5}, "whole numbers from 1 to 13"),
        (lambda s: s | {"istim": s["istim"] + 0.5}, "whole numbers"),
        (lambda s: s | {"istim": np.full_like(s["istim"], IMAGES + 1)}, "0 images"),
        (lambda s: s["resp"], "structure"),
        (lambda s: s | {"resp": np.where(np.arange(CELLS) == 2, np.nan, s["resp"])}, "no data at all"),
    ],
)
def test_broken_sessions(tmp_path, change, word):
    paths = write_stringer(tmp_path, change)[:2]
    with pytest.raises(ValueError, match=word):
        load_recording("stringer", paths[0])


def test_missing_cells_can_be_dropped(tmp_path):
    paths = write_stringer(
        tmp_path, lambda s: s | {"resp": np.where(np.arange(CELLS) == 2, np.nan, s["resp"])}
    )[:2]
    with pytest.warns(UserWarning, match="left out"):
        rec = load_recording("stringer", paths[0], missing="drop")
    assert rec.responses.shape == (IMAGES, CELLS - 1)


def test_broken_files(tmp_path):
    responses, pictures, *_ = write_stringer(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_recording("stringer", tmp_path / "nowhere.mat", images=pictures)
    with pytest.raises(ValueError, match="imgs"):
        load_recording("stringer", responses, images=responses)
    with pytest.raises(ValueError, match="stim"):
        load_recording("stringer", pictures, images=pictures)
    with pytest.raises(ValueError, match="columns"):
        load_recording("stringer", responses, images=pictures, columns=(0, 300))
    with pytest.raises(ValueError, match="shrink"):
        load_recording("stringer", responses, images=pictures, shrink=0)
    for damage in (lambda b: b[: len(b) // 2], lambda b: b"not a matlab file at all" * 20, lambda b: b""):
        broken = tmp_path / "broken.mat"
        broken.write_bytes(damage(responses.read_bytes()))
        with pytest.raises(ValueError, match="broken.mat"):
            load_recording("stringer", broken, images=pictures)
    newer = tmp_path / "newer.mat"
    newer.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x00" * 64)
    with pytest.raises(ValueError, match="7.3"):
        load_recording("stringer", newer, images=pictures)
