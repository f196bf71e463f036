"""The notebooks of `examples/` run from top to bottom, as a reader runs them."""

import ast
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
HAS_JUPYTER = find_spec("nbclient") is not None and find_spec("ipykernel") is not None
# What Jupyter does with cells: a namespace without a file, sources where tracebacks look, the last value shown.
PLAIN = """
import ast, json, linecache, sys
for number, cell in enumerate(json.load(open(sys.argv[1]))["cells"]):
    text, name = "".join(cell["source"]), f"<cell {number}>"
    if cell["cell_type"] == "code":
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        tree = ast.parse(text)
        last = ast.Expression(tree.body.pop().value) if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, name, "exec"))
        if last is not None:
            print(eval(compile(last, name, "eval")))
"""


@pytest.fixture
def place(tmp_path):
    """A folder to run the notebooks in, from which they find what they read; their runs are left there."""
    (tmp_path / "examples").mkdir()
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    return tmp_path / "examples"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.skipif(not HAS_JUPYTER, reason="nbclient and ipykernel are not installed")
@pytest.mark.long
def test_a_notebook_runs_in_jupyter(path, place):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": place}})
    client.execute()
    shown = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("text/html" in data for data in shown)
    assert any("image/png" in data for data in shown)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.skipif(HAS_JUPYTER, reason="it runs in Jupyter itself")
@pytest.mark.long
def test_a_notebook_runs_where_there_is_no_jupyter(path, place):
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, path], cwd=place, env=os.environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "average_accuracy" in done.stdout
    assert "Figure(" in done.stdout


def test_there_are_two_notebooks():
    assert [path.stem for path in NOTEBOOKS] == ["compare_your_method", "read_recorded_runs"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_what_it_showed(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    for cell in cells:
        ast.parse("".join(cell["source"]))
