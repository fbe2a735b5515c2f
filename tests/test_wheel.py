"""What is inside the wheel, and that it runs without the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of a copy in a folder of another name, without what git ignores."""
    folder = tmp_path_factory.mktemp("wheel")
    ignore = shutil.ignore_patterns(
        ".git", ".venv", ".typecheck", ".*_cache", ".hypothesis", "__pycache__", "*.egg-info", "build", "dist", "runs"
    )
    shutil.copytree(ROOT, folder / "any-name", ignore=ignore)
    answer = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), "any-name"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, (answer.stdout + answer.stderr)[-3000:]
    (path,) = folder.glob("laconic-*.whl")
    return zipfile.ZipFile(path)


def inside(wheel: zipfile.ZipFile) -> set[str]:
    return {name.removeprefix("laconic/") for name in wheel.namelist() if name.startswith("laconic/")}


def source_files(folder: str, pattern: str = "*") -> set[str]:
    paths = (ROOT / folder).rglob(pattern)
    return {path.relative_to(ROOT).as_posix() for path in paths if path.is_file() and "__pycache__" not in path.parts}


def test_every_setting_file_is_inside(wheel: zipfile.ZipFile) -> None:
    files = source_files("configs")
    assert files and files <= inside(wheel), f"missing: {sorted(files - inside(wheel))}"


def test_the_tiny_thinker_is_inside_whole_and_small(wheel: zipfile.ZipFile) -> None:
    files = source_files("train/thinker/weights")
    assert any(name.endswith(".safetensors") for name in files), "train/thinker/weights holds no weights"
    assert files <= inside(wheel), f"missing: {sorted(files - inside(wheel))}"
    assert sum((ROOT / name).stat().st_size for name in files) < 2.5e6


def test_all_code_templates_and_the_type_marker_are_inside(wheel: zipfile.ZipFile) -> None:
    wanted = {"py.typed", "__init__.py", "cli.py", "errors.py"}
    for folder in ("train", "rewards", "rollout", "kernels", "eval"):
        for pattern in ("*.py", "*.yaml", "*.j2"):
            wanted |= source_files(folder, pattern)
    assert wanted <= inside(wheel), f"missing: {sorted(wanted - inside(wheel))}"


def test_nothing_else_is_inside(wheel: zipfile.ZipFile) -> None:
    folders = {name.split("/")[0] for name in inside(wheel) if "/" in name}
    assert folders <= {"train", "rewards", "rollout", "kernels", "eval", "configs"}
    others = {name.split("/")[0] for name in wheel.namelist()} - {"laconic"}
    assert all(name.endswith(".dist-info") for name in others), others


def test_the_licence_and_the_command_are_declared(wheel: zipfile.ZipFile) -> None:
    (info,) = {name.split("/")[0] for name in wheel.namelist() if name.split("/")[0].endswith(".dist-info")}
    assert wheel.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert "laconic = laconic.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()


def test_the_unpacked_wheel_answers_help_without_the_repository(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path / "site")
    code = (
        "import sys, laconic, laconic.cli\n"
        "print(laconic.__file__, flush=True)\n"
        "sys.argv = ['laconic', '--help']\n"
        "laconic.cli.main()"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert answer.stdout.startswith(str(tmp_path / "site"))
    assert "Usage" in answer.stdout
