"""NWB files."""

import io
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from migvis.recordings.sources import load_recording
from migvis.recordings.nwb import _count_spikes, _nwb_images
from migvis.support.images import prepare_images
from tests.recordings.made import CATEGORIES, Server, truncate, write_kar, write_nwb


@pytest.mark.parametrize("column, in_file", [("stimulus_id", "Images"), ("image_index", "ImageSeries")])
def test_nwb_counts_by_a_slow_reference(tmp_path, column, in_file):
    path, pictures, shown, spikes = write_nwb(tmp_path / "a.nwb", column, in_file)
    rec = load_recording("nwb", path, size=12)
    order = pd.unique(shown)
    np.testing.assert_allclose(rec.images[:, 0], pictures[order] / 255, atol=1e-6)
    expected = [
        [
            np.mean(
                [((t >= k * 0.5 + 0.07) & (t < k * 0.5 + 0.17)).sum() for k in np.flatnonzero(shown == i)]
            )
            for t in spikes
        ]
        for i in order
    ]
    np.testing.assert_allclose(rec.responses, expected, rtol=1e-6)
    assert (
        list(rec.labels["category"]) == [CATEGORIES[i] for i in order]
        and list(rec.sites["region"]) == ["IT"] * 3
    )
    assert rec.trials.shape == (4, 3, 3)


def test_nwb_with_images_and_labels_handed_over(tmp_path):
    path, pictures, _, _ = write_nwb(tmp_path / "a.nwb", "image_index", None)
    labels = pd.DataFrame({"image_id": [3, 1, 0, 2], "category": list("dbac")})
    rec = load_recording("nwb", path, images=dict(enumerate(pictures)), labels=labels, size=12)
    np.testing.assert_allclose(rec.images[:, 0], pictures[[3, 1, 0, 2]] / 255, atol=1e-6)


def test_nwb_unit_not_observed_has_no_response(tmp_path):
    path, _, shown, _ = write_nwb(tmp_path / "a.nwb", observed=True)
    unseen = set(shown) - set(shown[:6])
    if unseen:
        with pytest.raises(ValueError, match="units lack a response"):
            load_recording("nwb", path, size=12)
    else:
        trials = load_recording("nwb", path, size=12).trials
        assert np.isnan(trials[..., 1]).sum() == 6 and np.isfinite(trials[..., 0]).all()


def test_count_spikes_window_is_half_open_and_respects_observation():
    counts = _count_spikes(
        np.array([0.0, 0.1, 0.2, 0.3]), np.array([0.0, 0.1, 5.0]), (0.1, 0.3), np.array([[0.0, 1.0]])
    )
    np.testing.assert_array_equal(counts, [2, 2, np.nan])


BROKEN_NWB = {
    "no id column": (dict(drop_column=True), {}, r"name it with image_column=.*\['image_id'\] are missing"),
    "named column absent": ({}, {"image_column": "what"}, r"\['what'\] are missing"),
    "no units": (dict(units=False), {}, "a units table are needed"),
    "no images": (dict(in_file=None), {}, "0 sets of images.*pass images="),
    "container absent": ({}, {"image_container": "other"}, r"\['other'\] are missing"),
    "picture missing": (
        dict(in_file=None, column="image_id"),
        {"images": {0: np.zeros((4, 4), np.uint8)}},
        "3 images have no picture.*missing='drop'",
    ),
    "labels without category": (
        {},
        {"labels": pd.DataFrame({"image_id": ["picture0"]})},
        r"\['category'\] are missing",
    ),
    "labels twice": (
        {},
        {"labels": pd.DataFrame({"image_id": ["picture0"] * 2, "category": ["a", "b"]})},
        "holds picture0 more than once",
    ),
    "responses without labels": (
        {},
        {"labels": pd.DataFrame({"image_id": ["picture0"], "category": ["a"]})},
        "3 ids have responses but no image",
    ),
}


@pytest.mark.parametrize("made, arguments, message", BROKEN_NWB.values(), ids=BROKEN_NWB)
def test_broken_nwb(tmp_path, made, arguments, message):
    path, _, _, _ = write_nwb(tmp_path / "a.nwb", **made)
    with pytest.raises(ValueError, match=r"a\.nwb.*" + message):
        load_recording("nwb", path, size=12, **arguments)


@pytest.mark.parametrize("how", ["truncated", "foreign"])
def test_damaged_nwb(tmp_path, how):
    path, _, _, _ = write_nwb(tmp_path / "a.nwb")
    truncate(path) if how == "truncated" else path.write_text("text")
    with pytest.raises(ValueError, match=r"a\.nwb is truncated, damaged or not an NWB file"):
        load_recording("nwb", path)


def test_nwb_window():
    pytest.importorskip("pynwb")
    with pytest.raises(ValueError, match="from < to"):
        load_recording("nwb", "a.nwb", window=(0.2, 0.1))


def test_trials_without_onset_are_no_presentations():
    counts = _count_spikes(np.arange(0, 10, 0.01), np.array([1, np.nan, 3]), (0.07, 0.17))
    np.testing.assert_array_equal(counts, [10, np.nan, 10])
    observed = np.array([[0.0, 4.0]])
    np.testing.assert_array_equal(
        _count_spikes(np.arange(0, 10, 0.01), np.array([1, np.nan, 3]), (0.07, 0.17), observed),
        [10, np.nan, 10],
    )


@pytest.mark.parametrize(
    "intervals, expected",
    [
        ([[0, 2.1], [2.1, 5]], [10, 10]),
        ([[2.1, 5], [0, 1.5], [1.4, 2.1 - 1e-9]], [10, 10]),
        ([[0, 2.1], [2.12, 5]], [10, np.nan]),
    ],
)
def test_intervals_that_touch_or_overlap_are_one(intervals, expected):
    counts = _count_spikes(
        np.arange(0, 10, 0.01) + 0.005, np.array([1, 2]), (0.07, 0.17), np.array(intervals, float)
    )
    np.testing.assert_array_equal(counts, expected)


def test_nwb_onsets_from_another_column(tmp_path):
    def change(nwb):
        nwb.add_trial_column(
            name="image_on", description="when", data=[np.nan if k == 5 else k * 0.5 + 0.1 for k in range(12)]
        )

    path, _, shown, spikes = write_nwb(tmp_path / "a.nwb", change=change)
    with pytest.warns(UserWarning, match="'image_on'.*differ between presentations of one image"):
        rec = load_recording("nwb", path, size=12, onset_column="image_on")
    on = [k for k in np.flatnonzero(shown == shown[5]) if k != 5]
    expected = [np.mean([((t >= k * 0.5 + 0.17) & (t < k * 0.5 + 0.27)).sum() for k in on]) for t in spikes]
    np.testing.assert_allclose(rec.responses[list(pd.unique(shown)).index(shown[5])], expected)
    with pytest.raises(ValueError, match=r"onset_column=\) \['when'\] are missing"):
        load_recording("nwb", path, size=12, onset_column="when")


def test_nwb_images_numbered_from_1_are_not_shifted(tmp_path):
    path, pictures, shown, _ = write_nwb(tmp_path / "a.nwb", "image_index", "ImageSeries", shift=1)
    for missing in ("error", "drop"):
        with pytest.raises(
            ValueError,
            match="no presentation shows image 0, and the numbers run from 1 to 4.*number the images from 1",
        ):
            load_recording("nwb", path, size=12, missing=missing)
    rec = load_recording("nwb", path, size=12, images=dict(enumerate(pictures, 1)))
    np.testing.assert_allclose(rec.images[:, 0], pictures[pd.unique(shown)] / 255, atol=1e-6)
    with pytest.warns(UserWarning, match="if they count from 1, every picture is the wrong one"):
        load_recording("nwb", path, size=12, images=dict(enumerate(np.concatenate([pictures, pictures]))))


def test_nwb_follows_the_order_of_images(tmp_path):
    pytest.importorskip("pynwb")
    from pynwb.base import ImageReferences, Images
    from pynwb.image import GrayscaleImage

    rng = np.random.default_rng(1)
    kept = [
        GrayscaleImage(name=f"picture{i}", data=rng.integers(0, 256, (12, 12), dtype=np.uint8))
        for i in range(4)
    ]

    def change(nwb):
        nwb.add_stimulus_template(
            Images(
                name="ordered",
                images=kept,
                description="x",
                order_of_images=ImageReferences(name="order_of_images", data=kept[::-1]),
            )
        )

    path, _, shown, _ = write_nwb(tmp_path / "a.nwb", "image_index", None, change=change)
    rec = load_recording("nwb", path, size=12)
    np.testing.assert_allclose(
        rec.images[:, 0], np.stack([kept[3 - i].data for i in pd.unique(shown)]) / 255, atol=1e-6
    )


def test_nwb_pictures_with_16_bits_colour_and_transparency():
    pytest.importorskip("pynwb")
    from pynwb.base import Images
    from pynwb.image import GrayscaleImage, RGBAImage, RGBImage

    value = lambda *shape, dtype=np.uint8: np.random.default_rng(0).integers(
        0, np.iinfo(dtype).max, (12, 12, *shape), dtype=dtype
    )
    kept = [
        GrayscaleImage(name="picture0", data=value(dtype=np.uint16)),
        RGBImage(name="picture1", data=value(3)),
        RGBAImage(name="picture2", data=value(4)),
        RGBImage(name="picture3", data=value(3, dtype=np.uint16)),
    ]
    file = SimpleNamespace(
        stimulus_template={}, stimulus={"shown": Images(name="shown", images=kept, description="x")}
    )
    read = _nwb_images(file, None)
    expected = [
        kept[0].data / 65535,
        kept[1].data.mean(-1) / 255,
        kept[2].data[..., :3].mean(-1) / 255 * (kept[2].data[..., 3] / 255),
        kept[3].data.mean(-1) / 65535,
    ]
    made = prepare_images([read[f"picture{i}"] for i in range(4)])
    np.testing.assert_allclose(made[:, 0], expected, atol=1e-6)


def test_nwb_pictures_stay_in_colour(tmp_path):
    image = pytest.importorskip("pynwb.image")
    colours = np.random.default_rng(1).integers(0, 256, (4, 12, 12, 3), dtype=np.uint8)
    series = image.ImageSeries(name="shown", data=colours, unit="n.a.", format="raw", rate=1.0)
    path, _, shown, _ = write_nwb(
        tmp_path / "a.nwb", in_file=None, change=lambda nwb: nwb.add_stimulus_template(series)
    )
    kept = load_recording("nwb", path, size=12, colour="keep").images
    np.testing.assert_allclose(kept, colours[pd.unique(shown)].transpose(0, 3, 1, 2) / 255, atol=1e-6)
    np.testing.assert_allclose(load_recording("nwb", path, size=12).images[:, 0], kept.mean(1), atol=1e-6)


def test_nwb_columns_that_would_have_one_name_are_both_there(tmp_path):
    def change(nwb):
        nwb.add_unit_column(name="location", description="x", data=["left"] * 3)
        nwb.add_unit_column(name="site_id", description="x", data=list("xyz"))
        nwb.add_trial_column(name="image_id", description="x", data=list(range(12)))

    path, _, _, _ = write_nwb(tmp_path / "a.nwb", change=change)
    with pytest.warns(UserWarning, match="'image_id' is left out"):
        rec = load_recording("nwb", path, size=12, image_column="stimulus_id")
    assert (
        list(rec.sites["region"]) == ["IT"] * 3
        and list(rec.sites["location"]) == ["left"] * 3
        and list(rec.sites["site_id"]) == list("xyz")
    )
    assert set(rec.labels["image_id"]) == {f"picture{i}" for i in range(4)}


def test_an_image_of_two_categories_is_refused(tmp_path):
    pytest.importorskip("xarray")

    def change(nwb):
        nwb.trials["category"].data[0] = "other"

    path, _, shown, _ = write_nwb(tmp_path / "a.nwb", change=change)
    with pytest.raises(
        ValueError, match=rf"presentations of image picture{shown[0]} differ in category, \['other', '"
    ):
        load_recording("nwb", path, size=12)


@pytest.fixture
def server():
    pytest.importorskip("remfile")
    served = Server({})
    yield served
    served.close()


def test_an_address_is_read_in_parts_and_gives_the_same(tmp_path, server):
    def change(nwb):
        nwb.add_acquisition(
            pynwb.TimeSeries(name="raw", data=np.random.default_rng(0).random(400_000), unit="V", rate=1e4)
        )

    pynwb = pytest.importorskip("pynwb")
    path, _, _, _ = write_nwb(tmp_path / "a.nwb", change=change)
    server.files["a.nwb"] = path.read_bytes()
    from_address = load_recording("nwb", f"{server.url}a.nwb", size=12)
    from_path = load_recording("nwb", path, size=12)
    np.testing.assert_array_equal(from_address.trials, from_path.trials)
    np.testing.assert_array_equal(from_address.images, from_path.images)
    assert from_address.name == from_path.name == "NWB s1"
    assert 0 < sum(server.sent) < path.stat().st_size / 2


def test_open_files_of_all_kinds(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    path, _, _, _ = write_nwb(tmp_path / "a.nwb")
    expected = load_recording("nwb", path, size=12).trials
    for opened in (path.open("rb"), io.BytesIO(path.read_bytes()), fsspec.open(f"file://{path}").open()):
        with opened:
            np.testing.assert_array_equal(load_recording("nwb", opened, size=12).trials, expected)
            assert not opened.closed


def test_averaged_responses_at_an_address(tmp_path, server):
    path, folder, labels, made = write_kar(tmp_path / "b.nwb")
    server.files["b.nwb"] = path.read_bytes()
    rec = load_recording("kar-nwb", f"{server.url}b.nwb", images=folder, labels=labels, size=12)
    np.testing.assert_allclose(rec.trials, made["psth"][:, :, 3:8].mean(2), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "address, error, message",
    [
        ("{url}nowhere.nwb", ConnectionError, "nowhere.nwb cannot be fetched .*404.*download the file"),
        ("s3://bucket/a.nwb", ValueError, "only addresses with https:// or http://.*fsspec.open"),
        ("{url}text.nwb", ValueError, "text.nwb is truncated, damaged or not an NWB file"),
    ],
)
def test_addresses_that_cannot_be_read(server, address, error, message):
    server.files["text.nwb"] = b"text" * 100
    with pytest.raises(error, match=message):
        load_recording("nwb", address.format(url=server.url))


def test_a_server_that_fails_later_is_an_error(tmp_path, server):
    path, _, _, _ = write_nwb(tmp_path / "a.nwb")
    server.files["a.nwb"] = path.read_bytes()
    server.plan["a.nwb"] = ["ok"] + [410] * 50
    with pytest.raises(ConnectionError, match="a.nwb cannot be fetched .*410"):
        load_recording("nwb", f"{server.url}a.nwb")


def test_what_lies_elsewhere_needs_a_source_that_reads_it():
    for place in ("https://127.0.0.1/a.h5", io.BytesIO(b"")):
        with pytest.raises(ValueError, match="bashivan is read from a folder or a file, not from"):
            load_recording("bashivan", place)


def test_labels_from_a_csv_file(tmp_path):
    path, pictures, _, _ = write_nwb(tmp_path / "a.nwb", "image_index", None)
    labels = pd.DataFrame({"image_id": [3, 1, 0, 2], "category": ["NA", "None", "b", "a"]})
    labels.to_csv(tmp_path / "labels.csv", index=False)
    rec = load_recording(
        "nwb", path, images=dict(enumerate(pictures)), labels=tmp_path / "labels.csv", size=12
    )
    assert list(rec.labels["category"]) == ["NA", "None", "b", "a"]
    np.testing.assert_allclose(rec.images[:, 0], pictures[[3, 1, 0, 2]] / 255, atol=1e-6)
