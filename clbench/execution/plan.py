"""From what a user asks for to the jobs of a command, step by step: the same for the command line and for Python."""

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clbench.errors import SettingError, shown
from clbench.suites.files import SUITES, find_suite, is_file, suite_files
from clbench.suites.settings import base_name
from clbench.suites.suite import Suite, absolute

if TYPE_CHECKING:
    import torch

    from clbench.data import GivenImages, ImageSet
    from clbench.execution.job import Job
    from clbench.methods.method import Method
    from clbench.runs.spec import Precision, RunSpec

Warn = Callable[[str], None]


@dataclass(frozen=True)
class Choice:
    """What is to be run, as far as it is known without images.

    Attributes:
        suite: as it is found.
        changed: the same with the overrides.
        methods, seeds: what to run on it; methods of the user's are loaded.
        overrides: as given.
        sweep: settings of which every combination of values is run, and their values.
        files: the user's, that the suite was read from.
        all_named: whether the user named every method. One that nobody named is left out where it cannot run.
        data_root: where to look for the images.
        given: the images, where they were given as Python objects.
    """

    suite: Suite
    changed: Suite
    methods: list[str]
    seeds: list[int]
    overrides: Mapping[str, Any]
    sweep: Mapping[str, Sequence[Any]]
    files: Mapping[str, bytes]
    all_named: bool
    data_root: Path | None
    given: "GivenImages | None" = None

    def images(self, warn: Warn, *, offline: bool) -> "ImageSet":
        """The images of the suite.

        Raises:
            DataError: if they cannot be had.
        """
        from clbench.data import DataWarning

        with shown(DataWarning, warn):
            return self.loader(offline=offline)()

    def loader(self, *, offline: bool) -> "Callable[[], ImageSet]":
        """Reads the images, also in another process."""
        from clbench.data import data_folder, load_images

        changed = self.changed
        if self.given is not None:
            return partial(self.given.image_set, changed.image_size)
        # Another process may work in another folder, and with other environment variables.
        root = data_folder(self.data_root).absolute()
        return partial(load_images, changed.data, root, offline=offline, image_size=changed.image_size)

    def fitting(self, warn: Warn) -> list[str]:
        """The methods that can run here, as far as it is known without images."""
        from clbench.runs.spec import fitting

        said = _once(warn)
        found = [fitting(self.suite, self.methods, point, None if self.all_named else said) for point in self._points()]
        return list(dict.fromkeys(name for names in found for name in names))

    def _points(self) -> list[dict[str, Any]]:
        """The overrides of every combination of what is swept over."""
        return [
            {**self.overrides, **dict(zip(self.sweep, values, strict=True))}
            for values in itertools.product(*self.sweep.values())
        ]

    def specs(self, images: "ImageSet", precision: "Precision", device: "torch.device", warn: Warn) -> "list[RunSpec]":
        """The runs, checked as far as it can be done before they train.

        Raises:
            SettingError: if something does not fit.
        """
        from clbench.runs.spec import make_specs, unreached

        found: dict[str, RunSpec] = {}
        said = _once(warn)
        for point in self._points():
            specs = make_specs(
                self.suite,
                self.methods,
                self.seeds,
                point,
                images,
                precision,
                device.type,
                files=self.files,
                # What the user names is not left out in silence, nor with a line that is easily overlooked.
                leave_out=None if self.all_named else said,
            )
            for sentence in unreached(specs, point):
                said(sentence)
            # A suite that its data cannot fill is refused now rather than in every run. Whether a class has an image
            # beside those that are held out depends on the seed.
            by_seed = {spec.seed: spec for spec in specs} if self.changed.scenario == "split" else {0: specs[0]}
            for spec in by_seed.values():
                spec.stream(images)
            # A method that a sweep does not reach is the same at every point of it.
            for spec in specs:
                found.setdefault(spec.run_id, spec)
        # Seed by seed, so that a comparison is complete early.
        return sorted(found.values(), key=lambda spec: self.seeds.index(spec.seed))


def choose(
    suite: str | Path | Suite,
    methods: "Sequence[str | type[Method]] | None" = None,
    seeds: Sequence[int] | None = None,
    overrides: Mapping[str, Any] | None = None,
    data_root: Path | None = None,
    *,
    sweep: Mapping[str, Sequence[Any]] | None = None,
    at_once: int = 1,
    images: "GivenImages | None" = None,
) -> Choice:
    """What a command is about.

    Args:
        suite: a name, a file, or a suite.
        methods: names, `./file.py:Class` or classes; `"all"` for all that fit, None for the suite's.
        seeds: None for the suite's.
        overrides: settings to change.
        data_root: where to look for images.
        sweep: settings and the values of each; every combination is run.
        at_once: runs to be trained at a time, which other processes must find the methods for.
        images: the suite's, where they were given as Python objects.

    Raises:
        SettingError: for what does not exist or does not fit.
    """
    from clbench.runs.spec import sorted_overrides

    given = suite if isinstance(suite, Suite) else find_suite(os.fspath(suite))
    named = "" if isinstance(suite, Suite) else os.fspath(suite)
    names = chosen_methods(methods, given, at_once=at_once)
    changes, swept = dict(overrides or {}), {key: list(values) for key, values in (sweep or {}).items()}
    _check_sweep(given, names, changes, swept)
    try:
        changed = given.with_overrides(sorted_overrides(given, names, changes)[0]).complete()
    except SettingError as error:
        # Without overrides it is the file that is at fault.
        if changes or not is_file(named):
            raise
        raise SettingError(f"the suite {named}: {error}") from None
    return Choice(
        suite=given,
        changed=changed,
        methods=names,
        seeds=list(given.seeds if seeds is None else dict.fromkeys(map(int, seeds))),
        overrides=changes,
        sweep=swept,
        files=suite_files(named) if named else {},
        all_named=methods is not None and "all" not in methods,
        data_root=data_root,
        given=images,
    )


def _check_sweep(
    suite: Suite, methods: list[str], overrides: Mapping[str, Any], sweep: Mapping[str, Sequence[Any]]
) -> None:
    from clbench.runs.spec import sorted_overrides

    for key, values in sweep.items():
        if key in overrides:
            raise SettingError(f"'{key}' is both set and swept over; leave one of them out")
        if key in ("data", "image_size"):
            raise SettingError(f"a sweep is over one set of images, but got '{key}'; give a command for each of them")
        if not values:
            raise SettingError(f"the sweep over '{key}' has no values; give at least one")
        for value in values:
            of_suite, _ = sorted_overrides(suite, methods, {**overrides, key: value})
            suite.with_overrides(of_suite)


def _once(warn: Warn) -> Warn:
    """The same, for each sentence once."""
    said: set[str] = set()

    def tell(sentence: str) -> None:
        if sentence not in said:
            said.add(sentence)
            warn(sentence)

    return tell


def chosen_methods(
    given: "Sequence[str | type[Method]] | None", suite: Suite, others: Sequence[str] = (), *, at_once: int = 1
) -> list[str]:
    """The names of the methods that are asked for, each once; those of the user's are loaded, each once.

    Those that the suite lists are loaded as well: it may have settings for them.

    Args:
        given: names, references or classes; None for the suite's, `"all"` for all there are.
        suite: whose variants count.
        others: names that are taken beside them.
        at_once: see `choose`.

    Raises:
        SettingError: for an unknown name, or a class that is no method.
    """
    from clbench.methods.own import BROUGHT, bring_class
    from clbench.methods.table import exists, method_names, names_of, unknown_method, working_methods
    from clbench.screen import Screen

    here = Path.cwd()
    of_suite = names_of(suite.methods, here)
    if given is None:
        return of_suite
    if "all" in given:
        working = [*working_methods(Screen(quiet=True).warn), *(name for name in of_suite if name in BROUGHT)]
        place = list(given).index("all")
        variants = (name for name in suite.variants if base_name(name) in working)
        given = [*given[:place], *working, *variants, *given[place + 1 :]]
    loaded = dict(zip(dict.fromkeys(absolute(each, here) for each in suite.methods), of_suite, strict=True))
    named = [
        method if isinstance(method, str) else bring_class(method, method_names(), must_be_importable=at_once > 1)
        for method in given
    ]
    names = names_of(list(dict.fromkeys(loaded.get(absolute(name, here), name) for name in named)), here)
    if not names:
        raise SettingError("--methods names none; expected a comma-separated list, or 'all'")
    for name in names:
        known = exists(base_name(name)) and (name == base_name(name) or name in suite.method_settings)
        if not known and name not in others:
            elsewhere = " and ".join(each.name for each in SUITES.values() if name in each.variants)
            raise unknown_method(name, [*suite.variants, *others], elsewhere)
    return names


def labels_of(choice: Choice, specs: "Sequence[RunSpec]") -> list[str]:
    """What tells the runs of a sweep from others of the same method and seed, such as `strength=1000 seed 0`."""
    from clbench.records.naming import names

    if not choice.sweep:
        return [""] * len(specs)
    found = []
    for spec, name in zip(specs, names([spec.nameable for spec in specs]), strict=True):
        differs = name.label.removeprefix(spec.method).strip()
        found.append(f"{differs} seed {spec.seed}" if differs else "")
    return found


def refuse_without_network(methods: Sequence[str]) -> None:
    """Refuses to keep networks of methods that answer in another way than through one.

    Raises:
        SettingError: naming all of them.
    """
    from clbench.methods.method import Method
    from clbench.methods.table import find_method

    unfit = []
    for name in dict.fromkeys(methods):
        method = find_method(name)
        answers_otherwise = method.network_for is not Method.network_for
        if not method.has_networks or (answers_otherwise and method.network_alone is Method.network_alone):
            unfit.append(name)
    if unfit:
        has, it = ("has", "it") if len(unfit) == 1 else ("have", "them")
        raise SettingError(
            f"{', '.join(unfit)} {has} no network for a task alone (Method.network_alone), so that none can be kept; "
            f"leave {it} out, or leave out --keep-weights"
        )


def make_jobs(
    choice: Choice,
    specs: "Sequence[RunSpec]",
    images: "ImageSet",
    device: "torch.device",
    output: Path,
    command: str,
    *,
    at_once: int = 1,
    labels: Sequence[str] = (),
    keep_weights: bool = False,
    gpus: float | None = None,
) -> "list[Job]":
    """The jobs of a command, with torch's number of threads and its determinism as they are set now.

    Args:
        choice, specs, images: what to run.
        device: that it trains on.
        output: the folder of run folders.
        command: what a record says that the runs were asked for by.
        at_once: how many runs train at a time.
        labels: of the runs, where method and seed do not tell them apart.
        keep_weights: whether runs keep the network of every task.
        gpus: how many an executor gives each run, or which share of one. None for its share of this machine's.
    """
    import torch

    from clbench.execution.job import Images, Job
    from clbench.records.environment import git_state

    if keep_weights:
        refuse_without_network([spec.method for spec in specs])
    # A process asks once: what a record says of the code is what was there when the command began.
    git_state()
    # What was just read is on disk now.
    shared = Images(choice.loader(offline=True), images)
    if gpus is None and device.type == "cuda":
        gpus = 1 / max(1, min(at_once, len(specs)))
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    return [
        Job(spec, device, output, shared, threads, deterministic, at_once, command, label, keep_weights, gpus=gpus)
        for spec, label in zip(specs, labels or [""] * len(specs), strict=True)
    ]
