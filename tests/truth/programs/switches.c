/* Context switches without end: threads that yield, wake each other, spin and move between CPUs. */
#define _GNU_SOURCE
#include <sys/syscall.h>

#include "truth.h"

Region truth_switches_spin, truth_switches_yield, truth_switches_futex;

/* 0 += 1; 2 ^= 3. R8, R9 and RBP are not arguments of these calls. */
#define CHAINS(name, calls)                                                                        \
    FUNCTION(name) "  load_ymm\n"                                                                  \
    AT(name, "begin")                                                                              \
    "  vpaddq ymm0, ymm0, ymm1\n" AT(name, "1")                                                    \
    "  vpxor ymm2, ymm2, ymm3\n" AT(name, "2")                                                     \
    "  inc rbx\n" AT(name, "3")                                                                    \
    calls                                                                                          \
    ROUND(name) "  store_ymm\n" LEAVE(name)
#define SPIN "  mov eax, 20000\n1:\n  dec eax\n  jnz 1b\n"

__asm__(
    ".intel_syntax noprefix\n"
    CHAINS("switches_spin", "")
    CHAINS("switches_yield", SPIN "  mov eax, 24\n  syscall\n")
    /* FUTEX_WAKE of the neighbour's word, FUTEX_WAIT on the own one with a time-out, private. */
    CHAINS("switches_futex", SPIN
           "  mov eax, 202\n  mov rdi, [r15 + 2136 + 16]\n  mov esi, 129\n  mov edx, 1\n"
           "  syscall\n"
           "  mov eax, 202\n  mov rdi, [r15 + 2136 + 24]\n  mov esi, 128\n  xor edx, edx\n"
           "  lea r10, [r15 + 2136]\n  syscall\n")
    ".att_syntax prefix\n");

static uint32_t words[MOST_THREADS];

static void prepare_futex(struct Registers *in, uint64_t thread)
{
    in->room[1] = 300000;       /* ns, the time-out */
    in->room[2] = (uint64_t)(uintptr_t)&words[thread ^ 1];
    in->room[3] = (uint64_t)(uintptr_t)&words[thread];
}

/* The rounds are even: 2 is back where it was. */
static void finish_chains(struct Registers *want, uint64_t thread, uint64_t rounds)
{
    (void)thread;
    add_register(want, 0, 1, rounds);
}

/* From time to time to the next CPU. */
static void move(uint64_t turn)
{
    static int cpus;
    cpu_set_t where;
    if (turn % 8)
        return;
    if (!cpus)
        cpus = (int)sysconf(_SC_NPROCESSORS_ONLN);
    CPU_ZERO(&where);
    CPU_SET((turn / 8 + own_number) % (unsigned)cpus, &where);
    sched_setaffinity(0, sizeof where, &where);     /* refused in a smaller cpuset: no matter */
}

int main(int argc, char **argv)
{
    static const struct Visit visits[] = {
        {truth_switches_spin, 1000000, 30, 4, 1, 0, NULL, finish_chains},
        {truth_switches_yield, 20, 31, 4, 1, 0, NULL, finish_chains},
        {truth_switches_futex, 10, 32, 4, 1, 0, prepare_futex, finish_chains},
    };
    between_visits = move;
    return truth_main(argc, argv, AVX2, visits, COUNT(visits));
}
