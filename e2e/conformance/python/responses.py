"""The Responses API: waited, streamed, in the background, resumed, and told of."""

import openai
from pydantic import BaseModel

from harness import MODEL, case, equal, eventually, new_client, raises, root, serving
from hooks import receiver

TEXT = "alpha beta gamma delta"


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
def responses_webhook():
    """An endpoint of the tenant hears of a background response, in the SDK's own type."""
    client, hook = new_client(), receiver()
    with serving(hook) as url:
        made = root(client).post("/lorry/v1/webhooks", cast_to=object, body={"url": url, "events": ["response.*"]})
        asked = client.responses.create(model=MODEL, input=TEXT, background=True)
        body, headers = hook.got.get(timeout=20)
    event = client.webhooks.unwrap(body, headers, secret=made["secret"])
    equal((type(event).__name__, event.type, event.data.id), ("ResponseCompletedWebhookEvent", "response.completed", asked.id))
