"""Each class of error, as the SDK raises it, and what it does about those that may pass."""

import threading

import openai

from harness import ADMIN, MODEL, URL, Quiet, case, chat, equal, new_client, new_key, raises, root, serving


@case
def error_401_no_key():
    with raises(openai.AuthenticationError, 401, None, None, "Missing bearer or basic authentication in header"):
        new_client().models.list(extra_headers={"Authorization": openai.Omit()})


@case
def error_401_wrong_key():
    with raises(openai.AuthenticationError, 401, "invalid_api_key"):
        new_client("lorry_not_a_key").models.list()


@case
def error_403():
    with raises(openai.PermissionDeniedError, 403):
        root(new_client()).get("/lorry/v1/keys", cast_to=object)


@case
def error_404_model():
    with raises(openai.NotFoundError, 404, "model_not_found", "model"):
        new_client().chat.completions.create(model="nope", messages=[{"role": "user", "content": "x"}])


@case
def error_404_route():
    with raises(openai.NotFoundError, 404, "unknown_url"):
        new_client().get("/no/such/route", cast_to=object)


@case
def error_400_missing():
    with raises(openai.BadRequestError, 400, "missing_required_parameter", "messages", "Missing required parameter: 'messages'."):
        new_client().post("/chat/completions", cast_to=object, body={"model": MODEL})


@case
def error_400_out_of_range():
    with raises(openai.BadRequestError, 400, "decimal_above_max_value", "temperature"):
        chat(new_client(), "x", temperature=3)


@case
def error_400_not_json():
    with raises(openai.BadRequestError, 400, "invalid_json"):
        new_client().post("/chat/completions", cast_to=object, content=b"{", options={"headers": {"Content-Type": "application/json"}})


@case
def error_409_for_good():
    """A job that is over cannot be cancelled, and the SDK is told not to try again."""
    client, tries = new_client(max_retries=3), []
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=[{"role": "user", "content": "x"}])
    client._client.event_hooks = {"request": [lambda r: tries.append(r)]}
    with raises(openai.ConflictError, 409):
        client.post("/jobs/%s/cancel" % raw.headers["x-lorry-job"], cast_to=object)
    equal(len(tries), 1)


@case
def error_422_key_used_again():
    client = new_client()
    chat(client, "one", extra_headers={"Idempotency-Key": "k"})
    with raises(openai.UnprocessableEntityError, 422, "idempotency_key_reused"):
        chat(client, "two", extra_headers={"Idempotency-Key": "k"})


def crowd(client, n):
    """n long requests at the same moment; their errors."""
    errors = []

    def ask():
        try:
            chat(client, "word " * 40, max_completion_tokens=40)
        except openai.OpenAIError as e:
            errors.append(e)
    threads = [threading.Thread(target=ask) for _ in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return errors


@case
def error_429():
    """Of 12 at the same moment 8 may wait (the server's setting), the others are told to come again."""
    errors = crowd(new_client(), 12)
    assert errors and all(type(e) is openai.RateLimitError and e.code == "rate_limit_exceeded" for e in errors), errors
    assert all(int(e.response.headers["retry-after"]) >= 1 for e in errors)


@case
def error_429_passes():
    """The SDK's own retries get everybody through."""
    equal(crowd(new_client(max_retries=6), 12), [])


@case
def error_connection():
    with raises(openai.APIConnectionError):
        new_client("k", url="http://127.0.0.1:1").models.list()


class Lossy(Quiet):
    """A proxy that loses the answer to the first post of each path."""

    lost = set()
    retries = []

    def do_POST(self):
        import http.client
        body = self.body()
        c = http.client.HTTPConnection(URL.removeprefix("http://"))
        headers = {k: v for k, v in self.headers.items() if k.lower() != "host"}
        c.request("POST", self.path, body, headers)
        r = c.getresponse()
        answer = r.read()
        self.retries.append(self.headers.get("x-stainless-retry-count"))
        if self.path not in self.lost:
            self.lost.add(self.path)
            self.close_connection = True
            self.connection.shutdown(2)
            return
        self.send_response(r.status)
        for k, v in r.getheaders():
            if k.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(k, v)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


@case
def lost_answer_under_a_key_is_one_job():
    """The answer was lost, the SDK asks again by itself, and the key makes both the same job."""
    key = new_key()
    with serving(Lossy) as url:
        client = new_client(key, url=url, max_retries=2)
        raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=[{"role": "user", "content": "once"}],
                                                               extra_headers={"Idempotency-Key": "lost"})
    equal(raw.parse().choices[0].message.content, "once")
    equal(Lossy.retries, ["0", "1"])
    jobs = new_client(key).get("/jobs", cast_to=object)["data"]
    equal([j["id"] for j in jobs], [raw.headers["x-lorry-job"]])


@case
def admin_key_lists_keys():
    assert root(ADMIN).get("/lorry/v1/keys", cast_to=object)["data"]
