"""The 64 shipped meshes, and the script that builds them from parts."""

import numpy as np
import pytest

from migvis.simulate.objects import _vertex_normals, make_object, object_names
from migvis.simulate.renderer import _standard_size, render
from tools.build_objects import build_object
from tools.objects.parts import Part, box, ellipsoid, lathe, loft, mirrored, plate, tube


def volume(part: Part) -> float:
    a, b, c = (part.vertices[part.faces[:, i]] for i in range(3))
    return float(np.einsum("fi,fi->", a, np.cross(b, c)) / 6)


PARTS = {
    "box": (box((1, 2, 3), (2, 3, 4)), 24.0),
    "frustum": (box((0, 0, 0), (2, 2, 3), taper=0.5), 3 * (4 + 1 + 2) / 3),
    "ball": (ellipsoid((1, 0, 0), 1.0, m=41, k=80), 4 / 3 * np.pi),
    "ellipsoid": (ellipsoid((0, 0, 5), (1, 2, 3), turn=(30, 20, 10), m=41, k=80), 8 * np.pi),
    "cylinder": (lathe([(1, 0), (1, 2)], k=100), 2 * np.pi),
    "cylinder from above": (lathe([(1, 2), (1, 0)], k=100), 2 * np.pi),  # rings that run the other way
    "cone": (lathe([(1, 0), (0, 3)], k=100), np.pi),
    "tube": (tube([(0, 0, 0), (1, 1, 1)], 0.5, k=100), np.sqrt(3) * np.pi / 4),
    "plate": (plate([(0, 0, 0), (2, 0, 0), (2, 1, 0), (0, 1, 0)], (0, 0, 0.5)), 1.0),
    "loft": (loft([(0, 1, -1, 1), (2, 1, -1, 1)], power=2, k=100), 2 * np.pi),
}


@pytest.mark.parametrize("name", PARTS)
def test_parts_have_their_volume_and_outward_normals(name):
    part, expected = PARTS[name]
    assert volume(part) == pytest.approx(expected, rel=0.01)  # signed: positive only if faces look outwards
    a, b, c = (part.vertices[part.faces[:, i]] for i in range(3))
    assert np.allclose(np.cross(b - a, c - a).sum(0), 0, atol=1e-9)  # closed: the areas cancel
    assert volume(mirrored(part)[1]) == pytest.approx(volume(part))


def test_vertex_normals_of_a_ball_are_radial():
    part = ellipsoid((0, 0, 0), 2.0, m=31, k=60)
    side = np.abs(part.vertices[:, 2]) < 1.9
    normals = _vertex_normals(part.vertices, part.faces)
    assert (np.einsum("vi,vi->v", normals, part.vertices / 2)[side] > 0.99).all()


def test_a_moved_part_only_moves():
    part = box((0, 0, 0), (1, 1, 1))
    assert np.allclose(part.moved((1, 2, 3)).vertices, part.vertices + [1, 2, 3])


@pytest.mark.parametrize("category, name", [("Animals", "lion_animal"), ("Fruits", "banana_fruit")])
def test_the_script_builds_what_is_shipped(category, name):
    mesh, built = make_object(name), build_object(category, name)
    assert np.allclose(mesh.vertices, built["vertices"], atol=1e-12)
    assert np.array_equal(mesh.faces, built["faces"])
    for key in ("albedo", "gloss"):
        assert np.allclose(mesh.vertex_attributes[key], built[key], atol=1e-7)
    apart = np.abs(mesh.vertex_attributes["occlusion"] - built["occlusion"])
    assert (apart > 0.01).mean() < 0.02  # a ray that grazes an edge may miss it on another machine


def test_there_are_eight_objects_in_each_of_eight_categories():
    names = object_names()
    assert names.groupby("category").size().tolist() == [8] * 8
    assert names["object"].is_unique


@pytest.mark.parametrize("name", object_names()["object"])
def test_all_objects_are_sound(name):
    mesh = make_object(name)
    looks = mesh.vertex_attributes
    assert np.isfinite(mesh.vertices).all() and mesh.faces.max() < len(mesh.vertices)
    assert mesh.area > 0 and len(mesh.faces) < 20_000
    for key in ("albedo", "gloss", "occlusion"):
        assert 0 <= looks[key].min() and looks[key].max() <= 1
    assert np.ptp(looks["albedo"]) > 0.05  # nothing is uniformly grey
    length = np.linalg.norm(looks["normal"], axis=1)
    assert ((np.abs(length - 1) < 1e-6) | (length < 1e-3)).all()
    assert np.allclose(_standard_size(mesh.vertices), mesh.vertices, atol=1e-9)


def test_all_objects_differ():
    meshes = [make_object(name) for name in object_names()["object"]]
    pictures = np.concatenate([render(mesh, np.eye(3), size=32) for mesh in meshes])
    distance = np.abs(pictures[:, None] - pictures[None]).mean((2, 3)) + np.eye(64)
    assert distance.min() > 0.005


def test_unknown_objects_are_named():
    with pytest.raises(ValueError, match="no object 'tank_car'.*object_names"):
        make_object("tank_car")
