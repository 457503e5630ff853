"""Files of TVSD, whole and broken."""

import zipfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from migvis.recordings.sources import load_recording
from migvis.recordings.tvsd import _categorise
from tests.recordings.made import truncate

h5py = pytest.importorskip("h5py")

OBJECTS = ["bat1", "aardvark", "bat1", "coin", "zebra"]
PATHS = [f"{name}\\{name}_{k:02d}s.jpg" for k, name in enumerate(OBJECTS)]
REPEATS = 4
COLOURS = [(250, 20, 30), (10, 240, 20), (30, 10, 220), (128, 128, 128), (0, 90, 250)]
AREAS = {"F": ["V1"] * 512 + ["IT"] * 320 + ["V4"] * 192, "N": ["V1"] * 512 + ["V4"] * 256 + ["IT"] * 256}


def write_texts(file, name, texts):
    "Text as MATLAB 7.3 has it."
    references = []
    for k, text in enumerate(texts):
        codes = np.array([[ord(letter)] for letter in text], dtype=np.uint16)
        references.append(file.create_dataset(f"#refs#/{name}/{k}", data=codes).ref)
    file[name] = np.array(references, dtype=h5py.ref_dtype)[:, None]


def write_tvsd(folder, change_responses=lambda file: None, change_images=lambda file: None):
    "Both monkeys, train and test; gives the arrays."
    arrays, n = {}, len(OBJECTS)
    for monkey, seed in (("F", 1), ("N", 2)):
        rng = np.random.default_rng(seed)
        arrays[monkey] = {
            "train_MUA": rng.normal(size=(n, 1024)),
            "test_MUA": rng.normal(size=(n, 1024)),
            "test_MUA_reps": rng.normal(size=(REPEATS, n, 1024)),
            "reliab": rng.uniform(-0.2, 1, (6, 1024)),
            "SNR": rng.uniform(0, 9, (1024, 3)),
            "SNR_max": rng.uniform(0, 9, (1, 1024)),
            "oracle": rng.uniform(0, 1, (1024, 1)),
            "lats": rng.uniform(30, 90, (1024, 1)),
            "tb": np.arange(-100.0, 200.0)[:, None],
        }
        (folder / f"monkey{monkey}/_logs").mkdir(parents=True)
        with h5py.File(folder / f"monkey{monkey}/THINGS_normMUA.mat", "w") as file:
            for name, values in arrays[monkey].items():
                file[name] = values
            change_responses(file)
        with h5py.File(folder / f"monkey{monkey}/_logs/things_imgs.mat", "w") as file:
            for group, order in (("train_imgs", 1), ("test_imgs", -1)):
                write_texts(file, f"{group}/class", OBJECTS[::order])
                write_texts(file, f"{group}/things_path", PATHS[::order])
                write_texts(file, f"{group}/local_path", [f"D:\\{p}" for p in PATHS[::order]])
            change_images(file)
    for path, colour in zip(PATHS, COLOURS):
        file = folder / "object_images" / path.replace("\\", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), colour).save(file, quality=100, subsampling=0)
    return arrays


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
    objects = pd.Series(OBJECTS)
    assert list(_categorise(objects, LONG)) == CATEGORY
    assert list(_categorise(objects, {"coin": "money"})) == ["other"] * 3 + ["money", "other"]
    with pytest.raises(ValueError, match="none of the objects .*bat1.* has a category"):
        _categorise(objects, {"car": "vehicle"})
    with pytest.raises(ValueError, match="needs a column uniqueID"):
        _categorise(objects, LONG.rename(columns={"uniqueID": "x"}))
    with pytest.raises(ValueError, match="neither a column category nor columns of 0 and 1"):
        _categorise(objects, WIDE.assign(animal=2, money=2))


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
    "reliability of days": ("responses", put("reliab", np.zeros((6, 9))), r"'reliab .*has shape \(6, 9\)"),
    "short snr": ("responses", put("SNR_max", np.zeros(3)), r"'SNR_max' has shape \(3,\).*1024 electrodes"),
    "short oracle": ("responses", put("oracle", np.zeros(3)), r"'oracle' has shape \(3,\)"),
    "fewer rows": ("responses", put("train_MUA", np.zeros((4, 1024))), "to 4 photographs.* has 5 photographs"),
    "all NaN": ("responses", put("train_MUA", np.full((5, 1024), np.nan)), "responses: 5 images have no resp"),
    "no images": ("images", put("train_imgs", None), r"things_imgs\.mat.*\['train_imgs'\] are missing"),
    "no class": ("images", put("train_imgs/class", None), r"train_imgs \['class'\] are missing"),
    "no path": ("images", put("train_imgs/things_path", None), r"train_imgs \['things_path'\] are missing"),
    "numbers": ("images", put("train_imgs/class", np.zeros((5, 1))), "references to text are expected"),
    "no text": ("images", no_text, "train_imgs/class has no text in row 2"),
    "other length": (
        "images",
        lambda file: put("train_imgs/class", file["train_imgs/class"][:3])(file),
        "3 times 'class' and 5 times 'things_path'",
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
