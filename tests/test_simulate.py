"""Simulated objects, pictures and responses against closed forms and slow references."""
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import trimesh

from migvis import simulate as sim
from migvis.data import Recording

POSE = ["rxy", "rxz", "ryz", "ty", "tz", "s"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    "Each test has a cache of its own."
    monkeypatch.setenv("MIGVIS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "simulated"


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIGVIS_CACHE", str(tmp_path_factory.mktemp("cache")))
        return sim.simulate_hvm(256, 16, seed=3, trials=True, progress=False)


def ball() -> trimesh.Trimesh:
    return trimesh.creation.icosphere(subdivisions=4)


# ---------------------------------------------------------------- rotations

def test_rotation_is_orthogonal_and_proper():
    angles = np.random.default_rng(0).uniform(-180, 180, (3, 50))
    turn = sim.rotation_matrix(*angles)
    assert turn.shape == (50, 3, 3)
    assert np.allclose(turn @ turn.transpose(0, 2, 1), np.eye(3))
    assert np.allclose(np.linalg.det(turn), 1)


def test_rotation_composes_yaw_then_pitch_then_roll():
    from scipy.spatial.transform import Rotation

    rxy, rxz, ryz = 25.0, -40.0, 70.0
    # extrinsic rotations about fixed axes: yaw about z turns y to x (negative), pitch about y turns x to z (negative), roll about x
    expected = Rotation.from_euler("zyx", [-rxy, -rxz, ryz], degrees=True).as_matrix()
    assert np.allclose(sim.rotation_matrix(rxy, rxz, ryz), expected)


def test_rotation_about_one_axis_adds_up_and_inverts():
    assert np.allclose(sim.rotation_matrix(20) @ sim.rotation_matrix(30), sim.rotation_matrix(50))
    assert np.allclose(sim.rotation_matrix(0, 20) @ sim.rotation_matrix(0, -20), np.eye(3))


@pytest.mark.parametrize("pose, vector, image", [
    ((90, 0, 0), (-1, 0, 0), (0, 1, 0)), # a face looks to the left
    ((0, 90, 0), (0, 0, 1), (-1, 0, 0)), # its crown comes to the viewer
    ((0, 0, 90), (0, 0, 1), (0, -1, 0)), # its crown goes to the right: clockwise
    ((90, 0, 0), (0, 0, 1), (0, 0, 1)), ((0, 90, 0), (0, 1, 0), (0, 1, 0)), ((0, 0, 90), (1, 0, 0), (1, 0, 0)), # axes stay
])
def test_rotation_axes_mean_what_they_say(pose, vector, image):
    assert np.allclose(sim.rotation_matrix(*pose) @ vector, image)


# ---------------------------------------------------------------- parts and objects

def volume(part: sim.Part) -> float:
    a, b, c = (part.vertices[part.faces[:, i]] for i in range(3))
    return float(np.einsum("fi,fi->", a, np.cross(b, c)) / 6)


PARTS = {
    "box": (sim.box((1, 2, 3), (2, 3, 4)), 24.0),
    "frustum": (sim.box((0, 0, 0), (2, 2, 3), taper=0.5), 3 * (4 + 1 + 2) / 3),
    "ball": (sim.ellipsoid((1, 0, 0), 1.0, m=41, k=80), 4 / 3 * np.pi),
    "ellipsoid": (sim.ellipsoid((0, 0, 5), (1, 2, 3), turn=(30, 20, 10), m=41, k=80), 8 * np.pi),
    "cylinder": (sim.lathe([(1, 0), (1, 2)], k=100), 2 * np.pi),
    "cone": (sim.lathe([(1, 0), (0, 3)], k=100), np.pi),
    "tube": (sim.tube([(0, 0, 0), (1, 1, 1)], 0.5, k=100), np.sqrt(3) * np.pi / 4),
    "plate": (sim.plate([(0, 0, 0), (2, 0, 0), (2, 1, 0), (0, 1, 0)], (0, 0, 0.5)), 1.0),
    "loft": (sim.loft([(0, 1, -1, 1), (2, 1, -1, 1)], power=2, k=100), 2 * np.pi),
}


@pytest.mark.parametrize("name", PARTS)
def test_parts_have_their_volume_and_outward_normals(name):
    part, expected = PARTS[name]
    assert volume(part) == pytest.approx(expected, rel=0.01) # signed: positive only if faces look outwards
    a, b, c = (part.vertices[part.faces[:, i]] for i in range(3))
    assert np.allclose(np.cross(b - a, c - a).sum(0), 0, atol=1e-9) # closed: the vector areas of its faces cancel
    assert volume(sim.mirrored(part)[1]) == pytest.approx(volume(part))
    length = np.linalg.norm(part.normals, axis=1)
    assert ((np.abs(length - 1) < 1e-6) | (length < 1e-6)).all()


def test_vertex_normals_of_a_ball_are_radial():
    part = sim.ellipsoid((0, 0, 0), 2.0, m=31, k=60)
    side = np.abs(part.vertices[:, 2]) < 1.9
    assert (np.einsum("vi,vi->v", part.normals, part.vertices / 2)[side] > 0.99).all()


def test_a_moved_part_only_moves():
    part = sim.box((0, 0, 0), (1, 1, 1))
    assert np.allclose(part.moved((1, 2, 3)).vertices, part.vertices + [1, 2, 3])


def test_there_are_eight_objects_in_each_of_eight_categories():
    names = sim.object_names()
    assert names.groupby("category").size().tolist() == [8] * 8
    assert names["object"].is_unique


def test_all_objects_are_sound():
    for row in sim.object_names().itertuples(index=False):
        mesh = sim.make_object(*row)
        looks = mesh.vertex_attributes
        assert np.isfinite(mesh.vertices).all() and mesh.faces.max() < len(mesh.vertices), row
        assert mesh.area > 0 and len(mesh.faces) < 20_000, row
        for name in ("albedo", "gloss", "occlusion"):
            assert 0 <= looks[name].min() and looks[name].max() <= 1, (row, name)
        assert np.ptp(looks["albedo"]) > 0.05, row # nothing is uniformly grey
        assert np.allclose(sim.standard_size(mesh.vertices), mesh.vertices, atol=1e-9), row


def test_objects_of_a_category_differ():
    pictures = np.stack([sim.render(sim.make_object(*row), np.eye(3), size=32)[0] for row in sim.object_names().itertuples(index=False)])
    distance = np.abs(pictures[:, None] - pictures[None]).mean((2, 3)) + np.eye(64)
    assert distance.min() > 0.005


@pytest.mark.parametrize("row, message", [(("Birds", "owl"), "no category 'Birds'"), (("Cars", "tank_car"), "no object 'tank_car' in Cars")])
def test_unknown_objects_are_named(row, message):
    with pytest.raises(ValueError, match=message):
        sim.make_object(*row)


def test_occlusion_is_open_on_a_ball_and_closed_inside_it():
    mesh = ball()
    outside = sim.ambient_occlusion(mesh.vertices, mesh.vertex_normals, mesh.faces)
    inside = sim.ambient_occlusion(mesh.vertices * 0.1, mesh.vertex_normals, mesh.faces)
    both = sim.ambient_occlusion(np.concatenate([mesh.vertices, mesh.vertices * 0.3]), np.tile(mesh.vertex_normals, (2, 1)), np.concatenate([mesh.faces, mesh.faces + len(mesh.vertices)]))
    assert outside.min() > 0.99 and inside.min() > 0.99
    assert both[: len(mesh.vertices)].min() > 0.99 and both[len(mesh.vertices):].max() < 0.75


# ---------------------------------------------------------------- renderer

def centroid(mask: np.ndarray) -> np.ndarray:
    "(left, up) of a mask's centre, in shares of the picture's side from the middle."
    size = mask.shape[-1]
    grid = 0.5 - (np.arange(size) + 0.5) / size
    return np.array([(mask * grid[None, :]).sum(), (mask * grid[:, None]).sum()]) / mask.sum()


@pytest.fixture(scope="module")
def unit_ball():
    "How large a ball becomes: the radius in sides of the picture at s = 1 and extent = 1."
    vertices = sim.standard_size(ball().vertices)
    return np.linalg.norm(vertices, axis=1).max() / 2


@pytest.mark.parametrize("s", [0.5, 1.0, 1.6])
def test_a_ball_covers_the_area_of_its_disc(unit_ball, s):
    _, mask = sim.render(ball(), np.eye(3), s=s, size=64, extent=0.5, supersample=4, return_mask=True)
    assert mask.sum() / 64**2 == pytest.approx(np.pi * (unit_ball * 0.5 * s) ** 2, rel=0.01)


@pytest.mark.parametrize("ty, tz", [(0.6, 0), (0, 1.2), (-0.6, -1.0)])
def test_positions_go_left_and_up(ty, tz):
    _, mask = sim.render(ball(), np.eye(3), ty, tz, size=64, extent=0.3, unit=0.2, return_mask=True)
    assert np.allclose(centroid(mask[0]), [0.2 * ty, 0.2 * tz], atol=2e-3)


def test_silhouette_equals_that_of_a_slow_ray_tracer():
    mesh, turn, size = sim.make_object("Chairs", "dining_chair"), sim.rotation_matrix(35, -20, 50), 24
    _, mask = sim.render(mesh, turn, ty=0.4, tz=-0.5, s=1.2, size=size, supersample=1, extent=0.6, unit=0.2, return_mask=True)
    placed = trimesh.Trimesh(mesh.vertices @ turn.T * 1.2 * 0.3 + np.array([0, 0.4, -0.5]) * 0.2, mesh.faces, process=False)
    grid = 0.5 - (np.arange(size) + 0.5) / size
    column, row = np.meshgrid(grid, grid)
    origins = np.stack([np.full(size**2, -3.0), column.ravel(), row.ravel()], 1)
    hit = np.zeros(size**2, bool) # Moeller and Trumbore's test, one triangle after another
    for corner, *others in placed.triangles:
        first, second = np.array(others) - corner
        across = np.cross([1.0, 0, 0], second)
        if abs(scale := first @ across) > 1e-12:
            u = (origins - corner) @ across / scale
            v = np.cross(origins - corner, first) @ [1.0, 0, 0] / scale
            hit |= (u >= 0) & (v >= 0) & (u + v <= 1)
    hit = hit.reshape(size, size)
    assert (hit != (mask[0] > 0)).sum() <= 2 and hit.sum() > 40


def test_roll_by_a_quarter_turns_the_silhouette_clockwise():
    mesh = sim.make_object("Boats", "sailboat_boat")
    _, mask = sim.render(mesh, sim.rotation_matrix(0, 0, np.array([0, 90])), size=48, return_mask=True)
    assert np.abs(np.rot90(mask[0], -1) - mask[1]).mean() < 2e-3 < mask[0].mean()


def test_shading_of_a_ball_follows_lamberts_law(unit_ball):
    light = sim.Light(strength=0.9, ambient=0.0, spread=0.0, shadows=False, gamma=1.0)
    image = sim.render(ball(), np.eye(3), size=64, extent=0.8, light=light, albedo=0.7, supersample=1)[0]
    grid = (0.5 - (np.arange(64) + 0.5) / 64) / (unit_ball * 0.8)
    left, up = np.meshgrid(grid, grid)
    toward = np.sqrt(np.clip(1 - left**2 - up**2, 0, None))
    normal = np.stack([-toward, left, up], -1)
    expected = 0.7 * 0.9 * np.clip(normal @ (np.array(light.key) / np.linalg.norm(light.key)), 0, None)
    inside = left**2 + up**2 < 0.95
    assert np.abs(image - expected)[inside].max() < 0.02
    assert image[left**2 + up**2 > 1.1].max() == 0


def test_an_object_casts_a_shadow_on_itself():
    table = sim.make_object("Tables", "picnic_table")
    lit, shaded = (sim.render(table, np.eye(3), size=48, light=sim.Light(shadows=shadows)) for shadows in (False, True))
    assert (shaded <= lit + 1e-6).all() and (lit - shaded).max() > 0.1


def test_perspective_enlarges_what_is_near():
    rod = trimesh.creation.cylinder(radius=0.1, height=2.0)
    turn = sim.rotation_matrix(0, 60)
    _, flat = sim.render(rod, turn, size=96, return_mask=True)
    _, deep = sim.render(rod, turn, size=96, perspective=1.0, return_mask=True)
    width = lambda mask, rows: mask[0][rows].sum(1).max()
    assert width(flat, slice(0, 48)) == pytest.approx(width(flat, slice(48, 96)), rel=0.15)
    assert width(deep, slice(0, 48)) > 1.2 * width(deep, slice(48, 96)) # the top leans towards the viewer


def test_colours_of_a_users_mesh_are_used():
    mesh = ball()
    mesh.visual.vertex_colors = np.where(mesh.vertices[:, 1:2] > 0, [[250, 250, 250, 255]], [[40, 40, 40, 255]]).astype(np.uint8)
    image = sim.render(mesh, np.eye(3), size=32, light=sim.Light(key=(-1, 0, 0.01)))[0]
    assert image[16, 12] > image[16, 19] + 0.2 # bright on the left


def test_backgrounds_show_where_the_object_is_not():
    scene = np.full((2, 32, 32), 0.3, np.float32)
    pose = sim.rotation_matrix(np.array([0, 40]))
    black, mask = sim.render(ball(), pose, size=32, return_mask=True)
    assert np.allclose(sim.render(ball(), pose, size=32, background=scene), black + (1 - mask) * 0.3, atol=1e-6)


def test_images_in_a_batch_do_not_depend_on_each_other():
    mesh, labels = sim.make_object("Cars", "van_car"), sim.sample_labels(20)
    turn = sim.rotation_matrix(*(labels[name].to_numpy() for name in POSE[:3]))
    whole = sim.render(mesh, turn, labels["ty"], labels["tz"], labels["s"], size=32)
    single = np.concatenate([sim.render(mesh, turn[i], *labels.loc[i, ["ty", "tz", "s"]], size=32) for i in range(20)])
    assert whole.shape == (20, 32, 32) and np.allclose(whole, single, atol=1e-5)


def test_a_rotation_that_is_none_is_refused():
    with pytest.raises(ValueError, match="orthogonal"):
        sim.render(ball(), 2 * np.eye(3))


# ---------------------------------------------------------------- labels and image sets

def test_labels_have_the_numbers_of_hvm():
    labels = sim.sample_labels(5760)
    counts = labels.groupby(["object", "variation"]).size().unstack()
    assert (counts[["V0", "V3", "V6"]].to_numpy() == [10, 40, 40]).all()
    assert labels["image_id"].is_unique
    still = labels[labels["variation"] == "V0"]
    assert (still[POSE[:5]] == 0).all(axis=None) and (still["s"] == 1).all()


def test_labels_lie_in_and_fill_the_ranges():
    labels = sim.sample_labels(5760, seed=4)
    for level, limits in {"V3": (45, 45, 45, 0.3, 0.6), "V6": (90, 90, 90, 0.6, 1.2)}.items():
        pose = labels[labels["variation"] == level][POSE]
        share = pose.iloc[:, :5].abs().max().to_numpy() / np.array(limits)
        assert (share <= 1).all() and (share > 0.98).all()
    assert labels["s"].min() >= 0.625 and labels["s"].max() <= 1.6


@pytest.mark.parametrize("n", [1, 63, 64, 200, 1000])
def test_any_number_of_labels_is_balanced(n):
    labels = sim.sample_labels(n, seed=2)
    assert len(labels) == n
    counts = labels["object"].value_counts().reindex(sim.object_names()["object"], fill_value=0)
    assert counts.max() - counts.min() <= 1


def test_labels_depend_on_the_seed_alone():
    assert sim.sample_labels(100, seed=1).equals(sim.sample_labels(100, seed=1))
    assert not np.allclose(sim.sample_labels(100, seed=1)[POSE], sim.sample_labels(100, seed=2)[POSE])


def test_labels_match_the_real_metadata(realdata):
    real = pd.read_csv(realdata / "hvm_metadata.csv")
    labels = sim.sample_labels(5760)
    assert set(labels["category"]) == set(real["category"])
    assert real.groupby("var").size().to_dict() == labels.groupby("variation").size().to_dict()
    for level in ("V3", "V6"):
        ours, theirs = labels[labels["variation"] == level], real[real["var"] == level]
        for name in POSE: # the bulk: a few real fruits have angles from another frame
            assert np.allclose(ours[name].quantile([0.05, 0.5, 0.95]), theirs[name].quantile([0.05, 0.5, 0.95]), atol=0.07 * np.ptp(ours[name])), (level, name)
        assert np.allclose(ours[["ty", "tz", "s"]].agg(["min", "max"]), theirs[["ty", "tz", "s"]].agg(["min", "max"]), atol=0.02)


def test_pictures_do_not_depend_on_processes_or_order():
    labels = sim.sample_labels(40, seed=5)
    one, one_mask = sim.render_labels(labels, 16, workers=1, progress=False)
    two, two_mask = sim.render_labels(labels, 16, workers=2, progress=False)
    assert np.array_equal(one, two) and np.array_equal(one_mask, two_mask)
    assert np.array_equal(sim.render_labels(labels[::-1], 16, workers=1)[0], one[::-1])


def test_processes_work_in_a_script_without_a_main_guard(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("from migvis.simulate import render_labels, sample_labels\nprint(render_labels(sample_labels(8), 16, workers=2, progress=False)[0].shape)\n")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.stdout.strip() == "(8, 16, 16)", done.stderr


def test_natural_backgrounds_end_in_grey_and_leave_the_mask():
    labels = sim.sample_labels(6)
    black, mask = sim.render_labels(labels, 64, workers=1)
    scene, scene_mask = sim.render_labels(labels, 64, "natural", workers=1)
    other, _ = sim.render_labels(labels, 64, "natural", seed=1, workers=1)
    assert np.array_equal(mask, scene_mask)
    assert (np.abs(scene[:, 0, 0].astype(int) - 128) <= 1).all()
    middle = np.s_[:, 20:44, 20:44]
    solid = mask[middle] == 255
    assert np.array_equal(black[middle][solid], scene[middle][solid])
    assert not np.array_equal(scene, other)


@pytest.mark.parametrize("arguments, message", [({"background": "forest"}, "background must be"), ({"size": 4}, "at least 8"), ({"n_images": 0}, "at least 1")])
def test_bad_requests_for_pictures_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sim.render_hvm(**{"n_images": 4, "size": 16, "progress": False} | arguments)


def test_the_aperture_is_open_inside_and_closed_outside():
    window = sim.aperture(64)
    assert window[32, 32] == 1 and window[0, 0] == 0
    assert window.mean() == pytest.approx(np.pi * 0.44**2, rel=0.02)


# ---------------------------------------------------------------- cache

def test_the_cache_is_used_and_mended(own_cache, monkeypatch):
    first, _ = sim.render_hvm(8, 16, cache=True, progress=False)
    file, = own_cache.iterdir()
    calls = []
    original = sim.render_labels
    monkeypatch.setattr(sim, "render_labels", lambda *a: calls.append(1) or original(*a))
    assert np.array_equal(sim.render_hvm(8, 16, cache=True, progress=False)[0], first) and not calls
    sim.render_hvm(8, 16, seed=1, cache=True, progress=False)
    assert len(calls) == 1 and len(list(own_cache.iterdir())) == 2
    file.write_bytes(file.read_bytes()[:200]) # truncated
    assert np.array_equal(sim.render_hvm(8, 16, cache=True, progress=False)[0], first)
    assert len(calls) == 2


def test_no_part_of_a_file_is_left_when_writing_fails(own_cache, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk full")
    monkeypatch.setattr(np, "save", fail)
    with pytest.warns(UserWarning, match="not kept"):
        sim.render_hvm(4, 16, cache=True, progress=False)
    assert not list(own_cache.iterdir())


# ---------------------------------------------------------------- responses

def test_object_features_are_standardised_within_categories():
    table = sim.object_features()
    category = sim.object_names()["category"].to_numpy()
    assert np.allclose(table.groupby(category).mean(), 0, atol=1e-9)
    assert np.allclose(table.groupby(category).std(ddof=0), 1)


@pytest.mark.parametrize("subject, units", [("M1", 58), ("M2", 110)])
def test_drives_have_the_shares_they_claim(subject, units):
    tuning, features = sim.make_tuning(sim.SUBJECTS[subject]), sim.standard_features(sim._reference())
    assert tuning.shares.shape == (units, len(sim.FACTORS)) and np.allclose(tuning.shares.sum(1), 1)
    for f, factor in enumerate(sim.FACTORS):
        assert np.allclose((features[factor] @ tuning.weights[factor].T).var(0), tuning.shares[:, f])
    drive = sum(features[factor] @ tuning.weights[factor].T for factor in sim.FACTORS)
    assert np.allclose(drive.var(0), 1, atol=0.25) # factors are nearly uncorrelated


def test_rates_are_positive_with_the_mean_they_claim():
    rates = sim.firing_rates(sim._reference(), sim.SUBJECTS["M1"])
    assert rates.min() >= 0
    assert np.allclose(rates.mean(0), sim.make_tuning(sim.SUBJECTS["M1"]).mean_rate)


def test_counts_are_poisson():
    rates = np.tile([[2.0, 10.0, 40.0]], (4000, 1))
    average, trials, _ = sim.spike_trials(rates, repeats=20, window=0.1, keep=True, seed=1)
    assert np.allclose(trials * 0.1, np.round(trials * 0.1), atol=1e-4)
    assert np.allclose(trials.mean(1), average, atol=1e-3)
    assert np.allclose(average.mean(0), rates[0], rtol=0.02)
    assert np.allclose(average.var(0), rates[0] / (20 * 0.1), rtol=0.1)


def test_shared_gain_makes_noise_correlations_and_keeps_the_mean():
    rates = np.full((2000, 6), 20.0)
    correlation = {}
    for gain in (0.0, 0.4):
        average, trials, _ = sim.spike_trials(rates, repeats=10, shared_gain=gain, keep=True)
        residual = (trials - trials.mean(1, keepdims=True)).reshape(-1, 6)
        correlation[gain] = np.corrcoef(residual.T)[np.triu_indices(6, 1)].mean()
        assert average.mean() == pytest.approx(20, rel=0.02)
    # counts of mean m = 2 under a gain of variance v: correlation m v / (1 + m v)
    v = np.exp(0.4**2) - 1
    assert abs(correlation[0.0]) < 0.01 and correlation[0.4] == pytest.approx(2 * v / (1 + 2 * v), abs=0.03)


def test_drift_changes_units_from_session_to_session():
    average, _, session = sim.spike_trials(np.full((4000, 5), 20.0), session_drift=0.5, sessions=4)
    means = np.stack([average[session == k].mean(0) for k in range(4)])
    assert sorted(set(session)) == [0, 1, 2, 3] and means.std(0).min() > 1
    still, _, session = sim.spike_trials(np.full((4000, 5), 20.0), session_drift=0.0)
    assert np.stack([still[session == k].mean(0) for k in range(4)]).std(0).max() < 0.3


@pytest.mark.parametrize("subject", ["M1", "M2"])
def test_truth_is_consistent(subject):
    truth = sim.ground_truth(sim.SUBJECTS[subject])
    assert truth["factors"].tolist() == list(sim.FACTORS)
    assert 0.7 < truth["fraction"].sum(1).mean() < 1.02 and truth["fraction"].min() >= 0
    for factor in sim.FACTORS:
        basis = truth[f"basis_{factor}"]
        assert np.allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-8), factor
    assert [truth[f"basis_{factor}"].shape[1] for factor in ("category", "position", "size")] == [7, 2, 1]


def test_subspaces_carry_their_factor_and_others_do_not():
    from sklearn.linear_model import Ridge

    labels = sim.sample_labels(3000, seed=9)
    x, _, truth = sim.respond(labels, "M2", seed=9)
    x = (x - x.mean(0)) / x.std(0)
    score = lambda basis, target: Ridge(1.0).fit((x @ basis)[:2000], target[:2000]).score((x @ basis)[2000:], target[2000:])
    for factor, target in {"rotation": "rxz", "position": "tz", "size": "s"}.items():
        own = score(truth[f"basis_{factor}"], labels[target].to_numpy())
        foreign = max(score(truth[f"basis_{other}"], labels[target].to_numpy()) for other in ("rotation", "category", "albedo", "position", "size") if other != factor)
        assert own > 0.35 and own > foreign + 0.2, factor


def test_pose_is_decodable_in_a_category_never_trained_on():
    from sklearn.linear_model import Ridge

    labels = sim.sample_labels(5760)
    x = sim.respond(labels, "M1")[0]
    x, new = (x - x.mean(0)) / x.std(0), (labels["category"] == "Cars").to_numpy()
    readout = Ridge(10.0).fit(x[~new], labels.loc[~new, POSE[:3]])
    assert readout.score(x[new], labels.loc[new, POSE[:3]]) > 0.4


def test_recording_is_complete(recording):
    assert recording.simulated and recording.images.shape == (256, 1, 16, 16) and recording.responses.shape == (256, 58)
    assert 0 <= recording.images.min() and 0.8 < recording.images.max() <= 1
    assert recording.trials.shape == (256, 40, 58)
    assert np.allclose(recording.trials.mean(1), recording.responses, atol=1e-3)
    assert recording.truth["rates"].shape == (256, 58)
    assert np.corrcoef(recording.truth["rates"].ravel(), recording.responses.ravel())[0, 1] > 0.9
    ceiling = recording.noise_ceiling()
    assert 0.75 < np.median(ceiling) < 0.97


def test_recording_depends_on_its_arguments_alone(recording):
    again = sim.simulate_hvm(256, 16, seed=3, progress=False)
    assert np.array_equal(again.images, recording.images) and np.array_equal(again.responses, recording.responses)
    assert again.labels.equals(recording.labels)


def test_subjects_see_the_same_images_with_other_units(recording):
    other = sim.simulate_hvm(256, 16, subject="M2", seed=3, progress=False)
    assert np.array_equal(other.images, recording.images) and other.responses.shape == (256, 110)


def test_the_seed_changes_images_and_noise_but_not_units(recording):
    other = sim.simulate_hvm(256, 16, seed=4, progress=False)
    assert not np.array_equal(other.images, recording.images)
    assert np.array_equal(other.truth["weights_rotation"], recording.truth["weights_rotation"])
    same_images = sim.respond(recording.labels, "M1", seed=4)[0]
    assert not np.array_equal(same_images, recording.responses)


def test_a_population_of_ones_own(recording):
    population = replace(sim.SUBJECTS["M1"], n_units=7, seed=5, mean_rate=50.0)
    mine = sim.simulate_hvm(64, 16, subject=population, progress=False)
    assert mine.responses.shape == (64, 7) and mine.responses.mean() > 2 * recording.responses.mean()


def test_recording_survives_saving_and_selecting(recording, tmp_path):
    loaded = Recording.load(recording.save(tmp_path / "recording.npz"))
    assert loaded.simulated and set(loaded.truth) == set(recording.truth)
    assert np.array_equal(loaded.truth["rates"], recording.truth["rates"])
    few = recording.select(images=np.arange(10), sites=[0, 5])
    assert few.truth["rates"].shape == (10, 2) and few.truth["drive_fraction"].shape == (2, len(sim.FACTORS))


@pytest.mark.parametrize("arguments, message", [({"subject": "M3"}, "subject must be 'M1' or 'M2'"), ({"repeats": 0}, "repeats >= 1"), ({"window": 0.0}, "window > 0")])
def test_bad_simulations_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sim.simulate_hvm(**{"n_images": 4, "size": 16, "progress": False} | arguments)
