"""aio-pika, with its robust connections."""

import asyncio
import datetime

import aio_pika
from aio_pika import DeliveryMode, ExchangeType, Message
from aio_pika.exceptions import ChannelPreconditionFailed, DeliveryError, QueueEmpty

from broker import Broker, Checks

broker = Broker()
checks = Checks("aio-pika")


def check(name):
    def register(talk):
        async def whole():
            connection = await aio_pika.connect(broker.uri)
            async with connection:
                await talk(connection)
        checks.run(name, lambda: asyncio.run(asyncio.wait_for(whole(), 60)))
        return talk
    return register


def persistent(body, **properties):
    return Message(body, delivery_mode=DeliveryMode.PERSISTENT, **properties)


@check("confirmed messages are consumed in order")
async def _(connection):
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=20)
    queue = await channel.declare_queue("ordered", durable=True)
    publishes = [channel.default_exchange.publish(persistent(str(n).encode()), "ordered") for n in range(500)]
    for publish in publishes:
        await publish
    found = []
    async with queue.iterator() as messages:
        async for message in messages:
            async with message.process():
                found.append(int(message.body))
            if len(found) == 500:
                break
    assert found == list(range(500)), found


@check("many publishes at once are all confirmed")
async def _(connection):
    channel = await connection.channel()
    queue = await channel.declare_queue("", exclusive=True)
    exchange = channel.default_exchange
    await asyncio.gather(*(exchange.publish(persistent(b"m"), queue.name) for _ in range(1000)))
    assert (await channel.declare_queue(queue.name, passive=True)).declaration_result.message_count == 1000


@check("every type of exchange routes")
async def _(connection):
    channel = await connection.channel()
    queue = await channel.declare_queue("", exclusive=True)
    for kind, pattern, key, arguments in [
        (ExchangeType.DIRECT, "key", "key", None),
        (ExchangeType.FANOUT, "", "any", None),
        (ExchangeType.TOPIC, "*.b.#", "a.b", None),
        (ExchangeType.HEADERS, "", "", {"x-match": "any", "a": 1, "b": 2}),
    ]:
        exchange = await channel.declare_exchange(f"aio-{kind.value}", kind)
        await queue.bind(exchange, pattern, arguments=arguments)
        await exchange.publish(Message(b"m", headers={"b": 2}), key)
        message = await queue.get(no_ack=True)
        assert (message.exchange, message.routing_key) == (exchange.name, key), kind
        await exchange.delete()


@check("what cannot be routed comes back")
async def _(connection):
    channel = await connection.channel(on_return_raises=True)
    try:
        await channel.default_exchange.publish(Message(b"m"), "nowhere", mandatory=True)
        raise AssertionError("not returned")
    except DeliveryError as error:
        assert error.message.delivery.reply_code == 312, error


@check("ack, nack and reject")
async def _(connection):
    channel = await connection.channel()
    queue = await channel.declare_queue("", exclusive=True)
    for body in [b"a", b"b", b"c"]:
        await channel.default_exchange.publish(Message(body), queue.name)
    a, b, c = [await queue.get() for _ in range(3)]
    await c.nack(requeue=True)
    await a.ack()
    await b.reject(requeue=True)
    found = [await queue.get(no_ack=True) for _ in range(2)]
    assert [(message.body, message.redelivered) for message in found] == [(b"b", True), (b"c", True)]
    try:
        await queue.get(no_ack=True)
        raise AssertionError("one more")
    except QueueEmpty:
        pass


@check("a transaction is committed and rolled back")
async def _(connection):
    channel = await connection.channel(publisher_confirms=False)
    queue = await channel.declare_queue("aio-tx", durable=True)
    async with channel.transaction():
        await channel.default_exchange.publish(persistent(b"yes"), queue.name)
    try:
        async with channel.transaction():
            await channel.default_exchange.publish(persistent(b"no"), queue.name)
            raise ValueError
    except ValueError:
        pass
    other = await connection.channel()
    queue = await other.declare_queue("aio-tx", durable=True)
    assert (await queue.get(no_ack=True)).body == b"yes"
    assert await queue.get(no_ack=True, fail=False) is None


@check("headers and properties come back")
async def _(connection):
    channel = await connection.channel()
    queue = await channel.declare_queue("", exclusive=True)
    headers = {"int": 5, "negative": -(1 << 40), "text": "ä", "float": 2.5, "none": None, "bool": False,
               "list": [1, "x", {"y": 2}], "table": {"a": 1}, "bytes": bytearray(b"\x00\xff"),
               "time": datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)}
    message = persistent(b"m" * (1 << 20), headers=headers, priority=4, correlation_id="c", expiration=600,
                         message_id="id", type="t", app_id="app", content_type="x/y")
    await channel.default_exchange.publish(message, queue.name)
    found = await queue.get(no_ack=True)
    for name, value in headers.items():
        back = found.headers[name]
        assert back == value, (name, back)
    assert (found.priority, found.correlation_id, found.expiration, found.type) == (4, "c", 600, "t"), found
    assert found.body == message.body


@check("a channel's error leaves the connection usable")
async def _(connection):
    channel = await connection.channel()
    try:
        await channel.declare_exchange("amq.topic", ExchangeType.FANOUT, durable=True)
        raise AssertionError("not refused")
    except ChannelPreconditionFailed:
        pass
    other = await connection.channel()
    await other.declare_queue("", exclusive=True)


async def robust():
    connection = await aio_pika.connect_robust(broker.uri, reconnect_interval=0.1)
    async with connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("robust", durable=True)
        for number in range(100):
            await channel.default_exchange.publish(persistent(str(number).encode()), "robust")
        found = []
        done = asyncio.Event()

        async def take(message):
            await message.ack()
            found.append(int(message.body))
            if found[-1] == 100:
                done.set()

        await queue.consume(take)
        broker.kill()
        broker.start()
        # The library connects again by itself, declares what it had declared, and goes on consuming.
        while True:
            try:
                await channel.default_exchange.publish(persistent(b"100"), "robust")
                break
            except (ConnectionError, asyncio.TimeoutError, aio_pika.exceptions.AMQPError, RuntimeError):
                await asyncio.sleep(0.05)
        await asyncio.wait_for(done.wait(), 60)
        # What was taken and not known to be acknowledged comes twice; nothing is missing.
        assert set(found) == set(range(101)), found


checks.run("a robust connection comes back after kill -9", lambda: asyncio.run(asyncio.wait_for(robust(), 90)))
broker.close()
checks.end()
