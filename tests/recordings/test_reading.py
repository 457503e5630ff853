"""Trials, fetching, and files that lead elsewhere."""

import io
import zipfile
import hashlib
import shutil

import numpy as np
import pytest

from migvis.data import Recording
from migvis.recordings.sources import SOURCES, load_recording
from migvis.recordings import brainscore
from migvis.recordings.brainscore import to_xarray
from migvis.recordings.reading import _group_trials, fetch_files
from tests.recordings.made import Server, write_freeman_ziemba, write_hdf5, write_majaj, write_nwb, write_triple_n


def test_group_trials_sorts_presentations():
    values = np.arange(10.0).reshape(5, 2)
    trials = _group_trials(values, np.array(["b", "a", "b", "b", "a"]), np.array(["a", "b"]))
    np.testing.assert_array_equal(trials[1], values[[0, 2, 3]])
    np.testing.assert_array_equal(trials[0, :2], values[[1, 4]])
    assert np.isnan(trials[0, 2]).all()
    with pytest.raises(ValueError, match="1 ids have responses but no image, for example c"):
        _group_trials(values, np.array(list("bcbba")), np.array(["a", "b"]))


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


def test_fetch_into_a_folder_that_cannot_be(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot store a.bin in .*choose another folder"):
        fetch_files(sums(server), server.url, tmp_path / "file")


FETCHED = { # source -> how its files are made, the names of its checksums, options
    "majaj-hong": (write_majaj, ("files", "average"), {"background": "keep"}),
    "freeman-ziemba": (write_freeman_ziemba, ("files",), {}),
    "triple-n": (write_triple_n, ("files", "average"), {"categories": {2950: "animal"}}),
}


@pytest.mark.parametrize("over_time", [False, True])
@pytest.mark.parametrize("name", FETCHED)
def test_public_files_are_fetched_when_no_folder_is_given(tmp_path, monkeypatch, server, name, over_time):
    write, sums_of, options = FETCHED[name]
    public = SOURCES[name].public
    if over_time and name != "freeman-ziemba":
        sums_of = (sums_of[0], "over_time")
        folder = write(tmp_path / "made", edges=(70, 80, 100))[0]
        options = options | {"window": (70, 100)}
    else:
        folder = write(tmp_path / "made")[0]
    server.files = contents(folder)
    assert set(server.files) == {file for part in sums_of for file in public[part]} # the names in the store
    for part in sums_of:
        monkeypatch.setitem(public, part, {k: v for k, v in sums(server).items() if k in public[part]})
    monkeypatch.setattr(brainscore, "_STORE", server.url)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / "cache" / name)
    fetched = load_recording(name, size=32, **options)
    np.testing.assert_array_equal(fetched.responses, load_recording(name, folder, size=32, **options).responses)
    assert contents(tmp_path / "cache") == server.files and len(server.requests) == 3
    load_recording(name, size=32, **options)
    assert len(server.requests) == 3
    server.files = {file: body + b"x" for file, body in server.files.items()}
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(ValueError, match="does not have the expected SHA-1 .*not kept"):
        load_recording(name, size=32, **options)
    assert contents(tmp_path / "cache") == {}


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("triple-n", {}, "name no categories"),
        ("triple-n", {"categories": {1: "a"}, "window": (9, 5)}, "from < to"),
        ("majaj-hong", {"window": 70}, "from < to"),
        ("freeman-ziemba", {"window": (9, 5)}, "from < to"),
    ],
)
def test_options_are_checked_before_fetching(monkeypatch, server, name, options, message):
    monkeypatch.setattr(brainscore, "_STORE", server.url)
    with pytest.raises(ValueError, match=message):
        load_recording(name, **options)
    assert server.requests == []


def header(shape, dtype="float32"):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue()


def test_declared_sizes_are_read_before_the_data(tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    pytest.importorskip("h5netcdf")
    large = "GB, and more than 4 GB are not read; if it is right, set the environment variable MIGVIS_MAX_GB"
    for name in ("r.npz", "c.npz"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("images.npy", header((2**20, 100, 100)))
    (tmp_path / "stimulus_data_cleaned.npy").write_bytes(header((2**20, 100, 100)))
    hdf5, _, _ = write_hdf5(
        tmp_path / "v.hdf5",
        lambda file: (
            file.pop("images"),
            file.create_dataset("images", (2**20, 256, 256), np.uint8, chunks=(1, 256, 256)),
        ),
    )
    folder, _, _ = write_majaj(tmp_path / "d")
    with h5py.File(folder / "assy_dicarlo_MajajHong2015_public.nc", "a") as file:
        file.create_dataset("more", (2**31,), np.float32, chunks=(2**10,))
    for load in (
        lambda: Recording.load(tmp_path / "r.npz"),
        lambda: load_recording("cowley-v4", tmp_path / "c.npz"),
        lambda: load_recording("authors", tmp_path),
        lambda: load_recording("hvm-hdf5", hdf5),
        lambda: load_recording("majaj-hong", folder, background="keep", size=32),
    ):
        with pytest.raises(ValueError, match=large):
            load()
    small, _, _ = write_hdf5(tmp_path / "w.hdf5")
    monkeypatch.setenv("MIGVIS_MAX_GB", "1e-6")
    with pytest.raises(ValueError, match="more than 1e-06 GB"):
        load_recording("hvm-hdf5", small)
    write_nwb(tmp_path / "a.nwb")
    with pytest.raises(ValueError, match="more than 1e-06 GB"):
        load_recording("nwb", tmp_path / "a.nwb")
    monkeypatch.setenv("MIGVIS_MAX_GB", "1")
    assert len(load_recording("hvm-hdf5", small, size=24, background="keep")) == 15
    monkeypatch.setenv("MIGVIS_MAX_GB", "many")
    with pytest.raises(ValueError, match="MIGVIS_MAX_GB must be a number of gigabytes, not 'many'"):
        load_recording("hvm-hdf5", small)


def test_matlab_files_that_declare_too_much_are_refused(tmp_path, monkeypatch):
    from scipy.io import savemat
    from migvis.recordings.reading import _read_mat

    savemat(tmp_path / "a.mat", {"imgs": np.zeros((100, 100))}, do_compression=True)
    monkeypatch.setenv("MIGVIS_MAX_GB", "1e-5")
    with pytest.raises(ValueError, match="a.mat is said to hold 8e-05 GB"):
        _read_mat(tmp_path / "a.mat", ["imgs"])


@pytest.mark.parametrize("kind", ["link", "storage", "virtual"])
def test_hdf5_that_leads_to_other_files_is_refused(tmp_path, kind):
    h5py = pytest.importorskip("h5py")
    pytest.importorskip("h5netcdf")
    pytest.importorskip("pynwb")
    (tmp_path / "secret").write_bytes(bytes(15 * 24 * 24))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["images"] = np.zeros((15, 24, 24), np.uint8)

    def change(file):
        file.pop("images", None)
        if kind == "link":
            file["images"] = h5py.ExternalLink("other.h5", "images")
        elif kind == "storage":
            file.create_dataset(
                "images", (15, 24, 24), np.uint8, external=[(str(tmp_path / "secret"), 0, 15 * 24 * 24)]
            )
        else:
            layout = h5py.VirtualLayout((15, 24, 24), np.uint8)
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "images", (15, 24, 24))
            file.create_virtual_dataset("images", layout)

    path, _, _ = write_hdf5(tmp_path / "v.hdf5", change)
    folder, _, _ = write_majaj(tmp_path / "d")
    nwb, _, _, _ = write_nwb(tmp_path / "a.nwb")
    for other in (folder / "assy_dicarlo_MajajHong2015_public.nc", nwb):
        with h5py.File(other, "a") as file:
            change(file)
    for load in (
        lambda: load_recording("hvm-hdf5", path, background="keep"),
        lambda: load_recording("majaj-hong", folder, background="keep", size=32),
        lambda: load_recording("nwb", nwb, size=12),
    ):
        with pytest.raises(
            ValueError,
            match="the field 'images' lies in another file, which is not read; copy it into this one",
        ):
            load()


@pytest.mark.parametrize(
    "package, call",
    [
        ("h5py", lambda p: load_recording("hvm-hdf5", p / "a")),
        ("pynwb", lambda p: load_recording("nwb", p / "a")),
        ("pooch", lambda p: fetch_files({"a": "b"}, "http://127.0.0.1:9/", p)),
        (
            "xarray",
            lambda p: to_xarray(Recording(np.zeros((2, 4, 4)), np.ones((2, 1)), {"category": [0, 1]})),
        ),
    ],
)
def test_a_package_that_is_not_installed_is_named(tmp_path, monkeypatch, package, call):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(ImportError, match=rf"{package}: pip install 'migvis\[data\]'"):
        call(tmp_path)
