#!/usr/bin/env python3
"""glowplug and llama.cpp on the same file, on the same machine, in alternating rounds.

usage: bench.py MODEL.gguf [--glowplug BIN] [--llama-python PYTHON] [--ik [PYTHON]] [--rounds 5] [--threads 2] [-p 512]
       [-n 64] [-c 4000 ...] [-b 2 4 8 ...] [--under COMMAND] [--json FILE]

The model is packed first, beside the file, if it is not yet: as the daemon does at its first start. It is measured packed and
as it came, and `glowplug tune` is asked which of them a daemon takes here. If that is the slower one by more than 3 %, the
exit code is 1.

Each round runs all, each setting in a process of its own, and who goes first alternates. A setting during which more than 5 %
of the machine's CPU time was stolen (/proc/stat) is discarded, counted and run again for all, in all at most as often again as
there are settings in all rounds. Medians, and the median of the ratios of each round, come out as a Markdown table; `table.py` makes the README's
from the JSON.

Without --llama-python, llama-cpp-python is built for this CPU into `target/llama` of the working directory. ik_llama.cpp
is in the rounds with --ik, and built into `target/ik` if no Python that has it is named.
"""
import argparse
import datetime
import json
import os
import shlex
import statistics
import subprocess
import sys
import venv

import table

PACKAGES = {"llama.cpp": "llama-cpp-python==0.3.36", "ik_llama.cpp": "ik-llama-cpp-python==0.1.5"}
MODULES = {"llama.cpp": "llama_cpp", "ik_llama.cpp": "ik_llama_cpp"}
HERE = os.path.dirname(os.path.abspath(__file__))
STEAL_MAX = 0.05
# the prompt of a run that measures how long a file takes to its first token, and of one with several streams
SHORT = 16


def python_of(name, folder):
    """The Python of a virtual environment with the bindings of `name`, compiled for this CPU."""
    python = os.path.join(folder, "bin", "python")
    if not os.path.exists(os.path.join(folder, "ready")):
        venv.create(folder, with_pip=True)
        # AMX: virtual machines advertise it and fault on its first instruction
        flags = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16" if os.uname().machine == "x86_64" else ""
        env = dict(os.environ, CMAKE_ARGS="-DGGML_NATIVE=ON", FORCE_CMAKE="1", CFLAGS=flags, CXXFLAGS=flags)
        package = PACKAGES[name]
        subprocess.run([python, "-m", "pip", "install", "--no-binary", package.split("==")[0], package], env=env, check=True)
        open(os.path.join(folder, "ready"), "w").close()
    return python


def int8_probe():
    """`int8.c`, compiled for this CPU."""
    program = os.path.join("target", "int8")
    os.makedirs("target", exist_ok=True)
    subprocess.run(["cc", "-O2", "-march=native", "-pthread", os.path.join(HERE, "int8.c"), "-o", program], check=True)
    return program


def machine():
    """What this machine says of itself."""
    def first(path, name=""):
        with open(path) as lines:
            return next((line.split(":")[-1].strip() for line in lines if line.startswith(name)), "")
    try:
        cache = ", " + first("/sys/devices/system/cpu/cpu0/cache/index3/size") + " L3"
    except OSError:
        cache = ""
    return f"{len(os.sched_getaffinity(0))} cores of {first('/proc/cpuinfo', 'model name') or os.uname().machine}{cache}"


def as_it_came(model):
    """The path of a link to the model that has no packed file beside it."""
    link = os.path.join("target", "as-it-came", os.path.basename(model))
    os.makedirs(os.path.dirname(link), exist_ok=True)
    if os.path.lexists(link):
        os.remove(link)
    os.symlink(os.path.abspath(model), link)
    return link


def macs_per_token(glowplug, model):
    """Multiply-adds by which a token of a prompt goes through the layers: the head is for its last token alone."""
    told = json.loads(subprocess.run([glowplug, "inspect", model, "--json"], check=True, capture_output=True).stdout)
    matrices = [t["dims"] for t in told["tensors"] if t["name"].startswith("blk.") and len(t["dims"]) == 2]
    return sum(columns * rows for columns, rows in matrices)


def stolen():
    """(stolen, all) CPU time since boot, in ticks."""
    with open("/proc/stat") as stat:
        ticks = [int(field) for field in stat.readline().split()[1:9]]
    return ticks[7], sum(ticks)


def told(command):
    """The JSON that a command prints, which is the last line of its output."""
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if run.returncode != 0:
        sys.exit(f"{shlex.join(command)}: exit code {run.returncode}\n{run.stderr[-2000:]}")
    return json.loads(run.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--glowplug", default="target/release/glowplug")
    parser.add_argument("--llama-python", help="a Python that has llama-cpp-python")
    parser.add_argument("--ik", nargs="?", const="", metavar="PYTHON", help="also ik_llama.cpp, of this Python")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--reps", type=int, default=1, help="repetitions within a process")
    parser.add_argument("-p", type=int, default=512)
    parser.add_argument("-n", type=int, default=64)
    parser.add_argument("-c", type=int, nargs="*", default=[], help="also with so many tokens in the KV cache before either")
    parser.add_argument("-b", type=int, nargs="*", default=[], help="also decoding so many streams at once")
    parser.add_argument("--under", default="", metavar="COMMAND", help="runs each measurement, such as `chrt -r 1`")
    parser.add_argument("--machine", default=machine(), help="what the machine is called, if it says less of itself")
    parser.add_argument("--json", metavar="FILE", help="where everything that was measured goes")
    args = parser.parse_args()
    under = shlex.split(args.under)

    if not os.path.exists(args.model + ".packed"):
        subprocess.run([args.glowplug, "pack", args.model, "-o", args.model + ".packed"], check=True, stdout=sys.stderr)
    link = as_it_came(args.model)
    layouts = told([*under, args.glowplug, "tune", args.model, "--json"])["layouts"]
    pythons = {"llama.cpp": args.llama_python or python_of("llama.cpp", os.path.join("target", "llama"))}
    if args.ik is None:
        print("ik_llama.cpp is NOT MEASURED: --ik adds it", file=sys.stderr)
    else:
        pythons["ik_llama.cpp"] = args.ik or python_of("ik_llama.cpp", os.path.join("target", "ik"))

    # prompt, decode, depth, streams
    settings = [(args.p, args.n, 0, 1)]
    settings += [(args.p, args.n, depth, 1) for depth in args.c] + [(SHORT, args.n, 0, streams) for streams in args.b]

    def command(name, prompt, decode, depth, streams):
        if name in pythons:
            sizes = [args.threads, prompt, decode, depth, streams, args.reps]
            return [*under, pythons[name], os.path.join(HERE, "llama.py"), MODULES[name], args.model, *map(str, sizes)]
        options = {"-t": args.threads, "-p": prompt, "-n": decode, "-c": depth, "-b": streams, "--reps": args.reps}
        model = args.model if name == table.PACKED else link
        return [*under, args.glowplug, "bench", model, *(str(w) for pair in options.items() for w in pair), "--json"]

    names = [table.PACKED, table.UNPACKED, *pythons]
    probe, rounds, discarded = int8_probe(), [], 0
    while len(rounds) < args.rounds:
        results = {name: {} for name in names}
        for setting in settings:
            key, worst = table.key(*setting), 1
            while worst > STEAL_MAX:
                worst = 0
                for name in names[:: 1 if (len(rounds) + discarded) % 2 == 0 else -1]:
                    before = stolen()
                    result = told(command(name, *setting))
                    steal, ticks = (after - was for after, was in zip(stolen(), before))
                    worst = max(worst, steal / max(ticks, 1))
                    results[name][key] = result
                    print(f"round {len(rounds) + 1}, {key}: {name} {result['prefill_tps']:.1f} / "
                          f"{result['aggregate_tps']:.2f} tokens/s, steal {steal / max(ticks, 1):.1%}", file=sys.stderr)
                discarded += worst > STEAL_MAX
                if discarded > args.rounds * len(settings):
                    sys.exit(f"{discarded} comparisons had more than {STEAL_MAX:.0%} steal")
        level = results[table.PACKED][table.key(*settings[0])]["isa"] == "avx2"
        results["int8"] = float(told_words([*under, probe, str(args.threads)])[level])
        rounds.append(results)

    measured = {
        "model": os.path.basename(args.model), "machine": args.machine, "date": datetime.date.today().isoformat(),
        "threads": args.threads, "settings": settings, "names": names, "discarded": discarded, "rounds": rounds,
        "versions": [PACKAGES[name].replace("==", " ") for name in pythons],
        "served": table.PACKED if layouts is None or layouts["packed_is_faster"] else table.UNPACKED,
    }
    if args.json:
        with open(args.json, "w") as file:
            json.dump(measured, file)
    print("\n".join(table.lines([measured])) + "\n")
    walls(measured, table.key(*settings[0]), macs_per_token(args.glowplug, args.model))
    served, other = (table.question_s(measured, name) for name in sorted(names[:2], key=lambda n: n != measured["served"]))
    print(f"`serve` takes {measured['served']}: {served / other:.2f} of the time of the other layout for a question.")
    sys.exit(served > 1.03 * other)


def told_words(command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def walls(measured, setting, macs):
    """How far glowplug is from what the machine's memory and multipliers allow."""
    rounds = [(r[measured["served"]][setting], r["int8"]) for r in measured["rounds"]]
    middle = {f: statistics.median(r[f] for r, _ in rounds) for f in ("read_gbps", "probe_gbps", "probe_share")}
    print(f"glowplug reads {middle['read_gbps']:.1f} GB/s of weights while it decodes, "
          f"{middle['probe_share']:.0%} of the {middle['probe_gbps']:.1f} GB/s that its own probe reads.")
    if all(int8 for _, int8 in rounds):
        gmacs = [r["prefill_tps"] * macs / 1e9 for r, _ in rounds]
        share = statistics.median(g / int8 for g, (_, int8) in zip(gmacs, rounds))
        print(f"Its prefill multiplies {statistics.median(gmacs):.0f} GMAC/s of the layers' weights, {share:.0%} of the "
              f"{statistics.median(int8 for _, int8 in rounds):.0f} of a bare loop of the same level.")
    else:
        print("No int8 probe: this CPU has not the instructions.")


main()
