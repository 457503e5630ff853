"""Packaging of migvis: everything is read from settings.ini, so that a fact stands in one place."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
STATUS = {"3": "3 - Alpha", "4": "4 - Beta", "5": "5 - Production/Stable"}

cfg = ConfigParser(delimiters=["="], interpolation=None)
cfg.read(HERE / "settings.ini", encoding="utf-8")
cfg = cfg["DEFAULT"]

data_extra = "h5py>=3.10,<4 h5netcdf>=1.3,<2 xarray>=2024.1,<2027 pooch>=1.8,<2 pynwb>=2.8,<5 remfile>=0.1.13,<1 requests>=2.31,<3 urllib3>=1.26,<3".split()
dino_extra = ["timm>=1.0,<2"]
dev_extra = cfg["dev_requirements"].split() + data_extra + dino_extra

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    license="Apache-2.0",
    keywords=cfg["keywords"],
    python_requires=f">={cfg['min_python']}",
    packages=find_packages(include=["migvis", "migvis.*"]),
    package_data={"migvis": ["*.mplstyle", "explorer.*", "model_card.md", "py.typed", "weights/*", "simulate/objects.npz"]},
    install_requires=cfg["requirements"].split(),
    extras_require={"data": data_extra, "dino": dino_extra, "dev": dev_extra},
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        "nbdev": [f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"],
    },
    classifiers=[
        f"Development Status :: {STATUS[cfg['status']]}",
        "Intended Audience :: Science/Research",
        "Natural Language :: English",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    zip_safe=False,
)
