"""A panel in the hall: a line on stdin is a wish. Shows what the daemon did about it, and what it says."""

import os
import sys

sys.path.append(os.path.join(os.path.dirname(__file__), ".."))
from client import Connection, is_last, options

house = Connection(options(__doc__, "panel", "glowplug", "house").parse_args())
for line in sys.stdin:
    # it must call a tool, since a small model that may also only talk often only talks
    wish = house.ask(line.strip(), preset="house", tool_execution="daemon", tool_choice="required", parallel_tool_calls=False, temperature=0)
    for frame in house.frames(wish):
        if "error" in frame:
            print("error:", frame["error"]["code"], frame["error"]["message"])
        elif "tool_call" in frame:
            print("call:", frame["tool_call"]["name"], frame["tool_call"]["arguments"])
        elif "tool_result" in frame:
            print("result:", frame["tool_result"]["content"])
        elif is_last(frame):
            print("say:", frame["choices"][0]["message"]["content"].strip())
    sys.stdout.flush()
house.close()
