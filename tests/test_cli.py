"""The command line, as a user meets it."""
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from importlib.metadata import version
from dataclasses import replace
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from migvis import EditSettings, Recording, cli, simulate_hvm
from migvis.cli import _option, _build_parser, main
from migvis.support.presets import _PRESETS, get_preset
from tests.conftest import ROOT
from tests.made import SMALL

TINY = get_preset("tiny")
SMALLER = replace(SMALL, vae=replace(SMALL.vae, steps=30), critic=replace(SMALL.critic, steps=20))


def migvis(*arguments, **kw):
    return subprocess.run([sys.executable, "-m", "migvis", *map(str, arguments)], capture_output=True, text=True, timeout=600, **kw)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return simulate_hvm(n_images=120, size=32, subject="M2", seed=5, progress=False).save(tmp_path_factory.mktemp("rec") / "rec.npz")


@pytest.fixture(scope="module")
def fitted(saved, tmp_path_factory):
    "Folder of a run, its name with a space, and what `migvis fit` printed; its preset takes even less than the tiny one."
    run = tmp_path_factory.mktemp("fitted") / "my data" / "run"
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        patch.setitem(_PRESETS, "tiny", SMALLER)
        assert main(["fit", "--recording", str(saved), "--out", str(run), "--preset", "tiny", "--device", "cpu", "--quiet"]) == 0
    return run, printed.getvalue()


AS_SMALLER = """
import sys
from tests.test_cli import _PRESETS, SMALLER, main
_PRESETS["tiny"] = SMALLER
sys.exit(main())
"""


def test_demo_interrupted_then_finished(tmp_path, monkeypatch, capsys):
    out = tmp_path / "demo"
    command = [sys.executable, "-c", AS_SMALLER, "demo", "--preset", "tiny", "--out", str(out), "--device", "cpu"]
    environment = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"} # bars tell the stage
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) # a background job's shell has it ignored
    for _ in range(15_000):
        if (out / "run" / "vae.safetensors").exists() or process.poll() is not None: break
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors[-2000:]
    assert "goes on from the last checkpoint" in errors and "1/3 neural VAE" in errors
    monkeypatch.setitem(_PRESETS, "tiny", SMALLER)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    assert main(command[3:]) == 0, "the same command, in this process"
    printed, errors = capsys.readouterr()
    assert "2/3" in errors and "1/3 neural VAE" not in errors, "the finished stage must not be trained again"
    assert str(out / "guidance.png") in printed and str(out / "report.json") in printed
    assert "selectivity" in printed and "data:image" in (out / "explore.html").read_text(encoding="utf-8")
    picture = np.asarray(Image.open(out / "guidance.png").convert("L"))
    assert min(picture.shape) > 200 and picture.std() > 20
    report = json.loads((out / "report.json").read_text())
    assert report["edits"]["round_trip_rmse"] < 0.02
    for change in report["edits"]["change_by_group_and_gamma"].values(): assert list(change.values()) == sorted(change.values())


def test_fit_edit_info(tmp_path, saved, capsys, fitted):
    run, printed = fitted
    assert "migvis edit --run" in printed
    edit = ["edit", "--run", str(run), "--original", "1", "2", "--target", "3", "--out", str(tmp_path / "edit.png"), "--groups", "1", "2",
            "--gammas", "0", "0.5", "--steps", "9", "--hold", "1", "0.5", "1", "1", "--save", str(tmp_path / "edit.npz"), "--quiet", "--device", "cpu"]
    assert main(edit) == 0
    printed = capsys.readouterr().out
    assert "Group 1 (pose)" in printed and "Group 3" not in printed and str(tmp_path / "edit.png") in printed
    assert Image.open(tmp_path / "edit.png").size[0] > 300
    assert np.load(tmp_path / "edit.npz")["images"].shape == (2, 2, 2, 1, 32, 32)
    assert main(["info", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"preset: tiny", "recording:"} <= set(lines) and max(map(len, lines)) < 100
    assert not set("{}[]\"") & set("".join(lines)), "lines, not JSON"
    drawn = ["figures", "--run", str(run), "--out", str(tmp_path / "figures"), "--only", "3", "figure_8", "--formats", "png", "--quiet", "--device", "cpu"]
    assert main(drawn) == 0 and str(tmp_path / "figures" / "figure_8.png") in capsys.readouterr().out
    assert all(np.asarray(Image.open(tmp_path / "figures" / f"figure_{k}.png").convert("L")).std() > 10 for k in ("3a", "3b", 8))
    assert main(drawn[:5] + ["--only", "figure_13", "--quiet", "--device", "cpu"]) == 2 and "figure_13" in capsys.readouterr().err
    judged = ["selectivity", "--run", str(run), "--out", str(tmp_path / "judged"), "--pairs", "500", "--quiet", "--device", "cpu"]
    assert main(judged) == 2 and "got 500" in capsys.readouterr().err, "the tiny run has not that many pairs"
    assert main(["info", str(saved)]) == 0 and "simulated" in capsys.readouterr().out
    assert main(["info"]) == 0
    assert {f"python: {sys.version.split()[0]}", f"torch: {version('torch')}"} < set(capsys.readouterr().out.splitlines())
    for bad, told in [(["--groups", "0"], "group"), (["--groups", "7"], "group"), (["--target", "500"], "target must be"),
                      (["--gammas", "-1"], "not negative"), (["--hold", "1", "2"], "one for each of the 4 groups"), (["--candidates", "2", "--mode", "paper"], "would all be the same"), (["--out", str(tmp_path / "edit.doc")], "must be a file ending in .png"),
                      (["--gammas", "nan"], "finite"), (["--save", str(tmp_path)], "is a folder")]:
        assert main(edit + bad) == 2
        assert told in capsys.readouterr().err


@pytest.fixture
def no_training(monkeypatch):
    "A judge that nobody has to train, and pairs of few images."
    from tests.measure.worlds import NeighbourJudge
    monkeypatch.setattr("migvis.model._judge_for", lambda model, *_: NeighbourJudge(model.recording))


def test_consistency_null_and_stability(tmp_path, capsys, no_training):
    from migvis import MIGVis
    recording = simulate_hvm(n_images=240, size=32, subject="M1", seed=3, progress=False)
    MIGVis(SMALL, seed=1, device="cpu").fit(recording, out=tmp_path / "run", progress=False)
    common = ["--run", str(tmp_path / "run"), "--pairs", "4", "--steps", "3", "--quiet", "--device", "cpu"]
    assert main(["selectivity", *common, "--out", str(tmp_path / "judged"), "--gammas", "0", "0.2", "--consistency"]) == 0
    assert "common to versions of the same edits" in capsys.readouterr().out and (tmp_path / "judged" / "consistency" / "consistency.png").is_file()
    assert main(["null", *common, "--out", str(tmp_path / "null")]) == 0
    printed = capsys.readouterr().out
    assert "permuted" in printed and "intervals of the permuted fit leave 0 out" in printed and (tmp_path / "null" / "null.png").is_file()
    stable = ["stability", "--recording", str(recording.save(tmp_path / "rec.npz")), "--out", str(tmp_path / "stable"), "--preset", "tiny", "--steps", "8",
              "--quiet", "--device", "cpu"]
    assert main(stable) == 0
    printed = capsys.readouterr().out
    assert "subjects" not in printed and all(kind in printed for kind in ("seeds", "units", "images"))
    assert all((tmp_path / "stable" / name).is_file() for name in ("table.csv", "matrix.csv", "settings.json", "stability.png"))


def test_convert_real_recording(realdata, tmp_path, capsys):
    arguments = ["convert", str(realdata / "hvm_v4_session210325.npz"), "--format", "cowley-v4", "--out", str(tmp_path / "v4.npz"), "--option", "size=32"]
    assert main(arguments) == 0
    assert main(["info", str(tmp_path / "v4.npz")]) == 0
    assert "640" in capsys.readouterr().out


@pytest.mark.parametrize("arguments, told", [
    (["fit", "--recording", "none.npz", "--out", "{tmp}/run"], "there is no file none.npz"),
    (["fit", "--recording", "{file}", "--out", "{tmp}/run"], "{file}"),
    (["fit", "--recording", "{saved}", "--out", "{file}/run"], "cannot write into the folder"),
    (["fit", "--recording", "{saved}", "--out", "{tmp}/run", "--preset", "tiny", "--device", "abacus"], "device must be"),
    (["fit", "--recording", "{saved}", "--out", "{tmp}/run", "--preset", "tiny", "--start", "none"], "there is no shipped denoiser 'none'"),
    (["demo", "--out", "{file}"], "cannot write into the folder"),
    (["edit", "--run", "{tmp}", "--original", "1", "--target", "2", "--out", "{tmp}/x.png"], "is not a run"),
    (["scores", "--run", "{tmp}"], "is not a run"),
    (["null", "--run", "{tmp}", "--out", "{tmp}/null"], "is not a run"),
    (["stability", "--recording", "none.npz", "--out", "{tmp}/stable"], "there is no file none.npz"),
    (["stability", "--recording", "{saved}", "--out", "{tmp}/stable", "--preset", "tiny", "--seeds", "1"], "seeds must be at least 2"),
    (["information", "--run", "{tmp}"], "is not a run"),
    (["convert", "{file}", "--format", "cowley-v4", "--out", "{tmp}/x.npz"], "{file}"),
    (["convert", "{tmp}/none", "--format", "nwb", "--out", "{tmp}/x.npz"], "there is no file"),
    (["convert", "{file}", "--format", "nwb", "--out", "{tmp}/x.npz", "--option", "size"], "NAME=VALUE"),
    (["convert", "{file}", "--format", "cowley-v4", "--out", "{tmp}/x.npz", "--option", "size=none"], "{file} is"),
    (["convert", "{file}", "--format", "hvm-hdf5", "--out", "{tmp}/x.npz", "--option", "size=none"], "{file} is"),
    (["convert", "{file}", "--format", "nwb", "--out", "{tmp}/x.npz", "--option", "window=none"], "window must not be None"),
    (["convert", "{file}", "--format", "cowley-v4", "--out", "{tmp}/x.npz", "--option", "trials=maybe"], "trials must be of type bool, not 'maybe'"),
    (["convert", "{file}", "--format", "cowley-v4", "--out", "{tmp}/x.npz", "--option", "sise=3"], "there are subject, area"),
    (["convert", "{file}", "--format", "cowley-v4", "--out", "{tmp}/" + "x" * 250 + ".npz"], "shorter name"),
    (["edit", "--run", "{tmp}", "--original", "1", "--target", "2", "--out", "{tmp}/x.png", "--save", "{tmp}"], "--save must be a file"),
    (["edit", "--run", "{tmp}", "--original", "1", "--target", "2", "--out", "{tmp}/x.png", "--save", "{file}/x.npz"], "cannot write into the folder"),
    (["demo", "--out", "{tmp}/" + "x" * 300], "cannot write into the folder"),
    (["info", "x" * 300], "File name too long"),
    (["info", "{tmp}/none"], "neither the folder of a run"),
])
def test_bad_input_is_told_in_one_line(tmp_path, saved, capsys, arguments, told):
    file = tmp_path / "file.npz"
    file.write_text("not a recording")
    fill = lambda text: text.format(tmp=tmp_path, file=file, saved=saved)
    assert main([fill(a) for a in arguments]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("migvis: error:") and fill(told) in errors and "Traceback" not in errors and "Errno" not in errors
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file.npz"], "a command that is refused must leave nothing"


@pytest.mark.parametrize("arguments, told", [
    (["fit", "--recording", "x", "--out", "{out}", "--preset", "deom"], "choose from"),
    (["demo", "--out", "{out}", "--preset", "deom"], "choose from"),
    (["selectivity", "--run", "x", "--out", "{out}", "--modes", "selective", "foo"], "choose from"),
    (["figures", "--run", "x", "--out", "{out}", "--formats", "gif87"], "choose from"),
    (["edit", "--run", "x", "--original", "1", "--target", "2", "--out", "{out}/x.png", "--mode", "foo"], "choose from"),
])
def test_mistyped_names_are_refused_before_anything_is_imported_or_made(tmp_path, arguments, told):
    code = "import sys; from migvis.cli import main\ntry: main(sys.argv[1:])\nfinally: print(*(m for m in ('torch', 'numpy', 'matplotlib') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code, *(a.format(out=tmp_path / "out") for a in arguments)], capture_output=True, text=True)
    assert done.returncode == 2 and told in done.stderr and done.stdout.split() == [] and not (tmp_path / "out").exists()


def test_names_in_the_parser_are_those_of_the_library():
    from matplotlib.figure import Figure

    from migvis import cli
    assert set(cli._PRESETS) == set(_PRESETS) and all(EditSettings(mode) for mode in cli._MODES)
    assert set(cli._PICTURES) <= set(Figure().canvas.get_supported_filetypes())


@pytest.mark.parametrize("arguments", [["--help"], ["info", "{saved}"]])
def test_output_that_nobody_reads_ends_quietly(saved, arguments):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-m", "migvis", *(a.format(saved=saved) for a in arguments)], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert done.returncode in (0, 141) and done.stderr == "" # argparse itself passes over help that nobody reads


@pytest.mark.parametrize("error, told", [(MemoryError(), "not enough memory"), (RuntimeError("CUDA out of memory. Tried"), "CUDA out of memory"),
                                         (RuntimeError("DefaultCPUAllocator: can't allocate memory: you"), "not enough memory"), (RuntimeError("a bug"), None)])
def test_a_lack_of_memory_is_told_and_a_bug_keeps_its_traceback(monkeypatch, capsys, error, told):
    from migvis import cli
    def fail(): raise error
    monkeypatch.setattr(cli, "_build_parser", lambda: SimpleNamespace(parse_args=lambda a: SimpleNamespace(function=fail)))
    if told is None:
        with pytest.raises(RuntimeError, match="a bug"): main([])
    else: assert main([]) == 2 and told in capsys.readouterr().err


def test_help_and_version():
    done = migvis("--help")
    assert done.returncode == 0
    for command in ("demo", "fit", "edit", "latents", "explore", "selectivity", "null", "stability", "compare", "scores", "information", "figures", "convert", "info"): assert command in done.stdout
    assert migvis("--version").stdout.startswith("migvis 0.")
    assert migvis("nonsense").returncode == 2


@pytest.mark.parametrize("text, value", [("trials=False", False), ("trials=TRUE", True), ("region=None", None), ("region=null", None), ("size=32", 32),
                                         ("subject=M1", "M1"), ("window=[0.1, 0.2]", [0.1, 0.2]), ("name=a=b", "a=b")])
def test_options_of_loaders_are_values(text, value):
    assert _option(text) == (text.partition("=")[0], value)


def test_no_command_takes_a_seed_that_it_does_not_use(capsys):
    call = lambda command, *more: _build_parser().parse_args([command, "--run", "a", "--out", "b", "--quiet", *more])
    with pytest.raises(SystemExit): call("figures", "--seed", "1")
    assert "--seed" in capsys.readouterr().err and call("figures").quiet
    assert call("compare", "--seed", "7").seeds == [7] and not hasattr(call("compare"), "seed") # short for --seeds


def test_parser_knows_every_command():
    assert _build_parser().parse_args(["demo"]).out.name == "migvis-demo"


def test_commands_to_copy_are_quoted_and_numbers_are_checked(tmp_path, saved, capsys, fitted):
    run, printed = fitted
    assert f"migvis edit --run '{run}' --original" in printed
    common = ["edit", "--run", str(run), "--original", "1", "--target", "3", "--out", str(tmp_path / "e.png"), "--quiet", "--device", "cpu"]
    assert main([*common, "--autoguidance", "2"]) == 2 and "needs a weaker denoiser" in capsys.readouterr().err
    assert main([*common, "--groups", "5"]) == 2 and "group" in capsys.readouterr().err
    assert main(["convert", str(saved), "--format", "cowley-v4", "--out", str(tmp_path)]) == 2 and "is a folder" in capsys.readouterr().err


def test_a_note_is_printed_once(monkeypatch, capsys, tmp_path):
    import warnings

    from migvis import cli
    def twice():
        for text in ("one", "two", "one"): warnings.warn(text)
    monkeypatch.setattr(cli, "_build_parser", lambda: SimpleNamespace(parse_args=lambda a: SimpleNamespace(function=twice)))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main([]) == 0
    assert capsys.readouterr().err.count("note: one") == 1


def test_saved_weights_can_be_read_by_whom_other_files_can(tmp_path):
    import torch

    from migvis.support.files import save_tensors
    path = save_tensors(tmp_path / "w.safetensors", {"a": torch.zeros(2)}, {"kind": "x"})
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_compare_takes_what_few_images_need(monkeypatch, tmp_path):
    asked = {}
    monkeypatch.setattr("migvis.compare.ablations._main", lambda *arguments, **options: asked.update(options) or [])
    options = ["--pairs", "5", "--n-validation", "4", "--n-ablation", "3", "--min-angle", "20"]
    assert main(["compare", "--run", "run", "--out", str(tmp_path), *options]) == 0
    assert {k: asked[k] for k in ("n_pairs", "n_validation", "n_ablation", "min_angle")} == {"n_pairs": 5, "n_validation": 4, "n_ablation": 3, "min_angle": 20}


def test_supervision_is_named_on_the_command_line():
    labels = pd.DataFrame({"category": ["a", "b"], "x": [0.0, 1.0], "turn": [3, 170]})
    terms = cli._supervision(["place=x", "kind=category", "stripes=turn:180"], labels)
    assert [(type(term).__name__, term.group, term.columns) for term in terms] == [
        ("Continuous", 1, ("x",)), ("Categorical", 2, ("category",)), ("Continuous", 3, ("turn",))] and terms[2].period == 180
    assert cli._supervision(["none"], labels) == ()
    for bad, told in (("pose=rxy", "got rxy"), ("pose", "got pose"), ("a=category,x", "classes are one column")):
        with pytest.raises(ValueError, match=told): cli._supervision([bad], labels)


def test_latents_are_a_table(tmp_path, fitted):
    run, _ = fitted
    assert main(["latents", "--run", str(run), "--out", str(tmp_path / "z.csv"), "--quiet"]) == 0
    table = pd.read_csv(tmp_path / "z.csv")
    assert {"split", "category", "z1.1", "z4.6"} <= set(table) and set(table["split"]) == {"train", "validation", "test"}
    assert main(["explore", "--run", str(run), "--out", str(tmp_path / "x.html"), "--steps", "2", "--quiet"]) == 0
    pages = [(tmp_path / "x.html").read_text()]
    assert main(["explore", "--run", str(run), "--out", str(tmp_path / "x.html"), "--original", "0", "--target", "1", "--steps", "2", "--draws", "2", "--quiet"]) == 0
    pages.append((tmp_path / "x.html").read_text())
    assert [json.loads(re.search(r'"draw":(\[[0-9,]+\])', page)[1]) for page in pages] == [[0], [0, 1]]


@pytest.mark.parametrize("options, precision", [([], "float32"), (["--precision", "bfloat16"], "bfloat16")])
def test_precision_is_that_of_the_denoiser(tmp_path, saved, monkeypatch, options, precision):
    from migvis import MIGVis
    fitted = []
    def fit(self, *_, **__): raise ValueError(fitted.append(self.preset))
    monkeypatch.setattr(MIGVis, "fit", fit)
    assert main(["fit", "--recording", str(saved), "--out", str(tmp_path / "run"), "--preset", "tiny", *options]) == 2
    assert fitted == [replace(TINY, denoiser=replace(TINY.denoiser, precision=precision))]


def test_help_in_the_chapter_is_todays(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    stored = {arguments: "".join(output.get("text", "") for output in cell.outputs) for cell in nbformat.read(ROOT / "nbs" / "08_cli.ipynb", 4).cells
              if cell.cell_type == "code" and not cell.source.startswith("#|") for arguments in re.findall(r"""main\(\[((?:"[\w-]+", )*"--help")\]\)""", cell.source)}
    assert stored
    for arguments, text in stored.items():
        with pytest.raises(SystemExit): main(json.loads(f"[{arguments}]"))
        assert text.split() == capsys.readouterr().out.split(), f"run the cell of {arguments} in nbs/08_cli again"
