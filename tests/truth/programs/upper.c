/* Upper halves: cleared, dirty under SSE code, coming and going, and the initial state. */
#include "truth.h"

Region truth_upper_clear, truth_upper_dirty, truth_upper_flip, truth_upper_zero,
    truth_upper_initial;

__asm__(
    ".intel_syntax noprefix\n"

    /* Upper halves zero, low ones not; SSE code: 0 += 1. */
    FUNCTION("upper_clear") "  load_ymm\n  vzeroupper\n"
    AT("upper_clear", "begin")
    "  paddq xmm0, xmm1\n" AT("upper_clear", "1")
    "  inc rbx\n" AT("upper_clear", "2")
    ROUND("upper_clear") "  store_ymm\n" LEAVE("upper_clear")

    /* SSE code over dirty upper halves leaves them as they are: 0 += 1; 2 ^= 3. */
    FUNCTION("upper_dirty") "  load_ymm\n"
    AT("upper_dirty", "begin")
    "  paddq xmm0, xmm1\n" AT("upper_dirty", "1")
    "  pxor xmm2, xmm3\n" AT("upper_dirty", "2")
    "  inc rbx\n" AT("upper_dirty", "3")
    ROUND("upper_dirty") "  store_ymm\n" LEAVE("upper_dirty")

    /* The upper halves of 0 to 3 live from their loads to the vzeroupper of each round. */
    FUNCTION("upper_flip") "  load_ymm\n  vzeroupper\n"
    AT("upper_flip", "begin")
    "  vmovdqu ymm0, [r15]\n" AT("upper_flip", "1")
    "  vmovdqu ymm1, [r15 + 64]\n" AT("upper_flip", "2")
    "  vmovdqu ymm2, [r15 + 128]\n" AT("upper_flip", "3")
    "  vmovdqu ymm3, [r15 + 192]\n" AT("upper_flip", "4")
    "  lea rax, [rbx + rbx * 4]\n  add rax, r15\n"
    "  vzeroupper\n" AT("upper_flip", "5")
    "  paddq xmm4, xmm5\n" AT("upper_flip", "6")
    "  inc rbx\n" AT("upper_flip", "7")
    ROUND("upper_flip") "  store_ymm\n" LEAVE("upper_flip")

    /* Everything zero: zero is a value. */
    FUNCTION("upper_zero") "  vzeroall\n"
    AT("upper_zero", "begin")
    "  inc rbx\n"
    ROUND("upper_zero") "  store_ymm\n" LEAVE("upper_zero")

    /* XRSTOR of an image with an empty XSTATE_BV: SSE, AVX, opmask and both ZMM components. */
    FUNCTION("upper_initial")
    "  mov eax, 0xe6\n  xor edx, edx\n  xrstor [rip + initial_image]\n"
    AT("upper_initial", "begin")
    "  inc rbx\n"
    ROUND("upper_initial") "  store_ymm\n" LEAVE("upper_initial")
    ".att_syntax prefix\n"

    /* 512 bytes of legacy region with MXCSR at 24, and the 64 bytes of the header. */
    ".section .rodata\n.balign 64\n"
    "initial_image:\n  .zero 24\n  .long 0x1f80, 0xffff\n  .zero 544\n"
    ".text\n");

static void clear_uppers(struct Registers *want)
{
    for (unsigned reg = 0; reg < 16; reg++)
        clear_words(want, reg, 2);
}

static void finish_clear(struct Registers *want, uint64_t thread, uint64_t rounds)
{
    (void)thread;
    clear_uppers(want);
    add_register(want, 0, 1, rounds);
}

/* The rounds are even: 2 is back where it was. */
static void finish_dirty(struct Registers *want, uint64_t thread, uint64_t rounds)
{
    (void)thread;
    for (unsigned word = 0; word < 2; word++)
        want->vector[0][word] += want->vector[1][word] * rounds;
}

static void finish_flip(struct Registers *want, uint64_t thread, uint64_t rounds)
{
    (void)thread;
    clear_uppers(want);
    add_register(want, 4, 5, rounds);
}

static void finish_zero(struct Registers *want, uint64_t thread, uint64_t rounds)
{
    (void)thread, (void)rounds;
    memset(want->vector, 0, sizeof want->vector / 2);
}

static void finish_initial(struct Registers *want, uint64_t thread, uint64_t rounds)
{
    (void)thread, (void)rounds;
    memset(want->vector, 0, sizeof want->vector);
    memset(want->opmask, 0, sizeof want->opmask);
}

int main(int argc, char **argv)
{
    static const struct Visit visits[] = {
        {truth_upper_clear, 100000, 11, 4, 1, 0, NULL, finish_clear},
        {truth_upper_dirty, 60000, 12, 4, 1, 0, NULL, finish_dirty},
        {truth_upper_flip, 40000, 13, 4, 1, 0, NULL, finish_flip},
        {truth_upper_zero, 150000, 14, 4, 1, 0, NULL, finish_zero},
        {truth_upper_initial, 150000, 15, 4, 1, 0, NULL, finish_initial},
    };
    return truth_main(argc, argv, AVX2, visits, COUNT(visits));
}
