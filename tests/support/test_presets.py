"""Presets by name, and presets of other versions."""

from dataclasses import replace

import pytest

from migvis.support.presets import DenoiserConfig, Preset, get_preset


def test_presets():
    assert get_preset("paper").denoiser == replace(DenoiserConfig(), layers=1)
    assert get_preset("paper").t_edit == 135 and get_preset("paper").vae.groups == (6, 6, 6, 6)
    with pytest.raises(ValueError, match="preset must be one of"):
        get_preset("huge")


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("t_edit"),
        lambda d: d.update(strength=3),
        lambda d: d["vae"].update(depth=2),
        lambda d: d.update(vae=5),
    ],
)
def test_presets_of_other_versions_are_named(change):
    entries = get_preset("tiny").to_dict()
    change(entries)
    with pytest.raises(ValueError, match="not make a preset of this version"):
        Preset.from_dict(entries)


def test_settings_that_are_gone_are_dropped_where_they_said_nothing():
    entries = get_preset("tiny").to_dict()
    entries["edits"] |= {"limit": 1.0, "project": False, "copies": 0, "renoise": "guided", "recurrence": 1, "clamp": False}
    assert Preset.from_dict(entries) == get_preset("tiny")
    entries["edits"]["recurrence"] = 2
    with pytest.raises(ValueError, match="recurrence"): Preset.from_dict(entries)
