"""Files of TVSD, whole and broken."""

import zipfile

import numpy as np
import pandas as pd
import pytest

from migvis.recordings.sources import load_recording
from migvis.recordings.photographs import _THINGS_KEYS, _categorise
from tests.recordings.made import COLOURS, each, THINGS as OBJECTS, things_paths, truncate, TVSD_AREAS as AREAS, write_packed_tvsd, write_tvsd

h5py = pytest.importorskip("h5py")

PATHS = things_paths(OBJECTS)


@pytest.fixture(scope="module")
def tvsd(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tvsd")
    return folder, write_tvsd(folder)


def load(folder, **options):
    return load_recording("tvsd", folder, **({"size": 16, "reliability": -1} | options))


@pytest.mark.parametrize("subject", ["F", "N"])
@pytest.mark.parametrize("area", ["V1", "V4", "IT"])
def test_areas_lie_where_each_animal_has_them(tvsd, subject, area):
    folder, arrays = tvsd
    columns = [k for k in range(1024) if AREAS[subject][k] == area]
    rec = load(folder, subject=subject, area=area)
    np.testing.assert_allclose(rec.responses, arrays[subject]["train_MUA"][:, columns], rtol=1e-5, atol=1e-6)
    assert list(rec.sites["electrode"]) == columns and set(rec.sites["region"]) == {area}
    assert list(rec.labels["object"]) == OBJECTS == list(rec.labels["category"])
    assert list(rec.labels["image_id"]) == [p.replace("\\", "/") for p in PATHS]
    assert rec.name == f"TVSD train {subject} {area}" and rec.trials is None


def test_test_photographs_have_repeats(tvsd):
    folder, arrays = tvsd
    rec = load(folder / "monkeyN", subject="N", split="test", trials=True)
    repeats = arrays["N"]["test_MUA_reps"][:, :, 768:]
    np.testing.assert_allclose(rec.trials, repeats.transpose(1, 0, 2), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rec.responses, repeats.mean(0), rtol=1e-4, atol=1e-6)
    assert list(rec.labels["object"]) == OBJECTS[::-1] and "noise_ceiling" in rec.sites


def test_both_animals_side_by_side(tvsd):
    folder, arrays = tvsd
    rec = load(folder, subject="all", area="all")
    both = np.hstack([arrays[m]["train_MUA"] for m in "FN"])
    np.testing.assert_allclose(rec.responses, both, rtol=1e-5, atol=1e-6)
    assert rec.sites["site_id"].is_unique and list(rec.sites["region"]) == AREAS["F"] + AREAS["N"]


def test_reliable_and_loud_electrodes(tvsd):
    folder, arrays = tvsd
    reliable = arrays["F"]["reliab"][:, 512:832].mean(0)
    loud = arrays["F"]["SNR_max"][0, 512:832]
    assert list(load_recording("tvsd", folder, size=8).sites["electrode"] - 512) == list(
        np.flatnonzero(reliable >= 0.3)
    )
    rec = load(folder, reliability=0.5, snr=4)
    assert list(rec.sites["electrode"] - 512) == list(np.flatnonzero((reliable >= 0.5) & (loud >= 4)))
    np.testing.assert_allclose(rec.sites["snr"], loud[rec.sites["electrode"] - 512])


def test_photographs_from_a_folder_and_an_archive(tvsd, tmp_path):
    folder, _ = tvsd
    rec = load(folder)
    grey = [(0.299 * r + 0.587 * g + 0.114 * b) / 255 for r, g, b in COLOURS]
    np.testing.assert_allclose(rec.images.mean((1, 2, 3)), grey, atol=0.01)
    with zipfile.ZipFile(tmp_path / "things.zip", "w") as archive:
        for file in (folder / "object_images").rglob("*.jpg"):
            archive.write(file, f"images/{file.parent.name}/{file.name}")
    np.testing.assert_array_equal(load(folder, images=tmp_path / "things.zip").images, rec.images)


def test_photographs_stay_in_colour_or_are_averaged(tvsd):
    kept = load(tvsd[0], colour="keep").images
    np.testing.assert_allclose(kept.mean((2, 3)), np.array(COLOURS) / 255, atol=0.015)
    np.testing.assert_allclose(load(tvsd[0], colour="average").images[:, 0], kept.mean(1), atol=0.005)


LONG = pd.DataFrame(
    {
        "uniqueID": ["aardvark", "bat1", "zebra", "coin", "bat1"],
        "category": ["animal", "animal", "animal", "money", "sport"],
    }
)
WIDE = pd.DataFrame(
    {"uniqueID": ["aardvark", "bat1", "zebra", "coin"], "animal": [1, 1, 1, 0], "money": [0, 0, 0, 1]}
)
CATEGORY = ["animal", "animal", "animal", "money", "animal"]


@pytest.mark.parametrize("table", [LONG, WIDE], ids=["long", "wide"])
@pytest.mark.parametrize("suffix", ["tsv", "csv"])
def test_categories_of_thingsplus(tvsd, tmp_path, table, suffix):
    path = tmp_path / f"category53.{suffix}"
    table.to_csv(path, sep="\t" if suffix == "tsv" else ",", index=False)
    rec = load(tvsd[0], categories=path)
    assert list(rec.labels["category"]) == CATEGORY and list(rec.labels["object"]) == OBJECTS


def test_categories_of_other_forms():
    def categorise(table):
        return list(_categorise(pd.DataFrame({"object": OBJECTS}), table, _THINGS_KEYS))

    assert categorise(LONG) == CATEGORY
    assert categorise({"coin": "money"}) == ["other"] * 3 + ["money", "other"]
    unknown = pd.concat([LONG, pd.DataFrame({"uniqueID": ["zebra"] * 9, "category": ["", None, np.nan] * 3})])
    assert categorise(unknown) == CATEGORY
    with pytest.raises(ValueError, match="none of the images .*bat1.* has a category"):
        categorise({"car": "vehicle"})
    with pytest.raises(ValueError, match="needs a column uniqueID"):
        categorise(LONG.rename(columns={"uniqueID": "x"}))
    with pytest.raises(ValueError, match="neither a column category nor columns of 0 and 1"):
        categorise(WIDE.assign(animal=2, money=2))


def put(name, values):
    def change(file):
        del file[name]
        if values is not None:
            file[name] = values

    return change


def no_text(file):
    codes = file.create_dataset("#refs#/empty", data=np.zeros(2, np.uint64))
    file["train_imgs/class"][2, 0] = codes.ref


BROKEN = {
    "no responses": ("responses", put("train_MUA", None), r"normMUA\.mat.*\['train_MUA'\] are missing"),
    "no reliability": ("responses", put("reliab", None), r"\['reliab'\] are missing"),
    "turned": ("responses", put("train_MUA", np.zeros((1024, 5))), r"'train_MUA' has shape \(1024, 5\), but"),
    "reliability of days": ("responses", put("reliab", np.zeros((6, 9))), r"'reliab' has shape \(6, 9\)"),
    "short snr": ("responses", put("SNR_max", np.zeros(3)), r"'SNR_max' has shape \(3,\).*1024 electrodes"),
    "short oracle": ("responses", put("oracle", np.zeros(3)), r"'oracle' has shape \(3,\)"),
    "fewer rows": ("responses", put("train_MUA", np.zeros((4, 1024))), r"'train_MUA' has shape \(4, 1024\), but \(5, 1024\)"),
    "all NaN": ("responses", put("train_MUA", np.full((5, 1024), np.nan)), "responses: 5 images have no resp"),
    "no images": ("images", put("train_imgs", None), r"things_imgs\.mat.*\['train_imgs'\] are missing"),
    "no class": ("images", put("train_imgs/class", None), r"train_imgs \['class'\] are missing"),
    "no path": ("images", put("train_imgs/things_path", None), r"train_imgs \['things_path'\] are missing"),
    "numbers": ("images", put("train_imgs/class", np.zeros((5, 1))), "references to text are expected"),
    "no text": ("images", no_text, "train_imgs/class has no text in row 2"),
    "other length": (
        "images",
        lambda file: put("train_imgs/class", file["train_imgs/class"][:3])(file),
        "must be of the same length",
    ),
}


@pytest.mark.parametrize("which, change, message", BROKEN.values(), ids=BROKEN)
def test_broken_fields_are_named(tmp_path, which, change, message):
    write_tvsd(tmp_path, **{f"change_{which}": change})
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    "field, values, message",
    [
        ("test_MUA_reps", None, r"\['test_MUA_reps'\] are missing"),
        ("test_MUA_reps", np.zeros((5, 1024)), r"'test_MUA_reps' has shape \(5, 1024\)"),
    ],
)
def test_broken_repeats_are_named(tmp_path, field, values, message):
    write_tvsd(tmp_path, put(field, values))
    with pytest.raises(ValueError, match=message):
        load(tmp_path, split="test")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"subject": "M1"}, "subject must be 'F', 'N' or 'all', not 'M1'"),
        ({"split": "both"}, "split must be 'train' or 'test', not 'both'"),
        ({"area": "V2"}, "no unit of subject 'F' in area 'V2'"),
        ({"snr": 99}, "no unit"),
    ],
)
def test_options_that_cannot_be(tvsd, options, message):
    with pytest.raises(ValueError, match=message):
        load(tvsd[0], **options)


def test_snr_must_be_known_to_choose_by_it(tmp_path):
    write_tvsd(tmp_path, put("SNR_max", None))
    with pytest.raises(ValueError, match=r"signal-to-noise ratios \(SNR_max\) \['snr'\] are missing"):
        load(tmp_path, snr=2)


def test_animals_with_other_photographs(tmp_path):
    write_tvsd(tmp_path)
    with h5py.File(tmp_path / "monkeyN/_logs/things_imgs.mat", "a") as file:
        file["train_imgs/class"][:] = file["train_imgs/class"][:][::-1]
    with pytest.raises(ValueError, match=r"things_imgs.mat of \['F', 'N'\] differ"):
        load(tmp_path, subject="all")


@pytest.mark.parametrize("name", ["THINGS_normMUA.mat", "_logs/things_imgs.mat"])
def test_damaged_and_missing_files(tmp_path, name):
    write_tvsd(tmp_path)
    path = tmp_path / "monkeyF" / name
    truncate(path, 0.5)
    with pytest.raises(ValueError, match="truncated, damaged or not the file .*of TVSD"):
        load(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="does not exist; it should be the file .*of TVSD"):
        load(tmp_path)


def test_photographs_that_are_missing(tmp_path):
    write_tvsd(tmp_path)
    with pytest.raises(FileNotFoundError, match="photographs of THINGS are not at .*osf.io/jum2f"):
        load(tmp_path, images=tmp_path / "nowhere")
    (tmp_path / "object_images/coin/coin_03s.jpg").unlink()
    with pytest.raises(ValueError, match=r"pictures \['coin/coin_03s.jpg'\] are missing"):
        load(tmp_path)


def test_archives_with_a_password_are_refused(tmp_path):
    write_tvsd(tmp_path)
    path = tmp_path / "things.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in (tmp_path / "object_images").rglob("*.jpg"):
            archive.write(file, file.name)
    content = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)): # the flag of encryption
        start = -1
        while (start := content.find(mark, start + 1)) >= 0:
            content[start + place] |= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="cannot be unpacked .*password.*name the folder"):
        load(tmp_path, images=path)


@pytest.fixture(scope="module")
def packed(tvsd, tmp_path_factory):
    "The copies of Brain-Score of the same responses, both splits."
    folder = tmp_path_factory.mktemp("packed")
    for split in ("train", "test"):
        write_packed_tvsd(folder, tvsd[1], split)
    return folder


@pytest.mark.parametrize("subject", ["F", "N", "all"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_copies_of_brainscore_give_the_same(tvsd, packed, split, subject):
    options = {"subject": subject, "area": "IT", "split": split, "reliability": 0.4, "snr": 3, "trials": True, "categories": LONG}
    ours, theirs = load(tvsd[0], **options), load(packed, **options)
    columns = ["site_id", "animal", "region", "electrode", "reliability", "snr", "oracle"]
    ours_sites, theirs_sites = (rec.sites[columns].sort_values("site_id") for rec in (ours, theirs))
    pd.testing.assert_frame_equal(ours_sites.reset_index(drop=True), theirs_sites.reset_index(drop=True), check_dtype=False)
    order = theirs.sites.reset_index(drop=True).sort_values("site_id").index
    np.testing.assert_allclose(theirs.trials[..., order], ours.trials[..., ours.sites.reset_index(drop=True).sort_values("site_id").index], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(theirs.images, ours.images, atol=0.02) # PNG there, JPEG here
    assert list(theirs.labels["category"]) == list(ours.labels["category"]) and list(theirs.labels["object"]) == list(ours.labels["object"])
    assert list(theirs.labels["image_id"]) == [i.split("/")[1].removesuffix(".jpg") for i in ours.labels["image_id"]] and theirs.name == ours.name


def test_copies_of_brainscore_read_by_h5py(packed):
    with h5py.File(packed / "assy_THINGS_TVSD_test_Assembly.nc") as file:
        animal, area = (np.array([v.decode() for v in file[name][:]]) for name in ("subject", "region"))
        ids = np.array([v.decode() for v in file["stimulus_id"][:]])
        values = file["data"][:, (animal == "monkeyF") & (area == "V4"), 0]
    rec = load(packed, subject="F", area="V4", split="test", trials=True)
    for image, trials in zip(rec.labels["image_id"], rec.trials):
        np.testing.assert_allclose(trials, values[ids == image], rtol=1e-5, atol=1e-6)
    assert rec.sites["electrode"].tolist() == list(range(832, 1024))


def test_photographs_of_the_user_serve_the_copies(tvsd, packed, tmp_path):
    write_packed_tvsd(tmp_path, tvsd[1], pictures=False)
    with pytest.raises(FileNotFoundError, match="holds no archive of pictures"):
        load(tmp_path)
    np.testing.assert_array_equal(load(tmp_path, images=tvsd[0] / "object_images").images, load(tvsd[0]).images)
    with pytest.raises(FileNotFoundError, match="photographs of THINGS are not at .*osf.io/jum2f"):
        load(tmp_path, images=tmp_path / "nowhere")


def change_coordinate(name, change):
    def changed(values, coords):
        dimension, old = coords[name]
        return values, coords | {name: (dimension, change(np.array(old)))}

    return {"change_values": changed}


def at(place, value):
    def change(old):
        old = old.astype(object)
        old[place] = value
        return old.astype(type(value)) if not isinstance(value, str) else old.astype(str)

    return change


PACKED = {
    "no subject": ({"drop_coords": ["subject"]}, r"\['animal'\] are missing"),
    "no region": ({"drop_coords": ["region"]}, r"\['region'\] are missing"),
    "no number": ({"drop_coords": ["neuroid_id"]}, r"train_Assembly\.nc.*\['site_id'\] are missing"),
    "no reliability": ({"drop_coords": ["reliability"]}, "reliability of units is not known"),
    "no stimulus": ({"drop_coords": ["stimulus_id"]}, r"train_Assembly\.nc.*\['image_id'\] are missing"),
    "other animal": (change_coordinate("subject", lambda old: np.where(old == "monkeyF", "monkeyG", old)), "1024 electrodes"),
    "area swapped": (change_coordinate("region", lambda old: np.where(old == "V4", "IT", "V4")), "1024 electrodes, V1, V4 and IT in turn"),
    "number twice": (change_coordinate("neuroid_id", at(1, 0)), "number 0 of monkey F is in V1"),
    "number is text": (change_coordinate("neuroid_id", at(3, "x")), "number x of monkey F"),
    "reliability is text": (change_coordinate("reliability", lambda old: np.full(len(old), "high")), "'reliability' of the sites must be real numbers"),
    "unknown stimulus": (change_coordinate("stimulus_id", at(0, "apple_01")), "1 ids have responses but no image, for example apple_01"),
    "fewer units": ({"change_values": lambda v, c: (v[:-1], {k: (d, np.asarray(x)[:-1] if d == "neuroid" else x) for k, (d, x) in c.items()})}, "there are 2047"),
    "NaN": ({"change_values": lambda v, c: (np.where(np.arange(len(v))[:, None, None] == 900, np.nan, v), c)}, "1 units have no data at all"),
    "text": ({"change_values": lambda v, c: (v.astype(str), c)}, "must be real numbers"),
    "no object": ({"change_stimuli": lambda t: t.drop(columns="object_name")}, r"Stimuli\.csv.*\['object'\] are missing"),
    "empty object": ({"change_stimuli": lambda t: t.assign(object_name="")}, r"Stimuli\.csv.*object is empty in row 0|category is empty in row 0"),
    "stimulus twice": ({"change_stimuli": lambda t: pd.concat([t, t[:1]])}, r"Stimuli\.csv.*more than once"),
    "fewer stimuli": ({"change_stimuli": lambda t: t[1:]}, "1 ids have responses but no image"),
    "no such picture": ({"change_stimuli": lambda t: t.assign(filename=["x.jpg", *t["filename"][1:]])}, r"Stimuli\.zip.*\['x.jpg'\] are missing"),
}


@each(PACKED)
def test_broken_copies_are_named(tvsd, tmp_path, change, message):
    write_packed_tvsd(tmp_path, tvsd[1], **change)
    with pytest.raises(ValueError, match=message):
        load(tmp_path, subject="all", area="all")
