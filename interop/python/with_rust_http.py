"""RabbitMQ's HTTP client for Rust; pika holds a connection that it can look at, and close."""

import os
import subprocess
import sys
import threading

import pika

from broker import Broker

broker = Broker(http=True)
parameters = pika.ConnectionParameters("127.0.0.1", broker.port, client_properties={"connection_name": "watcher"})
connection = pika.BlockingConnection(parameters)
channel = connection.channel()
channel.queue_declare("watched", durable=True)
channel.basic_consume("watched", lambda *_: None, consumer_tag="watcher")


def watch():
    try:
        channel.start_consuming()
    except pika.exceptions.AMQPError:
        # It is closed at the end.
        pass


threading.Thread(target=watch, daemon=True).start()
environment = {**os.environ, "HTTP": f"127.0.0.1:{broker.http_port}"}
status = subprocess.run([sys.argv[1]], env=environment).returncode
broker.close()
sys.exit(status)
