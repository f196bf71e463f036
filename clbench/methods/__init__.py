"""Methods: what one is, and the table of all."""

from clbench.methods.method import Method, MethodSettings, NewOptimizerSettings, Workplace
from clbench.methods.table import METHODS, find_method, method_names, resolve_settings

__all__ = [
    "METHODS",
    "Method",
    "MethodSettings",
    "NewOptimizerSettings",
    "Workplace",
    "find_method",
    "method_names",
    "resolve_settings",
]
