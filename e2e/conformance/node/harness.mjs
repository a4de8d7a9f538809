// Runs cases against a Lorry and prints what python/harness.py does. Names of calls are Python's.
import assert from 'node:assert/strict';
import http from 'node:http';
import { randomBytes } from 'node:crypto';
import { performance } from 'node:perf_hooks';
import OpenAI from 'openai';

export const URL = process.env.LORRY_URL;
export const MODEL = process.env.LORRY_MODEL;
const admin = new OpenAI({ baseURL: URL, apiKey: process.env.LORRY_ADMIN_KEY });

const cases = [];

export function test(name, run) {
  cases.push({ name, run });
}

// newKey is a key of a new tenant, or of this one.
export async function newKey(tenant = 't' + randomBytes(6).toString('hex')) {
  return (await admin.post('/lorry/v1/keys', { body: { tenant } })).key;
}

export async function newClient(options = {}) {
  return new OpenAI({ baseURL: URL + '/v1', apiKey: await newKey(), maxRetries: 0, ...options });
}

export function chat(client, text, more = {}, options = {}) {
  return client.chat.completions.create({ model: MODEL, messages: [{ role: 'user', content: text }], ...more }, options);
}

// raises wants exactly this class of error, with what is given of its fields.
export async function raises(kind, want, call) {
  let error;
  try {
    await call();
  } catch (e) {
    error = e;
  }
  assert.equal(error?.constructor?.name, kind.name, `got ${error?.stack ?? 'no error'}`);
  for (const [name, value] of Object.entries(want)) {
    if (name === 'text') assert.ok(error.message.includes(value), error.message);
    else assert.deepEqual(error[name], value, `${name} of ${error.message}`);
  }
  if (error.status) assert.match(error.requestID ?? '', /^req_/);
  return error;
}

// eventually is what look returns once it is true.
export async function eventually(look, within = 30_000) {
  for (const end = performance.now() + within; ; ) {
    const found = await look();
    if (found) return found;
    assert.ok(performance.now() < end, `not within ${within} ms: ${look}`);
    await new Promise((r) => setTimeout(r, 20));
  }
}

export async function all(iterable) {
  const out = [];
  for await (const x of iterable) out.push(x);
  return out;
}

// serving runs a server on loopback while use does; answer gets the request and its body.
export async function serving(answer, use) {
  const server = http.createServer(async (request, response) => {
    const body = Buffer.concat(await all(request));
    await answer(request, response, body);
  });
  await new Promise((r) => server.listen(0, '127.0.0.1', r));
  try {
    return await use(`http://127.0.0.1:${server.address().port}`);
  } finally {
    server.closeAllConnections();
    await new Promise((r) => server.close(r));
  }
}

// lossy is a proxy that loses the answer to its first request; retries gets what each says of being one.
export function lossy(retries = []) {
  return async (request, response, body) => {
    retries.push(request.headers['x-stainless-retry-count']);
    const { host, connection, 'content-length': _, ...headers } = request.headers;
    const real = await fetch(URL + request.url, { method: request.method, headers, body });
    const text = await real.text();
    if (retries.length === 1) return request.socket.destroy();
    const job = real.headers.get('x-lorry-job');
    response.writeHead(real.status, { 'content-type': 'application/json', ...(job && { 'x-lorry-job': job }) });
    response.end(text);
  };
}

// receiving is a receiver of webhooks while use does: it answers with these statuses, then 200; next is what it got.
export function receiving(statuses, use) {
  const got = [], waiting = [];
  const next = () => new Promise((resolve, reject) => {
    if (got.length) return resolve(got.shift());
    waiting.push(resolve);
    setTimeout(reject, 40_000, new Error('no webhook within 40 s')).unref();
  });
  return serving((request, response, body) => {
    const event = { body: body.toString(), headers: request.headers };
    waiting.length ? waiting.shift()(event) : got.push(event);
    response.writeHead(statuses.shift() ?? 200).end();
  }, (url) => use(url, next));
}

const resources = ['files', 'batches', 'chat.completions', 'chat.completions.messages', 'completions', 'embeddings', 'models',
  'responses', 'responses.inputItems', 'responses.inputTokens', 'webhooks', 'webhooks.eventTypes'];
const calls = new Set(); // made by the case that runs
const snake = (name) => name.replace(/[A-Z]/g, (c) => '_' + c.toLowerCase());

// listen notes each call that is made from now on, and returns all there are.
function listen() {
  const every = [];
  for (const resource of resources) {
    const proto = Object.getPrototypeOf(resource.split('.').reduce((o, name) => o[name], admin));
    for (const name of Object.getOwnPropertyNames(proto)) {
      const call = proto[name], called = snake(`${resource}.${name}`);
      if (name === 'constructor' || name.startsWith('_') || typeof call !== 'function') continue;
      every.push(called);
      proto[name] = function (...args) {
        calls.add(called);
        return call.apply(this, args);
      };
    }
  }
  return every.sort();
}

export async function main() {
  process.stdout.write(JSON.stringify({ every: listen() }) + '\n');
  for (const { name, run } of cases) {
    calls.clear();
    const began = performance.now();
    let error = null;
    try {
      await run();
    } catch (e) {
      error = e?.stack ?? String(e);
    }
    const seconds = Math.round(performance.now() - began) / 1000;
    process.stdout.write(JSON.stringify({ case: name, seconds, error, calls: [...calls].sort() }) + '\n');
  }
}
