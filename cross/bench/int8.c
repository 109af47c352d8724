// The int8 arithmetic of this machine: multiply-adds a second of a bare vpdpbusd loop on so many threads, everything in
// registers. What prefill could reach at most; printed in 1e9 a second. Without VNNI it prints 0.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#ifdef __AVX512VNNI__
#include <immintrin.h>

enum { ROUNDS = 50000000, SUMS = 12 };

static void *work(void *sink) {
    __m512i sum[SUMS], w = _mm512_set1_epi8(1), x = _mm512_set1_epi8(1);
#pragma GCC unroll 12
    for (int i = 0; i < SUMS; i++) sum[i] = _mm512_setzero_si512();
    for (int round = 0; round < ROUNDS; round++)
#pragma GCC unroll 12
        for (int i = 0; i < SUMS; i++) {
            sum[i] = _mm512_dpbusd_epi32(sum[i], w, x);
            __asm__ volatile("" : "+v"(sum[i])); // no round is taken out of the loop
        }
#pragma GCC unroll 12
    for (int i = 1; i < SUMS; i++) sum[0] = _mm512_add_epi32(sum[0], sum[i]);
    *(int *)sink = _mm512_reduce_add_epi32(sum[0]);
    return NULL;
}

int main(int argc, char **argv) {
    int threads = argc > 1 ? atoi(argv[1]) : 1, sinks[64];
    if (threads < 1 || threads > 64) return 2;
    pthread_t handles[64];
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (int t = 0; t < threads; t++)
        if (pthread_create(&handles[t], NULL, work, &sinks[t])) return 1;
    for (int t = 0; t < threads; t++) pthread_join(handles[t], NULL);
    clock_gettime(CLOCK_MONOTONIC, &end);
    double seconds = (end.tv_sec - begin.tv_sec) + (end.tv_nsec - begin.tv_nsec) / 1e9;
    printf("%.1f\n", 64.0 * SUMS * ROUNDS * threads / seconds / 1e9);
    return 0;
}
#else
int main(void) {
    puts("0");
    return 0;
}
#endif
