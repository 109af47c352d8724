#!/usr/bin/env python3
"""glowplug and llama.cpp on the same file, on the same machine, in alternating rounds.

usage: bench.py MODEL.gguf [--glowplug BIN] [--llama-python PYTHON] [--rounds 5] [--threads 2] [-p 512] [-n 64] [-c 0]

The model is packed first, beside the file, if it is not yet: as the daemon does at its first start.

Each round runs both, each in a process of its own, and who goes first alternates. A round during which more than 5 % of
the machine's CPU time was stolen (/proc/stat) is discarded, counted and run again, at most as often again as there are
rounds. Medians, and the median of the ratios of each round, come out as a Markdown table.

Without --llama-python, llama-cpp-python 0.3.36 is built for this CPU into `target/llama` of the working directory.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import venv

LLAMA = "llama-cpp-python==0.3.36"
STEAL_MAX = 0.05

# runs in the Python that has llama-cpp-python: prints the same fields as `glowplug bench --json`
LLAMA_BENCH = r"""
import ctypes, json, sys, time
import llama_cpp as L
path, threads, n_prompt, n_decode, depth, reps = sys.argv[1], *map(int, sys.argv[2:])
start = time.perf_counter()
llm = L.Llama(path, n_ctx=depth + max(n_prompt, n_decode) + 16, n_batch=512, n_threads=threads, n_threads_batch=threads,
              flash_attn=True, n_gpu_layers=0, verbose=False, logits_all=False)
load = time.perf_counter() - start
ids = [(i * 7919) % llm.n_vocab() for i in range(max(n_prompt, depth, 16))]
def greedy():
    logits = L.llama_get_logits_ith(llm._ctx.ctx, -1)
    return int(np.argmax(np.ctypeslib.as_array(logits, (llm.n_vocab(),))))
import numpy as np
def empty():
    llm.reset(); llm._ctx.kv_cache_clear()
def fill():
    if depth:
        llm.eval(ids[:depth])
def once(p, n):
    empty(); fill()
    start = time.perf_counter()
    llm.eval(ids[:p]); token = greedy()
    prefill = time.perf_counter() - start
    empty(); fill()
    start = time.perf_counter()
    for _ in range(n):
        llm.eval([token]); token = greedy()
    return prefill, time.perf_counter() - start
once(16, 16)
runs = [once(n_prompt, n_decode) for _ in range(reps)]
median = lambda v: sorted(v)[len(v) // 2]
rss = next(int(l.split()[1]) * 1024 for l in open("/proc/self/status") if l.startswith("VmHWM"))
prefill = median([r[0] for r in runs])
print(json.dumps({"prefill_tps": n_prompt / prefill, "decode_tps": n_decode / median([r[1] for r in runs]),
                  "load_s": load, "first_token_ms": prefill * 1e3, "peak_rss_bytes": rss}))
"""


def llama_python():
    """A virtual environment with llama-cpp-python compiled for this CPU."""
    folder = os.path.join("target", "llama")
    python = os.path.join(folder, "bin", "python")
    if not os.path.exists(os.path.join(folder, "ready")):
        venv.create(folder, with_pip=True)
        # AMX: virtual machines advertise it and fault on its first instruction
        flags = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16" if os.uname().machine == "x86_64" else ""
        env = dict(os.environ, CMAKE_ARGS="-DGGML_NATIVE=ON", FORCE_CMAKE="1", CFLAGS=flags, CXXFLAGS=flags)
        subprocess.run([python, "-m", "pip", "install", "--no-binary", "llama-cpp-python", LLAMA], env=env, check=True)
        open(os.path.join(folder, "ready"), "w").close()
    return python


def int8_probe():
    """`int8.c`, compiled for this CPU."""
    program = os.path.join("target", "int8")
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "int8.c")
    os.makedirs("target", exist_ok=True)
    subprocess.run(["cc", "-O2", "-march=native", "-pthread", source, "-o", program], check=True)
    return program


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


def measured(command):
    """The JSON a command prints, and the share of CPU time stolen while it ran."""
    steal, total = stolen()
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    steal, total = (after - before for after, before in zip(stolen(), (steal, total)))
    return json.loads(out), steal / max(total, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--glowplug", default="target/release/glowplug")
    parser.add_argument("--llama-python")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--reps", type=int, default=1, help="repetitions within a process")
    parser.add_argument("-p", type=int, default=512)
    parser.add_argument("-n", type=int, default=64)
    parser.add_argument("-c", type=int, default=0, help="tokens in the KV cache before either")
    args = parser.parse_args()
    sizes = [str(n) for n in (args.threads, args.p, args.n, args.c, args.reps)]
    if not os.path.exists(args.model + ".packed"):
        subprocess.run([args.glowplug, "pack", args.model, "-o", args.model + ".packed"], check=True, stdout=sys.stderr)
    commands = {
        "glowplug": [args.glowplug, "bench", args.model, "-t", sizes[0], "-p", sizes[1], "-n", sizes[2],
                     "-c", sizes[3], "--reps", sizes[4], "--json"],
        "llama.cpp": [args.llama_python or llama_python(), "-c", LLAMA_BENCH, args.model, *sizes],
    }

    probe, macs = int8_probe(), macs_per_token(args.glowplug, args.model)
    rounds, discarded = [], 0
    while len(rounds) < args.rounds and discarded <= args.rounds:
        order = list(commands) if (len(rounds) + discarded) % 2 == 0 else list(commands)[::-1]
        results = {name: measured(commands[name]) for name in order}
        worst = max(steal for _, steal in results.values())
        said = ", ".join(f"{name} {r['prefill_tps']:.1f} / {r['decode_tps']:.2f}" for name, (r, _) in results.items())
        print(f"round {len(rounds) + 1}: {said} tokens/s, steal {worst:.1%}", file=sys.stderr)
        if worst > STEAL_MAX:
            discarded += 1
        else:
            rounds.append({name: result for name, (result, _) in results.items()})
            both = subprocess.run([probe, sizes[0]], check=True, capture_output=True, text=True).stdout.split()
            rounds[-1]["int8"] = float(both[results["glowplug"][0]["isa"] == "avx2"])
    if not rounds:
        sys.exit(f"every round had more than {STEAL_MAX:.0%} steal")

    print(f"{os.path.basename(args.model)}, {args.threads} threads, prompt {args.p}, decode {args.n}, {args.c} in the cache: "
          f"{len(rounds)} alternating rounds, {discarded} discarded for steal\n")
    print("| median | glowplug | llama.cpp | ratio |\n|---|---|---|---|")
    rows = [("prefill, tokens/s", "prefill_tps", 1, ".1f"), ("decode, tokens/s", "decode_tps", 1, ".2f"),
            ("load, s", "load_s", 1, ".2f"), ("first token, ms", "first_token_ms", 1, ".0f"),
            ("peak resident, MB", "peak_rss_bytes", 1e6, ".0f")]
    for title, field, unit, form in rows:
        ours, theirs = ([r[name][field] / unit for r in rounds] for name in commands)
        ratio = statistics.median(o / t for o, t in zip(ours, theirs))
        print(f"| {title} | {statistics.median(ours):{form}} | {statistics.median(theirs):{form}} | {ratio:.2f} |")
    ours = [r["glowplug"] for r in rounds]
    middle = {f: statistics.median(r[f] for r in ours) for f in ("read_gbps", "probe_gbps", "probe_share")}
    print(f"\nglowplug reads {middle['read_gbps']:.1f} GB/s of weights while it decodes, "
          f"{middle['probe_share']:.0%} of the {middle['probe_gbps']:.1f} GB/s that its own probe reads.")
    if all(r["int8"] for r in rounds):
        gmacs = [r["glowplug"]["prefill_tps"] * macs / 1e9 for r in rounds]
        share = statistics.median(g / r["int8"] for g, r in zip(gmacs, rounds))
        print(f"Its prefill multiplies {statistics.median(gmacs):.0f} GMAC/s of the layers' weights, {share:.0%} of the "
              f"{statistics.median(r['int8'] for r in rounds):.0f} of a bare loop of the same level.")
    else:
        print("No int8 probe: this CPU has not the instructions.")


main()
