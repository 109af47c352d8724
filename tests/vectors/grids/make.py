#!/usr/bin/env python3
"""Writes the grids of IQ1, IQ2 and IQ3 as the kernels read them, and what others make of blocks and of models in these formats.

    cargo run --release -p glowplug-tests --example grids -- FOLDER
    make.py FOLDER

`grids.bin` of the model crate is gguf-py's own short form: two bytes for each row of a grid, from the lowest bits on two for each of
eight values or four for each of four, which count in the grid's list of values. `dequantized.json` has the SHA-256 of the f32 that
gguf-py makes of 10,000 random blocks of each type. `log_probabilities.json` has what llama.cpp says of the files in FOLDER, with keys
and values in f16 on its processor. Made with numpy 2.4.6, gguf 0.19.0 and xllamacpp 2026.10.11549 (llama.cpp b11549).
"""
import hashlib
import json
import pathlib
import sys

import gguf
import numpy as np
from gguf import quants

sys.path.append(str(pathlib.Path(__file__).parents[1]))
from asked import log_probabilities

HERE = pathlib.Path(__file__).parent
GRIDS = HERE.parents[2] / "model/src/quant/format/grids.bin"
# in the order of the file
WITH_GRIDS = ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_S", "IQ3_XXS", "IQ3_S")
TYPES = ("IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ3_S", "IQ2_S", "IQ1_M")
BLOCKS = 10_000


def grids():
    packed = [bytes.fromhex(getattr(quants, name).grid_hex.decode()) for name in WITH_GRIDS]
    GRIDS.write_bytes(b"".join(packed))
    for name in WITH_GRIDS:
        kind = getattr(quants, name)
        kind.init_grid()
        print(name, hashlib.sha256(kind.grid.astype(np.int8).tobytes()).hexdigest(), file=sys.stderr)


def split_mix(name, count):
    """Numbers of `glowplug_tests::SplitMix::new(0, name)`."""
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = (state ^ byte) * 0x100000001B3 % 2**64
    z = np.uint64(state) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def dequantized(name):
    kind = gguf.GGMLQuantizationType[name]
    size = gguf.GGML_QUANT_SIZES[kind][1]
    blocks = split_mix(name, BLOCKS * size // 8).astype("<u8").view(np.uint8).reshape(BLOCKS, size).copy()
    # a bit of the exponent of d, so that it is finite
    blocks[:, 55 if name == "IQ1_M" else 1] &= 0xBF
    values = quants.dequantize(blocks, kind).astype("<f4")
    assert np.isfinite(values).all()
    return hashlib.sha256(values.tobytes()).hexdigest()


def main():
    folder = pathlib.Path(sys.argv[1])
    grids()
    hashes = [f"{json.dumps(name)}: {json.dumps(dequantized(name))}" for name in TYPES]
    (HERE / "dequantized.json").write_text("{\n" + ",\n".join(hashes) + "\n}\n")
    asked = json.loads((folder / "asked.json").read_text())
    rows = []
    for path in sorted(folder.glob("*.gguf")):
        known = np.round(log_probabilities(path, asked, "F16"), 5)[:, :: asked["every"]]
        rows.append(f"{json.dumps(path.stem)}: {json.dumps(known.tolist())}")
    (HERE / "log_probabilities.json").write_text("{\n" + ",\n".join(rows) + "\n}\n")


main()
