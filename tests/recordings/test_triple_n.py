"""Triple-N: files of Brain-Score and of the authors, whole and broken."""

import json

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.io import loadmat

from migvis.recordings.sources import load_recording
from tests.recordings.made import (AREAS_OF_SESSIONS, SCENES, check_damaged_and_missing, each, scene_categories, truncate,
                                   write_sessions, write_triple_n)

EDGES = range(0, 310, 10)
NC, CSV, ZIP = "assy_Li2026_Assembly.nc", "stimulus_Li2026_Stimuli.csv", "stimulus_Li2026_Stimuli.zip"


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return write_triple_n(tmp_path_factory.mktemp("triple_n"))


@pytest.fixture(scope="module")
def mat(tmp_path_factory):
    return write_sessions(tmp_path_factory.mktemp("sessions"))


def load(made, **options):
    return load_recording("triple-n", made[0], **({"size": 20, "reliability": -1, "categories": scene_categories(made[1])} | options))


def test_responses_units_and_pictures(packed):
    _, stimuli, pictures, rates = packed
    rec = load(packed)
    it = [0, 1, 5, 6]
    np.testing.assert_allclose(rec.responses, rates[it, :, 0].T, rtol=1e-6)
    assert set(rec.sites["region"]) == {"IT"} and list(rec.sites["site_id"]) == ["1.0", "1.1", "5.5", "5.6"]
    luminance = pictures @ np.array([0.299, 0.587, 0.114]) / 255
    np.testing.assert_allclose(rec.images[:, 0], luminance, atol=1e-5)
    assert list(rec.labels["category"]) == list(np.resize(SCENES, len(stimuli))) and list(rec.labels["image_id"]) == list(stimuli["stimulus_id"])
    assert rec.name == "Triple-N IT" and rec.trials is None


def test_subjects_areas_and_reliable_units(packed):
    with h5py.File(packed[0] / NC) as file:
        animal, region = (np.array([v.decode() for v in file[name][:]]) for name in ("animal", "region"))
        window, best, values = (file[name][:] for name in ("reliability_window", "reliability", "data"))
    rec = load(packed, subject="M5", area="IT", reliability=0.7)
    chosen = (animal == "M5") & (region == "IT") & (window >= 0.7)
    assert 0 < chosen.sum() < ((animal == "M5") & (region == "IT")).sum()
    np.testing.assert_allclose(rec.responses, values[:, chosen, 0], rtol=1e-6)
    np.testing.assert_allclose(rec.sites["reliability_best"], best[chosen])
    categories = scene_categories(packed[1])
    assert len(load_recording("triple-n", packed[0], area="all", categories=categories).sites) == (window >= 0.4).sum()


@pytest.mark.parametrize("window", [(70, 170), (100, 110), (0, 300)])
def test_windows_of_the_file_over_time(tmp_path, window):
    folder, stimuli, _, rates = write_triple_n(tmp_path, edges=EDGES)
    rec = load((folder, stimuli), area="all", window=window)
    np.testing.assert_allclose(rec.responses, rates[:, :, window[0] // 10 : window[1] // 10].mean(2).T, rtol=1e-5)
    assert rec.name == f"Triple-N {window[0]}-{window[1]} ms"
    with pytest.raises(ValueError, match="30 bins; choose some with window="):
        load((folder, stimuli))


def test_both_files_in_one_folder(packed, tmp_path):
    folder, stimuli, _, static = write_triple_n(tmp_path)
    over_time = write_triple_n(tmp_path, edges=EDGES)[3]
    both = folder, stimuli
    np.testing.assert_allclose(load(both, area="all").responses, static[..., 0].T, rtol=1e-6)
    np.testing.assert_allclose(load(both, area="all", window=(100, 110)).responses, over_time[..., 10].T, rtol=1e-6)


@pytest.mark.parametrize("key", ["nsd_id", "coco_id", "tn_index", "image_id"])
@pytest.mark.parametrize("form", ["table", "csv", "tsv"])
def test_categories_by_any_id(packed, tmp_path, key, form):
    stimuli = packed[1]
    table = pd.DataFrame({key: stimuli["stimulus_id" if key == "image_id" else key], "category": np.resize(SCENES, len(stimuli))})[::-1]
    if form != "table":
        table.to_csv(tmp_path / f"categories.{form}", sep="," if form == "csv" else "\t", index=False)
    rec = load(packed, categories=table if form == "table" else tmp_path / f"categories.{form}")
    assert list(rec.labels["category"]) == list(np.resize(SCENES, len(stimuli)))


def test_photographs_without_category_are_other(packed):
    known = dict(list(scene_categories(packed[1]).items())[:5])
    assert list(load(packed, categories=known).labels["category"]) == [*np.resize(SCENES, 5), *["other"] * (len(packed[1]) - 5)]


@pytest.mark.parametrize(
    "categories, message",
    [
        (None, "name no categories; give categories=, a table with columns nsd_id"),
        ({3: "animal"}, "none of the images .nsd_id 2950.* has a category"),
        (pd.DataFrame({"picture": [2950], "category": ["a"]}), "needs a column nsd_id or coco_id or .*has .'picture', 'category'."),
        (pd.DataFrame({"nsd_id": [2950], "category": [None]}), "neither a column category nor"),
    ],
)
def test_categories_must_be_given(packed, categories, message):
    with pytest.raises(ValueError, match=message):
        load(packed, categories=categories)


def test_categories_of_coco_as_the_page_makes_them(packed, tmp_path):
    coco_id = packed[1]["coco_id"].tolist()
    annotations = [{"image_id": i, "area": a, "category_id": c} for i, a, c in
                   [(coco_id[0], 9, 1), (coco_id[0], 30, 2), (coco_id[1], 5, 1), (coco_id[2], 1, 2)]]
    for part, some in (("train", annotations[:2]), ("val", annotations[2:])):
        content = {"categories": [{"id": 1, "supercategory": "person"}, {"id": 2, "supercategory": "food"}], "annotations": some}
        (tmp_path / f"instances_{part}2017.json").write_text(json.dumps(content))
    from tests.conftest import ROOT
    page = json.loads((ROOT / "nbs/recordings/11_photographs.ipynb").read_text())
    text = next("".join(c["source"]) for c in page["cells"] if "instances_{part}" in "".join(c["source"]))
    code = text.split("```python\n")[-1].split("```")[0].replace('"instances_', f'"{tmp_path}/instances_').replace('"coco.csv"', f'"{tmp_path}/coco.csv"')
    exec(code, {})
    labels = load(packed, categories=tmp_path / "coco.csv").labels
    assert list(labels["category"][:4]) == ["food", "person", "food", "other"]


# The authors' files

@pytest.mark.parametrize("response", ["best", "basic"])
def test_sessions_side_by_side(mat, response):
    folder, stimuli, _, sessions = mat
    rec = load(mat, area="all", response=response)
    files = sorted(folder.glob("Processed_ses*.mat"))
    raw = [loadmat(file) for file in files]
    values = np.concatenate([m[f"response_{response}"] for m in raw])
    np.testing.assert_allclose(rec.responses, values[:, stimuli["tn_index"] - 1].T, rtol=1e-6)
    for column, field in {"reliability": f"reliability_{response}", "pos": "pos", "F_SI": "F_SI", "B_SI": "B_SI", "O_SI": "O_SI"}.items():
        np.testing.assert_allclose(rec.sites[column], np.concatenate([m[field][0] for m in raw]))
    assert list(rec.sites["site_id"]) == ["1.0", "1.1", "1.2", "1.3", "11.0", "11.1", "11.2", "12.0"]
    assert list(rec.sites["animal"]) == ["M1"] * 4 + ["M5"] * 4 and rec.name == f"Triple-N {response}"
    assert list(rec.sites["unittype"]) == ["SU", "MUA", "NonSom", "SU", "SU", "MUA", "NonSom", "SU"]
    assert list(rec.labels["category"]) == list(np.resize(SCENES, len(stimuli)))


def test_areas_by_position(mat, tmp_path):
    AREAS_OF_SESSIONS.to_csv(tmp_path / "areas.csv", index=False)
    spaced = AREAS_OF_SESSIONS.rename(columns=lambda c: f" {c}").assign(**{" Area": [f"{a} " for a in AREAS_OF_SESSIONS["Area"]]})
    for areas in (AREAS_OF_SESSIONS, tmp_path / "areas.csv", spaced):
        sites = load(mat, area="all", areas=areas).sites
        assert list(sites["region"]) == ["IT"] * 4 + ["V1", "V2", "V2", "V4"]
        assert list(sites["arealabel"]) == ["MF1", "MO1s1", "IT-other", "IT-other", "V1", "V2d", "V2d", "V4"]
    assert len(load(mat, areas=AREAS_OF_SESSIONS, subject="M1").sites) == 4
    with pytest.raises(ValueError, match="do not say the area of a unit; pass areas="):
        load(mat)


def outside(areas): return areas.assign(y1=3900, y2=3999)


def test_units_beside_the_early_areas(mat):
    sites = load(mat, area="all", areas=outside(AREAS_OF_SESSIONS)).sites
    assert list(sites["region"]) == ["IT"] * 4 + ["EVC-other"] * 4 and set(sites["arealabel"]) == {"IT-other", "none"}


NAMES = {"response_best": (4, 1072), "reliability_best": (1, 4), "pos": (1, 4), "UnitType": (1, 4), "F_SI": (1, 4), "B_SI": (1, 4), "O_SI": (1, 4)}
FIRST = "Processed_ses01_240629_M1_2"


@pytest.mark.parametrize("field", NAMES)
@pytest.mark.parametrize("how", ["missing", "short", "text"])
def test_broken_fields_of_a_session(tmp_path, field, how):
    def change(name, variables):
        if name != FIRST:
            return variables
        others = {k: v for k, v in variables.items() if k != field}
        value = {"missing": {}, "short": {field: variables[field][:, :-1]}, "text": {field: "no numbers"}}[how]
        return others | value

    made = write_sessions(tmp_path, change=change)
    message = {"missing": rf"variables \['{field}'\] are missing", "short": rf"'{field}' has shape", "text": f"{field} must be real numbers"}[how]
    with pytest.raises(ValueError, match=rf"{FIRST}\.mat.*{message}"):
        load(made, area="all")


@pytest.mark.parametrize("number", [0, 1001])
def test_photographs_are_numbered_from_1_to_1000(tmp_path, number):
    folder, stimuli, _, _ = write_sessions(tmp_path)
    stimuli.assign(tn_index=[number, *stimuli["tn_index"][1:]]).to_csv(folder / CSV, index=False)
    with pytest.raises(ValueError, match=f"tn_index must run from 1 to 1000, but runs .*{number}"):
        load((folder, stimuli), area="all")


def test_silent_units_of_a_session(tmp_path):
    def change(name, variables):
        variables["response_best"][0] = np.nan
        return variables

    with pytest.raises(ValueError, match=r"3 units have no data at all .all NaN. .numbers \[0, 4, 7\]"):
        load(write_sessions(tmp_path, change=change), area="all")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"response": "worst"}, "response must be 'best' or 'basic', not 'worst'"),
        ({"areas": AREAS_OF_SESSIONS.drop(columns="Area")}, r"columns of the areas \['Area'\] are missing"),
        ({"areas": AREAS_OF_SESSIONS[:2]}, "table of areas lacks session 11"),
        ({"areas": AREAS_OF_SESSIONS, "subject": "M2"}, "no unit of subject 'M2' in area 'all'; there are .*M1.*M5.*}$"),
        ({"reliability": 1.5}, "no unit has a reliability of 1.5"),
    ],
)
def test_options_that_cannot_be(mat, options, message):
    with pytest.raises(ValueError, match=message):
        load(mat, area="all", **options)


def test_sessions_are_named_and_whole(tmp_path):
    made = write_sessions(tmp_path)
    file = tmp_path / f"{FIRST}.mat"
    truncate(file, 0.1)
    with pytest.raises(ValueError, match=rf"{FIRST}\.mat is truncated, damaged or not a MATLAB file"):
        load(made, area="all")
    (tmp_path / "Processed_ses11_240701_M5_1.mat").rename(tmp_path / "Processed_ses01.mat")
    file.unlink()
    with pytest.raises(ValueError, match="Processed_ses01.mat: the name tells session and animal"):
        load(made, area="all")


def coordinate(name, values):
    return {"change_values": lambda v, c: (v, c | {name: (c[name][0], values(np.array(c[name][1])))})}


def stimuli(column, change):
    return {"change_stimuli": lambda t: t.assign(**{column: change(t[column].to_numpy())})}


def drop(column):
    return {"change_stimuli": lambda t: t.drop(columns=column)}


BROKEN = {
    "no nsd_id": (drop("nsd_id"), rf"{CSV}.*\['nsd_id'\] are missing"),
    "no coco_id": (drop("coco_id"), rf"{CSV}.*\['coco_id'\] are missing"),
    "no tn_index": (drop("tn_index"), rf"{CSV}.*\['tn_index'\] are missing"),
    "no id": (drop("stimulus_id"), rf"{CSV}.*\['image_id'\] are missing"),
    "nsd_id twice": (stimuli("nsd_id", lambda old: old // 200), "nsd_id must hold a whole number for each photograph, and none twice"),
    "empty nsd_id": (stimuli("nsd_id", lambda old: [None, *old[1:]]), "nsd_id must hold a whole number"),
    "coco_id is text": (stimuli("coco_id", lambda old: ["x", *old[1:]]), "coco_id must hold a whole number"),
    "stimulus twice": ({"change_stimuli": lambda t: pd.concat([t, t[:1].assign(nsd_id=1, coco_id=1, tn_index=0)])}, rf"{CSV}.*more than once"),
    "fewer stimuli": ({"change_stimuli": lambda t: t[1:]}, "1 ids have responses but no image"),
    "no picture": (stimuli("filename", lambda old: ["x.png", *old[1:]]), rf"{ZIP}.*\['x.png'\] are missing"),
    "no unit": ({"drop_coords": ["neuroid_id"]}, rf"{NC}.*\['site_id'\] are missing"),
    "no region": ({"drop_coords": ["region"]}, r"\['region'\] are missing"),
    "no animal": ({"drop_coords": ["animal"]}, r"\['animal'\] are missing"),
    "no ids": ({"drop_coords": ["stimulus_id"]}, rf"{NC}.*\['image_id'\] are missing"),
    "no reliability": ({"drop_coords": ["reliability", "reliability_window"]}, "reliability of units is not known"),
    "NaN reliability": (coordinate("reliability_window", lambda old: old * np.nan), "no unit has a reliability"),
    "reliability is text": (coordinate("reliability_window", lambda old: np.full(len(old), "high")), "must be real numbers"),
    "units twice": (coordinate("neuroid_id", lambda old: np.full(len(old), "1.0")), "site_id holds 1.0 more than once"),
    "image without responses": (coordinate("stimulus_id", lambda old: np.where(old == old[0], old[1], old)), "1 images have no response"),
    "NaN": ({"change_values": lambda v, c: (np.where(np.arange(10)[:, None, None] == 1, np.nan, v), c)}, "1 units have no data at all"),
    "text": ({"change_values": lambda v, c: (v.astype(str), c)}, "must be real numbers"),
}


@each(BROKEN)
def test_broken_fields_are_named(tmp_path, change, message):
    made = write_triple_n(tmp_path, **change)
    with pytest.raises(ValueError, match=message):
        load(made, subject="M1", reliability=0)


@pytest.mark.parametrize("name", [NC, ZIP])
def test_damaged_and_missing_files(tmp_path, name):
    made = write_triple_n(tmp_path)
    check_damaged_and_missing(tmp_path / name, lambda: load(made))
