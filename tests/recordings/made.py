"""Files of the sources, as they are laid out, with random numbers."""

import hashlib
import io
import re
import threading
import zipfile
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.io import savemat

CATEGORIES = ["Animals", "Boats", "Cars", "Chairs"]


def make_labels(n, rng):
    category = np.repeat(CATEGORIES, -(-n // 4))[:n]
    labels = pd.DataFrame(
        {"category_name": category, "object_name": [f"{c}_{i % 2}" for i, c in enumerate(category)]}
    )
    pose = {
        c: rng.normal(size=n)
        for c in ("rxy", "rxz", "ryz", "ty", "tz", "rxy_semantic", "rxz_semantic", "ryz_semantic")
    }
    return labels.assign(
        **pose,
        s=rng.uniform(0.7, 1.4, n),
        size=256.0,
        background_id=[f"bg{i}" for i in range(n)],
        variation=3,
    )


def truncate(path, keep=0.6):
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])


def check_damaged_and_missing(path, load):
    "A truncated file of Brain-Score is named, and so is one that is not there."
    truncate(path, 0.5)
    with pytest.raises(ValueError, match=f"{path.name} is truncated, damaged or not .*fetch it again"):
        load()
    path.unlink()
    with pytest.raises(FileNotFoundError, match="holds no .*none to fetch them"):
        load()


def each(cases):
    "Run a test for each change and the message that it must give."
    return pytest.mark.parametrize("change, message", cases.values(), ids=cases)


N, REPEATS, UNITS = 12, 3, 6


def write_brainscore(folder, names, stimuli, pictures, values, coords, variable="data",
                     dims=("neuroid", "presentation", "time_bin"), change=None, drop=()):
    """The three files of Brain-Score, called `names`: assembly, table and archive.

    `values` are (neuroid, presentation, time_bin) and stored as `dims`; `coords` hold (dimension, values); `pictures` name -> array.
    `change` takes values and coords and gives others; the coordinates `drop` are left out.
    """
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    values, coords = change(values, coords) if change else (values, coords)
    array = xarray.DataArray(values, dims=("neuroid", "presentation", "time_bin")).transpose(*dims)
    array = array.assign_coords({k: v for k, v in coords.items() if k not in drop})
    folder.mkdir(parents=True, exist_ok=True)
    xarray.Dataset({variable: array}).to_netcdf(folder / names[0], engine="h5netcdf")
    stimuli.to_csv(folder / names[1], index=False)
    write_zip(folder / names[2], {name: Image.fromarray(picture) for name, picture in pictures.items()})
    return folder


def along(dimension, table):
    "Coordinates of one dimension."
    return {name: (dimension, np.asarray(values)) for name, values in table.items()}


def bins(edges):
    "Coordinates of time bins."
    return {"time_bin_start": ("time_bin", list(edges[:-1])), "time_bin_end": ("time_bin", list(edges[1:]))}


def same(table): return table


def write_majaj(
    folder,
    old=False,
    seed=0,
    change_values=None,
    change_stimuli=same,
    change_sites=None,
    drop_coords=(),
    subfolder="",
    n=N,
    edges=(70, 170),
):
    "Majaj and Hong; gives the trials averaged over the time bins, and with several bins all of them."
    rng = np.random.default_rng(seed)
    ids = [hashlib.sha1(f"{seed}{i}".encode()).hexdigest() for i in range(n)]
    id_name, prefix = ("image_id", "image_dicarlo_") if old else ("stimulus_id", "stimulus_")
    names = [f"{i}.png" for i in ids]
    stimuli = make_labels(n, rng).assign(**{id_name: ids, "image_file_name": names, "filename": names, "id": range(1, n + 1)})
    pictures = rng.integers(0, 256, (n, 32, 32), dtype=np.uint8)
    trials = rng.normal(size=(n, REPEATS, UNITS, len(edges) - 1)).astype(np.float32)
    image, repeat = np.divmod(rng.permutation(n * REPEATS), REPEATS)
    sites = {
        "neuroid_id": [f"site{i}" for i in range(UNITS)],
        "animal": ["Chabo"] * 3 + ["Tito"] * 3,
        "region": ["IT", "IT", "V4"] * 2,
        "arr": list("AMPAMP"),
        "row": range(UNITS),
        "x": np.arange(UNITS) / 10,
    } | (change_sites or {})
    shown = {id_name: np.array(ids)[image], "repetition": repeat}
    if not old:
        shown |= {c: stimuli[c].to_numpy()[image] for c in ("category_name", "object_name", "variation", "rxy")}
    over_time = "_temporal" if len(edges) > 2 else ""
    write_brainscore(
        folder,
        [f"assy_dicarlo_MajajHong2015{over_time}_public.nc", f"{prefix}hvm-public.csv", f"{prefix}hvm-public.zip"],
        change_stimuli(stimuli),
        {f"{subfolder}{name}": picture for name, picture in zip(names, pictures)},
        trials[image, repeat].transpose(1, 0, 2).copy(),
        along("neuroid", sites) | along("presentation", shown) | bins(edges),
        variable="dicarlo.MajajHong2015.public" if old else "data",
        change=change_values,
        drop=drop_coords,
    )
    return folder, pictures, trials[..., 0] if len(edges) == 2 else trials


def write_freeman_ziemba(folder, n=N, units=(3, 4), repeats=3, old=False, change_values=None, change_stimuli=same, drop_coords=()):
    "Freeman and Ziemba: spikes in bins of 1 ms; the third dimension is stored second, and a unit has a number, no animal."
    rng = np.random.default_rng(0)
    family, kind = np.resize([327, 13, 99], n), np.resize(["noise", "texture"], n)
    files = [f"{'tex' if k == 'texture' else k}-320x320-im{f}-smp{i}.png" for i, (f, k) in enumerate(zip(family, kind))]
    ids = [hashlib.sha1(name.encode()).hexdigest() for name in files]
    id_name, prefix = ("image_id", "image_movshon_") if old else ("stimulus_id", "stimulus_")
    stimuli = pd.DataFrame({id_name: ids, "image_file_name": files, "image_file_sha1": ids, "texture_type": kind, "texture_family": family,
                            "sample": range(1, n + 1), "resolution": "320x320", "filename": [f"{i}.png" for i in ids]})
    pictures = np.repeat(rng.integers(0, 256, (n, 40, 40, 1), dtype=np.uint8), 3, 3)
    spikes = (rng.random((n, repeats, sum(units), 300)) < 0.1).astype(float)
    image, repeat = np.divmod(rng.permutation(n * repeats), repeats)
    shown = {id_name: np.array(ids)[image], "repetition": repeat, "texture_type": kind[image]}
    sites = {"neuroid_id": range(1, sum(units) + 1), "region": ["V1"] * units[0] + ["V2"] * units[1]}
    name = f"{prefix}FreemanZiemba2013_aperture-public"
    write_brainscore(folder, ["assy_movshon_FreemanZiemba2013_public.nc", f"{name}.csv", f"{name}.zip"], change_stimuli(stimuli),
                     dict(zip(stimuli["filename"], pictures)), spikes[image, repeat].transpose(1, 0, 2),
                     along("neuroid", sites) | along("presentation", shown) | bins(range(301)),
                     dims=("neuroid", "time_bin", "presentation"), change=change_values, drop=drop_coords)
    return folder, pictures, spikes


SCENES = ["person", "animal", "food", "animal"]


def write_triple_n(folder, n=N, change_values=None, change_stimuli=same, drop_coords=(), edges=(70, 170)):
    "Triple-N as of Brain-Score: presentations first, one each; pictures in colour."
    rng = np.random.default_rng(0)
    nsd = 2950 + 70 * np.arange(n)
    ids = [f"nsd_{i:05d}" for i in nsd]
    stimuli = pd.DataFrame({"stimulus_id": ids, "nsd_id": nsd, "nsd_id_1indexed": nsd + 1, "tn_index": rng.permutation(1000)[:n] + 1,
                            "coco_id": 100000 + np.arange(n), "filename": [f"{i}.png" for i in ids]})
    pictures = rng.integers(0, 256, (n, 20, 20, 3), dtype=np.uint8)
    animal, region = np.repeat(["M1", "M5"], 5), np.resize(["IT", "IT", "V4", "V1", "V2"], 10)
    rates = rng.gamma(2, 4, (10, n, len(edges) - 1)).astype(np.float32)
    sites = {"neuroid_id": [f"{int(a[1])}.{k}" for k, a in enumerate(animal)], "region": region, "animal": animal,
             "arealabel": np.where(region == "IT", "MF1", region), "unittype": np.resize(["SU", "MUA"], 10),
             "reliability": np.linspace(0.5, 0.95, 10, dtype=np.float32), "pos": np.linspace(0, 3800, 10, dtype=np.float32)}
    sites |= {name: rng.normal(size=10).astype(np.float32) for name in ("F_SI", "B_SI", "O_SI", "snr")}
    over_time = len(edges) > 2
    if not over_time:
        sites["reliability_window"] = np.linspace(0.3, 0.9, 10, dtype=np.float32)
    shown = {c: stimuli[c].to_numpy() for c in ("stimulus_id", "nsd_id", "tn_index")}
    write_brainscore(folder, [f"assy_Li2026{'_temporal' if over_time else ''}_Assembly.nc", "stimulus_Li2026_Stimuli.csv", "stimulus_Li2026_Stimuli.zip"],
                     change_stimuli(stimuli), dict(zip(stimuli["filename"], pictures)), rates,
                     along("neuroid", sites) | along("presentation", shown) | bins(edges),
                     dims=("presentation", "neuroid", "time_bin"), change=change_values, drop=drop_coords)
    return folder, stimuli, pictures, rates


def scene_categories(stimuli): return dict(zip(stimuli["nsd_id"], np.resize(SCENES, len(stimuli))))


SESSIONS = {"Processed_ses01_240629_M1_2": 4, "Processed_ses11_240701_M5_1": 3, "Processed_ses12_240702_M5_3": 1} # units
AREAS_OF_SESSIONS = pd.DataFrame(
    {"SesIdx": [1, 1, 1, 11, 11, 12], "y1": [0, 1000, 400, 0, 1500, 0], "y2": [900, 2000, 900, 1500, 4000, 4000],
     "AREALABEL": ["MF1", "MO1s1", "MB1", "V1", "V2d", "V4"], "Area": ["IT"] * 3 + ["EVC"] * 3}) # the third overlaps the first


def write_sessions(folder, n=N, change=lambda name, variables: variables):
    "Triple-N as its authors have it, beside table and archive of Brain-Score."
    folder, stimuli, pictures, _ = write_triple_n(folder, n)
    (folder / "assy_Li2026_Assembly.nc").unlink()
    sessions = {}
    for seed, (name, units) in enumerate(SESSIONS.items()):
        rng = np.random.default_rng(seed)
        variables = {f"response_{w}": rng.gamma(2, 4, (units, 1072)) for w in ("best", "basic")}
        variables |= {f"reliability_{w}": rng.uniform(0.5, 1, (1, units)) for w in ("best", "basic")}
        variables |= {"pos": np.linspace(500, 3500, units)[None], "UnitType": np.resize([1, 2, 3], (1, units)), "mean_psth": rng.normal(size=(units, 450))}
        variables |= {name: rng.normal(size=(1, units)) for name in ("F_SI", "B_SI", "O_SI", "snr", "best_t_time")}
        sessions[name] = change(name, variables)
        savemat(folder / f"{name}.mat", sessions[name])
    return folder, stimuli, pictures, sessions


THINGS = ["bat1", "aardvark", "bat1", "coin", "zebra"]
TVSD_AREAS = {"F": ["V1"] * 512 + ["IT"] * 320 + ["V4"] * 192, "N": ["V1"] * 512 + ["V4"] * 256 + ["IT"] * 256}
COLOURS = [(250, 20, 30), (10, 240, 20), (30, 10, 220), (128, 128, 128), (0, 90, 250)]


def things_paths(objects): return [f"{name}\\{name}_{k:02d}s.jpg" for k, name in enumerate(objects)]


def write_texts(file, name, texts):
    "Text as MATLAB 7.3 has it."
    h5py = pytest.importorskip("h5py")
    references = []
    for k, text in enumerate(texts):
        codes = np.array([[ord(letter)] for letter in text], dtype=np.uint16)
        references.append(file.create_dataset(f"#refs#/{name}/{k}", data=codes).ref)
    file[name] = np.array(references, dtype=h5py.ref_dtype)[:, None]


def write_tvsd(folder, change_responses=same, change_images=same, objects=THINGS, repeats=4):
    "Both monkeys, train and test, as of the authors; gives the arrays."
    h5py = pytest.importorskip("h5py")
    arrays, n, paths = {}, len(objects), things_paths(objects)
    for monkey, seed in (("F", 1), ("N", 2)):
        rng = np.random.default_rng(seed)
        arrays[monkey] = {
            "train_MUA": rng.normal(size=(n, 1024)),
            "test_MUA": rng.normal(size=(n, 1024)),
            "test_MUA_reps": rng.normal(size=(repeats, n, 1024)),
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
                write_texts(file, f"{group}/class", objects[::order])
                write_texts(file, f"{group}/things_path", paths[::order])
                write_texts(file, f"{group}/local_path", [f"D:\\{p}" for p in paths[::order]])
            change_images(file)
    for k, path in enumerate(paths):
        file = folder / "object_images" / path.replace("\\", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), COLOURS[k % 5]).save(file, quality=100, subsampling=0)
    return arrays


def write_packed_tvsd(folder, arrays, split="train", objects=THINGS, pictures=True, change_values=None, change_stimuli=same, drop_coords=()):
    "The copies of Brain-Score of what `write_tvsd` gave: presentations first; units by area, with a number that both animals have."
    order, paths = (1, things_paths(objects)) if split == "train" else (-1, things_paths(objects)[::-1])
    ids = [path.split("\\")[1].removesuffix(".jpg") for path in paths]
    things = list(objects[::order])
    stimuli = pd.DataFrame({"stimulus_id": ids, "label": things, "object_name": things, "label_idx": np.unique(things, return_inverse=True)[1],
                            "filename": [f"{i}.jpg" for i in ids]})
    values, sites = [], []
    for monkey, of_monkey in arrays.items():
        trials = of_monkey["train_MUA"][:, None] if split == "train" else of_monkey["test_MUA_reps"].transpose(1, 0, 2)
        areas = np.array(TVSD_AREAS[monkey])
        electrodes = np.concatenate([np.flatnonzero(areas == area) for area in ("V1", "V4", "IT")])
        values.append(trials.reshape(-1, 1024)[:, electrodes].T)
        sites.append(pd.DataFrame({
            "region": areas[electrodes], "subject": f"monkey{monkey}", "neuroid_id": range(1024), "SNR": of_monkey["SNR"].mean(1)[electrodes],
            "SNR_max": of_monkey["SNR_max"].ravel()[electrodes], "reliability": of_monkey["reliab"].mean(0)[electrodes],
            "oracle": of_monkey["oracle"].ravel()[electrodes]}))
    repeats = trials.shape[1]
    shown = {"stimulus_id": np.repeat(ids, repeats), "stimulus_label": np.repeat(things, repeats), "object_name": np.repeat(things, repeats),
             "stimulus_label_idx": np.repeat(stimuli["label_idx"], repeats), "repetition": np.tile(range(repeats), len(ids))}
    names = [f"assy_THINGS_TVSD_{split}_Assembly.nc", *(f"stimulus_THINGS_TVSD_{split}_Stimuli.{kind}" for kind in ("csv", "zip"))]
    colours = [np.full((30, 40, 3), COLOURS[k % 5], np.uint8) for k in range(len(ids))][::order]
    write_brainscore(folder, names, change_stimuli(stimuli), dict(zip(stimuli["filename"], colours)), np.concatenate(values)[:, :, None],
                     along("neuroid", pd.concat(sites)) | along("presentation", shown) | bins((70, 170)),
                     dims=("presentation", "neuroid", "time_bin"), change=change_values, drop=drop_coords)
    if not pictures:
        (folder / names[2]).unlink()
    return folder


def write_hdf5(path, change=lambda file: None, seed=0, scale=1):
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(seed)
    counts, repeats = {"V0": 4 * scale, "V3": 6 * scale, "V6": 5 * scale}, {"V0": 2, "V3": 4, "V6": 3}
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
        file["neural_meta/IT_NEURONS"], file["neural_meta/V4_NEURONS"] = np.array([0, 1, 4]), np.array(
            [2, 3, 5]
        )
        file["neural_meta/ANIMAL_INFO"] = np.array([b"Chabo_L_M"] * 3 + [b"Tito_L_P"] * 3)
        file["time_averaged_trial_averaged"] = average
        for v, block in blocks.items():
            file[f"time_averaged/variation_level_{v[1:]}"] = block
        change(file)
    return path, blocks, average


def write_authors(folder, n=16, **changes):
    rng = np.random.default_rng(0)
    arrays = {
        "stimulus_data_cleaned": rng.integers(0, 256, (n, 20, 20), dtype=np.uint8),
        "stimulus_pose_features": rng.normal(size=(n, 6)),
        "stimulus_category_ids": np.arange(n) % 8,
        "sorted_it_avg_data": rng.normal(size=(n, 168)),
    } | changes
    for name, array in arrays.items():
        if array is not None:
            np.save(folder / f"{name}.npy", array)
    return arrays


def write_cowley(path, n=12, **changes):
    rng = np.random.default_rng(0)
    counts = rng.poisson(5, (4, n, 5)).astype(np.float32)
    counts[:, ::2, 3:] = np.nan
    arrays = {
        "images": rng.integers(0, 256, (n, 16, 16), dtype=np.uint8),
        "spike_counts": counts,
        "obj": np.array(["bear", "f16"] * (n // 2)),
        "category": np.array(["Animals", "Planes"] * (n // 2)),
        "var": np.array(["V3", "V6"] * (n // 2)),
        "id": np.array([f"{i:040x}" for i in range(n)]),
        "bg_id": np.array([f"b{i}" for i in range(n)]),
        "rxy": rng.normal(size=n),
        "ty": rng.normal(size=n),
        "tz": rng.normal(size=n),
        "s": np.ones(n),
    } | changes
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return arrays


def write_nwb(
    path,
    column="stimulus_id",
    in_file="Images",
    observed=False,
    drop_column=False,
    units=True,
    seed=0,
    shift=0,
    change=lambda nwb: None,
    n=4,
):
    pynwb = pytest.importorskip("pynwb")
    from pynwb.base import Images
    from pynwb.image import GrayscaleImage, ImageSeries

    rng = np.random.default_rng(seed)
    nwb = pynwb.NWBFile("made for a test", "id1", datetime(2024, 1, 1, tzinfo=timezone.utc), session_id="s1")
    pictures = rng.integers(0, 256, (n, 12, 12), dtype=np.uint8)
    names = [f"picture{i}" for i in range(n)]
    if in_file == "Images":
        nwb.add_stimulus_template(
            Images(
                name="shown",
                images=[GrayscaleImage(name=n, data=p) for n, p in zip(names, pictures)],
                description="x",
            )
        )
    elif in_file == "ImageSeries":
        nwb.add_stimulus_template(
            ImageSeries(name="shown", data=pictures, unit="n.a.", format="raw", rate=1.0)
        )
    shown = rng.permutation(np.repeat(np.arange(n), 3))
    if not drop_column:
        nwb.add_trial_column(name=column, description="which")
    nwb.add_trial_column(name="category", description="which")
    for k, i in enumerate(shown):
        ident = {} if drop_column else {column: names[i] if in_file == "Images" else int(i) + shift}
        nwb.add_trial(start_time=k * 0.5, stop_time=k * 0.5 + 0.3, category=CATEGORIES[i % 4], **ident)
    spikes = [np.sort(rng.uniform(0, 1.625 * n, 100 * n)) for _ in range(3)]
    if units:
        nwb.add_unit_column(name="region", description="where")
        for u, times in enumerate(spikes):
            nwb.add_unit(
                spike_times=times,
                region="IT",
                **({"obs_intervals": [[0, 3.0 if u == 1 else 1.75 * n]]} if observed else {}),
            )
    change(nwb)
    with pynwb.NWBHDF5IO(str(path), "w") as io_:
        io_.write(nwb)
    return path, pictures, shown, spikes


def write_zip(path, pictures):
    with zipfile.ZipFile(path, "w") as archive:
        for name, picture in pictures.items():
            buffer = io.BytesIO()
            picture.save(buffer, "PNG")
            archive.writestr(name, buffer.getvalue())
    return path


def flat(value, mode="L", size=(8, 8)):
    return Image.new(mode, size, value)


PSTH = "PSTHs_QualityApproved_ZScored_SessionMerged"


def write_kar(path, change=lambda nwb: None, seed=0, n=6, **fields):
    "An NWB file of the Kar laboratory and a folder of `n` pictures; 9 bins of 20 ms, 5 of 6 electrodes approved."
    pynwb = pytest.importorskip("pynwb")
    from pynwb.core import ScratchData

    rng = np.random.default_rng(seed)
    made = {
        "psth": rng.normal(size=(n, 4, 9, 5)),
        "described": "responses, [start_time_ms, stop_time_ms, tb_ms]: [10 190  20]",
        "masks": np.array([[1, 1, 1, 0, 1, 1], [1, 1, 1, 1, 1, 1]], dtype=bool),
        "location": [f"[{k // 3}.0, {k % 3}.0, {k + 7}.0]" for k in range(6)],
        "group": ["['R', 'IT', 'aIT']", "['L', 'V4', 'V4d']"],
    } | fields
    nwb = pynwb.NWBFile("made for a test", "id2", datetime(2024, 1, 1, tzinfo=timezone.utc), session_id="s2")
    nwb.subject = pynwb.file.Subject(subject_id="pico", species="Macaca mulatta", sex="U", age="P8Y")
    device = nwb.create_device("array")
    groups = [
        nwb.create_electrode_group(f"bank_{k}", "x", text, device) for k, text in enumerate(made["group"])
    ]
    for k, location in enumerate(made["location"] or []):
        nwb.add_electrode(location=location, group=groups[k % 2])
    for name, data, text in (
        (PSTH, made["psth"], made["described"]),
        ("QualityApprovedChannelMasks", made["masks"], "sessions x electrodes"),
        ("PSTHs_ZScored_SessionMerged", rng.normal(size=(n, 4, 9, 6)), "all electrodes"),
        ("PSTHs_Normalizers_SessionMerged", rng.normal(size=(3, 4, 9, 6)), "normalisers"),
    ):
        if data is not None:
            nwb.add_scratch(ScratchData(name=name, data=data, description=text))
    change(nwb)
    with pynwb.NWBHDF5IO(str(path), "w") as file:
        file.write(nwb)
    folder = path.parent / "pictures"
    folder.mkdir(exist_ok=True)
    names = [f"exp_{k}.png" for k in range(n)]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (12, 12), dtype=np.uint8)).save(folder / name)
    labels = pd.DataFrame({"image_id": names, "category": np.repeat(list("abc"), -(-n // 3))[:n]})
    return path, folder, labels, made


SHOWN = np.array([7, 3, 7, 5, 9, 7, 3, 8, 11, 12])
TIERS = np.array(["test", "test", "test", "train", "train", "test", "test", "train", "validation", "train"])


def write_sensorium(folder, change=lambda files: None, seed=0, shown=SHOWN, tiers=TIERS):
    "A recording in the form of Sensorium: ten trials of seven images, five cells. Gives the arrays by file."
    rng = np.random.default_rng(seed)
    pictures = {i: rng.integers(0, 256, (1, 9, 16)).astype(np.float32) for i in sorted(set(shown))}
    files = {f"data/images/{k}": pictures[i] for k, i in enumerate(shown)}
    files |= {f"data/responses/{k}": rng.gamma(2, 1, 5) for k in range(len(shown))}
    files |= {f"data/behavior/{k}": np.zeros((1, 3)) for k in range(len(shown))}
    files |= {
        "meta/trials/tiers": tiers,
        "meta/trials/frame_image_id": shown,
        "meta/trials/trial_idx": np.arange(len(shown)),
        "meta/neurons/unit_ids": np.arange(5) + 40,
        "meta/neurons/animal_ids": np.full(5, 22846),
        "meta/neurons/area": np.array(["V1", "V1", "LM", "V1", "LM"]),
        "meta/neurons/layer": np.array(["L2/3", "L4", "L2/3", "L2/3", "L4"]),
        "meta/neurons/cell_motor_coordinates": rng.integers(0, 900, (5, 3)),
        "meta/statistics/images/all/mean": np.zeros((1, 9, 16)),
    }
    change(files)
    for name, values in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{name}.npy", values)
    return files


def write_bashivan(path, change=lambda file: None, seed=0, n=6):
    "A file in the form of Bashivan and others: two animals, two settings; gives its arrays by field."
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(seed)
    shapes = {"n/stretch/session_1": (4, 3), "n/ohp/session_1": (3, 2), "s/stretch/session_1": (2, 5)}
    arrays = {"images/naturalistic": rng.integers(0, 256, (n, 14, 14), dtype=np.uint8)}
    for place, (repeats, sites) in shapes.items():
        arrays[f"neural/naturalistic/monkey_{place}"] = rng.normal(size=(repeats, n, sites))
        arrays[f"images/synthetic/monkey_{place}"] = rng.integers(0, 256, (4, 14, 14), dtype=np.uint8)
        arrays[f"neural/synthetic/monkey_{place}"] = rng.normal(size=(repeats, 4, sites))
        arrays[f"target_inds/monkey_{place}"] = np.arange(2)
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
        change(file)
    return path, arrays


class Server:
    """Serves files from memory, or parts of them; `plan` says, for each request of a name, how: ok, cut (half, then
    hang up), or a status; `sent` holds how many bytes went out as parts."""

    def __init__(self, files):
        self.files, self.plan, self.requests, self.sent = files, {}, [], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.rsplit("/", 1)[-1]
                outer.requests.append(name)
                how = outer.plan.get(name, []).pop(0) if outer.plan.get(name) else "ok"
                body = outer.files.get(name)
                if body is None or isinstance(how, int):
                    return self.send_error(how if isinstance(how, int) else 404)
                asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                body = body[int(asked[1]) : int(asked[2]) + 1] if asked else body
                outer.sent.append(len(body) if asked else 0)
                self.send_response(206 if asked else 200)
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


CELLS = 7


def write_stringer(folder, change_stim=None, images=None, med=True, order=0, n=N):
    "A session of Stringer and others, every image twice, and the file of images."
    rng = np.random.default_rng(1)
    pictures = rng.integers(0, 256, (68, 270, n), dtype=np.uint8) if images is None else images
    istim = np.random.default_rng(order).permutation(
        np.r_[np.tile(np.arange(1, n + 1), 2), [n + 1] * 4]
    )
    stim = {
        "resp": rng.normal(size=(len(istim), CELLS)).astype(np.float32),
        "istim": istim[:, None].astype(float),
        "spont": rng.normal(size=(9, CELLS)),
    }
    if change_stim:
        stim = change_stim(stim)
    place = rng.uniform(0, 900, (CELLS, 3))
    savemat(folder / "natimg2800_M1_MP1_2017-01-01.mat", {"stim": stim} | ({"med": place} if med else {}))
    savemat(folder / "images_natimg2800_all.mat", {"imgs": pictures})
    return (
        folder / "natimg2800_M1_MP1_2017-01-01.mat",
        folder / "images_natimg2800_all.mat",
        stim,
        pictures,
        place,
    )


SCHEMAS = { # source (": " and which of its forms) -> writes files for 40 images into a folder, gives the arguments of load_recording
    "majaj-hong": lambda folder: {"folder": write_majaj(folder, n=40)[0], "background": "keep"},
    "majaj-hong: over time": lambda folder: {"folder": write_majaj(folder, n=40, edges=(70, 90, 170))[0], "background": "keep", "window": (70, 90)},
    "hvm-hdf5": lambda folder: {"folder": write_hdf5(folder / "ventral_neural_data.hdf5", scale=3)[0], "background": "keep"},
    "authors": lambda folder: {"folder": write_authors(folder, 40) and folder},
    "cowley-v4": lambda folder: {"folder": write_cowley(folder / "hvm_v4_session.npz", 40) and folder / "hvm_v4_session.npz"},
    "nwb": lambda folder: {"folder": write_nwb(folder / "a.nwb", n=40)[0]},
    "kar-nwb": lambda folder: dict(zip(("folder", "images", "labels"), write_kar(folder / "a.nwb", n=40))),
    "stringer": lambda folder: {"folder": write_stringer(folder, n=40)[0], "columns": (0, 68), "shrink": 1},
    "sensorium": lambda folder: {"folder": write_sensorium(folder, shown=np.arange(40), tiers=np.full(40, "train")) and folder},
    "bashivan": lambda folder: {"folder": write_bashivan(folder / "npc_v4_data.h5", n=40)[0]},
    "freeman-ziemba": lambda folder: {"folder": write_freeman_ziemba(folder, 40)[0]},
    "triple-n": lambda folder: packed_scenes(write_triple_n(folder, 40)),
    "triple-n: over time": lambda folder: packed_scenes(write_triple_n(folder, 40, edges=range(0, 310, 10))) | {"window": (70, 170)},
    "triple-n: authors": lambda folder: packed_scenes(write_sessions(folder, 40)) | {"areas": AREAS_OF_SESSIONS},
    "tvsd": lambda folder: {"folder": write_tvsd(folder, objects=MANY_THINGS) and folder},
    "tvsd: Brain-Score": lambda folder: {"folder": write_packed_tvsd(folder / "packed", write_tvsd(folder, objects=MANY_THINGS), "test", MANY_THINGS), "split": "test"},
}
MANY_THINGS = THINGS * 8


def packed_scenes(made): return {"folder": made[0], "categories": scene_categories(made[1])}
