#!/usr/bin/env python3
"""What `glowplug bench --json` measures, by llama.cpp or by ik_llama.cpp. Runs in the Python that has its bindings.

usage: llama.py llama_cpp|ik_llama_cpp MODEL.gguf THREADS PROMPT DECODE DEPTH STREAMS REPS
"""
import ctypes
import json
import sys
import time

import numpy as np

BATCH = 512


class Model:
    """A model by the functions of llama.h, which both have; where their names differ, by whichever there is."""

    def __init__(self, api, path, threads, tokens, streams):
        self.api, self.streams = api, streams
        api.llama_backend_init()
        self.model = api.llama_model_load_from_file(path.encode(), api.llama_model_default_params())
        params = api.llama_context_default_params()
        # each stream has the same part of the cache
        params.n_ctx, params.n_seq_max = tokens * streams, streams
        params.n_batch = params.n_ubatch = BATCH
        params.n_threads = params.n_threads_batch = threads
        if hasattr(params, "flash_attn_type"):
            params.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_ENABLED
        else:
            params.flash_attn = True
        self.context = self.model and api.llama_init_from_model(self.model, params)
        if not self.context:
            sys.exit(f"{path} cannot be loaded")
        self.vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))
        self.batch = api.llama_batch_init(BATCH, 0, 1)
        self.empty()

    def empty(self):
        if hasattr(self.api, "llama_get_memory"):
            self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)
        else:
            self.api.llama_kv_cache_clear(self.context)
        self.filled = [0] * self.streams

    def feed(self, tokens, wanted):
        """Computes (stream, token) pairs, at most BATCH of them; of those in `wanted` there are logits afterwards."""
        self.batch.n_tokens = len(tokens)
        for i, (stream, token) in enumerate(tokens):
            self.batch.token[i], self.batch.pos[i] = token, self.filled[stream]
            self.batch.n_seq_id[i], self.batch.seq_id[i][0] = 1, stream
            self.batch.logits[i] = i in wanted
            self.filled[stream] += 1
        if self.api.llama_decode(self.context, self.batch) != 0:
            sys.exit("llama_decode failed")

    def greedy(self, i):
        logits = ctypes.cast(self.api.llama_get_logits_ith(self.context, i), ctypes.POINTER(ctypes.c_float))
        return int(np.argmax(np.ctypeslib.as_array(logits, (self.vocab,))))

    def prefill(self, stream, ids):
        """The most likely token after a prompt."""
        for begin in range(0, len(ids), BATCH):
            part = ids[begin:begin + BATCH]
            last = {len(part) - 1} if begin + BATCH >= len(ids) else ()
            self.feed([(stream, token) for token in part], last)
        return self.greedy(-1) if ids else None

    def once(self, ids, depth, prompt, decode):
        """Seconds of a prompt to its first token, and of that many steps of all streams, as `run_once` of glowplug has it."""
        self.empty()
        self.prefill(0, ids[:depth])
        start = time.perf_counter()
        tokens = [self.prefill(0, ids[:prompt])] * self.streams
        prefill = time.perf_counter() - start
        self.empty()
        for stream in range(self.streams):
            self.prefill(stream, ids[:depth])
        start = time.perf_counter()
        for _ in range(decode):
            self.feed(list(enumerate(tokens)), range(self.streams))
            tokens = [self.greedy(stream) for stream in range(self.streams)]
        return prefill, time.perf_counter() - start


def main():
    name, path, threads, prompt, decode, depth, streams, reps = sys.argv[1:3] + [int(arg) for arg in sys.argv[3:]]
    if name == "llama_cpp":
        import llama_cpp as api
        silent = api.llama_log_callback(lambda level, text, data: None)
        api.llama_log_set(silent, None)
    else:
        from ik_llama_cpp import _ctypes_api as api
    warm_up = 16
    start = time.perf_counter()
    model = Model(api, path, threads, depth + max(prompt, decode, warm_up) + 16, streams)
    load = time.perf_counter() - start
    ids = [(i * 7919) % model.vocab for i in range(max(prompt, depth, warm_up))]
    first, _ = model.once(ids, 0, warm_up, warm_up)
    prefills, decodes = zip(*(model.once(ids, depth, prompt, decode) for _ in range(reps)))
    median = lambda values: sorted(values)[len(values) // 2]
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    print(json.dumps({
        "prefill_tps": prompt / median(prefills), "decode_tps": decode / median(decodes),
        "aggregate_tps": streams * decode / median(decodes), "load_s": load, "start_s": load + first, "peak_rss_bytes": peak,
    }))


main()
