import assert from 'node:assert/strict';
import OpenAI, { toFile } from 'openai';
import { MODEL, all, eventually, newClient, raises, test } from './harness.mjs';

const ENDPOINT = '/v1/chat/completions';
const OVER = ['completed', 'failed', 'expired', 'cancelled'];
const LONG = 'word '.repeat(4000);

function line(i, text = 'alpha beta', body = {}) {
  return { custom_id: `line-${i}`, method: 'POST', url: ENDPOINT, body: { model: MODEL, messages: [{ role: 'user', content: text }], ...body } };
}

async function create(client, lines, more = {}) {
  const text = lines.map((l) => JSON.stringify(l)).join('\n');
  const file = await client.files.create({ file: await toFile(Buffer.from(text), 'in.jsonl'), purpose: 'batch' });
  return client.batches.create({ input_file_id: file.id, endpoint: ENDPOINT, completion_window: '24h', ...more });
}

function over(client, batch) {
  return eventually(async () => {
    const b = await client.batches.retrieve(batch.id);
    return OVER.includes(b.status) && b;
  }, 60_000);
}

async function read(client, id) {
  const text = await (await client.files.content(id)).text();
  return text.trim().split('\n').map((l) => JSON.parse(l));
}

test('batch_completes', async () => {
  const client = await newClient();
  const made = await create(client, [line(1), line(2), line(3, 'x', { temperature: 9 })], { metadata: { a: 'b' } });
  assert.deepEqual([made.status, made.request_counts], ['validating', { total: 0, completed: 0, failed: 0 }]);
  const b = await over(client, made);
  assert.deepEqual([b.status, b.request_counts, b.metadata], ['completed', { total: 3, completed: 2, failed: 1 }, { a: 'b' }]);
  const out = await read(client, b.output_file_id);
  assert.deepEqual(out.map((l) => l.custom_id).sort(), ['line-1', 'line-2']);
  assert.ok(out.every((l) => l.response.status_code === 200 && l.error === null && l.response.body.choices[0].message.content === 'alpha beta'));
  const [wrong] = await read(client, b.error_file_id);
  assert.deepEqual([wrong.custom_id, wrong.response.status_code, wrong.error], ['line-3', 400, null]);
});

test('batch_fails', async () => {
  const client = await newClient();
  const b = await over(client, await create(client, [line(1), line(1)]));
  assert.equal(b.status, 'failed');
  assert.deepEqual(b.errors.data.map((e) => [e.code, e.line]), [['duplicate_custom_id', 2]]);
});

test('batch_cancelled', async () => {
  const client = await newClient({ maxRetries: 3 });
  const made = await create(client, [line(1), line(2, LONG)]);
  await eventually(async () => (await client.batches.retrieve(made.id)).request_counts.completed === 1);
  assert.equal((await client.batches.cancel(made.id)).status, 'cancelling');
  const b = await over(client, made);
  assert.deepEqual([b.status, b.request_counts], ['cancelled', { total: 2, completed: 1, failed: 0 }]);
  const [rest] = await read(client, b.error_file_id);
  assert.deepEqual([rest.response, rest.error.code], [null, 'batch_cancelled']);
  const done = await over(client, await create(client, [line(1)]));
  await raises(OpenAI.ConflictError, { status: 409, code: null, text: "Cannot cancel a batch with status 'completed'." }, () => client.batches.cancel(done.id));
  await raises(OpenAI.NotFoundError, { status: 404 }, () => client.batches.retrieve('batch_x'));
});

test('batch_list_amid_inserts', async () => {
  const client = await newClient();
  const ids = [];
  for (let i = 0; i < 5; i++) ids.push((await create(client, [line(1)])).id);
  const got = [];
  for await (const b of client.batches.list({ limit: 2 })) {
    got.push(b.id);
    await create(client, [line(1)]);
  }
  assert.deepEqual(got, ids.reverse());
  const rest = await all(await client.batches.list({ limit: 100, after: got[1] }));
  assert.deepEqual(rest.map((b) => b.id), got.slice(2));
  for (const limit of [0, 101]) await raises(OpenAI.BadRequestError, { status: 400, param: 'limit' }, () => client.batches.list({ limit }));
});
