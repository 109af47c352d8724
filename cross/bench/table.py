#!/usr/bin/env python3
"""Writes the table of a README from what `bench.py --json` measured, between `<!-- bench -->` and `<!-- /bench -->`.

usage: table.py README.md MEASURED.json...

All files are of one machine, on the same threads: one for each model.
"""
import json
import statistics
import sys

PACKED, UNPACKED = "glowplug packed", "glowplug as it came"
BEGIN, END = "<!-- bench -->", "<!-- /bench -->"
# a question: tokens of its prompt and of its answer, by which `serve` compares the layouts too
QUESTION = (256, 128)


def key(prompt, decode, depth, streams):
    """The name of a setting in the JSON."""
    return f"p{prompt} n{decode} c{depth} b{streams}"


def question_s(measured, name):
    """Seconds that a question would take, by the medians of the first setting."""
    first = [r[name][key(*measured["settings"][0])] for r in measured["rounds"]]
    tps = (statistics.median(r[field] for r in first) for field in ("prefill_tps", "decode_tps"))
    return sum(tokens / speed for tokens, speed in zip(QUESTION, tps))


def rows(measured):
    """(title, key of the setting, field, unit, digits) of every row."""
    first = measured["settings"][0]
    for setting in measured["settings"]:
        prompt, decode, depth, streams = setting
        behind = f" behind {depth:,}" if depth else ""
        if streams == 1:
            yield f"prefill {prompt}{behind}, tokens/s", key(*setting), "prefill_tps", 1, 1
            yield f"decode {decode}{behind}, tokens/s", key(*setting), "decode_tps", 1, 1
        else:
            yield f"{streams} streams, tokens/s in all", key(*setting), "aggregate_tps", 1, 1
    yield "file to first token of 16, s", key(*first), "start_s", 1, 2
    yield "peak resident, MB", key(*first), "peak_rss_bytes", 1e6, 0


def lines(all_measured):
    """The Markdown of a table with all models."""
    names = all_measured[0]["names"]
    yield f"| | {' | '.join(names)} | ratio |"
    yield "|---" * (len(names) + 2) + "|"
    for measured in all_measured:
        title = measured["model"] + ": "
        for row, setting, field, unit, digits in rows(measured):
            values = {name: [r[name][setting][field] / unit for r in measured["rounds"]] for name in names}
            ratio = statistics.median(o / t for o, t in zip(values[measured["served"]], values["llama.cpp"]))
            cells = []
            for name in names:
                cell = f"{statistics.median(values[name]):,.{digits}f}"
                cells.append(f"**{cell}**" if name == measured["served"] else cell)
            yield f"| {title}{row} | {' | '.join(cells)} | {ratio:.2f} |"
            title = ""


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    with open(sys.argv[1]) as readme:
        text = readme.read()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        sys.exit(f"{sys.argv[1]} has not one {BEGIN} and one {END}")
    every = []
    for name in sys.argv[2:]:
        with open(name) as file:
            every.append(json.load(file))
    if len({(m["machine"], m["threads"], str(m["names"])) for m in every}) > 1:
        sys.exit("these are of several machines, numbers of threads or sets of programs")
    first = every[0]
    rounds, discarded = min(len(m["rounds"]) for m in every), sum(m["discarded"] for m in every)
    told = (f"{first['machine']}, {max(m['date'] for m in every)}, {first['threads']} threads, medians of {rounds} alternating "
            f"rounds by `cross/bench/bench.py` ({', '.join(first['versions'])}, without AMX), {discarded or 'none'} discarded.\n"
            "Bold is what `serve` takes here; the ratio is its own to llama.cpp, the median of each round's.")
    before, rest = text.split(BEGIN)
    table = "\n".join(lines(every))
    with open(sys.argv[1], "w") as readme:
        readme.write(f"{before}{BEGIN}\n{told}\n\n{table}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
