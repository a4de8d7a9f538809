import openai

from harness import MODEL, case, equal, new_client, raises


@case
def models_list():
    page = new_client().models.list()
    assert MODEL in [m.id for m in page], page
    assert all(m.object == "model" and isinstance(m.created, int) and m.owned_by for m in page.data)


@case
def models_retrieve():
    m = new_client().models.retrieve(MODEL)
    equal((m.id, m.object), (MODEL, "model"))


@case
def models_retrieve_unknown():
    with raises(openai.NotFoundError, 404, "model_not_found"):
        new_client().models.retrieve("no-such-model")


@case
def models_retrieve_with_slash():
    with raises(openai.NotFoundError, 404, "model_not_found"):
        new_client().models.retrieve("org/no-such-model")
