/* Subnormals: down to the smallest and again, in both widths, and flushed to zero. */
#include "truth.h"

Region truth_subnormal_double, truth_subnormal_single, truth_subnormal_flush;

/* 0 is halved (by 1) so often that the smallest number is left, then taken anew from 15. */
#define HALVING(name, multiply, times)                                                             \
    FUNCTION(name) "  load_ymm\n  mov eax, " times "\n"                                            \
    AT(name, "begin")                                                                              \
    "  " multiply " ymm0, ymm0, ymm1\n" AT(name, "1")                                              \
    "  inc rbx\n" AT(name, "2")                                                                    \
    "  dec eax\n  jnz truth_" name "_begin\n"                                                      \
    "  vmovapd ymm0, ymm15\n" AT(name, "3")                                                        \
    "  mov eax, " times "\n"                                                                       \
    ROUND(name) "  store_ymm\n" LEAVE(name)

__asm__(
    ".intel_syntax noprefix\n"

    HALVING("subnormal_double", "vmulpd", "52")
    HALVING("subnormal_single", "vmulps", "23")

    /* MXCSR with FTZ and DAZ: 0 = 1 * 2 flushed; 3 = 4 + 4, taken as zero; 5 = 6 * 2, -0. */
    FUNCTION("subnormal_flush")
    "  load_ymm\n  stmxcsr [rsp]\n  mov dword ptr [rsp + 4], 0x9fc0\n  ldmxcsr [rsp + 4]\n"
    "  vmulpd ymm0, ymm1, ymm2\n  vaddpd ymm3, ymm4, ymm4\n  vmulpd ymm5, ymm6, ymm2\n"
    AT("subnormal_flush", "begin")
    "  vmulpd ymm0, ymm1, ymm2\n  vaddpd ymm3, ymm4, ymm4\n  vmulpd ymm5, ymm6, ymm2\n"
    "  vpaddq ymm7, ymm7, ymm8\n" AT("subnormal_flush", "1")
    "  inc rbx\n" AT("subnormal_flush", "2")
    ROUND("subnormal_flush") "  ldmxcsr [rsp]\n  store_ymm\n" LEAVE("subnormal_flush")

    ".att_syntax prefix\n");

static void prepare_double(struct Registers *in, uint64_t thread)
{
    fill_register(in, 0, (uint64_t)1 << 52);
    fill_register(in, 1, bits(0.5));
    fill_register(in, 2, thread + 1);
    fill_register(in, 3, (uint64_t)1 << 63 | (thread + 1));
    fill_register(in, 15, (uint64_t)1 << 52);
}

static void prepare_single(struct Registers *in, uint64_t thread)
{
    fill_register(in, 0, (uint64_t)1 << 23 | (uint64_t)1 << 55);
    fill_register(in, 1, 0x3f0000003f000000);
    fill_register(in, 2, (thread + 1) << 32 | 0x80000001);
    fill_register(in, 15, (uint64_t)1 << 23 | (uint64_t)1 << 55);
}

static void prepare_flush(struct Registers *in, uint64_t thread)
{
    fill_register(in, 1, (uint64_t)1 << 52);
    fill_register(in, 2, bits(0.5));
    fill_register(in, 4, thread + 1);
    fill_register(in, 6, (uint64_t)1 << 63 | (uint64_t)1 << 52);
}

static void finish_flush(struct Registers *want, uint64_t thread, uint64_t rounds)
{
    (void)thread;
    fill_register(want, 0, 0);
    fill_register(want, 3, 0);
    fill_register(want, 5, (uint64_t)1 << 63);
    add_register(want, 7, 8, rounds);
}

int main(int argc, char **argv)
{
    static const struct Visit visits[] = {
        /* Multiples of 52 and 23: 0 is as it was. */
        {truth_subnormal_double, 52 * 500, 18, 4, 1, 0, prepare_double, NULL},
        {truth_subnormal_single, 23 * 1000, 19, 4, 1, 0, prepare_single, NULL},
        {truth_subnormal_flush, 100000, 20, 4, 1, 0, prepare_flush, finish_flush},
    };
    return truth_main(argc, argv, AVX2, visits, COUNT(visits));
}
