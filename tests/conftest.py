"""Fixtures: the embedded data, small workplaces, prepared methods, the command line, runs recorded by hand."""

import contextlib
import io
import json
import linecache
import runpy
import shutil
import sys
import textwrap
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, settings

from clbench import cli
from clbench.data import ImageSet, load_images
from clbench.data.streams import make_stream
from clbench.methods.method import Method, Workplace
from clbench.methods.own import BROUGHT
from clbench.methods.table import find_method, resolve_settings
from clbench.networks.mlp import mlp
from clbench.records.folder import RunFolder
from clbench.records.reading import read_run
from clbench.seeding import RandomStreams
from clbench.suites.files import find_suite
from clbench.suites.suite import Suite
from clbench.tracking.tracker import Tracker

ENVIRONMENT = (
    "CLBENCH_DATA",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES",
    "MLFLOW_HTTP_REQUEST_TIMEOUT",
    "MLFLOW_DISABLE_TELEMETRY",
    "MLFLOW_LOGGING_LEVEL",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT",
    "DO_NOT_TRACK",
    "COLUMNS",
    "FORCE_COLOR",
    "TTY_COMPATIBLE",
)

SMALL_NETWORKS = runpy.run_path(str(Path(__file__).with_name("small_networks.py")))["NETWORKS"]


# Data, suites, methods


@pytest.fixture(scope="session")
def digits() -> ImageSet:
    return load_images("digits")


@pytest.fixture(scope="session")
def plain() -> Suite:
    """The embedded digits with numbers that tests can count on; the suite's own may be tuned."""
    return find_suite("permuted-digits").model_copy(
        update={
            "n_tasks": 10,
            "network_settings": {"hidden_sizes": (256, 256), "dropout_share": 0.0},
            "optimizer": "adam",
            "learning_rate": 0.002,
            "learning_rate_schedule": "linear",
            "batch_size": 32,
            "epochs": 10,
            "validation_share": 0.15,
            "method_settings": {},
        }
    )


@pytest.fixture(scope="session")
def split_digits() -> Suite:
    """Two tasks of five digits each, with a head per task, on the embedded data."""
    return find_suite("permuted-digits").model_copy(
        update={"name": "split-digits", "scenario": "split", "n_tasks": 2, "classes_per_task": 5, "head": "multi"}
    )


@pytest.fixture(scope="session")
def digits_with_variants() -> Suite:
    """Digits with PSP in two variants beside its plain form, of which the suite sets the learning rate."""
    return find_suite("permuted-digits").model_copy(
        update={
            "name": "variant-digits",
            "methods": ("psp", "psp:complex", "psp:rotation"),
            "method_settings": {
                "psp": {"learning_rate": 0.5},
                "psp:complex": {"kind": "complex"},
                "psp:rotation": {"kind": "rotation", "weight_decay": 0.25},
            },
        }
    )


@pytest.fixture
def make_workplace(digits, plain):
    """(suite, seed, precision, overrides) -> Workplace on the embedded digits."""

    def make(suite=plain, seed=0, precision="float32", **overrides) -> Workplace:
        found = find_suite(suite) if isinstance(suite, str) else suite
        changed = found.with_overrides(overrides)
        seeds = RandomStreams(seed)
        return Workplace(changed, make_stream(changed, digits, seeds), seeds, torch.device("cpu"), precision)

    return make


@pytest.fixture
def make_method():
    """(name, workplace, settings) -> prepared Method."""

    def make(name: str, workplace: Workplace, **settings) -> Method:
        method = find_method(name)(resolve_settings(workplace.suite, name, settings), workplace)
        method.prepare()
        return method

    return make


# In tests of every method, one of a kind stands for it by default.
LIKE_ANOTHER = {
    *("wsn", "supsup", "sor-snn-style", "online-ewc", "mas", "classp", "anpyc", "gpm", "lwf", "der++"),
    *("single-task", "frozen-trunk", "avalanche-si", "hat", "si"),
}


def _method_of(item):
    """The method that a test is drawn for; None where it is not drawn for one."""
    drawn = getattr(item, "callspec", None)
    return drawn and next((drawn.params[key] for key in ("name", "method") if key in drawn.params), None)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks as slow, of tests that every method takes, those of methods that are like another one."""
    taken = {}
    for item in items:
        taken.setdefault((item.path, getattr(item, "originalname", "")), set()).add(_method_of(item))
    for item in items:
        of_all = len(LIKE_ANOTHER & taken[item.path, getattr(item, "originalname", "")]) > len(LIKE_ANOTHER) / 2
        if of_all and _method_of(item) in LIKE_ANOTHER:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def cases():
    """(count, times) -> settings of hypothesis: so many examples, always the same ones unless a multiple is tried."""

    def settings_of(count, times):
        return settings(
            max_examples=count * times,
            derandomize=times == 1,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )

    return settings_of


@pytest.fixture(scope="session")
def network():
    """(seed) -> a network of two hidden layers for 6 inputs and 3 classes, in float64, small enough for brute force."""

    def make(seed=0) -> torch.nn.Module:
        torch.manual_seed(seed)
        return mlp(6, (5, 4), 3).double()

    return make


@pytest.fixture(params=SMALL_NETWORKS.values(), ids=SMALL_NETWORKS)
def small_network(request):
    """A network of `small_networks.py` in evaluation, what it has of batch norms drawn at random, and images for it."""
    torch.manual_seed(0)
    made, images = request.param()
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                if tensor is not None:
                    torch.nn.init.uniform_(tensor, 0.5, 1.5)
    return made.eval(), images


@pytest.fixture(scope="session")
def batches():
    """(x, size, y, task labels) -> batches of at most `size` as loaders give them; what is not given is 0."""

    def make(x, size, y=None, tasks=None) -> list[list[torch.Tensor]]:
        zeros = torch.zeros(len(x), dtype=torch.long)
        parts = (x, zeros if y is None else y, zeros if tasks is None else tasks)
        return [list(batch) for batch in zip(*(part.split(size) for part in parts), strict=True)]

    return make


# The command line


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Decoded images of the tests do not push out the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def clean_environment():
    """Within it, the user's settings are gone; what clbench and MLflow set in this process is undone afterwards."""

    @contextlib.contextmanager
    def cleaned():
        with pytest.MonkeyPatch.context() as patch:
            for name in ENVIRONMENT:
                # Deleting an absent variable would not be undone.
                patch.setenv(name, "")
                patch.delenv(name)
            yield

    return cleaned


@pytest.fixture
def own_environment(clean_environment):
    """A test without the user's settings."""
    with clean_environment():
        yield


@pytest.fixture(scope="session")
def clbench():
    """(folder, arguments) -> what the command, in this process and working in `folder`, gives: code, out, err."""

    def execute(folder, *arguments):
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.chdir(folder)
            patch.setattr(sys, "argv", ["clbench", *map(str, arguments)])
            with pytest.raises(SystemExit) as end:
                cli.main()
        return SimpleNamespace(code=end.value.code or 0, out=out.getvalue(), err=err.getvalue())

    return execute


@pytest.fixture(scope="session")
def run(clbench):
    """(folder, arguments) -> what a small `clbench run` in `folder` gives."""

    def execute(folder, *arguments, methods="naive", seeds="0", suite="permuted-digits", small=None):
        if small is None:
            small = ["--set", "n_tasks=2", "--set", "epochs=1", "--set", "hidden_sizes=64,64"]
        return clbench(folder, "run", "--suite", suite, "--methods", methods, "--seeds", seeds, *small, *arguments)

    return execute


@pytest.fixture(scope="session")
def outcome_of():
    """(run folder) -> what must not depend on circumstances: accuracy, units, and every bit that was learned."""

    def read(folder: RunFolder):
        found = read_run(folder.path)
        status = json.loads((folder.path / "status.json").read_text())
        assert found.status == "finished"
        assert len(status["weights_sha256"]) == 64
        tables = found.capacity.to_csv(), found.pruning.to_csv()
        return found.accuracy_matrix.tobytes(), *tables, status["weights_sha256"]

    return read


@pytest.fixture(scope="session")
def assert_refused():
    """(outcome of a command, words) -> passes if it is one sentence on stderr with these words, and exit code 2."""

    def check(outcome, *said):
        assert outcome.code == 2
        assert outcome.err.startswith("clbench: error: ")
        assert outcome.err.count("\n") == 1
        assert outcome.err.endswith("\n")
        assert "Traceback" not in outcome.out + outcome.err
        for words in said:
            assert words in outcome.err

    return check


@pytest.fixture(scope="session")
def make_store(tmp_path_factory, clean_environment):
    """(folder) -> the folder, created where absent, with an empty MLflow store in it."""
    # Creating the schema takes seconds, copying it does not.
    template = tmp_path_factory.mktemp("template") / "mlflow.db"
    with clean_environment():
        Tracker(f"sqlite:///{template}", pytest.fail)

    def make(folder):
        folder.mkdir(exist_ok=True)
        shutil.copy(template, folder / "mlflow.db")
        return folder

    return make


@pytest.fixture
def place(tmp_path, make_store):
    """A folder to work in, with an empty store."""
    return make_store(tmp_path / "place")


@pytest.fixture
def grid_file(tmp_path):
    """(text) -> the path of a file that holds it."""

    def write(text):
        path = tmp_path / "grid.toml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def no_method_is_left():
    """A method that a test brings is none for the next."""
    yield
    BROUGHT.clear()


@pytest.fixture
def cell(monkeypatch):
    """(text) -> the names of a notebook after it ran this cell, which is in no file."""
    notebook, cells = ModuleType("a_notebook"), []
    monkeypatch.setitem(sys.modules, notebook.__name__, notebook)

    def execute(text) -> SimpleNamespace:
        text = textwrap.dedent(text)
        cells.append(f"<cell {len(cells)} of {id(notebook)}>")
        # As IPython does it.
        linecache.cache[cells[-1]] = (len(text), None, text.splitlines(keepends=True), cells[-1])
        exec(compile(text, cells[-1], "exec"), vars(notebook))
        return SimpleNamespace(**vars(notebook))

    yield execute
    for each in cells:
        del linecache.cache[each]


# Trouble, and runs recorded by hand


TROUBLES = runpy.run_path(str(Path(__file__).with_name("troubles.py")))
during_task, small_disk, fill = (TROUBLES[name] for name in ("during_task", "small_disk", "fill"))

RECORDED_RUNS = runpy.run_path(str(Path(__file__).with_name("recorded_runs.py")))
recorded_run, counted, recorded_seeds, write_run = (
    RECORDED_RUNS[name] for name in ("recorded_run", "counted", "recorded_seeds", "write_run")
)
