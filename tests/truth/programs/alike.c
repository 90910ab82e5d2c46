/* Threads that hold the same values, as workers of one program may: constants without a name. */
#include "truth.h"

Region truth_alike_const, truth_alike_chain;

/* 0 += 1; 2 ^= 3. */
#define CHAINS(name)                                                                               \
    FUNCTION(name) "  load_ymm\n"                                                                  \
    AT(name, "begin")                                                                              \
    "  vpaddq ymm0, ymm0, ymm1\n" AT(name, "1")                                                    \
    "  vpxor ymm2, ymm2, ymm3\n" AT(name, "2")                                                     \
    "  inc rbx\n" AT(name, "3")                                                                    \
    ROUND(name) "  store_ymm\n" LEAVE(name)

__asm__(
    ".intel_syntax noprefix\n"

    FUNCTION("alike_const") "  load_ymm\n"
    AT("alike_const", "begin")
    "  lea rax, [rbx + rbx * 4]\n  add rax, r15\n  inc rbx\n"
    ROUND("alike_const") "  store_ymm\n" LEAVE("alike_const")

    CHAINS("alike_chain")
    ".att_syntax prefix\n");

/* The rounds are even: 2 is back where it was. */
static void finish_chains(struct Registers *want, uint64_t thread, uint64_t rounds)
{
    (void)thread;
    add_register(want, 0, 1, rounds);
}

int main(int argc, char **argv)
{
    static const struct Visit visits[] = {
        {truth_alike_const, 300000, 33, 4, 1, 1, NULL, NULL},
        {truth_alike_chain, 300000, 34, 4, 1, 1, NULL, finish_chains},
    };
    return truth_main(argc, argv, AVX2, visits, COUNT(visits));
}
