'use strict';
// A broker process for a script, and the bookkeeping of its checks.

const { spawn } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const readline = require('node:readline');

class Broker {
  // `tls`: the folder of certificates for a second listener, where clients must show one.
  constructor(tls = null) {
    this.tlsPort = 0;
    this.flags = tls === null ? [] : ['--amqps-port', '0', '--tls-certfile', `${tls}/server.pem`,
      '--tls-keyfile', `${tls}/server.key`, '--tls-cacertfile', `${tls}/ca.pem`,
      '--tls-verify', 'verify_peer', '--tls-fail-if-no-peer-cert', 'true'];
    this.folder = fs.mkdtempSync(path.join(os.tmpdir(), 'interop-'));
    this.port = 0;
  }

  start() {
    const flags = ['--data-dir', this.folder, '--bind', '127.0.0.1', '--amqp-port', `${this.port}`,
      '--http-port', 'none', '--metrics-port', 'none', ...this.flags];
    this.process = spawn(process.env.LEVERET, flags, { stdio: ['ignore', 'pipe', 'inherit'] });
    this.ended = new Promise((resolve) => this.process.once('exit', resolve));
    return new Promise((resolve, reject) => {
      this.process.once('exit', () => reject(new Error('the broker did not start')));
      // After a restart the ports are known before anybody listens there.
      let listens = false;
      let listensTls = this.flags.length === 0;
      readline.createInterface({ input: this.process.stdout }).on('line', (line) => {
        const found = /started TCP listener on 127\.0\.0\.1:(\d+)/.exec(line);
        if (found) {
          this.port = Number(found[1]);
          listens = true;
        }
        const foundTls = /started TLS \(SSL\) listener on 127\.0\.0\.1:(\d+)/.exec(line);
        if (foundTls) {
          this.tlsPort = Number(foundTls[1]);
          listensTls = true;
        }
        if (listens && listensTls) {
          resolve();
        }
      });
    });
  }

  get uri() {
    return `amqp://guest:guest@127.0.0.1:${this.port}/%2f?heartbeat=0`;
  }

  async kill() {
    this.process.kill('SIGKILL');
    await this.ended;
  }

  async close() {
    await this.kill();
    fs.rmSync(this.folder, { recursive: true, force: true });
  }
}

const PATIENCE = 60_000;

class Checks {
  constructor(client) {
    this.client = client;
    this.failed = 0;
  }

  async run(name, check) {
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error('no end in time')), PATIENCE);
    });
    try {
      await Promise.race([check(), late]);
      console.log(`passed ${this.client}: ${name}`);
    } catch (error) {
      this.failed += 1;
      console.error(error);
      console.log(`FAILED ${this.client}: ${name}: ${error.message}`);
    } finally {
      clearTimeout(timer);
    }
  }

  end() {
    process.exitCode = this.failed ? 1 : 0;
  }
}

module.exports = { Broker, Checks };
