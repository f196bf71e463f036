"""Classes and functions of a notebook: what their source is, what belongs to it, and what is refused."""

import os
import subprocess
import sys

import pytest

from clbench.errors import SettingError
from clbench.own.source import source_of


def source(found):
    return source_of(found, "network").decode()


def test_the_source_is_that_of_the_cell_that_defined_the_class(cell):
    first = cell("class Net:\n    def run(self):\n        return 1\n").Net
    second = cell("class Net:\n    def run(self):\n        return 2\n\nother = 3\n").Net
    assert source(first) == "class Net:\n    def run(self):\n        return 1\n"
    assert source(second) == "class Net:\n    def run(self):\n        return 2\n"


def test_a_class_without_functions_is_found_where_one_cell_alone_defines_it(cell):
    assert source(cell("class Net:\n    width = 3\n").Net) == "class Net:\n    width = 3\n"
    with pytest.raises(SettingError, match=r"the source of the network Net cannot be read; put it into a file, and"):
        source(cell("class Net:\n    width = 4\n").Net)


def test_decorators_and_properties_belong_to_the_source(cell):
    text = """
        from functools import total_ordering

        @total_ordering
        class Net:
            @property
            def width(self):
                return 3
            def __lt__(self, other):
                return True
    """
    assert source(cell(text).Net).startswith("@total_ordering\nclass Net:\n    @property\n")


def test_names_of_parameters_and_variables_are_not_those_of_the_notebook(cell):
    text = """
        import torch
        x = torch.zeros(3)
        loss = object()

        def net(x):
            loss = x.sum()
            return [loss for x in range(3)]
    """
    assert source(cell(text).net).count("\n\n") == 0


def test_what_a_source_names_is_part_of_it_under_whatever_name(cell):
    text = """
        def inner():
            return 1
        outer = inner
        SIZES = {"wide": [1, 2.5], "none": None}
        class Net:
            def run(self):
                return outer(), SIZES, again
        again = Net
    """
    found = source(cell(text).Net)
    assert "def inner()" in found
    assert "SIZES = dict([tuple(['wide', [1, 2.5]]), tuple(['none', None])])" in found


def test_a_set_has_one_source_in_every_process():
    code = (
        'import linecache; text = \'WORDS = {"a", "b", "c", "d"}\\ndef net(): return WORDS\\n\'\n'
        "linecache.cache['<cell>'] = (len(text), None, text.splitlines(True), '<cell>')\n"
        "exec(compile(text, '<cell>', 'exec'))\n"
        "from clbench.own.source import source_of; print(source_of(net, 'network'))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in "123"
    }
    assert len(found) == 1
    assert "set([" in found.pop()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "import torch\nWEIGHTS = torch.ones(2)\ndef net(): return WEIGHTS",
            "the network net depends on WEIGHTS, a Tensor that has no source; put both into a file, and give",
        ),
        (
            "import torch\nALL = [torch.ones(2)]\ndef net(): return ALL",
            "the network net depends on ALL, a Tensor that has no source",
        ),
        (
            "def make(width):\n    def net(): return width\n    return net\nnet = make(3)",
            "the network net is defined within a function, so that its source does not tell what it depends on",
        ),
        (
            "def make(width):\n    def inner(): return width\n    return inner\ninner = make(3)\ndef net(): inner()",
            "the network net depends on inner, which is defined within a function",
        ),
    ],
)
def test_what_a_source_does_not_tell_is_refused(cell, text, said):
    with pytest.raises(SettingError, match=said):
        source(cell(text).net)


def test_code_of_the_users_in_a_file_beside_the_notebook_is_refused_and_that_of_packages_is_not(
    cell, tmp_path, monkeypatch
):
    (tmp_path / "beside_me.py").write_text("def help(): return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    text = """
        import beside_me
        from beside_me import help
        import numpy as np
        from torch import nn, relu
        def first(): return beside_me
        def second(): return help()
        def third(): return nn.Linear, relu, np, len
    """
    names = cell(text)
    assert source(names.third).startswith("def third()")
    for found, said in ((names.first, "beside_me"), (names.second, "help")):
        with pytest.raises(SettingError, match=f"depends on {said} of a file of yours, which may change; put it into"):
            source(found)
    monkeypatch.delitem(sys.modules, "beside_me")
