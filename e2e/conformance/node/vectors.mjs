import assert from 'node:assert/strict';
import OpenAI from 'openai';
import { MODEL, newClient, raises, test } from './harness.mjs';

test('embeddings', async () => {
  const client = await newClient();
  const got = await client.embeddings.create({ model: MODEL, input: ['alpha', 'beta'] });
  assert.deepEqual(got.data.map((d) => [d.object, d.index]), [['embedding', 0], ['embedding', 1]]);
  const plain = await client.embeddings.create({ model: MODEL, input: 'alpha', encoding_format: 'float' });
  assert.equal(plain.data[0].embedding.length, got.data[0].embedding.length);
  assert.ok(plain.data[0].embedding.every((x, i) => Math.abs(x - got.data[0].embedding[i]) < 1e-5));
  assert.equal(got.usage.prompt_tokens, got.usage.total_tokens);
});

test('embeddings_refused', async () => {
  const client = await newClient();
  for (const input of ['', []]) await raises(OpenAI.BadRequestError, { status: 400, param: 'input' }, () => client.embeddings.create({ model: MODEL, input }));
  await raises(OpenAI.NotFoundError, { status: 404, code: 'model_not_found' }, () => client.embeddings.create({ model: 'nope', input: 'x' }));
});
