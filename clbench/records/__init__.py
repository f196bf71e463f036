"""The run folder: the files a run leaves behind, how they are read back, and what makes a run the run that it is."""

from clbench.records.folder import RunFolder
from clbench.records.identity import run_id_of
from clbench.records.reading import RecordedRun, read_run, read_runs, run_paths

__all__ = ["RecordedRun", "RunFolder", "read_run", "read_runs", "run_id_of", "run_paths"]
