"""A tool over MQTT, as a process of its own: finds passages of a manual by SQLite's full-text search and answers where the daemon
asks for it. A passage begins with the number and the title of its section, so that the model can name it."""

import json
import os
import re
import sqlite3
import sys

sys.path.append(os.path.join(os.path.dirname(__file__), ".."))
from client import Connection, options
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

HERE = os.path.dirname(os.path.abspath(__file__))
SEARCH = "acme/plant1/packaging/line3/cell2/manual/search"
PASSAGES = 2


def index(path):
    """The sections of a manual in Markdown, one row each."""
    table = sqlite3.connect(":memory:")
    table.execute("create virtual table manual using fts5(title, text, tokenize = 'porter')")
    with open(path, encoding="utf-8") as file:
        sections = re.split(r"^# ", file.read(), flags=re.MULTILINE)[1:]
    table.executemany("insert into manual values (?, ?)", (section.split("\n", 1) for section in sections))
    return table


def find(table, words):
    """The best passages. Words are quoted: they come from a model, and FTS5 has a language of its own."""
    query = " OR ".join(f'"{word}"' for word in re.findall(r"\w+", words))
    if not query:
        return []
    rows = table.execute("select title, text from manual(?) order by rank limit ?", (query, PASSAGES))
    return [f"[{title}] {' '.join(text.split())}" for title, text in rows]


def main():
    parser = options(__doc__, "manual", "acme/plant1/packaging/line3/ai", "cell2")
    parser.add_argument("--manual", default=os.path.join(HERE, "manual.md"))
    chosen = parser.parse_args()
    table = index(chosen.manual)
    cell = Connection(chosen, (SEARCH,))
    print("ready", flush=True)
    while True:
        _, message = cell.event()
        words = json.loads(message.payload)["words"]
        found = find(table, words)
        properties = Properties(PacketTypes.PUBLISH)
        properties.CorrelationData = message.properties.CorrelationData
        cell.publish(message.properties.ResponseTopic, {"passages": found}, properties)
        print("searched:", words, "->", len(found), flush=True)


if __name__ == "__main__":
    main()
