"""Loaders of real recordings, on files of their schema written here, whole and broken; fetching, against a loopback server."""
import hashlib
import io
import threading
import warnings
import zipfile
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from migvis import data
from migvis.data import (
    Recording, check_images, count_spikes, fetch_files, load_authors_arrays, load_cowley_v4, load_hvm_hdf5, load_majaj_hong, load_nwb, resize_images,
)

CATEGORIES = ["Animals", "Boats", "Cars", "Chairs"]


def make_labels(n, rng):
    category = np.repeat(CATEGORIES, -(-n // 4))[:n]
    labels = pd.DataFrame({"category_name": category, "object_name": [f"{c}_{i % 2}" for i, c in enumerate(category)]})
    pose = {c: rng.normal(size=n) for c in ("rxy", "rxz", "ryz", "ty", "tz", "rxy_semantic", "rxz_semantic", "ryz_semantic")}
    return labels.assign(**pose, s=rng.uniform(0.7, 1.4, n), size=256.0, background_id=[f"bg{i}" for i in range(n)], variation=3)


def truncate(path, keep=0.6):
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])


# ---------------------------------------------------------------- Majaj-Hong, as Brain-Score writes it

N, REPEATS, UNITS = 12, 3, 6


def write_majaj(folder, old=False, seed=0, change_values=None, change_stimuli=None, change_sites=None, drop_coords=(), subfolder=""):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    rng = np.random.default_rng(seed)
    ids = [hashlib.sha1(f"{seed}{i}".encode()).hexdigest() for i in range(N)]
    id_name = "image_id" if old else "stimulus_id"
    stimuli = make_labels(N, rng).assign(**{id_name: ids, "image_file_name": [f"{i}.png" for i in ids], "filename": [f"{i}.png" for i in ids], "id": range(1, N + 1)})
    pictures = rng.integers(0, 256, (N, 32, 32), dtype=np.uint8)
    trials = rng.normal(size=(N, REPEATS, UNITS)).astype(np.float32)
    image, repeat = np.divmod(rng.permutation(N * REPEATS), REPEATS)
    values = trials[image, repeat].T[:, :, None].copy()
    sites = {
        "neuroid_id": [f"site{i}" for i in range(UNITS)], "animal": ["Chabo"] * 3 + ["Tito"] * 3, "region": ["IT", "IT", "V4"] * 2,
        "arr": list("AMPAMP"), "row": range(UNITS), "x": np.arange(UNITS) / 10,
    } | (change_sites or {})
    coords = {k: ("neuroid", np.asarray(v)) for k, v in sites.items()}
    shown = {id_name: np.array(ids)[image], "repetition": repeat}
    if not old:
        shown |= {c: stimuli[c].to_numpy()[image] for c in ("category_name", "object_name", "variation", "rxy")}
    coords |= {k: ("presentation", v) for k, v in shown.items()} | {"time_bin_start": ("time_bin", [70]), "time_bin_end": ("time_bin", [170])}
    if change_values:
        values, coords = change_values(values, coords)
    dataset = xarray.Dataset({"dicarlo.MajajHong2015.public" if old else "data": (("neuroid", "presentation", "time_bin"), values)}, coords={k: v for k, v in coords.items() if k not in drop_coords})
    folder.mkdir(parents=True, exist_ok=True)
    dataset.to_netcdf(folder / "assy_dicarlo_MajajHong2015_public.nc", engine="h5netcdf")
    stimuli = change_stimuli(stimuli) if change_stimuli else stimuli
    stimuli.to_csv(folder / ("image_dicarlo_hvm-public.csv" if old else "stimulus_hvm-public.csv"), index=False)
    with zipfile.ZipFile(folder / ("image_dicarlo_hvm-public.zip" if old else "stimulus_hvm-public.zip"), "w") as archive:
        for i, picture in zip(ids, pictures):
            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, "PNG")
            archive.writestr(f"{subfolder}{i}.png", buffer.getvalue())
    return folder, pictures, trials


def load_majaj(folder, **arguments):
    return load_majaj_hong(folder, **({"size": 32, "background": "keep"} | arguments))


@pytest.mark.parametrize("old", [False, True], ids=["new names", "old names"])
def test_majaj_hong_new_and_old_files(tmp_path, old):
    folder, pictures, trials = write_majaj(tmp_path / "d", old)
    rec = load_majaj(folder, subject="M1", trials=True)
    np.testing.assert_allclose(rec.images[:, 0], pictures / 255, atol=1e-6)
    np.testing.assert_allclose(rec.responses, trials[:, :, :2].mean(1), atol=1e-6)
    np.testing.assert_array_equal(np.sort(rec.trials, 1), np.sort(trials[:, :, :2], 1))
    assert {"category", "object", "variation", "rxy", "rxz", "ryz", "ty", "tz", "s", "background_id", "image_id"} <= set(rec.labels)
    assert set(rec.labels["variation"]) == {"V3"} and list(rec.labels["category"].unique()) == CATEGORIES
    assert list(rec.sites["site_id"]) == ["site0", "site1"] and not rec.simulated
    assert Recording.load(rec.save(tmp_path / "a.npz")).labels.equals(rec.labels)


@pytest.mark.parametrize("arguments, units", [
    ({"subject": "M1"}, [0, 1]), ({"subject": "Chabo"}, [0, 1]), ({"subject": "M2"}, [3, 4]), ({"subject": "Tito", "region": "V4"}, [5]),
    ({"subject": None}, [0, 1, 3, 4]), ({"region": None}, range(6)),
])
def test_majaj_hong_subjects_and_regions(tmp_path, arguments, units):
    folder, _, trials = write_majaj(tmp_path / "d")
    rec = load_majaj(folder, **arguments)
    np.testing.assert_allclose(rec.responses, trials.mean(1)[:, list(units)], atol=1e-6)
    assert rec.trials is None and "noise_ceiling" in rec.sites


def test_majaj_hong_sizes_archive_folders_and_float_variation(tmp_path):
    folder, pictures, _ = write_majaj(tmp_path / "d", subfolder="hvm/images/", change_stimuli=lambda t: t.assign(variation=3.0))
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
    return values[:, keep], {k: (d, v[keep]) if d == "presentation" else (d, v) for k, (d, v) in coords.items()}


def silence_unit(values, coords):
    values[1] = np.nan
    return values, coords


def repeat_presentation(values, coords):
    for name in ("stimulus_id", "repetition"):
        coords[name][1][1] = coords[name][1][0]
    return values, coords


BROKEN_MAJAJ = {
    "no stimulus id": (dict(drop_coords=["stimulus_id"]), r"MajajHong2015_public\.nc.*\['image_id'\] are missing.*right file"),
    "no neuroid id": (dict(drop_coords=["neuroid_id"]), r"public\.nc.*\['site_id'\] are missing"),
    "no region": (dict(drop_coords=["region"]), r"public\.nc.*\['region'\] are missing"),
    "two time bins": (dict(change_values=lambda v, c: (np.repeat(v, 2, 2), c | {k: ("time_bin", [1, 2]) for k in ("time_bin_start", "time_bin_end")})), r"public\.nc.*'time_bin' has 2 bins; choose"),
    "image without responses": (dict(change_values=drop_image), r"public\.nc.*responses: 1 images have no response.*missing='drop'"),
    "responses without image": (dict(change_stimuli=lambda t: t.iloc[1:]), r"public\.nc.*1 ids have responses but no image.*missing='drop'"),
    "all-NaN unit": (dict(change_values=silence_unit), r"public\.nc.*1 units have no data at all.*numbers \[1\].*missing='drop'"),
    "repeated repetition": (dict(change_values=repeat_presentation), r"public\.nc.*same repetition twice.*remove"),
    "duplicate sites": (dict(change_sites={"neuroid_id": ["a", "a", "b", "c", "d", "e"]}), r"public\.nc.*sites.site_id holds a more than once"),
    "duplicate stimuli": (dict(change_stimuli=lambda t: pd.concat([t, t[:1]])), r"stimulus_hvm-public\.csv.*image_id holds .* more than once"),
    "no category": (dict(change_stimuli=lambda t: t.drop(columns="category_name")), r"stimulus_hvm-public\.csv.*\['category'\] are missing"),
    "picture not in the archive": (dict(change_stimuli=lambda t: t.assign(filename=["other.png"] + list(t["filename"][1:]))), r"public\.zip.*\['other.png'.*are missing"),
}


@pytest.mark.parametrize("change, message", BROKEN_MAJAJ.values(), ids=BROKEN_MAJAJ)
def test_broken_majaj_hong_names_file_field_and_remedy(tmp_path, change, message):
    folder, _, _ = write_majaj(tmp_path / "d", **change)
    with pytest.raises(ValueError, match=message):
        load_majaj(folder)


@pytest.mark.parametrize("change, shape", [
    (dict(change_values=drop_image), (N - 1, 4)), (dict(change_stimuli=lambda t: t.iloc[1:]), (N - 1, 4)), (dict(change_values=silence_unit), (N, 3)),
])
def test_missing_drop_leaves_holes_out(tmp_path, change, shape):
    folder, _, _ = write_majaj(tmp_path / "d", **change)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert load_majaj(folder, missing="drop").responses.shape == shape


@pytest.mark.parametrize("name", ["assy_dicarlo_MajajHong2015_public.nc", "stimulus_hvm-public.zip"])
@pytest.mark.parametrize("how", ["truncated", "foreign", "empty"])
def test_damaged_majaj_hong_files(tmp_path, name, how):
    folder, _, _ = write_majaj(tmp_path / "d")
    {"truncated": lambda p: truncate(p, 0.5), "foreign": lambda p: p.write_text("<html>not found</html>"), "empty": lambda p: p.write_bytes(b"")}[how](folder / name)
    with pytest.raises(ValueError, match=f"{name} is truncated, damaged or not .*fetch it again"):
        load_majaj(folder)


@pytest.mark.parametrize("arguments, error, message", [
    ({"subject": "M3"}, ValueError, r"no site of subject 'M3'.*Chabo.*Tito.*M1 is Chabo"),
    ({"region": "V1"}, ValueError, "region 'V1'"),
    ({"background": "blur"}, ValueError, "'remove' or 'keep', not 'blur'"),
    ({"missing": "maybe"}, ValueError, "'error' or 'drop'"),
])
def test_majaj_hong_bad_arguments(tmp_path, arguments, error, message):
    folder, _, _ = write_majaj(tmp_path / "d")
    with pytest.raises(error, match=message):
        load_majaj(folder, **arguments)


@pytest.mark.parametrize("gone", ["assy_dicarlo_MajajHong2015_public.nc", "stimulus_hvm-public.csv", "stimulus_hvm-public.zip"])
def test_majaj_hong_missing_file(tmp_path, gone):
    folder, _, _ = write_majaj(tmp_path / "d")
    (folder / gone).unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no .*fetch_majaj_hong"):
        load_majaj(folder)


def test_files_written_by_brainscore(realdata):
    pytest.importorskip("h5netcdf")
    rec = load_majaj_hong(realdata / "brainscore_like", subject="M1", size=64, background="keep", trials=True)
    assert rec.responses.shape == (48, 7) and rec.trials.shape == (48, 3, 7)
    metadata = pd.read_csv(realdata / "hvm_metadata.csv").set_index("id").loc[rec.labels["image_id"]]
    for column in ("rxy", "rxz", "ryz", "ty", "tz", "s", "category"):
        assert (metadata[column].to_numpy() == rec.labels[column].to_numpy()).all(), column


# ---------------------------------------------------------------- fetching


class Server:
    "Serves files from memory; `plan` says, for each request of a name, how: ok, cut (half, then hang up), or a status."

    def __init__(self, files):
        self.files, self.plan, self.requests = files, {}, []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.rsplit("/", 1)[-1]
                outer.requests.append(name)
                how = outer.plan.get(name, []).pop(0) if outer.plan.get(name) else "ok"
                body = outer.files.get(name)
                if body is None or isinstance(how, int):
                    return self.send_error(how if isinstance(how, int) else 404)
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if how == "cut" else body)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/store/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def server(monkeypatch):
    pytest.importorskip("pooch")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    server = Server({"a.bin": bytes(range(256)) * 2000, "b.bin": b"second file" * 1000})
    yield server
    server.close()


def sums(server):
    return {name: hashlib.sha1(body).hexdigest() for name, body in server.files.items()}


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_fetch_good_files_and_not_twice(server, tmp_path):
    assert contents(fetch_files(sums(server), server.url, tmp_path / "cache")) == server.files
    assert server.requests == ["a.bin", "b.bin"]
    fetch_files(sums(server), server.url, tmp_path / "cache")
    assert server.requests == ["a.bin", "b.bin"]


def test_fetch_tries_again_when_the_line_breaks(server, tmp_path):
    server.plan = {"a.bin": ["cut"]}
    assert contents(fetch_files(sums(server), server.url, tmp_path, retries=1)) == server.files


def test_fetch_of_a_file_that_stays_truncated_keeps_nothing(server, tmp_path):
    server.plan = {"a.bin": ["cut", "cut"]}
    with pytest.raises((ConnectionError, ValueError), match="a.bin.*kept.*try again"):
        fetch_files(sums(server), server.url, tmp_path, retries=1)
    assert contents(tmp_path) == {}


def test_fetch_with_a_wrong_checksum_keeps_nothing(server, tmp_path):
    with pytest.raises(ValueError, match="a.bin from .* does not have the expected SHA-1 .*not kept"):
        fetch_files(sums(server) | {"a.bin": "0" * 40}, server.url, tmp_path, retries=0)
    assert contents(tmp_path) == {}


def test_fetch_goes_on_where_a_server_went_away(server, tmp_path):
    server.plan = {"b.bin": [503]}
    with pytest.raises(ConnectionError, match="could not fetch b.bin from .*nothing partial was kept"):
        fetch_files(sums(server), server.url, tmp_path, retries=0)
    assert set(contents(tmp_path)) == {"a.bin"}
    fetch_files(sums(server), server.url, tmp_path, retries=0)
    assert contents(tmp_path) == server.files and server.requests == ["a.bin", "b.bin", "b.bin"]


def test_fetch_from_nowhere(server, tmp_path):
    server.close()
    with pytest.raises(ConnectionError, match="could not fetch a.bin"):
        fetch_files(sums(server), server.url, tmp_path, retries=0)
    assert contents(tmp_path) == {}


def test_fetch_replaces_a_damaged_file_in_the_cache(server, tmp_path):
    (tmp_path / "a.bin").write_bytes(b"half")
    assert contents(fetch_files(sums(server), server.url, tmp_path)) == server.files


@pytest.mark.parametrize("limits, message", [
    ({"max_bytes": 1000}, "a.bin is larger than 1000 bytes and was not kept"), ({"seconds": -1}, "a.bin took longer than -1 seconds and was not kept"),
])
def test_downloads_end(server, tmp_path, limits, message):
    with pytest.raises(ConnectionError, match=message): fetch_files(sums(server), server.url, tmp_path, **limits)
    assert contents(tmp_path) == {} and server.requests == ["a.bin"]


def test_downloads_that_do_not_say_their_size_end_too(server, tmp_path, monkeypatch):
    monkeypatch.setattr(BaseHTTPRequestHandler, "send_header", lambda *header: None)
    with pytest.raises(ConnectionError, match="larger than 1000 bytes"): fetch_files(sums(server), server.url, tmp_path, max_bytes=1000)


def test_fetch_into_a_folder_that_cannot_be(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot store a.bin in .*choose another folder"):
        fetch_files(sums(server), server.url, tmp_path / "file")


def test_majaj_hong_fetches_when_no_folder_is_given(tmp_path, monkeypatch, server):
    folder, _, trials = write_majaj(tmp_path / "made")
    server.files = contents(folder)
    monkeypatch.setattr(data, "MAJAJ_HONG_SHA1", sums(server))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / "cache" / name)
    rec = load_majaj_hong(subject="M1", size=32, background="keep", url=server.url)
    np.testing.assert_allclose(rec.responses, trials[:, :, :2].mean(1), atol=1e-6)
    assert contents(tmp_path / "cache") == server.files


# ---------------------------------------------------------------- ventral_neural_data.hdf5


def write_hdf5(path, change=lambda file: None, seed=0):
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(seed)
    counts, repeats = {"V0": 4, "V3": 6, "V6": 5}, {"V0": 2, "V3": 4, "V6": 3}
    n = sum(counts.values())
    blocks = {v: rng.normal(size=(repeats[v], counts[v], UNITS)).astype(np.float32) for v in counts}
    average = np.concatenate([b.mean(0) for b in blocks.values()])
    with h5py.File(path, "w") as file:
        file["images"] = rng.integers(0, 256, (n, 24, 24), dtype=np.uint8)
        file["image_meta/category"] = np.array([CATEGORIES[i % 4].encode() for i in range(n)])
        file["image_meta/object_name"] = np.array([f"object{i % 8}".encode() for i in range(n)])
        file["image_meta/variation_level"] = np.array([v.encode() for v in counts for _ in range(counts[v])])
        for name in ("rotation_xy", "rotation_xz", "rotation_yz", "size", "translation_y", "translation_z"):
            file[f"image_meta/{name}"] = rng.uniform(0.5, 1, n)
        file["neural_meta/IT_NEURONS"], file["neural_meta/V4_NEURONS"] = np.array([0, 1, 4]), np.array([2, 3, 5])
        file["neural_meta/ANIMAL_INFO"] = np.array([b"Chabo_L_M"] * 3 + [b"Tito_L_P"] * 3)
        file["time_averaged_trial_averaged"] = average
        for v, block in blocks.items():
            file[f"time_averaged/variation_level_{v[1:]}"] = block
        change(file)
    return path, blocks, average


def test_hdf5_averages_and_trials(tmp_path):
    path, blocks, average = write_hdf5(tmp_path / "ventral_neural_data.hdf5")
    rec = load_hvm_hdf5(path, subject="M1", size=24, background="keep", trials=True)
    np.testing.assert_allclose(rec.responses, average[:, [0, 1]], atol=1e-6)
    np.testing.assert_array_equal(rec.trials[4:10], blocks["V3"][:, :, [0, 1]].transpose(1, 0, 2))
    assert np.isnan(rec.trials[:4, 2:]).all() and rec.trials.shape == (15, 4, 2)
    assert list(rec.labels["variation"].value_counts().sort_index()) == [4, 6, 5]
    assert {"rxy", "rxz", "ryz", "ty", "tz", "size", "object"} <= set(rec.labels) and "s" not in rec.labels
    both = load_hvm_hdf5(path, size=24, background="keep")
    np.testing.assert_allclose(both.responses, average[:, [0, 1, 4]], atol=1e-6)
    assert both.trials is None and list(both.sites["animal"]) == ["Chabo", "Chabo", "Tito"]


def put(name, values):
    def change(file):
        del file[name]
        if values is not None:
            file[name] = values
    return change


BROKEN_HDF5 = {
    "no images": (put("images", None), r"\['images'\] are missing"),
    "no category": (put("image_meta/category", None), r"image_meta \['category'\] are missing"),
    "no sites": (put("neural_meta/IT_NEURONS", None), r"neural_meta \['IT_NEURONS'\] are missing"),
    "no trials": (put("time_averaged/variation_level_3", None), "variation_level_3"),
    "colour images": (put("images", np.zeros((15, 24, 24, 3), np.uint8)), r"field 'images' has shape \(15, 24, 24, 3\), but \(any, any, any\)"),
    "short responses": (put("time_averaged_trial_averaged", np.zeros((14, UNITS))), r"'time_averaged_trial_averaged' has shape \(14, 6\), but \(15, any\)"),
    "short labels": (put("image_meta/size", np.zeros(3)), r"'image_meta/size' has shape \(3,\)"),
    "site out of range": (put("neural_meta/IT_NEURONS", np.array([0, 9])), "index 9 of neural_meta/IT_NEURONS is out of range"),
    "short trials": (put("time_averaged/variation_level_3", np.zeros((4, 5, UNITS))), r"variation_level_3' has shape \(4, 5, 6\), but \(any, 6, 6\)"),
    "all-NaN unit": (put("time_averaged/variation_level_0", np.full((2, 4, UNITS), np.nan)), "responses: .*missing='drop'"),
}


@pytest.mark.parametrize("change, message", BROKEN_HDF5.values(), ids=BROKEN_HDF5)
def test_broken_hdf5_names_file_and_field(tmp_path, change, message):
    path, _, _ = write_hdf5(tmp_path / "v.hdf5", change)
    with pytest.raises(ValueError, match=r"v\.hdf5.*" + message):
        load_hvm_hdf5(path, size=24, background="keep", trials=True)


@pytest.mark.parametrize("how", ["truncated", "foreign"])
def test_damaged_hdf5(tmp_path, how):
    path, _, _ = write_hdf5(tmp_path / "v.hdf5")
    truncate(path) if how == "truncated" else path.write_text("text")
    with pytest.raises(ValueError, match=r"v\.hdf5 is truncated, damaged or not the HDF5 file.*again"):
        load_hvm_hdf5(path)


def test_missing_hdf5(tmp_path):
    pytest.importorskip("h5py")
    with pytest.raises(FileNotFoundError, match="does not exist; it should be the HDF5 file"):
        load_hvm_hdf5(tmp_path / "v.hdf5")


# ---------------------------------------------------------------- the authors' arrays


def write_authors(folder, n=16, **changes):
    rng = np.random.default_rng(0)
    arrays = {
        "stimulus_data_cleaned": rng.integers(0, 256, (n, 20, 20), dtype=np.uint8), "stimulus_pose_features": rng.normal(size=(n, 6)),
        "stimulus_category_ids": np.arange(n) % 8, "sorted_it_avg_data": rng.normal(size=(n, 168)),
    } | changes
    for name, array in arrays.items():
        if array is not None:
            np.save(folder / f"{name}.npy", array)
    return arrays


def test_authors_arrays(tmp_path):
    arrays = write_authors(tmp_path)
    one, two, both = (load_authors_arrays(tmp_path, subject) for subject in ("M1", "M2", None))
    assert one.responses.shape == (16, 58) and two.responses.shape == (16, 110) and both.responses.shape == (16, 168)
    np.testing.assert_allclose(np.hstack([one.responses, two.responses]), arrays["sorted_it_avg_data"], rtol=1e-6)
    np.testing.assert_allclose(one.images[:, 0], arrays["stimulus_data_cleaned"] / 255, atol=1e-6)
    assert one.labels["category"].dtype == np.int64 and list(one.labels["ty"]) == list(arrays["stimulus_pose_features"][:, 4])
    assert load_authors_arrays(tmp_path, size=10).images.shape == (16, 1, 10, 10)


def test_authors_arrays_with_float_images_up_to_255_say_what_was_done(tmp_path):
    images = np.random.default_rng(0).uniform(0, 255, (16, 20, 20))
    write_authors(tmp_path, stimulus_data_cleaned=images)
    with pytest.warns(UserWarning, match="divided by 255"):
        np.testing.assert_allclose(load_authors_arrays(tmp_path).images[:, 0], images / 255, atol=1e-6)


@pytest.mark.parametrize("changes, error, message", [
    ({"sorted_it_avg_data": None}, FileNotFoundError, r"sorted_it_avg_data\.npy does not exist"),
    ({"sorted_it_avg_data": np.zeros((15, 168))}, ValueError, r"sorted_it_avg_data\.npy.*\(15, 168\), but \(16, any\)"),
    ({"sorted_it_avg_data": np.zeros((16, 50))}, ValueError, "has 50 sites, but M1's 58"),
    ({"stimulus_pose_features": np.zeros((16, 3))}, ValueError, r"pose_features\.npy.*\(16, 3\), but \(16, 6\)"),
    ({"stimulus_category_ids": np.linspace(0, 1, 16)}, ValueError, "whole numbers"),
    ({"stimulus_data_cleaned": np.zeros((16, 20, 20, 3))}, ValueError, r"data_cleaned\.npy.*\(any, any, any\)"),
    ({"stimulus_data_cleaned": np.full((16, 20, 20), -1.0)}, ValueError, r"must lie in \[0, 1\]"),
    ({"sorted_it_avg_data": np.array([{}] * 16, dtype=object)}, ValueError, "without pickle"),
    ({"sorted_it_avg_data": np.where(np.arange(168) == 3, np.nan, np.random.default_rng(0).normal(size=(16, 168)))}, ValueError, r"no data at all.*\[3\]"),
])
def test_broken_authors_arrays(tmp_path, changes, error, message):
    write_authors(tmp_path, **changes)
    with pytest.raises(error, match=message):
        load_authors_arrays(tmp_path)


def test_truncated_authors_array(tmp_path):
    write_authors(tmp_path)
    truncate(tmp_path / "stimulus_data_cleaned.npy")
    with pytest.raises(ValueError, match=r"stimulus_data_cleaned\.npy is truncated.*copy it again"):
        load_authors_arrays(tmp_path)


# ---------------------------------------------------------------- Cowley V4


def write_cowley(path, n=12, **changes):
    rng = np.random.default_rng(0)
    counts = rng.poisson(5, (4, n, 5)).astype(np.float32)
    counts[:, ::2, 3:] = np.nan
    arrays = {
        "images": rng.integers(0, 256, (n, 16, 16), dtype=np.uint8), "spike_counts": counts, "obj": np.array(["bear", "f16"] * (n // 2)),
        "category": np.array(["Animals", "Planes"] * (n // 2)), "var": np.array(["V3", "V6"] * (n // 2)), "id": np.array([f"{i:040x}" for i in range(n)]),
        "bg_id": np.array([f"b{i}" for i in range(n)]), "rxy": rng.normal(size=n), "ty": rng.normal(size=n), "tz": rng.normal(size=n), "s": np.ones(n),
    } | changes
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return arrays


def test_cowley_session(tmp_path):
    arrays = write_cowley(tmp_path / "hvm_v4_session7.npz")
    rec = load_cowley_v4(tmp_path / "hvm_v4_session7.npz")
    np.testing.assert_allclose(rec.responses, np.nanmean(arrays["spike_counts"], 2).T, rtol=1e-6)
    np.testing.assert_array_equal(rec.trials, arrays["spike_counts"].transpose(1, 2, 0))
    assert list(rec.sites["site_id"])[:2] == ["session7_00", "session7_01"] and set(rec.sites["region"]) == {"V4"}
    assert {"object", "variation", "image_id", "background_id", "rxy"} <= set(rec.labels)
    small = load_cowley_v4(tmp_path / "hvm_v4_session7.npz", size=8, trials=False)
    assert small.images.shape == (12, 1, 8, 8) and small.trials is None and "noise_ceiling" in small.sites


def nan_at(index):
    counts = np.ones((4, 12, 5), np.float32) * np.arange(12)[None, :, None]
    counts[index] = np.nan
    return counts


@pytest.mark.parametrize("changes, message", [
    ({"spike_counts": None}, r"\['spike_counts'\] are missing"),
    ({"category": None}, r"\['category'\] are missing"),
    ({"spike_counts": np.zeros((12, 4, 5))}, r"'spike_counts \(sites, images, repeats\)' has shape \(12, 4, 5\), but \(any, 12, any\)"),
    ({"rxy": np.zeros(3)}, r"'rxy' has shape \(3,\), but \(12,\)"),
    ({"id": np.array(["same"] * 12)}, "image_id holds same more than once"),
    ({"spike_counts": nan_at(2)}, r"1 units have no data at all \(all NaN\) \(numbers \[2\]\); pass missing='drop'"),
    ({"spike_counts": nan_at((slice(None), 5))}, r"1 images have no response \(numbers \[5\]\)"),
    ({"spike_counts": nan_at((1, 5))}, r"1 units lack a response to some images \(numbers \[1\]\)"),
    ({"var": np.array(["high"] * 12)}, "variation levels must be .*, not high"),
])
def test_broken_cowley_session(tmp_path, changes, message):
    write_cowley(tmp_path / "s.npz", **changes)
    with pytest.raises(ValueError, match=r"s\.npz.*" + message):
        load_cowley_v4(tmp_path / "s.npz")


def test_damaged_cowley_session(tmp_path):
    path = tmp_path / "s.npz"
    write_cowley(path)
    truncate(path)
    with pytest.raises(ValueError, match=r"s\.npz is truncated, damaged or not an npz session"):
        load_cowley_v4(path)
    np.save(tmp_path / "one.npy", np.ones(3))
    with pytest.raises(ValueError, match="not an npz"):
        load_cowley_v4(tmp_path / "one.npy")


def test_missing_drop_in_a_cowley_session(tmp_path):
    write_cowley(tmp_path / "s.npz", spike_counts=nan_at(2))
    with pytest.warns(UserWarning, match="0 images and 1 units without complete data are left out"):
        rec = load_cowley_v4(tmp_path / "s.npz", missing="drop")
    assert list(rec.sites["site_id"]) == ["s_00", "s_01", "s_03"]


def test_real_v4_session(realdata):
    rec = load_cowley_v4(realdata / "hvm_v4_session210325.npz")
    assert rec.responses.shape == (640, 50) and rec.trials.shape == (640, 10, 50) and rec.images.shape == (640, 1, 112, 112)
    ceiling = rec.noise_ceiling()
    assert 0.4 < ceiling.min() and ceiling.max() < 1 and np.abs(ceiling - rec.noise_ceiling("split_half")).max() < 0.05
    metadata = pd.read_csv(realdata / "hvm_metadata.csv").set_index("id").loc[rec.labels["image_id"]]
    assert (metadata["obj"].to_numpy() == rec.labels["object"].to_numpy()).all() and (metadata["var"].to_numpy() == rec.labels["variation"].to_numpy()).all()


# ---------------------------------------------------------------- NWB


def write_nwb(path, column="stimulus_id", in_file="Images", observed=False, drop_column=False, units=True, seed=0, shift=0, change=lambda nwb: None):
    pynwb = pytest.importorskip("pynwb")
    from pynwb.base import Images
    from pynwb.image import GrayscaleImage, ImageSeries

    rng = np.random.default_rng(seed)
    nwb = pynwb.NWBFile("made for a test", "id1", datetime(2024, 1, 1, tzinfo=timezone.utc), session_id="s1")
    pictures = rng.integers(0, 256, (4, 12, 12), dtype=np.uint8)
    names = [f"picture{i}" for i in range(4)]
    if in_file == "Images":
        nwb.add_stimulus_template(Images(name="shown", images=[GrayscaleImage(name=n, data=p) for n, p in zip(names, pictures)], description="x"))
    elif in_file == "ImageSeries":
        nwb.add_stimulus_template(ImageSeries(name="shown", data=pictures, unit="n.a.", format="raw", rate=1.0))
    shown = rng.permutation(np.repeat(np.arange(4), 3))
    if not drop_column:
        nwb.add_trial_column(name=column, description="which")
    nwb.add_trial_column(name="category", description="which")
    for k, i in enumerate(shown):
        ident = {} if drop_column else {column: names[i] if in_file == "Images" else int(i) + shift}
        nwb.add_trial(start_time=k * 0.5, stop_time=k * 0.5 + 0.3, category=CATEGORIES[i], **ident)
    spikes = [np.sort(rng.uniform(0, 6.5, 400)) for _ in range(3)]
    if units:
        nwb.add_unit_column(name="region", description="where")
        for u, times in enumerate(spikes):
            nwb.add_unit(spike_times=times, region="IT", **({"obs_intervals": [[0, 3.0 if u == 1 else 7.0]]} if observed else {}))
    change(nwb)
    with pynwb.NWBHDF5IO(str(path), "w") as io_:
        io_.write(nwb)
    return path, pictures, shown, spikes


@pytest.mark.parametrize("column, in_file", [("stimulus_id", "Images"), ("image_index", "ImageSeries")])
def test_nwb_counts_by_a_slow_reference(tmp_path, column, in_file):
    path, pictures, shown, spikes = write_nwb(tmp_path / "a.nwb", column, in_file)
    rec = load_nwb(path, size=12)
    order = pd.unique(shown)
    np.testing.assert_allclose(rec.images[:, 0], pictures[order] / 255, atol=1e-6)
    expected = [[np.mean([((t >= k * 0.5 + 0.07) & (t < k * 0.5 + 0.17)).sum() for k in np.flatnonzero(shown == i)]) for t in spikes] for i in order]
    np.testing.assert_allclose(rec.responses, expected, rtol=1e-6)
    assert list(rec.labels["category"]) == [CATEGORIES[i] for i in order] and list(rec.sites["region"]) == ["IT"] * 3
    assert rec.trials.shape == (4, 3, 3)


def test_nwb_with_images_and_labels_handed_over(tmp_path):
    path, pictures, _, _ = write_nwb(tmp_path / "a.nwb", "image_index", None)
    labels = pd.DataFrame({"image_id": [3, 1, 0, 2], "category": list("dbac")})
    rec = load_nwb(path, images=dict(enumerate(pictures)), labels=labels, size=12)
    np.testing.assert_allclose(rec.images[:, 0], pictures[[3, 1, 0, 2]] / 255, atol=1e-6)


def test_nwb_unit_not_observed_has_no_response(tmp_path):
    path, _, shown, _ = write_nwb(tmp_path / "a.nwb", observed=True)
    unseen = set(shown) - set(shown[:6])
    if unseen:
        with pytest.raises(ValueError, match="units lack a response"):
            load_nwb(path, size=12)
    else:
        trials = load_nwb(path, size=12).trials
        assert np.isnan(trials[..., 1]).sum() == 6 and np.isfinite(trials[..., 0]).all()


def test_count_spikes_window_is_half_open_and_respects_observation():
    counts = count_spikes(np.array([0.0, 0.1, 0.2, 0.3]), np.array([0.0, 0.1, 5.0]), (0.1, 0.3), np.array([[0.0, 1.0]]))
    np.testing.assert_array_equal(counts, [2, 2, np.nan])


BROKEN_NWB = {
    "no id column": (dict(drop_column=True), {}, r"name it with image_column=.*\['image_id'\] are missing"),
    "named column absent": ({}, {"image_column": "what"}, r"\['what'\] are missing"),
    "no units": (dict(units=False), {}, "a units table are needed"),
    "no images": (dict(in_file=None), {}, "0 sets of images.*pass images="),
    "container absent": ({}, {"image_container": "other"}, r"\['other'\] are missing"),
    "picture missing": (dict(in_file=None, column="image_id"), {"images": {0: np.zeros((4, 4), np.uint8)}}, "3 images have no picture.*missing='drop'"),
    "labels without category": ({}, {"labels": pd.DataFrame({"image_id": ["picture0"]})}, r"\['category'\] are missing"),
    "labels twice": ({}, {"labels": pd.DataFrame({"image_id": ["picture0"] * 2, "category": ["a", "b"]})}, "holds picture0 more than once"),
    "responses without labels": ({}, {"labels": pd.DataFrame({"image_id": ["picture0"], "category": ["a"]})}, "3 ids have responses but no image"),
}


@pytest.mark.parametrize("made, arguments, message", BROKEN_NWB.values(), ids=BROKEN_NWB)
def test_broken_nwb(tmp_path, made, arguments, message):
    path, _, _, _ = write_nwb(tmp_path / "a.nwb", **made)
    with pytest.raises(ValueError, match=r"a\.nwb.*" + message):
        load_nwb(path, size=12, **arguments)


@pytest.mark.parametrize("how", ["truncated", "foreign"])
def test_damaged_nwb(tmp_path, how):
    path, _, _, _ = write_nwb(tmp_path / "a.nwb")
    truncate(path) if how == "truncated" else path.write_text("text")
    with pytest.raises(ValueError, match=r"a\.nwb is truncated, damaged or not an NWB file"):
        load_nwb(path)


def test_nwb_window():
    pytest.importorskip("pynwb")
    with pytest.raises(ValueError, match="from < to"):
        load_nwb("a.nwb", window=(0.2, 0.1))


def test_trials_without_onset_are_no_presentations():
    counts = count_spikes(np.arange(0, 10, 0.01), np.array([1, np.nan, 3]), (0.07, 0.17))
    np.testing.assert_array_equal(counts, [10, np.nan, 10])
    observed = np.array([[0.0, 4.0]])
    np.testing.assert_array_equal(count_spikes(np.arange(0, 10, 0.01), np.array([1, np.nan, 3]), (0.07, 0.17), observed), [10, np.nan, 10])


@pytest.mark.parametrize("intervals, expected", [
    ([[0, 2.1], [2.1, 5]], [10, 10]), ([[2.1, 5], [0, 1.5], [1.4, 2.1 - 1e-9]], [10, 10]), ([[0, 2.1], [2.12, 5]], [10, np.nan]),
])
def test_intervals_that_touch_or_overlap_are_one(intervals, expected):
    counts = count_spikes(np.arange(0, 10, 0.01) + 0.005, np.array([1, 2]), (0.07, 0.17), np.array(intervals, float))
    np.testing.assert_array_equal(counts, expected)


def test_nwb_onsets_from_another_column(tmp_path):
    def change(nwb):
        nwb.add_trial_column(name="image_on", description="when", data=[np.nan if k == 5 else k * 0.5 + 0.1 for k in range(12)])
    path, _, shown, spikes = write_nwb(tmp_path / "a.nwb", change=change)
    with pytest.warns(UserWarning, match="'image_on'.*differ between presentations of one image"):
        rec = load_nwb(path, size=12, onset_column="image_on")
    on = [k for k in np.flatnonzero(shown == shown[5]) if k != 5]
    expected = [np.mean([((t >= k * 0.5 + 0.17) & (t < k * 0.5 + 0.27)).sum() for k in on]) for t in spikes]
    np.testing.assert_allclose(rec.responses[list(pd.unique(shown)).index(shown[5])], expected)
    with pytest.raises(ValueError, match=r"onset_column=\) \['when'\] are missing"): load_nwb(path, size=12, onset_column="when")


def test_nwb_images_numbered_from_1_are_not_shifted(tmp_path):
    path, pictures, shown, _ = write_nwb(tmp_path / "a.nwb", "image_index", "ImageSeries", shift=1)
    for missing in ("error", "drop"):
        with pytest.raises(ValueError, match="no presentation shows image 0, and the numbers run from 1 to 4.*number the images from 1"):
            load_nwb(path, size=12, missing=missing)
    rec = load_nwb(path, size=12, images=dict(enumerate(pictures, 1)))
    np.testing.assert_allclose(rec.images[:, 0], pictures[pd.unique(shown)] / 255, atol=1e-6)
    with pytest.warns(UserWarning, match="if they count from 1, every picture is the wrong one"):
        load_nwb(path, size=12, images=dict(enumerate(np.concatenate([pictures, pictures]))))


def test_assemblies_that_count_images_from_1_are_not_shifted():
    pytest.importorskip("xarray")
    images = np.random.default_rng(0).random((4, 6, 6))
    made = Recording(images, np.random.default_rng(1).normal(size=(4, 2)), {"category": list("abab"), "image_id": [1, 2, 3, 4]}).to_xarray()
    for missing in ("error", "drop"):
        with pytest.raises(ValueError, match="no presentation shows image 0"): Recording.from_xarray(made, images, np.arange(4), missing)
    with pytest.raises(ValueError, match="the id 1 stands for several images"): Recording.from_xarray(made, images, [1, 1, 2, 3])


def test_nwb_follows_the_order_of_images(tmp_path):
    pytest.importorskip("pynwb")
    from pynwb.base import ImageReferences, Images
    from pynwb.image import GrayscaleImage
    rng = np.random.default_rng(1)
    kept = [GrayscaleImage(name=f"picture{i}", data=rng.integers(0, 256, (12, 12), dtype=np.uint8)) for i in range(4)]
    def change(nwb):
        nwb.add_stimulus_template(Images(name="ordered", images=kept, description="x", order_of_images=ImageReferences(name="order_of_images", data=kept[::-1])))
    path, _, shown, _ = write_nwb(tmp_path / "a.nwb", "image_index", None, change=change)
    rec = load_nwb(path, size=12)
    np.testing.assert_allclose(rec.images[:, 0], np.stack([kept[3 - i].data for i in pd.unique(shown)]) / 255, atol=1e-6)


def test_nwb_pictures_with_16_bits_colour_and_transparency():
    pytest.importorskip("pynwb")
    from pynwb.base import Images
    from pynwb.image import GrayscaleImage, RGBAImage, RGBImage
    value = lambda *shape, dtype=np.uint8: np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (12, 12, *shape), dtype=dtype)
    kept = [GrayscaleImage(name="picture0", data=value(dtype=np.uint16)), RGBImage(name="picture1", data=value(3)), RGBAImage(name="picture2", data=value(4)),
            RGBImage(name="picture3", data=value(3, dtype=np.uint16))]
    file = SimpleNamespace(stimulus_template={}, stimulus={"shown": Images(name="shown", images=kept, description="x")})
    read = data.nwb_images(file, None)
    expected = [kept[0].data / 65535, kept[1].data.mean(-1) / 255, kept[2].data[..., :3].mean(-1) / 255 * (kept[2].data[..., 3] / 255), kept[3].data.mean(-1) / 65535]
    np.testing.assert_allclose([read[f"picture{i}"] for i in range(4)], expected, atol=1e-6)


def test_nwb_columns_that_would_have_one_name_are_both_there(tmp_path):
    def change(nwb):
        nwb.add_unit_column(name="location", description="x", data=["left"] * 3)
        nwb.add_unit_column(name="site_id", description="x", data=list("xyz"))
        nwb.add_trial_column(name="image_id", description="x", data=list(range(12)))
    path, _, _, _ = write_nwb(tmp_path / "a.nwb", change=change)
    with pytest.warns(UserWarning, match="'image_id' is left out"): rec = load_nwb(path, size=12, image_column="stimulus_id")
    assert list(rec.sites["region"]) == ["IT"] * 3 and list(rec.sites["location"]) == ["left"] * 3 and list(rec.sites["site_id"]) == list("xyz")
    assert set(rec.labels["image_id"]) == {f"picture{i}" for i in range(4)}


def test_an_image_of_two_categories_is_refused(tmp_path):
    pytest.importorskip("xarray")
    def change(nwb): nwb.trials["category"].data[0] = "other"
    path, _, shown, _ = write_nwb(tmp_path / "a.nwb", change=change)
    with pytest.raises(ValueError, match=rf"presentations of image picture{shown[0]} differ in category, \['other', '"): load_nwb(path, size=12)
    images = np.random.default_rng(0).random((3, 6, 6))
    trials = np.random.default_rng(1).normal(size=(3, 2, 4))
    assembly = Recording(images, trials.mean(1), {"category": list("aba"), "object": list("xyz"), "image_id": list("pqr")}, trials=trials).to_xarray()
    for column in ("category", "object"):
        values = assembly[f"{column}_name"].to_numpy().astype(object)
        values[3] = "other"
        with pytest.raises(ValueError, match=f"presentations of image q differ in {column}"):
            Recording.from_xarray(assembly.assign_coords({f"{column}_name": ("presentation", values)}), images)


def test_columns_of_one_name_in_labels_and_sites_survive_xarray():
    pytest.importorskip("xarray")
    images = np.random.default_rng(0).random((3, 6, 6))
    make = lambda **columns: Recording(images, np.eye(3), {"category": list("aba"), "session": [1, 2, 3]} | columns, pd.DataFrame({"session": [7, 8, 9]}))
    back = Recording.from_xarray(make().to_xarray(), images)
    assert list(back.labels["session"]) == [1, 2, 3] and list(back.sites["site_session"]) == [7, 8, 9]
    with pytest.raises(ValueError, match="labels, by their names in Brain-Score, have several columns 'category_name'"): make(category_name=0).to_xarray()
    with pytest.raises(ValueError, match="'category_name' and 'category' mean the same, but differ"):
        Recording.from_xarray(make().to_xarray().assign_coords(category=("presentation", list("xyz"))), images)


# ---------------------------------------------------------------- names, pictures and sizes


def write_zip(path, pictures):
    with zipfile.ZipFile(path, "w") as archive:
        for name, picture in pictures.items():
            buffer = io.BytesIO()
            picture.save(buffer, "PNG")
            archive.writestr(name, buffer.getvalue())
    return path


def flat(value, mode="L", size=(8, 8)): return Image.new(mode, size, value)


def test_pictures_of_one_name_in_two_folders_are_told_apart(tmp_path):
    pictures = {"set/faces/001.png": flat(51), "set/cars/001.png": flat(102), "set/cars/002.png": flat(204)}
    path = write_zip(tmp_path / "a.zip", pictures)
    read = lambda *names: [round(float(v), 3) for v in data.read_zip_images(path, list(names), 8)[:, 0, 0, 0]]
    assert read("faces/001.png", "cars/001.png", "002.png") == [0.2, 0.4, 0.8] == read(*pictures) == read("cars\\..\\faces/001.png", "x/set/cars/001.png", "y/002.png")
    with pytest.raises(ValueError, match="'001.png' could be 'set/faces/001.png' or 'set/cars/001.png'; name it with its folders"): read("001.png")
    with pytest.raises(ValueError, match="'faces/002.png' and 'cars/002.png' are different pictures, but the archive has only 'set/cars/002.png'"):
        read("faces/002.png", "cars/002.png")


def test_majaj_hong_pictures_in_folders(tmp_path):
    folder, _, _ = write_majaj(tmp_path / "d", change_stimuli=lambda t: t.assign(filename=[f"{'ab'[i % 2]}/{i // 2}.png" for i in range(N)]))
    write_zip(folder / "stimulus_hvm-public.zip", {f"{'ab'[i % 2]}/{i // 2}.png": flat(10 * i + 10, size=(32, 32)) for i in range(N)})
    np.testing.assert_allclose(load_majaj(folder).images[:, 0, 0, 0] * 255, 10 * np.arange(N) + 10, atol=1e-4)


def test_pictures_of_16_bits_are_scaled_and_transparent_ones_lie_on_black(tmp_path):
    deep = Image.fromarray(np.array([[128, 20], [65535, 30000]], np.uint16))
    clear = Image.fromarray(np.array([[[255, 0], [255, 128]], [[100, 255], [0, 0]]], np.uint8))
    colour = Image.new("RGBA", (2, 2), (255, 255, 255, 0))
    path = write_zip(tmp_path / "a.zip", {"deep.png": deep, "clear.png": clear, "colour.png": colour})
    with pytest.warns(UserWarning, match="2 of 3 pictures have transparent parts, which became black"):
        read = data.read_zip_images(path, ["deep.png", "clear.png", "colour.png"], 2)[:, 0]
    np.testing.assert_allclose(read[0], np.array([[128, 20], [65535, 30000]]) / 65535, atol=1e-6)
    np.testing.assert_allclose(read[1], np.array([[0, 128], [100, 0]]) / 255, atol=1e-6)
    assert read[2].max() == 0


def test_a_picture_that_cannot_be_read_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive: archive.writestr("a.png", b"text")
    with pytest.raises(ValueError, match="the picture 'a.png' cannot be read"): data.read_zip_images(tmp_path / "a.zip", ["a.png"], 8)


def test_ids_are_read_as_they_are_written(tmp_path):
    ids = ["0001", "NA", "None", "nan", "1e3", "007"] + [f"{i:03d}" for i in range(N - 6)]
    def change_values(values, coords):
        number = {i: k for k, i in enumerate(pd.unique(coords["stimulus_id"][1]))}
        return values, coords | {"stimulus_id": ("presentation", np.array([ids[number[i]] for i in coords["stimulus_id"][1]]))}
    folder, _, _ = write_majaj(tmp_path / "d", change_values=change_values, change_stimuli=lambda t: t.assign(stimulus_id=ids, category_name=["NA", "None"] * (N // 2)))
    rec = load_majaj(folder)
    assert list(rec.labels["image_id"]) == ids and set(rec.labels["category"]) == {"NA", "None"}
    folder, _, _ = write_majaj(tmp_path / "e", change_stimuli=lambda t: t.assign(category_name=["a", ""] * (N // 2)))
    with pytest.raises(ValueError, match="category is empty in row 1"): load_majaj(folder)


def test_ids_that_are_numbers_match(tmp_path):
    def change_values(values, coords):
        number = {i: k for k, i in enumerate(pd.unique(coords["stimulus_id"][1]))}
        return values, coords | {"stimulus_id": ("presentation", np.array([number[i] for i in coords["stimulus_id"][1]]))}
    folder, _, _ = write_majaj(tmp_path / "d", change_values=change_values, change_stimuli=lambda t: t.assign(stimulus_id=range(N)))
    assert list(load_majaj(folder).labels["image_id"]) == [str(i) for i in range(N)]


@pytest.mark.parametrize("level", [3.7, "V3.7", "2.5"])
def test_variations_between_levels_are_refused(level):
    with pytest.raises(ValueError, match=f"variation levels must be 0, 3 and 6, .* not {level}"): data.variation_names([3, level] if not isinstance(level, str) else ["3", level])


def header(shape, dtype="float32"):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def test_declared_sizes_are_read_before_the_data(tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    pytest.importorskip("h5netcdf")
    large = "GB, and more than 4 GB are not read; if it is right, set the environment variable MIGVIS_MAX_GB"
    for name in ("r.npz", "c.npz"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive: archive.writestr("images.npy", header((2**20, 100, 100)))
    (tmp_path / "stimulus_data_cleaned.npy").write_bytes(header((2**20, 100, 100)))
    hdf5, _, _ = write_hdf5(tmp_path / "v.hdf5", lambda file: (file.pop("images"), file.create_dataset("images", (2**20, 256, 256), np.uint8, chunks=(1, 256, 256))))
    folder, _, _ = write_majaj(tmp_path / "d")
    with h5py.File(folder / "assy_dicarlo_MajajHong2015_public.nc", "a") as file: file.create_dataset("more", (2**31,), np.float32, chunks=(2**10,))
    for load in (lambda: Recording.load(tmp_path / "r.npz"), lambda: load_cowley_v4(tmp_path / "c.npz"), lambda: load_authors_arrays(tmp_path),
                 lambda: load_hvm_hdf5(hdf5), lambda: load_majaj(folder)):
        with pytest.raises(ValueError, match=large): load()
    small, _, _ = write_hdf5(tmp_path / "w.hdf5")
    monkeypatch.setenv("MIGVIS_MAX_GB", "1e-6")
    with pytest.raises(ValueError, match="more than 1e-06 GB"): load_hvm_hdf5(small)
    write_nwb(tmp_path / "a.nwb")
    with pytest.raises(ValueError, match="more than 1e-06 GB"): load_nwb(tmp_path / "a.nwb")
    monkeypatch.setenv("MIGVIS_MAX_GB", "1")
    assert len(load_hvm_hdf5(small, size=24, background="keep")) == 15
    monkeypatch.setenv("MIGVIS_MAX_GB", "many")
    with pytest.raises(ValueError, match="MIGVIS_MAX_GB must be a number of gigabytes, not 'many'"): load_hvm_hdf5(small)


def test_matlab_files_that_declare_too_much_are_refused(tmp_path, monkeypatch):
    from scipy.io import savemat
    from migvis.v1 import read_mat
    savemat(tmp_path / "a.mat", {"imgs": np.zeros((100, 100))}, do_compression=True)
    monkeypatch.setenv("MIGVIS_MAX_GB", "1e-5")
    with pytest.raises(ValueError, match="a.mat is said to hold 8e-05 GB"): read_mat(tmp_path / "a.mat", ["imgs"])


@pytest.mark.parametrize("kind", ["link", "storage", "virtual"])
def test_hdf5_that_leads_to_other_files_is_refused(tmp_path, kind):
    h5py = pytest.importorskip("h5py")
    pytest.importorskip("h5netcdf")
    pytest.importorskip("pynwb")
    (tmp_path / "secret").write_bytes(bytes(15 * 24 * 24))
    with h5py.File(tmp_path / "other.h5", "w") as file: file["images"] = np.zeros((15, 24, 24), np.uint8)
    def change(file):
        file.pop("images", None)
        if kind == "link": file["images"] = h5py.ExternalLink("other.h5", "images")
        elif kind == "storage": file.create_dataset("images", (15, 24, 24), np.uint8, external=[(str(tmp_path / "secret"), 0, 15 * 24 * 24)])
        else:
            layout = h5py.VirtualLayout((15, 24, 24), np.uint8)
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "images", (15, 24, 24))
            file.create_virtual_dataset("images", layout)
    path, _, _ = write_hdf5(tmp_path / "v.hdf5", change)
    folder, _, _ = write_majaj(tmp_path / "d")
    nwb, _, _, _ = write_nwb(tmp_path / "a.nwb")
    for other in (folder / "assy_dicarlo_MajajHong2015_public.nc", nwb):
        with h5py.File(other, "a") as file: change(file)
    for load in (lambda: load_hvm_hdf5(path, background="keep"), lambda: load_majaj(folder), lambda: load_nwb(nwb, size=12)):
        with pytest.raises(ValueError, match="the field 'images' lies in another file, which is not read; copy it into this one"): load()


# ---------------------------------------------------------------- packages that are not there


@pytest.mark.parametrize("package, call", [
    ("h5py", lambda p: load_hvm_hdf5(p / "a")), ("pynwb", lambda p: load_nwb(p / "a")), ("pooch", lambda p: fetch_files({"a": "b"}, "http://127.0.0.1:9/", p)),
    ("xarray", lambda p: Recording(np.zeros((2, 4, 4)), np.ones((2, 1)), {"category": [0, 1]}).to_xarray()),
])
def test_a_package_that_is_not_installed_is_named(tmp_path, monkeypatch, package, call):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(ImportError, match=rf"{package}: pip install 'migvis\[data\]'"):
        call(tmp_path)
