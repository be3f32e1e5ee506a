"""A broker process for a script, and the bookkeeping of its checks."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback


class Broker:
    def __init__(self, tls=None, http=False):
        """`tls`: the folder of certificates for a second listener, where clients must show one. `http`: with the
        management API."""
        self.folder = tempfile.mkdtemp()
        self.port = 0
        self.tls_port = 0
        self.http_port = "none" if not http else 0
        self.flags = [] if tls is None else [
            "--amqps-port", "0", "--tls-certfile", f"{tls}/server.pem", "--tls-keyfile", f"{tls}/server.key",
            "--tls-cacertfile", f"{tls}/ca.pem", "--tls-verify", "verify_peer", "--tls-fail-if-no-peer-cert", "true"]
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [os.environ["LEVERET"], "--data-dir", self.folder, "--bind", "127.0.0.1", "--amqp-port", str(self.port),
             "--http-port", str(self.http_port), "--metrics-port", "none", *self.flags],
            stdout=subprocess.PIPE, text=True)
        # After a restart the ports are known before anybody listens there.
        listens, listens_tls, listens_http = False, not self.flags, self.http_port == "none"
        for line in self.process.stdout:
            found = re.search(r"started TCP listener on 127\.0\.0\.1:(\d+)", line)
            if found:
                self.port, listens = int(found[1]), True
            found = re.search(r"started TLS \(SSL\) listener on 127\.0\.0\.1:(\d+)", line)
            if found:
                self.tls_port, listens_tls = int(found[1]), True
            found = re.search(r"started HTTP listener on 127\.0\.0\.1:(\d+)", line)
            if found:
                self.http_port, listens_http = int(found[1]), True
            if listens and listens_tls and listens_http:
                break
        else:
            raise SystemExit("the broker did not start")
        # A full pipe would hold up the broker.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    @property
    def uri(self):
        return f"amqp://guest:guest@127.0.0.1:{self.port}/%2f"

    def kill(self):
        self.process.kill()
        self.process.wait()

    def close(self):
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class Checks:
    """Runs a client's checks one after the other and says how each went."""

    def __init__(self, client):
        self.client = client
        self.failed = 0

    def run(self, name, check):
        try:
            check()
            print(f"passed {self.client}: {name}", flush=True)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            self.failed += 1
            traceback.print_exc()
            print(f"FAILED {self.client}: {name}: {error!r}", flush=True)

    def end(self):
        sys.exit(1 if self.failed else 0)


def eventually(probe, patience=60):
    """Looks again and again until the probe finds something."""
    end = time.monotonic() + patience
    while True:
        found = probe()
        if found:
            return found
        assert time.monotonic() < end, "never came about"
        time.sleep(0.02)
