"""pika over TLS, with a client's certificate."""

import os
import ssl

import pika
from pika.exceptions import AMQPConnectionError

from broker import Broker, Checks

folder = os.environ["CERTIFICATES"]
broker = Broker(tls=folder)
checks = Checks("pika over TLS")


def connect(certificate="client", host="localhost"):
    context = ssl.create_default_context(cafile=f"{folder}/ca.pem")
    if certificate:
        context.load_cert_chain(f"{folder}/{certificate}.pem", f"{folder}/{certificate}.key")
    options = pika.SSLOptions(context, host)
    return pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", broker.tls_port, ssl_options=options))


def messages():
    connection = connect()
    channel = connection.channel()
    channel.queue_declare("q")
    channel.confirm_delivery()
    for size in (0, 1, 20_000, 3_000_000):
        body = os.urandom(size)
        channel.basic_publish("", "q", body)
        assert channel.basic_get("q", auto_ack=True)[2] == body, size
    connection.close()


def refused(**how):
    try:
        connect(**how)
    except (AMQPConnectionError, ssl.SSLError, OSError):
        return
    raise AssertionError("let in")


checks.run("messages of all sizes come back", messages)
checks.run("a client without a certificate is turned away", lambda: refused(certificate=None))
checks.run("a server's certificate is no client's", lambda: refused(certificate="server"))
checks.run("the broker's certificate is for its name alone", lambda: refused(host="elsewhere.example"))
broker.close()
checks.end()
