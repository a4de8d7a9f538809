import assert from 'node:assert/strict';
import OpenAI from 'openai';
import { MODEL, URL, all, chat, eventually, newClient, newKey, raises, serving, test } from './harness.mjs';

// The echo engine answers with the last user message, word by word, and counts a word as a token.
const TEXT = 'alpha beta gamma delta';
const LONG = 'word '.repeat(4000);

test('models_list', async () => {
  const client = await newClient();
  assert.ok((await all(client.models.list())).some((m) => m.id === MODEL && m.object === 'model'));
  assert.equal((await client.models.retrieve(MODEL)).id, MODEL);
  await raises(OpenAI.NotFoundError, { status: 404, code: 'model_not_found' }, () => client.models.retrieve('org/no-such-model'));
});

test('chat_create', async () => {
  const got = await chat(await newClient(), TEXT);
  assert.equal(got.object, 'chat.completion');
  assert.deepEqual(got.choices[0].message.content, TEXT);
  assert.equal(got.choices[0].finish_reason, 'stop');
  assert.equal(got.usage.total_tokens, got.usage.prompt_tokens + 4);
  assert.match(got._request_id, /^req_/);
});

test('chat_with_response', async () => {
  const { data, response, request_id } = await chat(await newClient(), TEXT).withResponse();
  assert.equal(data.choices[0].message.content, TEXT);
  assert.match(response.headers.get('x-lorry-job'), /^job_/);
  assert.equal(request_id, response.headers.get('x-request-id'));
});

test('chat_stream', async () => {
  const chunks = await all(await chat(await newClient(), TEXT, { stream: true, stream_options: { include_usage: true } }));
  assert.equal(chunks.map((c) => c.choices[0]?.delta.content ?? '').join(''), TEXT);
  assert.equal(chunks[0].choices[0].delta.role, 'assistant');
  assert.deepEqual(chunks.at(-1).choices, []);
  assert.equal(chunks.at(-1).usage.completion_tokens, 4);
});

test('chat_stream_helper', async () => {
  const client = await newClient();
  const runner = client.chat.completions.stream({ model: MODEL, messages: [{ role: 'user', content: TEXT }] });
  let text = '';
  runner.on('content', (delta) => (text += delta));
  const final = await runner.finalChatCompletion();
  assert.equal(text, TEXT);
  assert.equal(final.choices[0].message.content, TEXT);
});

test('chat_stream_cancelled_midway', async () => {
  const client = await newClient();
  const { data: stream, response } = await chat(client, LONG, { stream: true }).withResponse();
  let seen = 0;
  await raises(OpenAI.APIError, { code: 'job_cancelled' }, async () => {
    for await (const _ of stream) {
      if (++seen === 3) await client.post(`/jobs/${response.headers.get('x-lorry-job')}/cancel`);
    }
  });
  assert.ok(seen >= 3 && seen < 4000, `${seen} chunks`);
});

test('chat_stream_aborted_by_client', async () => {
  const client = await newClient();
  const { data: stream, response } = await chat(client, LONG, { stream: true }).withResponse();
  for await (const _ of stream) break; // ends the connection
  const job = response.headers.get('x-lorry-job');
  await eventually(async () => (await client.get(`/jobs/${job}`)).status === 'cancelled');
});

test('chat_timeout', async () => {
  const client = await newClient();
  await raises(OpenAI.APIConnectionTimeoutError, {}, () => chat(client, LONG, {}, { timeout: 300 }));
  await eventually(async () => (await client.get('/jobs')).data.every((j) => j.status === 'cancelled'));
});

test('chat_abort_signal', async () => {
  const client = await newClient();
  await raises(OpenAI.APIUserAbortError, {}, () => chat(client, LONG, {}, { signal: AbortSignal.timeout(300) }));
});

test('completions', async () => {
  const client = await newClient();
  const got = await client.completions.create({ model: MODEL, prompt: TEXT, max_tokens: 3 });
  assert.deepEqual([got.choices[0].text, got.choices[0].finish_reason], ['alpha beta gamma', 'length']);
  const chunks = await all(await client.completions.create({ model: MODEL, prompt: TEXT, max_tokens: 9, stream: true }));
  assert.equal(chunks.map((c) => c.choices[0].text).join(''), TEXT);
});

test('errors', async () => {
  const client = await newClient();
  const stranger = await newClient({ apiKey: 'lorry_not_a_key' });
  await raises(OpenAI.AuthenticationError, { status: 401, code: 'invalid_api_key' }, () => stranger.models.list());
  const root = await newClient({ baseURL: URL });
  await raises(OpenAI.PermissionDeniedError, { status: 403 }, () => root.get('/lorry/v1/keys'));
  await raises(OpenAI.NotFoundError, { status: 404, code: 'model_not_found', param: 'model' }, () => chat(client, 'x', { model: 'nope' }));
  await raises(OpenAI.NotFoundError, { status: 404, code: 'unknown_url' }, () => client.get('/no/such/route'));
  await raises(OpenAI.BadRequestError, { status: 400, code: 'missing_required_parameter', param: 'messages', type: 'invalid_request_error' },
    () => client.post('/chat/completions', { body: { model: MODEL } }));
  await raises(OpenAI.BadRequestError, { status: 400, code: 'unknown_parameter', param: 'no_such_field' }, () => chat(client, 'x', { no_such_field: 1 }));
  const { response } = await chat(client, 'x').withResponse();
  let tries = 0;
  const counted = client.withOptions({ maxRetries: 3, fetch: (...a) => (tries++, fetch(...a)) });
  await raises(OpenAI.ConflictError, { status: 409 }, () => counted.post(`/jobs/${response.headers.get('x-lorry-job')}/cancel`));
  assert.equal(tries, 1, 'a conflict for good was tried again');
  await chat(client, 'one', {}, { headers: { 'Idempotency-Key': 'k' } });
  await raises(OpenAI.UnprocessableEntityError, { status: 422, code: 'idempotency_key_reused' },
    () => chat(client, 'two', {}, { headers: { 'Idempotency-Key': 'k' } }));
  await raises(OpenAI.APIConnectionError, {}, async () => (await newClient({ baseURL: 'http://127.0.0.1:1/v1' })).models.list());
});

test('rate_limit', async () => {
  const crowd = (client) => Promise.allSettled(Array.from({ length: 12 }, () => chat(client, 'word '.repeat(40), { max_completion_tokens: 40 })));
  const refused = (await crowd(await newClient())).filter((r) => r.status === 'rejected').map((r) => r.reason);
  assert.ok(refused.length > 0 && refused.every((e) => e instanceof OpenAI.RateLimitError && e.code === 'rate_limit_exceeded'), String(refused));
  assert.ok((await crowd(await newClient({ maxRetries: 6 }))).every((r) => r.status === 'fulfilled'));
});

test('lost_answer_under_a_key_is_one_job', async () => {
  const key = await newKey();
  const retries = [];
  const lossy = async (request, response, body) => {
    retries.push(request.headers['x-stainless-retry-count']);
    const { host, connection, 'content-length': _, ...headers } = request.headers;
    const real = await fetch(URL + request.url, { method: request.method, headers, body });
    const text = await real.text();
    if (retries.length === 1) return request.socket.destroy();
    response.writeHead(real.status, { 'content-type': 'application/json', 'x-lorry-job': real.headers.get('x-lorry-job') });
    response.end(text);
  };
  await serving(lossy, async (url) => {
    const client = await newClient({ apiKey: key, baseURL: url + '/v1', maxRetries: 2 });
    const { data, response } = await chat(client, 'once', {}, { headers: { 'Idempotency-Key': 'lost' } }).withResponse();
    assert.equal(data.choices[0].message.content, 'once');
    assert.deepEqual(retries, ['0', '1']);
    const jobs = (await (await newClient({ apiKey: key })).get('/jobs')).data.map((j) => j.id);
    assert.deepEqual(jobs, [response.headers.get('x-lorry-job')]);
  });
});
