"""MLflow: the only package that imports it. What lies in a run folder goes there, and comes back for reports."""

from clbench.tracking.connection import tracking_uri
from clbench.tracking.sync import load_runs, sync
from clbench.tracking.tracker import Tracker

__all__ = ["Tracker", "load_runs", "sync", "tracking_uri"]
