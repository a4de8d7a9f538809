import io
import threading
import time
import warnings

import openai

from harness import case, equal, new_client, raises

LINES = b'{"custom_id": "a"}\n'


def upload(client, name="in.jsonl", data=LINES, purpose="batch", **more):
    return client.files.create(file=(name, data), purpose=purpose, **more)


@case
def files_create():
    f = upload(new_client())
    equal((f.object, f.bytes, f.filename, f.purpose, f.status), ("file", len(LINES), "in.jsonl", "batch", "processed"))
    assert f.id.startswith("file-"), f
    equal(f.expires_at - f.created_at, 30 * 24 * 3600)
    assert abs(f.created_at - time.time()) < 60


@case
def files_create_from_objects():
    client = new_client()
    equal(client.files.create(file=io.BytesIO(b"x"), purpose="user_data").bytes, 1)
    equal(client.files.create(file=("ümläut with spaces.jsonl", LINES, "application/jsonl"), purpose="batch").filename, "ümläut with spaces.jsonl")
    equal(client.files.create(file=b"bytes", purpose="assistants").expires_at, None)


@case
async def files_async():
    async with new_client(kind=openai.AsyncOpenAI) as client:
        f = await upload(client)
        equal((await client.files.wait_for_processing(f.id, poll_interval=0.05, max_wait_seconds=2)).status, "processed")
        equal((await client.files.content(f.id)).read(), LINES)
        equal([g.id async for g in client.files.list()], [f.id])
        equal((await client.files.delete(f.id)).deleted, True)


@case
def files_wait_for_processing():
    """BG and AIBrix answer "uploaded", on which this hangs for half an hour."""
    client = new_client()
    equal(client.files.wait_for_processing(upload(client).id, poll_interval=0.05, max_wait_seconds=2).status, "processed")


@case
def files_expires_after():
    f = upload(new_client(), purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600})
    equal(f.expires_at - f.created_at, 3600)


@case
def files_expires_after_wrong():
    for seconds, code in ((3599, "integer_below_min_value"), (2592001, "integer_above_max_value")):
        with raises(openai.BadRequestError, 400, code, "expires_after[seconds]"):
            upload(new_client(), expires_after={"anchor": "created_at", "seconds": seconds})


@case
def files_retrieve():
    client = new_client()
    f = upload(client)
    equal(client.files.retrieve(f.id), f)


@case
def files_content():
    client, data = new_client(), bytes(range(256)) * 5000
    f = client.files.create(file=("blob.bin", data), purpose="user_data")
    equal(client.files.content(f.id).read(), data)
    with client.files.with_streaming_response.content(f.id) as r:
        equal(b"".join(r.iter_bytes()), data)
    part = client.files.content(f.id, extra_headers={"Range": "bytes=10-19"})
    equal((part.response.status_code, part.read()), (206, data[10:20]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        equal(client.files.retrieve_content(upload(client).id), LINES.decode())


@case
def files_delete():
    client = new_client()
    f = upload(client)
    gone = client.files.delete(f.id)
    equal((gone.id, gone.object, gone.deleted), (f.id, "file", True))
    for call in (client.files.retrieve, client.files.delete, client.files.content):
        with raises(openai.NotFoundError, 404, text="No such File object: " + f.id):
            call(f.id)


@case
def files_of_others():
    f = upload(new_client())
    other = new_client()
    for call in (other.files.retrieve, other.files.delete, other.files.content):
        with raises(openai.NotFoundError, 404):
            call(f.id)
    equal(list(other.files.list()), [])


@case
def files_refused():
    client = new_client()
    with raises(openai.BadRequestError, 400, text="Invalid file format for Batch API. Must be .jsonl"):
        upload(client, "in.txt")
    with raises(openai.BadRequestError, 400, "invalid_value", "purpose"):
        upload(client, purpose="no-such-purpose")
    with raises(openai.BadRequestError, 400, "missing_required_parameter", "file"):
        client.post("/files", cast_to=object, body={"purpose": "batch"}, files=[], options={"headers": {"Content-Type": "multipart/form-data; boundary=x"}})
    equal(list(client.files.list()), [])


@case
def files_list_pages():
    """Over every limit: no gaps, none twice, has_more exact."""
    client = new_client()
    ids = [upload(client, data=b"%d" % i).id for i in range(7)]
    newest = ids[::-1]
    for limit in (1, 2, 3, 6, 7, 8):
        page, got = client.files.list(limit=limit), []
        while True:
            got += [f.id for f in page.data]
            equal(page.has_more, len(got) < len(ids))
            if not page.has_more:
                break
            page = page.get_next_page()
        equal(got, newest)
        equal([f.id for f in client.files.list(limit=limit)], newest)
    equal([f.id for f in client.files.list(order="asc", limit=2)], ids)
    equal(list(client.files.list(purpose="evals")), [])


@case
def files_list_amid_inserts_and_deletes():
    """What is there all the time comes exactly once, whatever comes and goes between two pages."""
    client = new_client()
    ids = [upload(client, data=b"%d" % i).id for i in range(9)]
    gone, got = ids[2], []
    for n, f in enumerate(client.files.list(limit=2)):
        got.append(f.id)
        upload(client, data=b"new %d" % n)
        if n == 3:
            client.files.delete(gone)
    equal(got, [i for i in ids[::-1] if i != gone])


@case
def files_list_amid_concurrent_inserts():
    client = new_client()
    ids, stop = [upload(client, data=b"%d" % i).id for i in range(6)], threading.Event()

    def insert():
        n = 0
        while not stop.is_set():
            upload(client, data=b"more %d" % n)
            n += 1
    threads = [threading.Thread(target=insert) for _ in range(2)]
    for t in threads:
        t.start()
    try:
        for _ in range(3):
            got = [f.id for f in client.files.list(limit=2, after=ids[-1])]
            equal(got, ids[-2::-1])
            oldest = [f.id for f, _ in zip(client.files.list(limit=2, order="asc"), ids)]
            equal(oldest, ids)
    finally:
        stop.set()
        for t in threads:
            t.join()


@case
def files_list_limits():
    client = new_client()
    for limit, code in ((0, "integer_below_min_value"), (-1, "integer_below_min_value"), (10001, "integer_above_max_value")):
        with raises(openai.BadRequestError, 400, code, "limit"):
            client.files.list(limit=limit)
    with raises(openai.BadRequestError, 400, "invalid_value", "order"):
        client.files.list(order="sideways")


@case
def files_many_equal_at_once():
    """A hundred uploads of the same bytes, by 8 threads: each is a file of its own."""
    client, ids, errors = new_client(max_retries=2), [], []

    def some():
        try:
            for _ in range(12):
                ids.append(upload(client).id)
        except openai.OpenAIError as e:
            errors.append(e)
    threads = [threading.Thread(target=some) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    equal(errors, [])
    equal(sorted(f.id for f in client.files.list()), sorted(set(ids)))
    equal(len(ids), 96)
