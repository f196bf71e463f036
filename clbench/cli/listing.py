"""Commands that show what there is: list, show."""

from typing import Annotated

import typer

from clbench.cli.options import as_option


def list_command() -> None:
    """Show every suite and every method."""
    from clbench.methods.table import METHODS, method_names
    from clbench.suites.catalogue import SUITES

    print("suites (clbench show SUITE tells more):")
    for suite in SUITES.values():
        print(f"  {suite.name:<24}{suite.title}: {suite.n_tasks} tasks, {suite.head} head, data {suite.data}")
        if suite.variants:
            print(f"  {'':<24}variants of methods: {', '.join(suite.variants)}")
    print("\nmethods:")
    for name in method_names():
        print(f"  {name:<24}{METHODS[name].summary if name in METHODS else 'of an installed package'}")


def show_command(suite: Annotated[str, typer.Argument(help="Name of the suite.")]) -> None:
    """Show a suite: its data, tasks, network, training, every method's settings, and where they come from."""
    from clbench.methods.table import find_method, method_names, resolve_settings
    from clbench.suites.catalogue import find_suite
    from clbench.suites.suite import OVERRIDABLE

    chosen = find_suite(suite)
    print(f"{chosen.name}: {chosen.title}\n")
    for key, value in chosen.model_dump(exclude={"name", "title", "source", "method_settings"}).items():
        if value is not None or key in OVERRIDABLE:
            shown = ", ".join(map(str, value)) if isinstance(value, tuple) else as_option(value)
            print(f"  {key:<24}{shown}")
    print(f"\nsource: {chosen.source}\n\nmethods (* is told the task at test time):")
    for name in [*method_names(), *chosen.variants]:
        known = chosen.head == "multi" or find_method(name).task_known_at_test
        settings = resolve_settings(chosen, name, {}).model_dump()
        shown = ", ".join(f"{key}={as_option(value)}" for key, value in settings.items())
        print(f"  {name + (' *' if known else ''):<18}{shown}")
