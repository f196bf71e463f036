import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest

import clbench

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
NOT_OURS = {"build", "dist"}
HEAVY = ("torch", "torchvision", "pandas", "matplotlib", "seaborn", "mlflow", "avalanche", "sklearn", "scipy", "numpy")
# What is read at run time beside the modules: the reports' templates and references, and the published numbers.
DATA_FILES = [
    *(ROOT / "reports" / "templates").iterdir(),
    ROOT / "reports" / "references.bib",
    ROOT / "clbench" / "py.typed",
    *(ROOT / "clbench" / "suites").glob("*.toml"),
]


def folder_of(package):
    """Where a package lies: as `package-dir` says of it, else below its parent."""
    parent, _, name = package.rpartition(".")
    below = f"{folder_of(parent)}/{name}" if parent else name
    return SETUPTOOLS["package-dir"].get(package, below)


def isolated(code, *first_on_path, cwd):
    """Runs code where no `.pth` file, and so no editable install, is heeded; returns what it printed."""
    path = os.pathsep.join([*map(str, first_on_path), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run([sys.executable, "-S", "-c", code], cwd=cwd, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


def project_name(requirement):
    return re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9._-]+", requirement)[0]).lower()


def numbers(version):
    return [int(part) for part in re.findall(r"\d+", version)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel's path, built offline from a copy of what the project consists of."""
    pytest.importorskip("setuptools", minversion="77", reason="building a wheel needs setuptools 77 or newer")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for package in SETUPTOOLS["packages"]:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder_of(package), source / folder_of(package), ignore=ignored, dirs_exist_ok=True)
    for name in ("pyproject.toml", PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]):
        shutil.copy(ROOT / name, source / name)
    code = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    run = subprocess.run([sys.executable, "-c", code, str(target)], cwd=source, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (built,) = target.glob("*.whl")
    return built


def test_the_list_of_packages_names_every_folder_that_is_one():
    folders = [path for path in ROOT.iterdir() if not path.name.startswith(".") and path.name not in NOT_OURS]
    on_disk = {init.parent.relative_to(ROOT).as_posix() for path in folders for init in path.rglob("__init__.py")}
    assert {folder_of(package) for package in SETUPTOOLS["packages"]} == on_disk
    assert len(SETUPTOOLS["packages"]) == len(on_disk)


def test_no_global_name_but_clbench_is_claimed():
    assert {package.partition(".")[0] for package in SETUPTOOLS["packages"]} == {"clbench"}


def test_the_tests_are_no_package():
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_the_version_is_the_same_in_both_places():
    assert PROJECT["project"]["version"] == clbench.__version__


def test_a_checkout_that_was_never_installed_imports_all_packages(tmp_path):
    code = (
        "import clbench, clbench.strategies, clbench.reports, clbench.baselines.naive as naive\n"
        "print(clbench.__file__, clbench.strategies.__file__, clbench.reports.__file__, naive.__file__)"
    )
    assert isolated(code, ROOT, cwd=tmp_path) == [
        str(ROOT / place)
        for place in ("clbench/__init__.py", "strategies/__init__.py", "reports/__init__.py", "baselines/naive.py")
    ]


def test_the_command_line_answers_before_anything_heavy_is_imported():
    code = f"import sys, clbench.cli; print(*(name for name in {HEAVY} if name in sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


@pytest.mark.parametrize("requirement", PROJECT["project"]["dependencies"])
def test_every_dependency_is_pinned_within_its_bounds(requirement):
    check_pin(requirement)


@pytest.mark.parametrize("requirement", PROJECT["project"]["optional-dependencies"]["dev"])
def test_every_tool_of_development_is_pinned_within_its_bounds(requirement):
    check_pin(requirement)


def check_pin(requirement):
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    versions = {project_name(name): version for name, version in pins.items()}
    pinned = numbers(versions[project_name(requirement)])
    for operator, bound in re.findall(r"(>=|<)([\d.]+)", requirement):
        assert (pinned >= numbers(bound)) if operator == ">=" else (pinned < numbers(bound))


def test_the_constraints_pin_each_project_once_and_exactly():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+]+", line)] == []
    names = [project_name(line) for line in lines]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("path", DATA_FILES, ids=lambda path: path.name)
def test_every_file_read_at_run_time_is_package_data(path):
    packages = {ROOT / folder_of(package): package for package in SETUPTOOLS["packages"]}
    owner = next(folder for folder in path.parents if folder in packages)
    patterns = SETUPTOOLS["package-data"][packages[owner]]
    assert any(fnmatch(path.relative_to(owner).as_posix(), pattern) for pattern in patterns)


def test_the_wheel_holds_every_module_and_every_data_file_and_nothing_else(wheel):
    expected = {
        f"{package.replace('.', '/')}/{module.name}"
        for package in SETUPTOOLS["packages"]
        for module in (ROOT / folder_of(package)).glob("*.py")
    } | {f"clbench/{path.relative_to(ROOT).as_posix().removeprefix('clbench/')}" for path in DATA_FILES}
    names = zipfile.ZipFile(wheel).namelist()
    assert {name for name in names if ".dist-info/" not in name} == expected


def test_the_wheel_installs_the_command(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (entry_points,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "clbench = clbench.cli:main" in archive.read(entry_points).decode()


def test_the_wheels_content_imports_all_packages_from_its_own_folder(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    code = (
        "import clbench, clbench.strategies, clbench.reports, clbench.baselines.naive\n"
        "print(clbench.__file__, clbench.strategies.__file__, clbench.reports.__file__, *clbench.__path__)"
    )
    package = tmp_path / "installed" / "clbench"
    assert isolated(code, tmp_path / "installed", cwd=tmp_path) == [
        str(package / "__init__.py"),
        str(package / "strategies" / "__init__.py"),
        str(package / "reports" / "__init__.py"),
        str(package),
    ]


@pytest.mark.slow
def test_a_type_checker_knows_what_clbench_gives(tmp_path):
    pytest.importorskip("mypy", reason="mypy checks it")
    (tmp_path / "user.py").write_text(
        "import clbench\n"
        "runs = clbench.run('permuted-digits', ['naive'], range(3))\n"
        "reveal_type(runs)\n"
        "reveal_type(runs[0])\n"
        "reveal_type(clbench.load_suite('permuted-digits').n_tasks)\n"
        "clbench.run(3)\n"
    )
    command = [sys.executable, "-m", "mypy", "--follow-imports=silent", "--ignore-missing-imports", "user.py"]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    found = [line.partition(": ")[2] for line in done.stdout.splitlines()]
    assert found[0] == 'note: Revealed type is "clbench.recorded.Runs"'
    assert found[1] == 'note: Revealed type is "clbench.records.reading.RecordedRun"'
    assert found[2] == 'note: Revealed type is "int"'
    assert found[3].startswith('error: Argument 1 to "run" has incompatible type "int"')


# What a record says of the code


def test_a_checkout_tells_its_commit_and_whether_it_was_changed(tmp_path):
    """Of a clone, so that the state of this checkout has no part in it."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(clone)], check=True)
    commit = subprocess.run(["git", "-C", str(clone), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    ask = "from clbench.records.environment import git_state; print(*map(repr, git_state()))"
    assert isolated(ask, clone, cwd=tmp_path) == [repr(commit.stdout.strip()), "''"]
    (clone / "clbench" / "errors.py").open("a").write("# changed\n")
    found, changes = isolated(ask, clone, cwd=tmp_path)
    assert found == repr(commit.stdout.strip())
    assert len(changes) == 64 + 2


# The rooms

# A module may import what stands in its own line or below.
ORDER = [
    {"errors", "events", "seeding", "metrics"},
    {"own"},
    {"networks"},
    {"suites"},
    {"data"},
    {"methods"},
    {"records"},
    {"tracking"},
    {"export"},
    {"runs"},
    {"screen"},
    {"execution", "search"},
    {"estimate", "bench", "check", "repair"},
    {"strategies", "baselines", "reports"},
    {"recorded"},
    {"cli", "api"},
    {"__main__"},
]


def sources():
    """(path below the root, room, syntax tree) of every module of ours."""
    for folder in ("clbench", "strategies", "baselines", "reports"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT)
            room = name.parts[1].removesuffix(".py") if folder == "clbench" else folder
            yield name.as_posix(), room, ast.parse(path.read_text(encoding="utf-8"))


def imported(tree):
    """The modules of clbench that a module imports, wherever it does; not those that are for types alone."""
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in for_types and node.module:
            yield from (
                [f"clbench.{alias.name}" for alias in node.names] if node.module == "clbench" else [node.module]
            )


def test_imports_point_one_way():
    rank = {room: place for place, rooms in enumerate(ORDER) for room in rooms}
    against = [
        (path, module)
        for path, room, tree in sources()
        if room != "__init__"
        for module in imported(tree)
        if module.startswith("clbench.") and rank.get(module.split(".")[1], 0) > rank[room]
    ]
    assert against == []


def test_no_module_imports_itself_by_way_of_others():
    names = {}
    for path, _, tree in sources():
        name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        names[name if name.startswith("clbench") else f"clbench.{name}"] = {
            node.module for node in tree.body if isinstance(node, ast.ImportFrom) and node.module
        }
    # A package's own file hands on what its modules hold; nothing below it may ask for that.
    finished, path = set(), []

    def visit(name):
        assert name not in path, f"{' imports '.join([*path[path.index(name) :], name])}"
        if name in finished:
            return
        path.append(name)
        for other in sorted(names[name] & names.keys()):
            visit(other)
        path.pop()
        finished.add(name)

    for name in sorted(names):
        visit(name)


def test_no_file_is_too_long_to_be_read_in_one_sitting():
    kinds = ("*.py", "*.toml", "*.j2", "*.typ", "*.css", "*.js")
    folders = ("clbench", "strategies", "baselines", "reports", "benchmarks", "docs")
    files = [path for folder in folders for kind in kinds for path in (ROOT / folder).rglob(kind)]
    long = {
        path.relative_to(ROOT).as_posix() for path in files if len(path.read_text(encoding="utf-8").splitlines()) > 400
    }
    assert long == set()
