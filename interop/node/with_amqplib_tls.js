'use strict';
// amqplib over TLS, with a client's certificate.

const assert = require('node:assert');
const crypto = require('node:crypto');
const fs = require('node:fs');
const amqp = require('amqplib');
const { Broker, Checks } = require('./broker');

const folder = process.env.CERTIFICATES;
const read = (name) => fs.readFileSync(`${folder}/${name}`);
const ca = [read('ca.pem')];
const shown = { cert: read('client.pem'), key: read('client.key') };

async function main() {
  const broker = new Broker(folder);
  const checks = new Checks('amqplib over TLS');
  await broker.start();
  const uri = `amqps://guest:guest@localhost:${broker.tlsPort}/%2f?heartbeat=0`;
  await checks.run('messages of all sizes come back', async () => {
    const connection = await amqp.connect(uri, { ca, ...shown });
    const channel = await connection.createConfirmChannel();
    await channel.assertQueue('q');
    for (const size of [0, 1, 20_000, 3_000_000]) {
      const body = crypto.randomBytes(size);
      channel.sendToQueue('q', body);
      await channel.waitForConfirms();
      const message = await channel.get('q', { noAck: true });
      assert(message && message.content.equals(body), `${size} octets`);
    }
    await connection.close();
  });
  await checks.run('a client without a certificate is turned away', async () => {
    await assert.rejects(amqp.connect(uri, { ca }));
  });
  await broker.close();
  checks.end();
}

main();
