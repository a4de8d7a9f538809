import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import OpenAI from 'openai';
import { Webhook } from 'standardwebhooks';
import { MODEL, newClient, raises, receiving, test } from './harness.mjs';

const newSecret = () => 'whsec_' + randomBytes(32).toString('base64');

async function submit(client, url, secret) {
  const { response } = await client.chat.completions.create(
    { model: MODEL, messages: [{ role: 'user', content: 'told' }], lorry: { webhook: { url, secret } } },
    { headers: { Prefer: 'respond-async' } },
  ).withResponse();
  assert.equal(response.status, 202);
  return response.headers.get('x-lorry-job');
}

test('webhook_verified_by_both', async () => {
  const client = await newClient();
  const secret = newSecret();
  await receiving([], async (url, next) => {
    const job = await submit(client, url, secret);
    const { body, headers } = await next();
    const event = await client.webhooks.unwrap(body, headers, secret);
    assert.deepEqual([event.type, event.data.id], ['lorry.job.succeeded', job]);
    assert.equal(new Webhook(secret).verify(body, headers).id, event.id);
    await raises(OpenAI.InvalidWebhookSignatureError, {}, () => client.webhooks.unwrap(body + ' ', headers, secret));
    await raises(OpenAI.InvalidWebhookSignatureError, {}, () => client.webhooks.unwrap(body, headers, newSecret()));
  });
});

test('webhook_again_under_one_id', async () => {
  const client = await newClient();
  const secret = newSecret();
  await receiving([500], async (url, next) => {
    await submit(client, url, secret);
    const [first, second] = [await next(), await next()];
    for (const { body, headers } of [first, second]) await client.webhooks.unwrap(body, headers, secret);
    assert.equal(first.headers['webhook-id'], second.headers['webhook-id']);
    assert.ok(first.headers['webhook-timestamp'] < second.headers['webhook-timestamp']);
    assert.equal(first.body, second.body);
  });
});

test('webhook_to_a_forbidden_place', async () => {
  const client = await newClient();
  await raises(OpenAI.BadRequestError, { status: 400, param: 'lorry.webhook.url' }, () => submit(client, 'http://169.254.1.1/', newSecret()));
});
