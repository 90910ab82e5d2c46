// Half of the time an AES round with a known key in every register, half of the time plain sums.
#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

static double cpu_time(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

int main(int argc, char **argv) {
    double end = cpu_time() + (argc > 1 ? atof(argv[1]) : 1);
    while (cpu_time() < end) {
        uint64_t n = 2000000;
        __asm__ volatile(
            "movdqu %[key], %%xmm1\n\t"
            "1: aesenc %%xmm1, %%xmm0\n\tdec %[n]\n\tjnz 1b\n\t"
            "pxor %%xmm0, %%xmm0\n\tpxor %%xmm1, %%xmm1\n\t"
            : [n] "+r"(n)
            : [key] "m"(*(const char(*)[16])"SECRETKEYSECRET!")
            : "xmm0", "xmm1", "cc");
        n = 8000000;
        __asm__ volatile(
            ".fill 64, 1, 0x90\n\t"
            "1: addq $0, %%rax\n\tdec %[n]\n\tjnz 1b\n\t.fill 64, 1, 0x90\n\t"
            : [n] "+r"(n)
            :
            : "cc");
    }
    return 0;
}
