#!/usr/bin/env python3
"""Computes the probabilities of tokens after the texts of tiny models, and writes their logarithms.

    cargo run --release -p glowplug-tests --example architectures -- FOLDER
    make.py FOLDER > log_probabilities.json
    make.py FOLDER drafts > drafts.json

Every file is computed twice: by llama.cpp, with keys and values in f32, and here in f64 from the definitions of its parts. Both must
agree within 1e-4. Files of qwen35 are computed by transformers too, in f32, which must agree as well. What is written was computed
here with keys and values rounded to f16, as the cache of the tests has them, because that alone makes a difference of up to 0.008.
What layers that draft expect is computed here alone: transformers leave them out, and llama.cpp gives no probabilities of them.
Made with numpy 2.4.6, gguf 0.19.0, xllamacpp 2026.10.11549 (llama.cpp b11549), and transformers 5.24.0 with torch 2.15 and
accelerate 1.15.0.
"""
import json
import math
import pathlib
import sys

import gguf
import numpy as np
import torch
import transformers

sys.path.append(str(pathlib.Path(__file__).parents[1]))
from asked import log_probabilities

EPS = 1e-6
# llama.cpp does not read the epsilon of these
TOLERANCE = {"qwen2vl": 1e-3}
NEIGHBOURS = ("llama", "smollm3", "granite", "mistral3")


def asked_of_transformers(path, asked):
    model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([asked["tokens"]])).logits[0].double().numpy()
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def logistic(x):
    return 1 / (1 + np.exp(-x))


class Model:
    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        self.arch = reader.fields["general.architecture"].contents()
        self.fields = reader.fields
        self.tensors = {tensor.name: np.array(tensor.data, np.float64) for tensor in reader.tensors}
        self.heads, self.kv_heads = self.key("attention.head_count"), self.key("attention.head_count_kv")
        self.size = self.key("attention.key_length", self.key("embedding_length") // self.heads)
        self.rotated_size = self.key("rope.dimension_count", self.size)

    def key(self, rest, default=None):
        field = self.fields.get(f"{self.arch}.{rest}")
        return default if field is None else field.contents()

    def norm(self, x, name, eps=EPS):
        weight = self.tensors.get(name)
        return x if weight is None else x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight

    def angles(self, positions):
        """Cosines and sines of all positions and pairs, as long as they shall make what they rotate."""
        size, base = self.rotated_size, self.key("rope.freq_base")
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
        size = self.rotated_size
        first, second = (slice(0, size, 2), slice(1, size, 2)) if self.arch in NEIGHBOURS else (slice(size // 2), slice(size // 2, size))
        out = x.copy()
        out[..., first] = x[..., first] * cos - x[..., second] * sin
        out[..., second] = x[..., second] * cos + x[..., first] * sin
        return out

    def mlp(self, h, name):
        gate = h @ self.tensors[name("ffn_gate.weight")].T
        inner = gate * logistic(gate) * (h @ self.tensors[name("ffn_up.weight")].T)
        return inner @ self.tensors[name("ffn_down.weight")].T

    def delta_net(self, h, name):
        """A gated delta net, token by token."""
        tensors, size = self.tensors, self.key("ssm.state_size")
        key_heads, heads = self.key("ssm.group_count"), self.key("ssm.time_step_rank")
        count, keys = len(h), size * key_heads
        qkv = h @ tensors[name("attn_qkv.weight")].T
        padded = np.concatenate([np.zeros((3, qkv.shape[1])), qkv])
        qkv = sum(padded[tap : tap + count] * tensors[name("ssm_conv1d.weight")][:, tap] for tap in range(4))
        qkv = qkv * logistic(qkv)
        q, k, v = (part.reshape(count, -1, size) for part in np.split(qkv, [keys, 2 * keys], 1))
        q, k = (part / np.sqrt((part * part).sum(-1, keepdims=True) + 1e-6) for part in (q, k))
        q = q / math.sqrt(size)
        beta = logistic(h @ tensors[name("ssm_beta.weight")].T)
        step = np.log1p(np.exp(h @ tensors[name("ssm_alpha.weight")].T + tensors[name("ssm_dt.bias")]))
        decay = np.exp(tensors[name("ssm_a")] * step)
        out = np.empty((count, heads, size))
        for head in range(heads):
            state, key_head = np.zeros((size, size)), head % key_heads
            for t in range(count):
                state *= decay[t, head]
                change = (v[t, head] - k[t, key_head] @ state) * beta[t, head]
                state += np.outer(k[t, key_head], change)
                out[t, head] = q[t, key_head] @ state
        gate = h @ tensors[name("attn_gate.weight")].T
        out = self.norm(out, name("ssm_norm.weight")).reshape(count, -1) * gate * logistic(gate)
        return out @ tensors[name("ssm_out.weight")].T

    def layer(self, layer, x, cached):
        """What a layer makes of all positions."""
        count, tensors = len(x), self.tensors
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
        behind = "ffn_norm" if self.arch != "qwen35" else "post_attention_norm"
        name = lambda part: f"blk.{layer}.{part}"
        h = self.norm(x, name("attn_norm.weight"))
        if name("ssm_a") in tensors:
            x = x + self.delta_net(h, name)
            return x + self.mlp(self.norm(x, name(behind + ".weight")), name)
        heads = {}
        for part in "qkv":
            values = h @ tensors[name(f"attn_{part}.weight")].T + tensors.get(name(f"attn_{part}.bias"), 0.0)
            heads[part] = values.reshape(count, -1, self.size)
        gate = 1.0
        if self.arch == "qwen35":
            heads["q"], gate = np.split(heads["q"].reshape(count, self.heads, -1), 2, -1)
            gate = logistic(gate).reshape(count, -1)
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
        a = gate * np.einsum("hij,jhd->ihd", weights, values).reshape(count, -1)
        a = a @ tensors[name("attn_output.weight")].T
        x = x + residual * (a if self.arch == "qwen35" else self.norm(a, name("post_attention_norm.weight")))
        inner = self.mlp(self.norm(x, name(behind + ".weight")), name)
        return x + residual * self.norm(inner, name("post_ffw_norm.weight"))

    def hidden(self, tokens, cached):
        x = self.tensors["token_embd.weight"][tokens] * self.key("embedding_scale", 1.0)
        for layer in range(self.key("block_count") - self.key("nextn_predict_layers", 0)):
            x = self.layer(layer, x, cached)
        return x

    def log_probabilities(self, tokens, cached):
        return self.logarithms(self.norm(self.hidden(tokens, cached), "output_norm.weight"))

    def drafts(self, tokens, cached):
        """What the layer that drafts expects behind each token, which it sees with the hidden state of the token before."""
        layer = self.key("block_count") - 1
        name = lambda part: f"blk.{layer}.nextn.{part}.weight"
        hidden = self.norm(self.hidden(tokens, cached), "output_norm.weight")
        before = np.concatenate([np.zeros((1, hidden.shape[1])), hidden[:-1]])
        embedded = self.norm(self.tensors["token_embd.weight"][tokens], name("enorm"))
        x = np.concatenate([embedded, self.norm(before, name("hnorm"))], 1) @ self.tensors[name("eh_proj")].T
        return self.logarithms(self.norm(self.layer(layer, x, cached), name("shared_head_norm")))

    def logarithms(self, x):
        head = self.tensors.get("output.weight", self.tensors["token_embd.weight"])
        logits = x @ head.T / self.key("logit_scale", 1.0)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


folder = pathlib.Path(sys.argv[1])
asked = json.loads((folder / "asked.json").read_text())
rows = []
for path in sorted(folder.glob("*.gguf")):
    model = Model(path)
    if sys.argv[2:] == ["drafts"]:
        if model.key("nextn_predict_layers"):
            halves = model.drafts(asked["tokens"], np.float16)[asked["positions"], :: asked["every"]]
            rows.append(f"{json.dumps(path.stem)}: {json.dumps(np.round(halves, 5).tolist())}")
        continue
    own = model.log_probabilities(asked["tokens"], np.float64)[asked["positions"]]
    off = np.abs(own - np.array(log_probabilities(path, asked, "F32"))).max()
    assert off < TOLERANCE.get(model.arch, 1e-4), f"{path.stem}: {off} beside llama.cpp"
    print(f"{path.stem}: {off:.6f}", file=sys.stderr)
    if model.arch == "qwen35":
        off = np.abs(own - asked_of_transformers(path, asked)[asked["positions"]]).max()
        assert off < 1e-4, f"{path.stem}: {off} beside transformers"
        print(f"{path.stem}: {off:.6f} beside transformers", file=sys.stderr)
    halves = model.log_probabilities(asked["tokens"], np.float16)[asked["positions"], :: asked["every"]]
    rows.append(f"{json.dumps(path.stem)}: {json.dumps(np.round(halves, 5).tolist())}")
print("{\n" + ",\n".join(rows) + "\n}")
