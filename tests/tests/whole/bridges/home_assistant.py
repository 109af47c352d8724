"""What Home Assistant's integration of llama.cpp calls, in its order, by plain HTTP: PORT. Ends with 1 at the first surprise."""

import http.client
import json
import sys

PORT = int(sys.argv[1])
PATIENCE = 180


def call(method, path, body=None):
    """Status, headers and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=PATIENCE)
    headers = {"Authorization": "Bearer sk-no-key-required", "Content-Type": "application/json"}
    connection.request(method, path, json.dumps(body) if body else None, headers)
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read().decode()


def chat(**body):
    status, headers, text = call("POST", "/v1/chat/completions", {"model": model, **body})
    assert status == 200, text
    if not body["stream"]:
        return json.loads(text)
    assert headers["Content-Type"].startswith("text/event-stream"), headers
    lines = [line for line in text.split("\n\n") if line]
    assert lines.pop() == "data: [DONE]", text
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def listen(chunks):
    """Reads a stream as the integration does: choice 0, one call a chunk, up to the reason of the end."""
    text, calls, begun = "", {}, False
    for chunk in chunks:
        choice = chunk["choices"][0]
        delta = choice["delta"]
        if not begun:
            assert delta["role"] == "assistant", chunk
            begun = True
        if choice["finish_reason"]:
            assert not delta.get("content") and not delta.get("tool_calls"), chunk
            return text, [calls[index] for index in sorted(calls)], choice["finish_reason"]
        text += delta.get("content") or ""
        for piece in (delta.get("tool_calls") or [])[:1]:
            call = calls.setdefault(piece["index"], {"id": piece["id"], "name": piece["function"]["name"], "arguments": ""})
            call["arguments"] += piece["function"]["arguments"]
        assert len(delta.get("tool_calls") or []) <= 1, chunk
    raise AssertionError("no reason of the end")


# set-up: the models, then whether tools and streams work
status, _, text = call("GET", "/v1/models")
assert status == 200, text
[model] = [entry["id"] for entry in json.loads(text)["data"]]
test = {"type": "function", "function": {"name": "test_function", "description": "Test", "parameters": {"type": "object", "properties": {}}}}
for stream in (False, True):
    answer = chat(messages=[{"role": "user", "content": "test"}], tools=[test], max_tokens=3, stream=stream)
    if stream:
        listen(answer)
    else:
        assert answer["choices"][0]["message"]["role"] == "assistant", answer

# a turn: a system prompt, the tools of the house, rounds until there is no call
tools = [
    {
        "type": "function",
        "function": {
            "name": "set_light",
            "description": "Turns a light on",
            "parameters": {"type": "object", "properties": {"room": {"enum": ["kitchen", "hall"]}}, "required": ["room"]},
        },
    },
    {"type": "function", "function": {"name": "time", "description": "The time", "parameters": {"type": "object", "properties": {}}}},
]
messages = [
    {"role": "system", "content": "You are a voice assistant for Home Assistant."},
    {"role": "user", "content": "Light in the hall!"},
]
turn = {"max_tokens": 3000, "top_p": 1.0, "temperature": 0.7, "seed": 1, "user": "01JDCONVERSATION", "stream": True}
text, calls, reason = listen(chat(messages=messages, tools=tools, **turn))
assert (text, reason) == ("One moment.Done.", "tool_calls"), (text, reason)
assert [(c["name"], json.loads(c["arguments"])) for c in calls] == [("set_light", {"room": "hall"}), ("time", {})], calls
functions = [{"id": c["id"], "type": "function", "function": {"name": c["name"], "arguments": c["arguments"]}} for c in calls]
messages.append({"role": "assistant", "content": text, "tool_calls": functions})
for c in calls:
    messages.append({"role": "tool", "tool_call_id": c["id"], "content": json.dumps({"data": {"success": True}})})
# the last round offers nothing more to call
text, calls, reason = listen(chat(messages=messages, tools=tools, tool_choice="none", **turn))
assert calls == [] and reason == "stop" and text, (text, calls, reason)

# what goes wrong has a message
status, _, text = call("POST", "/v1/chat/completions", {"model": model, "messages": [], "stream": True})
assert status == 400 and json.loads(text)["error"]["message"], text
print("ok")
