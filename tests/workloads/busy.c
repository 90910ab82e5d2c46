// A fixed amount of AVX2/FMA work: argv[1] million FMA rounds per thread in argv[2] threads.
// Prints wall time and CPU time in ns, and a checksum that does not depend on the timing; into the
// file argv[3] where there is one.
#include <immintrin.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static long rounds = 100000000;

static long now(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}

static void *work(void *arg) {
    __m256d a[8], m = _mm256_set1_pd(0.999999), c = _mm256_set1_pd(1e-6);
    double out[4], *sum = arg;
    for (int i = 0; i < 8; i++) a[i] = _mm256_set1_pd(i);
    for (long n = 0; n < rounds; n += 8)
        for (int i = 0; i < 8; i++) a[i] = _mm256_fmadd_pd(a[i], m, c);
    for (int i = 1; i < 8; i++) a[0] = _mm256_add_pd(a[0], a[i]);
    _mm256_storeu_pd(out, a[0]);
    *sum = out[0] + out[1] + out[2] + out[3];
    return 0;
}

int main(int argc, char **argv) {
    int threads = argc > 2 ? atoi(argv[2]) : 1;
    pthread_t ids[64];
    double sums[64], sum = 0;
    if (argc > 1) rounds = atof(argv[1]) * 1e6;
    long wall = now(CLOCK_MONOTONIC);
    for (int i = 1; i < threads; i++) pthread_create(&ids[i], 0, work, &sums[i]);
    work(&sums[0]);
    for (int i = 1; i < threads; i++) pthread_join(ids[i], 0);
    wall = now(CLOCK_MONOTONIC) - wall;
    for (int i = 0; i < threads; i++) sum += sums[i];
    FILE *out = argc > 3 ? fopen(argv[3], "w") : stdout;
    if (!out) return 1;
    fprintf(out, "%ld %ld %.17g\n", wall, now(CLOCK_PROCESS_CPUTIME_ID), sum);
    return fclose(out) != 0;
}
