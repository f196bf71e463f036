"""What the screen promises: what fits, names as they are, silence when asked for."""

import functools
import io
import re

import numpy as np
import pytest
import rich.console
from rich.table import Table
from rich.text import Text

from clbench.events import Ended, Learned, Listed, Over, Planned, Progressed, Said, Waiting
from clbench.records.result import RunResult
from clbench.runs.watching import seldom
from clbench.screen import Screen, duration

HOSTILE = ["[red]", "[/red]", "[bold]x[/bold]", "[link=file:///]y", "a\\[b", ":bomb:", "[", "100%"]


@pytest.fixture
def make_screen(monkeypatch):
    """(width, height, terminal, quiet) -> Screen, and the buffers of its stdout and stderr."""

    def make(*, width=100, height=12, terminal=True, quiet=False):
        out, err = io.StringIO(), io.StringIO()

        def console(*, stderr=False):
            size = {"width": width, "height": height} if terminal else {}
            return rich.console.Console(
                file=err if stderr else out, force_terminal=terminal, _environ={"TERM": "xterm"}, **size
            )

        monkeypatch.setattr("clbench.screen._Patient", console)
        return Screen(quiet=quiet), out, err

    return make


def listed(*methods, n_tasks=2):
    """The runs as a command announces them."""
    runs = tuple(Listed(f"id{i}", method, i, n_tasks, 4) for i, method in enumerate(methods))
    return Planned("suite", "Suite", "clbench run", runs)


def progressed(task=1, images=0, images_per_task=0, images_trained=0, images_total=0, seconds=0.0):
    return Progressed("id0", task, 2, images, images_per_task, images_trained, images_total, seconds)


def frame(out):
    """The lines printed since the last call, without colours and movements of the cursor."""
    text = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", out.getvalue()).replace("\r", "")
    out.seek(0)
    out.truncate()
    return [line.rstrip() for line in text.splitlines() if line.strip()]


# Width


def test_a_table_in_a_file_is_not_cut_to_the_width_of_a_screen_unless_columns_says_so(monkeypatch, capsys):
    cells = [f"cell-number-{number}" for number in range(10)]
    table = Table(*cells, box=None)
    table.add_row(*cells)
    monkeypatch.delenv("COLUMNS", raising=False)
    Screen().show(table)
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [cells, cells]
    monkeypatch.setenv("COLUMNS", "60")
    Screen().show(table)
    assert [len(line) for line in capsys.readouterr().out.splitlines()] == [60, 60]


# Durations


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (42, "42 s"),
        (89, "89 s"),
        (90, "2 min"),
        (150, "2 min"),
        (3600, "60 min"),
        (5399, "90 min"),
        (5400, "1.5 h"),
        (12240, "3.4 h"),
        (360_000, "100.0 h"),
    ],
)
def test_a_duration_reads_at_a_glance(seconds, said):
    assert duration(seconds) == said


# The live table


def test_the_table_has_a_row_per_run_in_the_order_of_the_grid(make_screen):
    screen, out, _ = make_screen()
    screen.hear(listed("clnp", "naive", n_tasks=10))
    shown = frame(out)
    assert shown[0].split() == ["method", "seed", "task", "epoch", "accuracy", "%", "images/s"]
    assert [line.split() for line in shown[1:]] == [["clnp", "0", "0/10", "waiting"], ["naive", "1", "0/10", "waiting"]]
    screen.hear(Over("finished"))


def test_a_row_tells_task_epoch_accuracy_speed_time_left_and_how_it_ended(make_screen):
    screen, out, _ = make_screen()
    screen.hear(listed("clnp", "naive"))
    frame(out)
    # 500 images in 2 s, of 4 x 250 per task in two tasks: in the third epoch, 1,500 images to go.
    screen.hear(progressed(images=500, images_per_task=1000, images_trained=500, images_total=2000, seconds=2.0))
    assert frame(out)[1].split() == ["clnp", "0", "1/2", "3/4", "250", "6", "s", "left"]
    matrix = np.array([[0.1, 0.1], [0.875, np.nan], [np.nan, np.nan]])
    screen.hear(Learned("id0", RunResult(matrix, [{"train_images_per_second": 250.0}])))
    screen.hear(Ended("id0", "finished"))
    rows = frame(out)
    assert rows[1].split()[:3] + rows[1].split()[-1:] == ["clnp", "0", "1/2", "finished"]
    assert "87.50" in rows[1].split()
    assert rows[2].split() == ["naive", "1", "0/2", "waiting"]
    screen.hear(Over("finished"))


def test_what_is_asked_too_often_is_done_seldom(monkeypatch):
    clock = iter(np.arange(200) / 128)
    monkeypatch.setattr("clbench.runs.watching.time.monotonic", functools.partial(next, clock))
    done = []
    show = seldom(0.5, done.append)
    for number in range(200):
        show(number)
    assert done == [0, 64, 128, 192]


@pytest.mark.parametrize("height", [1, 5, 12, 24, 60])
@pytest.mark.parametrize("running", [0, 1, 17, 38, 39])
def test_the_table_shows_what_fits_and_always_the_run_that_is_going_on(make_screen, height, running):
    screen, out, _ = make_screen(height=height)
    screen.hear(listed(*[f"method{i}" for i in range(40)]))
    for number in range(running):
        screen.hear(Ended(f"id{number}", "finished"))
    frame(out)
    screen.hear(Ended(f"id{running}", "stopped"))
    shown = frame(out)
    # Heading and rows; what does not fit a terminal of a few lines is cut by rich itself.
    assert len(shown) <= max(height, 4)
    if height >= 5:
        names = [line.split()[0] for line in shown[1:]]
        assert f"method{running}" in names
        first = int(names[0].removeprefix("method"))
        assert names == [f"method{i}" for i in range(first, first + len(names))]
        # No line is wasted while there are runs to show.
        assert len(names) == min(40, height - 4 if height > 7 else 3)
    screen.hear(Over("finished"))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_appears_literally_in_the_table(make_screen, name):
    screen, out, _ = make_screen()
    screen.hear(listed(name))
    frame(out)
    screen.hear(Ended("id0", "finished"))
    assert frame(out)[1].split()[0] == name
    screen.hear(Over("finished"))


# Lines


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_appears_literally_in_lines_and_warnings(make_screen, name):
    screen, out, err = make_screen(terminal=False)
    screen.hear(listed(name))
    screen.hear(Ended("id0", "finished"))
    screen.hear(Ended("id0", "failed", f"because of {name}"))
    assert out.getvalue().endswith(f"  {name} seed 0: finished\n")
    assert err.getvalue() == f"clbench: warning: {name} seed 0: failed: because of {name}\n"


def test_runs_of_one_method_and_seed_are_told_apart_by_their_labels(make_screen):
    screen, out, _ = make_screen(terminal=False)
    runs = tuple(Listed(f"id{i}", "ewc", 0, 2, 4, f"strength={i}") for i in (1, 2))
    screen.hear(Planned("suite", "Suite", "clbench tune", runs))
    screen.hear(Ended("id2", "finished"))
    assert out.getvalue().endswith("  ewc strength=2: finished\n")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_path_is_shown_literally(make_screen, name):
    screen, out, _ = make_screen(terminal=False)
    screen.show(f"runs: {name}")
    assert out.getvalue() == f"runs: {name}\n"


def test_long_lines_are_not_broken(make_screen):
    screen, out, err = make_screen(terminal=False)
    words = "word " * 100
    screen.say(words)
    screen.warn(words)
    screen.show(words)
    assert len(out.getvalue().splitlines()) == 2
    assert len(err.getvalue().splitlines()) == 1


def test_without_a_terminal_there_is_a_timestamped_line_per_task_and_no_table(make_screen):
    screen, out, _ = make_screen(terminal=False)
    screen.hear(listed("clnp"))
    screen.hear(progressed(task=2, images_trained=12_000, seconds=2.0))
    assert out.getvalue() == ""
    matrix = np.array([[0.1, 0.1], [0.9, np.nan], [0.8, 0.9]])
    # The speed of the task just learned, not of the whole run so far.
    tasks = [{"train_images_per_second": 2_000.0}, {"train_images_per_second": 5_000.0}]
    screen.hear(Learned("id0", RunResult(matrix, tasks)))
    screen.hear(Ended("id0", "finished"))
    screen.hear(Over("finished"))
    learned, ended = out.getvalue().splitlines()
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  "
    wanted = "clnp seed 0: task 2/2 learned, average accuracy 85.00 %, 5,000 images/s"
    assert re.fullmatch(stamp + re.escape(wanted), learned)
    assert re.fullmatch(stamp + "clnp seed 0: finished", ended)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_quiet_screen_shows_warnings_and_nothing_else(make_screen, terminal):
    screen, out, err = make_screen(terminal=terminal, quiet=True)
    screen.hear(listed("clnp"))
    screen.hear(progressed(images_trained=1, seconds=1.0))
    tasks = [{"train_images_per_second": 1.0}]
    screen.hear(Learned("id0", RunResult(np.array([[0.1], [0.9]]), tasks)))
    screen.hear(Waiting(1))
    screen.hear(Ended("id0", "finished"))
    screen.hear(Said("id0", "take care"))
    screen.say("a line")
    screen.show("another")
    screen.show(Text("and another"))
    screen.warn("beware")
    screen.hear(Over("finished"))
    assert out.getvalue() == ""
    assert "clbench: warning: beware" in err.getvalue()
    assert "clbench: warning: clnp seed 0: take care" in err.getvalue()
