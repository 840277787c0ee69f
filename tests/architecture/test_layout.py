"""The shape of the repository: what import-linter can't see."""

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = sorted(path for path in ROOT.glob("*/*/src/*") if path.is_dir() and path.parts[-4] in ("shared", "services"))
MODULES = [module for package in PACKAGES for module in sorted(package.rglob("*.py"))]
SERVICES = ["hilum_listener", "hilum_worker", "hilum_results", "hilum_console"]


def tracked() -> list[Path]:
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listing.splitlines() if (ROOT / name).is_file()]


def test_no_module_has_a_name_that_says_nothing() -> None:
    forbidden = {"common", "utils", "util", "helpers", "helper", "core", "base", "misc"}
    assert [str(m.relative_to(ROOT)) for m in MODULES if m.stem in forbidden or m.parent.name in forbidden] == []


def test_every_module_says_what_it_is_for() -> None:
    bare = [m for m in MODULES if m.name != "py.typed" and not ast.get_docstring(ast.parse(m.read_text()))]
    assert [str(m.relative_to(ROOT)) for m in bare] == []


def test_the_top_level_holds_what_was_agreed() -> None:
    agreed = {"services", "shared", "charts", "triton_models", "migrations", "tests", "docs", ".ci", "requirements"}
    found = {path.relative_to(ROOT).parts[0] for path in tracked() if len(path.relative_to(ROOT).parts) > 1}
    assert found <= agreed


def test_no_file_names_a_package_registry_host() -> None:
    host = re.compile(r"https?://[a-z0-9.-]*(pypi|pythonhosted|npmjs|maven|golang|crates|debian)[a-z0-9.-]*", re.I)
    small = [path for path in tracked() if path.stat().st_size < 2_000_000 and path.name != "LICENSE"]
    naming = [path for path in small if host.search(path.read_text(errors="replace"))]
    assert [str(path.relative_to(ROOT)) for path in naming if path != Path(__file__)] == []


@pytest.mark.parametrize("service", [*SERVICES, "hilum_standalone"])
def test_importing_a_service_connects_to_nothing_and_never_loads_torch(service: str) -> None:
    program = (
        "import socket, sqlite3, sys\n"
        "def refuse(*a, **k): raise AssertionError('a connection at import')\n"
        "socket.socket.connect = refuse; sqlite3.connect = refuse\n"
        f"import {service}.__main__\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-800:]


def test_nothing_that_comes_from_outside_is_evaluated() -> None:
    """Rules, headers and messages are data: no module evaluates text, unpickles bytes or starts a shell."""
    evaluates = re.compile(r"(?<![\w.])(eval|exec)\(|\bpickle\.loads?\(|os\.system\(|shell=True|yaml\.load\(")
    offline = [m for m in MODULES if "hilum_modelops" not in m.parts]
    assert [str(m.relative_to(ROOT)) for m in offline if evaluates.search(m.read_text())] == []


def test_no_file_outside_modelops_imports_torch() -> None:
    torch = re.compile(r"^\s*(import|from) (torch|transformers)\b", re.M)
    importing = [m for m in MODULES if "hilum_modelops" not in m.parts and torch.search(m.read_text())]
    assert [str(m.relative_to(ROOT)) for m in importing] == []


def required(name: str) -> set[str]:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return {re.sub(r"[-_.]+", "-", line).lower() for line in re.findall(r"^([A-Za-z0-9._-]+)==", text, re.M)}


def imported(module: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(module.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    froms = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.split(".")[0] for name in plain | froms}


def test_every_import_comes_from_a_pinned_requirement() -> None:
    """A package that happens to lie in one developer's environment is missing on every other machine."""
    ours = {package.name for package in PACKAGES}
    pinned = required("product") | required("test") | required("fuzz")
    origins = packages_distributions()
    tests = [path for path in (ROOT / "tests").rglob("*.py") if "fixtures" not in path.parts]
    beside = {path.stem for path in tests}
    unpinned = {}
    for module in [*MODULES, *tests]:
        offline = "modelops" in str(module) or "tools" in module.parts
        foreign = imported(module) - set(sys.stdlib_module_names) - ours - beside
        allowed = pinned | (required("train") if offline else set())
        for name in sorted(foreign):
            known = {re.sub(r"[-_.]+", "-", origin).lower() for origin in origins.get(name, [name])}
            if not known & allowed:
                unpinned[str(module.relative_to(ROOT))] = name
    assert unpinned == {}
