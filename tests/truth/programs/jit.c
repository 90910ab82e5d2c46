/*
 * Code made at run time: pages at known addresses, written, made executable, run and dropped.
 *
 * The page of a region is JIT_BASE + 4096 * its number: its code is the template's, with a
 * constant of that region as an immediate.
 */
#define _GNU_SOURCE
#include <sys/mman.h>

#include "truth.h"

#define JIT_BASE 0x200000000000u
enum { PAGE_BYTES = 4096, FIRST_NUMBER = 64, PAGES_EACH = 8, MOST_JIT_THREADS = 16 };
enum { IMMEDIATE_AT = 2 };        /* behind REX.W and the opcode of mov */

extern const unsigned char truth_jit_page[], jit_page_last[];

Region truth_jit_call;

__asm__(
    ".intel_syntax noprefix\n"

    /* Loads all but 2, which the page makes itself, and calls the page. */
    FUNCTION("jit_call") "  load_ymm\n"
    "  call [r15 + 2136]\n"
    "  store_ymm\n" LEAVE("jit_call")

    /* 0 += 1; 3 ^= 4; 2 = the immediate in all words. */
    ".type truth_jit_page, @function\n"
    "truth_jit_page:\n"
    "  movabs rax, 0\n  vmovq xmm2, rax\n  vpbroadcastq ymm2, xmm2\n"
    AT("jit_page", "begin")
    "  vpaddq ymm0, ymm0, ymm1\n" AT("jit_page", "1")
    "  vpxor ymm3, ymm3, ymm4\n" AT("jit_page", "2")
    "  inc rbx\n" AT("jit_page", "3")
    ROUND("jit_page")
    "  ret\n"
    ".size truth_jit_page, . - truth_jit_page\n"
    "jit_page_last:\n"
    ".att_syntax prefix\n");

/* The rounds are even: 3 is back where it was. */
static void finish_page(struct Registers *want, uint64_t thread, uint64_t rounds)
{
    (void)thread;
    add_register(want, 0, 1, rounds);
    fill_register(want, 2, want->vector[2][0]);
}

static __thread struct Visit current = {truth_jit_call, 200000, 0, 4, 1, 0, NULL, finish_page};
static __thread void *page;

static void prepare_page(struct Registers *in, uint64_t thread)
{
    (void)thread;
    in->room[0] = (uint64_t)(uintptr_t)page;
}

/* The thread's next page, in place of the one before. */
static const struct Visit *make_page(uint64_t turn)
{
    unsigned number = FIRST_NUMBER + (unsigned)(own_number * PAGES_EACH + turn % PAGES_EACH);
    uint64_t immediate = constant(number, own_number, 2, 0);
    if (page)
        munmap(page, PAGE_BYTES);
    page = mmap((void *)(JIT_BASE + (uint64_t)PAGE_BYTES * number), PAGE_BYTES,
                PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (page == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    memcpy(page, truth_jit_page, (size_t)(jit_page_last - truth_jit_page));
    memcpy((char *)page + IMMEDIATE_AT, &immediate, sizeof immediate);
    if (mprotect(page, PAGE_BYTES, PROT_READ | PROT_EXEC) != 0) {
        perror("mprotect");
        exit(1);
    }
    current.number = number;
    current.prepare = prepare_page;
    return &current;
}

int main(int argc, char **argv)
{
    if (argc > 2 && atoi(argv[2]) * (argc > 3 ? atoi(argv[3]) : 1) > MOST_JIT_THREADS) {
        fprintf(stderr, "%s: at most %d threads in all\n", argv[0], MOST_JIT_THREADS);
        return 2;
    }
    choose = make_page;
    return truth_main(argc, argv, AVX2, NULL, 0);
}
