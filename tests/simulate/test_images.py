"""Labels, rendered image sets and their cache."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from migvis.simulate import images as images_module
from migvis.simulate.images import _aperture, render_hvm, render_labels, sample_labels
from migvis.simulate.objects import object_names

POSE = ["rxy", "rxz", "ryz", "ty", "tz", "s"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    "Each test has a cache of its own."
    monkeypatch.setenv("MIGVIS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "simulated"


def test_labels_have_the_numbers_of_hvm():
    labels = sample_labels(5760)
    counts = labels.groupby(["object", "variation"]).size().unstack()
    assert (counts[["V0", "V3", "V6"]].to_numpy() == [10, 40, 40]).all()
    assert labels["image_id"].is_unique
    still = labels[labels["variation"] == "V0"]
    assert (still[POSE[:5]] == 0).all(axis=None) and (still["s"] == 1).all()


def test_labels_lie_in_and_fill_the_ranges():
    labels = sample_labels(5760, seed=4)
    for level, limits in {"V3": (45, 45, 45, 0.3, 0.6), "V6": (90, 90, 90, 0.6, 1.2)}.items():
        pose = labels[labels["variation"] == level][POSE]
        share = pose.iloc[:, :5].abs().max().to_numpy() / np.array(limits)
        assert (share <= 1).all() and (share > 0.98).all()
    assert labels["s"].min() >= 0.625 and labels["s"].max() <= 1.6


@pytest.mark.parametrize("n", [1, 63, 64, 200, 1000])
def test_any_number_of_labels_is_balanced(n):
    labels = sample_labels(n, seed=2)
    assert len(labels) == n
    counts = labels["object"].value_counts().reindex(object_names()["object"], fill_value=0)
    assert counts.max() - counts.min() <= 1


def test_labels_depend_on_the_seed_alone():
    assert sample_labels(100, seed=1).equals(sample_labels(100, seed=1))
    assert not np.allclose(sample_labels(100, seed=1)[POSE], sample_labels(100, seed=2)[POSE])


def test_labels_match_the_real_metadata(realdata):
    real = pd.read_csv(realdata / "hvm_metadata.csv")
    labels = sample_labels(5760)
    assert set(labels["category"]) == set(real["category"])
    assert real.groupby("var").size().to_dict() == labels.groupby("variation").size().to_dict()
    for level in ("V3", "V6"):
        ours, theirs = labels[labels["variation"] == level], real[real["var"] == level]
        for name in POSE:  # the bulk: a few real fruits have angles from another frame
            bulk = [table[name].quantile([0.05, 0.5, 0.95]) for table in (ours, theirs)]
            assert np.allclose(*bulk, atol=0.07 * np.ptp(ours[name])), (level, name)
        limits = [table[["ty", "tz", "s"]].agg(["min", "max"]) for table in (ours, theirs)]
        assert np.allclose(*limits, atol=0.02)


def test_pictures_do_not_depend_on_their_order():
    labels = sample_labels(40, seed=5)
    images = render_labels(labels, 16, workers=1, progress=False)[0]
    assert np.array_equal(render_labels(labels[::-1], 16, workers=1)[0], images[::-1])


def test_two_processes_give_the_same_pictures_in_a_script_without_a_main_guard(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, numpy as np\nfrom migvis.simulate.images import render_labels, sample_labels\n"
        "np.save(sys.argv[1], render_labels(sample_labels(8), 16, workers=2, progress=False))\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script), str(tmp_path / "pair.npy")]
    subprocess.run(command, check=True, capture_output=True, timeout=120, env=environment)
    alone = render_labels(sample_labels(8), 16, workers=1, progress=False)
    assert np.array_equal(np.load(tmp_path / "pair.npy"), alone)


def test_natural_backgrounds_end_in_grey_and_leave_the_mask():
    labels = sample_labels(6)
    black, mask = render_labels(labels, 64, workers=1)
    scene, scene_mask = render_labels(labels, 64, "natural", workers=1)
    other, _ = render_labels(labels, 64, "natural", seed=1, workers=1)
    assert np.array_equal(mask, scene_mask)
    assert (np.abs(scene[:, 0, 0].astype(int) - 128) <= 1).all()
    middle = np.s_[:, 20:44, 20:44]
    solid = mask[middle] == 255
    assert np.array_equal(black[middle][solid], scene[middle][solid])
    assert not np.array_equal(scene, other)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"background": "forest"}, "background must be"),
        ({"size": 4}, "at least 8"),
        ({"n_images": 0}, "at least 1"),
    ],
)
def test_bad_requests_for_pictures_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        render_hvm(**{"n_images": 4, "size": 16, "progress": False} | arguments)


def test_the_aperture_is_open_inside_and_closed_outside():
    window = _aperture(64)
    assert window[32, 32] == 1 and window[0, 0] == 0
    assert window.mean() == pytest.approx(np.pi * 0.44**2, rel=0.02)


def test_the_cache_is_used_and_mended(own_cache, monkeypatch):
    first, _ = render_hvm(8, 16, cache=True, progress=False)
    (file,) = own_cache.iterdir()
    calls = []
    monkeypatch.setattr(images_module, "render_labels", lambda *a, **k: calls.append(1) or render_labels(*a, **k))
    assert np.array_equal(render_hvm(8, 16, cache=True, progress=False)[0], first) and not calls
    render_hvm(8, 16, seed=1, cache=True, progress=False)
    assert len(calls) == 1 and len(list(own_cache.iterdir())) == 2
    file.write_bytes(file.read_bytes()[:200])  # truncated
    assert np.array_equal(render_hvm(8, 16, cache=True, progress=False)[0], first)
    assert len(calls) == 2


def test_no_part_of_a_file_is_left_when_writing_fails(own_cache, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(np, "save", fail)
    with pytest.warns(UserWarning, match="not kept"):
        render_hvm(4, 16, cache=True, progress=False)
    assert not list(own_cache.iterdir())
