"""Suites in files of the user's: what `extends` takes over, what a path is relative to, and what is refused."""

import os
import shutil
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clbench.errors import SettingError
from clbench.methods.table import resolve_settings
from clbench.records.identity import settings_of
from clbench.suites import files
from clbench.suites.files import SUITES, as_toml, find_suite, load_suite, suite_files
from clbench.suites.suite import Suite

WORDS = ("name", "title", "source")
OF_ITS_OWN = {*WORDS, "published", "goals", "search", "methods", "method_settings"}
HEAD = 'name = "mine"\ntitle = "Mine"\nsource = "Made up."\n'


@pytest.fixture
def write(tmp_path):
    """(text, name) -> the path of a file with that text below the test's folder."""

    def written(text, name="mine.toml", head=HEAD):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(head + text, encoding="utf-8")
        return path

    return written


@pytest.fixture
def refused(clbench, assert_refused, tmp_path):
    """(path, words) -> passes if `clbench run` refuses the suite in one sentence with these words, writing nothing."""

    def check(path, *said):
        before = sorted(tmp_path.rglob("*"))
        outcome = clbench(tmp_path, "run", "--suite", path, "--methods", "naive", "--seeds", "0", "--no-report")
        assert_refused(outcome, *said)
        assert sorted(tmp_path.rglob("*")) == before

    return check


# What `show --toml` writes


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_shown_as_a_file_reads_back_as_the_same_but_for_what_is_its_own(clbench, tmp_path, name):
    outcome = clbench(tmp_path, "show", name, "--toml")
    assert (outcome.code, outcome.err) == (0, "")
    (tmp_path / "mine.toml").write_text(outcome.out)
    suite, mine = SUITES[name], find_suite(str(tmp_path / "mine.toml"))
    assert mine.name == f"my-{name}"
    assert tomllib.loads(outcome.out)["extends"] == name
    kept = {key: value for key, value in suite.flat().items() if key not in OF_ITS_OWN}
    assert {key: value for key, value in mine.flat().items() if key not in OF_ITS_OWN} == kept
    assert (mine.published, mine.goals, mine.search, mine.variants) == ((), (), None, [])
    of_others = tuple(method for method in suite.methods if ":" not in method)
    assert mine.methods == (of_others or ("clnp",))
    for method in mine.methods:
        recorded = settings_of(mine, resolve_settings(mine, method, {}))
        ours = settings_of(suite, resolve_settings(suite, method, {}))
        assert recorded["method_settings"] == ours["method_settings"]
        assert recorded["suite_settings"] == ours["suite_settings"] | {"name": mine.name}


def test_a_suite_of_ones_own_shown_as_a_file_extends_it_wherever_it_is_kept(clbench, write, tmp_path):
    write('extends = "permuted-digits"\nepochs = 3\n[method_settings.ewc]\nstrength = 7.0\n')
    outcome = clbench(tmp_path, "show", "./mine.toml", "--toml")
    elsewhere = tmp_path / "elsewhere" / "second.toml"
    elsewhere.parent.mkdir()
    elsewhere.write_text(outcome.out)
    found = load_suite(elsewhere)
    assert (found.name, found.epochs, found.method_settings["ewc"]) == ("my-mine", 3, {"strength": 7.0})


def test_whatever_a_setting_holds_is_written_so_that_it_reads_back(tmp_path):
    odd = {
        "text": 'quote " backslash \\ \x7f tab\t line\n ü 🐍',
        "nested": {"a b": [1, 2.5, [True, "x"]], "ö": {}},
        "small": 1e-300,
        "big": 10**30,
        "größe": [],
        "nothing": None,
    }
    suite = find_suite("permuted-digits").model_copy(update={"network": "/nets/net.py:Net", "network_settings": odd})
    path = tmp_path / "mine.toml"
    path.write_text(as_toml(suite, "permuted-digits"), encoding="utf-8")
    assert load_suite(path).network_settings == odd


def test_an_identical_copy_of_one_of_ours_is_taken_under_its_name(tmp_path):
    packaged = Path(files.__file__).parent
    for name in SUITES:
        shutil.copy(packaged / f"{name}.toml", tmp_path)
        assert find_suite(str(tmp_path / f"{name}.toml")) == SUITES[name]


def test_a_file_that_bears_the_name_of_one_of_ours_with_other_content_is_refused(refused, write):
    path = write('extends = "permuted-digits"\n', head=HEAD.replace("mine", "permuted-digits"))
    refused(path, "mine.toml", "'permuted-digits'", "a name of its own")


# What `extends` takes over


def test_a_file_extends_one_that_extends_another_by_name_and_by_path(write):
    write('extends = "permuted-digits"\nepochs = 3\nbatch_size = 5\n', "deep/base.toml")
    write('extends = "deep/base.toml"\nepochs = 4\n', "middle.toml")
    found = load_suite(write('extends = "./middle.toml"\nn_tasks = 6\n'))
    assert (found.n_tasks, found.epochs, found.batch_size) == (6, 4, 5)
    assert found.network_settings == {"hidden_sizes": (1000, 1000), "dropout_share": 0.0}


def test_names_titles_and_sources_are_not_inherited(write):
    for word in WORDS:
        others = "".join(line for line in HEAD.splitlines(keepends=True) if not line.startswith(word))
        with pytest.raises(SettingError, match=f"mine.toml lacks {word}; give it"):
            load_suite(write('extends = "permuted-digits"\n', head=others))


def test_how_classes_become_tasks_is_not_inherited_by_another_scenario(write):
    text = 'extends = "split-mnist"\nscenario = "permuted"\nhead = "single"\n'
    found = load_suite(write(text))
    assert (found.classes_per_task, found.scenario) == (None, "permuted")


def test_variants_published_results_goals_and_the_search_are_not_inherited(write):
    for name in ("permuted-digits", "permuted-mnist", "superposition-mnist-50"):
        found = load_suite(write(f'extends = "{name}"\n'))
        assert (found.variants, found.published, found.goals, found.search) == ([], (), (), None)
        assert not any(":" in method for method in found.methods)
    assert SUITES["permuted-digits"].variants


def test_a_variant_of_the_file_itself_is_kept_among_the_methods_inherited(write):
    text = 'extends = "permuted-digits"\n[method_settings."clnp:best"]\nmargin = 1.0\n'
    found = load_suite(write(text))
    assert found.variants == ["clnp:best"]
    assert found.methods == SUITES["permuted-digits"].methods
    assert found.method_settings["clnp:best"] == {"margin": 1.0}


def test_settings_of_methods_are_taken_over_one_by_one(write):
    base = SUITES["permuted-digits"].method_settings
    found = load_suite(write('extends = "permuted-digits"\n[method_settings.si]\nstrength = 3.0\n'))
    assert found.method_settings["si"] == {**base["si"], "strength": 3.0}
    assert found.method_settings["ewc"] == base["ewc"]


def test_another_network_leaves_the_settings_of_the_former_behind(write):
    found = load_suite(write('extends = "permuted-digits"\nnetwork = "resnet18"\n'))
    assert found.network_settings == {"width": 20}
    found = load_suite(write('extends = "permuted-digits"\nhidden_sizes = 9\n'))
    assert found.network_settings == {"hidden_sizes": (9,), "dropout_share": 0.0}


def test_none_is_a_word_in_a_file(write):
    write('extends = "permuted-digits"\nsteps_per_epoch = 3\n', "base.toml")
    assert load_suite(write('extends = "base.toml"\n')).steps_per_epoch == 3
    assert load_suite(write('extends = "base.toml"\nsteps_per_epoch = "none"\n')).steps_per_epoch is None


def test_published_values_keep_their_digits_and_settings_beside_them_are_numbers(write):
    found = load_suite(
        write(
            'extends = "permuted-digits"\n[[published]]\nmethod = "ewc"\naverage_accuracy = 0.970\nsource = "S"\n'
            'setting = "T"\nknown = { learning_rate = 0.003 }\n'
        )
    )
    (result,) = found.published
    assert result.percent == "97.0"
    assert result.known == {"learning_rate": 0.003}
    assert isinstance(result.known["learning_rate"], float)


def test_a_file_with_windows_line_ends_and_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xef\xbb\xbf" + (HEAD + 'extends = "permuted-digits"\n').replace("\n", "\r\n").encode())
    assert load_suite(path).name == "mine"
    assert suite_files(str(path)) == {"mine.toml": path.read_bytes()}


def test_the_files_of_a_suite_are_those_that_it_is_read_from(write):
    base = write('extends = "permuted-digits"\n', "base/mine.toml")
    path = write('extends = "base/mine.toml"\n')
    assert suite_files(str(path)) == {"mine.toml": path.read_bytes(), "1-mine.toml": base.read_bytes()}
    assert suite_files("permuted-digits") == {}


# Paths


def test_a_path_is_relative_to_the_file_that_it_stands_in(write, tmp_path, monkeypatch):
    write('extends = "permuted-digits"\ndata = "./photos"\nnetwork = "net.py:Net"\n', "lab/base.toml")
    path = write('extends = "../lab/base.toml"\n', "mine/mine.toml")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for name in (str(path), os.path.relpath(path)):
        found = find_suite(name)
        assert (found.data, found.network) == (f"{tmp_path}/lab/photos", f"{tmp_path}/lab/net.py:Net")
    joined = write('extends = "permuted-digits"\ndata = "digits+./a.npz+b.npz"\n')
    assert load_suite(joined).data == f"digits+{tmp_path}/a.npz+{tmp_path}/b.npz"


def test_a_path_may_hold_a_plus_and_a_colon(write, tmp_path):
    (tmp_path / "a+b" / "c+d").mkdir(parents=True)
    assert load_suite(write('extends = "permuted-digits"\ndata = "a+b/c+d"\n')).data == f"{tmp_path}/a+b/c+d"
    assert load_suite(write('extends = "permuted-digits"\ndata = "x:y/z"\n')).data == f"{tmp_path}/x:y/z"
    found = load_suite(write('extends = "permuted-digits"\nnetwork = "a+b:c/net.py:Net"\n'))
    assert found.network == f"{tmp_path}/a+b:c/net.py:Net"


def test_a_path_on_the_command_line_is_relative_to_the_folder_that_the_command_works_in(plain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changed = plain.with_overrides({"data": "./photos", "network": "net.py:Net"})
    assert (changed.data, changed.network) == (f"{tmp_path}/photos", f"{tmp_path}/net.py:Net")
    assert plain.with_overrides({"data": "kmnist"}).data == "kmnist"


# What is refused


@pytest.mark.parametrize("names", [["a"], ["a", "b"], ["a", "b", "c"]])
def test_files_that_extend_each_other_in_a_circle_are_refused(refused, write, names):
    for name, base in zip(names, names[1:] + names[:1], strict=True):
        write(f'extends = "./{base}.toml"\n', f"{name}.toml")
    path = write("", "a.toml", head=f'extends = "./{names[-1]}.toml"\n') if len(names) == 1 else None
    refused(path or "a.toml", "a.toml", "extends itself", " extends ".join(f"{name}.toml" for name in [*names, "a"]))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('extends = "permuted-digit"\n', ["unknown suite 'permuted-digit'", "did you mean 'permuted-digits'"]),
        ('extends = "./absent.toml"\n', ["absent.toml", "No such file"]),
        ('extends = "."\n', ["unknown suite '.'"]),
        ('extends = "./"\n', ["a folder"]),
        ('extends = "a\\u0000b/"\n', ["mine.toml", "null"]),
        ("extends = 3\n", ["expected extends to name a suite or a file, but got 3"]),
        ('extends = ["permuted-digits"]\n', ["expected extends to name"]),
        ('extends = "none"\n', ["expected extends to name"]),
        ('extends = "permuted-digits"\nepoch = 3\n', ["unknown setting 'epoch'", "did you mean 'epochs'"]),
        (
            'extends = "permuted-digits"\nwidth = 3\n',
            ["the network mlp has no setting width, as resnet18 has; leave it out"],
        ),
        (
            'extends = "permuted-digits"\nnetwork = "resnet18"\nhidden_sizes = [3]\n',
            ["resnet18 has no setting hidden_sizes"],
        ),
        ('extends = "permuted-digits"\nnetwork = "resnet"\n', ["unknown network 'resnet'", "resnet18"]),
        ('extends = "permuted-digits"\nnetwork = "./net.py"\n', ["unknown network", "./file.py:Class"]),
        ('extends = "permuted-digits"\nnetwork = 3\n', ["the setting network=3 does not fit"]),
        ('extends = "permuted-digits"\nnetwork = "./a\\u0000.py:Net"\n', ["mine.toml", "cannot be found"]),
        (
            'extends = "permuted-digits"\nepochs = "3"\n',
            ["the setting epochs='3' does not fit: expected a whole number"],
        ),
        ('extends = "permuted-digits"\nepochs = true\n', ["the setting epochs=True does not fit"]),
        ('extends = "permuted-digits"\nlearning_rate = nan\n', ["the setting learning_rate=nan does not fit"]),
        ('extends = "permuted-digits"\ndata = 3\n', ["the setting data=3 does not fit"]),
        ('extends = "permuted-digits"\nseeds = [-1]\n', ["the setting seeds with -1 in it does not fit"]),
        ('extends = "permuted-digits"\nseeds = [1_000_000_000_000_000_000]\n', ["the setting seeds"]),
        ('extends = "permuted-digits"\nmethods = "naive"\n', ["the setting methods=naive does not fit"]),
        ('extends = "permuted-digits"\nmethods = []\n', ["the setting methods"]),
        ('extends = "permuted-digits"\nnetwork_settings = { hidden_sizes = [3] }\n', ["setting 'network_settings'"]),
        ('extends = "permuted-digits"\nmethod_settings = 3\n', ["the setting method_settings=3 does not fit"]),
        ('extends = "permuted-digits"\nmethod_settings = { ewc = 3 }\n', ["method_settings.ewc=3 does not fit"]),
        ('extends = "permuted-digits"\npublished = 3\n', ["the setting published=3 does not fit"]),
        ('extends = "permuted-digits"\n[[goals]]\nmethod = "ewc"\n', ["a goal asks for something, such as"]),
        ('extends = "permuted-digits"\n[[goals]]\nmethod = "ewc"\nseeds = 2\n', ["a goal asks for something, such as"]),
        (
            'extends = "permuted-digits"\n[[goals]]\nmethod = "ewc"\nwithin = 0.01\n',
            ["within is how far the mean may lie from average_accuracy, which is not given"],
        ),
        (
            'extends = "permuted-digits"\n[[goals]]\nmethod = "ewc"\naverage_accuracy = 97\n',
            ["goals.0.average_accuracy=97 does not fit: expected a value less than or equal to 1"],
        ),
        ('extends = "permuted-digits"\n[search]\ntrials = 3\n', ["the setting search.trials=3 does not fit"]),
        (
            'data = "digits"\nhidden_sizes = [3]\n',
            ["lacks scenario, n_tasks, head and 8 more settings", 'extends = "image-folder"'],
        ),
        ("epochs = \n", ["is no TOML", "line 4"]),
        ("epochs = 1\nepochs = 2\n", ["is no TOML", "line 5"]),
        ("a." * 5000 + "a = 1\n", ["mine.toml"]),
        ("a = " + "[" * 5000 + "]" * 5000 + "\n", ["mine.toml", "nested too deeply"]),
    ],
)
def test_a_file_with_something_wrong_is_refused_by_its_name(refused, write, text, said):
    refused(write(text), "mine.toml", *said)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "expected letters"),
        ("../up", "expected letters"),
        ("a/b", "expected letters"),
        ("-mine", "expected letters"),
        ("my suite", "expected letters"),
        ("mine.toml", "no .toml"),
        ("m" * 101, "expected letters"),
    ],
)
def test_a_name_that_no_report_can_be_named_after_is_refused(refused, write, name, said):
    refused(write('extends = "permuted-digits"\n', head=HEAD.replace("mine", name)), "mine.toml", said)


def test_a_misspelt_method_or_setting_of_a_method_is_refused_even_if_it_is_not_run(refused, write):
    base = 'extends = "permuted-digits"\n'
    refused(write(base + "[method_settings.ewcc]\nstrength = 1.0\n"), "the suite mine", "did you mean 'ewc'")
    refused(write(base + "[method_settings.ewc]\nstrenght = 1.0\n"), "the suite mine", "did you mean 'strength'")
    refused(write(base + "[method_settings.ewc]\nstrength = -1.0\n"), "the suite mine", "ewc.strength=-1.0")


@pytest.mark.parametrize("write_it", [lambda path: path.mkdir(), lambda path: os.mkfifo(path), lambda path: None])
def test_what_is_no_file_is_refused(refused, tmp_path, write_it):
    path = tmp_path / "mine.toml"
    write_it(path)
    said = {"a folder"} if path.is_dir() else {"not a regular file"} if path.exists() else {"No such file"}
    refused(path, "mine.toml cannot be read", *said)


def test_a_file_that_is_not_utf_8_is_refused(refused, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(HEAD.encode() + "# größer\n".encode("latin-1"))
    refused(path, "mine.toml cannot be read (not UTF-8 text)")


def test_methods_and_seeds_given_twice_count_once(write):
    found = load_suite(write('extends = "permuted-digits"\nmethods = ["si", "ewc", "si"]\nseeds = [1, 0, 1]\n'))
    assert (found.methods, found.seeds) == (("si", "ewc"), (1, 0))


values = st.recursive(
    st.one_of(
        st.integers(-5, 2000),
        st.floats(allow_nan=False, allow_infinity=False),
        st.booleans(),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        st.sampled_from(["none", "adam", "multi", "resnet18", "digits", "./x.npz", "./net.py:Net", "linear"]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab c", max_size=3), inner, max_size=2),
    max_leaves=4,
)
keys = st.sampled_from([*Suite.model_fields, "extends", "hidden_sizes", "width"]) | st.text("abc_", max_size=4)


@settings(max_examples=150, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(keys, values, max_size=4))
def test_a_file_is_the_suite_that_it_says_or_refused_by_its_name(tmp_path, given_settings):
    path = tmp_path / "mine.toml"
    content = {"name": "mine", "title": "Mine", "source": "S", "extends": "permuted-digits", **given_settings}
    path.write_text("".join(f"{files._key(key)} = {files._value(value)}\n" for key, value in content.items()))
    try:
        found = load_suite(path)
    except SettingError as error:
        said = str(error)
        found = None
    if found is None:
        assert "\n" not in said
        assert "mine.toml" in said
        return
    assert found.name == content["name"]
    path.write_text(as_toml(found, "permuted-digits"))
    again = load_suite(path)
    assert {key: value for key, value in again.flat().items() if key not in OF_ITS_OWN} == {
        key: value for key, value in found.flat().items() if key not in OF_ITS_OWN
    }
