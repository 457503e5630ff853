"""Poses and pictures against closed forms and a slow ray tracer."""

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from migvis.simulate.images import sample_labels
from migvis.simulate.objects import make_object
from migvis.simulate import renderer
from migvis.simulate.renderer import _standard_size, render, rotation_matrix
from tools.build_objects import ambient_occlusion


def ball() -> trimesh.Trimesh:
    return trimesh.creation.icosphere(subdivisions=4)


def test_rotation_is_orthogonal_and_proper():
    angles = np.random.default_rng(0).uniform(-180, 180, (3, 50))
    turn = rotation_matrix(*angles)
    assert turn.shape == (50, 3, 3)
    assert np.allclose(turn @ turn.transpose(0, 2, 1), np.eye(3))
    assert np.allclose(np.linalg.det(turn), 1)


def test_rotation_composes_yaw_then_pitch_then_roll():
    rxy, rxz, ryz = 25.0, -40.0, 70.0
    # about fixed axes: yaw turns y to x about z (negative), pitch x to z about y (negative), roll about x
    expected = Rotation.from_euler("zyx", [-rxy, -rxz, ryz], degrees=True).as_matrix()
    assert np.allclose(rotation_matrix(rxy, rxz, ryz), expected)


def test_rotation_about_one_axis_adds_up_and_inverts():
    assert np.allclose(rotation_matrix(20) @ rotation_matrix(30), rotation_matrix(50))
    assert np.allclose(rotation_matrix(0, 20) @ rotation_matrix(0, -20), np.eye(3))


@pytest.mark.parametrize(
    "pose, vector, image",
    [
        ((90, 0, 0), (-1, 0, 0), (0, 1, 0)),  # a face looks to the left
        ((0, 90, 0), (0, 0, 1), (-1, 0, 0)),  # its crown comes to the viewer
        ((0, 0, 90), (0, 0, 1), (0, -1, 0)),  # its crown goes to the right: clockwise
        ((90, 0, 0), (0, 0, 1), (0, 0, 1)),  # axes stay
        ((0, 90, 0), (0, 1, 0), (0, 1, 0)),
        ((0, 0, 90), (1, 0, 0), (1, 0, 0)),
    ],
)
def test_rotation_axes_mean_what_they_say(pose, vector, image):
    assert np.allclose(rotation_matrix(*pose) @ vector, image)


def test_occlusion_is_open_on_a_ball_and_closed_inside_it():
    mesh = ball()
    outside = ambient_occlusion(mesh.vertices, mesh.vertex_normals, mesh.faces)
    inside = ambient_occlusion(mesh.vertices * 0.1, mesh.vertex_normals, mesh.faces)
    n, normals = len(mesh.vertices), np.tile(mesh.vertex_normals, (2, 1))
    vertices = np.concatenate([mesh.vertices, mesh.vertices * 0.3])
    both = ambient_occlusion(vertices, normals, np.concatenate([mesh.faces, mesh.faces + n]))
    assert outside.min() > 0.99 and inside.min() > 0.99
    assert both[:n].min() > 0.99 and both[n:].max() < 0.75


def centroid(mask: np.ndarray) -> np.ndarray:
    "(left, up) of a mask's centre, in shares of the picture's side from the middle."
    size = mask.shape[-1]
    grid = 0.5 - (np.arange(size) + 0.5) / size
    return np.array([(mask * grid[None, :]).sum(), (mask * grid[:, None]).sum()]) / mask.sum()


@pytest.fixture(scope="module")
def unit_ball():
    "How large a ball becomes: the radius in sides of the picture at s = 1 and extent = 1."
    vertices = _standard_size(ball().vertices)
    return np.linalg.norm(vertices, axis=1).max() / 2


@pytest.mark.parametrize("s", [0.5, 1.0, 1.6])
def test_a_ball_covers_the_area_of_its_disc(unit_ball, s):
    _, mask = render(ball(), np.eye(3), s=s / 1.32, size=64, supersample=4, return_mask=True)
    assert mask.sum() / 64**2 == pytest.approx(np.pi * (unit_ball * 0.5 * s) ** 2, rel=0.01)


@pytest.mark.parametrize("ty, tz", [(0.6, 0), (0, 1.2), (-0.6, -1.0)])
def test_positions_go_left_and_up(ty, tz):
    _, mask = render(ball(), np.eye(3), ty, tz, 0.45, size=64, return_mask=True)
    assert np.allclose(centroid(mask[0]), [0.2 * ty, 0.2 * tz], atol=2e-3)


def test_silhouette_equals_that_of_a_slow_ray_tracer():
    mesh, turn, size = make_object("dining_chair"), rotation_matrix(35, -20, 50), 24
    _, mask = render(mesh, turn, 0.4, -0.5, 1.1, size, supersample=1, return_mask=True)
    vertices = mesh.vertices @ turn.T * 1.1 * 0.33 + np.array([0, 0.4, -0.5]) * 0.2
    placed = trimesh.Trimesh(vertices, mesh.faces, process=False)
    grid = 0.5 - (np.arange(size) + 0.5) / size
    column, row = np.meshgrid(grid, grid)
    origins = np.stack([np.full(size**2, -3.0), column.ravel(), row.ravel()], 1)
    hit = np.zeros(size**2, bool)  # Moeller and Trumbore's test, one triangle after another
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
    mesh = make_object("sailboat_boat")
    _, mask = render(mesh, rotation_matrix(0, 0, np.array([0, 90])), size=48, return_mask=True)
    assert np.abs(np.rot90(mask[0], -1) - mask[1]).mean() < 2e-3 < mask[0].mean()


def test_shading_of_a_ball_follows_lamberts_law(unit_ball, monkeypatch):
    light = renderer._LIGHT
    for name, value in dict(strength=0.9, ambient=0.0, spread=0.0, shadows=False, gamma=1.0).items():
        monkeypatch.setattr(light, name, value)
    image = render(ball(), np.eye(3), s=1.2, size=64, supersample=1)[0]
    grid = (0.5 - (np.arange(64) + 0.5) / 64) / (unit_ball * 1.2 * 0.66)
    left, up = np.meshgrid(grid, grid)
    toward = np.sqrt(np.clip(1 - left**2 - up**2, 0, None))
    normal = np.stack([-toward, left, up], -1)
    expected = 0.65 * 0.9 * np.clip(normal @ (np.array(light.key) / np.linalg.norm(light.key)), 0, None)
    inside = left**2 + up**2 < 0.95
    assert np.abs(image - expected)[inside].max() < 0.02
    assert image[left**2 + up**2 > 1.1].max() == 0


def test_an_object_casts_a_shadow_on_itself(monkeypatch):
    table = make_object("picnic_table")
    shaded = render(table, np.eye(3), size=48)
    monkeypatch.setattr(renderer._LIGHT, "shadows", False)
    lit = render(table, np.eye(3), size=48)
    assert (shaded <= lit + 1e-6).all() and (lit - shaded).max() > 0.1


def test_colours_of_a_users_mesh_are_used(monkeypatch):
    mesh = ball()
    monkeypatch.setattr(renderer._LIGHT, "key", (-1, 0, 0.01))
    colours = np.where(mesh.vertices[:, 1:2] > 0, [[250, 250, 250, 255]], [[40, 40, 40, 255]])
    mesh.visual.vertex_colors = colours.astype(np.uint8)
    image = render(mesh, np.eye(3), size=32)[0]
    assert image[16, 12] > image[16, 19] + 0.2  # bright on the left


def test_images_in_a_batch_do_not_depend_on_each_other():
    mesh, labels = make_object("van_car"), sample_labels(20)
    turn = rotation_matrix(*labels[["rxy", "rxz", "ryz"]].to_numpy().T)
    whole = render(mesh, turn, labels["ty"], labels["tz"], labels["s"], size=32)
    places = labels[["ty", "tz", "s"]].to_numpy()
    single = np.concatenate([render(mesh, turn[i], *places[i], size=32) for i in range(20)])
    assert whole.shape == (20, 32, 32) and np.allclose(whole, single, atol=1e-5)


def test_a_rotation_that_is_none_is_refused():
    with pytest.raises(ValueError, match="orthogonal"):
        render(ball(), 2 * np.eye(3))
