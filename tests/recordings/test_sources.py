"""One function for every source: options, choice of units, and what comes after reading."""

import numpy as np
import pandas as pd
import pytest

from migvis.recordings.reading import _Options, _Raw
from migvis.recordings.sources import SOURCES, Source, load_recording


def read(path, options, scale=1.0):
    "Six images; four units of two animals and areas, of which the second is noise; no backgrounds."
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(6, 1, 4)) * [3, 0, 3, 3]
    sites = pd.DataFrame({"animal": ["Chabo", "Chabo", "Tito", "Tito"], "region": ["IT", "IT", "IT", "V4"]})
    images, labels = rng.random((6, 1, 16, 16)), pd.DataFrame({"category": list("aabbcc")})
    return _Raw(
        images.astype(np.float32), scale * (signal + rng.normal(size=(6, 5, 4))), labels, sites, "made"
    )


@pytest.fixture(autouse=True)
def made(monkeypatch):
    monkeypatch.setitem(SOURCES, "made", Source("made up", "nobody", read, _Options(area="IT", trials=False)))


def load(tmp_path, **options):
    return load_recording("made", tmp_path, **options)


@pytest.mark.parametrize(
    "options, units, name",
    [
        ({}, 3, "made IT"),
        ({"area": "all"}, 4, "made"),
        ({"subject": "M1"}, 2, "made M1 IT"),
        ({"subject": "Tito", "area": "V4"}, 1, "made Tito V4"),
        ({"reliability": 0.5}, 2, "made IT"),
    ],
)
def test_units_are_chosen(tmp_path, options, units, name):
    rec = load(tmp_path, **options)
    assert rec.responses.shape == (6, units) and rec.name == name and rec.trials is None


def test_defaults_of_the_source_hold_unless_others_are_given(tmp_path):
    rec = load(tmp_path, trials=True, size=8, scale=2.0)
    assert rec.trials.shape == (6, 5, 3) and rec.images.shape == (6, 1, 8, 8)
    np.testing.assert_allclose(rec.responses, 2 * load(tmp_path).responses, rtol=1e-5)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"paint": "red"}, "this source has no option 'paint'; there are subject, area, .*scale"),
        ({"colour": "red"}, "colour must be 'average' or 'luminance' or 'keep', not 'red'"),
        ({"size": "big"}, "size must be of type .*int.*not 'big'"),
        ({"subject": 1}, "subject must be of type .*str.*not 1"),
        ({"background": "blur"}, "background must be 'remove' or 'keep', not 'blur'"),
        ({"missing": "maybe"}, "missing must be 'error' or 'drop', not 'maybe'"),
        ({"subject": "M3"}, r"no unit of subject 'M3' in area 'IT'; there are .*Chabo.*Tito"),
        ({"reliability": 2.0}, "no unit has a reliability of 2; the highest is 0"),
        ({"background": "remove"}, r"\['ty', 'tz'\] are missing"),
    ],
)
def test_options_that_cannot_be_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, **options)


def test_unknown_sources_and_those_that_cannot_be_fetched():
    with pytest.raises(ValueError, match="no source 'what'; the sources are majaj-hong, "):
        load_recording("what")
    with pytest.raises(ValueError, match="made cannot be fetched; give folder="):
        load_recording("made")


@pytest.mark.parametrize("name", ["Kar2018hvm", "dicarlo.Kar2019", "sanghavi-2020", "Allen2022_fmri"])
def test_gated_recordings_are_named_as_such(name):
    with pytest.raises(ValueError, match=f"{name} is gated: Brain-Score gives its files to nobody without .*from_xarray"):
        load_recording(name)


def test_reliability_needs_repeats(tmp_path, monkeypatch):
    def once(path, options):
        raw = read(path, options)
        return _Raw(raw.images, raw.trials[:, :1], raw.labels, raw.sites, raw.name)

    monkeypatch.setitem(SOURCES, "made", Source("made up", "nobody", once))
    with pytest.raises(ValueError, match="reliability of units is not known"):
        load(tmp_path, reliability=0.1)
