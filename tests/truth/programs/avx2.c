/* AVX2 and FMA: 256-bit chains, and 128-bit VEX writes that clear what lies above. */
#include "truth.h"

Region truth_avx2_const, truth_avx2_fma, truth_avx2_int;

__asm__(
    ".intel_syntax noprefix\n"

    FUNCTION("avx2_const") "  load_ymm\n"
    AT("avx2_const", "begin")
    "  lea rax, [rbx + rbx * 4]\n  add rax, r15\n  inc rbx\n"
    ROUND("avx2_const") "  store_ymm\n" LEAVE("avx2_const")

    /* Four chains, each stepped once a round: 0 += 1 * 2; 3 = 3 * 4 + 5; 6 += 7; 8 ^= 9. */
    FUNCTION("avx2_fma") "  load_ymm\n"
    AT("avx2_fma", "begin")
    "  vfmadd231pd ymm0, ymm1, ymm2\n" AT("avx2_fma", "1")
    "  vfmadd213pd ymm3, ymm4, ymm5\n" AT("avx2_fma", "2")
    "  vpaddq ymm6, ymm6, ymm7\n" AT("avx2_fma", "3")
    "  vpxor ymm8, ymm8, ymm9\n" AT("avx2_fma", "4")
    "  inc rbx\n" AT("avx2_fma", "5")
    ROUND("avx2_fma") "  store_ymm\n" LEAVE("avx2_fma")

    /* 0 += 1; words of 2 go round; 3 += 4 (128 bits); 5 = counter; 6 = it in all words; 7 = 0;
       8 = all ones for one instruction, then 9. */
    FUNCTION("avx2_int") "  load_ymm\n"
    AT("avx2_int", "begin")
    "  vpaddq ymm0, ymm0, ymm1\n" AT("avx2_int", "1")
    "  vpermq ymm2, ymm2, 0x39\n" AT("avx2_int", "2")
    "  vpaddq xmm3, xmm3, xmm4\n" AT("avx2_int", "3")
    "  vmovq xmm5, rbx\n" AT("avx2_int", "4")
    "  vpbroadcastq ymm6, xmm5\n" AT("avx2_int", "5")
    "  vpxor ymm7, ymm7, ymm7\n" AT("avx2_int", "6")
    "  vpcmpeqd ymm8, ymm8, ymm8\n" AT("avx2_int", "7")
    "  vmovdqa ymm8, ymm9\n" AT("avx2_int", "8")
    "  inc rbx\n" AT("avx2_int", "9")
    ROUND("avx2_int") "  store_ymm\n" LEAVE("avx2_int")

    ".att_syntax prefix\n");

static void prepare_fma(struct Registers *in, uint64_t thread)
{
    for (unsigned word = 0; word < WORDS; word++) {
        double lane = (double)(word + 1), number = (double)(thread + 1);
        in->vector[0][word] = bits(lane);
        in->vector[1][word] = bits(2.0 * lane);
        in->vector[2][word] = bits(number);
        in->vector[3][word] = bits(lane * 0.5);
        in->vector[4][word] = bits(-1.0);
        in->vector[5][word] = bits(number);
    }
}

/* Exact: all numbers are far below 2**53. The rounds are even: 3 and 8 are back where they were. */
static void finish_fma(struct Registers *want, uint64_t thread, uint64_t rounds)
{
    for (unsigned word = 0; word < WORDS; word++) {
        double lane = (double)(word + 1);
        want->vector[0][word] = bits(lane + 2.0 * lane * (double)(thread + 1) * (double)rounds);
    }
    add_register(want, 6, 7, rounds);
}

/* What 5 and 6 hold before the first round would be the counter less 1. */
static void prepare_int(struct Registers *in, uint64_t thread)
{
    (void)thread;
    fill_register(in, 5, 0);
    in->vector[5][0] = ~(uint64_t)0;
    fill_register(in, 6, ~(uint64_t)0);
}

static void finish_int(struct Registers *want, uint64_t thread, uint64_t rounds)
{
    (void)thread;
    add_register(want, 0, 1, rounds);
    add_register(want, 3, 4, rounds);
    clear_words(want, 3, 2);
    want->vector[5][0] = rounds - 1;
    fill_register(want, 6, rounds - 1);
    fill_register(want, 7, 0);
    memcpy(want->vector[8], want->vector[9], sizeof want->vector[8]);
}

int main(int argc, char **argv)
{
    static const struct Visit visits[] = {
        {truth_avx2_const, 100000, 4, 4, 1, 0, NULL, NULL},
        {truth_avx2_fma, 60000, 5, 4, 1, 0, prepare_fma, finish_fma},
        {truth_avx2_int, 60000, 6, 4, 1, 0, prepare_int, finish_int},
    };
    return truth_main(argc, argv, AVX2, visits, COUNT(visits));
}
