"""Methods of installed packages: broken ones stop nothing else, and settings that must be given can be."""

import json
import sys

import pytest

from clbench.methods.table import METHODS

PACKAGE = "their_methods"
RUN = ("run", "--suite", "permuted-digits", "--seeds", "0", "--threads", "1", "--set", "n_tasks=2")
WITHOUT_DEFAULT = """
from clbench.methods import Method, MethodSettings
class Sized(Method):
    class Settings(MethodSettings):
        size: int
        epochs: int
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """(code) -> an installed package of that code, with an entry point `theirs` for its class `Sized`."""
    folder = tmp_path / "site"
    info = folder / "bad-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bad\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[clbench.methods]\ntheirs = {PACKAGE}:Sized\n")
    monkeypatch.syspath_prepend(folder)

    def write(code):
        (folder / f"{PACKAGE}.py").write_text(code)

    yield write
    sys.modules.pop(PACKAGE, None)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import not_installed", "does not load: ModuleNotFoundError: No module named 'not_installed'"),
        pytest.param(
            "import sys\nsys.exit('needs a GPU')", "does not load: SystemExit: needs a GPU", marks=pytest.mark.slow
        ),
        ("raise ValueError('no\\nluck')", "does not load: ValueError: no luck"),
        pytest.param("class Other: pass", "does not load: AttributeError", marks=pytest.mark.slow),
        pytest.param("class Sized(", "does not load: SyntaxError", marks=pytest.mark.slow),
        pytest.param("class Sized: pass", "must be a subclass of clbench.methods.Method", marks=pytest.mark.slow),
        (WITHOUT_DEFAULT.replace("(MethodSettings)", ""), "must be a subclass of clbench.methods.MethodSettings"),
    ],
)
def test_a_broken_package_is_warned_of_once_and_stops_nothing_else(
    clbench, assert_refused, tmp_path, install, code, said
):
    install(code)
    listed = clbench(tmp_path, "list")
    assert (listed.code, listed.err) == (0, "")
    assert "theirs" in listed.out
    for arguments in (("show", "permuted-digits"), (*RUN, "--methods", "all", "--dry-run")):
        outcome = clbench(tmp_path, *arguments)
        assert outcome.code == 0
        assert all(name in outcome.out for name in (*METHODS, "clnp:best"))
        assert "theirs" not in outcome.out
        assert outcome.err.startswith("clbench: warning: the ")
        assert outcome.err.count("\n") == 1
        assert "the method 'theirs' of the package bad" in outcome.err
        assert said in outcome.err
    assert clbench(tmp_path, *RUN, "--methods", "naive", "--dry-run").err == ""
    assert_refused(clbench(tmp_path, *RUN, "--methods", "naive,theirs", "--dry-run"), said)


@pytest.mark.long
def test_a_setting_without_a_default_can_be_given_and_show_says_that_it_must_be(clbench, place, install):
    install(WITHOUT_DEFAULT)
    shown = clbench(place, "show", "permuted-digits")
    (line,) = (line for line in shown.out.splitlines() if "theirs" in line)
    assert "size=(must be given)" in line
    # What the suite says as well needs no default.
    assert "epochs=16" in line
    outcome = clbench(place, *RUN, "--methods", "theirs", "--set", "theirs.size=5", "--set", "theirs.epochs=1")
    assert outcome.code == 0, outcome.err
    (path,) = (place / "clbench-runs").glob("*/config.json")
    config = json.loads(path.read_text())
    assert config["method_settings"]["size"] == 5
    assert config["overrides"] == {"n_tasks": 2, "theirs.size": 5, "theirs.epochs": 1}


def test_a_setting_that_must_be_given_and_is_not_is_named_with_the_way_to_give_it(
    clbench, assert_refused, tmp_path, install
):
    install(WITHOUT_DEFAULT)
    said = "the setting theirs.size is missing; it has no default, so give it with --set"
    assert_refused(clbench(tmp_path, *RUN, "--methods", "theirs", "--dry-run"), said)
    every = clbench(tmp_path, *RUN, "--methods", "all", "--dry-run")
    assert every.code == 0
    assert f"theirs is left out: {said}" in every.err
    wrong = clbench(tmp_path, *RUN, "--methods", "theirs", "--set", "theirs.size=x", "--dry-run")
    assert_refused(wrong, "the setting theirs.size=x does not fit")


def test_a_suite_may_set_some_of_a_methods_settings_and_leave_others_to_the_command_line(clbench, tmp_path, install):
    install(WITHOUT_DEFAULT)
    (tmp_path / "mine.toml").write_text(
        'name = "mine"\ntitle = "Mine"\nsource = "mine"\nextends = "permuted-digits"\nmethods = ["theirs"]\n'
        "[method_settings.theirs]\nmomentum = 0.0\n"
    )
    arguments = ("run", "--suite", "mine.toml", "--seeds", "0", "--threads", "1", "--dry-run")
    assert clbench(tmp_path, *arguments, "--set", "theirs.size=5").code == 0
    assert clbench(tmp_path, *arguments).code == 2
