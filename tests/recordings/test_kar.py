"""NWB files with averaged responses, whole and broken."""

import numpy as np
import pytest
from PIL import Image

from migvis.recordings.nwb import _psth_bins
from migvis.recordings.sources import load_recording
from tests.recordings.made import PSTH, each, truncate, write_kar, write_zip

h5py = pytest.importorskip("h5py")


def load(path, folder, labels, **options):
    return load_recording("kar-nwb", path, **({"images": folder, "labels": labels, "size": 12} | options))


def test_the_average_over_a_window_as_h5py_reads_it(tmp_path):
    path, folder, labels, _ = write_kar(tmp_path / "a.nwb")
    rec = load(path, folder, labels)
    with h5py.File(path) as file: # bins begin at 10, 30, ..., 170 ms
        expected = np.mean([file[f"scratch/{PSTH}"][:, :, k] for k in (3, 4, 5, 6, 7)], axis=0)
    np.testing.assert_allclose(rec.trials, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rec.responses, expected.mean(1), rtol=1e-5, atol=1e-6)
    pictures = [np.asarray(Image.open(folder / f"exp_{k}.png")) / 255 for k in range(6)]
    np.testing.assert_allclose(rec.images[:, 0], pictures, atol=1e-6)
    assert list(rec.labels["category"]) == list("aabbcc") and rec.name == "Kar s2"


def test_channels_are_the_electrodes_approved_in_every_session(tmp_path):
    path, folder, labels, _ = write_kar(tmp_path / "a.nwb")
    sites = load(path, folder, labels).sites
    assert list(sites["site_id"]) == [f"pico_{k}" for k in (0, 1, 2, 4, 5)]
    assert list(sites["elec"]) == [7, 8, 9, 11, 12] and list(sites["row"]) == [0, 0, 0, 1, 1]
    assert list(sites["col"]) == [0, 1, 2, 1, 2] and set(sites["animal"]) == {"pico"}
    assert list(sites["region"]) == ["IT", "V4", "IT", "IT", "V4"]
    assert list(sites["subregion"]) == ["aIT", "V4d", "aIT", "aIT", "V4d"]
    assert list(sites["hemisphere"]) == list("RLRRL")
    assert load(path, folder, labels, area="V4", subject="pico").responses.shape == (6, 2)


def test_other_fields_windows_bins_and_labels(tmp_path):
    path, folder, labels, made = write_kar(tmp_path / "a.nwb", described="no times")
    every = load(
        path, folder, labels, psth="PSTHs_ZScored_SessionMerged", bins=(0, 180, 20), window=(0.02, 0.04)
    )
    assert every.responses.shape[1] == 6
    rec = load(path, folder, labels, bins=(0, 180, 20), window=(0.02, 0.04))
    np.testing.assert_allclose(rec.trials, made["psth"][:, :, 1], rtol=1e-5)
    table = tmp_path / "labels.csv"
    named = labels.assign(image_file_name=labels["image_id"], image_id=[f"00{k}" for k in range(6)])
    named.assign(image_number=range(1, 7)).to_csv(table, index=False)
    assert list(load(path, folder, table, bins=(10, 190, 20)).labels["image_id"]) == list(named["image_id"])


def test_pictures_in_the_file_and_in_an_archive(tmp_path):
    from pynwb.base import Images
    from pynwb.image import GrayscaleImage

    kept = [GrayscaleImage(name=f"exp_{k}.png", data=np.full((12, 12), 40 * k, np.uint8)) for k in range(6)]

    def change(nwb):
        nwb.add_stimulus_template(Images(name="StimulusSet", images=kept, description="x"))

    path, folder, labels, _ = write_kar(tmp_path / "a.nwb", change)
    rec = load(path, None, labels)
    np.testing.assert_allclose(rec.images[:, 0, 0, 0], 40 * np.arange(6) / 255, atol=1e-6)
    pictures = {f.name: Image.open(f) for f in folder.iterdir()}
    archive = write_zip(tmp_path / "all.zip", pictures)
    np.testing.assert_array_equal(
        load(path, archive, labels).images, load(path, folder, labels).images
    )
    with pytest.raises(ValueError, match=r"pictures \['other'\] are missing"):
        load(path, None, labels.assign(image_id=["other", *labels["image_id"][1:]]))


def test_missing_repeats_are_no_responses(tmp_path):
    psth = np.random.default_rng(0).normal(size=(6, 4, 9, 5))
    psth[2, 3] = np.nan
    path, folder, labels, _ = write_kar(tmp_path / "a.nwb", psth=psth)
    trials = load(path, folder, labels).trials
    assert np.isnan(trials[2, 3]).all() and np.isfinite(trials).sum() == 6 * 4 * 5 - 5


def test_a_location_of_another_form_is_left_out_with_a_warning(tmp_path):
    path, folder, labels, _ = write_kar(tmp_path / "a.nwb", group=["IT", "V4"])
    with pytest.warns(UserWarning, match=r"\['hemisphere', 'region', 'subregion'\], but one is 'IT'"):
        rec = load(path, folder, labels)
    assert "region" not in rec.sites and "elec" in rec.sites
    path, folder, labels, _ = write_kar(tmp_path / "b.nwb", location=["unknown"] * 6)
    with pytest.warns(UserWarning, match=r"\['row', 'col', 'elec'\], but one is 'unknown'"):
        assert "row" not in load(path, folder, labels).sites


BROKEN = {
    "no psth": (dict(psth=None), {}, rf"fields of the scratch \['{PSTH}'\] are missing"),
    "three axes": (dict(psth=np.zeros((6, 4, 5))), {}, r"shape \(6, 4, 5\), but \(images, repeats, bins, channels\)"),
    "other bins": (dict(psth=np.zeros((6, 4, 8, 5))), {}, "from 10 to 190 ms, 20 ms wide, are 9, but .* 8"),
    "no times": (dict(described="responses"), {}, r"does not say when .*'responses'.*give bins="),
    "times cut": (dict(described="[start_time_ms, stop_time_ms, tb_ms]: [10 190]"), {}, "does not say when"),
    "no masks": (dict(masks=None), {}, r"\['QualityApprovedChannelMasks'\] are missing"),
    "masks of others": (dict(masks=np.ones((2, 5), bool)), {}, r"'QualityApprovedChannelMasks' .*\(2, 5\)"),
    "all approved": (dict(masks=np.ones((2, 6), bool)), {}, "approves 6 of 6 .*5 channels.*not known"),
    "masks of numbers": (
        dict(masks=np.array([[1, 1, 1, 2, 1, 1]])),
        {},
        "approves 5 of 6 electrodes in every session, but",
    ),
    "no electrodes": (dict(location=None), {}, "there is no table of electrodes"),
    "all NaN": (dict(psth=np.full((6, 4, 9, 5), np.nan)), {}, "6 images have no response"),
    "window in a bin": ({}, {"window": (0.05, 0.16)}, "does not begin and end with time bins.*0.01 to 0.19"),
    "window turned": ({}, {"window": (0.17, 0.07)}, "window must be .* from < to"),
    "bins of width 0": ({}, {"bins": (0, 180, 0)}, "give bins="),
}


@pytest.mark.parametrize("made, options, message", BROKEN.values(), ids=BROKEN)
def test_broken_fields_are_named(tmp_path, made, options, message):
    path, folder, labels, _ = write_kar(tmp_path / "a.nwb", **made)
    with pytest.raises(ValueError, match=message):
        load(path, folder, labels, **options)


LABELS = {
    "none": (lambda t: None, "does not name the images of its PSTHs; give labels="),
    "fewer rows": (lambda t: t[:5], "labels have 5 rows, but the PSTHs have 6 images"),
    "no ids": (lambda t: t.drop(columns="image_id"), r"\['image_id'\] are missing"),
    "no category": (lambda t: t.drop(columns="category"), r"\['category'\] are missing"),
    "one id twice": (lambda t: t.assign(image_id=["exp_0.png"] * 6), "exp_0.png more than once"),
    "another order": (lambda t: t.assign(image_number=[1, 2, 3, 5, 4, 6]), "image_number that does not rise"),
    "no picture": (lambda t: t.assign(image_id=[f"no_{k}" for k in range(6)]), r"pictures \['no_0"),
}


@each(LABELS)
def test_labels_that_do_not_fit(tmp_path, change, message):
    path, folder, labels, _ = write_kar(tmp_path / "a.nwb")
    with pytest.raises(ValueError, match=message):
        load(path, folder, change(labels))


def test_a_table_in_place_of_averages_is_refused(tmp_path):
    from pynwb.core import DynamicTable

    def change(nwb):
        nwb.add_scratch(DynamicTable(name="table", description="x"))

    path, folder, labels, _ = write_kar(tmp_path / "a.nwb", change)
    with pytest.raises(ValueError, match=r"'table' has shape \(0,\), but \(images, repeats"):
        load(path, folder, labels, psth="table")


def test_files_of_the_other_kind_say_which_source_reads_them(tmp_path):
    path, folder, labels, _ = write_kar(tmp_path / "a.nwb")
    with pytest.raises(ValueError, match=r"averaged responses.*load_recording\('kar-nwb'\)"):
        load_recording("nwb", path)


def test_damaged_and_missing_files(tmp_path):
    path, folder, labels, _ = write_kar(tmp_path / "a.nwb")
    with pytest.raises(FileNotFoundError, match="nowhere does not exist; it should be a folder or archive"):
        load(path, tmp_path / "nowhere", labels)
    truncate(path)
    with pytest.raises(ValueError, match=r"a\.nwb is truncated, damaged or not an NWB file"):
        load(path, folder, labels)


def test_bins_by_hand():
    described = "[start_time_ms, stop_time_ms, tb_ms]: [-20. 40. 20.]" # bins begin at -20, 0 and 20
    assert _psth_bins(described, 3, None, (0, 0.04)) == slice(1, 3)
