"""Check that migvis/ is what the notebooks export and that the notebooks are clean; run as `python -m tests.check_sync`.

Works on a copy, so that a checkout with changes in progress is neither touched nor refused.
"""
import filecmp
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("nbs", "migvis")
FILES = ("settings.ini", "setup.py", "README.md", "_quarto.yml")


def differing(before: Path, after: Path) -> list[str]:
    "Tracked kinds of files that differ between two copies of the project."
    names = {p.relative_to(root) for root in (before, after) for folder in FOLDERS for p in (root / folder).rglob("*")
             if p.suffix in (".py", ".ipynb") and ".ipynb_checkpoints" not in p.parts}
    same = lambda name: (before / name).is_file() and (after / name).is_file() and filecmp.cmp(before / name, after / name, shallow=False)
    return sorted(str(name) for name in names if not same(name))


def exported_copy(target: Path) -> None:
    "Copy the project, export its notebooks and clean them there."
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, target / folder, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "weights"))
    for name in FILES: shutil.copy(ROOT / name, target / name)
    for command in (["nbdev_export"], ["nbdev_clean"]):
        done = subprocess.run(command, cwd=target, capture_output=True, text=True)
        if done.returncode: sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def main() -> int:
    "0 if everything is in sync, 1 with the list of files otherwise."
    with tempfile.TemporaryDirectory() as folder:
        exported_copy(Path(folder))
        wrong = differing(ROOT, Path(folder))
    if wrong: print("run nbdev_export and nbdev_clean; these are not in sync or not clean:\n  " + "\n  ".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
