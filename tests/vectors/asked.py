"""What llama.cpp says of a tiny file, for the `make.py` beside it; with xllamacpp 2026.10.11549 (llama.cpp b11549)."""
import xllamacpp


def log_probabilities(path, asked, cache):
    """Logarithms of the probabilities of all tokens behind each of the positions; `cache` is the name of keys' and values' type."""
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx = 512
    params.n_parallel = 1
    params.warmup = False
    params.cpuparams.n_threads = 1
    params.cache_type_k = params.cache_type_v = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{cache}")
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(params)
    rows = []
    for position in asked["positions"]:
        answer = server.handle_completions({
            "prompt": asked["tokens"][: position + 1],
            "n_predict": 1,
            "logprobs": 1 << 20,
            "temperature": 0.0,
            "cache_prompt": False,
            # no probabilities are given with the end of the text and with half a character, so that an "a" is drawn; those that
            # are given are the network's own all the same
            "logit_bias": [[ord("a"), 1000.0]],
        })
        likely = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        by_token = {token["id"]: token["logprob"] for token in likely}
        rows.append([by_token[id] for id in range(len(by_token))])
    return rows
