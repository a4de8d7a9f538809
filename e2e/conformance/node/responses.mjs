// The Responses API: waited, streamed, in the background, resumed, cancelled, and told of.
import assert from 'node:assert/strict';
import OpenAI from 'openai';
import { ResponsesWS } from 'openai/resources/responses/ws';
import { MODEL, all, eventually, newClient, raises, receiving, test } from './harness.mjs';

const TEXT = 'alpha beta gamma delta';
const LONG = 'word '.repeat(4000); // 20 s of the echo engine's time

const ask = (client, input, more = {}, options = {}) => client.responses.create({ model: MODEL, input, ...more }, options);
const status = async (client, id) => (await client.responses.retrieve(id)).status;
const until = (client, id, want) => eventually(async () => (await status(client, id)) === want);
const late = { lorry: { deadline: '1s' } };

test('responses_create', async () => {
  const client = await newClient();
  const got = await ask(client, TEXT, { instructions: 'be brief', metadata: { run: '7' } });
  assert.deepEqual([got.object, got.status, got.output_text, got.instructions, got.metadata], ['response', 'completed', TEXT, 'be brief', { run: '7' }]);
  assert.equal((await client.responses.retrieve(got.id)).output_text, TEXT);
  const cut = await ask(client, TEXT, { max_output_tokens: 2 });
  assert.deepEqual([cut.status, cut.incomplete_details.reason, cut.output_text], ['incomplete', 'max_output_tokens', 'alpha beta']);
});

test('responses_conversation', async () => {
  const client = await newClient();
  const first = await ask(client, 'alpha');
  const second = await ask(client, [{ role: 'user', content: 'beta' }], { previous_response_id: first.id });
  const items = await all(client.responses.inputItems.list(second.id, { limit: 1, order: 'asc' }));
  assert.deepEqual(items.map((i) => [i.role, i.content[0].text]), [['user', 'alpha'], ['assistant', 'alpha'], ['user', 'beta']]);
  const handedBack = await ask(client, [{ role: 'user', content: 'alpha' }, ...first.output, { role: 'user', content: 'gamma' }]);
  assert.equal(handedBack.output_text, 'gamma');
});

test('responses_input_items_pages', async () => {
  const client = await newClient();
  const texts = Array.from({ length: 7 }, (_, i) => `item ${i}`);
  const made = await ask(client, texts.map((content) => ({ role: 'user', content })));
  for (const [order, want] of [['asc', texts], ['desc', texts.toReversed?.() ?? [...texts].reverse()]]) {
    for (const limit of [1, 2, 7, 100]) {
      const items = await all(client.responses.inputItems.list(made.id, { limit, order }));
      assert.deepEqual(items.map((i) => i.content[0].text), want);
    }
  }
  for (const limit of [0, 101]) await raises(OpenAI.BadRequestError, { status: 400, param: 'limit' }, () => client.responses.inputItems.list(made.id, { limit }));
});

test('responses_stream', async () => {
  const stream = (await newClient()).responses.stream({ model: MODEL, input: TEXT });
  const events = await all(stream);
  assert.equal((await stream.finalResponse()).output_text, TEXT);
  assert.equal(events.filter((e) => e.type === 'response.output_text.delta').map((e) => e.delta).join(''), TEXT);
  const numbers = events.map((e) => e.sequence_number);
  assert.deepEqual(numbers, [...new Set(numbers)].sort((a, b) => a - b));
});

test('responses_parse', async () => {
  const format = { type: 'json_schema', name: 'answer', schema: { type: 'object', properties: { name: { type: 'string' } }, required: ['name'], additionalProperties: false } };
  const got = await (await newClient()).responses.parse({ model: MODEL, input: '{"name":"x"}', text: { format } });
  assert.equal(got.output_parsed?.name ?? JSON.parse(got.output_text).name, 'x');
});

test('responses_background', async () => {
  const client = await newClient();
  const made = await ask(client, TEXT, { background: true });
  assert.ok(['queued', 'in_progress'].includes(made.status), made.status);
  await until(client, made.id, 'completed');
  assert.equal((await client.responses.retrieve(made.id)).output_text, TEXT);
  assert.equal((await client.responses.cancel(made.id)).status, 'completed');
  await client.responses.delete(made.id);
  await raises(OpenAI.NotFoundError, { status: 404 }, () => client.responses.retrieve(made.id));
});

test('responses_resumed', async () => {
  const client = await newClient();
  const events = await all(await ask(client, TEXT, { background: true, stream: true }));
  assert.equal(events.at(-1).type, 'response.completed');
  for (const [i, heard] of events.entries()) {
    const rest = await all(await client.responses.retrieve(events[0].response.id, { stream: true, starting_after: heard.sequence_number }));
    const text = [...events.slice(0, i + 1), ...rest].filter((e) => e.type === 'response.output_text.delta').map((e) => e.delta).join('');
    assert.equal(text, TEXT);
  }
});

test('responses_stream_cancelled_midway', async () => {
  const client = await newClient();
  for (const more of [{ background: true }, { store: false }]) {
    const { data: stream, response } = await ask(client, LONG, { stream: true, ...more }).withResponse();
    let seen = 0, last;
    for await (last of stream) {
      if (last.type === 'response.output_text.delta' && ++seen === 3) await client.post(`/jobs/${response.headers.get('x-lorry-job')}/cancel`);
    }
    assert.deepEqual([last.type, last.response.status], ['response.failed', 'cancelled']);
    assert.ok(seen >= 3 && seen < 4000, `${seen} pieces`);
    if (more.background) assert.equal(await status(client, last.response.id), 'cancelled');
  }
});

test('responses_cancelled_in_every_state', async () => {
  const client = await newClient();
  const running = await ask(client, LONG, { background: true });
  await until(client, running.id, 'in_progress');
  for (let i = 0; i < 2; i++) assert.equal((await client.responses.cancel(running.id)).status, 'cancelled');
  const cut = await ask(client, TEXT, { background: true, max_output_tokens: 2 });
  await until(client, cut.id, 'incomplete');
  assert.equal((await client.responses.cancel(cut.id)).status, 'incomplete');
  const expired = await ask(client, LONG, { background: true, ...late });
  await until(client, expired.id, 'failed');
  assert.equal((await client.responses.cancel(expired.id)).status, 'failed');
  const waited = await ask(client, 'x');
  await raises(OpenAI.BadRequestError, { status: 400, text: 'synchronous' }, () => client.responses.cancel(waited.id));
  await raises(OpenAI.NotFoundError, { status: 404 }, () => client.responses.cancel('resp_x'));
});

test('responses_refused', async () => {
  const client = await newClient();
  await raises(OpenAI.BadRequestError, { status: 400, code: 'unsupported_parameter' }, () => ask(client, 'x', { conversation: 'conv_1' }));
  await raises(OpenAI.BadRequestError, { status: 400, code: 'previous_response_not_found' }, () => ask(client, 'x', { previous_response_id: 'resp_x' }));
  const made = await ask(client, 'x');
  const other = await newClient();
  await raises(OpenAI.NotFoundError, { status: 404 }, () => other.responses.retrieve(made.id));
  await raises(OpenAI.NotFoundError, { status: 404 }, () => other.responses.delete(made.id));
});

test('responses_lost_answer_is_one_job', async () => {
  const client = await newClient();
  const once = () => ask(client, 'once', {}, { headers: { 'Idempotency-Key': 'k' } });
  assert.equal((await once()).id, (await once()).id);
});

test('responses_input_tokens', async () => {
  const client = await newClient();
  const first = await ask(client, TEXT);
  for (const more of [{}, { instructions: 'be brief' }, { previous_response_id: first.id }]) {
    const counted = await client.responses.inputTokens.count({ model: MODEL, input: TEXT, ...more });
    assert.deepEqual({ ...counted }, { object: 'response.input_tokens', input_tokens: (await ask(client, TEXT, more)).usage.input_tokens });
  }
});

test('responses_compact', async () => {
  const client = await newClient();
  const first = await ask(client, 'alpha');
  const made = await client.responses.compact({ model: MODEL, previous_response_id: first.id, input: 'beta' });
  assert.deepEqual([made.object, ...made.output.map((i) => i.type)], ['response.compaction', 'message', 'message', 'compaction']);
  assert.deepEqual(made.output.slice(0, 2).map((i) => i.content[0].text), ['alpha', 'beta']);
  assert.equal((await ask(client, [...made.output, { role: 'user', content: 'gamma' }])).output_text, 'gamma');
  const other = await newClient();
  await raises(OpenAI.BadRequestError, { status: 400, code: 'invalid_encrypted_content' }, () => ask(other, made.output));
  await raises(OpenAI.BadRequestError, { status: 400, code: 'missing_required_parameter', param: 'input' }, () => client.responses.compact({ model: MODEL }));
});

test('responses_websocket', async () => {
  const client = await newClient();
  const ws = new ResponsesWS(client);
  const turn = async (more) => {
    ws.send({ type: 'response.create', model: MODEL, ...more });
    const events = [];
    for await (const { type, message, error } of ws.stream()) {
      if (type === 'error') return { events, error: error.error };
      if (type !== 'message') continue;
      events.push(message);
      if (['response.completed', 'response.failed', 'response.incomplete'].includes(message.type)) return { events, response: message.response };
    }
    assert.fail('closed');
  };
  const first = await turn({ input: 'alpha', store: false, stream_id: 'main' });
  assert.equal(first.events.filter((e) => e.type === 'response.output_text.delta').map((e) => e.delta).join(''), 'alpha');
  assert.ok(first.events.every((e) => e.stream_id === 'main'));
  const second = await turn({ input: 'beta', previous_response_id: first.response.id });
  assert.equal((await all(client.responses.inputItems.list(second.response.id))).length, 3);
  const refused = await turn({ input: 'x', model: 'none' });
  assert.deepEqual([refused.error.status, refused.error.error.code], [404, 'model_not_found']);
  assert.equal((await turn({ input: TEXT })).response.status, 'completed');
  ws.close();
});

test('responses_webhook', async () => {
  const client = await newClient();
  const wishes = { 'response.completed': [TEXT, {}], 'response.incomplete': [TEXT, { max_output_tokens: 2 }], 'response.failed': [LONG, late], 'response.cancelled': [LONG, {}] };
  await receiving([], async (url, next) => {
    const made = await client.webhooks.create({ url, name: 'all', event_types: Object.keys(wishes) });
    const asked = new Map();
    for (const [kind, [input, more]] of Object.entries(wishes)) asked.set((await ask(client, input, { background: true, ...more })).id, kind);
    for (const [id, kind] of asked) if (kind === 'response.cancelled') await client.responses.cancel(id);
    for (const _ of Object.keys(wishes)) {
      const { body, headers } = await next();
      const event = await client.webhooks.unwrap(body, headers, made.signing_secret);
      assert.deepEqual([event.object, event.type], ['event', asked.get(event.data.id)]);
      asked.delete(event.data.id);
    }
  });
});
