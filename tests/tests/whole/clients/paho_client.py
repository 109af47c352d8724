"""Asks a glowplug daemon as any MQTT program would: PORT PASSWORD NODE [USER [AUTHORITY CERTIFICATE KEY]]. Ends with 1 at the
first surprise. Without USER each client is the user of its own name. With files the broker is spoken to by TLS."""

import json
import queue
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

PORT, PASSWORD, NODE = int(sys.argv[1]), sys.argv[2], sys.argv[3]
USER = sys.argv[4] if len(sys.argv) > 4 else None
FILES = sys.argv[5:8]
PATIENCE = 180


def connect(name, version):
    """A connected client and the queue of its messages."""
    # version 2 of the library wants to know which callbacks it is to call
    if hasattr(mqtt, "CallbackAPIVersion"):
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=version)
    else:
        client = mqtt.Client(client_id=name, protocol=version)
    messages, subscribed = queue.Queue(), queue.Queue()
    client.on_message = lambda _client, _data, message: messages.put(message)
    client.on_subscribe = lambda *_args: subscribed.put(True)
    client.lost = []
    client.on_disconnect = lambda *args: client.lost.append(str(args[2:]))
    client.username_pw_set(USER or name, PASSWORD)
    if FILES:
        client.tls_set(*FILES)
    client.connect("127.0.0.1", PORT)
    client.loop_start()

    def subscribe(topic):
        client.subscribe(topic, qos=1)
        subscribed.get(timeout=PATIENCE)

    return client, messages, subscribe


def version_5():
    """Request/response with a topic and a mark of the client's own."""
    client, messages, subscribe = connect("paho", mqtt.MQTTv5)
    answers = f"glowplug/{NODE}/chat/paho/answers/7"
    mark = bytes([0, 255, 7, 200])
    subscribe(answers)
    properties = Properties(PacketTypes.PUBLISH)
    properties.ResponseTopic = answers
    properties.CorrelationData = mark
    body = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 12, "temperature": 0}
    client.publish(f"glowplug/{NODE}/chat/paho/request", json.dumps(body), qos=1, properties=properties)
    text, seq = "", 0
    while True:
        message = messages.get(timeout=PATIENCE)
        assert message.topic == answers, message.topic
        assert message.qos == 1 and not message.retain
        assert message.properties.CorrelationData == mark, message.properties
        assert message.properties.ContentType == "application/json"
        assert message.properties.PayloadFormatIndicator == 1
        assert 0 < message.properties.MessageExpiryInterval <= 60
        frame = json.loads(message.payload)
        assert frame["seq"] == seq, frame
        seq += 1
        if frame["object"] == "chat.completion":
            break
        text += frame["choices"][0]["delta"].get("content", "")
    assert frame["choices"][0]["message"]["content"] == text != "", frame
    assert frame["usage"]["completion_tokens"] <= 12, frame
    client.disconnect()
    print("5: ok")


def version_3():
    """Plain text in, plain text out."""
    client, messages, subscribe = connect("paho3", mqtt.MQTTv311)
    subscribe(f"glowplug/{NODE}/ask/paho3/answer")
    client.publish(f"glowplug/{NODE}/ask/paho3", "What is the capital of France?", qos=1)
    answer = messages.get(timeout=PATIENCE).payload.decode("utf-8")
    assert answer and "{" not in answer[:1], answer
    # QoS 2 is taken, and what it may not write is acknowledged, in the words that 3.1.1 has
    for topic in (f"glowplug/{NODE}/ask/paho3", "homeassistant/status", f"glowplug/{NODE}/ask/another"):
        for qos in (1, 2):
            sent = client.publish(topic, "What is the capital of France?", qos=qos)
            sent.wait_for_publish(PATIENCE)
            assert sent.is_published(), (topic, qos, client.lost)
    for _ in range(2):
        assert messages.get(timeout=PATIENCE).payload
    assert not client.lost, client.lost
    client.disconnect()
    print("3.1.1: ok")


version_5()
version_3()
