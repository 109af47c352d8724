"""The voice of a car: a line on stdin is what the driver said. It becomes one command that sets signals of the Vehicle
Signal Specification, and an answer that is said sentence by sentence. The next line breaks into an answer that is still being said."""

import json
import os
import sys
import threading

sys.path.append(os.path.join(os.path.dirname(__file__), ".."))
from client import Connection, is_last, options

HERE = os.path.dirname(os.path.abspath(__file__))


def command_format():
    with open(os.path.join(HERE, "command.json"), encoding="utf-8") as file:
        schema = json.load(file)
    return {"type": "json_schema", "json_schema": {"name": "command", "strict": True, "schema": schema}}


class Voice:
    def __init__(self, chosen):
        self.car = Connection(chosen)
        self.format = command_format()
        # the requests that are on their way
        self.commands, self.spoken = set(), None

    def hear(self, line):
        """What is being said ends with the word of whoever interrupts it."""
        if self.spoken:
            self.car.cancel(self.spoken)
        command = self.car.ask(
            line, preset="command", response_format=self.format, priority="urgent", stream=False, temperature=0
        )
        self.commands.add(command)
        self.spoken = self.car.ask(line, preset="talk", chunk="sentence")

    def frame(self, frame):
        request, last = frame.get("id"), is_last(frame)
        if "error" in frame:
            print("error:", frame["error"]["code"], frame["error"]["message"], flush=True)
        elif request in self.commands and frame["choices"][0]["finish_reason"] == "stop":
            self.act(json.loads(frame["choices"][0]["message"]["content"]))
        elif request == self.spoken and not last and frame["choices"][0]["delta"].get("content"):
            print("say:", frame["choices"][0]["delta"]["content"].strip(), flush=True)
        if last:
            self.commands.discard(request)
            self.spoken = None if request == self.spoken else self.spoken

    def act(self, command):
        """The answer fits the schema, so each path is one of those that are listed there."""
        for signal in command["set"]:
            self.car.publish("vehicle/set/" + signal["path"].replace(".", "/"), {"value": signal["value"]})
            print("set:", signal["path"], json.dumps(signal["value"]), flush=True)

    def run(self, lines):
        def read():
            for line in lines:
                self.car.events.put(("heard", line.strip()))
            self.car.events.put(("heard", None))

        threading.Thread(target=read, daemon=True).start()
        more = True
        while more or self.spoken or self.commands:
            topic, event = self.car.event()
            if topic != "heard":
                self.frame(json.loads(event.payload))
            elif event is None:
                more = False
            elif event:
                self.hear(event)
        self.car.close()


Voice(options(__doc__, "voice", "vehicle/ai", "cabin").parse_args()).run(sys.stdin)
