import assert from 'node:assert/strict';
import OpenAI, { toFile } from 'openai';
import { MODEL, all, eventually, lossy, newClient, newKey, raises, receiving, serving, test } from './harness.mjs';

const ENDPOINT = '/v1/chat/completions';
const OVER = ['completed', 'failed', 'expired', 'cancelled'];
export const LONG = 'word '.repeat(4000);

export function line(i, text = 'alpha beta', body = {}) {
  return { custom_id: `line-${i}`, method: 'POST', url: ENDPOINT, body: { model: MODEL, messages: [{ role: 'user', content: text }], ...body } };
}

export async function create(client, lines, more = {}) {
  const text = typeof lines === 'string' ? lines : lines.map((l) => JSON.stringify(l)).join('\n');
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

test('batch_of_each_endpoint', async () => {
  const client = await newClient();
  const bodies = {
    '/v1/completions': { prompt: 'alpha beta', max_tokens: 9 }, '/v1/embeddings': { input: ['alpha', 'beta'] }, '/v1/responses': { input: 'alpha beta' },
  };
  for (const [url, body] of Object.entries(bodies)) {
    const lines = [1, 2].map((i) => ({ custom_id: `line-${i}`, method: 'POST', url, body: { model: MODEL, ...body } }));
    const b = await over(client, await create(client, lines, { endpoint: url }));
    assert.deepEqual([b.status, b.request_counts], ['completed', { total: 2, completed: 2, failed: 0 }], JSON.stringify(b.errors));
    const out = await read(client, b.output_file_id);
    assert.ok(out.every((l) => l.response.status_code === 200), JSON.stringify(out));
  }
});

test('batch_files_refused', async () => {
  const client = await newClient();
  const good = JSON.stringify(line(1));
  const bad = {
    'nothing but blank lines': ['\n\r\n  \n', 'empty_file', null],
    'not JSON': [good + '\n{nonsense', 'invalid_json_line', 2],
    'other url': [good + '\n' + JSON.stringify({ ...line(2), url: '/v1/completions' }), 'url_mismatch', 2],
    'other model': [good + '\n' + JSON.stringify(line(2, 'x', { model: 'other' })), 'model_mismatch', 2],
    'no custom_id': [good + '\n' + JSON.stringify({ ...line(2), custom_id: undefined }), 'missing_required_parameter', 2],
    streamed: [JSON.stringify(line(1, 'x', { stream: true })), 'unsupported_parameter', 1],
  };
  for (const [name, [text, code, number]] of Object.entries(bad)) {
    const b = await over(client, await create(client, text));
    assert.deepEqual([b.status, b.errors.data.map((e) => [e.code, e.line])], ['failed', [[code, number]]], name);
    assert.deepEqual([b.output_file_id, b.error_file_id], [null, null]);
    await raises(OpenAI.ConflictError, { status: 409, text: "Cannot cancel a batch with status 'failed'." }, () => client.batches.cancel(b.id));
  }
});

test('batch_create_refused', async () => {
  const client = await newClient();
  const file = await client.files.create({ file: await toFile(Buffer.from('{}'), 'in.jsonl'), purpose: 'batch' });
  const good = { input_file_id: file.id, endpoint: ENDPOINT, completion_window: '24h' };
  for (const [param, value] of Object.entries({ input_file_id: 'file-00000000000000000000000000', endpoint: '/v1/no/such', completion_window: 'soon', no_such_field: 1 })) {
    await raises(OpenAI.BadRequestError, { status: 400, param }, () => client.batches.create({ ...good, [param]: value }));
  }
  await raises(OpenAI.BadRequestError, { status: 400, code: 'missing_required_parameter', param: 'input_file_id', text: "Missing required parameter: 'input_file_id'." },
    () => client.batches.create({ endpoint: ENDPOINT, completion_window: '24h' }));
  assert.deepEqual(await all(client.batches.list()), []);
});

test('batch_all_lines_fail', async () => {
  const client = await newClient();
  const b = await over(client, await create(client, [1, 2].map((i) => line(i, 'x', { temperature: 9 }))));
  assert.deepEqual([b.status, b.request_counts, b.output_file_id], ['completed', { total: 2, completed: 0, failed: 2 }, null]);
  assert.equal((await read(client, b.error_file_id)).length, 2);
});

test('batch_expires', async () => {
  const client = await newClient({ maxRetries: 3 });
  const b = await over(client, await create(client, [line(1), line(2, LONG)], { completion_window: '3s' }));
  assert.deepEqual([b.status, b.request_counts.completed], ['expired', 1]);
  const [rest] = await read(client, b.error_file_id);
  assert.deepEqual([rest.response, rest.error.code], [null, 'batch_expired']);
  await raises(OpenAI.ConflictError, { status: 409, text: "Cannot cancel a batch with status 'expired'." }, () => client.batches.cancel(b.id));
});

test('batch_cancelled_at_once_and_again', async () => {
  const client = await newClient();
  const made = await create(client, [line(1, LONG)]);
  for (let i = 0; i < 2; i++) assert.ok(['cancelling', 'cancelled'].includes((await client.batches.cancel(made.id)).status));
  await over(client, made);
  assert.equal((await client.batches.cancel(made.id)).status, 'cancelled');
});

test('batch_created_once_though_its_answer_was_lost', async () => {
  const key = await newKey();
  const client = await newClient({ apiKey: key });
  const file = await client.files.create({ file: await toFile(Buffer.from(JSON.stringify(line(1))), 'in.jsonl'), purpose: 'batch' });
  await serving(lossy(), async (url) => {
    const again = await newClient({ apiKey: key, baseURL: url + '/v1', maxRetries: 2 });
    const b = await again.batches.create({ input_file_id: file.id, endpoint: ENDPOINT, completion_window: '24h' });
    assert.deepEqual((await all(client.batches.list())).map((x) => x.id), [b.id]);
  });
});

test('batch_webhook', async () => {
  const client = await newClient();
  const secret = 'whsec_' + Buffer.alloc(32, 7).toString('base64');
  await receiving([], async (url, next) => {
    const b = await create(client, [line(1)], { lorry: { webhook: { url, secret } } });
    const { body, headers } = await next();
    const event = await client.webhooks.unwrap(body, headers, secret);
    assert.deepEqual([event.type, event.data.id], ['batch.completed', b.id]);
  });
});
