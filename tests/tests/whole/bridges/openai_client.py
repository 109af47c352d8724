"""OpenAI's own client against `glowplug bridge openai`: PORT STEP. Ends with 1 at the first surprise."""

import json
import sys

import openai

PORT, STEP = sys.argv[1:]
WHOLE = '\n'.join(['One moment. ', '<tool_call>', '{"name": "set_light", "arguments": {"room": "hall"}}', '</tool_call>'])
WHOLE += '<tool_call>{"name":"time"}</tool_call> Done.'
QUESTION = [{"role": "user", "content": "light?"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "set_light",
            "parameters": {"type": "object", "properties": {"room": {"enum": ["kitchen", "hall"]}}, "required": ["room"]},
        },
    },
    {"type": "function", "function": {"name": "time"}},
]
client = openai.OpenAI(base_url=f"http://127.0.0.1:{PORT}/v1", api_key="none", max_retries=0, timeout=180)


def ask(**fields):
    body = {"model": MODEL, "messages": QUESTION, "temperature": 0, "max_tokens": 100, **fields}
    return client.chat.completions.create(**body)


def talk():
    # whole
    answer = ask()
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-"), answer
    assert answer.created > 1_700_000_000 and answer.model == MODEL, answer
    choice = answer.choices[0]
    assert (choice.finish_reason, choice.message.role, choice.message.content) == ("stop", "assistant", WHOLE), choice
    usage = answer.usage
    assert usage.prompt_tokens + usage.completion_tokens == usage.total_tokens, usage

    # streamed
    text, chunks = "", list(ask(stream=True, stream_options={"include_usage": True}))
    for chunk in chunks[:-1]:
        assert chunk.object == "chat.completion.chunk" and chunk.id == chunks[0].id, chunk
        text += chunk.choices[0].delta.content or ""
    assert text == WHOLE, text
    assert chunks[0].choices[0].delta.role == "assistant", chunks[0]
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens == usage.total_tokens, chunks[-1]
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len(list(ask(stream=True))) >= 2

    # cut short, and with what its tokens were worth
    cut = ask(max_tokens=2, logprobs=True, top_logprobs=1).choices[0]
    assert cut.finish_reason == "length" and len(cut.logprobs.content) == 2, cut
    logprobs = [chunk.choices[0].logprobs for chunk in ask(max_tokens=2, logprobs=True, stream=True)]
    assert sum(len(piece.content) for piece in logprobs if piece) == 2, logprobs

    # tools, whole and streamed
    message = ask(tools=TOOLS).choices[0].message
    called = [(call.function.name, call.function.arguments) for call in message.tool_calls]
    assert called == [("set_light", '{"room":"hall"}'), ("time", "{}")], called
    calls, reasons = {}, []
    for chunk in ask(tools=TOOLS, stream=True):
        delta = chunk.choices[0].delta
        for call in delta.tool_calls or []:
            assert call.type == "function" and call.id, call
            calls[call.index] = (call.function.name, call.function.arguments)
        if chunk.choices[0].finish_reason:
            reasons.append((chunk.choices[0].finish_reason, delta.content, delta.tool_calls))
    assert [calls[index] for index in sorted(calls)] == called, calls
    assert reasons == [("tool_calls", None, None)], reasons
    results = [{"role": "tool", "tool_call_id": call.id, "content": "ok"} for call in message.tool_calls]
    again = ask(messages=[*QUESTION, message.model_dump(exclude_none=True), *results], tools=TOOLS)
    assert again.choices[0].finish_reason == "tool_calls", again

    # errors with their codes
    def refused(kind, status, code, param=None, **fields):
        try:
            ask(**fields)
        except openai.APIStatusError as error:
            assert isinstance(error, kind), type(error)
            assert (error.status_code, error.code, error.param) == (status, code, param), error
        else:
            raise AssertionError(f"{fields} is answered")

    for stream in (False, True):
        refused(openai.BadRequestError, 400, "invalid_request", "temperature", temperature=9, stream=stream)
        refused(openai.BadRequestError, 400, "invalid_request", "mood", extra_body={"mood": 1}, stream=stream)
    long = [{"role": "user", "content": "a " * 40_000}]
    refused(openai.BadRequestError, 400, "context_length_exceeded", "messages", messages=long)
    long = [{"role": "user", "content": "a " * 140_000}]
    refused(openai.APIStatusError, 413, "payload_too_large", messages=long)


def schema():
    """An answer by a schema, whole and streamed."""
    properties = {"room": {"enum": ["kitchen", "hall"]}, "on": {"type": "boolean"}}
    light = {"type": "object", "properties": properties, "required": ["room", "on"], "additionalProperties": False}
    given = {"type": "json_schema", "json_schema": {"name": "light", "strict": True, "schema": light}}
    answer = ask(response_format=given, max_tokens=200).choices[0]
    assert answer.finish_reason == "stop", answer
    value = json.loads(answer.message.content)
    # the order of the properties is the schema's
    assert list(value) == ["room", "on"] and value["room"] in ("kitchen", "hall") and value["on"] in (True, False), value
    chunks = list(ask(response_format=given, max_tokens=200, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == answer.message.content
    wrong = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"not": {}}}}
    try:
        ask(response_format=wrong)
    except openai.BadRequestError as error:
        assert error.code == "invalid_schema", error
    else:
        raise AssertionError("a schema that is not enforced is taken")


def leave():
    endless = {"logit_bias": {"280": -100, "281": -100, "282": -100}, "max_tokens": 16_000}
    stream = ask(stream=True, **endless)
    for _ in range(3):
        next(stream)
    stream.close()
    try:
        client.with_options(timeout=1).chat.completions.create(
            model=MODEL, messages=QUESTION, temperature=0, **endless
        )
    except openai.APITimeoutError:
        pass
    else:
        raise AssertionError("16,000 tokens in a second")


[MODEL] = [model.id for model in client.models.list()]
{"talk": talk, "schema": schema, "leave": leave}[STEP]()
print("ok")
