import assert from 'node:assert/strict';
import OpenAI from 'openai';
import { MODEL, all, chat, eventually, newClient, raises, test } from './harness.mjs';

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

test('chat_parse', async () => {
  const schema = { type: 'object', properties: { name: { type: 'string' } }, required: ['name'], additionalProperties: false };
  const got = await (await newClient()).chat.completions.parse({
    model: MODEL, messages: [{ role: 'user', content: '{"name":"x"}' }], response_format: { type: 'json_schema', json_schema: { name: 'answer', schema } },
  });
  assert.equal(got.choices[0].message.content, '{"name":"x"}');
});

test('completions_stream_cancelled_midway', async () => {
  const client = await newClient();
  const { data: stream, response } = await client.completions.create({ model: MODEL, prompt: LONG, max_tokens: 4000, stream: true }).withResponse();
  let seen = 0;
  await raises(OpenAI.APIError, { code: 'job_cancelled' }, async () => {
    for await (const _ of stream) if (++seen === 3) await client.post(`/jobs/${response.headers.get('x-lorry-job')}/cancel`);
  });
  assert.ok(seen >= 3 && seen < 4000, `${seen} chunks`);
});

test('chat_stored', async () => {
  const client = await newClient();
  const stored = client.chat.completions;
  await chat(client, 'not stored');
  const ids = [];
  for (let n = 0; n < 5; n++) ids.push((await chat(client, 'one two', { store: true, metadata: { n: String(n) } })).id);
  let last;
  for await (const c of await chat(client, 'one two', { store: true, stream: true })) last = c.id;
  ids.push(last);
  for (const limit of [1, 2, 6, 7]) assert.deepEqual((await all(stored.list({ limit }))).map((c) => c.id), ids);
  assert.deepEqual((await all(stored.list({ metadata: { n: '3' }, model: MODEL }))).map((c) => c.id), [ids[3]]);
  assert.equal((await stored.retrieve(last)).choices[0].message.content, 'one two');
  assert.deepEqual((await stored.update(last, { metadata: { colour: 'red' } })).metadata, { colour: 'red' });
  assert.deepEqual((await all(stored.list({ metadata: { colour: 'red' }, order: 'desc' }))).map((c) => c.id), [last]);
  const messages = await all(stored.messages.list(last, { limit: 1 }));
  assert.deepEqual(messages.map((m) => [m.role, m.content, m.content_parts]), [['user', 'one two', null]]);
  const gone = await stored.delete(last);
  assert.deepEqual([gone.id, gone.object, gone.deleted], [last, 'chat.completion.deleted', true]);
  for (const call of [(id) => stored.retrieve(id), (id) => stored.delete(id), (id) => stored.messages.list(id), (id) => stored.update(id, { metadata: null })])
    await raises(OpenAI.NotFoundError, { status: 404, code: 'not_found' }, () => call(last));
});
