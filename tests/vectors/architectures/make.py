#!/usr/bin/env python3
"""Computes the probabilities of tokens after the texts of tiny models, and writes their logarithms.

    cargo run --release --workspace --example architectures -- FOLDER
    make.py FOLDER > log_probabilities.json

Every file is computed twice: by llama.cpp, with keys and values in f32, and here in f64 from the definitions of its parts. Both must
agree within 1e-4. What is written was computed here with keys and values rounded to f16, as the cache of the tests has them, because
that alone makes a difference of up to 0.008. Made with numpy 2.4.6, gguf 0.19.0 and xllamacpp 2026.10.11549 (llama.cpp b11549).
"""
import json
import math
import pathlib
import sys

import gguf
import numpy as np

sys.path.append(str(pathlib.Path(__file__).parent.parent))
from llama_cpp import asked_of_llama_cpp

EPS = 1e-6
# llama.cpp does not read the epsilon of these
TOLERANCE = {"qwen2vl": 1e-3}
NEIGHBOURS = ("llama", "smollm3", "granite", "mistral3")


class Model:
    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        self.arch = reader.fields["general.architecture"].contents()
        self.fields = reader.fields
        self.tensors = {tensor.name: np.array(tensor.data, np.float64) for tensor in reader.tensors}
        self.heads, self.kv_heads = self.key("attention.head_count"), self.key("attention.head_count_kv")
        self.size = self.key("embedding_length") // self.heads

    def key(self, rest, default=None):
        field = self.fields.get(f"{self.arch}.{rest}")
        return default if field is None else field.contents()

    def norm(self, x, name, eps=EPS):
        weight = self.tensors.get(name)
        return x if weight is None else x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight

    def angles(self, positions):
        """Cosines and sines of all positions and pairs, as long as they shall make what they rotate."""
        size, base = self.size, self.key("rope.freq_base")
        base *= self.key("rope.scaling.alpha", 1.0) ** (size / (size - 2))
        divisor = self.tensors.get("rope_freqs.weight", np.ones(size // 2))
        length = self.key("rope.scaling.attn_factor", 1.0)
        factor = self.key("rope.scaling.factor", 1.0)
        if self.key("rope.scaling.type") == "linear":
            divisor = factor * divisor
        if self.key("rope.scaling.type") == "yarn":
            original = self.key("rope.scaling.original_context_length")
            # the pair that turns so often in the original context
            pair = lambda turns: size * math.log(original / (2 * math.pi * turns)) / (2 * math.log(base))
            first = max(0, math.floor(pair(self.key("rope.scaling.yarn_beta_fast", 32.0))))
            last = min(size - 1, math.ceil(pair(self.key("rope.scaling.yarn_beta_slow", 1.0))))
            share = np.clip((np.arange(size // 2) - first) / max(last - first, 0.001), 0, 1)
            divisor = 1 / (share / factor + 1 - share)
            known = self.key("rope.scaling.yarn_log_multiplier", 0.0)
            length *= (1 + 0.1 * math.log(factor)) / (1 + 0.1 * known * math.log(factor))
        frequency = base ** (-np.arange(size // 2) / (size // 2)) / divisor
        angle = np.outer(np.arange(positions), frequency)[:, None]
        return np.cos(angle) * length, np.sin(angle) * length

    def rotated(self, x, cos, sin):
        half = self.size // 2
        first, second = (slice(0, None, 2), slice(1, None, 2)) if self.arch in NEIGHBOURS else (slice(half), slice(half, None))
        out = np.empty_like(x)
        out[..., first] = x[..., first] * cos - x[..., second] * sin
        out[..., second] = x[..., second] * cos + x[..., first] * sin
        return out

    def log_probabilities(self, tokens, cached):
        count, tensors = len(tokens), self.tensors
        cos, sin = self.angles(count)
        residual = self.key("residual_scale", 1.0)
        scale = self.key("attention.scale", 1 / math.sqrt(self.size)) * np.ones(count)
        step = self.key("rope.scaling.original_context_length", count)
        scale *= 1 + self.key("attention.temperature_scale", 0.0) * np.log(1 + np.arange(count) // step)
        every = 4 if self.arch == "smollm3" else 0
        if self.key("rope.scaling.finetuned") is False:
            every = 1
        group = self.heads // self.kv_heads
        later = np.triu(np.full((count, count), -np.inf), 1)
        x = tensors["token_embd.weight"][tokens] * self.key("embedding_scale", 1.0)
        for layer in range(self.key("block_count")):
            name = lambda part: f"blk.{layer}.{part}"
            h = self.norm(x, name("attn_norm.weight"))
            heads = {}
            for part in "qkv":
                values = h @ tensors[name(f"attn_{part}.weight")].T + tensors.get(name(f"attn_{part}.bias"), 0.0)
                heads[part] = values.reshape(count, -1, self.size)
            for part in "qk":
                norm = name(f"attn_{part}_norm.weight")
                rotates = every == 0 or (layer + 1) % every != 0
                if self.arch != "hunyuan-dense":
                    heads[part] = self.norm(heads[part], norm)
                if rotates:
                    heads[part] = self.rotated(heads[part], cos, sin)
                if self.arch == "hunyuan-dense":
                    heads[part] = self.norm(heads[part], norm)
            keys, values = (np.repeat(heads[part].astype(cached).astype(np.float64), group, 1) for part in "kv")
            scores = np.einsum("ihd,jhd->hij", heads["q"] * scale[:, None, None], keys) + later
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            a = np.einsum("hij,jhd->ihd", weights, values).reshape(count, -1) @ tensors[name("attn_output.weight")].T
            x = x + residual * self.norm(a, name("post_attention_norm.weight"))
            h = self.norm(x, name("ffn_norm.weight"))
            gate = h @ tensors[name("ffn_gate.weight")].T
            inner = gate / (1 + np.exp(-gate)) * (h @ tensors[name("ffn_up.weight")].T)
            x = x + residual * self.norm(inner @ tensors[name("ffn_down.weight")].T, name("post_ffw_norm.weight"))
        logits = self.norm(x, "output_norm.weight") @ tensors["token_embd.weight"].T / self.key("logit_scale", 1.0)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


folder = pathlib.Path(sys.argv[1])
asked = json.loads((folder / "asked.json").read_text())
rows = []
for path in sorted(folder.glob("*.gguf")):
    model = Model(path)
    own = model.log_probabilities(asked["tokens"], np.float64)[asked["positions"]]
    off = np.abs(own - asked_of_llama_cpp(path, asked)).max()
    assert off < TOLERANCE.get(model.arch, 1e-4), f"{path.stem}: {off} beside llama.cpp"
    print(f"{path.stem}: {off:.6f}", file=sys.stderr)
    halves = model.log_probabilities(asked["tokens"], np.float16)[asked["positions"], :: asked["every"]]
    rows.append(f"{json.dumps(path.stem)}: {json.dumps(np.round(halves, 5).tolist())}")
print("{\n" + ",\n".join(rows) + "\n}")
