"""What a client of glowplug needs of MQTT: one connection, one queue of events. Python 3 with Paho (`pip install paho-mqtt`)."""

import argparse
import json
import queue
import secrets
import threading

import paho.mqtt.client as mqtt


def options(about, user, base, node):
    """The options that every client of these recipes has; the values given here are those of its own recipe."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--user", default=user, help="of the broker, and the client's segment in its topics")
    parser.add_argument("--password-file", help="its first line is the user's password")
    parser.add_argument("--base", default=base)
    parser.add_argument("--node", default=node)
    return parser


class Connection:
    """A connection to the broker. What comes in waits in `events`, as pairs of a topic and a message."""

    def __init__(self, chosen, topics=()):
        self.events = queue.Queue()
        self.later = []
        self.segment = chosen.user
        self.topic = f"{chosen.base}/{chosen.node}"
        # version 2 of the library wants to know which callbacks it is to call
        version = getattr(mqtt, "CallbackAPIVersion", None)
        first = (version.VERSION2,) if version else ()
        self.client = mqtt.Client(*first, client_id=chosen.user, protocol=mqtt.MQTTv5)
        if chosen.password_file:
            with open(chosen.password_file, encoding="utf-8") as file:
                self.client.username_pw_set(chosen.user, file.readline().rstrip("\n"))
        subscribed = threading.Event()
        self.client.on_message = lambda _client, _data, message: self.events.put((message.topic, message))
        self.client.on_subscribe = lambda *_: subscribed.set()
        # again after every reconnection: the session at the broker ends with its connection
        self.client.on_connect = lambda client, *_: client.subscribe(
            [(topic, 1) for topic in (f"{self.topic}/chat/{self.segment}/reply", *topics)]
        )
        self.client.connect(chosen.host, chosen.port)
        self.client.loop_start()
        subscribed.wait()

    def publish(self, topic, value, properties=None):
        payload = value if isinstance(value, str) else json.dumps(value)
        self.client.publish(topic, payload, qos=1, properties=properties).wait_for_publish()

    def ask(self, text, **fields):
        """Sends a chat request and gives its id, which every frame of its answer has."""
        # the daemon takes an id that it has seen in the last minutes for the same request
        body = {"id": secrets.token_hex(8), "messages": [{"role": "user", "content": text}], **fields}
        self.publish(f"{self.topic}/chat/{self.segment}/request", body)
        return body["id"]

    def cancel(self, request):
        self.publish(f"{self.topic}/chat/{self.segment}/cancel", {"id": request})

    def event(self):
        """The next pair of a topic and a message."""
        return self.later.pop(0) if self.later else self.events.get()

    def frames(self, request):
        """The frames of one request, up to its last. What else comes meanwhile is kept for `event`."""
        while True:
            topic, message = self.events.get()
            frame = json.loads(message.payload) if topic.startswith(f"{self.topic}/chat/") else {}
            if frame.get("id") != request:
                self.later.append((topic, message))
                continue
            yield frame
            if is_last(frame):
                return

    def answer(self, request):
        """The message that ends a request, and how it ended. A request that was refused ends the program."""
        *_, last = self.frames(request)
        if "error" in last:
            raise SystemExit(f"{last['error']['code']}: {last['error']['message']}")
        choice = last["choices"][0]
        return choice["message"]["content"], choice["finish_reason"]

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


def is_last(frame):
    return "error" in frame or frame.get("object") == "chat.completion"
