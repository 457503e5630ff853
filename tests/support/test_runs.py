"""Run folders: who owns them, what they note, and the run lock."""

import json
import warnings

import pandas as pd
import pytest

from migvis.support.runs import _check_noted, _note, _read_run, claim_folder, run_lock, run_stage

IDENTITY = {"preset": "tiny", "seed": 0}


@pytest.fixture
def folder(tmp_path):
    "A run's folder with one finished stage."
    claim_folder(tmp_path, IDENTITY)
    (tmp_path / "vae.safetensors").write_bytes(b"weights")
    _note(tmp_path / "vae.safetensors")
    return tmp_path


def test_a_folder_belongs_to_its_run(folder):
    assert claim_folder(folder, IDENTITY) == folder
    with pytest.raises(ValueError, match="holds another run: its seed differ"):
        claim_folder(folder, IDENTITY | {"seed": 1})


def test_a_folder_in_which_no_stage_was_begun_is_taken_over(tmp_path):
    claim_folder(tmp_path, IDENTITY)
    assert _read_run(claim_folder(tmp_path, IDENTITY | {"seed": 1}))["seed"] == 1


def test_another_file_is_refused_and_an_unknown_one_is_warned_of(folder):
    path = folder / "vae.safetensors"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _check_noted(path)
    (folder / "new.safetensors").touch()
    with pytest.warns(UserWarning, match="no digest of new.safetensors"):
        _check_noted(folder / "new.safetensors")
    path.write_bytes(b"others")
    with pytest.raises(ValueError, match="not the file that this run wrote"):
        _check_noted(path)


@pytest.mark.parametrize(
    "damage", [lambda text: text[:20], lambda text: "[]", lambda text: text.replace("tiny", "demo")]
)
def test_a_changed_or_damaged_note_is_refused(folder, damage):
    (folder / "run.json").write_text(damage((folder / "run.json").read_text()))
    with pytest.raises(ValueError, match="damaged"):
        _read_run(folder)


def test_a_stage_is_trained_once(tmp_path):
    trained = []

    def train(checkpoints):
        checkpoints.mkdir()
        trained.append(1)
        return {"weight": 1.5}, pd.DataFrame({"loss": [2.0]})

    def save(path, result):
        path.write_text(json.dumps(result))

    def load(path):
        return json.loads(path.read_text())

    results = [run_stage(tmp_path / "vae.json", train, save, load) for _ in range(2)]
    assert results == [{"weight": 1.5}] * 2 and trained == [1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["vae.csv", "vae.json"]


def test_the_run_lock_can_be_taken_again_when_it_is_given_back(tmp_path, monkeypatch):
    monkeypatch.setenv("MIGVIS_CACHE", str(tmp_path / "cache"))
    for _ in range(2):
        with run_lock(tmp_path / "run"):
            assert len(list((tmp_path / "cache" / "locks").iterdir())) == 1
