"""Suites: the data, the sequence of tasks, the network and the training of a benchmark."""

from clbench.suites.files import SUITES, find_suite
from clbench.suites.suite import OVERRIDABLE, Suite

__all__ = ["OVERRIDABLE", "SUITES", "Suite", "find_suite"]
