#!/usr/bin/env python3
"""Asks llama.cpp for the probabilities of tokens after the texts of tiny models, and writes their logarithms.

    cargo run --release -p glowplug-tests --example formats -- tiny FOLDER
    log_probabilities.py FOLDER > log_probabilities.json

Made with xllamacpp 2026.10.11549 (llama.cpp b11549).
"""
import json
import pathlib
import sys

import numpy as np

sys.path.append(str(pathlib.Path(__file__).parents[1]))
from asked import log_probabilities

folder = pathlib.Path(sys.argv[1])
asked = json.loads((folder / "asked.json").read_text())
rows = []
for path in sorted(folder.glob("*.gguf")):
    answer = np.array(log_probabilities(path, asked, "F32"))[:, :: asked["every"]]
    rows.append(f"{json.dumps(path.stem)}: {json.dumps(np.round(answer, 4).tolist())}")
print("{\n" + ",\n".join(rows) + "\n}")
