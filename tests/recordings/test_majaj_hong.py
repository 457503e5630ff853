"""The files of Brain-Score, whole and broken."""

import warnings

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from migvis.data import Recording
from migvis.recordings.sources import load_recording
from migvis.support.images import check_images, resize_images
from tests.recordings.made import CATEGORIES, N, each, flat, truncate, write_majaj, write_zip


def load_majaj(folder, **arguments):
    return load_recording("majaj-hong", folder, **({"size": 32, "background": "keep"} | arguments))


@pytest.mark.parametrize("old", [False, True], ids=["new names", "old names"])
def test_majaj_hong_new_and_old_files(tmp_path, old):
    folder, pictures, trials = write_majaj(tmp_path / "d", old)
    rec = load_majaj(folder, subject="M1", trials=True)
    np.testing.assert_allclose(rec.images[:, 0], pictures / 255, atol=1e-6)
    np.testing.assert_allclose(rec.responses, trials[:, :, :2].mean(1), atol=1e-6)
    np.testing.assert_array_equal(np.sort(rec.trials, 1), np.sort(trials[:, :, :2], 1))
    assert {
        "category",
        "object",
        "variation",
        "rxy",
        "rxz",
        "ryz",
        "ty",
        "tz",
        "s",
        "background_id",
        "image_id",
    } <= set(rec.labels)
    assert set(rec.labels["variation"]) == {"V3"} and list(rec.labels["category"].unique()) == CATEGORIES
    assert list(rec.sites["site_id"]) == ["site0", "site1"] and not rec.simulated
    assert Recording.load(rec.save(tmp_path / "a.npz")).labels.equals(rec.labels)


@pytest.mark.parametrize(
    "arguments, units",
    [
        ({"subject": "M1"}, [0, 1]),
        ({"subject": "Chabo"}, [0, 1]),
        ({"subject": "M2"}, [3, 4]),
        ({"subject": "Tito", "area": "V4"}, [5]),
        ({"subject": None}, [0, 1, 3, 4]),
        ({"area": "all"}, range(6)),
    ],
)
def test_majaj_hong_subjects_and_regions(tmp_path, arguments, units):
    folder, _, trials = write_majaj(tmp_path / "d")
    rec = load_majaj(folder, **arguments)
    np.testing.assert_allclose(rec.responses, trials.mean(1)[:, list(units)], atol=1e-6)
    assert rec.trials is None and "noise_ceiling" in rec.sites


def test_majaj_hong_sizes_archive_folders_and_float_variation(tmp_path):
    folder, pictures, _ = write_majaj(
        tmp_path / "d", subfolder="hvm/images/", change_stimuli=lambda t: t.assign(variation=3.0)
    )
    rec = load_majaj(folder, size=16)
    np.testing.assert_allclose(rec.images, resize_images(check_images(pictures), 16), atol=1e-6)
    assert set(rec.labels["variation"]) == {"V3"}


def test_archive_members_are_never_written_to_disk(tmp_path):
    folder, _, _ = write_majaj(tmp_path / "in" / "deep" / "d", subfolder="../../")
    before = set(tmp_path.rglob("*"))
    assert len(load_majaj(folder)) == N and set(tmp_path.rglob("*")) == before


def drop_image(values, coords):
    first = coords["stimulus_id"][1][0]
    keep = coords["stimulus_id"][1] != first
    return values[:, keep], {
        k: (d, v[keep]) if d == "presentation" else (d, v) for k, (d, v) in coords.items()
    }


def silence_unit(values, coords):
    values[1] = np.nan
    return values, coords


def repeat_presentation(values, coords):
    for name in ("stimulus_id", "repetition"):
        coords[name][1][1] = coords[name][1][0]
    return values, coords


BROKEN_MAJAJ = {
    "no stimulus id": (
        dict(drop_coords=["stimulus_id"]),
        r"MajajHong2015_public\.nc.*\['image_id'\] are missing.*right file",
    ),
    "no neuroid id": (dict(drop_coords=["neuroid_id"]), r"public\.nc.*\['site_id'\] are missing"),
    "no region": (dict(drop_coords=["region"]), r"d: .*\['region'\] are missing"),
    "two time bins": (
        dict(
            change_values=lambda v, c: (
                np.repeat(v, 2, 2),
                c | {k: ("time_bin", [1, 2]) for k in ("time_bin_start", "time_bin_end")},
            )
        ),
        r"public\.nc.*'time_bin' has 2 bins; choose",
    ),
    "image without responses": (
        dict(change_values=drop_image),
        r"d: responses: 1 images have no response.*missing='drop'",
    ),
    "responses without image": (
        dict(change_stimuli=lambda t: t.iloc[1:]),
        r"public\.nc.*1 ids have responses but no image.*missing='drop'",
    ),
    "all-NaN unit": (
        dict(change_values=silence_unit),
        r"d: responses: 1 units have no data at all.*numbers \[1\].*missing='drop'",
    ),
    "repeated repetition": (
        dict(change_values=repeat_presentation),
        r"public\.nc.*same repetition twice.*remove",
    ),
    "duplicate sites": (
        dict(change_sites={"neuroid_id": ["a", "a", "b", "c", "d", "e"]}),
        r"d: sites.site_id holds a more than once",
    ),
    "duplicate stimuli": (
        dict(change_stimuli=lambda t: pd.concat([t, t[:1]])),
        r"stimulus_hvm-public\.csv.*image_id holds .* more than once",
    ),
    "no category": (
        dict(change_stimuli=lambda t: t.drop(columns="category_name")),
        r"stimulus_hvm-public\.csv.*\['category'\] are missing",
    ),
    "picture not in the archive": (
        dict(change_stimuli=lambda t: t.assign(filename=["other.png"] + list(t["filename"][1:]))),
        r"public\.zip.*\['other.png'.*are missing",
    ),
}


@each(BROKEN_MAJAJ)
def test_broken_majaj_hong_names_file_field_and_remedy(tmp_path, change, message):
    folder, _, _ = write_majaj(tmp_path / "d", **change)
    with pytest.raises(ValueError, match=message):
        load_majaj(folder)


@pytest.mark.parametrize(
    "change, shape",
    [
        (dict(change_values=drop_image), (N - 1, 4)),
        (dict(change_stimuli=lambda t: t.iloc[1:]), (N - 1, 4)),
        (dict(change_values=silence_unit), (N, 3)),
    ],
)
def test_missing_drop_leaves_holes_out(tmp_path, change, shape):
    folder, _, _ = write_majaj(tmp_path / "d", **change)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert load_majaj(folder, missing="drop").responses.shape == shape


@pytest.mark.parametrize("name", ["assy_dicarlo_MajajHong2015_public.nc", "stimulus_hvm-public.zip"])
@pytest.mark.parametrize("how", ["truncated", "foreign", "empty"])
def test_damaged_majaj_hong_files(tmp_path, name, how):
    folder, _, _ = write_majaj(tmp_path / "d")
    {
        "truncated": lambda p: truncate(p, 0.5),
        "foreign": lambda p: p.write_text("<html>not found</html>"),
        "empty": lambda p: p.write_bytes(b""),
    }[how](folder / name)
    with pytest.raises(ValueError, match=f"{name} is truncated, damaged or not .*fetch it again"):
        load_majaj(folder)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"subject": "M3"}, ValueError, r"no unit of subject 'M3'.*Chabo.*Tito.*M1 is Chabo"),
        ({"area": "V1"}, ValueError, "area 'V1'"),
        ({"background": "blur"}, ValueError, "'remove' or 'keep', not 'blur'"),
        ({"missing": "maybe"}, ValueError, "'error' or 'drop'"),
    ],
)
def test_majaj_hong_bad_arguments(tmp_path, arguments, error, message):
    folder, _, _ = write_majaj(tmp_path / "d")
    with pytest.raises(error, match=message):
        load_majaj(folder, **arguments)


@pytest.mark.parametrize(
    "gone", ["assy_dicarlo_MajajHong2015_public.nc", "stimulus_hvm-public.csv", "stimulus_hvm-public.zip"]
)
def test_majaj_hong_missing_file(tmp_path, gone):
    folder, _, _ = write_majaj(tmp_path / "d")
    (folder / gone).unlink()
    with pytest.raises(
        FileNotFoundError, match=r"holds no .*name the folder with the files, or none to fetch them"
    ):
        load_majaj(folder)


def test_files_written_by_brainscore(realdata):
    pytest.importorskip("h5netcdf")
    rec = load_recording(
        "majaj-hong", realdata / "brainscore_like", subject="M1", size=64, background="keep", trials=True
    )
    assert rec.responses.shape == (48, 7) and rec.trials.shape == (48, 3, 7)
    metadata = pd.read_csv(realdata / "hvm_metadata.csv").set_index("id").loc[rec.labels["image_id"]]
    for column in ("rxy", "rxz", "ryz", "ty", "tz", "s", "category"):
        assert (metadata[column].to_numpy() == rec.labels[column].to_numpy()).all(), column


def test_majaj_hong_pictures_in_folders(tmp_path):
    folder, _, _ = write_majaj(
        tmp_path / "d",
        change_stimuli=lambda t: t.assign(filename=[f"{'ab'[i % 2]}/{i // 2}.png" for i in range(N)]),
    )
    write_zip(
        folder / "stimulus_hvm-public.zip",
        {f"{'ab'[i % 2]}/{i // 2}.png": flat(10 * i + 10, size=(32, 32)) for i in range(N)},
    )
    np.testing.assert_allclose(load_majaj(folder).images[:, 0, 0, 0] * 255, 10 * np.arange(N) + 10, atol=1e-4)


def test_majaj_hong_pictures_in_colour(tmp_path):
    folder, _, _ = write_majaj(tmp_path / "d")
    colours = np.random.default_rng(1).integers(0, 256, (N, 32, 32, 3), dtype=np.uint8)
    names = pd.read_csv(folder / "stimulus_hvm-public.csv")["filename"]
    write_zip(folder / "stimulus_hvm-public.zip", dict(zip(names, map(Image.fromarray, colours))))
    kept = load_majaj(folder, colour="keep").images
    np.testing.assert_allclose(kept, colours.transpose(0, 3, 1, 2) / 255, atol=1e-6)
    np.testing.assert_allclose(load_majaj(folder).images[:, 0], kept.mean(1), atol=1e-6)


def test_ids_are_read_as_they_are_written(tmp_path):
    ids = ["0001", "NA", "None", "nan", "1e3", "007"] + [f"{i:03d}" for i in range(N - 6)]

    def change_values(values, coords):
        number = {i: k for k, i in enumerate(pd.unique(coords["stimulus_id"][1]))}
        return values, coords | {
            "stimulus_id": ("presentation", np.array([ids[number[i]] for i in coords["stimulus_id"][1]]))
        }

    folder, _, _ = write_majaj(
        tmp_path / "d",
        change_values=change_values,
        change_stimuli=lambda t: t.assign(stimulus_id=ids, category_name=["NA", "None"] * (N // 2)),
    )
    rec = load_majaj(folder)
    assert list(rec.labels["image_id"]) == ids and set(rec.labels["category"]) == {"NA", "None"}
    folder, _, _ = write_majaj(
        tmp_path / "e", change_stimuli=lambda t: t.assign(category_name=["a", ""] * (N // 2))
    )
    with pytest.raises(ValueError, match="category is empty in row 1"):
        load_majaj(folder)


def test_ids_that_are_numbers_match(tmp_path):
    def change_values(values, coords):
        number = {i: k for k, i in enumerate(pd.unique(coords["stimulus_id"][1]))}
        return values, coords | {
            "stimulus_id": ("presentation", np.array([number[i] for i in coords["stimulus_id"][1]]))
        }

    folder, _, _ = write_majaj(
        tmp_path / "d", change_values=change_values, change_stimuli=lambda t: t.assign(stimulus_id=range(N))
    )
    assert list(load_majaj(folder).labels["image_id"]) == [str(i) for i in range(N)]


EDGES = (50, 70, 90, 110, 130, 150, 170, 190)


def test_windows_over_time(tmp_path):
    folder, _, average = write_majaj(tmp_path / "d")
    _, _, over_time = write_majaj(folder, edges=EDGES)
    rec = load_majaj(folder, window=(70, 170), area="all", trials=True)
    np.testing.assert_allclose(np.sort(rec.trials, 1), np.sort(over_time[..., 1:6].mean(-1), 1), atol=1e-6)
    assert rec.name == "MajajHong2015 70-170 ms"
    for k, window in enumerate(zip(EDGES, EDGES[1:])): # a recording for each
        rec = load_majaj(folder, window=window, subject="M1")
        np.testing.assert_allclose(rec.responses, over_time[:, :, :2, k].mean(1), atol=1e-6)
    np.testing.assert_allclose(load_majaj(folder, area="all").responses, average.mean(1), atol=1e-6)


def test_the_file_of_averages_has_one_window(tmp_path):
    folder, _, average = write_majaj(tmp_path / "d")
    np.testing.assert_allclose(load_majaj(folder, window=(70, 170), area="all").responses, average.mean(1), atol=1e-6)
    with pytest.raises(ValueError, match="cannot be filled: no time bin starts at 70 and ends by 110; there are 70-170"):
        load_majaj(folder, window=(70, 110))
    for window in (70, (170, 70), (70, 100, 170), ("a", "b"), "early"):
        with pytest.raises(ValueError, match="window must be .from, to. in ms with from < to"):
            load_majaj(folder, window=window)


def test_files_over_time_read_by_h5py(tmp_path):
    h5py = pytest.importorskip("h5py")
    folder, _, _ = write_majaj(tmp_path / "d", edges=EDGES)
    with h5py.File(folder / "assy_dicarlo_MajajHong2015_temporal_public.nc") as file:
        values = file["data"][:2, :, 2:4].mean(2)
        ids = np.array([i.decode() for i in file["stimulus_id"][:]])
    rec = load_majaj(folder, window=(90, 130), subject="M1")
    for image, response in zip(rec.labels["image_id"], rec.responses):
        np.testing.assert_allclose(response, values[:, ids == image].mean(1), atol=1e-6)
