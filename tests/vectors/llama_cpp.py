"""What llama.cpp makes of a text."""
import numpy as np
import xllamacpp


def asked_of_llama_cpp(path, asked):
    """The logarithms of the probabilities of all tokens behind the asked positions, with keys and values in f32."""
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx = 512
    params.n_parallel = 1
    params.warmup = False
    params.cpuparams.n_threads = 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
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
    return np.array(rows)
