"""The project's own rules: export in sync, order of imports, size of cells and notebooks, README, packaging."""
import ast
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser

import pytest
import yaml

from tests import check_sync, make_readme
from tests import measure_house as house
from tests.conftest import ROOT

NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
MODULES = sorted(p for p in (ROOT / "migvis").rglob("*.py") if not p.stem.startswith("_"))
NAMES = {".".join(p.relative_to(ROOT / "migvis").with_suffix("").parts): p for p in MODULES}


def cells(notebook, kind="code"):
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == kind: yield "".join(cell["source"])


SETUP = [sys.executable, "setup.py", "-q"]


def exports(source): return bool(re.search(r"^#\s*\|\s*export", source, re.M))


def test_library_is_what_the_notebooks_export_and_notebooks_are_clean(tmp_path):
    check_sync.exported_copy(tmp_path)
    assert check_sync.differing(ROOT, tmp_path) == []


def test_check_sync_sees_a_difference(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "migvis").mkdir(parents=True), (tmp_path / name / "nbs").mkdir()
        (tmp_path / name / "migvis" / "x.py").write_text(name)
    assert check_sync.differing(tmp_path / "a", tmp_path / "b") == ["migvis/x.py"]


@pytest.mark.parametrize("name", NAMES)
def test_chapters_look_back_and_nothing_below_the_model_knows_it(name):
    source = house.typed_imports(NAMES[name].read_text(encoding="utf-8"))
    assert house.forbidden(name, house.imported_modules(name, source, set(NAMES))) == set()


def test_wrong_imports_and_circles_are_seen():
    known = {"denoiser", "model", "data", "vae", "measure.edits"}
    assert house.forbidden("vae", house.imported_modules("vae", "from .denoiser import x", known)) == {"denoiser"}
    lazy = house.imported_modules("measure.edits", "def f():\n    from ..model import MIGVis", known)
    assert house.forbidden("measure.edits", lazy) == {"model"}
    assert house.forbidden("support.files", {"data"}) == {"data"} and house.forbidden("denoiser", {"vae", "support.files"}) == set()
    assert house.circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == {"a", "b", "c"}


def test_importing_migvis_is_cheap():
    code = "import sys, migvis; print([m for m in ('torch', 'diffusers', 'sklearn', 'trimesh', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_form(notebook):
    text = notebook.read_text(encoding="utf-8")
    assert len(text) < 2_000_000, "a notebook must stay under 2 MB"
    assert '"ename"' not in text, "an output is an error"
    assert not re.search(r"(/home/|/Users/|/r[o]ot/|/tmp/)[\w.]", text), "an output names a folder of somebody's machine"
    first = next(cells(notebook, "markdown"))
    assert re.fullmatch(r"# [^\n]+\n+> [^\n]+\n*", first), "the first cell must be the title and one line, nothing else"
    for source in cells(notebook):
        imports = re.findall(r"^(?:import|from) ", source, re.M)
        lines = [line for line in source.splitlines() if line.strip() and not line.startswith("#")]
        if exports(source) and imports and "TYPE_CHECKING" not in source:
            body = ast.parse(source).body
            assert all(isinstance(n, (ast.Import, ast.ImportFrom, ast.If, ast.Try, ast.Expr)) for n in body), f"imports mixed with code:\n{lines[:3]}"


def faults(source):
    "What is wrong with the functions of a module: documentation of public ones that are not nested, types, length."
    tree, found = ast.parse(source), []
    for f in (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))):
        arguments = [a for a in (*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs) if a.arg not in ("self", "cls")]
        public, outer = not f.name.startswith("_"), f in tree.body
        if public and outer and "\n" in (ast.get_docstring(f) or "\n"): found.append(f"{f.name} has no docstring of one line")
        if public and outer and f.returns is None: found.append(f"{f.name}: what it returns has no type")
        found += [f"{f.name}: {a.arg} has no type" for a in arguments if public and a.annotation is None]
        if f.end_lineno - f.lineno > 62: found.append(f"{f.name} is {f.end_lineno - f.lineno} lines long")
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda p: p.stem)
def test_functions_are_documented_annotated_and_short(module): assert faults(module.read_text(encoding="utf-8")) == []


def test_faults_of_functions_are_seen():
    body = "    pass\n" * 63
    assert faults('def f(a: int) -> int:\n    "One line."\n    return a\n') == [] == faults("def _f(a): pass\n")
    assert faults("def f() -> None: pass\n") == ["f has no docstring of one line"] == faults('def f() -> None:\n    "One\\ntwo."\n')
    assert faults('def f(a):\n    "One line."\n') == ["f: what it returns has no type", "f: a has no type"]
    assert faults(f"def _f():\n{body}") == ["_f is 63 lines long"]


@pytest.mark.parametrize("module", MODULES, ids=lambda p: p.stem)
def test_public_functions_have_docstrings(module):
    tree = ast.parse(module.read_text(encoding="utf-8"))
    missing = [n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith("_") and not ast.get_docstring(n)]
    assert missing == []


@pytest.fixture(scope="module")
def numbers(): return house.measure()


@pytest.mark.parametrize("name", house.GOALS)
def test_the_house_keeps_its_goals(numbers, name): assert numbers[name] <= house.GOALS[name]


def test_readme_is_current():
    assert (ROOT / "README.md").read_text(encoding="utf-8") == make_readme.readme(), "run python -m tests.make_readme"


def test_readme_pictures_and_notebooks_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for picture in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text): assert (ROOT / picture).is_file(), picture
    index = (ROOT / "nbs" / "index.ipynb").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(([\w/]+\.ipynb)\)", index))
    assert linked >= {str(n.relative_to(ROOT / "nbs")) for n in NOTEBOOKS if n.stem != "index"}


def test_sidebar_lists_every_notebook():
    listed = re.findall(r"([\w/]+\.ipynb)", (ROOT / "nbs" / "sidebar.yml").read_text())
    assert sorted(listed) == sorted(str(n.relative_to(ROOT / "nbs")) for n in NOTEBOOKS)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    "The source archive."
    pytest.importorskip("setuptools")
    folder, ignored = tmp_path_factory.mktemp("archive"), shutil.ignore_patterns(".git", "build", "*.egg-info", "__pycache__", ".venv")
    source = shutil.copytree(ROOT, folder / "source", ignore=ignored)
    subprocess.run([*SETUP, "sdist", "--dist-dir", str(folder)], cwd=source, check=True, capture_output=True, timeout=300)
    return next(folder.glob("migvis-*.tar.gz"))


@pytest.fixture(scope="module")
def wheel(archive):
    "What pip builds of it."
    build = "wheel --quiet --no-deps --no-index --no-build-isolation --wheel-dir".split()
    subprocess.run([sys.executable, "-m", "pip", *build, str(archive.parent), str(archive)], check=True, timeout=300)
    return next(archive.parent.glob("migvis-*.whl"))


def test_wheel_holds_what_is_needed_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {str(m.relative_to(ROOT)) for m in MODULES} <= set(names)
    assert "migvis/simulate/objects.npz" in names
    assert {"migvis/migvis.mplstyle", "migvis/explorer.css", "migvis/explorer.js", "migvis/py.typed"} <= set(names)
    assert not [n for n in names if n.startswith(("tests/", "nbs/", "benchmarks/", "tools/"))]
    metadata = zipfile.ZipFile(wheel).read(next(n for n in names if n.endswith("METADATA"))).decode()
    assert re.search(r"Requires-Dist: torch\S*>=2\.4", metadata) and 'extra == "data"' in metadata
    entry = zipfile.ZipFile(wheel).read(next(n for n in names if n.endswith("entry_points.txt"))).decode()
    assert "migvis=migvis.cli:main" in entry.replace(" ", "")


def test_source_archive_can_be_installed_and_imported(archive, wheel, tmp_path):
    shutil.unpack_archive(archive, tmp_path / "unpacked")
    unpacked = next((tmp_path / "unpacked").iterdir())
    assert {"settings.ini", "setup.py", "README.md", "LICENSE", "SECURITY.md", "CHANGELOG.md"} <= {p.name for p in unpacked.iterdir()}
    said = subprocess.run([*SETUP, "--version"], cwd=unpacked, check=True, capture_output=True, text=True).stdout
    assert said.split()[-1] == settings()["version"]
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(tmp_path / "there")]
    subprocess.run([*install, str(wheel)], check=True, timeout=300)
    code = "import migvis, migvis.cli; print(migvis.__file__)"
    told = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path / "there")}, capture_output=True, text=True, check=True)
    assert told.stdout.startswith(str(tmp_path / "there")) and (tmp_path / "there" / "migvis" / "explorer.js").is_file()


def settings():
    parser = ConfigParser(delimiters=["="], interpolation=None)
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    return parser["DEFAULT"]


def declared():
    "Requirements with their bounds: of the package, and of all extras."
    extras = re.findall(r'(?:"|\s)([A-Za-z][\w-]*[<>]=[^"\s]*)', (ROOT / "setup.py").read_text().split("setup(")[0])
    return settings()["requirements"].split(), settings()["dev_requirements"].split() + extras


def test_every_requirement_has_bounds_on_both_sides():
    own, extras = declared()
    assert len(own) > 10 and any(r.startswith("h5py") for r in extras) and any(r.startswith("timm") for r in extras)
    assert [r for r in own + extras if not re.fullmatch(r"[\w-]+>=[\w.]+,<[\d.]+", r)] == []


def packages(node):
    "Packages that an import names; none for other statements, and for imports within ours."
    names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
    return {name.split(".")[0] for name in names}


def imported(files):
    "Packages from elsewhere that some files import, with where."
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            for name in packages(node) - sys.stdlib_module_names - {"migvis", "tests", "tools", "setuptools"}: yield name, file.name


@pytest.mark.parametrize("files, extras", [(MODULES, False), (sorted((ROOT / "tests").rglob("*.py")), True)], ids=["library", "tests"])
def test_what_is_imported_is_declared(files, extras):
    own, more = declared()
    known = {re.split("[<>=]", r)[0].lower().replace("_", "-") for r in own + more}
    belongs = {"sklearn": "scikit-learn", "PIL": "pillow", "yaml": "pyyaml"}
    assert {(n, f) for n, f in imported(files) if belongs.get(n, n).lower().replace("_", "-") not in known} == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_what_takes_seconds_to_load_is_loaded_where_it_is_used(path):
    at_top = set().union(*map(packages, ast.parse(path.read_text(encoding="utf-8")).body))
    assert at_top & {"torchvision", "seaborn", "diffusers", "transformers"} == set()


@pytest.mark.parametrize("workflow", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda p: p.stem)
def test_workflows_use_fixed_actions_and_few_rights(workflow):
    text = workflow.read_text(encoding="utf-8")
    assert [line for line in re.findall(r"uses: (.*)", text) if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)] == []
    whole, jobs = yaml.safe_load(text), yaml.safe_load(text)["jobs"]
    assert set(whole["permissions"].items()) <= {("contents", "read")}, "a job that needs more says so itself"
    assert all("write" not in job.get("permissions", {}).values() or name == "deploy" for name, job in jobs.items())
    assert all(step["with"]["persist-credentials"] is False for job in jobs.values() for step in job["steps"] if "checkout" in step.get("uses", ""))


def test_nothing_unpickles():
    for module in MODULES:
        text = module.read_text(encoding="utf-8")
        assert not re.search(r"^\s*(import|from) pickle|pickle\.(load|dump)|torch\.load\(|allow_pickle=True", text, re.M), module.name


def test_no_name_is_used_that_nobody_defined():
    "Slow cells run in no test, so a name that lost its import would be found by a reader."
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", "--output-format", "concise",
               "nbs", "migvis", "tests", "tools", "benchmarks"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
