"""Schemathesis makes requests of all kinds from the document that describes the management API.

Whatever they ask for, the broker answers with no status beyond 499 but a health check's 503, says what it says in the form
that the document gives, and is alive at the end.
"""

import base64
import json
import os
import subprocess
import sys
import tempfile
import urllib.request

from broker import Broker, Checks

SECONDS = 45
# They would end the broker, its own users, or the virtual host that most requests are about; or they wait for somebody, or have
# publishers wait for ever.
LEFT_OUT = ["delete_vhosts_vhost", "post_users_bulk_delete", "post_definitions", "put_definitions",
            "post_all_configuration", "put_all_configuration", "post_stop", "put_watermarks_what"]
CHECKS = ["not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
          "unsupported_method"]
# A health check that fails says so with 503, and a method that no resource has is not implemented.
SETTINGS = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "503"]
[phases.coverage]
unexpected-methods = ["get", "put", "post", "delete", "options", "patch"]
"""

broker = Broker(http=True)
url = f"http://127.0.0.1:{broker.http_port}/api"


def call(method, path, body=None):
    request = urllib.request.Request(url + path, data=body and json.dumps(body).encode(), method=method)
    request.add_header("Authorization", "Basic " + base64.b64encode(b"guest:guest").decode())
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read()


def answers():
    call("PUT", "/queues/%2F/q", {"durable": True})
    command = [os.path.join(os.path.dirname(sys.executable), "schemathesis"), "run", f"{url}/openapi.json",
               "--auth", "guest:guest", "--checks", ",".join(CHECKS), "--max-time", str(SECONDS), "--seed", "1",
               "--phases", "examples,coverage,fuzzing", "--continue-on-failure", "--warnings", "off",
               "--suppress-health-check", "all", "--generation-database", "none"]
    for operation in LEFT_OUT:
        command += ["--exclude-operation-id", operation]
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "schemathesis.toml"), "w") as settings:
            settings.write(SETTINGS)
        found = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if found.returncode:
        print(found.stdout, file=sys.stderr)
    assert found.returncode == 0, "Schemathesis found something"


def lives():
    assert json.loads(call("GET", "/whoami"))["name"] == "guest"
    assert broker.process.poll() is None


checks = Checks("schemathesis")
checks.run("every made-up request is answered as described", answers)
checks.run("the broker is alive", lives)
broker.close()
checks.end()
