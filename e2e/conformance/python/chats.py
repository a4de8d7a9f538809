import openai
import pydantic

from harness import MODEL, case, chat, equal, eventually, new_client, new_key, raises

# The echo engine answers with the last user message, word by word, and counts a word as a token.
TEXT = "alpha beta gamma delta"
LONG = "word " * 4000


@case
def chat_create():
    got = chat(new_client(), TEXT)
    equal(got.object, "chat.completion")
    equal(got.model, MODEL)
    choice = got.choices[0]
    equal((choice.message.role, choice.message.content, choice.finish_reason), ("assistant", TEXT, "stop"))
    equal(got.usage.completion_tokens, 4)
    equal(got.usage.total_tokens, got.usage.prompt_tokens + 4)
    assert got.usage.prompt_tokens_details.cached_tokens == 0
    assert got.id and got.created


@case
def chat_max_tokens():
    for name in ("max_tokens", "max_completion_tokens"):
        got = chat(new_client(), TEXT, **{name: 2})
        equal((got.choices[0].message.content, got.choices[0].finish_reason), ("alpha beta", "length"))


@case
def chat_n():
    got = chat(new_client(), TEXT, n=3)
    equal([(c.index, c.message.content) for c in got.choices], [(i, TEXT) for i in range(3)])


@case
def chat_content_parts():
    got = new_client().chat.completions.create(model=MODEL, messages=[
        {"role": "developer", "content": [{"type": "text", "text": "be brief"}]},
        {"role": "user", "content": [{"type": "text", "text": "alpha "}, {"type": "text", "text": "beta"}]},
    ])
    equal(got.choices[0].message.content, "alpha beta")


@case
def chat_raw_response():
    raw = new_client().chat.completions.with_raw_response.create(model=MODEL, messages=[{"role": "user", "content": TEXT}])
    assert raw.headers["x-request-id"].startswith("req_"), raw.headers
    assert raw.headers["x-lorry-job"].startswith("job_"), raw.headers
    equal(raw.parse().choices[0].message.content, TEXT)
    equal(raw.request_id, raw.headers["x-request-id"])


@case
async def chat_async():
    async with new_client(kind=openai.AsyncOpenAI) as client:
        got = await chat(client, TEXT)
        equal(got.choices[0].message.content, TEXT)
        stream = await chat(client, TEXT, stream=True)
        parts = [c.choices[0].delta.content or "" async for c in stream]
        equal("".join(parts), TEXT)


@case
def chat_stream():
    chunks = list(chat(new_client(), TEXT, stream=True))
    equal({(c.id, c.object, c.model) for c in chunks}, {(chunks[0].id, "chat.completion.chunk", MODEL)})
    equal(chunks[0].choices[0].delta.role, "assistant")
    equal("".join(c.choices[0].delta.content or "" for c in chunks), TEXT)
    equal([c.choices[0].finish_reason for c in chunks], [None] * (len(chunks) - 1) + ["stop"])
    assert all(c.usage is None for c in chunks)


@case
def chat_stream_usage():
    chunks = list(chat(new_client(), TEXT, stream=True, stream_options={"include_usage": True}))
    equal(chunks[-1].choices, [])
    equal(chunks[-1].usage.completion_tokens, 4)
    assert all(c.usage is None for c in chunks[:-1])


@case
def chat_stream_helper():
    with new_client().chat.completions.stream(model=MODEL, messages=[{"role": "user", "content": TEXT}]) as stream:
        kinds = {e.type for e in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds, kinds
    equal(final.choices[0].message.content, TEXT)


@case
def chat_stream_n():
    texts = ["", ""]
    for chunk in chat(new_client(), TEXT, stream=True, n=2):
        for c in chunk.choices:
            texts[c.index] += c.delta.content or ""
    equal(texts, [TEXT, TEXT])


def cancelled_midway(client, stream):
    """An error event in a stream becomes an exception, and the text so far was delivered."""
    seen = 0
    with raises(openai.APIError, code="job_cancelled"):
        for _ in stream:
            seen += 1
            if seen == 3:
                client.post("/jobs/%s/cancel" % stream.response.headers["x-lorry-job"], cast_to=object)
    assert 3 <= seen < 4000, seen


@case
def chat_stream_cancelled_midway():
    client = new_client()
    cancelled_midway(client, chat(client, LONG, stream=True))


@case
def chat_stream_closed_by_client():
    """Who hangs up cancels its job: nobody else can see its end."""
    client = new_client()
    stream = chat(client, LONG, stream=True)
    next(iter(stream))
    job = stream.response.headers["x-lorry-job"]
    stream.close()
    eventually(lambda: client.get("/jobs/" + job, cast_to=object)["status"] == "cancelled")


@case
def chat_timeout():
    """A client that gave up leaves nothing running."""
    client = new_client()
    with raises(openai.APITimeoutError):
        chat(client, LONG, timeout=0.3)
    eventually(lambda: [j["status"] for j in client.get("/jobs", cast_to=object)["data"]] == ["cancelled"])


@case
def chat_idempotency_key():
    """Two posts under one key are one job."""
    client, ids = new_client(), set()
    for _ in range(2):
        raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=[{"role": "user", "content": TEXT}],
                                                               extra_headers={"Idempotency-Key": "one"})
        ids.add((raw.headers["x-lorry-job"], raw.parse().id))
    equal(len(ids), 1)


@case
def chat_parse():
    class Answer(pydantic.BaseModel):
        name: str
    got = new_client().chat.completions.parse(model=MODEL, messages=[{"role": "user", "content": '{"name":"x"}'}], response_format=Answer)
    equal(got.choices[0].message.parsed, Answer(name="x"))


@case
def completions_stream_cancelled_midway():
    client = new_client()
    cancelled_midway(client, client.completions.create(model=MODEL, prompt=LONG, max_tokens=4000, stream=True))


@case
def job_cancelled_in_every_state():
    """A job that runs is cancelled, also a second time; one that is over is a conflict."""
    client = new_client()
    submit = lambda text: client.chat.completions.with_raw_response.create(
        model=MODEL, messages=[{"role": "user", "content": text}], extra_headers={"Prefer": "respond-async"}).headers["x-lorry-job"]
    cancel = lambda job: client.post("/jobs/%s/cancel" % job, cast_to=object)["status"]
    running = submit(LONG)
    eventually(lambda: client.get("/jobs/" + running, cast_to=object)["status"] == "running")
    equal([cancel(running), cancel(running)], ["cancelled"] * 2)
    done = submit("x")
    eventually(lambda: client.get("/jobs/" + done, cast_to=object)["status"] == "succeeded")
    with raises(openai.ConflictError, 409):
        cancel(done)


@case
def chat_unknown_field_is_named():
    with raises(openai.BadRequestError, 400, "unknown_parameter", "no_such_field"):
        chat(new_client(), TEXT, extra_body={"no_such_field": 1})


@case
def completions_create():
    got = new_client().completions.create(model=MODEL, prompt=TEXT, max_tokens=3)
    equal((got.object, got.choices[0].text, got.choices[0].finish_reason), ("text_completion", "alpha beta gamma", "length"))
    equal(got.usage.completion_tokens, 3)


@case
def completions_stream():
    chunks = list(new_client().completions.create(model=MODEL, prompt=TEXT, max_tokens=9, stream=True,
                                                  stream_options={"include_usage": True}))
    equal("".join(c.choices[0].text for c in chunks if c.choices), TEXT)
    equal(chunks[-1].usage.completion_tokens, 4)


@case
def tenants_do_not_see_each_other():
    mine, theirs = new_client(), new_client(new_key())
    raw = mine.chat.completions.with_raw_response.create(model=MODEL, messages=[{"role": "user", "content": TEXT}])
    job = raw.headers["x-lorry-job"]
    equal(mine.get("/jobs/" + job, cast_to=object)["id"], job)
    with raises(openai.NotFoundError, 404):
        theirs.get("/jobs/" + job, cast_to=object)


@case
def chat_stored():
    """What is made with store can be read, listed, marked and deleted later, whichever way it was answered; nothing else."""
    client = new_client()
    chat(client, "not stored")
    made = chat(client, "one two", store=True, metadata={"n": "0"}, temperature=0)
    for c in chat(client, "one two", store=True, metadata={"n": "1"}, temperature=0, stream=True):
        streamed = c.id
    ids = [made.id, streamed] + [chat(client, "x", store=True, metadata={"n": str(n)}).id for n in (2, 3, 4)]
    for limit in (1, 2, 5, 6):
        equal([c.id for c in client.chat.completions.list(limit=limit)], ids)
    equal([c.id for c in client.chat.completions.list(order="desc", limit=2)], ids[::-1])
    equal([c.id for c in client.chat.completions.list(metadata={"n": "1"}, model=MODEL)], [streamed])
    equal(list(client.chat.completions.list(model="other")), [])
    found = client.chat.completions.retrieve(made.id)
    equal((found.choices, found.usage, found.model, found.created), (made.choices, made.usage, made.model, made.created))
    equal(client.chat.completions.retrieve(streamed).choices[0].message.content, "one two")
    changed = client.chat.completions.update(made.id, metadata={"colour": "red"})
    equal((changed.id, changed.metadata), (made.id, {"colour": "red"}))
    equal([c.id for c in client.chat.completions.list(metadata={"colour": "red"})], [made.id])
    gone = client.chat.completions.delete(made.id)
    equal((gone.id, gone.object, gone.deleted), (made.id, "chat.completion.deleted", True))
    for call in (client.chat.completions.retrieve, client.chat.completions.delete, client.chat.completions.messages.list,
                 lambda id: client.chat.completions.update(id, metadata={}), new_client().chat.completions.retrieve):
        with raises(openai.NotFoundError, 404, "not_found"):
            call(made.id)
    equal([c.id for c in client.chat.completions.list()], ids[1:])
    with raises(openai.BadRequestError, 400, param="metadata"):
        client.chat.completions.update(streamed, metadata={str(n): "v" for n in range(17)})


@case
def chat_stored_messages():
    client = new_client()
    asked = [{"role": "system", "content": "be brief"}, {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
             {"role": "user", "content": "c", "name": "Ann"}]
    made = client.chat.completions.create(model=MODEL, messages=asked, store=True)
    for limit in (1, 2, 3, 4):
        got = list(client.chat.completions.messages.list(made.id, limit=limit))
        equal([(m.role, m.content) for m in got], [("system", "be brief"), ("user", "ab"), ("user", "c")])
    equal([p.text for p in got[1].content_parts], ["a", "b"])
    equal((got[0].content_parts, got[2].model_extra["name"], len({m.id for m in got})), (None, "Ann", 3))
    equal([m.id for m in client.chat.completions.messages.list(made.id, order="desc")], [m.id for m in got[::-1]])
