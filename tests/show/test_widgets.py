"""Sliders without a browser: each control, what is computed when, errors."""
import base64
import io
import re
import threading

import numpy as np
import pytest
from PIL import Image

from migvis import MIGVis
from migvis.show.frames import FrameKey, dimension_frames, guidance_frames, precompute
from migvis.show.widgets import Explorer, _difference_image, explore
from tests.made import SMALL
from tests.show.conftest import choices, drawn, plane_choices


def test_difference_is_red_where_brighter_and_clear_where_equal():
    image = _difference_image(np.array([[[0.5, 0.9], [0.1, 0.5]]]), np.full((1, 2, 2), 0.5))
    assert image[0, 0, 3] == image[1, 1, 3] == 0 < image[0, 1, 3]
    assert image[0, 1, 0] > image[0, 1, 2] and image[1, 0, 0] < image[1, 0, 2]


def pixels(explorer):
    "The edit on display, decoded."
    uri = re.search(r'data:image/png;base64,([^"]+)', explorer.picture.value).group(1)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri)))) / 255


def test_every_control_changes_the_picture():
    explorer = explore(precompute(choices(), drawn))
    for name, value in [("gamma", 2.0), ("group", 2), ("target", 3), ("gamma", 5.0), ("group", 0), ("original", 1), ("gamma", 0.0)]:
        explorer.controls[name].value = value
        expected = drawn([explorer.key])[0, 0] if explorer.key.gamma else None
        assert getattr(explorer.key, name) == value
        if expected is not None: assert np.abs(pixels(explorer) - expected).max() < 0.003
        assert all(control.description for control in explorer.controls.values())
    assert "simulated" in str([child.value for child in explorer.children if hasattr(child, "value")])


def test_only_targets_of_the_original_are_offered():
    explorer = explore(precompute(choices(), drawn))
    explorer.controls["target"].value = 3
    explorer.controls["original"].value = 1
    assert explorer.controls["target"].value == 2 and len(explorer.controls["target"].options) == 1 and explorer.controls["target"].disabled
    explorer.controls["original"].value = 0
    assert "differs from the original" in explorer.status.value
    assert [v for _, v in explorer.controls["target"].options] == [2, 3] and explorer.key.target == 2


def test_strengths_move_picture_and_path():
    explorer = explore(precompute(plane_choices(), drawn))
    seen = {explorer.picture.value}
    assert explorer.key.strengths == (0.0, 0.0) and "Turn one up" in explorer.status.value
    for name, value in [("first", 0.5), ("second", 1.0), ("dims", (1, 0)), ("group", 2), ("colour", "angle")]:
        explorer.controls[name].value = value
        seen.add(explorer.picture.value)
        assert np.abs(pixels(explorer) - drawn([explorer.key])[0, 0]).max() < 0.003
    assert len(seen) == 6 and "mv-now" in explorer.picture.value and "z1 of second" in explorer.picture.value
    assert explorer.key == FrameKey(0, 2, 2, 2.0, (1, 0), (0.5, 1.0))


def test_missing_frames_without_a_model_are_explained():
    explorer = Explorer(choices(), None, {FrameKey(0, 2, 0, 0.0).simplest: drawn([FrameKey(0, 2, 0, 0.0)])[0]})
    assert "not computed" not in explorer.status.value
    explorer.controls["gamma"].value = 2.0
    assert "no model here" in explorer.status.value and "opacity" in explorer.picture.value


def test_errors_are_shown_and_moving_tries_again():
    broken = [True]
    def source(keys):
        if broken[0]: raise FloatingPointError("diverged <badly>")
        return drawn(keys)
    explorer = Explorer(choices(), source, background=False)
    assert "FloatingPointError" in explorer.status.value and "diverged &lt;badly&gt;" in explorer.status.value and 'role="alert"' in explorer.status.value
    assert "Traceback" in explorer.status.value
    broken[0] = False
    explorer.controls["gamma"].value = 2.0
    assert "Error" not in explorer.status.value
    explorer.controls["gamma"].value = 5.0
    assert np.abs(pixels(explorer) - drawn([explorer.key])[0, 0]).max() < 0.003


def test_while_busy_stored_frames_answer_and_only_the_newest_is_computed():
    gate, started, asked = threading.Event(), threading.Event(), []
    def slow(keys):
        asked.extend(keys), started.set()
        assert gate.wait(20)
        return drawn(keys)
    there = [FrameKey(0, 2, 0, gamma) for gamma in (0.0, 5.0)]
    explorer = Explorer(choices(gammas=(0.0, 1.0, 2.0, 3.0, 4.0, 5.0)), slow, {key.simplest: drawn([key])[0] for key in there})
    explorer.controls["gamma"].value = 1.0
    assert started.wait(20) and "Computing this frame" in explorer.status.value and "aria-busy" in explorer.picture.value
    explorer.controls["gamma"].value = 5.0
    assert "Computing" not in explorer.status.value and "aria-busy" not in explorer.picture.value
    for gamma in (2.0, 3.0, 4.0): explorer.controls["gamma"].value = gamma
    gate.set()
    finish(explorer)
    assert [key.gamma for key in asked] == [1.0, 4.0]
    assert np.abs(pixels(explorer) - drawn([explorer.key])[0, 0]).max() < 0.003 and "aria-busy" not in explorer.picture.value


def finish(explorer):
    "Wait until nothing is computed any more."
    explorer.worker.thread.submit(lambda: None).result(20)


def test_rows_are_computed_ahead_where_asked():
    asked = []
    def source(keys): return (asked.append([k.gamma for k in keys]), drawn(keys))[1]
    source.ahead = True
    explorer = Explorer(choices(), source, background=False)
    assert asked == [[0.0, 2.0, 5.0]]
    explorer.controls["gamma"].value = 2.0
    assert len(asked) == 1


def test_a_frame_does_not_fail_with_its_row():
    def source(keys):
        if any(key.gamma == 5 for key in keys): raise FloatingPointError("diverged")
        return drawn(keys)
    source.ahead = True
    explorer = Explorer(choices(), source, background=False)
    assert "diverged" not in explorer.status.value
    explorer.controls["gamma"].value = 5.0
    assert "diverged" in explorer.status.value
    explorer.controls["gamma"].value = 2.0
    assert "diverged" not in explorer.status.value and np.abs(pixels(explorer) - drawn([explorer.key])[0, 0]).max() < 0.003


def test_live_explorers_of_a_model(model):
    o, t = (int(i) for i in model.split.test[[0, 4]])
    explorer = explore(guidance_frames(model, o, t, groups=[2], gammas=[0.0, 1.0]), background=False)
    whole = model.edit(o, t, groups=[2], gammas=[0.0, 1.0], progress=False).images[0, 0]
    assert np.abs(pixels(explorer) - whole[0, 0]).max() < 0.004
    explorer.controls["gamma"].value = 1.0
    assert np.abs(pixels(explorer) - whole[1, 0]).max() < 0.004
    assert explorer.worker.seconds > 0 and not explorer.worker.source.ahead
    pairs = explore(dimension_frames(model, o, t, group=2, dims=[(0, 1)], strengths=(0, 1)), background=False)
    pairs.controls["first"].value = 1.0
    assert len(pairs.worker.stored) == 2 and not pairs.worker.failed
    with pytest.raises(TypeError, match="expected Edits or a FrameGrid, got Recording"): explore(model.recording)
    with pytest.raises(ValueError, match="not fitted"): guidance_frames(MIGVis(SMALL))


def test_a_draw_has_a_slider_where_there_are_several():
    explorer = explore(precompute(choices(draws=3), drawn))
    start = pixels(explorer)
    explorer.controls["draw"].value = 2
    assert np.array_equal(pixels(explorer), start), "without guidance all draws are the same"
    explorer.controls["gamma"].value = 2.0
    for draw in (0, 1, 2):
        explorer.controls["draw"].value = draw
        assert explorer.key == FrameKey(0, 2, 0, 2.0, draw=draw) and f"draw {draw + 1} of 3" in explorer.status.value
        assert np.abs(pixels(explorer) - drawn([explorer.key])[0, 0]).max() < 0.003
    assert "draw" not in explore(precompute(choices(), drawn)).controls


def test_explorers_open_at_the_original_and_say_what_to_turn():
    explorer = explore(precompute(choices(), drawn))
    assert explorer.key.gamma == 0 and "Turn γ up" in explorer.status.value
    explorer.controls["gamma"].value = 2.0
    assert "Turn" not in explorer.status.value


def test_controls_have_distinct_labels_and_useful_widths():
    explorer = explore(precompute(plane_choices(), drawn))
    labels = [control.description for control in explorer.controls.values()]
    assert len(set(labels)) == len(labels) and {"strength of z1", "strength of z2"} < set(labels)
    assert {control.layout.width for control in explorer.controls.values()} == {"26em"}
    assert explorer.children[0].layout.flex_flow == "row wrap-reverse", "on a phone the picture is above"
