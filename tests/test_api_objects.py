"""clbench from Python with objects in the place of names: networks, images, suites."""

import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

import clbench
from clbench.data import given_images, load_images
from clbench.errors import DataError, RunError, SettingError
from clbench.records.folder import RunFolder

SMALL = {"n_tasks": 2, "epochs": 1}
NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, image_shape, n_outputs, width=8):
        channels, height, side = image_shape
        first = nn.Linear(channels * height * side, width)
        super().__init__(nn.Flatten(), first, nn.ReLU(), nn.Linear(width, n_outputs))

def net(image_shape, n_outputs, width=8):
    return Net(image_shape, n_outputs, width)
"""

pytestmark = pytest.mark.usefixtures("own_environment", "no_method_is_left")


@pytest.fixture
def small_run(tmp_path):
    """(options) -> the only run of naive on a small suite, below the test's folder."""

    def run(suite="permuted-digits", **options):
        defaults = {"methods": ["naive"], "seeds": [0], "overrides": SMALL, "threads": 1, "output": tmp_path / "runs"}
        (found,) = clbench.run(suite, quiet=True, **{**defaults, **options})
        return found

    return run


@pytest.fixture
def arrays():
    """Colour images 6 x 5 of the classes 3 and 7, uint8 [N, H, W, C], and their labels."""
    random = np.random.default_rng(5)

    def part(count):
        return random.integers(0, 256, (count, 6, 5, 3), dtype=np.uint8), np.array([3, 7] * (count // 2))

    return (*part(40), *part(8))


class Pairs(Dataset):
    """Pairs of an image and its label, made one by one."""

    def __init__(self, images, labels):
        self.items = images, labels

    def __len__(self):
        return len(self.items[0])

    def __getitem__(self, position):
        return self.items[0][position], self.items[1][position].item()


class Endless(IterableDataset):
    def __iter__(self):
        return iter(())


# Networks


def test_a_network_of_a_notebook_is_told_by_its_source_and_takes_settings(small_run, cell):
    first = small_run(network=cell(NET).Net, overrides={**SMALL, "width": 16})
    assert first.config["network"]["name"] == "Net"
    assert first.config["suite_settings"]["network"] == "Net"
    assert first.config["suite_settings"]["width"] == 16
    assert first.config["overrides"]["network"] == "Net"
    assert b"class Net(nn.Sequential)" in first.files["Net.py"]
    again = small_run(network=cell(NET).Net, overrides={**SMALL, "width": 16})
    assert (again.run_id, again.ended) == (first.run_id, first.ended)
    edited = small_run(network=cell(NET.replace("ReLU", "Tanh")).Net, overrides={**SMALL, "width": 16})
    assert edited.run_id != first.run_id


def test_a_function_is_a_network_as_well(small_run, cell):
    run = small_run(network=cell(NET).net)
    assert run.config["network"]["name"] == "net"
    assert b"class Net(nn.Sequential)" in run.files["net.py"]


@pytest.mark.long
def test_a_network_of_a_module_is_told_by_its_modules_and_reaches_other_processes(small_run, tmp_path, monkeypatch):
    (tmp_path / "mynets.py").write_text(NET)
    monkeypatch.syspath_prepend(str(tmp_path))
    from mynets import Net

    run = small_run(network=Net, jobs=2)
    assert (run.config["suite_settings"]["network"], list(run.files)) == ("mynets:Net", ["mynets.py"])
    assert small_run(network="mynets:Net").run_id == run.run_id
    monkeypatch.delitem(sys.modules, "mynets")


def test_networks_are_swept_over(tmp_path, cell):
    runs = clbench.run(
        "permuted-digits",
        methods=["naive"],
        seeds=[0],
        overrides=SMALL,
        sweep={"network": ["mlp", cell(NET).Net]},
        threads=1,
        quiet=True,
        output=tmp_path,
    )
    assert [run.config["network"]["name"] for run in runs] == ["mlp", "Net"]


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (nn.Linear(2, 2), "for every run, but is a Linear; give the class itself"),
        (lambda image_shape, n_outputs: None, "but is a lambda; give the class itself, or define a function"),
        (nn.Linear, "the network torch.nn.modules.linear:Linear must take image_shape and n_outputs, but takes"),
        ("mpl", "unknown network 'mpl': did you mean 'mlp'"),
    ],
)
def test_what_is_no_network_is_refused(small_run, network, said):
    with pytest.raises(SettingError, match=said):
        small_run(network=network)


def test_a_network_of_a_notebook_is_for_one_process(small_run, cell):
    with pytest.raises(SettingError, match="the network Net is of a notebook or a script, which other processes"):
        small_run(network=cell(NET).Net, jobs=2)


# Images


def test_arrays_are_known_by_their_content(small_run, arrays):
    first = small_run(data=arrays)
    assert first.config["suite_settings"]["data"] == "arrays"
    assert first.config["data"]["source"] == "arrays"
    assert first.config["data"]["sha256"] == given_images(arrays).image_set().sha256
    assert first.config["overrides"] == {**SMALL, "data": "arrays"}
    again = small_run(data=tuple(each.copy() for each in arrays))
    assert (again.run_id, again.ended) == (first.run_id, first.ended)
    arrays[0][0, 0, 0, 0] ^= 1
    assert small_run(data=arrays).run_id != first.run_id


@pytest.mark.long
def test_images_reach_other_processes(tmp_path, arrays):
    options = {"methods": ["naive", "si"], "seeds": [0], "overrides": SMALL, "threads": 1, "quiet": True}
    here = clbench.run("permuted-digits", data=arrays, output=tmp_path / "here", **options)
    elsewhere = clbench.run("permuted-digits", data=arrays, output=tmp_path / "elsewhere", jobs=2, **options)
    assert [run.run_id for run in here] == [run.run_id for run in elsewhere]
    for ours, theirs in zip(here, elsewhere, strict=True):
        assert np.array_equal(ours.accuracy_matrix, theirs.accuracy_matrix, equal_nan=True)


def test_images_are_resized_as_those_of_a_file(small_run, arrays, tmp_path):
    names = ("x_train", "y_train", "x_test", "y_test")
    np.savez(tmp_path / "photos.npz", **dict(zip(names, arrays, strict=True)))
    theirs = small_run(data=tmp_path / "photos.npz", overrides={**SMALL, "image_size": 4})
    ours = small_run(data=arrays, overrides={**SMALL, "image_size": 4})
    assert ours.config["data"]["sha256"] == theirs.config["data"]["sha256"]
    assert ours.config["network"]["image_shape"] == [3, 4, 4]


def test_every_way_to_give_the_same_images_gives_the_same(arrays, tmp_path):
    x, y, x_test, y_test = arrays
    tensors, test_tensors = (torch.from_numpy(each).permute(0, 3, 1, 2) for each in (x, x_test))
    fractions, test_fractions = tensors.float() / 255, test_tensors.double() / 255
    labels, test_labels = torch.from_numpy(y), torch.from_numpy(y_test)
    np.savez(tmp_path / "photos.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    wanted = load_images(str(tmp_path / "photos.npz"))
    for given in (
        arrays,
        list(arrays),
        (tensors, labels, x_test, y_test),
        (fractions.requires_grad_(), labels, test_fractions, test_labels),
        (x, y[:, np.newaxis].astype(np.uint8), x_test, y_test),
        (TensorDataset(fractions, labels), TensorDataset(test_tensors, test_labels)),
        (Pairs(fractions.detach(), labels), Pairs(x_test, test_labels)),
    ):
        found = given_images(given).image_set()
        assert (found.sha256, found.class_names) == (wanted.sha256, ("3", "7"))


def test_grey_images_need_no_channel(arrays):
    grey = arrays[0][..., 0]
    for given in (grey, grey[..., np.newaxis], grey[:, np.newaxis], torch.from_numpy(grey).bfloat16().div(256)):
        assert given_images((given, arrays[1], grey[:8], arrays[3])).train.images.shape == (40, 1, 6, 5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, y, v, w: (x, y, v), "data= expects .*, but got a tuple of 3"),
        (lambda x, y, v, w: x, "data= expects .*, but got a ndarray"),
        (
            lambda x, y, v, w: (x.astype(int), y, v, w),
            r"x_train is int64 \[40, 6, 5, 3\]; expected uint8 \[N, H, W\], ",
        ),
        (lambda x, y, v, w: (x / 128, y, v, w), "x_train holds floats from 0 to 1.99219; floats must lie between"),
        (lambda x, y, v, w: (x, y, v, w[1:]), r"y_test is int64 \[7\]; expected 8 whole numbers, one for each image"),
        (lambda x, y, v, w: (x, y / 2, v, w), "y_train is float64"),
        (lambda x, y, v, w: (x, y, v, w * 0 + 3), "the class 7 is in only one of y_train and y_test"),
        (lambda x, y, v, w: (x, y * 0, v, w * 0), "y_train holds one class alone, 0"),
        (lambda x, y, v, w: (x, y, v[:, 1:], w), r"x_train and x_test must hold images of one shape, but hold \[6, 5"),
        (
            lambda x, y, v, w: (x[:, :3, :, :], y, v, w),
            r"\[40, 3, 5, 3\], which may be \[N, H, W, C\] as well as \[N, C",
        ),
        (lambda x, y, v, w: ("x", y, v, w), "x_train is a str; expected a NumPy array or a tensor"),
        (lambda x, y, v, w: (x, y), "item 0 of the training data set is no pair of an image and a whole number"),
        (lambda x, y, v, w: (Pairs(x, y), Endless()), "data= expects .*, but the test data set is a Endless"),
        (lambda x, y, v, w: (Pairs(x, y / 2), Pairs(v, w)), "item 0 of the training data set is no pair"),
        (lambda x, y, v, w: (Pairs(x[:0], y), Pairs(v, w)), "the training data set is empty"),
        (lambda x, y, v, w: (Pairs([x[0], x[0, 1:]], y), Pairs(v, w)), "must have one shape and type; make them alike"),
    ],
)
def test_what_are_no_images_is_refused_in_one_sentence(arrays, change, said):
    with pytest.raises(DataError, match=said) as error:
        given_images(change(*arrays))
    assert "\n" not in str(error.value)


def test_a_run_on_arrays_that_was_cut_off_goes_on_by_the_same_call(small_run, arrays, during_task):
    def fail():
        raise RuntimeError("cut off")

    during_task(2, fail)
    with pytest.raises(RunError, match="1 of 1 runs failed: naive seed 0: RuntimeError: cut off") as error:
        small_run(data=arrays)
    (before,) = error.value.runs
    learned = before.tasks["train_seconds"].tolist()
    assert len(learned) == 1
    resumed = small_run(data=arrays)
    assert resumed.run_id == before.run_id
    assert resumed.tasks["train_seconds"].tolist()[:1] == learned


def test_the_command_line_does_not_resume_what_python_asked_for(small_run, arrays, clbench, tmp_path, assert_refused):
    small_run(data=arrays)
    assert_refused(clbench(tmp_path, "resume", "--output", tmp_path / "runs"), "give the call of clbench.run again")


# Suites


def test_a_suite_with_a_name_of_its_own_goes_in_as_an_object(small_run):
    ours = clbench.load_suite("permuted-digits")
    assert isinstance(ours, clbench.Suite)
    run = small_run(ours.model_copy(update={"name": "mine", "title": "Mine", "n_tasks": 3}), overrides={"epochs": 1})
    assert (run.suite, run.config["title"], run.accuracy_matrix.shape) == ("mine", "Mine", (4, 3))
    assert run.config["overrides"] == {"epochs": 1}


def test_a_suite_of_ours_that_was_changed_is_the_same_with_overrides(small_run):
    changed = clbench.load_suite("permuted-digits").with_overrides({**SMALL, "hidden_sizes": [8, 8]})
    run = small_run(changed, overrides=None)
    assert run.run_id == small_run(overrides={**SMALL, "hidden_sizes": [8, 8]}).run_id
    assert run.config["overrides"] == {**SMALL, "hidden_sizes": [8, 8]}
    other = small_run(changed, overrides={"network": "conv", "image_size": 12})
    assert other.config["network"]["name"] == "conv"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"seeds": (7,)},
            "bears the name 'permuted-digits' of one that comes with clbench, but differs from it in seeds",
        ),
        ({"name": "mine", "n_tasks": 0}, "the suite 'mine': the setting n_tasks=0 does not fit"),
        ({"name": "a/b"}, "the suite 'a/b': the setting name=a/b does not fit"),
        ({"name": "mine", "data": "photo"}, "unknown source of images 'photo'"),
    ],
)
def test_a_suite_that_is_none_is_refused(small_run, changes, said):
    with pytest.raises(SettingError, match=said):
        small_run(clbench.load_suite("permuted-digits").model_copy(update=changes))


def test_what_is_given_twice_is_refused(small_run, arrays):
    with pytest.raises(SettingError, match="data is given as data= and in overrides; give it once"):
        small_run(data=arrays, overrides={"data": "digits"})


def test_a_run_without_a_record_is_told_of_as_well(small_run, monkeypatch):
    def no_room(*args):
        raise clbench.errors.RecordError("the disk is full")

    monkeypatch.setattr(RunFolder, "begin", no_room)
    with pytest.raises(RunError, match="1 of 1 runs failed: naive seed 0: the disk is full") as error:
        small_run()
    assert len(error.value.runs) == 0
