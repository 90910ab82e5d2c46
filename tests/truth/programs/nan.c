/* NaNs with payloads, quiet and signalling, through arithmetic and conversions. */
#include "truth.h"

Region truth_nan_double, truth_nan_single;

#define DOUBLE_NANS                                                                                \
    "  vaddpd ymm3, ymm0, ymm2\n  vaddpd ymm4, ymm1, ymm2\n  vsubpd ymm8, ymm7, ymm7\n"             \
    "  vaddpd ymm5, ymm0, ymm1\n  vaddpd ymm6, ymm1, ymm0\n"
#define SINGLE_NANS                                                                                \
    "  vaddps ymm6, ymm5, ymm5\n  vcvtps2pd ymm3, xmm5\n  vsqrtps ymm4, ymm1\n"                     \
    "  vmaxps ymm8, ymm5, ymm2\n"

__asm__(
    ".intel_syntax noprefix\n"

    /* 3 = 0 + 2; 4 = 1 + 2; 8 = inf - inf; 5 = 0 + 1 and 6 = 1 + 0: the first operand's payload.
       10 is a NaN whose payload counts: 10 += 11, 12 = 10 + 2. */
    FUNCTION("nan_double") "  load_ymm\n" DOUBLE_NANS
    AT("nan_double", "begin") DOUBLE_NANS
    "  vpaddq ymm10, ymm10, ymm11\n" AT("nan_double", "1")
    "  vaddpd ymm12, ymm10, ymm2\n" AT("nan_double", "2")
    "  inc rbx\n" AT("nan_double", "3")
    ROUND("nan_double") "  store_ymm\n" LEAVE("nan_double")

    /* 6 = 5 + 5; 3 = 5 as doubles; 4 = sqrt(-1); 8 = max(NaN, 2), which is 2. */
    FUNCTION("nan_single") "  load_ymm\n" SINGLE_NANS
    AT("nan_single", "begin") SINGLE_NANS
    "  vpaddd ymm10, ymm10, ymm11\n" AT("nan_single", "1")
    "  inc rbx\n" AT("nan_single", "2")
    ROUND("nan_single") "  store_ymm\n" LEAVE("nan_single")

    ".att_syntax prefix\n");

static uint64_t payload(uint64_t thread, unsigned word)
{
    return thread << 8 | word | 0x10;
}

static void prepare_double(struct Registers *in, uint64_t thread)
{
    for (unsigned word = 0; word < WORDS; word++) {
        in->vector[0][word] = 0x7ff8000000000000 | payload(thread, word);
        in->vector[1][word] = 0xfff0000000000000 | payload(thread, word); /* signalling, negative */
        in->vector[2][word] = bits(1.0);
        in->vector[7][word] = 0x7ff0000000000000;
        in->vector[9][word] = 0x8000000000000000;
        in->vector[10][word] = 0x7ff8000000000000 | word << 4;
        in->vector[11][word] = 0x100;
        in->vector[12][word] = in->vector[10][word];
    }
}

static void finish_double(struct Registers *want, uint64_t thread, uint64_t rounds)
{
    for (unsigned word = 0; word < WORDS; word++) {
        want->vector[3][word] = want->vector[5][word] = want->vector[0][word];
        /* quieted */
        want->vector[4][word] = want->vector[6][word] =
            0xfff8000000000000 | payload(thread, word);
        want->vector[8][word] = 0xfff8000000000000;             /* the default NaN */
    }
    add_register(want, 10, 11, rounds);
    memcpy(want->vector[12], want->vector[10], sizeof want->vector[12]);
}

static void prepare_single(struct Registers *in, uint64_t thread)
{
    for (unsigned word = 0; word < WORDS; word++) {
        uint64_t single = 0x7fc00100 | thread << 4 | word;
        in->vector[5][word] = single << 32 | 0xffc00200 | word;
        in->vector[1][word] = 0xbf800000bf800000;
        in->vector[2][word] = 0x4000000040000000;
        in->vector[10][word] = 0;
        in->vector[11][word] = 0x100000001;
    }
}

static void finish_single(struct Registers *want, uint64_t thread, uint64_t rounds)
{
    (void)thread;
    for (unsigned word = 0; word < WORDS; word++) {
        uint64_t single = want->vector[5][word / 2] >> (word % 2 * 32) & 0xffffffff;
        want->vector[3][word] =
            (single >> 31) << 63 | 0x7ff8000000000000 | (single & 0x7fffff) << 29;
        want->vector[4][word] = 0xffc00000ffc00000;
        want->vector[6][word] = want->vector[5][word];
        want->vector[8][word] = want->vector[2][word];
    }
    add_register(want, 10, 11, rounds);
}

int main(int argc, char **argv)
{
    static const struct Visit visits[] = {
        {truth_nan_double, 60000, 16, 4, 1, 0, prepare_double, finish_double},
        {truth_nan_single, 60000, 17, 4, 1, 0, prepare_single, finish_single},
    };
    return truth_main(argc, argv, AVX2, visits, COUNT(visits));
}
