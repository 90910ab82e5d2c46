/* AVX-512: 32 registers and 8 opmasks; merging, zeroing, mask arithmetic, EVEX 128-bit writes. */
#include "truth.h"

Region truth_avx512_const, truth_avx512_masks, truth_avx512_high, truth_avx512_vzeroupper;

__asm__(
    ".intel_syntax noprefix\n"

    FUNCTION("avx512_const") "  load_zmm\n"
    AT("avx512_const", "begin")
    "  lea rax, [rbx + rbx * 4]\n  add rax, r15\n  inc rbx\n"
    ROUND("avx512_const") "  store_zmm\n" LEAVE("avx512_const")

    /* 0 += 1 in the lanes of k1; 2 = 3 + 1 there and zero elsewhere; k2 = lanes of 3 that are not
       zero; k3 += k4; k5 = ~k5; k6 = its own low 16 bits. */
    FUNCTION("avx512_masks") "  load_zmm\n"
    AT("avx512_masks", "begin")
    "  vpaddq zmm0{k1}, zmm0, zmm1\n" AT("avx512_masks", "1")
    "  vpaddq zmm2{k1}{z}, zmm3, zmm1\n" AT("avx512_masks", "2")
    "  vptestmq k2, zmm3, zmm3\n" AT("avx512_masks", "3")
    "  kaddq k3, k3, k4\n" AT("avx512_masks", "4")
    "  knotq k5, k5\n" AT("avx512_masks", "5")
    "  kmovw k6, k6\n" AT("avx512_masks", "6")
    "  inc rbx\n" AT("avx512_masks", "7")
    ROUND("avx512_masks") "  store_zmm\n" LEAVE("avx512_masks")

    /* 16 += 17 (128 bits); 18 += 19; 20 = counter in all words; 21 += 22 (256 bits); 23 = 24. */
    FUNCTION("avx512_high") "  load_zmm\n"
    AT("avx512_high", "begin")
    "  vpaddq xmm16, xmm16, xmm17\n" AT("avx512_high", "1")
    "  vpaddq zmm18, zmm18, zmm19\n" AT("avx512_high", "2")
    "  vpbroadcastq zmm20, rbx\n" AT("avx512_high", "3")
    "  vpaddq ymm21, ymm21, ymm22\n" AT("avx512_high", "4")
    "  vmovdqa64 zmm23, zmm24\n" AT("avx512_high", "5")
    "  inc rbx\n" AT("avx512_high", "6")
    ROUND("avx512_high") "  store_zmm\n" LEAVE("avx512_high")

    /* vzeroupper clears 0 to 15 above 128 bits and leaves 16 to 31 alone. 18 += 19. */
    FUNCTION("avx512_vzeroupper") "  load_zmm\n  vzeroupper\n"
    AT("avx512_vzeroupper", "begin")
    "  vpaddq zmm18, zmm18, zmm19\n" AT("avx512_vzeroupper", "1")
    "  inc rbx\n" AT("avx512_vzeroupper", "2")
    ROUND("avx512_vzeroupper") "  store_zmm\n" LEAVE("avx512_vzeroupper")

    ".att_syntax prefix\n");

/* The rounds are even: k5 is back where it was. */
static void finish_masks(struct Registers *want, uint64_t thread, uint64_t rounds)
{
    (void)thread;
    for (unsigned word = 0; word < WORDS; word++) {
        int live = want->opmask[1] >> word & 1;
        if (live)
            want->vector[0][word] += want->vector[1][word] * rounds;
        want->vector[2][word] = live ? want->vector[3][word] + want->vector[1][word] : 0;
    }
    want->opmask[2] = 0xff;
    want->opmask[3] += want->opmask[4] * rounds;
    want->opmask[6] &= 0xffff;
}

static void prepare_high(struct Registers *in, uint64_t thread)
{
    (void)thread;
    fill_register(in, 20, ~(uint64_t)0);
}

static void finish_high(struct Registers *want, uint64_t thread, uint64_t rounds)
{
    (void)thread;
    add_register(want, 16, 17, rounds);
    clear_words(want, 16, 2);
    add_register(want, 18, 19, rounds);
    fill_register(want, 20, rounds - 1);
    add_register(want, 21, 22, rounds);
    clear_words(want, 21, 4);
    memcpy(want->vector[23], want->vector[24], sizeof want->vector[23]);
}

static void finish_vzeroupper(struct Registers *want, uint64_t thread, uint64_t rounds)
{
    (void)thread;
    for (unsigned reg = 0; reg < 16; reg++)
        clear_words(want, reg, 2);
    add_register(want, 18, 19, rounds);
}

int main(int argc, char **argv)
{
    static const struct Visit visits[] = {
        {truth_avx512_const, 100000, 7, 8, 1, 0, NULL, NULL},
        {truth_avx512_masks, 60000, 8, 8, 1, 0, NULL, finish_masks},
        {truth_avx512_high, 60000, 9, 8, 1, 0, prepare_high, finish_high},
        {truth_avx512_vzeroupper, 100000, 10, 8, 1, 0, NULL, finish_vzeroupper},
    };
    return truth_main(argc, argv, AVX512, visits, COUNT(visits));
}
