/* System calls inside a region: the registers are the same behind each. */
#define _GNU_SOURCE
#include <sys/syscall.h>

#include "truth.h"

Region truth_syscalls_quick, truth_syscalls_random, truth_syscalls_sleep;

/* setup: the call's number and arguments, without R8, R9 and RBP. 0 += 1; 2 ^= 3. */
#define CALLING(name, setup)                                                                       \
    FUNCTION(name) "  load_ymm\n"                                                                  \
    AT(name, "begin")                                                                              \
    "  vpaddq ymm0, ymm0, ymm1\n" AT(name, "1")                                                    \
    setup "  syscall\n"                                                                            \
    "  vpxor ymm2, ymm2, ymm3\n" AT(name, "2")                                                     \
    "  inc rbx\n" AT(name, "3")                                                                    \
    /* Some time in user mode, or there would be few samples. */                                   \
    "  mov eax, [r15 + 2136 + 16]\n1:\n  dec eax\n  jnz 1b\n"                                      \
    ROUND(name) "  store_ymm\n" LEAVE(name)

__asm__(
    ".intel_syntax noprefix\n"
    CALLING("syscalls_quick", "  mov eax, 110\n")                       /* getppid */
    CALLING("syscalls_random",                                          /* getrandom, 256 bytes */
            "  mov eax, 318\n  lea rdi, [rsp - 512]\n  mov esi, 256\n  xor edx, edx\n")
    CALLING("syscalls_sleep",                                           /* nanosleep */
            "  mov eax, 35\n  lea rdi, [r15 + 2136]\n  xor esi, esi\n")
    ".att_syntax prefix\n");

static void prepare_quick(struct Registers *in, uint64_t thread)
{
    (void)thread;
    in->room[2] = 500;
}

static void prepare_sleep(struct Registers *in, uint64_t thread)
{
    (void)thread;
    in->room[1] = 20000;        /* ns */
    in->room[2] = 200000;
}

/* The rounds are even: 2 is back where it was. */
static void finish_chains(struct Registers *want, uint64_t thread, uint64_t rounds)
{
    (void)thread;
    add_register(want, 0, 1, rounds);
}

int main(int argc, char **argv)
{
    static const struct Visit visits[] = {
        {truth_syscalls_quick, 2000, 27, 4, 1, 0, prepare_quick, finish_chains},
        {truth_syscalls_random, 1000, 28, 4, 1, 0, prepare_quick, finish_chains},
        {truth_syscalls_sleep, 10, 29, 4, 1, 0, prepare_sleep, finish_chains},
    };
    return truth_main(argc, argv, AVX2, visits, COUNT(visits));
}
