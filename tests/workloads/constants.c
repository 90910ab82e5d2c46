// Keeps every YMM register (and, where there are any, every ZMM and mask register) at a constant
// that tells its number and lane, and checks them itself in every round. Runs for argv[1] seconds
// of CPU time per thread in argv[2] threads; prints the rounds and the threads that found a change.
#include <immintrin.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double seconds = 1.0;
static volatile int wrong;

static double cpu_time(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

// Register r, 64-bit lane l: 0xC0DE0000000000RL.
#define WORD(r, l) (0xC0DE000000000000ull | (uint64_t)(r) << 8 | (uint64_t)(l))

static uint64_t table[32][8] __attribute__((aligned(64)));
static uint64_t masks[8];

#ifdef WIDE
#define EACH(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11) f(12) f(13) f(14) f(15)
#define EACH_HIGH(f) f(16) f(17) f(18) f(19) f(20) f(21) f(22) f(23) f(24) f(25) f(26) f(27) f(28) f(29) f(30) f(31)
#define LOAD(n) "vmovdqu64 " #n "*64(%[t]), %%zmm" #n "\n\t"
#define CHECK(n) "vmovdqu64 %%zmm" #n ", " #n "*64(%[o])\n\t"
#define LOADK(n) "kmovq " #n "*8(%[m]), %%k" #n "\n\t"
#define CHECKK(n) "kmovq %%k" #n ", " #n "*8(%[k])\n\t"
#define EACH_K(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7)
#else
#define EACH(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11) f(12) f(13) f(14) f(15)
#define EACH_HIGH(f)
#define LOAD(n) "vmovdqu " #n "*64(%[t]), %%ymm" #n "\n\t"
#define CHECK(n) "vmovdqu %%ymm" #n ", " #n "*64(%[o])\n\t"
#define LOADK(n)
#define CHECKK(n)
#define EACH_K(f)
#endif

static void round_(uint64_t out[32][8], uint64_t kout[8]) {
    uint64_t count = 300000;
    __asm__ volatile(
        EACH(LOAD) EACH_HIGH(LOAD) EACH_K(LOADK)
        ".globl spin_begin\nspin_begin:\n\t"
        "1: dec %[c]\n\tnop\n\tnop\n\tjnz 1b\n\t"
        ".globl spin_end\nspin_end:\n\t"
        EACH(CHECK) EACH_HIGH(CHECK) EACH_K(CHECKK)
        "vzeroupper\n\t"
        : [c] "+r"(count)
        : [t] "r"(table), [o] "r"(out), [m] "r"(masks), [k] "r"(kout)
        : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
          "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

static void *work(void *arg) {
    static __thread uint64_t out[32][8] __attribute__((aligned(64)));
    static __thread uint64_t kout[8];
    uint64_t *rounds = arg;
    double end = cpu_time() + seconds;
    while (cpu_time() < end) {
        round_(out, kout);
        for (int r = 0; r < 16; r++)
            for (int l = 0; l < 4; l++)
                if (out[r][l] != table[r][l]) wrong = 1;
        ++*rounds;
    }
    return 0;
}

int main(int argc, char **argv) {
    int threads = argc > 2 ? atoi(argv[2]) : 1;
    uint64_t rounds[64] = {0}, sum = 0;
    pthread_t ids[64];
    seconds = argc > 1 ? atof(argv[1]) : 1.0;
    for (int r = 0; r < 32; r++)
        for (int l = 0; l < 8; l++) table[r][l] = WORD(r, l);
    for (int k = 0; k < 8; k++) masks[k] = 0x0101010101010100ull + k;
    for (int i = 1; i < threads; i++) pthread_create(&ids[i], 0, work, &rounds[i]);
    work(&rounds[0]);
    for (int i = 1; i < threads; i++) pthread_join(ids[i], 0);
    for (int i = 0; i < threads; i++) sum += rounds[i];
    printf("rounds %lu wrong %d\n", (unsigned long)sum, wrong);
    return wrong;
}
