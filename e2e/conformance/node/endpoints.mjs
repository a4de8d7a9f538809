// Webhook endpoints, looked after by OpenAI's own calls; and what endpoints hear of batches.
import assert from 'node:assert/strict';
import OpenAI from 'openai';
import { Webhook } from 'standardwebhooks';
import { LONG, create, line } from './batches.mjs';
import { all, lossy, newClient, newKey, raises, receiving, serving, test } from './harness.mjs';

const ADDRESS = 'https://example.com/hook';

function endpoint(client, url = ADDRESS, event_types = ['batch.completed']) {
  return client.webhooks.create({ url, name: 'mine', event_types });
}

test('endpoint_life', async () => {
  const client = await newClient();
  const made = await endpoint(client);
  assert.deepEqual([made.object, made.name, made.url, made.event_types], ['webhook_endpoint', 'mine', ADDRESS, ['batch.completed']]);
  const { signing_secret, ...shown } = made;
  assert.ok(signing_secret.startsWith(made.signing_secret_hint.slice(0, -1)));
  assert.deepEqual({ ...(await client.webhooks.retrieve(made.id)) }, { ...shown });
  const changed = await client.webhooks.update(made.id, { name: 'ours', event_types: ['batch.failed'] });
  assert.deepEqual([changed.name, changed.url, changed.event_types], ['ours', ADDRESS, ['batch.failed']]);
  assert.notEqual((await client.webhooks.rotateSecret(made.id)).signing_secret, signing_secret);
  const gone = await client.webhooks.delete(made.id);
  assert.deepEqual([gone.id, gone.object, gone.deleted], [made.id, 'webhook_endpoint.deleted', true]);
  await raises(OpenAI.NotFoundError, { status: 404, code: 'not_found' }, () => client.webhooks.retrieve(made.id));
});

test('endpoint_made_once_though_its_answer_was_lost', async () => {
  const apiKey = await newKey();
  const client = await newClient({ apiKey });
  await serving(lossy(), async (url) => {
    const made = await endpoint(await newClient({ apiKey, baseURL: url + '/v1', maxRetries: 2 }));
    assert.deepEqual((await all(client.webhooks.list())).map((e) => e.id), [made.id]);
    assert.match(made.signing_secret, /^whsec_/);
  });
});

test('endpoint_list_amid_inserts', async () => {
  const client = await newClient();
  const ids = [];
  for (let i = 0; i < 7; i++) ids.unshift((await endpoint(client)).id);
  const got = [];
  for await (const e of client.webhooks.list({ limit: 2 })) {
    got.push(e.id);
    await endpoint(client);
  }
  assert.deepEqual(got, ids);
  assert.deepEqual((await all(client.webhooks.list({ limit: 100, after: ids[1] }))).map((e) => e.id), ids.slice(2));
  assert.deepEqual(await all(await (await newClient()).webhooks.list()), []);
});

test('endpoint_refused', async () => {
  const client = await newClient();
  await raises(OpenAI.BadRequestError, { status: 400, param: 'url' }, () => endpoint(client, 'http://169.254.169.254/'));
  await raises(OpenAI.BadRequestError, { status: 400, param: 'event_types[0]' }, () => endpoint(client, ADDRESS, ['video.completed']));
  const offered = (await client.webhooks.eventTypes.list()).data;
  assert.deepEqual((await endpoint(client, ADDRESS, offered)).event_types, [...offered].sort());
});

test('endpoint_test_and_rotation', async () => {
  const client = await newClient();
  let made;
  await receiving([418], async (url, next) => {
    made = await endpoint(client, url);
    for (const status of [418, 200]) {
      const got = await client.webhooks.test(made.id, { event_type: 'batch.expired' });
      assert.deepEqual([got.object, got.event_type, got.status_code, got.success], ['webhook_endpoint.test', 'batch.expired', status, true]);
      const { body, headers } = await next();
      assert.equal((await client.webhooks.unwrap(body, headers, made.signing_secret)).type, 'batch.expired');
    }
    for (const keep of [true, false]) {
      const fresh = await client.webhooks.rotateSecret(made.id, { keep_old_secret_active_for_24_hours: keep });
      await client.webhooks.test(made.id, { event_type: 'batch.completed' });
      let got = await next(); // the refused sample may come again in between
      while (JSON.parse(got.body).type !== 'batch.completed') got = await next();
      const { body, headers } = got;
      await client.webhooks.verifySignature(body, headers, fresh.signing_secret);
      new Webhook(fresh.signing_secret).verify(body, headers);
      const old = client.webhooks.verifySignature(body, headers, made.signing_secret);
      if (keep) await old;
      else await raises(OpenAI.InvalidWebhookSignatureError, {}, () => old);
      made = { ...made, signing_secret: fresh.signing_secret };
    }
  });
  const nobody = await endpoint(client, 'http://127.0.0.1:1/');
  await raises(OpenAI.UnprocessableEntityError, { status: 422, code: 'webhook_unanswered' }, () => client.webhooks.test(nobody.id, { event_type: 'batch.expired' }));
});

test('endpoint_hears_of_batches', async () => {
  const client = await newClient();
  await receiving([], async (url, next) => {
    const kinds = ['batch.completed', 'batch.failed', 'batch.expired', 'batch.cancelled'];
    const made = await endpoint(client, url, kinds);
    const ends = new Map([
      [(await create(client, [line(1)])).id, 'batch.completed'],
      [(await create(client, [line(1), line(1)])).id, 'batch.failed'],
      [(await create(client, [line(1, LONG)], { completion_window: '2s' })).id, 'batch.expired'],
    ]);
    const cancelled = await create(client, [line(1, LONG)]);
    await client.batches.cancel(cancelled.id);
    ends.set(cancelled.id, 'batch.cancelled');
    for (const _ of kinds) {
      const { body, headers } = await next();
      const event = await client.webhooks.unwrap(body, headers, made.signing_secret);
      assert.deepEqual([event.object, event.type], ['event', ends.get(event.data.id)]);
      assert.equal('batch.' + (await client.batches.retrieve(event.data.id)).status, event.type);
    }
  });
});
