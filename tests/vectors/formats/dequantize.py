#!/usr/bin/env python3
"""Dequantises ten thousand random blocks of each format, and writes what SHA-256 makes of their f32.

    dequantize.py > model/src/quant/testdata/formats.txt

gguf-py does it, in numpy and independently of ggml's C. It has no Q1_0 and Q2_0 yet: these are computed here from their layouts.
Made with numpy 2.4.6 and gguf 0.19.0.
"""
import hashlib

import gguf
import numpy as np

BLOCKS = 10_000


def q1_0(blocks):
    d = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    bits = np.unpackbits(blocks[:, 2:], axis=1, bitorder="little")
    return np.where(bits == 1, d, -d)


def q2_0(blocks):
    d = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    codes = blocks[:, 2:, None] >> np.arange(0, 8, 2, dtype=np.uint8) & 3
    return d * (codes.reshape(len(blocks), 64).astype(np.float32) - 1)


# id, bytes of a block, and how it is dequantised
FORMATS = {
    "IQ4_XS": (23, 136, gguf.quants.IQ4_XS.dequantize_blocks),
    "TQ1_0": (34, 54, gguf.quants.TQ1_0.dequantize_blocks),
    "TQ2_0": (35, 66, gguf.quants.TQ2_0.dequantize_blocks),
    "MXFP4": (39, 17, gguf.quants.MXFP4.dequantize_blocks),
    "NVFP4": (40, 36, gguf.quants.NVFP4.dequantize_blocks),
    "Q1_0": (41, 18, q1_0),
    "Q2_0": (42, 18, q2_0),
}


def random_bytes(seed, count):
    """SplitMix64."""
    z = np.uint64(seed) + np.uint64(0x9E3779B97F4A7C15) * np.arange(1, -(-count // 8) + 1, dtype=np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))).astype("<u8").view(np.uint8)[:count]


print("# SHA-256 of the f32 of 10,000 random blocks, little-endian, any NaN as 7fc00000: tests/vectors/formats/dequantize.py")
np.seterr(all="ignore")
for name, (id, size, dequantize) in FORMATS.items():
    values = dequantize(random_bytes(id, BLOCKS * size).reshape(BLOCKS, size)).astype("<f4").reshape(-1)
    bits = np.where(np.isnan(values), np.uint32(0x7FC00000), values.view(np.uint32))
    print(name, hashlib.sha256(bits.astype("<u4").tobytes()).hexdigest())
