"Which attributes a recording has, and how their columns are read."
import numpy as np
import pandas as pd
import pytest

from migvis.measure.readouts import Attribute, find_attributes
from migvis.simulate.images import sample_labels
from migvis.support.labels import Categorical, Continuous


@pytest.fixture
def labels():
    rng = np.random.default_rng(0)
    return sample_labels(200, 1).assign(tilt=rng.uniform(0, 180, 200), colour=rng.choice(
                                            ["red", "green"], 200), level=rng.integers(0, 4, 200))


def test_all_that_varies_is_found_and_bookkeeping_is_not(labels):
    found = find_attributes(labels.assign(session=range(200),
                                          path=[f"{i}.png" for i in range(200)], flat=1.0))
    assert list(found) == ["category", "identity", "rotation", "position", "size", "tilt", "colour", "level"]
    assert [found[n].kind for n in ("tilt", "colour", "level", "size")] == ["number", "class",
                                                                            "class", "number"]


def test_what_a_model_was_supervised_by_says_how_it_is_read(labels):
    specs = Continuous(1, "tilt", period=180), Continuous(2, "level"), Categorical(3, "colour"), Continuous(4)
    found = find_attributes(labels, None, [spec.code(labels) for spec in specs])
    assert [(found[n].kind, found[n].period)
            for n in ("tilt", "level", "colour")] == [("angle", 180), ("number", 360), ("class", 360)]
    assert "pose" not in found and found["rotation"].columns == ("rxy", "rxz",
                                                                 "ryz"), "the pose has a name of its own"


def test_an_angle_is_the_same_after_its_period(labels):
    angle = Attribute("tilt", ("tilt",), "angle", period=180)
    turned = labels.assign(tilt=labels["tilt"] + 180)
    np.testing.assert_allclose(angle.numbers(turned), angle.numbers(labels), atol=1e-12)
    np.testing.assert_allclose((angle.numbers(labels) ** 2).sum(1), 1)


def test_images_without_a_label_are_told(labels):
    part = labels.assign(tilt=labels["tilt"].where(labels.index > 10),
                         category=labels["category"].where(labels.index != 50))
    assert find_attributes(part, "tilt")["tilt"].known(part).sum() == 189
    assert not find_attributes(part, "identity")["identity"].known(part)[50], "identity needs the category"


def test_names_that_are_not_there_are_refused(labels):
    own = Attribute("mine", ("tilt", "ty"))
    assert find_attributes(labels, [own, "size"]) == {"mine": own, "size": find_attributes(labels)["size"]}
    with pytest.raises(ValueError, match="no labels for 'tlit'; attributes are .'category'"):
        find_attributes(labels, ["size", "tlit"])
    with pytest.raises(ValueError, match="no labels for 'rotation'"):
        find_attributes(pd.DataFrame({"category": list("ab")}), "rotation")
