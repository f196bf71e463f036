"""The MLflow store: where it is, and how it is opened, within a bounded time."""

import contextlib
import fcntl
import logging
import os
import queue
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from clbench.errors import TrackingError, first_line
from clbench.tracking.moved import follow

_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql")
# Making a new SQLite store takes MLflow 5 s of computing, and other processes may be at it.
_SECONDS_TO_CREATE = 120.0


def tracking_uri(given: str | None) -> str:
    """The store to use: the option, then MLFLOW_TRACKING_URI, then `mlflow.db` in the working directory.

    Always absolute: MLflow would otherwise prefer a leftover `./mlruns` folder and then refuse it, and the command
    that we print would work in one folder only.

    Raises:
        TrackingError: for a SQLite file whose path cannot stand in a URI, or that is something else.
    """
    uri = given or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if not uri.startswith("sqlite:///"):
        return uri
    path = Path.cwd() / uri.removeprefix("sqlite:///")
    if any(letter in str(path) for letter in "%?#"):
        raise TrackingError(
            f"the MLflow store cannot lie at {path}, because a path with %, ? or # does not survive in a URI; work in "
            "another folder, or name a store with --tracking-uri"
        )
    if not os.access(path.parent, os.W_OK):
        raise TrackingError(
            f"the MLflow store {path} cannot be written, because its folder is not there or not yours to write; "
            "name another with --tracking-uri"
        )
    return f"sqlite:///{path}"


def patience() -> float:
    """Seconds that one delivery to the store may hold up training."""
    return float(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"])


def import_mlflow() -> None:
    """Imports MLflow with settings that keep a run alive when its server is gone."""
    # To be set before the first import: one retry and ten seconds keep a run alive when a server is gone;
    # the client's own defaults block for minutes per call. Usage telemetry is the user's to switch on.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    if "DO_NOT_TRACK" not in os.environ:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # It logs a traceback for what it raises as well; we say it in one sentence.
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow  # noqa: F401


def within(seconds: float, work: Callable[[], Any]) -> Any:
    """What `work` gives, or an error once the time is up; `work` is then left to itself.

    The only bound that holds for every store: a server may answer each of many requests late, and MLflow waits
    20 s for a lock on SQLite and tries for 100 s to open it, whatever it is told.

    Raises:
        TimeoutError: if it takes longer.
        Exception: whatever `work` raised.
    """
    outcome: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put((work(), None))
        except Exception as error:
            outcome.put((None, error))

    # A daemon, so that a store that hangs does not keep the process from ending either.
    threading.Thread(target=run, name="mlflow", daemon=True).start()
    try:
        value, error = outcome.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:g} seconds") from None
    if error is not None:
        raise error
    return value


def open_client(uri: str, seconds: float) -> Any:
    """A client of a store that has answered within this time.

    Raises:
        TrackingError: for a URI that no store can ever answer at.
        Exception: whatever the client raises if the store does not answer now.
    """
    import_mlflow()
    from mlflow import MlflowClient
    from mlflow.exceptions import InvalidUrlException
    from sqlalchemy.exc import ArgumentError

    def connect() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
        if path is not None:
            follow(path, artifact_folder(path))
        return client

    path = _sqlite_file(uri)
    try:
        if path is not None and not path.exists():
            within(_SECONDS_TO_CREATE, lambda: _create_sqlite(path))
        if path is not None and not _is_sqlite(path):
            raise ValueError("the file is no SQLite database")
        return within(seconds, connect)
    except Exception as error:
        scheme = uri.partition(":")[0].partition("+")[0]
        if scheme in _SCHEMES and not isinstance(error, ImportError | ValueError | ArgumentError | InvalidUrlException):
            raise
        raise TrackingError(
            f"the MLflow store {uri} cannot be used ({first_line(error)}); give another with --tracking-uri, such as "
            "http://HOST:PORT or sqlite:///FILE (without it, mlflow.db in the working directory is used)"
        ) from None


def _sqlite_file(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def _is_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(16) in (b"", b"SQLite format 3\0")


def _create_sqlite(path: Path) -> None:
    """Creates an empty store, whole or not at all, unless there is one.

    MLflow's migrations are no transaction: processes that meet in them, a full disk or a kill leave a file that
    MLflow refuses for ever. So the store is made under another name and then linked to its own.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with _alone_in(path.parent), tempfile.TemporaryDirectory(dir=path.parent, prefix=".mlflow-new-") as folder:
        if path.exists():
            return
        made = Path(folder) / path.name
        # SQLite itself would let nobody else write, whatever the umask says.
        made.touch()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            store = SqlAlchemyStore(f"sqlite:///{made}", artifact_location(f"sqlite:///{path}"))
        store.engine.dispose()
        try:
            os.link(made, path)
        except FileExistsError:
            return
        except OSError:
            # A file system without hard links.
            os.replace(made, path)


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Within, other processes that ask for the same folder wait; where locks do not work, all go on at once."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        # Not a lock on a file of its own: it would have to stay there for ever.
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def artifact_location(uri: str) -> str | None:
    """Beside a SQLite file; a server decides for itself."""
    path = _sqlite_file(uri)
    return None if path is None else artifact_folder(path).as_uri()


def artifact_folder(path: Path) -> Path:
    """Beside the SQLite file of a store."""
    return path.absolute().parent / "mlartifacts"
