'use strict';
// amqplib, with promises.

const assert = require('node:assert/strict');
const amqp = require('amqplib');
const { Broker, Checks } = require('./broker');

const broker = new Broker();
const checks = new Checks('amqplib');
const PERSISTENT = { persistent: true };

async function connect() {
  const connection = await amqp.connect(broker.uri);
  // Errors are what the checks look for.
  connection.on('error', () => {});
  return connection;
}

async function channelOf(connection, kind = 'createChannel') {
  const channel = await connection[kind]();
  channel.on('error', () => {});
  return channel;
}

function check(name, talk) {
  return checks.run(name, async () => {
    const connection = await connect();
    await talk(connection);
    await connection.close();
  });
}

/** The bodies of the first messages of a consumer that acknowledges, in order. */
function consumed(channel, queue, count, options) {
  return new Promise((resolve, reject) => {
    const found = [];
    channel.consume(queue, (message) => {
      if (found.length === count) return;
      found.push(message.content.toString());
      if (!options?.noAck) channel.ack(message);
      if (found.length === count) resolve(found);
    }, options).catch(reject);
  });
}

/** The error that closes a channel. */
function closed(channel) {
  return new Promise((resolve) => channel.once('error', resolve));
}

/** The next message, once it is there. */
async function got(channel, queue) {
  for (;;) {
    const message = await channel.get(queue, { noAck: true });
    if (message) return message;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** The bodies of all messages in a queue. */
async function drained(channel, queue) {
  const found = [];
  for (let message; (message = await channel.get(queue, { noAck: true }));) found.push(message.content.toString());
  return found;
}

async function main() {
  await broker.start();

  await check('queues are declared, named, counted, purged and deleted', async (connection) => {
    const channel = await channelOf(connection);
    const { queue } = await channel.assertQueue('', { exclusive: true });
    assert.match(queue, /^amq\.gen-/);
    await channel.assertQueue('kept', { durable: true });
    channel.sendToQueue('kept', Buffer.from('m'));
    assert.deepEqual(await channel.checkQueue('kept'), { queue: 'kept', messageCount: 1, consumerCount: 0 });
    assert.equal((await channel.purgeQueue('kept')).messageCount, 1);
    assert.equal((await channel.deleteQueue('kept')).messageCount, 0);
  });

  await check('every type of exchange routes', async (connection) => {
    const channel = await channelOf(connection);
    const { queue } = await channel.assertQueue('', { exclusive: true });
    const wanted = { 'x-match': 'all', colour: 'grey', legs: 4 };
    const cases = [['direct', 'key', 'key', {}], ['fanout', '', 'any', {}], ['topic', 'a.*.#', 'a.b.c', {}], ['headers', '', '', wanted]];
    for (const [kind, pattern, key, args] of cases) {
      const exchange = `js-${kind}`;
      await channel.assertExchange(exchange, kind, { durable: false });
      await channel.bindQueue(queue, exchange, pattern, args);
      channel.publish(exchange, key, Buffer.from('m'), { headers: { colour: 'grey', legs: 4 } });
      const message = await channel.get(queue, { noAck: true });
      assert.deepEqual([message.fields.exchange, message.fields.routingKey], [exchange, key]);
      await channel.unbindQueue(queue, exchange, pattern, args);
      channel.publish(exchange, key, Buffer.from('m'), { headers: { colour: 'grey', legs: 4 } });
      assert.equal(await channel.get(queue, { noAck: true }), false);
      await channel.deleteExchange(exchange);
    }
  });

  await check('an exchange is bound to an exchange', async (connection) => {
    const channel = await channelOf(connection);
    const { queue } = await channel.assertQueue('', { exclusive: true });
    await channel.assertExchange('js-first', 'topic', { durable: false });
    await channel.assertExchange('js-second', 'fanout', { durable: false });
    await channel.bindExchange('js-second', 'js-first', 'a.#');
    await channel.bindQueue(queue, 'js-second', '');
    channel.publish('js-first', 'b', Buffer.from('no'));
    channel.publish('js-first', 'a.b', Buffer.from('yes'));
    assert.equal((await channel.get(queue, { noAck: true })).content.toString(), 'yes');
  });

  await check('publishes are confirmed and consumed in order', async (connection) => {
    const channel = await channelOf(connection, 'createConfirmChannel');
    await channel.assertQueue('ordered', { durable: true });
    for (let number = 0; number < 1000; number += 1) channel.sendToQueue('ordered', Buffer.from(`${number}`), PERSISTENT);
    await channel.waitForConfirms();
    const reader = await channelOf(connection);
    await reader.prefetch(30);
    const found = await consumed(reader, 'ordered', 1000);
    assert.deepEqual(found, Array.from({ length: 1000 }, (_, number) => `${number}`));
  });

  await check('what cannot be routed comes back', async (connection) => {
    const channel = await channelOf(connection, 'createConfirmChannel');
    const returned = new Promise((resolve) => channel.once('return', resolve));
    channel.publish('', 'nowhere', Buffer.from('m'), { mandatory: true });
    const { fields, content } = await returned;
    assert.deepEqual([fields.replyCode, fields.replyText, content.toString()], [312, 'NO_ROUTE', 'm']);
    await channel.waitForConfirms();
  });

  await check('a prefetch limits what a consumer holds', async (connection) => {
    const channel = await channelOf(connection);
    const { queue } = await channel.assertQueue('', { exclusive: true });
    for (let number = 0; number < 30; number += 1) channel.sendToQueue(queue, Buffer.from(`${number}`));
    await channel.prefetch(10);
    const held = [];
    await new Promise((resolve, reject) => {
      channel.consume(queue, (message) => {
        held.push(message);
        if (held.length === 10) resolve();
      }).catch(reject);
    });
    assert.equal((await channel.checkQueue(queue)).messageCount, 20);
    channel.ack(held[9], true);
    while ((await channel.checkQueue(queue)).messageCount !== 10);
    assert.equal(held.length <= 20, true);
  });

  await check('ack, nack and reject', async (connection) => {
    const channel = await channelOf(connection);
    const { queue } = await channel.assertQueue('', { exclusive: true });
    for (const body of ['a', 'b', 'c', 'd']) channel.sendToQueue(queue, Buffer.from(body));
    const [a, b, c, d] = [await channel.get(queue), await channel.get(queue), await channel.get(queue), await channel.get(queue)];
    channel.reject(d, true);
    channel.ack(a);
    channel.reject(b, false);
    channel.nack(c, false, true);
    const back = [await channel.get(queue, { noAck: true }), await channel.get(queue, { noAck: true })];
    assert.deepEqual(back.map((message) => [message.content.toString(), message.fields.redelivered]), [['c', true], ['d', true]]);
    assert.equal(await channel.get(queue, { noAck: true }), false);
  });

  await check('headers of every type come back', async (connection) => {
    const channel = await channelOf(connection);
    const { queue } = await channel.assertQueue('', { exclusive: true });
    const headers = {
      bool: true, small: 5, negative: -70000, big: 2 ** 40, float: 1.5, text: 'länge', nothing: null,
      list: [1, 'two', null, [3]], table: { a: { b: 1 } }, bytes: Buffer.from([0, 255]),
      time: { '!': 'timestamp', value: 1700000000 }, decimal: { '!': 'decimal', value: { digits: 1234, places: 2 } },
    };
    const properties = {
      contentType: 't', contentEncoding: 'e', headers, deliveryMode: 2, priority: 3, correlationId: 'c', replyTo: 'r',
      expiration: '600000', messageId: 'm', timestamp: 1700000000, type: 'ty', userId: 'guest', appId: 'app',
    };
    channel.sendToQueue(queue, Buffer.from('m'), properties);
    const message = await channel.get(queue, { noAck: true });
    for (const [name, value] of Object.entries(properties)) assert.deepEqual(message.properties[name], value, name);
  });

  await check('large bodies come back whole', async (connection) => {
    const channel = await channelOf(connection);
    const { queue } = await channel.assertQueue('', { exclusive: true });
    for (const size of [0, 1, 131064, 131065, 1 << 20, 5 << 20]) {
      const body = Buffer.alloc(size, 'leveret');
      channel.sendToQueue(queue, body);
      assert.equal((await channel.get(queue, { noAck: true })).content.equals(body), true, `${size}`);
    }
  });

  await check('an error closes its channel and leaves the connection usable', async (connection) => {
    const faults = [
      [404, (channel) => channel.checkQueue('missing')],
      [404, (channel) => channel.bindQueue('missing', 'amq.direct', '')],
      [406, (channel) => channel.assertExchange('amq.direct', 'fanout')],
      [403, (channel) => channel.assertExchange('amq.new', 'fanout')],
    ];
    for (const [code, fault] of faults) {
      const channel = await channelOf(connection);
      const error = closed(channel);
      await assert.rejects(fault(channel));
      assert.equal((await error).code, code);
    }
    const channel = await channelOf(connection);
    await channel.assertQueue('', { exclusive: true });
  });

  await check('an exclusive queue is its connection\'s alone and ends with it', async (connection) => {
    const other = await connect();
    const channel = await channelOf(other);
    await channel.assertQueue('js-mine', { exclusive: true });
    let refused = await channelOf(connection);
    let error = closed(refused);
    await assert.rejects(refused.checkQueue('js-mine'));
    assert.equal((await error).code, 405);
    await other.close();
    refused = await channelOf(connection);
    error = closed(refused);
    await assert.rejects(refused.checkQueue('js-mine'));
    assert.equal((await error).code, 404);
  });

  await check('an auto-delete queue ends with its last consumer', async (connection) => {
    const channel = await channelOf(connection);
    await channel.assertQueue('js-passing', { autoDelete: true, durable: false });
    const { consumerTag } = await channel.consume('js-passing', () => {});
    await channel.cancel(consumerTag);
    const error = closed(channel);
    await assert.rejects(channel.checkQueue('js-passing'));
    assert.equal((await error).code, 404);
  });

  await check('a consumer is told when its queue is deleted', async (connection) => {
    const channel = await channelOf(connection);
    const { queue } = await channel.assertQueue('', { exclusive: true });
    let told;
    const cancelled = new Promise((resolve) => { told = resolve; });
    await channel.consume(queue, told);
    await channel.deleteQueue(queue);
    assert.equal(await cancelled, null);
  });

  await check('what expires or is rejected goes on as a dead letter that tells so', async (connection) => {
    const channel = await channelOf(connection);
    await channel.assertExchange('js-dead', 'fanout', { durable: false, autoDelete: true });
    const dead = (await channel.assertQueue('', { exclusive: true })).queue;
    await channel.bindQueue(dead, 'js-dead', '');
    const { queue } = await channel.assertQueue('', { exclusive: true, deadLetterExchange: 'js-dead', deadLetterRoutingKey: 'other' });
    const expected = async (reason, more) => {
      const { fields, properties, content } = await got(channel, dead);
      assert.deepEqual([fields.exchange, fields.routingKey, content.toString()], ['js-dead', 'other', 'm']);
      const [{ time, ...death }] = properties.headers['x-death'];
      assert.equal(time['!'], 'timestamp');
      assert.deepEqual(death, { count: 1, reason, queue, exchange: '', 'routing-keys': [queue], ...more });
      assert.equal(properties.headers['x-first-death-reason'], reason);
      assert.equal(properties.expiration, undefined);
    };
    channel.sendToQueue(queue, Buffer.from('m'), { expiration: 20 });
    await expected('expired', { 'original-expiration': '20' });
    channel.sendToQueue(queue, Buffer.from('m'));
    channel.reject(await channel.get(queue), false);
    await expected('rejected', {});
  });

  await check('higher priorities go first', async (connection) => {
    const channel = await channelOf(connection);
    const { queue } = await channel.assertQueue('', { exclusive: true, maxPriority: 5 });
    for (const [priority, body] of [[undefined, 'a'], [1, 'b'], [5, 'c'], [9, 'd'], [1, 'e']]) {
      channel.sendToQueue(queue, Buffer.from(body), { priority });
    }
    assert.deepEqual(await drained(channel, queue), ['c', 'd', 'b', 'e', 'a']);
  });

  await check('a full queue nacks, or drops its head', async (connection) => {
    const channel = await channelOf(connection, 'createConfirmChannel');
    const refusing = await channel.assertQueue('', { exclusive: true, maxLength: 2, arguments: { 'x-overflow': 'reject-publish' } });
    const dropping = await channel.assertQueue('', { exclusive: true, maxLength: 2 });
    const published = (queue, body) => new Promise((resolve) => {
      channel.sendToQueue(queue, Buffer.from(body), {}, (error) => resolve(error === null));
    });
    const refused = await Promise.all(['a', 'b', 'c'].map((body) => published(refusing.queue, body)));
    assert.deepEqual(refused, [true, true, false]);
    assert.deepEqual(await drained(channel, refusing.queue), ['a', 'b']);
    const dropped = await Promise.all(['a', 'b', 'c'].map((body) => published(dropping.queue, body)));
    assert.deepEqual(dropped, [true, true, true]);
    assert.deepEqual(await drained(channel, dropping.queue), ['b', 'c']);
  });

  await check('a quorum queue counts failed deliveries, and gives up after its limit', async (connection) => {
    const channel = await channelOf(connection);
    const dead = (await channel.assertQueue('', { exclusive: true })).queue;
    await channel.assertQueue('js-quorum', {
      durable: true, deadLetterExchange: '', deadLetterRoutingKey: dead,
      arguments: { 'x-queue-type': 'quorum', 'x-delivery-limit': 2 },
    });
    channel.sendToQueue('js-quorum', Buffer.from('m'), PERSISTENT);
    for (const failed of [0, 1, 2]) {
      const message = await channel.get('js-quorum');
      assert.equal(message.properties.headers['x-delivery-count'] ?? 0, failed);
      assert.equal(message.fields.redelivered, failed > 0);
      channel.reject(message, true);
    }
    const { properties } = await got(channel, dead);
    assert.equal(properties.headers['x-death'][0].reason, 'delivery_limit');
    await channel.deleteQueue('js-quorum');
  });

  await check('answers come straight to the channel that asked', async (connection) => {
    const channel = await channelOf(connection);
    const server = await channelOf(connection);
    const { queue } = await channel.assertQueue('', { exclusive: true });
    await server.consume(queue, ({ content, properties: { replyTo, correlationId } }) => {
      server.sendToQueue(replyTo, Buffer.from(content.toString().toUpperCase()), { correlationId });
    }, { noAck: true });
    const answers = {};
    let all;
    const answered = new Promise((resolve) => { all = resolve; });
    await channel.consume('amq.rabbitmq.reply-to', ({ content, properties: { correlationId } }) => {
      answers[correlationId] = content.toString();
      if (Object.keys(answers).length === 20) all();
    }, { noAck: true });
    const expected = {};
    for (let number = 0; number < 20; number += 1) {
      channel.sendToQueue(queue, Buffer.from(`call ${number}`), { replyTo: 'amq.rabbitmq.reply-to', correlationId: `${number}` });
      expected[number] = `CALL ${number}`;
    }
    await answered;
    assert.deepEqual(answers, expected);
  });

  await check('a consistent hash shares keys out, the same key always to the same queue', async (connection) => {
    const channel = await channelOf(connection);
    await channel.assertExchange('js-hashed', 'x-consistent-hash', { durable: false });
    const queues = [];
    for (const weight of ['1', '1', '2']) {
      const { queue } = await channel.assertQueue('', { exclusive: true });
      await channel.bindQueue(queue, 'js-hashed', weight);
      queues.push(queue);
    }
    for (let number = 0; number < 1000; number += 1) {
      channel.publish('js-hashed', `key ${number % 500}`, Buffer.from(`key ${number % 500}`));
    }
    const shares = [];
    for (const queue of queues) shares.push(await drained(channel, queue));
    assert.equal(shares.flat().length, 1000);
    for (const share of shares) {
      assert.equal(new Set(share).size * 2, share.length);
      assert.equal(share.length > 100 && share.length <= shares[2].length, true, `${share.length}`);
    }
    await channel.deleteExchange('js-hashed');
  });

  await check('a wrong password is told as such', async () => {
    await assert.rejects(amqp.connect(broker.uri.replace('guest:guest', 'guest:wrong')), /ACCESS_REFUSED|403/);
  });

  await checks.run('everything confirmed is there after kill -9 and a new connection', async () => {
    let connection = await connect();
    let channel = await channelOf(connection, 'createConfirmChannel');
    await channel.assertQueue('js-crash', { durable: true });
    for (let number = 0; number < 300; number += 1) channel.sendToQueue('js-crash', Buffer.from(`${number}`), PERSISTENT);
    await channel.waitForConfirms();
    const ended = new Promise((resolve) => connection.once('close', resolve));
    await broker.kill();
    await ended;
    await broker.start();
    connection = await connect();
    channel = await channelOf(connection);
    const found = await consumed(channel, 'js-crash', 300);
    assert.deepEqual(found, Array.from({ length: 300 }, (_, number) => `${number}`));
    await connection.close();
  });

  await broker.close();
  checks.end();
}

main().catch((error) => {
  console.error(error);
  // More than 1 says that the script itself is broken.
  process.exit(2);
});
