"""What needs a GPU: `python -m pytest -n0 -m cuda`. Skipped elsewhere."""
from dataclasses import replace

import numpy as np
import pytest
import torch

from migvis import EditSettings, MIGVis, simulate_hvm
from migvis.denoiser import sample_images, train_denoiser
from migvis.simulate.pretrained import load_pretrained
from migvis.support.presets import get_preset
from tests.conftest import share_machine
from tests.test_denoiser import SMALL, bars

TINY = get_preset("tiny")


@pytest.mark.parametrize("before, after", [
    ({}, {}), ({"PYTEST_XDIST_WORKER_COUNT": "1"}, {}),
    ({"PYTEST_XDIST_WORKER_COUNT": "2", "CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}),
    ({"PYTEST_XDIST_WORKER_COUNT": "2", "OMP_NUM_THREADS": "3"}, {"CUDA_VISIBLE_DEVICES": ""})])
def test_several_processes_share_no_gpu_and_have_a_thread_each(before, after):
    environment = dict(before)
    share_machine(environment)
    assert environment == before | after


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    "A tiny run that was fitted on the GPU, and the same folder read on the CPU."
    preset, folder = replace(TINY, t_edit=20), tmp_path_factory.mktemp("cuda") / "run"
    recording = simulate_hvm(n_images=160, size=32, subject="M1", seed=3, progress=False)
    return MIGVis(preset, device="cuda").fit(recording, out=folder, progress=False), MIGVis.load(folder, device="cpu")


@pytest.mark.cuda
def test_a_run_of_a_gpu_edits_alike_on_a_cpu(runs):
    there, here = (run.edit(run.split.test[:2], run.split.test[2], gammas=[0.0, 0.1], settings=EditSettings(steps=10), progress=False)
                   for run in runs)
    assert there.round_trip_rmse() < 1e-4
    assert np.sqrt(((there.images - here.images) ** 2).mean()) < 0.02


@pytest.mark.cuda
@pytest.mark.parametrize("how", [{}, {"compile": True}, {"precision": "bfloat16", "compile": "reduce-overhead"}])
def test_training_on_a_gpu_lowers_the_loss_and_resumes(tmp_path, how):
    config = replace(SMALL, steps=60, precision=how.get("precision", "float32"))
    options = dict(device="cuda", checkpoint=tmp_path, compile=how.get("compile", False), progress=False)
    history = train_denoiser(bars(), config, **options).history["validation"].dropna()
    assert history.iloc[-1] < history.iloc[0]
    assert train_denoiser(bars(), config, **options).resumed_from == 60


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["demo", "sharp"])
def test_shipped_denoisers_estimate_alike_on_a_gpu(name):
    y = torch.randn(2, 1, *[get_preset(name).image_size] * 2)
    with torch.no_grad(): here, there = (load_pretrained(name, device)[0](y.to(device), 60).cpu() for device in ("cpu", "cuda"))
    assert (here - there).abs().max() < 1e-2
    assert sample_images(load_pretrained(name, "cuda")[0], 4, steps=5).shape == (4, *y.shape[1:])
