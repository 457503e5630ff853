"""Files of the sources, as they are laid out, with random numbers."""

import hashlib
import io
import zipfile
from datetime import datetime, timezone

import numpy as np
import pandas as pd
import pytest
from PIL import Image

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


N, REPEATS, UNITS = 12, 3, 6


def write_majaj(
    folder,
    old=False,
    seed=0,
    change_values=None,
    change_stimuli=None,
    change_sites=None,
    drop_coords=(),
    subfolder="",
):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    rng = np.random.default_rng(seed)
    ids = [hashlib.sha1(f"{seed}{i}".encode()).hexdigest() for i in range(N)]
    id_name = "image_id" if old else "stimulus_id"
    stimuli = make_labels(N, rng).assign(
        **{
            id_name: ids,
            "image_file_name": [f"{i}.png" for i in ids],
            "filename": [f"{i}.png" for i in ids],
            "id": range(1, N + 1),
        }
    )
    pictures = rng.integers(0, 256, (N, 32, 32), dtype=np.uint8)
    trials = rng.normal(size=(N, REPEATS, UNITS)).astype(np.float32)
    image, repeat = np.divmod(rng.permutation(N * REPEATS), REPEATS)
    values = trials[image, repeat].T[:, :, None].copy()
    sites = {
        "neuroid_id": [f"site{i}" for i in range(UNITS)],
        "animal": ["Chabo"] * 3 + ["Tito"] * 3,
        "region": ["IT", "IT", "V4"] * 2,
        "arr": list("AMPAMP"),
        "row": range(UNITS),
        "x": np.arange(UNITS) / 10,
    } | (change_sites or {})
    coords = {k: ("neuroid", np.asarray(v)) for k, v in sites.items()}
    shown = {id_name: np.array(ids)[image], "repetition": repeat}
    if not old:
        shown |= {
            c: stimuli[c].to_numpy()[image] for c in ("category_name", "object_name", "variation", "rxy")
        }
    coords |= {k: ("presentation", v) for k, v in shown.items()} | {
        "time_bin_start": ("time_bin", [70]),
        "time_bin_end": ("time_bin", [170]),
    }
    if change_values:
        values, coords = change_values(values, coords)
    dataset = xarray.Dataset(
        {
            "dicarlo.MajajHong2015.public" if old else "data": (
                ("neuroid", "presentation", "time_bin"),
                values,
            )
        },
        coords={k: v for k, v in coords.items() if k not in drop_coords},
    )
    folder.mkdir(parents=True, exist_ok=True)
    dataset.to_netcdf(folder / "assy_dicarlo_MajajHong2015_public.nc", engine="h5netcdf")
    stimuli = change_stimuli(stimuli) if change_stimuli else stimuli
    stimuli.to_csv(
        folder / ("image_dicarlo_hvm-public.csv" if old else "stimulus_hvm-public.csv"), index=False
    )
    with zipfile.ZipFile(
        folder / ("image_dicarlo_hvm-public.zip" if old else "stimulus_hvm-public.zip"), "w"
    ) as archive:
        for i, picture in zip(ids, pictures):
            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, "PNG")
            archive.writestr(f"{subfolder}{i}.png", buffer.getvalue())
    return folder, pictures, trials


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
):
    pynwb = pytest.importorskip("pynwb")
    from pynwb.base import Images
    from pynwb.image import GrayscaleImage, ImageSeries

    rng = np.random.default_rng(seed)
    nwb = pynwb.NWBFile("made for a test", "id1", datetime(2024, 1, 1, tzinfo=timezone.utc), session_id="s1")
    pictures = rng.integers(0, 256, (4, 12, 12), dtype=np.uint8)
    names = [f"picture{i}" for i in range(4)]
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
            nwb.add_unit(
                spike_times=times,
                region="IT",
                **({"obs_intervals": [[0, 3.0 if u == 1 else 7.0]]} if observed else {}),
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
