"""The terminal of a cell: explains each alarm of the PLC from the manual, and writes a work order for it."""

import json
import os
import sys

sys.path.append(os.path.join(os.path.dirname(__file__), ".."))
from client import Connection, options

HERE = os.path.dirname(os.path.abspath(__file__))
CELL = "acme/plant1/packaging/line3/cell2"
# it has to look into the manual before it says anything, and once
SEARCH_FIRST = {
    "tool_execution": "daemon",
    "tool_choice": {"type": "function", "function": {"name": "search_manual"}},
    "parallel_tool_calls": False,
}

parser = options(__doc__, "operator-panel", "acme/plant1/packaging/line3/ai", "cell2")
parser.add_argument("--alarms", type=int, help="ends after so many; else never")
chosen = parser.parse_args()
with open(os.path.join(HERE, "order.json"), encoding="utf-8") as file:
    order = {"type": "json_schema", "json_schema": {"name": "order", "strict": True, "schema": json.load(file)}}
cell = Connection(chosen, (f"{CELL}/alarm/+",))
print("ready", flush=True)
left = chosen.alarms
while left is None or left > 0:
    topic, message = cell.event()
    if not topic.startswith(f"{CELL}/alarm/"):
        continue
    alarm = f"Alarm {topic.rsplit('/', 1)[1]}: {message.payload.decode('utf-8')}"
    print(alarm, flush=True)
    asked = cell.ask(f"{alarm}. What does it mean, and what do I do?", preset="alarms", **SEARCH_FIRST)
    explained, _ = cell.answer(asked)
    print("explained:", explained.strip(), flush=True)
    asked = cell.ask(f"{alarm}.\n{explained}\nWrite the work order.", preset="orders", response_format=order, stream=False)
    written, ended = cell.answer(asked)
    # what was cut off is no order
    if ended == "stop":
        written = json.dumps(json.loads(written))
        cell.publish(f"{CELL}/order", written)
        print("order:", written, flush=True)
    left = None if left is None else left - 1
cell.close()
