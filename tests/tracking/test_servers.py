"""Real faults of a real MLflow server: it dies, it hangs, it is slow."""

import contextlib
import http.client
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

STORES = runpy.run_path(str(Path(__file__).with_name("stores.py")))
uri_of = STORES["uri_of"]
assert_mirrored = STORES["assert_mirrored"]
assert_synced = STORES["assert_synced"]
assert_held_up_once = STORES["assert_held_up_once"]
wait_for_late_contacts = STORES["wait_for_late_contacts"]
assert_trained_with_one_warning = STORES["assert_trained_with_one_warning"]


class Server:
    """A real `mlflow server` on loopback, with its SQLite file in a folder."""

    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process = None

    def start(self):
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", uri_of(self.folder), "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "files")]
        environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        # A group of its own: its worker is a child.
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment, cwd=self.folder
        )
        for line in self.process.stderr:
            if "Application startup complete" in line:
                # Read on, or a full pipe would stop it.
                threading.Thread(target=self.process.stderr.read, daemon=True).start()
                return
        pytest.fail("the server did not start")

    def signal(self, number):
        os.killpg(self.process.pid, number)

    def kill(self):
        if self.process is not None:
            self.signal(signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path, make_store):
    made = Server(make_store(tmp_path / "server"))
    made.start()
    yield made
    made.kill()


@pytest.mark.slow
def test_a_server_killed_in_the_midst_stops_nothing_and_sync_completes_it(
    run, clbench, place, server, during_task, waits
):
    # The second task of the second of three runs.
    during_task(4, server.kill)
    outcome = run(place, "--tracking-uri", server.uri, seeds="0-2", reported=True)
    assert_trained_with_one_warning(outcome, place, 3, "takes no more records")
    assert sum(waits[-1:]) < 5
    refused = clbench(place, "sync", "--tracking-uri", server.uri)
    assert refused.code == 2
    assert refused.err.startswith(f"clbench: error: the MLflow store {server.uri} does not answer (")
    server.start()
    assert_synced(clbench, place, server.uri, added=1, completed=1, up_to_date=1)


@pytest.mark.slow
def test_a_server_that_hangs_costs_one_timeout_and_what_it_does_on_waking_is_not_doubled(
    run, clbench, place, server, during_task, waits, monkeypatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    during_task(4, lambda: server.signal(signal.SIGSTOP))
    outcome = run(place, "--tracking-uri", server.uri, seeds="0-2")
    assert_trained_with_one_warning(outcome, place, 3, "takes no more records (no answer within 2 seconds)")
    assert_held_up_once(waits, 2)
    # It now does what it was asked while it hung, too late.
    server.signal(signal.SIGCONT)
    wait_for_late_contacts()
    # The contact's second try may have been in time.
    assert_synced(clbench, place, server.uri, added=1, completed=1, up_to_date=1, or_up_to_date=1)


@pytest.fixture
def delayed(server):
    """(seconds) -> the address of a wire to the server that delays every request by so much."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Delay(BaseHTTPRequestHandler):
        def pass_on(self):
            # Whoever was at the other end may have given up.
            with contextlib.suppress(OSError):
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length) if length else None
                time.sleep(wire.seconds)
                onward = http.client.HTTPConnection("127.0.0.1", server.port)
                onward.request(self.command, self.path, body, dict(self.headers))
                answer = onward.getresponse()
                content = answer.read()
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.getheader("Content-Type", "application/json"))
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on

        def log_message(self, *args):
            pass

    wire = ThreadingHTTPServer(("127.0.0.1", 0), Delay)
    thread = threading.Thread(target=wire.serve_forever)
    thread.start()

    def delay(seconds):
        wire.seconds = seconds
        return f"http://127.0.0.1:{wire.server_port}"

    yield delay
    wire.shutdown()
    thread.join()
    wire.server_close()


@pytest.mark.slow
def test_a_server_too_slow_for_its_many_requests_is_given_up_as_a_whole(
    run, clbench, place, server, delayed, waits, monkeypatch
):
    # Every single request is answered in time; a delivery of several is not.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    outcome = run(place, "--tracking-uri", delayed(1), seeds="0-1")
    assert_trained_with_one_warning(outcome, place, 2, "takes no more records (no answer within 3 seconds)")
    assert_held_up_once(waits, 3)
    synced = clbench(place, "sync", "--tracking-uri", server.uri)
    assert synced.code == 0
    assert_mirrored(server.uri, place / "clbench-runs")


@pytest.mark.slow
def test_a_server_that_is_merely_slow_is_waited_for(run, place, server, delayed):
    outcome = run(place, "--tracking-uri", delayed(0.3))
    assert (outcome.code, outcome.err) == (0, "")
    assert_mirrored(server.uri, place / "clbench-runs")
