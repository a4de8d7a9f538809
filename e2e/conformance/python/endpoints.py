"""Webhook endpoints, looked after by OpenAI's own calls; and what endpoints hear of batches, in the SDK's types."""

import openai
import standardwebhooks

from batches import CHAT, LONG, create, line, over
from harness import case, equal, new_client, new_key, raises, root, serving
from hooks import receiver
from mistakes import Lossy

URL = "https://example.com/hook"


def endpoint(client, url=URL, *events, name="mine"):
    return client.webhooks.create(url=url, name=name, event_types=list(events or ("batch.completed",)))


@case
def endpoint_life():
    client = new_client()
    made = endpoint(client)
    equal((made.object, made.name, made.url, made.event_types), ("webhook_endpoint", "mine", URL, ["batch.completed"]))
    assert made.signing_secret.startswith("whsec_") and made.signing_secret.startswith(made.signing_secret_hint[:-1]), made.signing_secret_hint
    found = client.webhooks.retrieve(made.id)
    equal((found.id, found.created_at, found.updated_at, found.signing_secret_hint), (made.id, made.created_at, made.created_at, made.signing_secret_hint))
    assert "signing_secret" not in found.model_extra, found
    changed = client.webhooks.update(made.id, name="ours", event_types=["response.failed", "batch.failed"])
    equal((changed.name, changed.url, set(changed.event_types)), ("ours", URL, {"batch.failed", "response.failed"}))
    equal(client.webhooks.update(made.id), changed)
    equal(client.webhooks.update(made.id, url=URL + "/2").url, URL + "/2")
    fresh = client.webhooks.rotate_secret(made.id)
    assert fresh.signing_secret != made.signing_secret
    gone = client.webhooks.delete(made.id)
    equal((gone.id, gone.object, gone.deleted), (made.id, "webhook_endpoint.deleted", True))
    for call in (client.webhooks.retrieve, client.webhooks.update, client.webhooks.delete, client.webhooks.rotate_secret):
        with raises(openai.NotFoundError, 404, "not_found"):
            call(made.id)


@case
def endpoint_made_once_though_its_answer_was_lost():
    """The SDK asks again by itself, and gets the endpoint that the first request made, with its secret; so does a key."""
    key = new_key()
    Lossy.lost.discard("/v1/webhook_endpoints")
    with serving(Lossy) as url:
        made = endpoint(new_client(key, url=url, max_retries=2))
    client = new_client(key)
    equal([e.id for e in client.webhooks.list()], [made.id])
    assert made.signing_secret.startswith(client.webhooks.retrieve(made.id).signing_secret_hint[:-1])
    keyed = {"url": URL, "name": "k", "event_types": ["batch.failed"], "extra_headers": {"Idempotency-Key": "k"}}
    equal(client.webhooks.create(**keyed), client.webhooks.create(**keyed))
    with raises(openai.UnprocessableEntityError, 422, "idempotency_key_reused"):
        client.webhooks.create(**{**keyed, "name": "other"})


@case
def endpoint_of_others():
    made, other = endpoint(new_client()), new_client()
    for call in (other.webhooks.retrieve, other.webhooks.update, other.webhooks.delete, other.webhooks.rotate_secret):
        with raises(openai.NotFoundError, 404):
            call(made.id)
    equal(list(other.webhooks.list()), [])


@case
def endpoint_list_amid_inserts():
    """Newest first, over every limit; what is there all the time comes once."""
    client = new_client()
    ids = [endpoint(client).id for _ in range(7)][::-1]
    for limit in (1, 2, 3, 7, 8):
        equal([e.id for e in client.webhooks.list(limit=limit)], ids)
    got = []
    for e in client.webhooks.list(limit=2):
        got.append(e.id)
        endpoint(client)
    equal(got, ids)
    for limit in (0, 101):
        with raises(openai.BadRequestError, 400, param="limit"):
            client.webhooks.list(limit=limit)


@case
def endpoint_refused():
    client = new_client()
    good = {"url": URL, "name": "x", "event_types": ["batch.completed"]}
    for change, param in (({"url": "nowhere"}, "url"), ({"url": "http://169.254.169.254/"}, "url"), ({"event_types": ["video.completed"]}, "event_types[0]"),
                          ({"event_types": []}, "event_types"), ({"name": "x" * 513}, "name")):
        with raises(openai.BadRequestError, 400, param=param):
            client.webhooks.create(**{**good, **change})
    with raises(openai.BadRequestError, 400, "missing_required_parameter", "name"):
        client.post("/webhook_endpoints", cast_to=object, body={"url": URL, "event_types": ["batch.completed"]})
    for _ in range(32):
        endpoint(client)
    with raises(openai.ConflictError, 409):
        endpoint(client)


@case
def endpoint_event_types():
    """Each that is offered can be asked for."""
    client = new_client()
    offered = client.webhooks.event_types.list()
    equal(offered.object, "list")
    equal(set(endpoint(client, URL, *offered.data).event_types), set(offered.data))


@case
def endpoint_test():
    """The answer that the receiver gave; a sample that is signed and typed; and nobody there."""
    client, hook = new_client(), receiver([418])
    with serving(hook) as url:
        made = endpoint(client, url)
        for status in (418, 200):
            got = client.webhooks.test(made.id, event_type="batch.expired")
            equal((got.object, got.webhook_endpoint_id, got.event_type, got.status_code, got.success), ("webhook_endpoint.test", made.id, "batch.expired", status, True))
            body, headers = hook.got.get(timeout=20)
            equal(type(client.webhooks.unwrap(body, headers, secret=made.signing_secret)).__name__, "BatchExpiredWebhookEvent")
    with raises(openai.UnprocessableEntityError, 422, "webhook_unanswered"):
        client.webhooks.test(endpoint(client, "http://127.0.0.1:1/").id, event_type="batch.expired")
    with raises(openai.BadRequestError, 400, "invalid_value", "event_type"):
        client.webhooks.test(made.id, event_type="video.completed")


@case
def endpoint_secret_rotated():
    """With an overlap both secrets verify, without one the old does not: for the SDK and for Standard Webhooks."""
    client, hook = new_client(), receiver()
    with serving(hook) as url:
        made = endpoint(client, url)
        for keep in (True, False):
            fresh = client.webhooks.rotate_secret(made.id, keep_old_secret_active_for_24_hours=keep)
            client.webhooks.test(made.id, event_type="batch.completed")
            body, headers = hook.got.get(timeout=20)
            client.webhooks.verify_signature(body, headers, secret=fresh.signing_secret)
            standardwebhooks.Webhook(fresh.signing_secret).verify(body, {k.lower(): v for k, v in headers.items()})
            try:
                client.webhooks.verify_signature(body, headers, secret=made.signing_secret)
                assert keep, "the old secret still signs"
            except openai.InvalidWebhookSignatureError:
                assert not keep, "the old secret does not sign any more"
            made = fresh


@case
def endpoint_hears_of_batches():
    """Each end of a batch, as client.webhooks.unwrap() types it."""
    client, hook = new_client(), receiver()
    with serving(hook) as url:
        made = endpoint(client, url, "batch.completed", "batch.failed", "batch.expired", "batch.cancelled")
        ends = {
            create(client, [line(1)]).id: "BatchCompletedWebhookEvent",
            create(client, b"{\n").id: "BatchFailedWebhookEvent",
            create(client, [line(1, LONG)], window="2s").id: "BatchExpiredWebhookEvent",
        }
        cancelled = create(client, [line(1, LONG)])
        client.batches.cancel(cancelled.id)
        ends[cancelled.id] = "BatchCancelledWebhookEvent"
        for _ in list(ends):
            body, headers = hook.got.get(timeout=30)
            event = client.webhooks.unwrap(body, headers, secret=made.signing_secret)
            equal((type(event).__name__, event.object), (ends.pop(event.data.id), "event"))
            assert client.batches.retrieve(event.data.id).status == event.type.removeprefix("batch."), event


@case
def endpoint_deliveries_and_replay():
    """Refused once, then taken; and again when its owner asks, under the same ID."""
    client, hook = new_client(), receiver([500])
    with serving(hook) as url:
        made = endpoint(client, url)
        batch = over(client, create(client, [line(1)], endpoint=CHAT))
        first, second = hook.got.get(timeout=20), hook.got.get(timeout=40)
        log = "/lorry/v1/webhooks/%s/deliveries" % made.id
        told = None
        while told is None:
            told = next((d for d in root(client).get(log, cast_to=object)["data"] if d["status"] == "delivered"), None)
        equal((told["subject"], [a["status_code"] for a in told["attempts"]]), (batch.id, [200, 500]))
        root(client).post(log + "/" + told["id"] + "/replay", cast_to=object)
        third = hook.got.get(timeout=20)
    ids = [{k.lower(): v for k, v in headers.items()}["webhook-id"] for _, headers in (first, second, third)]
    equal(len(set(ids)), 1)
    equal({body for body, _ in (first, second, third)}, {first[0]})
    client.webhooks.unwrap(*third, secret=made.signing_secret)
