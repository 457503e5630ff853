"""Recording, its checks, splits, standardising, noise ceiling and files."""
import json
import warnings
import zipfile
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from migvis.data import (
    Recording, Standardizer, atomic_write, check_images, group_trials, noise_ceiling, resize_images, save_recording, split_indices, spread,
)

N_IMAGES, N_UNITS, REPEATS = 96, 7, 6


def make_recording(seed=0, **changes):
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=(N_IMAGES, N_UNITS))
    trials = (signal[:, None] + rng.normal(size=(N_IMAGES, REPEATS, N_UNITS))).astype(np.float32)
    category = np.repeat(list("abcdefgh"), N_IMAGES // 8)
    fields = dict(
        images=rng.integers(0, 256, (N_IMAGES, 12, 12), dtype=np.uint8),
        responses=trials.mean(1),
        labels=pd.DataFrame({
            "category": category, "object": [f"{c}{i % 4}" for i, c in enumerate(category)], "variation": np.tile(["V0", "V3", "V6"], N_IMAGES // 3),
            "rxy": rng.normal(size=N_IMAGES), "image_id": [f"im{i}" for i in range(N_IMAGES)],
        }),
        sites=pd.DataFrame({"site_id": [f"s{i}" for i in range(N_UNITS)], "depth": np.arange(N_UNITS)}),
        trials=trials, name="made", truth={"noiseless": signal.astype(np.float32), "gain": np.arange(N_UNITS), "pose": np.arange(N_IMAGES * 3).reshape(-1, 3), "note": np.ones(3)},
        simulated=True,
    )
    return Recording(**(fields | changes))


@pytest.fixture(scope="module")
def recording():
    return make_recording()


# ---------------------------------------------------------------- what comes in


@pytest.mark.parametrize("images", [
    np.arange(32, dtype=np.uint8).reshape(2, 4, 4), np.arange(32, dtype=np.uint8).reshape(2, 1, 4, 4),
    np.arange(32).reshape(2, 4, 4) / 255, torch.arange(32).reshape(2, 1, 4, 4) / 255,
])
def test_images_come_in_many_forms_and_leave_in_one(images):
    out = check_images(images)
    assert out.shape == (2, 1, 4, 4) and out.dtype == np.float32
    np.testing.assert_allclose(out.ravel(), np.arange(32) / 255, atol=1e-7)


@pytest.mark.parametrize("images, message", [
    (np.zeros((4, 4)), "have shape"),
    (np.zeros((2, 3, 4, 4)), "average colour"),
    (np.zeros((2, 4, 4, 1)), "have shape"),
    (np.zeros((0, 4, 4)), "have shape"),
    (np.full((2, 4, 4), 1.5), r"from 1.5 to 1.5.*divide by 255"),
    (np.full((2, 4, 4), -0.1), "divide by 255"),
    (np.full((2, 4, 4), np.nan), "missing pixels"),
    (np.zeros((2, 4, 4), dtype=np.int64), r"astype\('uint8'\) if they run from 0 to 255, images.astype\('float32'\) if they hold 0 and 1"),
    (np.eye(4, dtype=np.uint8)[None], "hold only 0 and 1, which is black; multiply by 255, or give floats"),
])
def test_images_outside_the_form_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        check_images(images)


@pytest.mark.parametrize("changes, message", [
    ({"responses": np.zeros((95, 7))}, "96 images but 95 rows of responses.*transpose"),
    ({"responses": np.zeros(96)}, r"\(images, units\)"),
    ({"responses": np.zeros((96, 0))}, r"\(images, units\)"),
    ({"responses": np.where(np.arange(96 * 7).reshape(96, 7) == 10, np.nan, 0)}, "1 NaN or infinite values, first at image 1, unit 3"),
    ({"responses": np.full((96, 7), np.inf)}, "672 NaN or infinite"),
    ({"labels": pd.DataFrame({"category": list("ab")})}, "96 images but 2 rows of labels"),
    ({"labels": pd.DataFrame({"kind": ["a"] * 96})}, r"column 'category'; the columns are \['kind'\]"),
    ({"labels": pd.DataFrame({"category": [0.5] * 96})}, "whole numbers, but holds 0.5"),
    ({"labels": pd.DataFrame({"category": [None] + ["a"] * 95})}, "missing for 1 images, first for image 0"),
    ({"labels": pd.DataFrame({"category": [1.0, np.nan] * 48})}, "missing for 48 images"),
    ({"trials": np.zeros((96, 7))}, "trials must be"),
    ({"trials": np.zeros((96, 6, 8))}, "trials must be"),
    ({"trials": np.full((96, 6, 7), np.inf)}, "infinite"),
    ({"sites": pd.DataFrame({"site_id": [1, 2]})}, "7 units but 2 rows"),
])
def test_bad_fields_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_recording(**changes)


def test_whole_number_categories_are_ints():
    assert make_recording(labels={"category": np.arange(96.0) % 8}).labels["category"].dtype == np.int64


def test_a_recording_cannot_be_changed(recording):
    with pytest.raises(AttributeError):
        recording.name = "other"


@pytest.mark.parametrize("column, table", [("image_id", "labels"), ("site_id", "sites")])
def test_check_finds_duplicate_ids(recording, column, table):
    twice = getattr(recording, table).copy()
    twice.loc[1, column] = twice.loc[0, column]
    with pytest.raises(ValueError, match=f"{table}.{column} holds"):
        make_recording(**{table: twice}).check()


def silent_recording():
    responses = make_recording().responses.copy()
    responses[:, [2, 5]] = 3
    return make_recording(responses=responses)


def test_silent_units_are_named_kept_or_dropped():
    quiet = silent_recording()
    with pytest.warns(UserWarning, match=r"2 of 7 units.*\[2, 5\]\); they are kept"):
        assert quiet.check() is quiet
    with pytest.warns(UserWarning, match="left out"):
        dropped = quiet.check(silent="drop")
    assert list(dropped.sites["site_id"]) == ["s0", "s1", "s3", "s4", "s6"] and dropped.trials.shape[2] == 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert quiet.check(silent="keep") is quiet
        assert make_recording().check() is not None
    with pytest.raises(ValueError, match="silent='drop'"):
        quiet.check(silent="error")
    with pytest.raises(ValueError, match="must be"):
        quiet.check(silent="sometimes")
    with pytest.raises(ValueError, match="7 of 7"):
        make_recording(responses=np.ones((96, 7))).check(silent="drop")


# ---------------------------------------------------------------- selecting


def test_select_cuts_everything_alike(recording):
    part = recording.select(images=[5, -1, 5], sites=np.arange(7) % 2 == 0)
    rows, columns = [5, 95, 5], [0, 2, 4, 6]
    np.testing.assert_array_equal(part.images, recording.images[rows])
    np.testing.assert_array_equal(part.responses, recording.responses[rows][:, columns])
    np.testing.assert_array_equal(part.trials, recording.trials[rows][:, :, columns])
    np.testing.assert_array_equal(part.truth["noiseless"], recording.truth["noiseless"][rows][:, columns])
    np.testing.assert_array_equal(part.truth["gain"], columns)
    np.testing.assert_array_equal(part.truth["pose"], recording.truth["pose"][rows])
    np.testing.assert_array_equal(part.truth["note"], np.ones(3))
    assert list(part.labels["image_id"]) == ["im5", "im95", "im5"] and list(part.labels.index) == [0, 1, 2]
    assert list(part.sites["site_id"]) == ["s0", "s2", "s4", "s6"]
    assert part.simulated and len(part) == 3


def test_truth_that_could_belong_to_either_is_left_out():
    square = Recording(np.zeros((4, 5, 5)), np.eye(4), {"category": list("aabb")}, truth={"rates": np.arange(16).reshape(4, 4), "what": np.ones((4, 2)), "names": np.array(list("abcd")), "other": np.ones(3)})
    with pytest.warns(UserWarning, match=r"truth \['what'\] could belong"):
        part = square.select(images=[0, 1], sites=[3])
    assert list(part.truth) == ["rates", "names", "other"]
    np.testing.assert_array_equal(part.truth["rates"], [[3], [7]])
    assert len(part.truth["names"]) == 4


@pytest.mark.parametrize("selection, error, message", [
    ({"images": [96]}, ValueError, "index 96 of images is out of range; there are 96, numbered 0 to 95"),
    ({"images": -97}, ValueError, "index -97"),
    ({"sites": [7]}, ValueError, "index 7 of sites"),
    ({"images": np.ones(5, bool)}, ValueError, "mask of images must have 96"),
    ({"images": [0.5]}, TypeError, "whole numbers"),
    ({"images": ["a"]}, TypeError, "whole numbers"),
    ({"images": []}, ValueError, "nothing is left"),
    ({"sites": np.zeros(7, bool)}, ValueError, "nothing is left"),
])
def test_bad_selections_are_refused(recording, selection, error, message):
    with pytest.raises(error, match=message):
        recording.select(**selection)


def test_slices_tensors_and_none_select_too(recording):
    assert len(recording.select(images=slice(0, 10))) == 10
    assert len(recording.select(images=torch.tensor([1, 2]))) == 2
    assert len(recording.select()) == 96


# ---------------------------------------------------------------- splitting


def ids(part):
    return set(part.labels["image_id"])


def test_split_parts_are_disjoint_complete_and_stratified(recording):
    parts = recording.split(seed=3)
    assert [len(p) for p in parts] == [67, 10, 19]
    assert set.union(*map(ids, parts)) == ids(recording) and sum(map(len, parts)) == 96
    for part in parts:
        counts = part.labels["category"].value_counts().reindex(list("abcdefgh"), fill_value=0)
        assert counts.max() - counts.min() <= 2
    assert all(2 <= c <= 3 for c in parts[2].labels["category"].value_counts())


def test_split_is_a_function_of_its_seed(recording):
    assert ids(recording.split(seed=1)[2]) == ids(recording.split(seed=1)[2]) != ids(recording.split(seed=2)[2])


def test_split_by_object_holds_out_whole_objects(recording):
    parts = recording.split(by="object", test=0.25, validation=0.25)
    objects = [set(p.labels["object"]) for p in parts]
    assert not (objects[0] & objects[1] or objects[0] & objects[2] or objects[1] & objects[2])
    assert [len(o) for o in objects] == [16, 8, 8]
    assert all(parts[2].labels.groupby("category")["object"].nunique() == 1) and parts[2].labels["category"].nunique() == 8


def test_split_warns_when_training_lacks_a_category():
    alone = make_recording(labels=make_recording().labels.assign(object=lambda t: t["category"]))
    with pytest.warns(UserWarning, match="training part has no image of"):
        alone.split(by="object")


def test_split_without_validation_and_by_other_labels(recording):
    train, validation, test = recording.split(validation=0, by=None)
    assert validation is None and len(train) + len(test) == 96
    test = recording.split(by="variation", test=0.25)[2]
    assert list(test.labels["variation"].value_counts()) == [8, 8, 8]


@pytest.mark.parametrize("arguments, message", [
    ({"test": 0.7, "validation": 0.3}, "leave something to train on"), ({"test": -0.1}, "leave something"), ({"by": "colour"}, "no column 'colour'"),
])
def test_bad_splits_are_refused(recording, arguments, message):
    with pytest.raises(ValueError, match=message):
        recording.split(**arguments)


def test_too_few_to_split():
    with pytest.raises(ValueError, match="2 are too few"):
        split_indices(np.zeros(2), 0, 0.2, 0.1)


@pytest.mark.parametrize("seed", range(5))
def test_spread_is_even_to_within_one(seed):
    groups = np.repeat(np.arange(5), 20)
    taken = spread(groups, 23, np.random.default_rng(seed))
    assert len(set(taken)) == 23 and set(np.bincount(groups[taken])) <= {4, 5}


# ---------------------------------------------------------------- standardising


def test_standardizer_uses_training_statistics_alone(recording):
    train, _, test = recording.split()
    standard = Standardizer.fit(train.responses)
    z = standard.transform(train.responses)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(z.std(0), 1, rtol=1e-5)
    expected = (test.responses - train.responses.mean(0)) / train.responses.std(0)
    np.testing.assert_allclose(standard.transform(test.responses), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(standard.inverse(standard.transform(test.responses)), test.responses, atol=1e-5)


def test_standardizer_gives_back_tensors(recording):
    standard, x = Standardizer.fit(recording.responses), torch.tensor(recording.responses)
    assert isinstance(standard.transform(x), torch.Tensor) and isinstance(standard.transform(recording.responses), np.ndarray)
    torch.testing.assert_close(standard.inverse(standard.transform(x)), x, atol=1e-5, rtol=1e-5)


def test_standardizer_and_constant_units():
    x = np.random.default_rng(0).normal(size=(20, 3))
    x[:, 1] = 4
    with pytest.warns(UserWarning, match=r"\[1\] are constant"):
        standard = Standardizer.fit(x)
    assert np.all(standard.transform(x)[:, 1] == 0) and np.isfinite(standard.transform(x)).all()


@pytest.mark.parametrize("bad", [np.zeros(3), np.zeros((1, 3)), np.full((4, 2), np.nan)])
def test_standardizer_refuses_what_it_cannot_fit(bad):
    with pytest.raises(ValueError, match="finite responses"):
        Standardizer.fit(bad)


def test_standardizer_refuses_other_units(recording):
    with pytest.raises(ValueError, match="fitted to 7 units, but given 3"):
        Standardizer.fit(recording.responses).transform(recording.responses[:, :3])


# ---------------------------------------------------------------- noise ceiling


def noisy_trials(n=16_000, repeats=8, signal=(1.0, 2.0, 0.5), noise=2.0, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, len(signal))) * signal
    return x, x[:, None] + noise * rng.normal(size=(n, repeats, len(signal)))


@pytest.mark.parametrize("method", ["variance", "split_half"])
def test_noise_ceiling_against_the_closed_form(method):
    _, trials = noisy_trials()
    exact = np.array([s**2 / (s**2 + 4 / 8) for s in (1.0, 2.0, 0.5)])
    np.testing.assert_allclose(noise_ceiling(trials, method), exact, atol=0.03)


def test_the_true_signal_reaches_the_ceiling_and_no_more():
    x, trials = noisy_trials()
    mean = trials.mean(1)
    r2 = 1 - ((mean - x) ** 2).mean(0) / mean.var(0)
    np.testing.assert_allclose(r2, noise_ceiling(trials), atol=0.02)


@pytest.mark.parametrize("method, atol", [("variance", 0.03), ("split_half", 0.06)])
def test_noise_ceiling_with_missing_repeats(method, atol):
    _, trials = noisy_trials(n=16_000)
    trials[::2, 4:] = np.nan
    trials[:7, :, 0] = np.nan
    exact = np.array([s**2 / (s**2 + 4 * (1 / 8 + 1 / 4) / 2) for s in (1.0, 2.0, 0.5)])
    np.testing.assert_allclose(noise_ceiling(trials, method), exact, atol=atol)


def test_single_repeats_take_the_pooled_noise():
    _, trials = noisy_trials(n=16_000, signal=(2.0,))
    trials[::2, 1:] = np.nan
    exact = 4 / (4 + 4 * (1 / 8 + 1) / 2)
    np.testing.assert_allclose(noise_ceiling(trials), exact, atol=0.03)


def test_a_unit_without_signal_scatters_around_zero():
    _, trials = noisy_trials(n=500, signal=(0.0,) * 40)
    ceiling = noise_ceiling(trials)
    assert ceiling.min() < 0 < ceiling.max() and abs(ceiling.mean()) < 0.03


def test_noise_ceiling_that_cannot_be_known(recording):
    assert np.isnan(noise_ceiling(recording.trials[:, :1])).all()
    with pytest.raises(ValueError, match="single trials"):
        make_recording(trials=None).noise_ceiling()
    with pytest.raises(ValueError, match="method must be one of"):
        recording.noise_ceiling(method="guess")


# ---------------------------------------------------------------- showing


def test_summary_is_json_and_right(recording):
    facts = json.loads(json.dumps(recording.summary()))
    assert (facts["n_images"], facts["n_units"], facts["n_objects"]) == (96, 7, 32)
    assert facts["categories"] == {c: 12 for c in "abcdefgh"} and facts["variations"] == {"V0": 32, "V3": 32, "V6": 32}
    assert facts["repeats"] == {"min": 6, "median": 6.0, "max": 6} and facts["simulated"] is True
    assert facts["noise_ceiling_median"] == pytest.approx(float(np.median(recording.noise_ceiling())))


@pytest.mark.parametrize("n_repeats, text", [(None, "averages only"), (1, "unknown without repeats")])
def test_repr_without_a_ceiling(n_repeats, text):
    trials = None if n_repeats is None else make_recording().trials[:, :n_repeats]
    assert text in repr(make_recording(trials=trials))


def test_repr_says_what_is_there(recording):
    text = repr(recording)
    for part in ("'made' (simulated)", "96 of 12 x 12", "8, 32 objects", "V3: 32", "median R^2"):
        assert part in text
    assert "recorded" in repr(make_recording(simulated=False))


def test_html_repr_embeds_pictures_and_escapes_names():
    html = make_recording(name="<script>")._repr_html_()
    assert "data:image/png;base64," in html and "<script>" not in html and "&lt;script&gt;" in html
    assert len(html) < 60_000


# ---------------------------------------------------------------- files


def assert_same(one, two):
    for field in ("images", "responses", "trials"):
        np.testing.assert_array_equal(getattr(one, field), getattr(two, field))
        assert getattr(one, field).dtype == getattr(two, field).dtype
    pd.testing.assert_frame_equal(one.labels, two.labels)
    pd.testing.assert_frame_equal(one.sites, two.sites)
    assert one.truth.keys() == two.truth.keys() and (one.name, one.simulated) == (two.name, two.simulated)
    for key in one.truth:
        np.testing.assert_array_equal(one.truth[key], two.truth[key])


def test_save_and_load_give_the_same(recording, tmp_path):
    path = recording.save(tmp_path / "new" / "folder" / "rec.npz")
    assert_same(recording, Recording.load(path))
    assert [p.name for p in path.parent.iterdir()] == ["rec.npz"]


def test_eight_bit_images_are_stored_as_such_and_others_exactly(recording, tmp_path):
    with np.load(recording.save(tmp_path / "a.npz"), allow_pickle=False) as file:
        assert file["images"].dtype == np.uint8
    smooth = make_recording(images=np.random.default_rng(0).random((96, 12, 12)))
    np.testing.assert_array_equal(Recording.load(smooth.save(tmp_path / "b.npz")).images, smooth.images)


def test_columns_keep_their_kind(tmp_path):
    labels = pd.DataFrame({"category": np.arange(96) % 3, "f32": np.arange(96, dtype=np.float32) / 3, "flag": np.arange(96) % 2 == 0, "text": ["x", None] * 48, "real": np.pi})
    back = Recording.load(make_recording(labels=labels, sites=None, trials=None, truth=None).save(tmp_path / "a.npz"))
    assert back.sites is None and back.trials is None and back.truth is None
    assert [back.labels[c].dtype.kind for c in ("category", "f32", "flag", "real")] == ["i", "f", "b", "f"]
    assert back.labels["f32"].dtype == np.float32 and back.labels["real"].eq(np.pi).all()
    assert back.labels["text"].isna().sum() == 48 and list(back.labels.columns) == list(labels.columns)


def test_an_interrupted_save_leaves_the_old_file(recording, tmp_path, monkeypatch):
    path = recording.save(tmp_path / "a.npz")
    before = path.read_bytes()

    def stop(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", stop)
    with pytest.raises(KeyboardInterrupt):
        save_recording(make_recording(seed=1), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_folder_that_cannot_be_written(recording, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match="cannot write into the folder.*choose another"):
        recording.save(tmp_path / "file" / "a.npz")


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "f.txt"
    for before in ([], ["f.txt"]):
        with pytest.raises(RuntimeError), atomic_write(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError
        assert [p.name for p in tmp_path.iterdir()] == before
        if before: assert path.read_text() == "old"
        path.write_text("old")


def test_atomic_write_makes_folders_and_an_ordinary_file(tmp_path):
    (beside := tmp_path / "ordinary.txt").write_text("x")
    with atomic_write(path := tmp_path / "deep" / "f.txt") as temporary:
        assert temporary.suffix == ".txt" and temporary.name.startswith(".f-") and not path.exists()
        temporary.write_text("whole")
    assert path.read_text() == "whole" and path.stat().st_mode == beside.stat().st_mode


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no recording at .*nothing.npz"):
        Recording.load(tmp_path / "nothing.npz")


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_truncated_file(recording, tmp_path, keep):
    path = recording.save(tmp_path / "a.npz")
    data = path.read_bytes()
    path.write_bytes(data[: keep if keep >= 1 else int(keep * len(data))])
    with pytest.raises(ValueError, match=r"a\.npz is damaged or not an npz.*again"):
        Recording.load(path)


def test_a_flipped_byte_is_noticed(recording, tmp_path):
    path = recording.save(tmp_path / "a.npz")
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as file:
        data[file.getinfo("responses.npy").header_offset + 300] ^= 255
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="damaged"):
        Recording.load(path)


def test_foreign_files(tmp_path):
    np.savez(tmp_path / "foreign.npz", x=np.ones(3))
    with pytest.raises(ValueError, match=r"foreign\.npz is not a recording saved by migvis: it has no 'meta'"):
        Recording.load(tmp_path / "foreign.npz")
    np.save(tmp_path / "single.npy", np.ones(3))
    with pytest.raises(ValueError, match="damaged or not an npz"):
        Recording.load(tmp_path / "single.npy")
    np.savez(tmp_path / "pickled.npz", meta=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="damaged or not"):
        Recording.load(tmp_path / "pickled.npz")
    np.savez(tmp_path / "other.npz", meta=np.frombuffer(b'{"format": "something"}', dtype=np.uint8))
    with pytest.raises(ValueError, match="not a recording"):
        Recording.load(tmp_path / "other.npz")


# ---------------------------------------------------------------- xarray, trials, resizing


def test_xarray_round_trip(recording):
    pytest.importorskip("xarray")
    assembly = recording.to_xarray()
    assert dict(assembly.sizes) == {"neuroid": 7, "presentation": 576, "time_bin": 1}
    assert {"stimulus_id", "category_name", "object_name", "repetition", "neuroid_id"} <= set(assembly.coords)
    back = Recording.from_xarray(assembly, recording.images)
    np.testing.assert_array_equal(back.trials, recording.trials)
    np.testing.assert_allclose(back.responses, recording.responses, atol=1e-6)
    pd.testing.assert_frame_equal(back.labels[recording.labels.columns], recording.labels)
    assert list(back.sites["site_id"]) == list(recording.sites["site_id"]) and back.name == "made" and back.simulated


def test_xarray_with_averages_missing_repeats_and_multiindex(recording):
    pytest.importorskip("xarray")
    averages = make_recording(trials=None, sites=None, labels=recording.labels.drop(columns="image_id"))
    back = Recording.from_xarray(averages.to_xarray(), averages.images)
    np.testing.assert_array_equal(back.responses, averages.responses)
    assert back.trials is None
    trials = recording.trials.copy()
    trials[::3, 4:] = np.nan
    holes = make_recording(trials=trials, responses=np.nanmean(trials, 1))
    assembly = holes.to_xarray().set_index(presentation=["stimulus_id", "repetition"], neuroid=["neuroid_id", "depth"])
    np.testing.assert_array_equal(Recording.from_xarray(assembly, holes.images).trials, trials)


def test_xarray_drops_responses_without_image_and_images_without_responses(recording):
    pytest.importorskip("xarray")
    ids = recording.labels["image_id"].to_numpy()
    part, rows = recording.to_xarray(), np.arange(10, 60)
    part = part.isel(presentation=np.flatnonzero(part["stimulus_id"].to_numpy() != ids[20]))
    with pytest.raises(ValueError, match="46 ids have responses but no image"): Recording.from_xarray(part, recording.images[rows], ids[rows])
    with pytest.warns(UserWarning, match="1 images and 0 units"):
        found = Recording.from_xarray(part, recording.images[rows], ids[rows], missing="drop")
    kept = rows[rows != 20]
    assert list(found.labels["image_id"]) == list(ids[kept])
    np.testing.assert_array_equal(found.images, recording.images[kept])
    np.testing.assert_array_equal(found.trials, recording.trials[kept])
    with pytest.raises(ValueError, match="none of the ids"): Recording.from_xarray(part, recording.images[:2], ["a", "b"], missing="drop")


def test_pictures_that_are_not_square_are_not_stretched(recording):
    with pytest.raises(ValueError, match="24 x 40, and would be stretched to 32 x 32; crop or pad to a square first"): resize_images(np.zeros((2, 24, 40)), 32)
    wide = replace(recording, images=np.zeros((len(recording), 12, 16), np.float32))
    assert wide.images.shape[2:] == (12, 16) # a container may hold them


def test_dark_recordings_come_back_and_damaged_ones_are_named(recording, tmp_path):
    dark = replace(recording, images=np.indices((len(recording), 12, 12)).sum(0) % 2 / np.float32(255))
    np.testing.assert_array_equal(Recording.load(dark.save(tmp_path / "dark.npz")).images, dark.images)
    whole = recording.save(tmp_path / "flipped.npz").read_bytes()
    for start in range(300, len(whole) - 2000, len(whole) // 11): # wrong checksums, streams that cannot be unpacked
        (tmp_path / "flipped.npz").write_bytes(whole[:start] + bytes(255 - b for b in whole[start:start + 60]) + whole[start + 60:])
        with pytest.raises(ValueError, match="flipped.npz is damaged"): Recording.load(tmp_path / "flipped.npz")


def test_group_trials_sorts_presentations():
    values = np.arange(10.0).reshape(5, 2)
    trials = group_trials(values, np.array(["b", "a", "b", "b", "a"]), np.array(["a", "b"]))
    np.testing.assert_array_equal(trials[1], values[[0, 2, 3]])
    np.testing.assert_array_equal(trials[0, :2], values[[1, 4]])
    assert np.isnan(trials[0, 2]).all()
    with pytest.raises(ValueError, match="1 ids have responses but no image, for example c"):
        group_trials(values, np.array(list("bcbba")), np.array(["a", "b"]))


def test_resizing_keeps_flat_images_the_mean_and_does_not_alias():
    flat = np.full((2, 1, 30, 30), 0.3, np.float32)
    np.testing.assert_allclose(resize_images(flat, 13), 0.3, atol=1e-6)
    images = np.random.default_rng(0).random((3, 1, 64, 64)).astype(np.float32)
    np.testing.assert_allclose(resize_images(images, 16).mean((1, 2, 3)), images.mean((1, 2, 3)), atol=0.01)
    checker = (np.indices((64, 64)).sum(0) % 2)[None, None].astype(np.float32)
    np.testing.assert_allclose(resize_images(checker, 16)[..., 1:-1, 1:-1], 0.5, atol=0.01)
    assert resize_images(images, 64) is not None and resize_images(images, 100).shape == (3, 1, 100, 100)
    with pytest.raises(ValueError, match="at least 1 pixel"):
        resize_images(images, 0)


# --- what files and resizing bring ----------------------------------------------------------------------------------------

def small_recording(**columns):
    n = 12
    return Recording(np.zeros((n, 1, 8, 8), np.float32), np.arange(3 * n).reshape(n, 3), pd.DataFrame({"category": ["a", "b"] * 6, **columns}))


def test_numbers_held_as_objects_are_numbers_and_numbered_classes_stay_classes():
    values = np.linspace(-90, 90, 12)
    labels = small_recording(a=values.astype(object), b=pd.Categorical(np.arange(12) % 3), c=[1.5, None] * 6, d=list("xy") * 6, e=[True, "no"] * 6).labels
    assert labels["a"].dtype == np.float64 and np.allclose(labels["a"], values)
    assert labels["b"].dtype == "category" and list(labels["b"][:3]) == [0, 1, 2] and labels["c"].isna().sum() == 6 and labels["c"].dtype == np.float64
    assert list(labels["d"][:2]) == ["x", "y"] and labels["e"][1] == "no"


def test_all_columns_survive_a_file(tmp_path):
    from migvis.pipeline import fingerprint
    made = small_recording(day=pd.date_range("2026-01-01", periods=12), took=pd.to_timedelta(np.arange(12), "s"), some=pd.array([1, None] * 6, "Int64"),
                           all=pd.array(range(12), "Int64"), seen=pd.array([True, None] * 6, "boolean"), sure=pd.array([True, False] * 6, "boolean"))
    read = Recording.load(made.save(tmp_path / "r.npz"))
    assert fingerprint(made) == fingerprint(read)
    assert made.labels["some"].dtype == np.float64 and made.labels["all"].dtype == np.int64


def test_columns_may_be_numbered_but_not_named_twice():
    labels = pd.DataFrame({"category": ["a", "b"] * 6, 0: range(12)})
    assert list(Recording(np.zeros((12, 8, 8)), np.ones((12, 3)), labels).labels) == ["category", 0]
    twice = pd.DataFrame(np.ones((12, 2)), columns=["s", "s"]).assign(category=["a", "b"] * 6)
    with pytest.raises(ValueError, match="several columns 's'"): Recording(np.zeros((12, 8, 8)), np.ones((12, 3)), twice)


def test_masked_values_are_missing():
    responses = np.ma.array(np.ones((12, 3)))
    responses[3, 2] = np.ma.masked
    responses.data[3, 2] = 9.96921e36
    with pytest.raises(ValueError, match="missing|NaN|nan"): Recording(np.zeros((12, 8, 8)), responses, {"category": list("ab") * 6})
    assert Recording(np.zeros((12, 8, 8)), np.ma.array(np.ones((12, 3))), {"category": list("ab") * 6}).responses.max() == 1


def test_rounding_beyond_the_range_is_clipped():
    images = np.full((12, 8, 8), 1 + 1e-6, np.float32)
    images[0] = -1e-7
    made = Recording(images, np.ones((12, 3)), {"category": list("ab") * 6}).images
    assert made.min() == 0 and made.max() == 1
    with pytest.raises(ValueError, match="lie in"): Recording(images + 1e-3, np.ones((12, 3)), {"category": list("ab") * 6})


# --- names and numbers as they come -------------------------------------------------------------------------------------------

IDS = [f"im{i}" for i in range(4)]


def four(responses=None, labels=None, **fields):
    responses = np.arange(12.0).reshape(4, 3) if responses is None else responses
    return Recording(np.random.default_rng(0).random((4, 5, 5)), responses, {"category": list("aabb")} if labels is None else labels, **fields)


def named(index, **columns): return pd.DataFrame({"category": list("aabb")} | columns, index=index)


ROWS = pd.DataFrame(np.arange(12.0).reshape(4, 3), index=IDS)


@pytest.mark.parametrize("responses, labels, sites, message", [
    (ROWS, named(range(4))[::-1], None, "numbered 0 to 3, but begin with 3.*sort_index.*reset_index"),
    (ROWS, named(IDS)[::-1], None, "number 0 is 'im3' in labels but 'im0' in responses"),
    (ROWS, named(None, image_id=IDS[::-1]), None, "number 0 is 'im3' in labels"),
    (ROWS.set_axis(range(4))[::-1], named(None), None, "the rows of responses are numbered"),
    (ROWS.set_axis(list("xyz"), axis=1), named(IDS), pd.DataFrame({"depth": [1, 2, 3]}, index=list("xzy")), "number 1 is 'z' in sites but 'y'"),
    (ROWS, named(IDS), pd.DataFrame({"depth": [1, 2, 3]})[::-1], "rows of sites are numbered"),
    (ROWS, named(pd.Index(IDS, name="image_id"), image_id=IDS[::-1]), None, "an index and a column 'image_id' that differ"),
])
def test_tables_that_name_their_rows_otherwise_are_refused(responses, labels, sites, message):
    with pytest.raises(ValueError, match=message): four(responses, labels, sites=sites)


@pytest.mark.parametrize("responses, labels", [
    (ROWS, named(pd.Index(IDS, name="image_id"))), (ROWS, named(IDS)), (ROWS, named(None, image_id=IDS)), (ROWS, named(None)),
    (ROWS.to_numpy(), named(pd.Index(IDS, name="image_id"))), (ROWS.to_numpy(), named(IDS)), (ROWS.set_axis(range(7, 11)), named(range(7, 11), image_id=IDS)),
])
def test_an_index_of_names_is_kept(responses, labels):
    made = four(responses, labels, sites=pd.DataFrame({"depth": [1, 2, 3]}, index=list("xyz")))
    assert list(made.labels["image_id"]) == IDS and list(made.labels["category"]) == list("aabb") and list(made.labels.index) == [0, 1, 2, 3]
    assert list(made.sites["site_id"]) == list("xyz")
    part = made.select(images=[3, 1, 0, 2], sites=[1, 2, 0])
    assert list(part.labels["image_id"]) == ["im3", "im1", "im0", "im2"] and list(part.sites["site_id"]) == list("yzx")


def test_arrays_with_named_dimensions_are_transposed_or_refused():
    xarray = pytest.importorskip("xarray")
    square = np.arange(16.0).reshape(4, 4)
    array = lambda values, *dims: xarray.DataArray(values, dims=dims)
    np.testing.assert_array_equal(four(array(square, "neuroid", "presentation")).responses, square.T)
    np.testing.assert_array_equal(four(array(square, "image", "unit")).responses, square)
    trials = np.arange(24.0).reshape(3, 2, 4)
    np.testing.assert_array_equal(four(trials=array(trials, "neuroid", "repetition", "presentation")).trials, trials.transpose(2, 1, 0))
    images = np.random.default_rng(0).random((4, 4, 4))
    np.testing.assert_array_equal(check_images(array(images, "x", "y", "image"))[:, 0], images.T.astype(np.float32))
    with pytest.raises(ValueError, match=r"dimensions \('a', 'b'\), but \('image', 'unit'\) are expected; rename"): four(array(square, "a", "b"))
    named_rows = xarray.DataArray(square, dims=("neuroid", "presentation"), coords={"presentation": IDS[::-1]})
    with pytest.raises(ValueError, match="number 0 is 'im0' in labels but 'im3'"): four(named_rows, named(IDS))


@pytest.mark.parametrize("fields, message", [
    (dict(responses=np.ones((4, 3)) * 1j), "real numbers, not complex128; take the real part"),
    (dict(trials=np.ones((4, 2, 3)) * 1j), "trials must be real numbers"),
    (dict(responses=np.full((4, 3), "x")), "responses must be real numbers, not <U1"),
    (dict(responses=np.array([[None] * 3] * 3 + [["x"] * 3])), "responses must be real numbers.*convert"),
    (dict(responses=pd.DataFrame({"a": pd.array([1, None, 2, 3], "Int64"), "b": 0.5})), "1 NaN or infinite values, first at image 1, unit 0"),
    (dict(labels={"category": [0, 1, np.inf, 1]}), "whole numbers, but holds inf"),
    (dict(truth={"what": np.array([{}, 1], object)}), r"truth\['what'\] holds Python objects.*give an array"),
    (dict(truth={7: np.ones(2), "7": np.ones(2)}), "truth have several columns 7 and '7'"),
    (dict(sites=pd.DataFrame(np.ones((3, 2)), columns=["d", "d"])), "sites have several columns 'd'; rename"),
    (dict(sites=pd.DataFrame({7: [1, 2, 3], "7": [1, 2, 3]})), "several columns 7 and '7', which files cannot tell apart; rename"),
    (dict(labels={"category": list("aabb"), "a": range(4), "a.npy": range(4)}), "labels have several columns 'a' and 'a.npy'"),
])
def test_what_a_recording_or_its_file_cannot_hold_is_refused(fields, message):
    with pytest.raises(ValueError, match=message): four(**fields)


def test_responses_that_are_missing_are_named():
    with pytest.raises(ValueError, match="responses are missing; .*np.nanmean"):
        Recording(np.zeros((4, 5, 5)), None, {"category": list("aabb")}, trials=np.zeros((4, 2, 3)))


def test_bfloat16_is_read():
    values = torch.arange(12.0).reshape(4, 3)
    np.testing.assert_array_equal(four(values.bfloat16()).responses, values.numpy())


def test_numbers_and_classes_of_sites_and_labels_survive_a_file(tmp_path):
    classes = pd.Categorical([10, 20, 10])
    made = four(labels={"category": list("aabb"), "kind": pd.Categorical([3, 1, 3, 2])},
                sites=pd.DataFrame({"some": pd.array([1, None, 3], "Int64"), "held": np.array([1, 2.5, 3], object), "class": classes, "all": pd.array([1, 2, 3], "Int64")}))
    read = Recording.load(made.save(tmp_path / "r.npz"))
    for table in (made, read):
        assert [table.sites[c].dtype for c in ("some", "held", "all")] == [np.float64, np.float64, np.int64]
        assert table.sites["class"].dtype == "category" and list(table.sites["class"]) == [10, 20, 10] and list(table.labels["kind"]) == [3, 1, 3, 2]
    pd.testing.assert_frame_equal(read.sites, made.sites)
    pd.testing.assert_frame_equal(read.labels, made.labels, check_column_type=False)


def test_numbered_classes_are_classes():
    from migvis.selectivity import bin_factor, is_numeric
    kind = four(labels={"category": list("aabb"), "kind": pd.Categorical([30, 10, 30, 20])}).labels["kind"]
    many = pd.concat([kind.astype(int) + k for k in range(6)]).astype("category")
    assert not is_numeric(many) and len(set(bin_factor(many))) == many.nunique() > 10


def test_what_the_caller_changes_later_does_not_change_a_recording():
    images, responses, truth = np.full((4, 1, 5, 5), 0.5, np.float32), np.ones((4, 3), np.float32), np.ones(3)
    trials = torch.ones(4, 2, 3)
    made = Recording(images, responses, {"category": list("aabb")}, trials=trials, truth={"gain": truth})
    for array in (images, responses, trials, truth): array[:] = 7
    assert made.images.max() == 0.5 and made.responses.max() == made.trials.max() == made.truth["gain"].max() == 1


def test_responses_far_from_zero_are_centred():
    x = np.random.default_rng(0).normal(size=(4, 3))
    far = x + [0, 1e8, 0]
    with pytest.warns(UserWarning, match=r"units \[1\] vary too little around their mean for 32-bit"):
        made = four(far, trials=np.repeat(far[:, None], 2, 1))
    np.testing.assert_allclose(made.responses, x - [0, x[:, 1].mean(), 0], atol=1e-6)
    np.testing.assert_allclose(made.trials[:, 0], made.responses, atol=1e-6)


def test_units_that_vary_by_rounding_alone_are_constant():
    rng = np.random.default_rng(0)
    dead = np.stack([np.full(7 + k, 0.1 + 1000, np.float32).cumsum(dtype=np.float32)[-1] / (7 + k) for k in range(40)])
    responses = np.stack([dead, 1000 + rng.normal(size=40), 1e-6 * rng.normal(size=40)], 1).astype(np.float32)
    assert np.ptp(responses[:, 0]) > 0
    made = Recording(rng.random((40, 5, 5)), responses, {"category": list("ab") * 20})
    with pytest.warns(UserWarning, match=r"1 of 3 units.*\[0\]"): assert made.check(silent="drop").responses.shape[1] == 2
    assert made.summary()["silent_units"] == 1
    with pytest.warns(UserWarning, match=r"units \[0\] are constant"): z = Standardizer.fit(responses).transform(responses)
    assert np.abs(z[:, 0]).max() < 1e-5 and np.allclose(z[:, 1:].std(0), 1, atol=1e-3)


def test_rounding_noise_has_no_share_in_a_mean_r2():
    from migvis.selectivity import r2_rmse
    x = np.random.default_rng(0).normal(size=(40, 2)) * [1, 1e-7]
    assert r2_rmse(x, np.stack([x[:, 0], np.zeros(40)], 1))["r2"] == 1


@pytest.mark.parametrize("images, message", [
    (np.zeros((4, 5, 5)), "4 of 4 images are black"), (np.full((4, 5, 5), 0.3), "all 4 images are the same picture"),
    (np.where(np.arange(4)[:, None, None] == 2, 0, np.random.default_rng(0).random((4, 5, 5))), r"1 of 4 images are black \(numbers \[2\]\)"),
])
def test_images_that_show_nothing_are_warned_of(images, message):
    made = Recording(images, np.random.default_rng(0).normal(size=(4, 2)), {"category": list("aabb")})
    with pytest.warns(UserWarning, match=message): made.check()


def test_images_divided_twice_are_warned_of():
    with pytest.warns(UserWarning, match="brightest pixel of all images is 0.00392.*divided by 255 twice"):
        check_images(np.arange(256).reshape(4, 8, 8) / 255**2)


def presentations(n=30, repeats=5):
    which = np.random.default_rng(0).permutation(np.repeat(np.arange(n), repeats))
    rng = np.random.default_rng(1)
    labels = {"category": np.array(list("abc") * (n // 3))[which], "object": np.array([f"o{i // 3 % 4}{i % 3}" for i in range(n)])[which]}
    return which, Recording(rng.random((n, 5, 5))[which], rng.normal(size=(len(which), 4)), labels)


@pytest.mark.parametrize("by", ["category", None, "object"])
def test_the_same_image_is_never_in_two_parts(by):
    which, made = presentations()
    number = {image.tobytes(): i for image, i in zip(made.images, which)}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        parts = [{number[image.tobytes()] for image in part.images} for part in made.split(seed=1, by=by)]
    assert sum(map(len, parts)) == 30 and (by == "object" or len(parts[2]) == 6)
    assert by == "object" or any("120 of 150 images are the same as others and stay together" in str(w.message) for w in said)


def test_images_of_several_objects_in_a_split_by_object_are_warned_of():
    _, made = presentations()
    mixed = replace(made, labels=made.labels.assign(object=[f"o{i % 10}" for i in range(len(made))]))
    with pytest.warns(UserWarning, match="images belong to several objects"): mixed.split(by="object", test=0.3)


def test_a_run_splits_like_a_recording():
    from migvis.pipeline import Split
    _, made = presentations()
    with pytest.warns(UserWarning, match="stay together"): split = Split.of(made)
    one, two = ({made.images[i].tobytes() for i in part} for part in (split.train, np.r_[split.validation, split.test]))
    assert not one & two
