#!/usr/bin/env python3
"""glowplug and llama.cpp for aarch64, both emulated by qemu-user on this machine: CPU time a token, one thread each.

usage: arm.py MODEL.gguf [--cpu cortex-a76 cortex-a72] [--rounds 3] [-p 16 48] [-n 2 10]

An emulator's time is not a board's: it counts translated instructions, knows nothing of memory, caches or ports, and is
good for one question only, which of two programs needs fewer instructions for the same work. User time of a run with
many tokens less that of a run with few is the time of the tokens between; loading cancels out. Medians of the rounds.

llama.cpp is the one inside llama-cpp-python 0.3.36, cross-compiled for each core's own level (`armv8.2-a+dotprod`,
`armv8-a`) into `target/llama-arm`; glowplug is one binary for both, `target/aarch64-unknown-linux-gnu/release/glowplug`,
built if it is not there. The model is packed first, by the glowplug of this machine, as a daemon does at its first start. Needs
Debian's g++-aarch64-linux-gnu, cmake and qemu-user-static.
"""
import argparse
import glob
import os
import resource
import statistics
import subprocess
import sys
import tarfile

LLAMA = "llama-cpp-python==0.3.36"
SYSROOT = "/usr/aarch64-linux-gnu"
# the level that each core has, in the words of gcc
ARCH = {"cortex-a76": "armv8.2-a+dotprod", "cortex-a72": "armv8-a", "cortex-a53": "armv8-a"}
HERE = os.path.dirname(os.path.abspath(__file__))
TARGET = "aarch64-unknown-linux-gnu"


def call(*command, **options):
    subprocess.run([str(part) for part in command], check=True, stdout=sys.stderr, **options)


def llama_source(folder):
    found = glob.glob(os.path.join(folder, "llama_cpp_python-*", "vendor", "llama.cpp"))
    if not found:
        call(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "llama-cpp-python", "-d", folder, LLAMA)
        (archive,) = glob.glob(os.path.join(folder, "*.tar.gz"))
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        found = glob.glob(os.path.join(folder, "llama_cpp_python-*", "vendor", "llama.cpp"))
    return found[0]


def llama_steps(arch):
    """`steps.c` with llama.cpp for one level."""
    folder = os.path.join("target", "llama-arm")
    program = os.path.join(folder, "steps-" + arch)
    if not os.path.exists(program):
        os.makedirs(folder, exist_ok=True)
        source, build = llama_source(folder), os.path.join(folder, arch)
        off = [f"-D{option}=OFF" for option in (
            "BUILD_SHARED_LIBS", "GGML_NATIVE", "GGML_OPENMP", "LLAMA_BUILD_COMMON", "LLAMA_BUILD_TESTS",
            "LLAMA_BUILD_TOOLS", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_SERVER")]
        call("cmake", "-S", source, "-B", build, "-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
             "-DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc", "-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++",
             "-DCMAKE_BUILD_TYPE=Release", f"-DGGML_CPU_ARM_ARCH={arch}", *off)
        call("cmake", "--build", build, "--target", "llama", "-j2")
        libraries = [os.path.join(build, "src", "libllama.a")]
        libraries += [os.path.join(build, "ggml", "src", f"lib{name}.a") for name in ("ggml", "ggml-cpu", "ggml-base")]
        call("aarch64-linux-gnu-gcc", "-O2", "-c", os.path.join(HERE, "steps.c"), "-o", program + ".o",
             "-I", os.path.join(source, "include"), "-I", os.path.join(source, "ggml", "include"))
        call("aarch64-linux-gnu-g++", program + ".o", *libraries, "-lpthread", "-ldl", "-o", program)
    return program


def glowplug(*target):
    """The binary for a target, or without one for this machine."""
    program = os.path.join("target", *target, "release", "glowplug")
    if not os.path.exists(program):
        linker = {"CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER": "aarch64-linux-gnu-gcc"}
        call("cargo", "build", "--release", *(word for name in target for word in ("--target", name)),
             env=dict(os.environ, **linker))
    return program


def pack(model):
    """Makes the packed file beside the model, unless it is there; the emulated program takes it from there."""
    if not os.path.exists(model + ".packed"):
        call(glowplug(), "pack", model, "-o", model + ".packed")


def user_seconds(cpu, command):
    """User time of a command under the emulator."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run(["qemu-aarch64-static", "-cpu", cpu, "-L", SYSROOT, *command], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--cpu", nargs="+", default=["cortex-a76", "cortex-a72"], choices=ARCH)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-p", nargs=2, type=int, default=[16, 48], metavar=("FEW", "MANY"))
    parser.add_argument("-n", nargs=2, type=int, default=[2, 10], metavar=("FEW", "MANY"))
    args = parser.parse_args()
    ours = glowplug(TARGET)
    pack(args.model)

    print(f"{os.path.basename(args.model)}, emulated, one thread, medians of {args.rounds} rounds, user ms a token\n")
    print("| core | phase | glowplug | llama.cpp | ratio |\n|---|---|---|---|---|")
    for cpu in args.cpu:
        programs = {
            "glowplug": lambda p, n: [ours, "bench", args.model, "-t", "1", "-p", p, "-n", n, "--reps", "1", "--json"],
            "llama.cpp": lambda p, n, steps=llama_steps(ARCH[cpu]): [steps, args.model, p, n],
        }
        times = {(name, phase): [] for name in programs for phase in ("prefill", "decode")}
        for i in range(args.rounds):
            for name in list(programs)[:: 1 if i % 2 == 0 else -1]:
                run = lambda p, n: user_seconds(cpu, programs[name](str(p), str(n)))
                few = run(args.p[0], args.n[0])
                times[name, "prefill"].append((run(args.p[1], args.n[0]) - few) / (args.p[1] - args.p[0]))
                times[name, "decode"].append((run(args.p[0], args.n[1]) - few) / (args.n[1] - args.n[0]))
                print(f"{cpu} round {i + 1}: {name} {1e3 * times[name, 'prefill'][-1]:.0f} / "
                      f"{1e3 * times[name, 'decode'][-1]:.0f} ms", file=sys.stderr)
        for phase in ("prefill", "decode"):
            mine, theirs = (1e3 * statistics.median(times[name, phase]) for name in programs)
            print(f"| {cpu} | {phase} | {mine:.0f} | {theirs:.0f} | {mine / theirs:.2f} |")


main()
