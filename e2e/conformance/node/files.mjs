import assert from 'node:assert/strict';
import { createReadStream, writeFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import OpenAI, { toFile } from 'openai';
import { all, newClient, raises, test } from './harness.mjs';

const LINES = '{"custom_id": "a"}\n';

async function upload(client, text = LINES, more = {}) {
  return client.files.create({ file: await toFile(Buffer.from(text), 'in.jsonl'), purpose: 'batch', ...more });
}

test('files_create', async () => {
  const f = await upload(await newClient());
  assert.deepEqual([f.object, f.bytes, f.filename, f.purpose, f.status], ['file', LINES.length, 'in.jsonl', 'batch', 'processed']);
  assert.equal(f.expires_at - f.created_at, 30 * 24 * 3600);
});

test('files_create_from_stream', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'lorry-conformance-'));
  try {
    writeFileSync(join(dir, 'lines.jsonl'), LINES.repeat(50_000));
    const f = await (await newClient()).files.create({ file: createReadStream(join(dir, 'lines.jsonl')), purpose: 'batch' });
    assert.deepEqual([f.filename, f.bytes], ['lines.jsonl', LINES.length * 50_000]);
  } finally {
    rmSync(dir, { recursive: true });
  }
});

test('files_life', async () => {
  const client = await newClient();
  const f = await upload(client, LINES, { expires_after: { anchor: 'created_at', seconds: 3600 } });
  assert.equal(f.expires_at - f.created_at, 3600);
  assert.deepEqual(await client.files.retrieve(f.id), f);
  assert.equal((await client.files.waitForProcessing(f.id, { pollInterval: 50, maxWait: 2000 })).status, 'processed');
  const content = await client.files.content(f.id);
  assert.equal(await content.text(), LINES);
  assert.deepEqual(await client.files.delete(f.id), { id: f.id, object: 'file', deleted: true });
  await raises(OpenAI.NotFoundError, { status: 404, text: 'No such File object: ' + f.id }, () => client.files.retrieve(f.id));
});

test('files_content_in_part', async () => {
  const client = await newClient();
  const data = Buffer.from(Array.from({ length: 4096 }, (_, i) => i % 256));
  const f = await client.files.create({ file: await toFile(data, 'ümläut.bin'), purpose: 'user_data', expires_after: { anchor: 'created_at', seconds: 3600 } });
  assert.equal(f.filename, 'ümläut.bin');
  assert.deepEqual(Buffer.from(await (await client.files.content(f.id)).arrayBuffer()), data);
  const part = await client.files.content(f.id, { headers: { Range: 'bytes=10-19' } });
  assert.equal(part.status, 206);
  assert.deepEqual(Buffer.from(await part.arrayBuffer()), data.subarray(10, 20));
});

test('files_of_others', async () => {
  const f = await upload(await newClient());
  const other = await newClient();
  for (const call of ['retrieve', 'delete', 'content']) await raises(OpenAI.NotFoundError, { status: 404 }, () => other.files[call](f.id));
  assert.deepEqual(await all(other.files.list()), []);
});

test('files_expires_after_wrong', async () => {
  const client = await newClient();
  for (const seconds of [3599, 2592001]) {
    await raises(OpenAI.BadRequestError, { status: 400, param: 'expires_after[seconds]' }, () => upload(client, LINES, { expires_after: { anchor: 'created_at', seconds } }));
  }
});

test('files_refused', async () => {
  const client = await newClient();
  const text = await toFile(Buffer.from(LINES), 'in.txt');
  await raises(OpenAI.BadRequestError, { status: 400, text: 'Invalid file format for Batch API. Must be .jsonl' },
    () => client.files.create({ file: text, purpose: 'batch' }));
  for (const limit of [0, -1, 10001]) await raises(OpenAI.BadRequestError, { status: 400, param: 'limit' }, () => client.files.list({ limit }));
});

test('files_list_amid_inserts_and_deletes', async () => {
  const client = await newClient();
  const ids = [];
  for (let i = 0; i < 9; i++) ids.push((await upload(client, String(i))).id);
  const got = [];
  for await (const f of client.files.list({ limit: 2 })) {
    got.push(f.id);
    await upload(client, 'new ' + got.length);
    if (got.length === 4) await client.files.delete(ids[2]);
  }
  assert.deepEqual(got, ids.filter((id) => id !== ids[2]).reverse());
  const page = await client.files.list({ limit: 4, order: 'asc' });
  assert.ok(page.has_more && page.hasNextPage());
  assert.deepEqual((await all(page)).slice(0, 8).map((f) => f.id), ids.filter((id) => id !== ids[2]));
});
