/* Loops of each kind of vector code, for recordings to judge: SSE, AVX2, AVX-512, opmasks. */
#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>

#define N 4096
#define ALIGNED __attribute__((aligned(64)))
static float a[N] ALIGNED, b[N] ALIGNED, c[N] ALIGNED;
static double x[N] ALIGNED, y[N] ALIGNED;
static int32_t k[N] ALIGNED, m[N] ALIGNED;

__attribute__((noinline)) static void sse(void) {
    const __m128 half = _mm_set1_ps(0.5f);
    for (int i = 0; i < N; i += 4) {
        __m128 zero = _mm_setzero_ps();
        asm volatile("" : "+x"(zero));
        __m128 v = _mm_mul_ps(_mm_load_ps(a + i), half);
        _mm_store_ps(c + i, _mm_max_ps(zero, _mm_add_ps(v, _mm_load_ps(b + i))));
    }
}

__attribute__((noinline, target("avx2,fma"))) static void avx2(void) {
    for (int i = 0; i < N; i += 4) {
        __m256d scale = _mm256_set1_pd(1.25), zero = _mm256_setzero_pd();
        asm volatile("" : "+x"(scale), "+x"(zero));
        __m256d v = _mm256_fmadd_pd(_mm256_load_pd(x + i), scale, zero);
        _mm256_store_pd(y + i, _mm256_shuffle_pd(v, v, 5));
    }
}

__attribute__((noinline, target("avx512f"))) static void avx512(void) {
    for (int i = 0; i < N; i += 8) {
        __m512d v = _mm512_load_pd(x + i), w = _mm512_set1_pd(2.0);
        asm volatile("" : "+v"(w));
        v = _mm512_fmadd_pd(v, w, _mm512_load_pd(y + i));
        _mm512_store_pd(y + i, _mm512_mul_pd(v, _mm512_set1_pd(0.25)));
    }
}

__attribute__((noinline, target("avx512f,avx512bw,avx512dq"))) static void opmask(void) {
    for (int i = 0; i < N; i += 16) {
        __m512i v = _mm512_load_si512(k + i);
        __mmask16 odd = _mm512_test_epi32_mask(v, _mm512_set1_epi32(1));
        v = _mm512_maskz_add_epi32(odd, v, _mm512_load_si512(m + i));
        _mm512_store_si512(m + i, _mm512_mask_slli_epi32(v, _knot_mask16(odd), v, 1));
    }
}

int main(int argc, char **argv) {
    long rounds = argc > 1 ? atol(argv[1]) : 100000;
    int wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512bw");
    for (int i = 0; i < N; i++) {
        a[i] = i, b[i] = -i, x[i] = i * 0.5, k[i] = i;
    }
    for (long r = 0; r < rounds; r++) {
        sse();
        avx2();
        if (wide) {
            avx512();
            opmask();
        }
    }
    return c[5] + y[7] + m[9] > 1e30;
}
