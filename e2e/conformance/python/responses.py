"""The Responses API: waited, streamed, in the background, resumed, and told of."""

import openai
from openai.lib.responses_websocket import ResponsesWebSocketLimits, ResponsesWebSocketSession
from pydantic import BaseModel
from websockets.exceptions import InvalidStatus

from harness import MODEL, case, equal, eventually, new_client, raises, serving
from hooks import receiver

TEXT = "alpha beta gamma delta"
LONG = "word " * 4000  # 20 s of the echo engine's time


@case
def responses_create():
    client = new_client()
    got = client.responses.create(model=MODEL, input=TEXT, instructions="be brief", metadata={"run": "7"})
    equal((got.object, got.status, got.output_text, got.instructions, got.metadata), ("response", "completed", TEXT, "be brief", {"run": "7"}))
    equal((got.usage.output_tokens, got.usage.input_tokens_details.cached_tokens), (4, 0))
    equal(client.responses.retrieve(got.id).output_text, TEXT)
    cut = client.responses.create(model=MODEL, input=TEXT, max_output_tokens=2)
    equal((cut.status, cut.incomplete_details.reason, cut.output_text), ("incomplete", "max_output_tokens", "alpha beta"))


@case
def responses_conversation():
    client = new_client()
    first = client.responses.create(model=MODEL, input="alpha")
    second = client.responses.create(model=MODEL, input=[{"role": "user", "content": "beta"}], previous_response_id=first.id)
    equal(second.previous_response_id, first.id)
    items = list(client.responses.input_items.list(second.id, limit=1, order="asc"))
    equal([(i.role, i.content[0].text) for i in items], [("user", "alpha"), ("assistant", "alpha"), ("user", "beta")])
    handed_back = client.responses.create(model=MODEL, input=[{"role": "user", "content": "alpha"}, *first.output, {"role": "user", "content": "gamma"}])
    equal(handed_back.output_text, "gamma")


@case
def responses_stream():
    with new_client().responses.stream(model=MODEL, input=TEXT) as stream:
        events = list(stream)
        final = stream.get_final_response()
    equal(final.output_text, TEXT)
    equal("".join(e.delta for e in events if e.type == "response.output_text.delta"), TEXT)
    numbers = [e.sequence_number for e in events]
    equal(numbers, sorted(set(numbers)))


@case
def responses_parse():
    class Answer(BaseModel):
        name: str
    got = new_client().responses.parse(model=MODEL, input='{"name":"x"}', text_format=Answer)
    equal(got.output_parsed.name, "x")


@case
def responses_background():
    client = new_client()
    made = client.responses.create(model=MODEL, input=TEXT, background=True)
    assert made.status in ("queued", "in_progress"), made.status
    done = eventually(lambda: (r := client.responses.retrieve(made.id)).status == "completed" and r)
    equal(done.output_text, TEXT)
    equal(client.responses.cancel(made.id).status, "completed")
    client.responses.delete(made.id)
    with raises(openai.NotFoundError, 404):
        client.responses.retrieve(made.id)


@case
def responses_resumed():
    client = new_client()
    events = list(client.responses.create(model=MODEL, input=TEXT, background=True, stream=True))
    equal(events[-1].type, "response.completed")
    made = events[0].response.id
    for i, heard in enumerate(events):
        rest = list(client.responses.retrieve(made, stream=True, starting_after=heard.sequence_number))
        text = "".join(e.delta for e in events[:i + 1] + rest if e.type == "response.output_text.delta")
        equal(text, TEXT)


@case
def responses_refused():
    client = new_client()
    with raises(openai.BadRequestError, 400, "unsupported_parameter"):
        client.responses.create(model=MODEL, input="x", conversation="conv_1")
    with raises(openai.BadRequestError, 400, "previous_response_not_found", "previous_response_id"):
        client.responses.create(model=MODEL, input="x", previous_response_id="resp_x")
    waited = client.responses.create(model=MODEL, input="x")
    with raises(openai.BadRequestError, 400, text="synchronous"):
        client.responses.cancel(waited.id)


@case
def responses_stream_cancelled_midway():
    """What was said so far has been delivered, and the stream's last event says how the response ended."""
    client = new_client()
    for more in ({"background": True}, {"store": False}):  # by the response, and by its job where nothing else is kept
        stream, seen = client.responses.create(model=MODEL, input=LONG, stream=True, **more), 0
        for e in stream:
            seen += e.type == "response.output_text.delta"
            if e.type == "response.output_text.delta" and seen == 3:
                client.post("/jobs/%s/cancel" % stream.response.headers["x-lorry-job"], cast_to=object)
        equal((e.type, e.response.status), ("response.failed", "cancelled"))
        assert 3 <= seen < 4000, seen
        if "background" in more:
            equal(client.responses.retrieve(e.response.id).status, "cancelled")


@case
def responses_cancelled_in_every_state():
    client = new_client()
    running = client.responses.create(model=MODEL, input=LONG, background=True)
    eventually(lambda: client.responses.retrieve(running.id).status == "in_progress")
    for _ in range(2):  # and once it is cancelled
        equal(client.responses.cancel(running.id).status, "cancelled")
    equal(client.responses.retrieve(running.id).status, "cancelled")
    cut = client.responses.create(model=MODEL, input=TEXT, max_output_tokens=2, background=True)
    eventually(lambda: client.responses.retrieve(cut.id).status == "incomplete")
    equal(client.responses.cancel(cut.id).status, "incomplete")
    late = client.responses.create(model=MODEL, input=LONG, background=True, extra_body={"lorry": {"deadline": "1s"}})
    eventually(lambda: client.responses.retrieve(late.id).status == "failed")
    equal(client.responses.cancel(late.id).status, "failed")
    with raises(openai.NotFoundError, 404):
        client.responses.cancel("resp_x")


@case
def responses_deleted_in_every_state():
    client = new_client()
    over, running = client.responses.create(model=MODEL, input="x"), client.responses.create(model=MODEL, input=LONG, background=True)
    for made in (over, running):
        client.responses.delete(made.id)
        for call in (client.responses.retrieve, client.responses.delete, client.responses.cancel, client.responses.input_items.list):
            with raises(openai.NotFoundError, 404):
                call(made.id)
    eventually(lambda: all(j["status"] in ("succeeded", "cancelled") for j in client.get("/jobs", cast_to=object)["data"]))


@case
def responses_input_items_pages():
    """Over every limit, forth and back: no gaps, none twice."""
    client = new_client()
    made = client.responses.create(model=MODEL, input=[{"role": "user", "content": "item %d" % i} for i in range(7)])
    for order, want in (("asc", range(7)), ("desc", range(6, -1, -1))):
        for limit in (1, 2, 3, 7, 100):
            items = list(client.responses.input_items.list(made.id, limit=limit, order=order))
            equal([i.content[0].text for i in items], ["item %d" % i for i in want])
            equal(len({i.id for i in items}), 7)
    for limit in (0, 101):
        with raises(openai.BadRequestError, 400, param="limit"):
            client.responses.input_items.list(made.id, limit=limit)


@case
def responses_of_others():
    made, other = new_client().responses.create(model=MODEL, input="x"), new_client()
    for call in (other.responses.retrieve, other.responses.delete, other.responses.cancel):
        with raises(openai.NotFoundError, 404):
            call(made.id)
    with raises(openai.BadRequestError, 400, "previous_response_not_found"):
        other.responses.create(model=MODEL, input="x", previous_response_id=made.id)


@case
def responses_lost_answer_is_one_job():
    client = new_client()
    made = [client.responses.create(model=MODEL, input="once", extra_headers={"Idempotency-Key": "k"}).id for _ in range(2)]
    equal(made[0], made[1])


@case
async def responses_async():
    async with new_client(kind=openai.AsyncOpenAI) as client:
        made = await client.responses.create(model=MODEL, input=TEXT)
        equal((await client.responses.retrieve(made.id)).output_text, TEXT)
        equal([i.type async for i in client.responses.input_items.list(made.id)], ["message"])
        async with client.responses.stream(model=MODEL, input=TEXT) as stream:
            equal((await stream.get_final_response()).output_text, TEXT)
        await client.responses.delete(made.id)
        async with client.responses.connect() as ws:
            await ws.response.create(model=MODEL, input=TEXT)
            async for e in ws:
                if e.type == "response.completed":
                    break
            equal(e.response.output_text, TEXT)


@case
def responses_input_tokens():
    """What a response will be charged for, earlier turns, instructions and tools among it; nothing is stored."""
    client = new_client()
    first = client.responses.create(model=MODEL, input=TEXT)
    for more in ({}, {"instructions": "be brief"}, {"previous_response_id": first.id}):
        counted = client.responses.input_tokens.count(model=MODEL, input=TEXT, **more)
        equal((counted.object, counted.input_tokens), ("response.input_tokens", client.responses.create(model=MODEL, input=TEXT, **more).usage.input_tokens))
    with raises(openai.BadRequestError, 400, "missing_required_parameter", "input"):
        client.responses.input_tokens.count(model=MODEL)
    with raises(openai.NotFoundError, 404, "model_not_found"):
        client.responses.input_tokens.count(model="none", input=TEXT)


@case
def responses_compact():
    """What the user said stays, the rest is a sealed summary, which goes on from where it is handed back."""
    client = new_client()
    first = client.responses.create(model=MODEL, input="alpha")
    made = client.responses.compact(model=MODEL, previous_response_id=first.id, input="beta", instructions="be brief")
    equal((made.object, [i.type for i in made.output]), ("response.compaction", ["message", "message", "compaction"]))
    equal([i.content[0].text for i in made.output[:2]], ["alpha", "beta"])
    assert made.usage.total_tokens == made.usage.input_tokens + made.usage.output_tokens > 0, made.usage
    window = [*made.output, {"role": "user", "content": "gamma"}]
    went_on = client.responses.create(model=MODEL, input=window)
    equal(went_on.output_text, "gamma")
    items = list(client.responses.input_items.list(went_on.id, order="asc"))
    equal((items[2].type, items[2].encrypted_content), ("compaction", made.output[2].encrypted_content))
    assert client.responses.input_tokens.count(model=MODEL, input=window).input_tokens > client.responses.input_tokens.count(model=MODEL, input=window[:2] + window[3:]).input_tokens
    again = client.responses.compact(model=MODEL, input=window)
    equal([i.type for i in again.output], ["message"] * 3 + ["compaction"])
    changed = dict(type="compaction", encrypted_content=made.output[2].encrypted_content[:-2] + "AA")
    for who, item in ((new_client(), made.output[2]), (client, changed)):  # another tenant's, and one that was changed
        with raises(openai.BadRequestError, 400, "invalid_encrypted_content", "input[0].encrypted_content"):
            who.responses.create(model=MODEL, input=[item])
    with raises(openai.BadRequestError, 400, "previous_response_not_found", "previous_response_id"):
        client.responses.compact(model=MODEL, previous_response_id="resp_x")
    with raises(openai.BadRequestError, 400, "empty_array", "input"):
        client.responses.compact(model=MODEL, input=[])


def told(ws):
    """The events of one response, and the response; the error event where it is refused."""
    events = []
    for e in ws:
        events.append(e)
        if e.type in ("response.completed", "response.failed", "response.incomplete"):
            return events, e.response
        if e.type == "error":
            return events, e


@case
def responses_connect():
    """A websocket tells what a stream does, and goes on with what is not stored."""
    client = new_client()
    with client.responses.connect() as ws:
        ws.response.create(model=MODEL, input="alpha", store=False)
        events, first = told(ws)
        equal((first.status, first.output_text), ("completed", "alpha"))
        equal("".join(e.delta for e in events if e.type == "response.output_text.delta"), "alpha")
        streamed = client.responses.create(model=MODEL, input="alpha", stream=True)
        equal([(e.type, e.sequence_number) for e in events], [(e.type, e.sequence_number) for e in streamed])
        ws.response.create(model=MODEL, input="beta", previous_response_id=first.id)
        _, second = told(ws)
        items = list(client.responses.input_items.list(second.id, order="asc"))
        equal([i.content[0].text for i in items], ["alpha", "alpha", "beta"])
        with raises(openai.NotFoundError, 404):
            client.responses.retrieve(first.id)
        ws.response.create(model=MODEL, input="gamma", generate=False)
        events, warm = told(ws)
        equal((warm.status, warm.output, [e.type for e in events]), ("completed", [], ["response.created", "response.in_progress", "response.completed"]))
        ws.response.create(model=MODEL, input="delta", previous_response_id=warm.id)
        equal(told(ws)[1].usage.input_tokens, 2)
    with raises(openai.APIStatusError, 426, "upgrade_required"):
        client.get("/responses", cast_to=object)


@case
def responses_connect_refused():
    """Refusals are error events, after which the connection is of use."""
    client = new_client()
    with client.responses.connect() as ws:
        for code, status, more in (("model_not_found", 404, {"model": "none"}), ("previous_response_not_found", 400, {"previous_response_id": "resp_x"}),
                                   ("unsupported_parameter", 400, {"background": True}), ("invalid_stream_id", 400, {"stream_id": "a b"})):
            ws.response.create(**{"model": MODEL, "input": "x", **more})
            _, e = told(ws)
            equal((type(e).__name__, e.status, e.error.code, e.error.type), ("ResponseWsError", status, code, "invalid_request_error"))
        ws.response.steer(previous_response_id="resp_x", input="y")
        e = ws.recv()
        equal((type(e).__name__, e.error.code, e.steer.input), ("ResponseSteerFailedEvent", "steering_not_supported", "y"))
        ws.response.create(model=MODEL, input=TEXT)
        equal(told(ws)[1].output_text, TEXT)
    try:
        new_client(key="sk-wrong").responses.connect().enter()
    except InvalidStatus as e:
        equal(e.response.status_code, 401)
    else:
        raise AssertionError("a wrong key is let in")


@case
def responses_connect_lanes():
    """Streams run beside each other; what a client that leaves was waiting for is cancelled."""
    client = new_client()
    with client.responses.connect() as ws:
        with ResponsesWebSocketSession(ws, limits=ResponsesWebSocketLimits(max_lanes=4, max_events_per_lane=99, max_events=999, max_bytes_per_lane=1 << 20, max_bytes=1 << 22)) as session:
            slow, quick = session.lane("slow"), session.lane("quick")
            slow.send({"type": "response.create", "model": MODEL, "input": LONG})
            for text in ("alpha", "beta"):
                quick.send({"type": "response.create", "model": MODEL, "input": text})
                equal(quick.get_final_response().output_text, text)
            equal(slow.recv().type, "response.created")
    eventually(lambda: sorted(j["status"] for j in client.get("/jobs", cast_to=object)["data"]) == ["cancelled", "succeeded", "succeeded"])


ENDS = {
    "response.completed": ("ResponseCompletedWebhookEvent", {"input": TEXT}),
    "response.incomplete": ("ResponseIncompleteWebhookEvent", {"input": TEXT, "max_output_tokens": 2}),
    "response.failed": ("ResponseFailedWebhookEvent", {"input": LONG, "extra_body": {"lorry": {"deadline": "1s"}}}),
    "response.cancelled": ("ResponseCancelledWebhookEvent", {"input": LONG}),
}


@case
def responses_webhook():
    """An endpoint of the tenant hears of each end of a background response, in the SDK's own type."""
    client, hook = new_client(), receiver()
    with serving(hook) as url:
        made = client.webhooks.create(url=url, name="all", event_types=list(ENDS))
        asked = {client.responses.create(model=MODEL, background=True, **more).id: kind for kind, (_, more) in ENDS.items()}
        client.responses.cancel(next(id for id, kind in asked.items() if kind == "response.cancelled"))
        for _ in ENDS:
            body, headers = hook.got.get(timeout=30)
            event = client.webhooks.unwrap(body, headers, secret=made.signing_secret)
            kind = asked.pop(event.data.id)
            equal((event.type, type(event).__name__), (kind, ENDS[kind][0]))
