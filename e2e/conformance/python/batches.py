import json
import threading

import openai

from harness import MODEL, case, equal, eventually, new_client, new_key, raises, root, serving
from hooks import new_secret, receiver
from mistakes import Lossy

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
OVER = ("completed", "failed", "expired", "cancelled")
LONG = "word " * 4000  # 20 s of the echo engine's time


def line(i, text="alpha beta", url=CHAT, **body):
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], **body}
    if url == TEXT:
        del body["messages"]
        body["prompt"] = text
    return {"custom_id": "line-%s" % i, "method": "POST", "url": url, "body": body}


def jsonl(lines):
    return "".join(json.dumps(x) + "\n" for x in lines).encode()


def create(client, lines, endpoint=CHAT, window="24h", **more):
    data = lines if isinstance(lines, bytes) else jsonl(lines)
    file = client.files.create(file=("in.jsonl", data), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window=window, **more)


def over(client, batch, within=60):
    return eventually(lambda: next((b for b in [client.batches.retrieve(batch.id)] if b.status in OVER), None), within)


def read(client, file_id):
    """A result file's lines by custom_id; each once."""
    if file_id is None:
        return {}
    lines = [json.loads(x) for x in client.files.content(file_id).text.splitlines()]
    out = {x["custom_id"]: x for x in lines}
    equal(len(out), len(lines))
    for x in lines:
        equal(set(x) - {"lorry"}, {"id", "custom_id", "response", "error"})
        assert x["id"].startswith("batch_req_"), x
    return out


def counts(b):
    return (b.request_counts.total, b.request_counts.completed, b.request_counts.failed)


def lorry(client, method, batch, path="", **more):
    return getattr(root(client), method)("/lorry/v1/batches/" + batch.id + path, cast_to=object, **more)


@case
def batch_created():
    b = create(new_client(), [line(1)], metadata={"team": "search"})
    equal((b.object, b.endpoint, b.completion_window, b.status, counts(b)), ("batch", CHAT, "24h", "validating", (0, 0, 0)))
    equal((b.metadata, b.expires_at - b.created_at, b.errors), ({"team": "search"}, 24 * 3600, None))
    assert b.id.startswith("batch_"), b


@case
def batch_completes():
    client = new_client()
    made = create(client, [line(i, "alpha" + " alpha" * i) for i in range(5)], metadata={"a": "b"}, output_expires_after={"anchor": "created_at", "seconds": 3600})
    b = over(client, made)
    equal((b.status, counts(b), b.error_file_id, b.model, b.metadata), ("completed", (5, 5, 0), None, MODEL, {"a": "b"}))
    assert b.created_at <= b.in_progress_at <= b.finalizing_at <= b.completed_at, b
    equal((b.failed_at, b.cancelled_at, b.expired_at, b.errors), (None, None, None, None))
    out = read(client, b.output_file_id)
    equal(set(out), {"line-%d" % i for i in range(5)})
    bodies = []
    for i in range(5):
        x = out["line-%d" % i]
        equal((x["response"]["status_code"], x["error"]), (200, None))
        assert x["response"]["request_id"], x
        body = openai.types.chat.ChatCompletion.model_validate(x["response"]["body"])
        equal(body.choices[0].message.content, "alpha" + " alpha" * i)
        bodies.append(body)
    equal((b.usage.input_tokens, b.usage.output_tokens), (sum(x.usage.prompt_tokens for x in bodies), sum(x.usage.completion_tokens for x in bodies)))
    equal(b.usage.total_tokens, b.usage.input_tokens + b.usage.output_tokens)
    assert b.usage.input_tokens_details.cached_tokens == 0 and b.usage.output_tokens_details.reasoning_tokens == 0, b.usage
    file = client.files.retrieve(b.output_file_id)
    equal((file.purpose, file.expires_at - file.created_at, file.status), ("batch_output", 3600, "processed"))
    equal([f.id for f in client.files.list(purpose="batch_output")], [file.id])
    equal(client.batches.retrieve(b.id), b)


@case
async def batch_async():
    import asyncio
    async with new_client(kind=openai.AsyncOpenAI) as client:
        file = await client.files.create(file=("in.jsonl", jsonl([line(1)])), purpose="batch")
        b = await client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
        while b.status not in OVER:
            await asyncio.sleep(0.02)
            b = await client.batches.retrieve(b.id)
        equal(b.status, "completed")
        equal([x.id async for x in client.batches.list()], [b.id])


@case
def batch_of_completions():
    client = new_client()
    b = over(client, create(client, [line(i, url=TEXT, max_tokens=9) for i in range(3)], endpoint=TEXT))
    out = read(client, b.output_file_id)
    equal([x["response"]["body"]["choices"][0]["text"] for x in out.values()], ["alpha beta"] * 3)


@case
def batch_of_embeddings():
    client, url = new_client(), "/v1/embeddings"
    lines = [{"custom_id": "v%d" % i, "method": "POST", "url": url, "body": {"model": MODEL, "input": ["alpha", "number %d" % i]}} for i in range(3)]
    b = over(client, create(client, lines, endpoint=url))
    equal((b.status, counts(b)), ("completed", (3, 3, 0)))
    for x in read(client, b.output_file_id).values():
        got = openai.types.CreateEmbeddingResponse.model_validate(x["response"]["body"])
        equal([d.index for d in got.data], [0, 1])
    assert b.usage.input_tokens > 0 and b.usage.output_tokens == 0, b.usage


@case
def batch_of_many():
    """Each of 1,000 lines exactly once, with its own answer."""
    client = new_client()
    b = over(client, create(client, [line(i, "number %d" % i) for i in range(1000)]), within=120)
    equal((b.status, counts(b)), ("completed", (1000, 1000, 0)))
    out = read(client, b.output_file_id)
    equal({k: x["response"]["body"]["choices"][0]["message"]["content"] for k, x in out.items()}, {"line-%d" % i: "number %d" % i for i in range(1000)})


@case
def batch_lines_fail_alone():
    """What is wrong inside a body is that line's 400, in the error file."""
    client = new_client()
    b = over(client, create(client, [line(1), line(2, temperature=9), line(3, no_such_field=1), line(4)]))
    equal((b.status, counts(b)), ("completed", (4, 2, 2)))
    equal(set(read(client, b.output_file_id)), {"line-1", "line-4"})
    wrong = read(client, b.error_file_id)
    for name, code in (("line-2", "decimal_above_max_value"), ("line-3", "unknown_parameter")):
        equal((wrong[name]["response"]["status_code"], wrong[name]["response"]["body"]["error"]["code"], wrong[name]["error"]), (400, code, None))


@case
def batch_all_lines_fail():
    """kaapi-backend#723: completed, without an output file."""
    client = new_client()
    b = over(client, create(client, [line(i, temperature=9) for i in range(3)]))
    equal((b.status, counts(b), b.output_file_id), ("completed", (3, 0, 3), None))
    equal(len(read(client, b.error_file_id)), 3)


def bad(change):
    """Four lines, the third of which is changed."""
    lines = [line(i) for i in range(1, 5)]
    change(lines[2])
    return jsonl(lines)


GOOD = jsonl([line(1)])
BAD = {
    "nothing but blank lines": (b"\n\r\n  \n", "empty_file", None),
    "not JSON": (GOOD + b"{nonsense\n", "invalid_json_line", 2),
    "half of JSON": (GOOD + jsonl([line(2)])[:-20], "invalid_json_line", 2),
    "not an object": (GOOD + b"[1]\n", "invalid_json_line", 2),
    "not UTF-8": (GOOD + b'{"custom_id": "\xff"}\n', "invalid_json_line", 2),
    "blank lines count": (b"\n\n" + GOOD + b"\n{\n", "invalid_json_line", 5),
    "same custom_id": (bad(lambda x: x.update(custom_id="line-1")), "duplicate_custom_id", 3),
    "no custom_id": (bad(lambda x: x.pop("custom_id")), "missing_required_parameter", 3),
    "zero in custom_id": (bad(lambda x: x.update(custom_id="a\0b")), "invalid_value", 3),
    "other method": (bad(lambda x: x.update(method="GET")), "invalid_method", 3),
    "other url": (bad(lambda x: x.update(url=TEXT)), "url_mismatch", 3),
    "no body": (bad(lambda x: x.pop("body")), "missing_required_parameter", 3),
    "other model": (bad(lambda x: x["body"].update(model="other")), "model_mismatch", 3),
    "unknown model": (jsonl([line(1, model="no-such-model")]), "model_not_found", 1),
    "streamed": (bad(lambda x: x["body"].update(stream=True)), "unsupported_parameter", 3),
}


@case
def batch_files_refused():
    """All is told on the batch, with the line: create answered 200."""
    client = new_client()
    made = {name: create(client, data) for name, (data, _, _) in BAD.items()}
    for name, batch in made.items():
        _, code, number = BAD[name]
        b = over(client, batch)
        equal((name, b.status, [(e.code, e.line) for e in b.errors.data]), (name, "failed", [(code, number)]))
        assert b.errors.object == "list" and all(e.message for e in b.errors.data), b.errors
        assert b.failed_at and b.output_file_id is None and b.error_file_id is None, b
    by_name = over(client, made["not JSON"])
    equal(by_name.errors.data[0].message, "This line is not parseable as valid JSON.")


@case
def batch_file_of_windows():
    """A byte order mark, CRLF, blank lines, white space and no last newline: fine."""
    client = new_client()
    lines = [json.dumps(line(i)).encode() for i in range(3)]
    b = over(client, create(client, b"\xef\xbb\xbf" + b"\r\n\r\n  ".join(lines)))
    equal((b.status, counts(b)), ("completed", (3, 3, 0)))


@case
def batch_too_many_lines():
    client = new_client()
    one = json.dumps(line("%d")).encode()
    b = over(client, create(client, b"\n".join(one.replace(b"%d", b"%d" % i) for i in range(50_001))))
    equal((b.status, [e.code for e in b.errors.data]), ("failed", ["too_many_tasks"]))


@case
def batch_line_of_ten_megabytes():
    """It fails alone, whatever the server's bound of a body."""
    client = new_client()
    b = over(client, create(client, [line(1), line(2, "x" * (10 << 20)), line(3)]))
    equal((b.status, counts(b)), ("completed", (3, 2, 1)))
    wrong = read(client, b.error_file_id)["line-2"]
    assert 400 <= wrong["response"]["status_code"] < 500, wrong


@case
def batch_create_refused():
    client = new_client()
    file = client.files.create(file=("in.jsonl", GOOD), purpose="batch")
    good = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h"}
    for change, code, param in (
        ({"input_file_id": "file-00000000000000000000000000"}, "invalid_value", "input_file_id"),
        ({"endpoint": "/v1/no/such"}, "invalid_value", "endpoint"),
        ({"completion_window": "soon"}, "invalid_value", "completion_window"),
        ({"metadata": {"k" * 65: "v"}}, "invalid_value", "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "integer_below_min_value", "output_expires_after.seconds"),
        ({"extra_body": {"no_such_field": 1}}, "unknown_parameter", "no_such_field"),
    ):
        with raises(openai.BadRequestError, 400, code, param):
            client.batches.create(**{**good, **change})
    with raises(openai.BadRequestError, 400, "missing_required_parameter", "input_file_id", "Missing required parameter: 'input_file_id'."):
        client.post("/batches", cast_to=object, body={"endpoint": CHAT, "completion_window": "24h"})
    equal(list(client.batches.list()), [])


@case
def batch_not_found():
    mine = create(new_client(), [line(1)])
    for id in (mine.id, "batch_x"):
        for call in (new_client().batches.retrieve, new_client().batches.cancel):
            with raises(openai.NotFoundError, 404, text="No batch found with id '%s'." % id):
                call(id)


@case
def batch_cancelled_while_it_runs():
    """LiteLLM#36034: what has ended is delivered, the rest is in the error file and not in `failed`."""
    client = new_client()
    b = create(client, [line(i) for i in range(3)] + [line(i, LONG) for i in range(3, 8)])
    eventually(lambda: client.batches.retrieve(b.id).request_counts.completed == 3)
    cancelling = client.batches.cancel(b.id)
    equal(cancelling.status, "cancelling")
    assert cancelling.cancelling_at, cancelling
    assert client.batches.cancel(b.id).status in ("cancelling", "cancelled")
    b = over(client, b)
    equal((b.status, counts(b)), ("cancelled", (8, 3, 0)))
    assert b.cancelling_at <= b.cancelled_at, b
    equal(set(read(client, b.output_file_id)), {"line-0", "line-1", "line-2"})
    rest = read(client, b.error_file_id)
    equal(set(rest), {"line-%d" % i for i in range(3, 8)})
    for x in rest.values():
        equal((x["response"], x["error"]["code"]), (None, "batch_cancelled"))
    equal(client.batches.cancel(b.id).status, "cancelled")


@case
def batch_cancelled_at_once():
    client = new_client()
    b = create(client, [line(i, LONG) for i in range(3)])
    assert client.batches.cancel(b.id).status in ("cancelling", "cancelled")
    b = over(client, b)
    equal((b.status, b.request_counts.completed, b.output_file_id), ("cancelled", 0, None))


@case
def batch_cancelled_too_late():
    client = new_client(max_retries=3)
    completed, failed = over(client, create(client, [line(1)])), over(client, create(client, b"{\n"))
    for b in (completed, failed):
        with raises(openai.ConflictError, 409, None, None, "Cannot cancel a batch with status '%s'." % b.status):
            client.batches.cancel(b.id)
        equal(client.batches.retrieve(b.id), b)


@case
def batch_cancelled_when_it_has_expired():
    client = new_client(max_retries=3)
    b = over(client, create(client, [line(1, LONG)], window="2s"))
    with raises(openai.ConflictError, 409, None, None, "Cannot cancel a batch with status 'expired'."):
        client.batches.cancel(b.id)
    equal(client.batches.retrieve(b.id), b)


@case
def batch_counts_from_the_start():
    """LiteLLM#39861, openai-python#3071: users print the counts without looking whether they are there."""
    client = new_client()
    made = create(client, [line(1)])
    seen = [made, client.batches.retrieve(made.id), *client.batches.list(), over(client, made)]
    assert all(counts(b) <= (1, 1, 0) and b.request_counts is not None for b in seen), seen
    equal(counts(made), (0, 0, 0))


@case
def batch_expires():
    client = new_client()
    b = over(client, create(client, [line(i) for i in range(2)] + [line(i, LONG) for i in range(2, 5)], window="4s"))
    equal((b.status, b.request_counts.total, b.request_counts.completed), ("expired", 5, 2))
    assert b.expired_at >= b.expires_at, b
    equal(set(read(client, b.output_file_id)), {"line-0", "line-1"})
    rest = read(client, b.error_file_id)
    equal(len(rest), 3)
    for x in rest.values():
        equal((x["response"], x["error"]), (None, {"code": "batch_expired", "message": "This request could not be executed before the completion window expired."}))


@case
def batch_outlives_its_file():
    client = new_client()
    b = create(client, [line(i, "alpha " * 20) for i in range(50)])
    client.files.delete(b.input_file_id)
    b = over(client, b)
    equal((b.status, counts(b)), ("completed", (50, 50, 0)))


@case
def batch_list_pages():
    client = new_client()
    ids = [create(client, [line(1)]).id for _ in range(5)]
    newest = ids[::-1]
    for limit in (1, 2, 4, 5, 6):
        page, got = client.batches.list(limit=limit), []
        while True:
            got += [b.id for b in page.data]
            equal(page.has_more, len(got) < len(ids))
            if not page.has_more:
                break
            page = page.get_next_page()
        equal(got, newest)
    equal([b.id for b in client.batches.list(after=newest[2])], newest[3:])
    for limit in (0, -1, 101):
        with raises(openai.BadRequestError, 400, param="limit"):
            client.batches.list(limit=limit)


@case
def batch_list_amid_inserts():
    client = new_client()
    ids, got = [create(client, [line(1)]).id for _ in range(7)], []
    for b in client.batches.list(limit=2):
        got.append(b.id)
        create(client, [line(1)])
    equal(got, ids[::-1])


@case
def batch_created_once_though_its_answer_was_lost():
    """llama-stack/ogx#3144: the SDK sends no key when it tries again by itself."""
    key = new_key()
    client = new_client(key)
    file = client.files.create(file=("in.jsonl", GOOD), purpose="batch")
    Lossy.lost.discard("/v1/batches")
    with serving(Lossy) as url:
        b = new_client(key, url=url, max_retries=2).batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    equal([x.id for x in client.batches.list()], [b.id])
    again = client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    assert again.id != b.id, "two that were meant became one"


@case
def batch_results_while_it_runs():
    client = new_client()
    b = create(client, [line(i) for i in range(3)] + [line(9, LONG)])
    eventually(lambda: len(lorry(client, "get", b, "/results")["data"]) == 3)
    first = lorry(client, "get", b, "/results?limit=2")
    equal((len(first["data"]), first["has_more"]), (2, True))
    rest = lorry(client, "get", b, "/results?after=%d" % first["last"])
    equal({x["custom_id"] for x in first["data"] + rest["data"]}, {"line-0", "line-1", "line-2"})
    equal(client.batches.retrieve(b.id).status, "in_progress")
    extra = client.batches.retrieve(b.id).model_extra["lorry"]
    equal((extra["counts"]["completed"], extra["counts"]["queued"] + extra["counts"]["running"]), (3, 1))
    client.batches.cancel(b.id)


@case
def batch_paused():
    client = new_client()
    b = create(client, [line(i, LONG) for i in range(200)])
    equal(lorry(client, "post", b, "/pause")["lorry"]["paused"], True)
    eventually(lambda: client.batches.retrieve(b.id).model_extra["lorry"].get("held_back_by") == "paused")
    equal(lorry(client, "post", b, "/resume")["lorry"]["paused"], False)
    eventually(lambda: client.batches.retrieve(b.id).model_extra["lorry"].get("held_back_by") != "paused")
    client.batches.cancel(b.id)
    equal(over(client, b).status, "cancelled")
    with raises(openai.ConflictError, 409):
        lorry(client, "post", b, "/pause")


@case
def batch_retried():
    """Only what did not succeed runs again, as a batch of its own."""
    client = new_client()
    b = over(client, create(client, [line(i) for i in range(3)] + [line(i, temperature=9) for i in range(3, 5)]))
    again = lorry(client, "post", b, "/retry")
    equal(again["lorry"]["retry_of"], b.id)
    again = over(client, client.batches.retrieve(again["id"]))
    equal((again.status, counts(again)), ("completed", (2, 0, 2)))
    equal(set(read(client, again.error_file_id)), {"line-3", "line-4"})
    fine = over(client, create(client, [line(1)]))
    with raises(openai.ConflictError, 409):
        lorry(client, "post", fine, "/retry")


@case
def batch_changed():
    client = new_client()
    b = create(client, [line(1, LONG)])
    changed = lorry(client, "patch", b, body={"deadline": "2h", "priority": 7})
    assert abs(changed["expires_at"] - b.created_at - 7200) < 60, changed
    equal(changed["lorry"]["priority"], 7)
    client.batches.cancel(b.id)
    over(client, b)
    with raises(openai.ConflictError, 409):
        lorry(client, "patch", b, body={"priority": 1})


@case
def batch_webhook():
    """unwrap() gives OpenAI's typed event."""
    client, secret, hook = new_client(), new_secret(), receiver()
    with serving(hook) as url:
        b = create(client, [line(1)], extra_body={"lorry": {"webhook": {"url": url, "secret": secret}}})
        body, headers = hook.got.get(timeout=30)
    event = client.webhooks.unwrap(body, headers, secret=secret)
    equal((type(event).__name__, event.type, event.data.id), ("BatchCompletedWebhookEvent", "batch.completed", b.id))
    equal(client.batches.retrieve(b.id).status, "completed")


@case
def batches_at_the_same_moment():
    """Eight threads, a batch each: nobody gets another's lines."""
    client, wrong = new_client(), []

    def one(n):
        b = over(client, create(client, [line("%d-%d" % (n, i), "of %d" % n) for i in range(20)]))
        for x in read(client, b.output_file_id).values():
            if x["response"]["body"]["choices"][0]["message"]["content"] != "of %d" % n:
                wrong.append(x)
        if counts(b) != (20, 20, 0):
            wrong.append(b)
    threads = [threading.Thread(target=one, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    equal(wrong, [])
