"""rabbitmqadmin, version 2: its common commands, each answer read as the table that it prints. pika holds a connection."""

import json
import os
import subprocess
import sys
import tempfile
import threading

import pika

from broker import Broker, Checks

admin = sys.argv[1]
broker = Broker(http=True)
folder = tempfile.mkdtemp()
environment = {
    "HOME": folder,
    "RABBITMQADMIN_BASE_URI": f"http://127.0.0.1:{broker.http_port}",
    "RABBITMQADMIN_USERNAME": "guest",
    "RABBITMQADMIN_PASSWORD": "guest",
    "RABBITMQADMIN_TABLE_STYLE": "markdown",
}


def run(*words):
    return subprocess.run([admin, *words], env=environment, capture_output=True, text=True, timeout=60)


def told(*words):
    """What a command prints that must succeed."""
    ended = run(*words)
    assert ended.returncode == 0, (words, ended.returncode, ended.stdout, ended.stderr)
    return ended.stdout


def table(*words):
    """The rows of a table: its cells without the frame."""
    rows = [line.strip().strip("|").split("|") for line in told(*words).splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in row] for row in rows]
    return [row for row in rows if not all(set(cell) <= set("-:") for cell in row)]


def rows(*words):
    """The rows of a list, by their columns' names. A cell of several lines goes on in rows without a name."""
    names, *rest = table(*words)
    return [dict(zip(names, row, strict=True)) for row in rest if row[0]]


def pairs(*words):
    """A table of two columns as what its first says of its second."""
    return {row[0]: row[1] for row in table(*words) if len(row) == 2}


def objects():
    told("declare", "vhost", "--name", "v", "--description", "of the test", "--default-queue-type", "quorum")
    told("declare", "queue", "--name", "q", "--durable", "true", "--arguments", '{"x-max-length": 5}')
    told("declare", "queue", "--name", "quorum", "--type", "quorum")
    told("declare", "exchange", "--name", "x", "--type", "topic")
    told("declare", "binding", "--source", "x", "--destination-type", "queue", "--destination", "q", "--routing-key", "a.*")
    queues = {row["name"]: row for row in rows("list", "queues")}
    assert set(queues) == {"q", "quorum"} and queues["quorum"]["queue_type"] == "quorum", queues
    assert "x" in [row["name"] for row in rows("list", "exchanges")]
    bound = [row for row in rows("list", "bindings") if row["source"] == "x"]
    assert [(row["destination"], row["routing_key"]) for row in bound] == [("q", "a.*")], bound
    assert {"/", "v"} == {row["name"] for row in rows("list", "vhosts")}
    assert "x-max-length" in told("queues", "show", "--name", "q")
    # A second declaration that differs is refused, and the text says in what.
    ended = run("declare", "queue", "--name", "q", "--durable", "false")
    assert ended.returncode != 0 and "inequivalent arg 'durable'" in ended.stdout + ended.stderr, ended


def messages():
    told("publish", "message", "--exchange", "x", "--routing-key", "a.b", "--payload", "hello", "--properties",
         '{"delivery_mode": 2}')
    got = rows("get", "messages", "--queue", "q", "--ack-mode", "ack_requeue_false")
    assert got[0]["payload"] == "hello" and got[0]["routing_key"] == "a.b", got
    told("publish", "message", "--routing-key", "q", "--payload", "again")
    told("purge", "queue", "--name", "q")
    assert [row["message_count"] for row in rows("list", "queues")] == ["0", "0"]


def people():
    told("declare", "user", "--name", "ann", "--password", "a password", "--tags", "monitoring")
    told("declare", "permissions", "--username", "ann", "--configure", "^ann-", "--read", ".*", "--write", ".*")
    found = {row["name"]: row for row in rows("list", "users")}
    assert "monitoring" in found["ann"]["tags"], found
    assert [row for row in rows("list", "permissions") if row["user"] == "ann"][0]["configure"] == "^ann-"
    told("declare", "user_limit", "--username", "ann", "--name", "max-connections", "--value", "5")
    assert "max-connections" in told("list", "user_limits")
    told("declare", "vhost_limit", "--name", "max-queues", "--value", "50")
    assert "max-queues" in told("list", "vhost_limits")
    told("delete", "user_limit", "--username", "ann", "--name", "max-connections")
    told("delete", "vhost_limit", "--name", "max-queues")
    told("delete", "permissions", "--username", "ann")
    told("delete", "user", "--name", "ann")
    assert "ann" not in told("list", "users")


def policies():
    told("declare", "policy", "--name", "p", "--pattern", "^q", "--apply-to", "queues", "--priority", "1", "--definition",
         '{"max-length": 3}')
    told("declare", "operator_policy", "--name", "o", "--pattern", ".*", "--apply-to", "queues", "--definition",
         '{"max-length": 100}')
    assert rows("list", "policies")[0]["name"] == "p"
    assert rows("list", "operator_policies")[0]["name"] == "o"
    told("delete", "operator_policy", "--name", "o")
    told("delete", "policy", "--name", "p")


def definitions():
    file = os.path.join(folder, "definitions.json")
    told("definitions", "export", "--file", file)
    with open(file, encoding="utf-8") as handle:
        document = json.load(handle)
    assert "x" in [exchange["name"] for exchange in document["exchanges"]]
    told("delete", "queue", "--name", "quorum")
    told("definitions", "import", "--file", file)
    assert "quorum" in told("list", "queues")


def node():
    overview = pairs("show", "overview")
    assert overview["RabbitMQ version"].startswith("4.") and overview["Queues and streams (total)"] == "2", overview
    told("show", "churn")
    assert len(rows("list", "nodes")) == 1
    named = rows("list", "nodes")[0]["name"]
    for shown in ("memory_breakdown_in_bytes", "memory_breakdown_in_percent"):
        assert len(table("show", shown, "--node", named)) > 1, shown
    assert len(rows("list", "feature_flags")) > 5
    told("list", "deprecated_features")
    told("list", "deprecated_features_in_use")
    told("plugins", "list_all")
    assert "http" in [cell for row in table("auth_attempts", "stats", "--node", named) for cell in row]


def health():
    for check in ("local_alarms", "cluster_wide_alarms", "node_is_quorum_critical"):
        told("health_check", check)
    told("health_check", "port_listener", "--port", str(broker.port))
    told("health_check", "protocol_listener", "--protocol", "amqp")
    assert run("health_check", "port_listener", "--port", "1").returncode != 0


def connections():
    parameters = pika.ConnectionParameters("127.0.0.1", broker.port)
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()
    channel.basic_consume("q", lambda *_: None, consumer_tag="watcher")
    ended = threading.Event()

    def watch():
        try:
            channel.start_consuming()
        except pika.exceptions.AMQPError:
            # It is closed at the end.
            ended.set()

    threading.Thread(target=watch, daemon=True).start()
    shown = rows("list", "connections")
    assert len(shown) == 1 and shown[0]["state"] == "running", shown
    assert len(rows("list", "channels")) == 1
    assert "watcher" in told("list", "consumers")
    assert len(rows("list", "user_connections", "--username", "guest")) == 1
    told("close", "connection", "--name", shown[0]["name"])
    assert ended.wait(30), "the connection stays"


def streams():
    # There are none here, and that is said.
    ended = run("declare", "stream", "--name", "s", "--expiration", "1D", "--max-length-bytes", "100000")
    assert ended.returncode != 0 and "stream" in ended.stdout + ended.stderr, ended


def removal():
    told("delete", "binding", "--source", "x", "--destination-type", "queue", "--destination", "q", "--routing-key", "a.*")
    told("delete", "exchange", "--name", "x")
    told("delete", "queue", "--name", "q")
    told("delete", "vhost", "--name", "v")
    assert run("delete", "queue", "--name", "q").returncode != 0
    told("delete", "queue", "--name", "q", "--idempotently")


checks = Checks("rabbitmqadmin")
for name, check in [
    ("declares and lists", objects), ("publishes, gets and purges", messages), ("users, permissions and limits", people),
    ("policies", policies), ("definitions out and in", definitions), ("the node", node), ("health checks", health),
    ("connections", connections), ("no streams", streams), ("deletes", removal),
]:
    checks.run(name, check)
broker.close()
checks.end()
