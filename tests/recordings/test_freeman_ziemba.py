"""Freeman and Ziemba 2013, whole and broken."""

import h5py
import numpy as np
import pandas as pd
import pytest

from migvis.recordings.sources import load_recording
from tests.recordings.made import bins, check_damaged_and_missing, each, write_freeman_ziemba


def load(folder, **options):
    return load_recording("freeman-ziemba", folder, **({"size": 40} | options))


@pytest.mark.parametrize("old", [False, True], ids=["new names", "old names"])
@pytest.mark.parametrize("options, units, window", [({}, [3, 4, 5, 6], (50, 200)), ({"area": "V1", "window": (40, 41)}, [0, 1, 2], (40, 41)), ({"area": "all"}, range(7), (50, 200))])
def test_windows_of_spikes_are_averaged(tmp_path, old, options, units, window):
    folder, pictures, spikes = write_freeman_ziemba(tmp_path / "d", old=old)
    rec = load(folder, trials=True, **options)
    expected = spikes[..., slice(*window)].mean(-1)[:, :, list(units)]
    np.testing.assert_allclose(np.sort(rec.trials, 1), np.sort(expected, 1), atol=1e-6)
    np.testing.assert_allclose(rec.responses, expected.mean(1), atol=1e-6)
    np.testing.assert_allclose(rec.images[:, 0], pictures[..., 0] / 255, atol=1e-6)
    assert list(rec.sites["site_id"]) == [u + 1 for u in units] and "noise_ceiling" in rec.sites
    assert rec.name == f"FreemanZiemba2013 {window[0]}-{window[1]} ms {options.get('area', 'V2')}".removesuffix(" all")


def test_textures_are_categories(tmp_path):
    folder, _, _ = write_freeman_ziemba(tmp_path / "d")
    labels, table = load(folder).labels, pd.read_csv(folder / "stimulus_FreemanZiemba2013_aperture-public.csv")
    assert list(labels["category"]) == [f"family {f}" for f in table["texture_family"]]
    assert list(labels["object"]) == [f"family {f} {t}" for f, t in zip(table["texture_family"], table["texture_type"])]
    assert list(labels["variation"]) == list(table["texture_type"]) == list(labels["texture_type"])
    assert list(labels["sample"]) == list(table["sample"]) and list(labels["image_id"]) == list(table["stimulus_id"])


def test_the_same_read_by_h5py(tmp_path):
    folder, _, _ = write_freeman_ziemba(tmp_path / "d")
    with h5py.File(folder / "assy_movshon_FreemanZiemba2013_public.nc") as file:
        assert [dim[0].name for dim in file["data"].dims] != [] and file["data"].shape == (7, 300, 36)
        rates = file["data"][:, 50:200].mean(1)[3:]
        ids = np.array([i.decode() for i in file["stimulus_id"][:]])
    rec = load(folder)
    for image, response in zip(rec.labels["image_id"], rec.responses):
        np.testing.assert_allclose(response, rates[:, ids == image].mean(1), atol=1e-6)


def coordinate(name, values):
    return {"change_values": lambda v, c: (v, c | {name: (c[name][0], values(np.array(c[name][1])))})}


def stimuli(**columns):
    return {"change_stimuli": lambda t: t.assign(**{k: v(t) if callable(v) else v for k, v in columns.items()})}


def first(column, value):
    return lambda t: [value, *t[column][1:]]


BROKEN = {
    "no family": ({"change_stimuli": lambda t: t.drop(columns="texture_family")}, r"public\.csv.*\['texture_family'\] are missing"),
    "no type": ({"change_stimuli": lambda t: t.drop(columns="texture_type")}, r"public\.csv.*\['texture_type'\] are missing"),
    "no sample": ({"change_stimuli": lambda t: t.drop(columns="sample")}, r"public\.csv.*\['sample'\] are missing"),
    "no id": ({"change_stimuli": lambda t: t.drop(columns="stimulus_id")}, r"public\.csv.*\['image_id'\] are missing"),
    "empty family": (stimuli(texture_family=first("texture_family", None)), "texture_family is empty in row 0"),
    "empty type": (stimuli(texture_type=first("texture_type", None)), "texture_type is empty in row 0"),
    "other type": (stimuli(texture_type=first("texture_type", "tex")), "'texture' or 'noise', not 'tex'"),
    "family is text": (stimuli(texture_family=first("texture_family", "bark")), r"public\.csv.*texture_family must be real numbers"),
    "stimulus twice": ({"change_stimuli": lambda t: pd.concat([t, t[:1]])}, r"public\.csv.*more than once"),
    "fewer stimuli": ({"change_stimuli": lambda t: t[1:]}, "1 ids have responses but no image"),
    "no picture": (stimuli(filename=first("filename", "x.png")), r"public\.zip.*\['x.png'\] are missing"),
    "no number": ({"drop_coords": ["neuroid_id"]}, r"public\.nc.*\['site_id'\] are missing"),
    "no region": ({"drop_coords": ["region"]}, r"\['region'\] are missing"),
    "no ids": ({"drop_coords": ["stimulus_id"]}, r"public\.nc.*\['image_id'\] are missing"),
    "no starts": ({"drop_coords": ["time_bin_start"]}, r"public\.nc.*\['time_bin_start'\] are missing"),
    "numbers twice": (coordinate("neuroid_id", lambda old: old // 2), "site_id holds 2 more than once"),
    "other regions": (coordinate("region", lambda old: old.astype("U9")[::-1] == "x"), "no unit of subject None in area 'V2'"),
    "repetition twice": (coordinate("repetition", lambda old: 0 * old), "same repetition twice"),
    "image without responses": (coordinate("stimulus_id", lambda old: np.where(old == old[0], old[old != old[0]][0], old)), "same repetition twice"),
    "bins of 2 ms": ({"change_values": lambda v, c: (v[..., :150], c | bins(range(1, 302, 2)))}, r"window \(50, 200\) ms cannot be filled: no time bin starts at 50"),
    "NaN": ({"change_values": lambda v, c: (np.where(np.arange(7)[:, None, None] == 4, np.nan, v), c)}, "1 units have no data at all"),
    "text": ({"change_values": lambda v, c: (v.astype(str), c)}, "public.nc.*must be real numbers"),
}


@each(BROKEN)
def test_broken_fields_are_named(tmp_path, change, message):
    folder, _, _ = write_freeman_ziemba(tmp_path / "d", **change)
    with pytest.raises(ValueError, match=message):
        load(folder)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"subject": "M1"}, r"columns of the sites \['animal'\] are missing"),
        ({"area": "IT"}, "no unit of subject None in area 'IT'; there are .*V1.*V2.*}$"),
        ({"window": (250, 310)}, "cannot be filled: no time bin starts at 300"),
        ({"window": (200, 50)}, "from < to"),
        ({"window": 50}, "window must be .from, to. in ms"),
        ({"window": ("a", "b")}, "window must be .from, to. in ms"),
    ],
)
def test_options_that_cannot_be(tmp_path, options, message):
    folder, _, _ = write_freeman_ziemba(tmp_path / "d")
    with pytest.raises(ValueError, match=message):
        load(folder, **options)


@pytest.mark.parametrize("name", ["assy_movshon_FreemanZiemba2013_public.nc", "stimulus_FreemanZiemba2013_aperture-public.zip"])
def test_damaged_and_missing_files(tmp_path, name):
    folder, _, _ = write_freeman_ziemba(tmp_path / "d")
    check_damaged_and_missing(folder / name, lambda: load(folder))
