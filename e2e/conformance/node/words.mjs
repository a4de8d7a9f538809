// What only a real model can show. Never what it says.
import assert from 'node:assert/strict';
import { all, chat, newClient, test } from './harness.mjs';

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
