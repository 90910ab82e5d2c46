/* SSE code alone: upper parts stay zero. Legacy encodings, no VEX. */
#include "truth.h"

Region truth_sse_const, truth_sse_int, truth_sse_double;

__asm__(
    ".intel_syntax noprefix\n"

    FUNCTION("sse_const") "  load_xmm\n"
    AT("sse_const", "begin")
    "  lea rax, [rbx + rbx * 4]\n  add rax, r15\n  inc rbx\n"
    ROUND("sse_const") "  store_xmm\n" LEAVE("sse_const")

    /* 0 += 1; 2 ^= 3; the dwords of 4 go round; 5 -= 6. */
    FUNCTION("sse_int") "  load_xmm\n"
    AT("sse_int", "begin")
    "  paddq xmm0, xmm1\n" AT("sse_int", "1")
    "  pxor xmm2, xmm3\n" AT("sse_int", "2")
    "  pshufd xmm4, xmm4, 0x39\n" AT("sse_int", "3")
    "  psubq xmm5, xmm6\n" AT("sse_int", "4")
    "  inc rbx\n" AT("sse_int", "5")
    ROUND("sse_int") "  store_xmm\n" LEAVE("sse_int")

    /* 0 += 1; 2 *= 3, which is -1; low words: 4 = counter, 5 += 6, 7 = sqrt of 4. */
    FUNCTION("sse_double") "  load_xmm\n"
    AT("sse_double", "begin")
    "  addpd xmm0, xmm1\n" AT("sse_double", "1")
    "  mulpd xmm2, xmm3\n" AT("sse_double", "2")
    "  cvtsi2sd xmm4, rbx\n" AT("sse_double", "3")
    "  addsd xmm5, xmm6\n" AT("sse_double", "4")
    "  sqrtsd xmm7, xmm4\n" AT("sse_double", "5")
    "  inc rbx\n" AT("sse_double", "6")
    ROUND("sse_double") "  store_xmm\n" LEAVE("sse_double")

    ".att_syntax prefix\n");

/* The rounds are multiples of 4, so that 2 and 4 come back to what they were. */
static void finish_int(struct Registers *want, uint64_t thread, uint64_t rounds)
{
    (void)thread;
    add_register(want, 0, 1, rounds);
    add_register(want, 5, 6, -rounds);
}

static void prepare_double(struct Registers *in, uint64_t thread)
{
    for (unsigned word = 0; word < WORDS; word++) {
        double lane = (double)(word + 1);
        in->vector[0][word] = bits(lane);
        in->vector[1][word] = bits(2.0 * lane);
        in->vector[2][word] = bits(lane * (double)(thread + 1));
        in->vector[3][word] = bits(-1.0);
    }
    in->vector[4][0] = bits(-1.0);
    in->vector[5][0] = bits(0.5);
    in->vector[6][0] = bits(3.0);
}

static void finish_double(struct Registers *want, uint64_t thread, uint64_t rounds)
{
    for (unsigned word = 0; word < WORDS; word++) {
        double lane = (double)(word + 1);
        want->vector[0][word] = bits(lane * (1.0 + 2.0 * (double)rounds));
        want->vector[2][word] = bits(lane * (double)(thread + 1) * (rounds % 2 ? -1.0 : 1.0));
    }
    want->vector[4][0] = bits((double)(rounds - 1));
    want->vector[5][0] = bits(0.5 + 3.0 * (double)rounds);
    want->vector[7][0] = bits((double)316);
}

int main(int argc, char **argv)
{
    enum { ROUNDS = 316 * 316 + 1 };
    static const struct Visit visits[] = {
        {truth_sse_const, 400000, 1, 2, 0, 0, NULL, NULL},
        {truth_sse_int, 300000, 2, 2, 0, 0, NULL, finish_int},
        /* Its last root is 316. */
        {truth_sse_double, ROUNDS, 3, 2, 0, 0, prepare_double, finish_double},
    };
    return truth_main(argc, argv, SSE_ONLY, visits, COUNT(visits));
}
