"""What a command recorded in its working directory."""

import json

from clbench.records.reading import run_paths

SUITE = "permuted-digits"


def folders(place):
    """Run folders by (method, seed), those moved aside left out."""
    found = {}
    for path in run_paths(place / "clbench-runs"):
        if "." not in path.name:
            config = json.loads((path / "config.json").read_text())
            found[config["method"], config["seed"]] = path
    return found


def status_of(folder):
    return json.loads((folder / "status.json").read_text())


def assert_nothing_recorded(folder):
    assert [path for path in folder.rglob("*") if path.is_file()] == []
    assert not (folder / "clbench-runs").exists() or list((folder / "clbench-runs").iterdir()) == []
