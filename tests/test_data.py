"""Recording: selecting, splits, standardising, noise ceiling, showing and files."""

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from migvis.data import (
    Recording,
    Split,
    Standardizer,
    _recording_fingerprint,
    _split_indices,
    _spread,
    noise_ceiling,
)
from tests.made import four, make_recording

# ---------------------------------------------------------------- the container


@pytest.fixture(scope="module")
def recording():
    return make_recording()


def test_a_recording_cannot_be_changed(recording):
    with pytest.raises(AttributeError):
        recording.name = "other"


def test_pictures_of_any_kind_make_a_recording():
    colour = np.random.default_rng(0).integers(0, 256, (4, 9, 6, 3), dtype=np.uint8)
    made = Recording.from_images(
        colour, np.ones((4, 3)), {"category": list("aabb")}, name="made", fit="pad", size=8
    )
    assert made.images.shape == (4, 1, 8, 8) and made.name == "made" and made.responses.shape == (4, 3)


# ---------------------------------------------------------------- checks


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


def test_units_that_vary_by_rounding_alone_are_constant():
    rng = np.random.default_rng(0)
    dead = np.stack(
        [np.full(7 + k, 0.1 + 1000, np.float32).cumsum(dtype=np.float32)[-1] / (7 + k) for k in range(40)]
    )
    responses = np.stack([dead, 1000 + rng.normal(size=40), 1e-6 * rng.normal(size=40)], 1).astype(np.float32)
    assert np.ptp(responses[:, 0]) > 0
    made = Recording(rng.random((40, 5, 5)), responses, {"category": list("ab") * 20})
    with pytest.warns(UserWarning, match=r"1 of 3 units.*\[0\]"):
        assert made.check(silent="drop").responses.shape[1] == 2
    assert "(1 silent)" in repr(made)
    with pytest.warns(UserWarning, match=r"units \[0\] are constant"):
        z = Standardizer.fit(responses).transform(responses)
    assert np.abs(z[:, 0]).max() < 1e-5 and np.allclose(z[:, 1:].std(0), 1, atol=1e-3)


@pytest.mark.parametrize(
    "images, message",
    [
        (np.zeros((4, 5, 5)), "4 of 4 images are black"),
        (np.full((4, 5, 5), 0.3), "all 4 images are the same picture"),
        (
            np.where(np.arange(4)[:, None, None] == 2, 0, np.random.default_rng(0).random((4, 5, 5))),
            r"1 of 4 images are black \(numbers \[2\]\)",
        ),
    ],
)
def test_images_that_show_nothing_are_warned_of(images, message):
    made = Recording(images, np.random.default_rng(0).normal(size=(4, 2)), {"category": list("aabb")})
    with pytest.warns(UserWarning, match=message):
        made.check()


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
    square = Recording(
        np.zeros((4, 5, 5)),
        np.eye(4),
        {"category": list("aabb")},
        truth={
            "rates": np.arange(16).reshape(4, 4),
            "what": np.ones((4, 2)),
            "names": np.array(list("abcd")),
            "other": np.ones(3),
        },
    )
    with pytest.warns(UserWarning, match="truth 'what' could belong"):
        part = square.select(images=[0, 1], sites=[3])
    assert list(part.truth) == ["rates", "names", "other"]
    np.testing.assert_array_equal(part.truth["rates"], [[3], [7]])
    assert len(part.truth["names"]) == 4


@pytest.mark.parametrize(
    "selection, error, message",
    [
        ({"images": [96]}, ValueError, "index 96 of images is out of range; there are 96, numbered 0 to 95"),
        ({"images": -97}, ValueError, "index -97"),
        ({"sites": [7]}, ValueError, "index 7 of sites"),
        ({"images": np.ones(5, bool)}, ValueError, "mask of images must have 96"),
        ({"images": [0.5]}, TypeError, "whole numbers"),
        ({"images": ["a"]}, TypeError, "whole numbers"),
        ({"images": []}, ValueError, "nothing is left"),
        ({"sites": np.zeros(7, bool)}, ValueError, "nothing is left"),
    ],
)
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
    assert (
        ids(recording.split(seed=1)[2]) == ids(recording.split(seed=1)[2]) != ids(recording.split(seed=2)[2])
    )


def test_split_warns_when_training_lacks_a_category():
    alone = make_recording(labels=make_recording().labels.assign(category=lambda t: t["image_id"]))
    with pytest.warns(UserWarning, match="training part has no image of"):
        alone.split()


def test_split_without_validation(recording):
    train, validation, test = recording.split(validation=0)
    assert validation is None and len(train) + len(test) == 96


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"test": 0.7, "validation": 0.3}, "leave something to train on"),
        ({"test": -0.1}, "leave something"),
    ],
)
def test_bad_splits_are_refused(recording, arguments, message):
    with pytest.raises(ValueError, match=message):
        recording.split(**arguments)


def test_too_few_to_split():
    with pytest.raises(ValueError, match="2 are too few"):
        _split_indices(np.zeros(2), 0, 0.2, 0.1)


@pytest.mark.parametrize("seed", range(5))
def test_spread_is_even_to_within_one(seed):
    groups = np.repeat(np.arange(5), 20)
    taken = _spread(groups, 23, np.random.default_rng(seed))
    assert len(set(taken)) == 23 and set(np.bincount(groups[taken])) <= {4, 5}


def presentations(n=30, repeats=5):
    which = np.random.default_rng(0).permutation(np.repeat(np.arange(n), repeats))
    rng = np.random.default_rng(1)
    labels = {
        "category": np.array(list("abc") * (n // 3))[which],
        "object": np.array([f"o{i // 3 % 4}{i % 3}" for i in range(n)])[which],
    }
    return which, Recording(rng.random((n, 5, 5))[which], rng.normal(size=(len(which), 4)), labels)


def test_the_same_image_is_never_in_two_parts():
    which, made = presentations()
    number = {image.tobytes(): i for image, i in zip(made.images, which)}
    with pytest.warns(UserWarning, match="120 of 150 images are the same as others and stay together"):
        parts = [{number[image.tobytes()] for image in part.images} for part in made.split(seed=1)]
    assert sum(map(len, parts)) == 30 and len(parts[2]) == 6


def test_a_run_splits_like_a_recording():
    _, made = presentations()
    with pytest.warns(UserWarning, match="stay together"):
        split = Split.of(made)
    one, two = (
        {made.images[i].tobytes() for i in part}
        for part in (split.train, np.r_[split.validation, split.test])
    )
    assert not one & two


# ---------------------------------------------------------------- standardising


def test_standardizer_uses_training_statistics_alone(recording):
    train, _, test = recording.split()
    standard = Standardizer.fit(train.responses)
    z = standard.transform(train.responses)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(z.std(0), 1, rtol=1e-5)
    expected = (test.responses - train.responses.mean(0)) / train.responses.std(0)
    np.testing.assert_allclose(standard.transform(test.responses), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        standard.inverse(standard.transform(test.responses)), test.responses, atol=1e-5
    )


def test_standardizer_gives_back_tensors(recording):
    standard, x = Standardizer.fit(recording.responses), torch.tensor(recording.responses)
    assert isinstance(standard.transform(x), torch.Tensor) and isinstance(
        standard.transform(recording.responses), np.ndarray
    )
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


def split_half(trials, n_splits=20):
    "Correlation of the averages of two random halves of the repeats, corrected by Spearman and Brown."
    rng, rhos = np.random.default_rng(0), []
    for _ in range(n_splits):
        shuffled = rng.permuted(trials, axis=1)
        halves = shuffled[:, 0::2].mean(1), shuffled[:, 1::2].mean(1)
        rhos.append([np.corrcoef(one, two)[0, 1] for one, two in zip(*(half.T for half in halves))])
    rho = np.mean(rhos, axis=0)
    return 2 * rho / (1 + rho)


def test_noise_ceiling_against_the_closed_form_and_split_halves():
    _, trials = noisy_trials()
    exact = np.array([s**2 / (s**2 + 4 / 8) for s in (1.0, 2.0, 0.5)])
    np.testing.assert_allclose(noise_ceiling(trials), exact, atol=0.03)
    np.testing.assert_allclose(noise_ceiling(trials), split_half(trials), atol=0.03)


def test_the_true_signal_reaches_the_ceiling_and_no_more():
    x, trials = noisy_trials()
    mean = trials.mean(1)
    r2 = 1 - ((mean - x) ** 2).mean(0) / mean.var(0)
    np.testing.assert_allclose(r2, noise_ceiling(trials), atol=0.02)


def test_noise_ceiling_with_missing_repeats():
    _, trials = noisy_trials(n=16_000)
    trials[::2, 4:] = np.nan
    trials[:7, :, 0] = np.nan
    exact = np.array([s**2 / (s**2 + 4 * (1 / 8 + 1 / 4) / 2) for s in (1.0, 2.0, 0.5)])
    np.testing.assert_allclose(noise_ceiling(trials), exact, atol=0.03)


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


# ---------------------------------------------------------------- showing


@pytest.mark.parametrize("n_repeats, text", [(None, "averages only"), (1, "unknown without repeats")])
def test_repr_without_a_ceiling(n_repeats, text):
    trials = None if n_repeats is None else make_recording().trials[:, :n_repeats]
    assert text in repr(make_recording(trials=trials))


def test_repr_says_what_is_there(recording):
    text = repr(recording)
    for part in ("'made' (simulated)", "96 of 12 x 12", "8, 32 objects", "V3: 32", "6 per image", "median R^2"):
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


def test_all_columns_survive_a_file(tmp_path):
    made = four(
        labels={
            "category": list("aabb"),
            "day": pd.date_range("2026-01-01", periods=4),
            "took": pd.to_timedelta(range(4), "s"),
            "some": pd.array([1, None] * 2, "Int64"),
            "all": pd.array(range(4), "Int64"),
            "seen": pd.array([True, None] * 2, "boolean"),
            "sure": pd.array([True, False] * 2, "boolean"),
            7: 1,
            "7": 2,
            "a": 3,
            "a.npy": 4,
        }
    )
    read = Recording.load(made.save(tmp_path / "r.npz"))
    assert _recording_fingerprint(made) == _recording_fingerprint(read)
    assert made.labels["some"].dtype == np.float64 and made.labels["all"].dtype == np.int64
    pd.testing.assert_frame_equal(made.labels, read.labels)


def test_columns_keep_their_kind(tmp_path):
    labels = pd.DataFrame(
        {
            "category": np.arange(96) % 3,
            "f32": np.arange(96, dtype=np.float32) / 3,
            "flag": np.arange(96) % 2 == 0,
            "text": ["x", None] * 48,
            "real": np.pi,
        }
    )
    back = Recording.load(
        make_recording(labels=labels, sites=None, trials=None, truth=None).save(tmp_path / "a.npz")
    )
    assert back.sites is None and back.trials is None and back.truth is None
    assert [back.labels[c].dtype.kind for c in ("category", "f32", "flag", "real")] == ["i", "f", "b", "f"]
    assert back.labels["f32"].dtype == np.float32 and back.labels["real"].eq(np.pi).all()
    assert back.labels["text"].isna().sum() == 48 and list(back.labels.columns) == list(labels.columns)


def test_numbers_and_classes_of_sites_and_labels_survive_a_file(tmp_path):
    classes = pd.Categorical([10, 20, 10])
    made = four(
        labels={"category": list("aabb"), "kind": pd.Categorical([3, 1, 3, 2])},
        sites=pd.DataFrame(
            {
                "some": pd.array([1, None, 3], "Int64"),
                "held": np.array([1, 2.5, 3], object),
                "class": classes,
                "all": pd.array([1, 2, 3], "Int64"),
            }
        ),
    )
    read = Recording.load(made.save(tmp_path / "r.npz"))
    for table in (made, read):
        assert [table.sites[c].dtype for c in ("some", "held", "all")] == [np.float64, np.float64, np.int64]
        assert (
            table.sites["class"].dtype == "category"
            and list(table.sites["class"]) == [10, 20, 10]
            and list(table.labels["kind"]) == [3, 1, 3, 2]
        )
    pd.testing.assert_frame_equal(read.sites, made.sites)
    pd.testing.assert_frame_equal(read.labels, made.labels, check_column_type=False)


def test_an_interrupted_save_leaves_the_old_file(recording, tmp_path, monkeypatch):
    path = recording.save(tmp_path / "a.npz")
    before = path.read_bytes()

    def stop(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", stop)
    with pytest.raises(KeyboardInterrupt):
        make_recording(seed=1).save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_folder_that_cannot_be_written(recording, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match="cannot write into the folder.*choose another"):
        recording.save(tmp_path / "file" / "a.npz")


def test_dark_recordings_come_back_and_damaged_ones_are_named(recording, tmp_path):
    dark = replace(recording, images=np.indices((len(recording), 12, 12)).sum(0) % 2 / np.float32(255))
    np.testing.assert_array_equal(Recording.load(dark.save(tmp_path / "dark.npz")).images, dark.images)
    whole = recording.save(tmp_path / "flipped.npz").read_bytes()
    for start in range(
        300, len(whole) - 2000, len(whole) // 11
    ):  # wrong checksums, streams that cannot be unpacked
        (tmp_path / "flipped.npz").write_bytes(
            whole[:start] + bytes(255 - b for b in whole[start : start + 60]) + whole[start + 60 :]
        )
        with pytest.raises(ValueError, match="flipped.npz is damaged"):
            Recording.load(tmp_path / "flipped.npz")


def test_foreign_files(tmp_path):
    np.savez(tmp_path / "foreign.npz", x=np.ones(3))
    with pytest.raises(
        ValueError, match=r"foreign\.npz is not a Recording saved by migvis; .*load_recording"
    ):
        Recording.load(tmp_path / "foreign.npz")
    np.save(tmp_path / "single.npy", np.ones(3))
    with pytest.raises(ValueError, match="damaged or not an npz"):
        Recording.load(tmp_path / "single.npy")
    np.savez(tmp_path / "pickled.npz", meta=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="damaged or not"):
        Recording.load(tmp_path / "pickled.npz")
    with pytest.raises(FileNotFoundError, match="there is no file .*nothing.npz"):
        Recording.load(tmp_path / "nothing.npz")


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_truncated_file(recording, tmp_path, keep):
    path = recording.save(tmp_path / "a.npz")
    data = path.read_bytes()
    path.write_bytes(data[: keep if keep >= 1 else int(keep * len(data))])
    with pytest.raises(ValueError, match=r"a\.npz is damaged or not an npz.*again"):
        Recording.load(path)
