// llama.cpp's side of `arm.py`: a prompt, then tokens one by one, on one thread. Its CPU time is measured from outside.
#include "llama.h"
#include <stdio.h>
#include <stdlib.h>

static llama_token greedy(struct llama_context * ctx, int vocab) {
    const float * logits = llama_get_logits_ith(ctx, -1);
    int best = 0;
    for (int i = 1; i < vocab; i++) {
        if (logits[i] > logits[best]) best = i;
    }
    return best;
}

static void decode(struct llama_context * ctx, llama_token * tokens, int n) {
    if (llama_decode(ctx, llama_batch_get_one(tokens, n)) != 0) {
        fprintf(stderr, "llama_decode failed\n");
        exit(1);
    }
}

int main(int argc, char ** argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: steps MODEL PROMPT_TOKENS DECODE_TOKENS\n");
        return 2;
    }
    const int prompt = atoi(argv[2]), steps = atoi(argv[3]);
    llama_backend_init();
    struct llama_model * model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (!model) return 1;
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = (prompt > steps ? prompt : steps) + 16;
    params.n_threads = params.n_threads_batch = 1;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    struct llama_context * ctx = llama_init_from_model(model, params);
    if (!ctx) return 1;
    const int vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    llama_token * ids = malloc(sizeof(llama_token) * (prompt + 1));
    for (int i = 0; i < prompt; i++) ids[i] = (llama_token) ((long) i * 7919 % vocab);
    decode(ctx, ids, prompt);
    llama_token token = greedy(ctx, vocab);
    llama_memory_clear(llama_get_memory(ctx), true);
    for (int i = 0; i < steps; i++) {
        decode(ctx, &token, 1);
        token = greedy(ctx, vocab);
    }
    printf("%d\n", token);
    return 0;
}
