import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import OpenAI from 'openai';
import { Webhook } from 'standardwebhooks';
import { MODEL, newClient, raises, serving, test } from './harness.mjs';

test('webhook_verified_by_both', async () => {
  const client = await newClient();
  const secret = 'whsec_' + randomBytes(32).toString('base64');
  const got = Promise.withResolvers?.() ?? resolvers();
  const receive = (request, response, body) => {
    got.resolve({ body: body.toString(), headers: request.headers });
    response.end();
  };
  await serving(receive, async (url) => {
    const { response } = await client.chat.completions.create(
      { model: MODEL, messages: [{ role: 'user', content: 'told' }], lorry: { webhook: { url, secret } } },
      { headers: { Prefer: 'respond-async' } },
    ).withResponse();
    assert.equal(response.status, 202);
    const { body, headers } = await got.promise;
    const event = await client.webhooks.unwrap(body, headers, secret);
    assert.deepEqual([event.type, event.data.id], ['lorry.job.succeeded', response.headers.get('x-lorry-job')]);
    assert.equal(new Webhook(secret).verify(body, headers).id, event.id);
    await raises(OpenAI.InvalidWebhookSignatureError, {}, () => client.webhooks.unwrap(body + ' ', headers, secret));
  });
});

// resolvers is Promise.withResolvers, which Node has from 22 on.
function resolvers() {
  const out = {};
  out.promise = new Promise((resolve, reject) => Object.assign(out, { resolve, reject }));
  return out;
}
