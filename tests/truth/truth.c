/*
 * A program whose vector registers are a known function of the instruction pointer.
 *
 *     truth [SECONDS [THREADS]]     default: 3 seconds, 4 threads
 *
 * Each thread runs through regions of hand-written code. Between a region's labels every register
 * named by its table is either constant or a function of the counter in RCX; tests/truth/check.py
 * knows these functions, this file checks them itself at the end of each visit. R12 holds the
 * thread's number. Exit status: 0, 1 if a register was wrong, 77 without AVX2 and FMA.
 *
 * Build: gcc -O1 -no-pie -pthread (the checker takes addresses from the symbol table as they are).
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { REGISTERS = 32, WORDS = 8, MOST_THREADS = 16 };
typedef uint64_t Table[REGISTERS][WORDS];
/* table: registers to load; out: registers at the end, and the opmasks behind them. */
typedef void Region(const uint64_t *table, uint64_t rounds, uint64_t thread, uint64_t *out);

Region truth_const, truth_fma, truth_nan, truth_subnormal, truth_upper, truth_zero, truth_avx512;

__asm__(
    ".intel_syntax noprefix\n"
    ".text\n"
    ".macro enter\n"
    "  push r12\n  push r13\n  mov r12, rdx\n  mov r13, rcx\n  xor ecx, ecx\n"
    ".endm\n"
    ".macro leave_region\n"
    "  vzeroupper\n  pop r13\n  pop r12\n  ret\n"
    ".endm\n"
    ".macro load_ymm\n"
    "  .irp r, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
    "  vmovdqu ymm\\r, [rdi + 64 * \\r]\n"
    "  .endr\n"
    ".endm\n"
    ".macro store_ymm\n"
    "  .irp r, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
    "  vmovdqu [r13 + 64 * \\r], ymm\\r\n"
    "  .endr\n"
    ".endm\n"

    /* Sixteen constants. */
    ".globl truth_const\n.type truth_const, @function\n"
    "truth_const:\n  enter\n  load_ymm\n"
    "truth_const_begin:\n"
    "  lea rax, [rcx + rcx * 4]\n"
    "  add rax, rdi\n"
    "  inc rcx\n"
    "  cmp rcx, rsi\n"
    "  jb truth_const_begin\n"
    "truth_const_end:\n  store_ymm\n  leave_region\n"
    ".size truth_const, . - truth_const\n"

    /* Four chains, each stepped once a round: 0 += 1 * 2; 3 = 3 * 4 + 5; 6 += 7; 8 ^= 9. */
    ".globl truth_fma\n.type truth_fma, @function\n"
    "truth_fma:\n  enter\n  load_ymm\n"
    "truth_fma_begin:\n"
    "  vfmadd231pd ymm0, ymm1, ymm2\n"
    "truth_fma_1:\n"
    "  vfmadd213pd ymm3, ymm4, ymm5\n"
    "truth_fma_2:\n"
    "  vpaddq ymm6, ymm6, ymm7\n"
    "truth_fma_3:\n"
    "  vpxor ymm8, ymm8, ymm9\n"
    "truth_fma_4:\n"
    "  inc rcx\n"
    "truth_fma_5:\n"
    "  cmp rcx, rsi\n"
    "  jb truth_fma_begin\n"
    "truth_fma_end:\n  store_ymm\n  leave_region\n"
    ".size truth_fma, . - truth_fma\n"

    /* NaNs computed again and again: 3 = 0 + 2; 4 = 1 + 2; 6 = 5 + 5 (f32); 8 = 7 - 7. */
    ".globl truth_nan\n.type truth_nan, @function\n"
    "truth_nan:\n  enter\n  load_ymm\n"
    "  vaddpd ymm3, ymm0, ymm2\n"
    "  vaddpd ymm4, ymm1, ymm2\n"
    "  vaddps ymm6, ymm5, ymm5\n"
    "  vsubpd ymm8, ymm7, ymm7\n"
    "truth_nan_begin:\n"
    "  vaddpd ymm3, ymm0, ymm2\n"
    "  vaddpd ymm4, ymm1, ymm2\n"
    "  vaddps ymm6, ymm5, ymm5\n"
    "  vsubpd ymm8, ymm7, ymm7\n"
    "  inc rcx\n"
    "  cmp rcx, rsi\n"
    "  jb truth_nan_begin\n"
    "truth_nan_end:\n  store_ymm\n  leave_region\n"
    ".size truth_nan, . - truth_nan\n"

    /* 0 is halved 52 times from 2**-1022 down to the smallest subnormal, then starts again. */
    ".globl truth_subnormal\n.type truth_subnormal, @function\n"
    "truth_subnormal:\n  enter\n  load_ymm\n"
    "truth_subnormal_begin:\n"
    "  vmulpd ymm0, ymm0, ymm1\n"
    "truth_subnormal_1:\n"
    "  inc rcx\n"
    "truth_subnormal_2:\n"
    "  cmp rcx, 52\n"
    "  jb 1f\n"
    "  vmovapd ymm0, ymm15\n"
    "truth_subnormal_3:\n"
    "  xor ecx, ecx\n"
    "truth_subnormal_4:\n"
    "1:\n"
    "  dec rsi\n"
    "  jnz truth_subnormal_begin\n"
    "truth_subnormal_end:\n  store_ymm\n"
    "  mov [r13 + 64 * 32], rcx\n"
    "  leave_region\n"
    ".size truth_subnormal, . - truth_subnormal\n"

    /* Upper halves zero, low ones not; SSE code: 0 += 1. */
    ".globl truth_upper\n.type truth_upper, @function\n"
    "truth_upper:\n  enter\n  load_ymm\n  vzeroupper\n"
    "truth_upper_begin:\n"
    "  paddq xmm0, xmm1\n"
    "truth_upper_1:\n"
    "  inc rcx\n"
    "truth_upper_2:\n"
    "  cmp rcx, rsi\n"
    "  jb truth_upper_begin\n"
    "truth_upper_end:\n  store_ymm\n  leave_region\n"
    ".size truth_upper, . - truth_upper\n"

    /* Everything zero: zero is a value. */
    ".globl truth_zero\n.type truth_zero, @function\n"
    "truth_zero:\n  enter\n  vzeroall\n"
    "truth_zero_begin:\n"
    "  inc rcx\n"
    "  cmp rcx, rsi\n"
    "  jb truth_zero_begin\n"
    "truth_zero_end:\n  store_ymm\n  leave_region\n"
    ".size truth_zero, . - truth_zero\n"

    /* 32 registers and 8 opmasks; 0 += 1 in the lanes of k1 only. */
    ".globl truth_avx512\n.type truth_avx512, @function\n"
    "truth_avx512:\n  enter\n"
    "  .irp r, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,"
    "30,31\n"
    "  vmovdqu64 zmm\\r, [rdi + 64 * \\r]\n"
    "  .endr\n"
    "  .irp r, 0,1,2,3,4,5,6,7\n"
    "  kmovq k\\r, [rdi + 64 * 32 + 8 * \\r]\n"
    "  .endr\n"
    "truth_avx512_begin:\n"
    "  vpaddq zmm0{k1}, zmm0, zmm1\n"
    "truth_avx512_1:\n"
    "  inc rcx\n"
    "truth_avx512_2:\n"
    "  cmp rcx, rsi\n"
    "  jb truth_avx512_begin\n"
    "truth_avx512_end:\n"
    "  .irp r, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,"
    "30,31\n"
    "  vmovdqu64 [r13 + 64 * \\r], zmm\\r\n"
    "  .endr\n"
    "  .irp r, 0,1,2,3,4,5,6,7\n"
    "  kmovq [r13 + 64 * 32 + 8 * \\r], k\\r\n"
    "  .endr\n"
    "  leave_region\n"
    ".size truth_avx512, . - truth_avx512\n"
    ".att_syntax prefix\n");

static double start_s;
static double seconds = 3.0;
static int wide;

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint64_t bits(double value)
{
    uint64_t word;
    memcpy(&word, &value, sizeof word);
    return word;
}

/* The constant of a register word: names region, thread, register and word. */
static uint64_t constant(unsigned region, uint64_t thread, unsigned reg, unsigned word)
{
    return 0x5a00000000000000 | (uint64_t)region << 48 | thread << 40 | (uint64_t)reg << 24 |
           (uint64_t)word << 16 | 0xbeef;
}

static void fill(Table table, unsigned region, uint64_t thread)
{
    for (unsigned reg = 0; reg < REGISTERS; reg++)
        for (unsigned word = 0; word < WORDS; word++)
            table[reg][word] = constant(region, thread, reg, word);
}

static void fill_register(Table table, unsigned reg, uint64_t value)
{
    for (unsigned word = 0; word < WORDS; word++)
        table[reg][word] = value;
}

/* Compares `words` low words of the first `registers` registers; 1 if one is wrong. */
static int differs(Table want, Table got, unsigned registers, unsigned words)
{
    int wrong = 0;
    for (unsigned reg = 0; reg < registers; reg++)
        for (unsigned word = 0; word < words; word++)
            wrong |= want[reg][word] != got[reg][word];
    return wrong;
}

struct Buffer {
    Table registers;
    uint64_t opmasks[8];
};

static int visit_const(uint64_t thread)
{
    struct Buffer in, out;
    fill(in.registers, 1, thread);
    truth_const(&in.registers[0][0], 100000, thread, &out.registers[0][0]);
    return differs(in.registers, out.registers, 16, 4);
}

static int visit_fma(uint64_t thread)
{
    enum { ROUNDS = 60000 };
    struct Buffer in, out;
    fill(in.registers, 2, thread);
    for (unsigned word = 0; word < WORDS; word++) {
        double lane = (double)(word + 1), number = (double)(thread + 1);
        in.registers[0][word] = bits(lane);
        in.registers[1][word] = bits(2.0 * lane);
        in.registers[2][word] = bits(number);
        in.registers[3][word] = bits(lane * 0.5);
        in.registers[4][word] = bits(-1.0);
        in.registers[5][word] = bits(number);
    }
    truth_fma(&in.registers[0][0], ROUNDS, thread, &out.registers[0][0]);
    /* What 60,000 rounds leave: exact, all numbers are far below 2**53; the rounds are even. */
    for (unsigned word = 0; word < WORDS; word++) {
        double lane = (double)(word + 1), number = (double)(thread + 1);
        in.registers[0][word] = bits(lane + 2.0 * lane * number * ROUNDS);
        in.registers[6][word] += in.registers[7][word] * ROUNDS;
    }
    return differs(in.registers, out.registers, 16, 4);
}

static int visit_nan(uint64_t thread)
{
    struct Buffer in, out;
    fill(in.registers, 3, thread);
    for (unsigned word = 0; word < WORDS; word++) {
        uint64_t payload = thread << 8 | word | 0x10;
        uint64_t single = 0x7fc00100 | thread << 4 | word;
        in.registers[0][word] = 0x7ff8000000000000 | payload;
        in.registers[1][word] = 0xfff0000000000000 | payload;   /* signalling, negative */
        in.registers[2][word] = bits(1.0);
        in.registers[3][word] = in.registers[0][word];
        in.registers[4][word] = 0xfff8000000000000 | payload;   /* quieted */
        in.registers[5][word] = single << 32 | 0xffc00200 | word;
        in.registers[6][word] = in.registers[5][word];
        in.registers[7][word] = 0x7ff0000000000000;
        in.registers[8][word] = 0xfff8000000000000;             /* the default NaN */
        in.registers[9][word] = 0x8000000000000000;
    }
    truth_nan(&in.registers[0][0], 60000, thread, &out.registers[0][0]);
    return differs(in.registers, out.registers, 16, 4);
}

static int visit_subnormal(uint64_t thread)
{
    struct Buffer in, out;
    fill(in.registers, 4, thread);
    fill_register(in.registers, 0, (uint64_t)1 << 52);
    fill_register(in.registers, 1, bits(0.5));
    fill_register(in.registers, 2, thread + 1);
    fill_register(in.registers, 3, (uint64_t)1 << 63 | (thread + 1));
    fill_register(in.registers, 4, (thread + 1) << 32 | 0x80000001);
    fill_register(in.registers, 15, (uint64_t)1 << 52);
    truth_subnormal(&in.registers[0][0], 30000, thread, &out.registers[0][0]);
    fill_register(in.registers, 0, (uint64_t)1 << (52 - out.opmasks[0]));
    return differs(in.registers, out.registers, 16, 4);
}

static int visit_upper(uint64_t thread)
{
    enum { ROUNDS = 100000 };
    struct Buffer in, out;
    fill(in.registers, 5, thread);
    truth_upper(&in.registers[0][0], ROUNDS, thread, &out.registers[0][0]);
    for (unsigned reg = 0; reg < REGISTERS; reg++)
        in.registers[reg][2] = in.registers[reg][3] = 0;
    for (unsigned word = 0; word < 2; word++)
        in.registers[0][word] += in.registers[1][word] * ROUNDS;
    return differs(in.registers, out.registers, 16, 4);
}

static int visit_zero(uint64_t thread)
{
    struct Buffer in, out;
    memset(&in, 0, sizeof in);
    truth_zero(&in.registers[0][0], 150000, thread, &out.registers[0][0]);
    return differs(in.registers, out.registers, 16, 4);
}

static int visit_avx512(uint64_t thread)
{
    enum { ROUNDS = 100000 };
    struct Buffer in, out;
    fill(in.registers, 7, thread);
    for (unsigned k = 0; k < 8; k++)
        in.opmasks[k] = 0xc0de000000000000 | thread << 40 | (uint64_t)k << 32 | 0xa5;
    truth_avx512(&in.registers[0][0], ROUNDS, thread, &out.registers[0][0]);
    for (unsigned word = 0; word < WORDS; word++)
        if (in.opmasks[1] >> word & 1)
            in.registers[0][word] += in.registers[1][word] * ROUNDS;
    return differs(in.registers, out.registers, 32, 8) |
           (memcmp(in.opmasks, out.opmasks, sizeof in.opmasks) != 0);
}

struct Thread {
    pthread_t handle;
    uint64_t number, visits, wrong;
};

static void *work(void *argument)
{
    struct Thread *self = argument;
    static int (*const visits[])(uint64_t) = {
        visit_const, visit_fma, visit_nan, visit_subnormal, visit_upper, visit_zero, visit_avx512,
    };
    unsigned count = wide ? 7 : 6;
    for (unsigned next = (unsigned)self->number; now_s() - start_s < seconds; next++) {
        self->wrong += (uint64_t)visits[next % count](self->number);
        self->visits++;
    }
    return NULL;
}

int main(int argc, char **argv)
{
    static struct Thread threads[MOST_THREADS];
    int count = argc > 2 ? atoi(argv[2]) : 4;
    uint64_t visits = 0, wrong = 0;
    if (argc > 1)
        seconds = atof(argv[1]);
    if (count < 1 || count > MOST_THREADS || seconds <= 0.0) {
        fprintf(stderr, "usage: truth [SECONDS [THREADS, 1 to %d]]\n", MOST_THREADS);
        return 2;
    }
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
        fprintf(stderr, "truth: this CPU has no AVX2 and FMA\n");
        return 77;
    }
    wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
    start_s = now_s();
    for (int i = 0; i < count; i++) {
        threads[i].number = (uint64_t)i;
        if (pthread_create(&threads[i].handle, NULL, work, &threads[i]) != 0) {
            fprintf(stderr, "truth: cannot create thread %d\n", i);
            return 1;
        }
    }
    for (int i = 0; i < count; i++) {
        pthread_join(threads[i].handle, NULL);
        visits += threads[i].visits;
        wrong += threads[i].wrong;
    }
    printf("{\"visits\": %llu, \"wrong\": %llu, \"avx512\": %s}\n", (unsigned long long)visits,
           (unsigned long long)wrong, wide ? "true" : "false");
    return wrong != 0;
}
