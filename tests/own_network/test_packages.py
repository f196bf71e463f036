"""Networks of packages: told by their version where they are installed, and else by their modules."""

import runpy
import sys
from pathlib import Path

import pytest

from clbench.errors import SettingError
from clbench.networks.table import find_network
from clbench.runs.spec import make_specs
from clbench.suites.files import find_suite

NET = runpy.run_path(str(Path(__file__).with_name("texts.py")))["NET"]


@pytest.fixture
def imported_from(monkeypatch):
    """(folder) -> packages of that folder can be imported in the test."""
    before = set(sys.modules)

    def add(folder):
        monkeypatch.syspath_prepend(folder)

    yield add
    for name in [name for name in sys.modules if name.partition(".")[0] == "mynets" and name not in before]:
        del sys.modules[name]


def installed(folder, text, *, editable=False, version="1.2"):
    """A package `mynets` with a module `nets`, as pip leaves it."""
    package = folder / "mynets"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text(text)
    for old in folder.glob("*.dist-info"):
        for file in old.iterdir():
            file.unlink()
        old.rmdir()
    info = folder / f"mynets-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: mynets\nVersion: {version}\n")
    (info / "top_level.txt").write_text("mynets\n")
    listed = ["mynets.pth"] if editable else ["mynets/__init__.py", "mynets/nets.py"]
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in [*listed, f"{info.name}/METADATA"]))
    directory = '{"url": "file:///here", "dir_info": {"editable": true}}' if editable else '{"url": "file:///here"}'
    (info / "direct_url.json").write_text(directory)


def test_an_installed_package_is_told_by_its_version(tmp_path, imported_from, spec_of):
    installed(tmp_path / "site", NET)
    imported_from(tmp_path / "site")
    first = spec_of("mynets.nets:Net")
    assert first.named == {"network": "mynets.nets:Net", "network_version": "mynets 1.2"}
    assert first.files == {}
    installed(tmp_path / "site", NET, version="1.3")
    second = spec_of("mynets.nets:Net")
    assert second.named["network_version"] == "mynets 1.3"
    assert first.run_id != second.run_id


def test_a_package_that_can_be_edited_is_told_by_its_modules_and_loaded_as_it_is(tmp_path, imported_from, spec_of):
    installed(tmp_path / "site", NET, editable=True)
    imported_from(tmp_path / "site")
    first = spec_of("mynets.nets:Net")
    assert set(first.files) == {"mynets/__init__.py", "mynets/nets.py"}
    assert "network_version" not in first.named
    installed(tmp_path / "site", NET.replace("width=8", "width=9"), editable=True)
    second = spec_of("mynets.nets:Net")
    assert (first.suite.network_settings, second.suite.network_settings) == ({"width": 8}, {"width": 9})
    assert first.run_id != second.run_id
    (tmp_path / "site" / "mynets" / "unused.py").write_text("")
    assert spec_of("mynets.nets:Net").run_id != second.run_id


def test_a_working_copy_with_the_list_of_its_own_files_is_told_by_its_modules(tmp_path, imported_from, spec_of):
    package, info = tmp_path / "copy" / "mynets", tmp_path / "copy" / "mynets.egg-info"
    for folder in (package, info):
        folder.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text(NET)
    (info / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: mynets\nVersion: 1.2\n")
    (info / "top_level.txt").write_text("mynets\n")
    (info / "SOURCES.txt").write_text("mynets/__init__.py\nmynets/nets.py\n")
    imported_from(tmp_path / "copy")
    assert set(spec_of("mynets.nets:Net").files) == {"mynets/__init__.py", "mynets/nets.py"}


def test_a_module_without_a_package_is_told_with_what_it_imports_from_its_folder(tmp_path, imported_from, spec_of):
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "flatnet.py").write_text("import flathelper\n" + NET)
    (tmp_path / "flat" / "flathelper.py").write_text("SIZE = 1\n")
    imported_from(tmp_path / "flat")
    first = spec_of("flatnet:Net")
    assert set(first.files) == {"flatnet.py", "flathelper.py"}
    (tmp_path / "flat" / "flathelper.py").write_text("SIZE = 2\n")
    assert spec_of("flatnet:Net").run_id != first.run_id


def test_a_working_copy_that_hides_an_installed_package_is_told_by_its_modules(tmp_path, imported_from, spec_of):
    installed(tmp_path / "site", NET)
    copy = tmp_path / "copy" / "mynets"
    copy.mkdir(parents=True)
    (copy / "nets.py").write_text(NET)
    (copy / "__init__.py").write_text("")
    imported_from(tmp_path / "site")
    imported_from(tmp_path / "copy")
    assert set(spec_of("mynets.nets:Net").files) == {"mynets/__init__.py", "mynets/nets.py"}


def test_an_installed_packages_network_in_the_table_is_told_by_its_version(tmp_path, imported_from, digits):
    text = (
        "from torch import nn\nfrom clbench.networks.network import Network\n"
        "from clbench.networks.settings import NetworkSettings\n"
        "TINY = Network(NetworkSettings, lambda settings, image_shape: nn.Flatten())\n"
    )
    installed(tmp_path / "site", text)
    (next((tmp_path / "site").glob("*.dist-info")) / "entry_points.txt").write_text(
        "[clbench.networks]\ntiny = mynets.nets:TINY\n"
    )
    imported_from(tmp_path / "site")
    overrides = {"network": "tiny", "n_tasks": 2}
    (spec,) = make_specs(find_suite("permuted-digits"), ["naive"], [0], overrides, digits, "float32", "cpu")
    assert spec.recorded["suite_settings"]["network_version"] == "mynets 1.2"


def test_a_module_that_is_not_installed_is_refused():
    with pytest.raises(SettingError, match=r"absent\.nets of the network Net is not installed.*\./file\.py:Net"):
        find_network("absent.nets:Net")
