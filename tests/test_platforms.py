"""The files for other processors and containers agree with the suite."""

import re
import subprocess
import tomllib

import yaml

from ttt.config.assets import assets
from ttt.config.cluster import ClusterConfig
from ttt.kernels.cpu.build import FLAGS

ROOT = assets()
DOCUMENT = (ROOT / "docs/platforms.md").read_text(encoding="utf-8")


def test_make_arm_compiles_with_the_flags_of_the_kernel() -> None:
    given = re.search(r"^ARM_FLAGS := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert given
    assert {flag for flag in FLAGS if not flag.startswith(("-m", "-fopenmp"))} <= set(given[1].split())


def test_images_install_the_pinned_set_on_a_python_that_is_allowed() -> None:
    allowed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    least = re.findall(r">=([\d.]+)", allowed)[0]
    for name in ("Dockerfile", "ttt-suite.def"):
        text = (ROOT / "containers" / name).read_text(encoding="utf-8")
        assert re.search(rf"^(?:FROM|From:) python:{re.escape(least)}-", text, re.M)
        assert "/bin/pip install --no-cache-dir --constraint constraints.txt ." in text


def test_the_apptainer_image_gets_every_folder_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    files = re.search(r"^%files\n((?:    .*\n)+)", (ROOT / "containers/ttt-suite.def").read_text(), re.M)
    assert files
    wanted = {"ttt", *project["tool"]["setuptools"]["package-dir"].values()}
    wanted |= {"pyproject.toml", "constraints.txt", project["project"]["readme"], *project["project"]["license-files"]}
    assert wanted <= set(files[1].split())


def test_the_apptainer_definition_has_known_sections_of_valid_shell() -> None:
    """The sections are those of Apptainer's user guide, "Definition Files"."""
    head, *parts = re.split(r"^%", (ROOT / "containers/ttt-suite.def").read_text(), flags=re.M)
    headers = dict(line.split(": ") for line in head.splitlines() if line and not line.startswith("#"))
    assert headers.keys() == {"Bootstrap", "From"}
    assert headers["Bootstrap"] == "docker"
    names = [part.split("\n", 1)[0] for part in parts]
    assert len(set(names)) == len(names)
    assert {"files", "post", "environment", "runscript", "test"} == set(names)
    for part in parts:
        name, text = part.split("\n", 1)
        if name != "files":
            checked = subprocess.run(["sh", "-n"], input=text, text=True, capture_output=True)
            assert (checked.returncode, checked.stderr) == (0, ""), name


def test_the_clusters_of_the_document_have_known_keys() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.S)
    assert len(blocks) == 2
    for block in blocks:
        given = yaml.safe_load(block)
        assert given.pop("defaults") == "a100"
        ClusterConfig(**given).check()
