"""The rules of this code base that no linter knows: sizes, what a module says of itself, and whether that is true.

That a pure module imports only pure ones of ours, tested here for each module, makes purity hold through all of them.
"""

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("controller", "xds")
IMPURE = frozenset(
    {
        *("asyncio", "concurrent", "multiprocessing", "selectors", "signal", "socket", "subprocess", "threading"),
        *("datetime", "random", "secrets", "time", "uuid"),
        *("logging", "os", "shutil", "tempfile"),
        *("aiohttp", "authlib", "grpc", "prometheus_api_client", "prometheus_client", "requests", "watchfiles"),
    }
)
MAX_FUNCTION_LINES = 60
MAX_MODULE_LINES = 400
MACHINE_PATH = re.compile(r"(?<![\w.$})-])/(?:work|root|tmp|home/\w+)(?=[/\s\"'`:])")
GENERATED = re.compile(r"protos/(?!generate\.py|README\.md)|requirements/.*\.txt")

GENERATORS = [ROOT / "helm/generate.py", ROOT / "protos/generate.py"]
SOURCES = sorted([path for package in OURS for path in (ROOT / package).rglob("*.py")] + GENERATORS)
ALL_PYTHON = SOURCES + sorted((ROOT / "tests").rglob("*.py")) + sorted((ROOT / "benchmarks").rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def says(path: Path) -> str:
    """The first word of a module's docstring."""
    return (ast.get_docstring(parsed(path)) or "nothing").split()[0]


def imports(tree: ast.Module) -> Iterator[str]:
    """Everything imported, anywhere in a module, as dotted names; `from a import b` gives `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_file(dotted: str) -> Path | None:
    """The file of ours that holds the module or name `dotted`."""
    base = ROOT / dotted.replace(".", "/")
    candidates = (
        base.with_suffix(".py"),
        base / "__init__.py",
        base.parent.with_suffix(".py"),
        base.parent / "__init__.py",
    )
    return next((path for path in candidates if path.is_file()), None)


def impurities(tree: ast.Module) -> list[str]:
    """What a pure module must not import, of what this one does."""
    found = []
    for dotted in imports(tree):
        package = dotted.split(".")[0]
        file = module_file(dotted) if package in OURS else None
        if package in IMPURE or (file and says(file) != "Pure:"):
            found.append(dotted)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_module_says_whether_it_is_pure_or_a_shell(path: Path) -> None:
    assert says(path) in {"Pure:", "Shell:"}


@pytest.mark.parametrize("path", [path for path in SOURCES if says(path) == "Pure:"], ids=name_of)
def test_a_pure_module_imports_only_what_is_pure(path: Path) -> None:
    assert impurities(parsed(path)) == []


@pytest.mark.parametrize("path", ALL_PYTHON, ids=name_of)
def test_a_function_fits_on_a_screen(path: Path) -> None:
    functions = (node for node in ast.walk(parsed(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    lines = {function.name: (function.end_lineno or 0) - function.lineno + 1 for function in functions}

    assert {name: count for name, count in lines.items() if count > MAX_FUNCTION_LINES} == {}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_module_is_short_enough_to_be_read_at_once(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_MODULE_LINES


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so which files belong to it is unknown")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    names = [name for name in listed.split("\0") if name and not GENERATED.match(name) and (ROOT / name).is_file()]
    lines = (
        f"{name}:{number}: {line.strip()}"
        for name in names
        for number, line in enumerate((ROOT / name).read_text(errors="replace").splitlines(), 1)
        if MACHINE_PATH.search(line)
    )
    assert list(lines) == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import json, time", ["time"]),
        ("from os import path", ["os.path"]),
        ("def f():\n    import asyncio.events", ["asyncio.events"]),
        ("from controller import __version__", []),
        ("from google.protobuf import any_pb2", []),
    ],
)
def test_the_check_of_purity_sees_every_form_of_import(source: str, expected: list[str]) -> None:
    assert impurities(ast.parse(source)) == expected


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("see /" + "work/main/x", True),
        ('Path("/' + 'tmp/x")', True),
        ("/" + "home/somebody/x", True),
        ("https://example.com/work/x", False),
        ("$HOME/work/x", False),
        ("/var/run/secrets", False),
    ],
)
def test_the_check_of_paths_knows_them_from_addresses(line: str, found: bool) -> None:
    assert bool(MACHINE_PATH.search(line)) == found
