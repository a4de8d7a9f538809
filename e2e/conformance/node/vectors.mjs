import assert from 'node:assert/strict';
import { MODEL, newClient, test } from './harness.mjs';

test('embeddings', async () => {
  const client = await newClient();
  const got = await client.embeddings.create({ model: MODEL, input: ['alpha', 'beta'] });
  assert.deepEqual(got.data.map((d) => [d.object, d.index]), [['embedding', 0], ['embedding', 1]]);
  const plain = await client.embeddings.create({ model: MODEL, input: 'alpha', encoding_format: 'float' });
  assert.equal(plain.data[0].embedding.length, got.data[0].embedding.length);
  assert.ok(plain.data[0].embedding.every((x, i) => Math.abs(x - got.data[0].embedding[i]) < 1e-5));
  assert.equal(got.usage.prompt_tokens, got.usage.total_tokens);
});
