"""Celery: kombu over py-amqp, with a worker process of its own."""

import os
import subprocess
import sys

from broker import Broker, Checks, eventually

broker = Broker()
os.environ["BROKER"] = broker.uri

from celery import group  # noqa: E402  (the application reads the address when it is loaded)
from kombu import Connection, Consumer, Exchange, Producer, Queue  # noqa: E402

import tasks  # noqa: E402

checks = Checks("celery")
worker = subprocess.Popen(
    [sys.executable, "-m", "celery", "--app", "tasks", "worker", "--pool", "solo", "--loglevel", "warning"],
    cwd=os.path.dirname(os.path.abspath(__file__)), stdout=subprocess.DEVNULL)

PATIENCE = 60


def kombu_round_trip():
    with Connection(broker.uri) as connection:
        exchange = Exchange("kombu", "topic", durable=True)
        queue = Queue("kombu", exchange, routing_key="a.#", durable=True)
        with connection.channel() as channel:
            Producer(channel, exchange).publish({"n": 1, "text": "ä"}, routing_key="a.b", declare=[queue], retry=True,
                                                headers={"x": [1, {"y": 2}]}, delivery_mode=2, compression="zlib")
            found = []
            with Consumer(channel, [queue], callbacks=[lambda body, message: (found.append(body), message.ack())],
                          prefetch_count=5):
                while not found:
                    connection.drain_events(timeout=PATIENCE)
            assert found == [{"n": 1, "text": "ä"}], found
            assert queue(channel).get() is None


def confirmed():
    with Connection(broker.uri, transport_options={"confirm_publish": True}) as connection:
        with connection.channel() as channel:
            queue = Queue("", exclusive=True)(channel)
            queue.declare()
            producer = Producer(channel)
            for number in range(50):
                producer.publish({"n": number}, routing_key=queue.name)
            for number in range(50):
                assert queue.get(no_ack=True).payload == {"n": number}


def simple_queue():
    with Connection(broker.uri) as connection, connection.SimpleQueue("simple") as queue:
        queue.put({"a": 1})
        message = queue.get(timeout=PATIENCE)
        assert message.payload == {"a": 1}
        message.ack()
        assert len(queue) == 0


def one_task():
    assert tasks.add.delay(2, 3).get(timeout=PATIENCE) == 5


def many_tasks():
    results = group(tasks.add.s(number, 1) for number in range(50)).apply_async()
    assert results.get(timeout=PATIENCE) == list(range(1, 51))


def retried():
    assert tasks.third_time.delay().get(timeout=PATIENCE) == 2


def failed():
    try:
        tasks.broken.delay().get(timeout=PATIENCE)
        raise AssertionError("no error came")
    except ValueError as error:
        assert str(error) == "as it should"


def later():
    assert tasks.add.apply_async((1, 1), countdown=1).get(timeout=PATIENCE) == 2


def controlled():
    replies = eventually(lambda: tasks.app.control.ping(timeout=2), PATIENCE)
    assert list(replies[0].values()) == [{"ok": "pong"}], replies


def crashed():
    broker.kill()
    broker.start()

    def answered():
        # Both sides connect again by themselves; a result queue of before is gone.
        try:
            return tasks.add.delay(20, 1).get(timeout=5) == 21
        except Exception:
            return False

    eventually(answered, PATIENCE)


try:
    checks.run("kombu declares, publishes and consumes", kombu_round_trip)
    checks.run("kombu publishes with confirms", confirmed)
    checks.run("kombu's simple queue", simple_queue)
    checks.run("a task is run by the worker and its result comes back", one_task)
    checks.run("a group of tasks", many_tasks)
    checks.run("a task that is tried again", retried)
    checks.run("a task that fails", failed)
    checks.run("a task for later", later)
    checks.run("the worker answers remote control", controlled)
    checks.run("worker and client come back after kill -9", crashed)
finally:
    worker.kill()
    worker.wait()
    broker.close()
checks.end()
