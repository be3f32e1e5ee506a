"""Publishes and consumes with pika, and prints what it did as events for the checker (tests/checker), a line of JSON each.

    history_with_pika.py PORT FIRST_ID FIRST_NUMBER

Ends when the broker does, or with standard input. Written down before it is sent, and after it is received.
"""

import json
import os
import select
import sys
import time

import pika

MASK = (1 << 64) - 1
HEAD_BYTES = 24
QUEUE = "pika"


def body(id, length):
    """As `body` in tests/checker/src/body.rs."""
    length = max(length, HEAD_BYTES)
    out = bytearray(id.to_bytes(8, "big") + length.to_bytes(8, "big") + bytes(8))
    state = id
    while len(out) < length:
        state = (state + 0x9E3779B97F4A7C15) & MASK
        mixed = state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
        out += (mixed ^ (mixed >> 31)).to_bytes(8, "big")
    del out[length:]
    total = 0xCBF29CE484222325
    for at in range(0, length, 8):
        word = int.from_bytes(bytes(out[at:at + 8]).ljust(8, b"\0"), "big")
        total = ((total ^ word) * 0x100000001B3) & MASK
    out[16:24] = total.to_bytes(8, "big")
    return bytes(out)


def check(found):
    """Which message it is, or None if it is not whole."""
    if len(found) < HEAD_BYTES:
        return None
    id = int.from_bytes(found[:8], "big")
    return id if found == body(id, len(found)) else None


def note(event, **fields):
    line = json.dumps({"at_us": time.monotonic_ns() // 1000, "event": event, **fields})
    # In one write: a process that is killed leaves no half of a line.
    os.write(1, (line + "\n").encode())


def asked_to_end():
    return bool(select.select([sys.stdin], [], [], 0)[0])


def talk(port, id, number):
    connection = pika.BlockingConnection(pika.URLParameters(f"amqp://guest:guest@127.0.0.1:{port}/%2f?heartbeat=0"))
    channel = connection.channel()
    note("declare", queue=QUEUE, durable=True)
    channel.queue_declare(QUEUE, durable=True)
    note("declare_ok", queue=QUEUE)
    channel.confirm_delivery()
    persistent = pika.BasicProperties(delivery_mode=2)
    while not asked_to_end():
        note("publish", publisher=number, id=id, queues=[QUEUE], persistent=True)
        channel.basic_publish("", QUEUE, body(id, 24 + id % 300), persistent)
        note("confirm", id=id)
        id += 1
        if id % 3 == 0:
            method, _, found = channel.basic_get(QUEUE)
            if method:
                got = check(found)
                note("deliver", queue=QUEUE, consumer=number, tag=method.delivery_tag, id=got,
                     redelivered=method.redelivered)
                if got is not None:
                    note("settle", queue=QUEUE, consumer=number, id=got, how="ack")
                channel.basic_ack(method.delivery_tag)
    channel.basic_qos(prefetch_count=1)
    note("synced", consumer=number)
    connection.close()


if __name__ == "__main__":
    try:
        talk(*(int(argument) for argument in sys.argv[1:4]))
    except (pika.exceptions.AMQPError, OSError):
        # The broker is gone, which is what this is for.
        pass
