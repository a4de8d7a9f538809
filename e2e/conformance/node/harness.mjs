// Runs cases against a Lorry and prints one line of JSON for each, as python/harness.py does.
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

export async function main() {
  for (const { name, run } of cases) {
    const began = performance.now();
    let error = null;
    try {
      await run();
    } catch (e) {
      error = e?.stack ?? String(e);
    }
    const seconds = Math.round(performance.now() - began) / 1000;
    process.stdout.write(JSON.stringify({ case: name, seconds, error }) + '\n');
  }
}
