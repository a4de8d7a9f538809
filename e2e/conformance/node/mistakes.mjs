// Each class of error, as the SDK raises it, and what it does about those that may pass.
import assert from 'node:assert/strict';
import OpenAI from 'openai';
import { MODEL, URL, chat, lossy, newClient, newKey, raises, serving, test } from './harness.mjs';

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
  await serving(lossy(retries), async (url) => {
    const client = await newClient({ apiKey: key, baseURL: url + '/v1', maxRetries: 2 });
    const { data, response } = await chat(client, 'once', {}, { headers: { 'Idempotency-Key': 'lost' } }).withResponse();
    assert.equal(data.choices[0].message.content, 'once');
    assert.deepEqual(retries, ['0', '1']);
    const jobs = (await (await newClient({ apiKey: key })).get('/jobs')).data.map((j) => j.id);
    assert.deepEqual(jobs, [response.headers.get('x-lorry-job')]);
  });
});
