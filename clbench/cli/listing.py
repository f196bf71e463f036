"""Commands that show what there is: list, show."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clbench.cli.options import as_option
from clbench.errors import SettingError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from clbench.screen import Screen
    from clbench.suites.suite import Suite


_HEADS = {"single": "a single head", "multi": "a head per task", "classes": "one head over all classes"}


def list_command() -> None:
    """Show every suite, network, source of images and method."""
    from clbench.data import SOURCES
    from clbench.methods.table import entry_of, method_names
    from clbench.networks.table import NETWORKS, network_names
    from clbench.suites.files import SUITES

    print("suites (clbench show SUITE tells more):")
    width = max(map(len, SUITES)) + 2
    for suite in SUITES.values():
        what = f"{suite.n_tasks} tasks, {_HEADS[suite.head]}, {suite.network}, data {suite.data}"
        print(f"  {suite.name:<{width}}{suite.title}: {what}")
        if suite.variants:
            print(f"  {'':<{width}}variants of methods: {', '.join(suite.variants)}")
    print("\nmethods (--methods NAME, ./file.py:Class or package.module:Class):")
    print("  With a head per task every method is told the task at test time. Else `clbench show SUITE` marks who is.")
    by_family: dict[str, list[str]] = {}
    for name in method_names():
        entry = entry_of(name)
        line = f"    {name:<22}{entry.summary if entry else ''}".rstrip()
        by_family.setdefault(entry.family if entry else "of installed packages", []).append(line)
    for family, lines in by_family.items():
        print("\n".join([f"  {family}", *lines]))
    print("\nnetworks (--set network=NAME, ./file.py:Class or package.module:Class):")
    for name in network_names():
        print(f"  {name:<24}{NETWORKS[name].summary if name in NETWORKS else 'of an installed package'}")
    print(f"\nimages (--set data=NAME, NAME+NAME, a folder or a .npz file):\n  {', '.join(SOURCES)}")


def show_command(
    name: Annotated[str, typer.Argument(help="Name of a suite, or its file; of a method, yours too; of a network.")],
    toml: Annotated[
        bool, typer.Option("--toml", help="A suite as a file that extends it, to be changed and run.")
    ] = False,
) -> None:
    """Show what a suite, a method or a network is.

    Of a suite its data, tasks, network, training, every method's settings, and where they come from. Of a method or a
    network every setting, its default and what it means.
    """
    from clbench.errors import unknown_name
    from clbench.methods.own import is_reference
    from clbench.methods.table import entry_of, find_method, method_names, names_of
    from clbench.networks.table import NETWORKS, schema_of
    from clbench.records.told import CHOOSES
    from clbench.suites.files import SUITES, is_file

    if is_reference(name):
        (name,) = names_of([name], Path.cwd())
    elif is_file(name) or name in SUITES:
        _show_suite(name, toml=toml)
        return
    elif defining := [suite.name for suite in SUITES.values() if name in suite.variants]:
        raise SettingError(f"'{name}' is a variant of suites; show one of them: {', '.join(defining)}")
    elif not (name in method_names() or name in NETWORKS):
        raise unknown_name("suite, method or network", name, [*SUITES, *method_names(), *NETWORKS])
    if toml:
        raise SettingError(f"--toml writes a suite, and '{name}' is none; expected one of {', '.join(SUITES)}")
    if name in NETWORKS:
        _show_settings(name, NETWORKS[name].summary, schema_of(name))
        return
    method, entry = find_method(name), entry_of(name)
    _show_settings(name, entry.summary if entry else "", method.Settings, f"--set {name}.SETTING=VALUE")
    chosen = CHOOSES.get(name, "")
    chooses = f", which chooses {chosen}" if chosen else ""
    print(f"\ntold the task at test: {f'always{chooses}' if method.task_known_at_test else 'with a head per task'}")
    if entry:
        print(f"\nIts source, and what departs from it, stand at the head of {method.__module__}.")


def _show_settings(name: str, summary: str, schema: "type[BaseModel]", how: str = "--set SETTING=VALUE") -> None:
    from pydantic_core import PydanticUndefined

    from clbench.methods.described import described

    print(f"{name}: {summary}\n\nsettings, with what they are where nothing is given ({how}):")
    for setting, (default, words) in described(schema).items():
        shown = "(must be given)" if default is PydanticUndefined else as_option(default)
        print(f"  {setting}={shown}")
        if words:
            print(textwrap.fill(words, 110, initial_indent=" " * 6, subsequent_indent=" " * 6))


def _show_suite(suite: str, *, toml: bool) -> None:
    from clbench.methods.table import AVALANCHE, find_method, known_settings, must_be_given, working_methods
    from clbench.screen import Screen
    from clbench.suites.files import as_toml, find_suite, is_file
    from clbench.suites.settings import base_name
    from clbench.suites.suite import OVERRIDABLE

    chosen = find_suite(suite)
    if toml:
        print(as_toml(chosen, suite if is_file(suite) else chosen.name), end="")
        return
    print(f"{chosen.name}: {chosen.title}\n")
    apart = {"name", "title", "source", "method_settings", "published", "goals", "search"}
    for key, value in chosen.flat().items():
        if key not in apart and (value is not None or key in OVERRIDABLE):
            shown = ", ".join(map(str, value)) if isinstance(value, tuple) else as_option(value)
            print(f"  {key:<24}{shown}")
    print(f"\nsource: {chosen.source}\n\nmethods (* is told the task at test time):")
    working = working_methods(Screen(quiet=True).warn)
    names = [*working, *AVALANCHE, *(name for name in chosen.variants if base_name(name) in working)]
    width = max(map(len, names)) + len(" *")
    for name in names:
        known = chosen.head == "multi" or find_method(name).task_known_at_test
        settings = {key: as_option(value) for key, value in known_settings(chosen, name).items()}
        settings |= dict.fromkeys(sorted(must_be_given(chosen, name)), "(must be given)")
        shown = ", ".join(f"{key}={value}" for key, value in settings.items())
        print(f"  {name + (' *' if known else ''):<{width}}  {shown}")


def cache_command(
    clear: Annotated[bool, typer.Option("--clear", help="Remove all of it; it is decoded anew when needed.")] = False,
) -> None:
    """Show the decoded images that are kept for later runs, or remove them.

    They lie in the user's cache folder (XDG_CACHE_HOME, or ~/.cache). CLBENCH_CACHE_LIMIT is the most bytes that they
    may take.
    """
    import time

    from clbench.data import cache_entries, cache_limit, clear_cache

    if clear:
        print(f"removed {clear_cache() / 1e6:,.1f} MB")
        return
    entries = cache_entries()
    for entry in entries:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.last_used))
        print(f"{entry.n_bytes / 1e6:>10,.1f} MB  last used {used}  {entry.source or entry.path}")
    print(f"{sum(entry.n_bytes for entry in entries) / 1e6:>10,.1f} MB of at most {cache_limit() / 1e6:,.0f} MB")


def show_grid(screen: "Screen", suite: "Suite", methods: Sequence[str], seeds: Sequence[int]) -> None:
    """What a command would run, as far as it is known without images."""
    listed, n_runs = ", ".join(map(str, seeds)), len(methods) * len(seeds)
    screen.show(
        f"{suite.title}: {n_runs} run{'' if n_runs == 1 else 's'} of {suite.n_tasks} tasks on {suite.network}, "
        f"seeds {listed}: {', '.join(methods)}. Nothing was run."
    )
