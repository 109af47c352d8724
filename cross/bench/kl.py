#!/usr/bin/env python3
"""How far a model's distributions are from exact ones.

usage: kl.py EXACT.json OURS.json [--max-kl X] [--min-top1 PERCENT]

Both files have the shape of `glowplug eval --out`. EXACT has the k most likely tokens of each position; OURS should have
more than k (`--top 512`), so that each of those is among them. The KL divergence of a position, in nats, is that of the
exact distribution from ours over the exact top tokens and one remainder that holds everything else. A token that OURS
does not list is moved into the remainder on both sides, which can only make the figure smaller: they are counted.
With a limit given, the exit code is 1 if it is not kept.
"""
import argparse
import json
import math
import sys


def divergence(exact, ours):
    """KL of two lists of (id, ln p), and how many of the exact ids were not listed."""
    ours = dict(ours)
    shared = [(math.exp(lp), math.exp(ours[i])) for i, lp in exact if i in ours]
    kl = sum(p * math.log(p / q) for p, q in shared if p > 0 and q > 0)
    # rounding in the files: a remainder below this says nothing
    p, q = (max(1.0 - sum(pair[side] for pair in shared), 1e-6) for side in (0, 1))
    return kl + p * math.log(p / q), len(exact) - len(shared)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("exact")
    parser.add_argument("ours")
    parser.add_argument("--max-kl", type=float)
    parser.add_argument("--min-top1", type=float, metavar="PERCENT")
    args = parser.parse_args()
    exact, ours = (json.load(open(path)) for path in (args.exact, args.ours))
    if [s["tokens"] for s in exact] != [s["tokens"] for s in ours]:
        sys.exit("the two files are not of the same tokens")

    kls, agree, unlisted = [], 0, 0
    for e, o in zip(exact, ours):
        for ids, lps, our_ids, our_lps in zip(e["top_ids"], e["top_logprobs"], o["top_ids"], o["top_logprobs"], strict=True):
            kl, missing = divergence(list(zip(ids, lps)), zip(our_ids, our_lps))
            kls.append(kl)
            unlisted += missing
            agree += ids[0] == our_ids[0]
    mean, top1 = sum(kls) / len(kls), 100 * agree / len(kls)
    losses = [sum(sum(s["nll"]) for s in side) / sum(len(s["nll"]) for s in side) for side in (exact, ours)]
    print(f"mean KL {mean:.5f}, largest {max(kls):.4f}, top-1 agreement {top1:.2f} %, over {len(kls)} positions")
    print(f"loss {losses[1]:.5f}, exact {losses[0]:.5f}; {unlisted} of the exact top tokens not listed")
    if args.max_kl is not None and mean > args.max_kl or args.min_top1 is not None and top1 < args.min_top1:
        sys.exit(1)


main()
