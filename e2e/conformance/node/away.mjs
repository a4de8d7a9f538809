// Redis stands still: 503 and when to come again, which the SDK does by itself. Run it last.
import assert from 'node:assert/strict';
import OpenAI from 'openai';
import { chat, newClient, raises, test } from './harness.mjs';

const still = (on) => process.kill(Number(process.env.LORRY_VALKEY_PID), on ? 'SIGSTOP' : 'SIGCONT');
const keyed = { headers: { 'Idempotency-Key': 'k' } };

test('error_503', async () => {
  const client = await newClient();
  still(true);
  try {
    await raises(OpenAI.InternalServerError, { status: 503, code: 'service_unavailable' }, () => chat(client, 'x', {}, keyed));
  } finally {
    still(false);
  }
});

test('error_503_passes', async () => {
  const client = await newClient({ maxRetries: 6 });
  still(true);
  const timer = setTimeout(still, 6000, false);
  try {
    assert.equal((await chat(client, 'once', {}, keyed)).choices[0].message.content, 'once');
  } finally {
    clearTimeout(timer);
    still(false);
  }
  assert.equal((await client.get('/jobs')).data.length, 1);
});
