#!/usr/bin/env python3
"""Innermost loops of aarch64 functions, and instructions per 256 weights: what a core without its own bench can be told by.

usage: loops.py OBJECT REGEX [REGEX…]

OBJECT is a binary with symbols or an object file, REGEX a part of a demangled name. An innermost loop is from a backward
branch to its target with no other such pair within. `smmla` counts 32 multiply-adds, `sdot` 16, `smull` and `smlal` 8;
loops of fewer than 64 are left out. What a block does outside of its innermost loops (scales, minima, floats) is not counted; a loop of
ggml's `ggml_vec_dot_*` has it inside. Ours are `arm::neon::TABLE` and `arm::dotprod::matmul_interleaved`, all types and numbers
of columns in one function, and `i8mm::product::columns`, one function for each kind of block and number of columns.

ggml's, from the sources that arm.py unpacks, in vendor/llama.cpp/ggml:
  aarch64-linux-gnu-gcc -O3 -DNDEBUG -march=armv8-a -Iinclude -Isrc -Isrc/ggml-cpu -D_GNU_SOURCE -c src/ggml-cpu/arch/arm/quants.c
and `repack.cpp` beside it with g++; armv8.2-a+dotprod for the other level.
"""
import collections
import re
import subprocess
import sys

MULTIPLY_ADDS = {"smmla": 32, "sdot": 16, "smull": 8, "smlal": 8, "smull2": 8, "smlal2": 8}
LEAST = 64


def functions(path):
    """(name, [(address, operation, operands)]) of each function."""
    command = ["aarch64-linux-gnu-objdump", "-d", "-C", "--no-show-raw-insn", path]
    name, body = None, []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as objdump:
        for line in objdump.stdout:
            if begin := re.match(r"[0-9a-f]+ <(.*)>:$", line):
                yield name, body
                name, body = begin[1], []
            elif one := re.match(r"\s*([0-9a-f]+):\s+(\S+)\s*(.*)$", line):
                body.append((int(one[1], 16), one[2], one[3]))
    yield name, body


def innermost(body):
    """Indices of the first and the last instruction of each loop that holds no other."""
    index = {address: i for i, (address, _, _) in enumerate(body)}
    loops = []
    for i, (_, operation, operands) in enumerate(body):
        target = re.search(r"([0-9a-f]+) <", operands)
        if target and re.match(r"b$|b\.|cbn?z|tbn?z", operation):
            begin = index.get(int(target[1], 16))
            if begin is not None and begin <= i:
                loops.append((begin, i))
    return [a for a in loops if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in loops)]


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    print("| function | at | instructions | multiply-adds | per 256 | loads and stores | of the stack |")
    print("|---|---|---|---|---|---|---|")
    for name, body in functions(sys.argv[1]):
        if not name or not any(re.search(pattern, name) for pattern in sys.argv[2:]):
            continue
        for begin, end in innermost(body):
            loop = body[begin:end + 1]
            count = collections.Counter(operation for _, operation, _ in loop)
            products = sum(MULTIPLY_ADDS.get(operation, 0) * n for operation, n in count.items())
            memory = [operands for _, operation, operands in loop if re.match("ld|st", operation)]
            if products >= LEAST:
                print(f"| {name} | {body[begin][0]:x} | {len(loop)} | {products} | {256 * len(loop) / products:.0f} | "
                      f"{len(memory)} | {sum('sp' in operands for operands in memory)} |")


main()
