// What only a real model can show. Never what it says.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import OpenAI from 'openai';
import { MODEL, URL, all, chat, newClient, raises, test } from './harness.mjs';

test('words_usage_adds_up', async () => {
  const got = await chat(await newClient(), 'Name a colour.', { max_completion_tokens: 8, temperature: 0 });
  assert.equal(got.usage.total_tokens, got.usage.prompt_tokens + got.usage.completion_tokens);
});

test('words_stream_is_the_answer', async () => {
  const client = await newClient();
  const ask = { max_completion_tokens: 12, temperature: 0 };
  const whole = await chat(client, 'Count to five.', ask);
  const chunks = await all(await chat(client, 'Count to five.', { ...ask, stream: true }));
  assert.equal(chunks.map((c) => c.choices[0]?.delta.content ?? '').join(''), whole.choices[0].message.content);
});

test('words_tool_runner', async () => {
  const client = await newClient();
  let called = 0;
  const runner = client.chat.completions.runTools({
    model: 'smollm2', messages: [{ role: 'user', content: 'How warm is it?' }], max_completion_tokens: 64, temperature: 0,
    tool_choice: { type: 'function', function: { name: 'weather' } },
    tools: [{ type: 'function', function: {
      name: 'weather', parse: JSON.parse, function: () => (called++, '21'),
      parameters: { type: 'object', properties: { metric: { type: 'boolean' } }, required: ['metric'], additionalProperties: false },
    } }],
  });
  await runner.done();
  assert.equal(called, 1);
});

test('words_model_deleted', async () => {
  const apiKey = process.env.LORRY_ADMIN_KEY;
  const admin = await newClient({ apiKey });
  const pushed = await fetch(`${URL}/lorry/v1/models?base=${MODEL}&name=org/poet`, { method: 'POST', body: await readFile(process.env.LORRY_ADAPTER),
    headers: { authorization: 'Bearer ' + apiKey, 'content-type': 'application/octet-stream' } });
  assert.equal(pushed.status, 201, await pushed.text());
  const stranger = await newClient();
  for (const [client, model] of [[stranger, 'org/poet'], [admin, MODEL]]) {
    await raises(OpenAI.PermissionDeniedError, { status: 403, code: 'insufficient_permissions' }, () => client.models.delete(model));
  }
  assert.deepEqual({ ...(await admin.models.delete('org/poet')) }, { id: 'org/poet', object: 'model', deleted: true });
  await raises(OpenAI.NotFoundError, { status: 404, code: 'model_not_found' }, () => admin.models.delete('org/poet'));
});
