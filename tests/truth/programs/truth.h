/*
 * What the truth programs share: programs whose vector registers are a known function of the
 * instruction pointer and of a counter.
 *
 *     PROGRAM [SECONDS [THREADS [PROCESSES]]]     default: 3 seconds, 4 threads, 1 process
 *
 * Each thread runs through regions of hand-written code. Inside one, between its labels
 * truth_REGION_begin and truth_REGION_end, every vector register is either a constant that names
 * region, thread, register and word, or a function of the counter in RBX. R12 holds the visit's
 * number (from bit 8 up) and the thread's (bits 0 to 7, one number a thread over all processes);
 * R8, R9 and RBP hold constants; R14 bounds the counter. tests/truth/expected_*.py knows these
 * functions; each program checks them itself at the end of every visit.
 *
 * Exit status: 0, 1 if a register was wrong, 77 where the CPU lacks what the program needs (said
 * on standard error).
 * Build: gcc -O1 -no-pie -pthread (the checker takes addresses from the symbol table as they are).
 */
#ifndef TRUTH_H
#define TRUTH_H

#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { REGISTERS = 32, WORDS = 8, MOST_THREADS = 64, NO_CPU = 77 };

/* The assembler code below knows the offsets: opmask 2048, gpr 2112, room 2136. */
struct Registers {
    uint64_t vector[REGISTERS][WORDS];
    uint64_t opmask[8];
    uint64_t gpr[3];            /* R8, R9, RBP */
    uint64_t room[21];          /* for a region's own use */
};

/* table: registers to load; who: visit << 8 | thread; out: registers at the end. */
typedef void Region(const struct Registers *table, uint64_t rounds, uint64_t who,
                    struct Registers *out);

#define FUNCTION(name)                                                                             \
    ".globl truth_" name "\n.type truth_" name ", @function\ntruth_" name ":\n  enter\n"
#define AT(name, label) "truth_" name "_" label ":\n"
#define LEAVE(name) "  leave_region\n.size truth_" name ", . - truth_" name "\n"
#define ROUND(name) "  cmp rbx, r14\n  jb truth_" name "_begin\n" AT(name, "end")

__asm__(
    ".intel_syntax noprefix\n"
    ".text\n"
    ".macro enter\n"
    "  push rbx\n  push rbp\n  push r12\n  push r13\n  push r14\n  push r15\n  sub rsp, 8\n"
    "  mov r15, rdi\n  mov r14, rsi\n  mov r12, rdx\n  mov r13, rcx\n"
    "  mov r8, [r15 + 2112]\n  mov r9, [r15 + 2120]\n  mov rbp, [r15 + 2128]\n"
    "  xor ebx, ebx\n"
    ".endm\n"
    ".macro leave_region\n"
    "  add rsp, 8\n  pop r15\n  pop r14\n  pop r13\n  pop r12\n  pop rbp\n  pop rbx\n  ret\n"
    ".endm\n"
    ".macro load_xmm\n"
    "  .irp r, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
    "  movdqu xmm\\r, [r15 + 64 * \\r]\n"
    "  .endr\n"
    ".endm\n"
    ".macro store_xmm\n"
    "  .irp r, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
    "  movdqu [r13 + 64 * \\r], xmm\\r\n"
    "  .endr\n"
    ".endm\n"
    ".macro load_ymm\n"
    "  .irp r, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
    "  vmovdqu ymm\\r, [r15 + 64 * \\r]\n"
    "  .endr\n"
    ".endm\n"
    /* Leaves the upper halves clear for the code that follows. */
    ".macro store_ymm\n"
    "  .irp r, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
    "  vmovdqu [r13 + 64 * \\r], ymm\\r\n"
    "  .endr\n"
    "  vzeroupper\n"
    ".endm\n"
    ".macro load_zmm\n"
    "  .irp r, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
    "  vmovdqu64 zmm\\r, [r15 + 64 * \\r]\n"
    "  .endr\n"
    ".endm\n"
    ".macro store_zmm\n"
    "  .irp r, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
    "  vmovdqu64 [r13 + 64 * \\r], zmm\\r\n"
    "  .endr\n"
    "  vzeroupper\n"
    ".endm\n"

    /* Vectors 16 to 31 and the opmasks: AVX-512 only, untouched by VEX and SSE code. */
    "high_load:\n"
    "  .irp r, 16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
    "  vmovdqu64 zmm\\r, [rdi + 64 * \\r]\n"
    "  .endr\n"
    "  .irp r, 0,1,2,3,4,5,6,7\n"
    "  kmovq k\\r, [rdi + 2048 + 8 * \\r]\n"
    "  .endr\n"
    "  ret\n"
    "high_store:\n"
    "  .irp r, 16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
    "  vmovdqu64 [rdi + 64 * \\r], zmm\\r\n"
    "  .endr\n"
    "  .irp r, 0,1,2,3,4,5,6,7\n"
    "  kmovq [rdi + 2048 + 8 * \\r], k\\r\n"
    "  .endr\n"
    "  ret\n"
    ".att_syntax prefix\n");

void high_load(const struct Registers *table);
void high_store(struct Registers *out);

/* One region as its program visits it. */
struct Visit {
    Region *code;
    uint64_t rounds;
    unsigned number;            /* names the region in its constants */
    unsigned words;             /* low words of vectors 0 to 15 that it stores: 2, 4 or 8 */
    int high;                   /* vectors 16 to 31 and opmasks are loaded and stay known */
    int alike;                  /* the constants name thread 0 whichever it is */
    /* Values other than the constants; NULL where there are none. */
    void (*prepare)(struct Registers *in, uint64_t thread);
    /* Turns what was loaded into what must be there after all rounds; NULL where it is the same. */
    void (*finish)(struct Registers *want, uint64_t thread, uint64_t rounds);
};

static double start_s;
static double seconds = 3.0;
static int wide;                /* the CPU has AVX-512 F, BW, DQ and VL */
static __thread uint64_t own_number;
static __thread uint64_t own_visits;

static inline double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static inline uint64_t bits(double value)
{
    uint64_t word;
    memcpy(&word, &value, sizeof word);
    return word;
}

static inline uint64_t constant(unsigned region, uint64_t thread, unsigned reg, unsigned word)
{
    return 0x5a00000000000000 | (uint64_t)region << 48 | thread << 40 | (uint64_t)reg << 24 |
           (uint64_t)word << 16 | 0xbeef;
}

static inline void fill(struct Registers *in, unsigned region, uint64_t thread)
{
    for (unsigned reg = 0; reg < REGISTERS; reg++)
        for (unsigned word = 0; word < WORDS; word++)
            in->vector[reg][word] = constant(region, thread, reg, word);
    for (unsigned k = 0; k < 8; k++)
        in->opmask[k] = 0xc0de0000000000a5 | thread << 40 | (uint64_t)k << 32;
    for (unsigned reg = 0; reg < 3; reg++)
        in->gpr[reg] = constant(region, thread, 40 + reg, 0);
}

static inline void fill_register(struct Registers *in, unsigned reg, uint64_t value)
{
    for (unsigned word = 0; word < WORDS; word++)
        in->vector[reg][word] = value;
}

static inline void clear_words(struct Registers *in, unsigned reg, unsigned from)
{
    for (unsigned word = from; word < WORDS; word++)
        in->vector[reg][word] = 0;
}

/* reg += step * times, in all words. */
static inline void add_register(struct Registers *in, unsigned reg, unsigned step, uint64_t times)
{
    for (unsigned word = 0; word < WORDS; word++)
        in->vector[reg][word] += in->vector[step][word] * times;
}

/* One visit; 1 if a register was wrong at its end. */
static inline int visit(const struct Visit *which, uint64_t who)
{
    struct Registers in, out;
    uint64_t thread = which->alike ? 0 : who & 0xff;
    int high = wide && which->high, wrong = 0;
    memset(&in, 0, sizeof in);
    fill(&in, which->number, thread);
    if (which->prepare)
        which->prepare(&in, thread);
    memset(&out, 0, sizeof out);
    if (high)
        high_load(&in);
    which->code(&in, which->rounds, who, &out);
    if (high)
        high_store(&out);
    if (which->finish)
        which->finish(&in, thread, which->rounds);
    for (unsigned reg = 0; reg < 16; reg++)
        for (unsigned word = 0; word < which->words; word++)
            wrong |= in.vector[reg][word] != out.vector[reg][word];
    if (high)
        wrong |= memcmp(in.vector[16], out.vector[16], sizeof in.vector / 2) != 0 ||
                 memcmp(in.opmask, out.opmask, sizeof in.opmask) != 0;
    return wrong;
}

struct Thread {
    pthread_t handle;
    uint64_t number, wrong;
};

static const struct Visit *all_visits;
static unsigned visit_count;
/* What a program does besides; NULL where nothing. choose: its own way to the next visit. */
static const struct Visit *(*choose)(uint64_t turn);
static void (*between_visits)(uint64_t turn);
static void (*thread_begins)(uint64_t number);
static void (*thread_ends)(void);

static void *work(void *argument)
{
    struct Thread *self = argument;
    own_number = self->number;
    if (thread_begins)
        thread_begins(self->number);
    while (now_s() - start_s < seconds) {
        uint64_t turn = ++own_visits;
        const struct Visit *next =
            choose ? choose(turn) : &all_visits[(turn + self->number) % visit_count];
        self->wrong += (uint64_t)visit(next, turn << 8 | self->number);
        if (between_visits)
            between_visits(turn);
    }
    if (thread_ends)
        thread_ends();
    return NULL;
}

/* Threads of one process, numbered from `first` up; 1 if one of their registers was wrong. */
static int run_threads(unsigned first, unsigned count)
{
    static struct Thread threads[MOST_THREADS];
    uint64_t wrong = 0;
    for (unsigned i = 0; i < count; i++) {
        threads[i].number = first + i;
        if (pthread_create(&threads[i].handle, NULL, work, &threads[i]) != 0) {
            fprintf(stderr, "cannot create thread %u\n", first + i);
            return 1;
        }
    }
    for (unsigned i = 0; i < count; i++) {
        pthread_join(threads[i].handle, NULL);
        wrong += threads[i].wrong;
    }
    return wrong != 0;
}

enum Needs { SSE_ONLY, AVX2, AVX512 };

static inline int truth_main(int argc, char **argv, enum Needs needs, const struct Visit *visits,
                             unsigned count)
{
    int threads = argc > 2 ? atoi(argv[2]) : 4;
    int processes = argc > 3 ? atoi(argv[3]) : 1;
    int wrong = 0;
    if (argc > 1)
        seconds = atof(argv[1]);
    if (threads < 1 || processes < 1 || threads * processes > MOST_THREADS || seconds <= 0.0) {
        fprintf(stderr, "usage: %s [SECONDS [THREADS [PROCESSES]]], %d threads in all at most\n",
                argv[0], MOST_THREADS);
        return 2;
    }
    __builtin_cpu_init();
    wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (needs >= AVX2 && !(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))) {
        fprintf(stderr, "this CPU has no AVX2 and FMA\n");
        return NO_CPU;
    }
    if (needs == AVX512 && !wide) {
        fprintf(stderr, "this CPU has no AVX-512 F, BW, DQ and VL\n");
        return NO_CPU;
    }
    all_visits = visits;
    visit_count = count;
    start_s = now_s();
    for (int i = 1; i < processes; i++) {
        pid_t child = fork();
        if (child < 0) {
            perror("fork");
            return 1;
        }
        if (child == 0)
            _exit(run_threads((unsigned)(i * threads), (unsigned)threads));
    }
    wrong = run_threads(0, (unsigned)threads);
    for (int status; wait(&status) > 0;)
        wrong |= status != 0;
    return wrong;
}

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#endif
