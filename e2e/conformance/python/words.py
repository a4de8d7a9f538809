"""What only a real model can show: tokens that are its own, and shapes that it must keep to. Never what it says."""

import json
import math
import os
import urllib.request

import openai
import pydantic

from harness import ADMIN, MODEL, URL, case, chat, equal, new_client, raises


@case
def words_usage_adds_up():
    got = chat(new_client(), "Name a colour.", max_completion_tokens=8, temperature=0)
    u = got.usage
    assert 0 < u.completion_tokens <= 8 and u.prompt_tokens > 5, u
    equal(u.total_tokens, u.prompt_tokens + u.completion_tokens)


@case
def words_stream_is_the_answer():
    """At temperature 0 from the cache: the pieces are the whole."""
    client = new_client()
    whole = chat(client, "Count to five.", max_completion_tokens=12, temperature=0)
    pieces = [c.choices[0].delta.content or "" for c in chat(client, "Count to five.", max_completion_tokens=12, temperature=0, stream=True)]
    equal("".join(pieces), whole.choices[0].message.content)


@case
def words_logprobs():
    got = chat(new_client(), "Say something.", max_completion_tokens=4, temperature=0, logprobs=True, top_logprobs=3)
    tokens = got.choices[0].logprobs.content
    equal(len(tokens), got.usage.completion_tokens)
    for t in tokens:
        assert t.logprob <= 0 and math.isfinite(t.logprob), t
        equal(len(t.top_logprobs), 3)
        equal(bytes(t.bytes).decode(errors="replace"), t.token)
    equal("".join(bytes(t.bytes).decode(errors="replace") for t in tokens), got.choices[0].message.content)


class Colour(pydantic.BaseModel):
    name: str
    warm: bool


@case
def words_parse():
    """The SDK's own parser reads an answer that was held to its schema."""
    got = new_client().chat.completions.parse(model=MODEL, messages=[{"role": "user", "content": "Name a colour as JSON."}],
                                              response_format=Colour, max_completion_tokens=200, temperature=0)
    if got.choices[0].finish_reason == "stop":
        assert isinstance(got.choices[0].message.parsed, Colour), got


@case
def words_tool_call():
    tool = {"type": "function", "function": {"name": "weather", "parameters": {
        "type": "object", "properties": {"metric": {"type": "boolean"}}, "required": ["metric"], "additionalProperties": False}}}
    got = chat(new_client(), "How warm is it?", tools=[tool], tool_choice={"type": "function", "function": {"name": "weather"}},
               max_completion_tokens=64, temperature=0)
    equal(got.choices[0].finish_reason, "stop")  # as OpenAI's own: the function was named
    call = got.choices[0].message.tool_calls[0]
    equal((call.type, call.function.name, list(json.loads(call.function.arguments))), ("function", "weather", ["metric"]))


@case
def words_stop():
    got = chat(new_client(), "Count: 1 2 3", max_completion_tokens=16, temperature=0, stop=[" ", "\n", "e", "a"])
    assert not set(" \nea") & set(got.choices[0].message.content), got


@case
def words_seed():
    """A seed fixes the draw: the same answer twice."""
    client = new_client()
    texts = {chat(client, "Tell a story.", max_completion_tokens=8, seed=7).choices[0].message.content for _ in range(2)}
    equal(len(texts), 1)


@case
def words_context_too_long():
    with raises(openai.BadRequestError, 400, "context_length_exceeded"):
        chat(new_client(), "word " * 60000)


@case
def words_input_tokens():
    """By the model's own template: with tools, and a turn before."""
    client = new_client()
    tools = [{"type": "function", "name": "weather", "description": "tells how warm it is", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}]
    first = client.responses.create(model=MODEL, input="Name a colour.", max_output_tokens=4)
    for more in ({}, {"tools": tools}, {"instructions": "Be brief."}, {"previous_response_id": first.id}):
        counted = client.responses.input_tokens.count(model=MODEL, input="How warm is it?", **more)
        ran = client.responses.create(model=MODEL, input="How warm is it?", max_output_tokens=2, **more)
        equal(counted.input_tokens, ran.usage.input_tokens)


def push(name):
    """Registers the adapter of the suite under a name, as lorry model push does."""
    with open(os.environ["LORRY_ADAPTER"], "rb") as f:
        request = urllib.request.Request(URL + "/lorry/v1/models?base=%s&name=%s" % (MODEL, name), data=f.read(),
                                         headers={"Authorization": "Bearer " + ADMIN.api_key, "Content-Type": "application/octet-stream"})
    equal(urllib.request.urlopen(request).status, 201)


@case
def words_model_deleted():
    """An adapter's name goes, for its owner; a base's stays, and another tenant's."""
    push("poet")
    ask = {"model": "poet", "messages": [{"role": "user", "content": "hello"}], "max_completion_tokens": 2}
    assert ADMIN.chat.completions.create(**ask).choices
    for client, model in ((new_client(), "poet"), (ADMIN, MODEL), (new_client(), MODEL)):
        with raises(openai.PermissionDeniedError, 403, "insufficient_permissions"):
            client.models.delete(model)
    gone = ADMIN.models.delete("poet")
    equal((gone.id, gone.object, gone.deleted), ("poet", "model", True))
    assert "poet" not in [m.id for m in ADMIN.models.list()]
    for call in (lambda: ADMIN.models.delete("poet"), lambda: ADMIN.models.retrieve("poet"), lambda: ADMIN.chat.completions.create(**ask)):
        with raises(openai.NotFoundError, 404, "model_not_found"):
            call()
