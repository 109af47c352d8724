// The int8 arithmetic of this machine: multiply-adds a second of bare loops on so many threads, everything in registers. What
// prefill could reach at most, in 1e9 a second: first of `vpdpbusd`, then of what takes its place on AVX2 for nibbles. There
// the products of 32 values (`vpmaddubsw`) are added in int16, and then scaled and added in int32 (`vpmaddwd`). A CPU that
// has not the instructions prints 0.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#ifdef __AVX512VNNI__
enum { ROUNDS = 50000000, SUMS = 12 };

static void *vpdpbusd(void *sink) {
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
#endif

#ifdef __AVX2__
enum { SCALED = 10000000, PAIRS = 4, WORDS = 8 };

static void *vpmaddubsw(void *sink) {
    __m256i sum[PAIRS], some[PAIRS], w = _mm256_set1_epi8(1), x = _mm256_set1_epi8(1), scale = _mm256_set1_epi16(1);
#pragma GCC unroll 4
    for (int i = 0; i < PAIRS; i++) sum[i] = _mm256_setzero_si256();
    for (int round = 0; round < SCALED; round++) {
#pragma GCC unroll 8
        for (int j = 0; j < WORDS; j++)
#pragma GCC unroll 4
            for (int i = 0; i < PAIRS; i++) {
                __m256i products = _mm256_maddubs_epi16(w, x);
                some[i] = j == 0 ? products : _mm256_add_epi16(some[i], products);
                __asm__ volatile("" : "+x"(some[i]), "+x"(x)); // no product is taken for another
            }
#pragma GCC unroll 4
        for (int i = 0; i < PAIRS; i++) {
            sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(some[i], scale));
            __asm__ volatile("" : "+x"(sum[i]));
        }
    }
#pragma GCC unroll 4
    for (int i = 1; i < PAIRS; i++) sum[0] = _mm256_add_epi32(sum[0], sum[i]);
    *(int *)sink = _mm256_extract_epi32(sum[0], 0);
    return NULL;
}
#endif

// Prints what so many threads reach that multiply so often each.
static int print(int threads, void *(*work)(void *), double products) {
    pthread_t handles[64];
    int sinks[64];
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (int t = 0; t < threads; t++)
        if (pthread_create(&handles[t], NULL, work, &sinks[t])) return 1;
    for (int t = 0; t < threads; t++) pthread_join(handles[t], NULL);
    clock_gettime(CLOCK_MONOTONIC, &end);
    double seconds = (end.tv_sec - begin.tv_sec) + (end.tv_nsec - begin.tv_nsec) / 1e9;
    printf("%.1f\n", products * threads / seconds / 1e9);
    return 0;
}

int main(int argc, char **argv) {
    int threads = argc > 1 ? atoi(argv[1]) : 1;
    if (threads < 1 || threads > 64) return 2;
#ifdef __AVX512VNNI__
    if (print(threads, vpdpbusd, 64.0 * SUMS * ROUNDS)) return 1;
#else
    puts("0");
#endif
#ifdef __AVX2__
    if (print(threads, vpmaddubsw, 32.0 * PAIRS * WORDS * SCALED)) return 1;
#else
    puts("0");
#endif
    return 0;
}
