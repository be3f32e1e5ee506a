"""pika's blocking connection."""

import datetime
import decimal

import pika
from pika.exceptions import (AMQPConnectionError, ChannelClosedByBroker, ChannelWrongStateError, ConnectionClosedByBroker,
                             NackError, ProbableAuthenticationError, UnroutableError)

from broker import Broker, Checks, eventually

broker = Broker()
checks = Checks("pika")
PERSISTENT = pika.BasicProperties(delivery_mode=2)


def connect():
    return pika.BlockingConnection(pika.URLParameters(broker.uri + "?heartbeat=0&blocked_connection_timeout=60"))


def with_channel(talk):
    def check():
        connection = connect()
        try:
            talk(connection.channel())
        finally:
            if connection.is_open:
                connection.close()
    return check


def server_named(channel):
    return channel.queue_declare("", exclusive=True).method.queue


def take(channel, queue):
    """The next message's body, or None."""
    _, _, body = channel.basic_get(queue, auto_ack=True)
    return body


def check(name):
    def register(talk):
        checks.run(name, with_channel(talk))
        return talk
    return register


@check("queues are declared, named by the server, counted and deleted")
def _(channel):
    name = server_named(channel)
    assert name.startswith("amq.gen-"), name
    channel.queue_declare("kept", durable=True)
    channel.basic_publish("", "kept", b"m")
    ok = channel.queue_declare("kept", passive=True).method
    assert (ok.queue, ok.message_count, ok.consumer_count) == ("kept", 1, 0), ok
    assert channel.queue_purge("kept").method.message_count == 1
    assert channel.queue_delete("kept").method.message_count == 0


@check("every type of exchange routes")
def _(channel):
    queue = server_named(channel)
    wanted = {"x-match": "all", "colour": "grey", "legs": 4}
    for kind, pattern, key, arguments in [
        ("direct", "key", "key", None),
        ("fanout", "", "whatever", None),
        ("topic", "a.*.#", "a.b.c.d", None),
        ("headers", "", "", wanted),
    ]:
        exchange = f"of-{kind}"
        channel.exchange_declare(exchange, kind)
        channel.queue_bind(queue, exchange, pattern, arguments)
        channel.basic_publish(exchange, key, b"m", pika.BasicProperties(headers={"colour": "grey", "legs": 4}))
        method, _, body = channel.basic_get(queue, auto_ack=True)
        assert method and (method.exchange, method.routing_key, body) == (exchange, key, b"m"), (kind, method)
        channel.basic_publish(exchange, "other", b"no", pika.BasicProperties(headers={"colour": "red"}))
        assert (take(channel, queue) is None) == (kind != "fanout"), kind
        channel.queue_unbind(queue, exchange, pattern, arguments)
        channel.basic_publish(exchange, key, b"m", pika.BasicProperties(headers={"colour": "grey", "legs": 4}))
        assert take(channel, queue) is None, kind
        channel.exchange_delete(exchange)


@check("an exchange is bound to an exchange")
def _(channel):
    queue = server_named(channel)
    channel.exchange_declare("first", "topic")
    channel.exchange_declare("second", "fanout")
    channel.exchange_bind("second", "first", "a.#")
    channel.queue_bind(queue, "second")
    channel.basic_publish("first", "a.b", b"yes")
    channel.basic_publish("first", "b", b"no")
    assert [take(channel, queue), take(channel, queue)] == [b"yes", None]


@check("publishes are confirmed, and what cannot be routed comes back")
def _(channel):
    queue = server_named(channel)
    channel.confirm_delivery()
    for number in range(200):
        channel.basic_publish("", queue, str(number).encode(), PERSISTENT, mandatory=True)
    try:
        channel.basic_publish("", "nowhere", b"m", mandatory=True)
        raise AssertionError("not returned")
    except UnroutableError as error:
        returned = error.messages[0]
        assert (returned.method.reply_code, returned.method.reply_text, returned.body) == (312, "NO_ROUTE", b"m")
    # Without the flag it is dropped, and confirmed.
    channel.basic_publish("", "nowhere", b"m")
    assert [take(channel, queue) for _ in range(200)] == [str(number).encode() for number in range(200)]


@check("a prefetch limits what a consumer holds")
def _(channel):
    queue = server_named(channel)
    for number in range(30):
        channel.basic_publish("", queue, str(number).encode())
    channel.basic_qos(prefetch_count=10)
    seen = []
    tag = channel.basic_consume(queue, lambda _, method, __, body: seen.append((method.delivery_tag, body)))
    while len(seen) < 10:
        channel.connection.process_data_events(1)
    assert channel.queue_declare(queue, passive=True).method.message_count == 20
    channel.basic_ack(seen[4][0], multiple=True)
    while len(seen) < 15:
        channel.connection.process_data_events(1)
    assert channel.queue_declare(queue, passive=True).method.message_count == 15
    assert [body for _, body in seen] == [str(number).encode() for number in range(15)]
    channel.basic_cancel(tag)
    # pika gives back what was not yet handled; all that was not acknowledged comes back with the channel.


@check("ack, nack and reject: what goes back comes again, in its place")
def _(channel):
    queue = server_named(channel)
    for body in [b"a", b"b", b"c", b"d", b"e"]:
        channel.basic_publish("", queue, body)
    tags = [channel.basic_get(queue)[0].delivery_tag for _ in range(5)]
    channel.basic_reject(tags[3], requeue=True)
    channel.basic_ack(tags[0])
    channel.basic_reject(tags[1], requeue=False)
    channel.basic_nack(tags[4], multiple=True, requeue=True)
    found = []
    while True:
        method, _, body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            break
        found.append((body, method.redelivered))
    assert found == [(b"c", True), (b"d", True), (b"e", True)], found


@check("basic.recover gives back everything unacknowledged")
def _(channel):
    queue = server_named(channel)
    channel.basic_publish("", queue, b"m")
    assert channel.basic_get(queue)[2] == b"m"
    channel.basic_recover(requeue=True)
    method, _, body = channel.basic_get(queue, auto_ack=True)
    assert (body, method.redelivered) == (b"m", True)


@check("transactions are seen when committed, and not when rolled back")
def _(channel):
    queue = channel.queue_declare("tx", durable=True).method.queue
    channel.tx_select()
    channel.basic_publish("", queue, b"no")
    channel.tx_rollback()
    channel.basic_publish("", queue, b"yes", PERSISTENT)
    watcher = channel.connection.channel()
    assert take(watcher, queue) is None
    channel.tx_commit()
    assert take(watcher, queue) == b"yes"


@check("headers of every type come back")
def _(channel):
    queue = server_named(channel)
    headers = {
        "bool": True, "int": -5, "long": 1 << 40, "text": "länge", "empty": "", "none": None,
        # pika cannot write floating point numbers.
        "decimal": decimal.Decimal("12.34"), "list": [1, "two", None, [3]], "table": {"a": {"b": 1}},
        "time": datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc),
    }
    properties = pika.BasicProperties(
        content_type="t", content_encoding="e", headers=headers, delivery_mode=2, priority=3, correlation_id="c",
        reply_to="r", expiration="600000", message_id="m", timestamp=1_700_000_000, type="ty", user_id="guest",
        app_id="app", cluster_id="cl")
    channel.basic_publish("", queue, b"m", properties)
    _, found, _ = channel.basic_get(queue, auto_ack=True)
    assert found == properties, (found, properties)


@check("large bodies come back whole")
def _(channel):
    queue = server_named(channel)
    for size in [0, 1, 131_064, 131_065, 1 << 20, 5 << 20]:
        body = bytes(at * 7 % 251 for at in range(1024)) * (size // 1024 + 1)
        channel.basic_publish("", queue, body[:size])
        assert take(channel, queue) == body[:size], size


@check("an error closes its channel and leaves the connection usable")
def _(channel):
    connection = channel.connection
    for code, fault in [
        (404, lambda channel: channel.queue_declare("missing", passive=True)),
        (404, lambda channel: channel.basic_get("missing")),
        (404, lambda channel: channel.queue_bind("missing", "amq.direct")),
        (406, lambda channel: channel.exchange_declare("amq.direct", "topic", durable=True)),
        (403, lambda channel: channel.exchange_declare("amq.new", "topic")),
        (403, lambda channel: channel.exchange_delete("")),
    ]:
        broken = connection.channel()
        try:
            fault(broken)
            raise AssertionError(f"{code} did not come")
        except ChannelClosedByBroker as error:
            assert error.reply_code == code, error
    # The errors of what is not answered come with the next answer.
    broken = connection.channel()
    broken.basic_ack(77)
    try:
        broken.queue_declare("", exclusive=True)
        raise AssertionError("406 did not come")
    except (ChannelClosedByBroker, ChannelWrongStateError):
        pass
    assert server_named(channel)


@check("an exclusive queue is its connection's alone and ends with it")
def _(channel):
    channel.queue_declare("mine", exclusive=True)
    other = connect()
    try:
        other.channel().queue_declare("mine", passive=True)
        raise AssertionError("not locked")
    except ChannelClosedByBroker as error:
        assert error.reply_code == 405, error
    channel.connection.close()
    try:
        other.channel().queue_declare("mine", passive=True)
        raise AssertionError("still there")
    except ChannelClosedByBroker as error:
        assert error.reply_code == 404, error
    other.close()


@check("an auto-delete queue ends with its last consumer")
def _(channel):
    channel.queue_declare("passing", auto_delete=True)
    tag = channel.basic_consume("passing", lambda *_: None)
    channel.basic_cancel(tag)
    try:
        channel.queue_declare("passing", passive=True)
        raise AssertionError("still there")
    except ChannelClosedByBroker as error:
        assert error.reply_code == 404, error


@check("a consumer is told when its queue is deleted")
def _(channel):
    queue = server_named(channel)
    told = []
    channel.add_on_cancel_callback(lambda frame: told.append(frame.method.consumer_tag))
    tag = channel.basic_consume(queue, lambda *_: None)
    channel.queue_delete(queue)
    while not told:
        channel.connection.process_data_events(1)
    assert told == [tag]


def got(channel, queue):
    """The next message as method, properties and body, once it is there."""
    def look():
        found = channel.basic_get(queue, auto_ack=True)
        return found if found[0] else None
    return eventually(look)


@check("what expires or is rejected goes on as a dead letter that tells so")
def _(channel):
    channel.exchange_declare("dead", "fanout")
    dead = server_named(channel)
    channel.queue_bind(dead, "dead")
    channel.queue_declare("lives-short", durable=True,
                          arguments={"x-message-ttl": 50, "x-dead-letter-exchange": "dead"})
    channel.queue_declare("rejects", durable=True,
                          arguments={"x-dead-letter-exchange": "dead", "x-dead-letter-routing-key": "other"})

    def expect(reason, queue, key, original=None):
        method, properties, body = got(channel, dead)
        assert (method.exchange, method.routing_key, body) == ("dead", key, b"m"), method
        death, = properties.headers["x-death"]
        assert isinstance(death.pop("time"), datetime.datetime)
        expected = {"count": 1, "reason": reason, "queue": queue, "exchange": "", "routing-keys": [queue]}
        if original:
            expected["original-expiration"] = original
        assert death == expected, death
        for which in ["first", "last"]:
            found = [properties.headers[f"x-{which}-death-{what}"] for what in ["queue", "reason", "exchange"]]
            assert found == [queue, reason, ""], found
        assert properties.expiration is None

    channel.basic_publish("", "lives-short", b"m", PERSISTENT)
    expect("expired", "lives-short", "lives-short")
    channel.basic_publish("", "rejects", b"m", pika.BasicProperties(expiration="20"))
    expect("expired", "rejects", "other", original="20")
    channel.basic_publish("", "rejects", b"m")
    channel.basic_reject(channel.basic_get("rejects")[0].delivery_tag, requeue=False)
    expect("rejected", "rejects", "other")
    for name in ["lives-short", "rejects"]:
        channel.queue_delete(name)
    channel.exchange_delete("dead")


@check("higher priorities go first")
def _(channel):
    queue = channel.queue_declare("", exclusive=True, arguments={"x-max-priority": 5}).method.queue
    for priority, body in [(None, b"a"), (1, b"b"), (5, b"c"), (9, b"d"), (1, b"e")]:
        channel.basic_publish("", queue, body, pika.BasicProperties(priority=priority))
    assert [take(channel, queue) for _ in range(6)] == [b"c", b"d", b"b", b"e", b"a", None]


@check("a full queue nacks, or drops its head")
def _(channel):
    channel.confirm_delivery()
    refusing = channel.queue_declare("", exclusive=True, arguments={"x-max-length": 2, "x-overflow": "reject-publish"})
    dropping = channel.queue_declare("", exclusive=True, arguments={"x-max-length": 2})
    refusing, dropping = refusing.method.queue, dropping.method.queue
    for body in [b"a", b"b"]:
        channel.basic_publish("", refusing, body)
    try:
        channel.basic_publish("", refusing, b"c")
        raise AssertionError("not nacked")
    except NackError:
        pass
    assert take(channel, refusing) == b"a"
    channel.basic_publish("", refusing, b"d")
    assert [take(channel, refusing) for _ in range(3)] == [b"b", b"d", None]
    for body in [b"a", b"b", b"c"]:
        channel.basic_publish("", dropping, body)
    assert [take(channel, dropping) for _ in range(3)] == [b"b", b"c", None]


@check("a quorum queue counts failed deliveries, and gives up after its limit")
def _(channel):
    dead = server_named(channel)
    channel.queue_declare("quorum", durable=True, arguments={
        "x-queue-type": "quorum", "x-delivery-limit": 2, "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": dead})
    channel.basic_publish("", "quorum", b"m", PERSISTENT)
    for failed in range(3):
        method, properties, body = channel.basic_get("quorum")
        count = (properties.headers or {}).get("x-delivery-count", 0)
        assert (count, method.redelivered, body) == (failed, failed > 0, b"m"), (count, method)
        channel.basic_reject(method.delivery_tag, requeue=True)
    method, properties, _ = got(channel, dead)
    assert properties.headers["x-death"][0]["reason"] == "delivery_limit", properties.headers
    assert take(channel, "quorum") is None
    channel.queue_delete("quorum")


@check("answers come straight to the channel that asked")
def _(channel):
    requests = server_named(channel)
    server = channel.connection.channel()

    def answer(_, method, properties, body):
        assert properties.reply_to.startswith("amq.rabbitmq.reply-to."), properties.reply_to
        server.basic_publish("", properties.reply_to, body.upper(),
                             pika.BasicProperties(correlation_id=properties.correlation_id))
        server.basic_ack(method.delivery_tag)

    server.basic_consume(requests, answer)
    answers = {}
    channel.basic_consume("amq.rabbitmq.reply-to",
                          lambda _, __, properties, body: answers.update({properties.correlation_id: body}), auto_ack=True)
    for number in range(20):
        channel.basic_publish("", requests, f"call {number}".encode(), pika.BasicProperties(
            reply_to="amq.rabbitmq.reply-to", correlation_id=str(number)))
    while len(answers) < 20:
        channel.connection.process_data_events(1)
    assert answers == {str(number): f"CALL {number}".encode() for number in range(20)}, answers


@check("a consistent hash shares keys out, the same key always to the same queue")
def _(channel):
    channel.exchange_declare("hashed", "x-consistent-hash")
    queues = [server_named(channel) for _ in range(3)]
    for queue, weight in zip(queues, ["1", "1", "2"]):
        channel.queue_bind(queue, "hashed", weight)
    for _ in range(2):
        for number in range(500):
            channel.basic_publish("hashed", f"key {number}", f"key {number}".encode())
    shares = []
    for queue in queues:
        share = []
        while (body := take(channel, queue)) is not None:
            share.append(body)
        shares.append(share)
    assert sum(map(len, shares)) == 1000
    assert all(sorted(share) == sorted(2 * list(set(share))) for share in shares)
    assert all(len(share) > 100 for share in shares) and len(shares[2]) > max(len(shares[0]), len(shares[1]))
    channel.exchange_delete("hashed")


def wrong_password():
    try:
        pika.BlockingConnection(pika.URLParameters(broker.uri.replace("guest:guest", "guest:wrong")))
        raise AssertionError("let in")
    except ProbableAuthenticationError:
        pass


checks.run("a wrong password is told as such", wrong_password)


def wrong_vhost():
    try:
        pika.BlockingConnection(pika.URLParameters(broker.uri.replace("%2f", "nowhere")))
        raise AssertionError("let in")
    except (ConnectionClosedByBroker, AMQPConnectionError) as error:
        assert "not found" in repr(error) or "530" in repr(error), error


checks.run("an unknown vhost is told as such", wrong_vhost)


def crash():
    channel = connect().channel()
    channel.queue_declare("crash", durable=True)
    channel.confirm_delivery()
    for number in range(300):
        channel.basic_publish("", "crash", str(number).encode(), PERSISTENT)
    broker.kill()
    try:
        channel.basic_publish("", "crash", b"lost", PERSISTENT)
        raise AssertionError("confirmed by nobody")
    except AMQPConnectionError:
        pass
    broker.start()
    channel = connect().channel()
    found = [take(channel, "crash") for _ in range(301)]
    assert found == [str(number).encode() for number in range(300)] + [None], found


checks.run("everything confirmed is there after kill -9 and a new connection", crash)
broker.close()
checks.end()
