"""The repository's root is the package: what that asks of folders, imports and files."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest

import laconic

ROOT = Path(__file__).resolve().parents[1]
PACKAGE_FOLDERS = ("train", "rewards", "rollout", "kernels", "eval", "configs")
MAX_LINES = 400

ALLOWED = {
    "kernels": {"kernels", "errors"},
    "rewards": {"rewards", "errors"},
    "rollout": {"rollout", "kernels", "errors"},
    "eval": {"eval", "rollout", "rewards", "errors", "atomic", "locking"},
    "train": {"train", "eval", "rollout", "rewards", "kernels", "errors", "atomic", "locking", "__version__"},
}
"""What each folder may import of the package."""


def package_files() -> list[Path]:
    inner = [path for folder in PACKAGE_FOLDERS for path in (ROOT / folder).rglob("*.py")]
    return sorted([*ROOT.glob("*.py"), *inner])


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every imported module as a dotted name, and whether the import was relative: then the name starts at the root."""
    here = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or "", False
        elif isinstance(node, ast.ImportFrom):
            base = [*here[: len(here) - node.level + 1], *(node.module.split(".") if node.module else [])]
            yield from ((".".join([*base, alias.name]), True) for alias in node.names)


def run_python(code: str) -> str:
    """Run ``code`` with the root as the current folder, which ``-c`` puts first on ``sys.path``."""
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr[-2000:]
    return answer.stdout.strip()


def test_kernels_has_no_init_file_so_that_it_never_shadows_the_installed_package() -> None:
    assert (ROOT / "kernels").is_dir()
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_transformers_and_trl_import_from_the_root_beside_the_installed_package_kernels() -> None:
    assert metadata.version("kernels"), "the Hugging Face package `kernels` is a part of the dev extra"
    where = run_python(
        "import kernels, transformers, trl\n"
        "from transformers import AutoModelForCausalLM\n"
        "from trl import GRPOTrainer\n"
        "print(kernels.__file__)"
    )
    assert "site-packages" in where, f"`kernels` was taken from {where}"


def test_tests_and_benchmarks_import_the_package_by_its_name_only() -> None:
    inner = {path.stem for path in ROOT.glob("*.py")} | set(PACKAGE_FOLDERS) | {"benchmarks", "tests"}
    outside = [path for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    assert outside
    # `kernels` as an absolute name is the Hugging Face package.
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in outside
        for name, relative in imports(path)
        if relative or name.split(".")[0] in inner - {"kernels"}
    ]
    assert not wrong, f"write laconic.<name>: {wrong}"


def test_imports_inside_the_package_are_relative() -> None:
    inner = {"laconic", *(path.stem for path in ROOT.glob("*.py")), *PACKAGE_FOLDERS} - {"kernels"}
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in package_files()
        for name, relative in imports(path)
        if not relative and name.split(".")[0] in inner
    ]
    assert not wrong


@pytest.mark.parametrize("folder", sorted(ALLOWED))
def test_a_folder_imports_only_what_lies_below_it(folder: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in (ROOT / folder).rglob("*.py")
        for name, relative in imports(path)
        if relative and (name.split(".")[0] not in ALLOWED[folder] or is_report(name) and folder == "train")
    ]
    assert not wrong, f"{folder} may import {sorted(ALLOWED[folder])}: {wrong}"


def is_report(name: str) -> bool:
    return name.startswith("eval.report")


def test_one_file_imports_vllm() -> None:
    users = {
        path.relative_to(ROOT).as_posix()
        for path in package_files()
        for name, relative in imports(path)
        if not relative and name.split(".")[0] == "vllm"
    }
    assert users <= {"rollout/engines/vllm_colocated.py"}


@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_training_imports_trl_without_its_vllm() -> None:
    loaded = run_python(
        "import sys\n"
        "from trl import import_utils\n"
        "from laconic.train.trl_trainer import GRPOTrainer\n"
        "print('vllm' in sys.modules, import_utils.is_vllm_available())"
    )
    assert loaded.split()[-2:] == ["False", "True"]


def test_one_file_subclasses_trl() -> None:
    users = {path.relative_to(ROOT).as_posix() for path in package_files() if subclasses_trl(path)}
    assert users == {"train/trainer.py"}


def subclasses_trl(path: Path) -> bool:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {"trl"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("trl", "trl_trainer"):
            names |= {alias.asname or alias.name for alias in node.names}
    bases = [base for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for base in node.bases]
    return any(isinstance(inner, ast.Name) and inner.id in names for base in bases for inner in ast.walk(base))


def test_cheap_modules_import_no_torch() -> None:
    rewards = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / "rewards").rglob("*.py")]
    modules = [
        ".".join(("laconic", *path.parts)).removesuffix(".__init__") for path in rewards if path.name != "__main__"
    ]
    names = sorted({"laconic", "laconic.cli", "laconic.errors", *modules})
    loaded = run_python(
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        "    heavy = sorted({'torch', 'transformers', 'trl', 'vllm'} & set(sys.modules))\n"
        "    if heavy:\n"
        "        sys.exit(f'{name} imports {heavy}')\n"
        "print(len(sys.modules))"
    )
    assert int(loaded) > 0


def test_every_public_name_is_there_and_listed_once() -> None:
    assert sorted(laconic.__all__) == sorted({*laconic._HOME, "__version__"})
    for name in laconic.__all__:
        assert getattr(laconic, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = laconic.nonsense


def test_the_version_is_said_once() -> None:
    assert laconic.__version__ == project()["project"]["version"]


def test_the_list_of_packages_names_every_folder_with_code() -> None:
    listed = {name.removeprefix("laconic").lstrip(".").replace(".", "/") for name in packages()}
    with_code = {path.parent.relative_to(ROOT).as_posix() for path in package_files() if path.parent != ROOT}
    assert with_code <= listed, f"add to tool.setuptools.packages: {sorted(with_code - listed)}"
    absent = [name for name in listed if not (ROOT / name).is_dir()]
    assert not absent, f"listed in tool.setuptools.packages, but no such folder: {absent}"


def packages() -> list[str]:
    return project()["tool"]["setuptools"]["packages"]


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_direct_dependency_has_a_tested_version() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    tested = {normal(line.partition("==")[0]) for line in lines if "==" in line}
    wanted = {normal(name) for name in project()["project"]["dependencies"]}
    assert wanted <= tested, f"add to constraints.txt: {sorted(wanted - tested)}"


def normal(requirement: str) -> str:
    """The name of a requirement in one spelling."""
    name = requirement
    for separator in "<>=[;! ":
        name = name.split(separator)[0]
    return name.lower().replace("_", "-")


def test_files_stay_short_and_have_a_name_of_their_own() -> None:
    files = [*package_files(), *(ROOT / "benchmarks").rglob("*.py")]
    long = {
        path.relative_to(ROOT).as_posix(): lines
        for path in files
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MAX_LINES
    }
    assert not long, f"over {MAX_LINES} lines: {long}; look for a second idea in them"
    assert not [path for path in files if path.stem == "utils"]
