"""From the files of every source to edited images."""


import numpy as np
import pytest

from migvis import MIGVis
from migvis.cli import _SOURCES
from migvis.recordings.sources import SOURCES, load_recording
from tests.recordings.made import SCHEMAS
from tests.made import SMALL



def test_every_source_has_files_for_the_test_below_and_a_name_in_the_shell():
    assert {name.split(":")[0] for name in SCHEMAS} == set(SOURCES) == set(_SOURCES)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name, colour", [*((name, None) for name in SCHEMAS), ("triple-n", "keep"), ("tvsd", "keep")])
def test_files_become_edited_images(tmp_path, name, colour):
    recording = load_recording(name.split(":")[0], **({"size": 32, "colour": colour} | SCHEMAS[name](tmp_path)))
    shape = (3 if colour == "keep" else 1, 32, 32)
    assert recording.images.shape[1:] == shape and len(recording) >= 40
    model = MIGVis(SMALL, device="cpu").fit(recording, progress=False)
    edits = model.edit([0, 1], 5, groups=[1, 2], gammas=(0.0, 1.0), progress=False)
    assert edits.images.shape[0] == 2 and edits.images.shape[-3:] == shape
    assert np.isfinite(edits.images).all() and 0 <= edits.images.min() <= edits.images.max() <= 1
    assert (edits.change()[1.0] > 0).all() and (edits.change()[0.0] == 0).all()
