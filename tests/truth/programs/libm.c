/* Calls into libm: all vector registers are the callee's, and are loaded again behind the call. */
#include <math.h>

#include "truth.h"

Region truth_libm_sqrt, truth_libm_fmod, truth_libm_sin;

#define RELOAD                                                                                     \
    "  .irp r, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"                                              \
    "  vmovdqu ymm\\r, [r15 + 64 * \\r]\n"                                                         \
    "  .endr\n"                                                                                    \
    "  mov r8, [r15 + 2112]\n  mov r9, [r15 + 2120]\n"
#define CALLING(name, function, result)                                                            \
    FUNCTION(name) "  load_ymm\n"                                                                  \
    AT(name, "begin")                                                                              \
    "  vcvtsi2sd xmm0, xmm2, rbx\n" AT(name, "1")                                                  \
    "  call " function "@PLT\n" AT(name, "2")                                                      \
    "  " result "\n" AT(name, "3")                                                                 \
    RELOAD AT(name, "4")                                                                           \
    /* Some time with everything known, or nearly all samples would be the library's. */           \
    "  mov eax, 200\n1:\n  dec eax\n  jnz 1b\n"                                                   \
    "  inc rbx\n" AT(name, "5")                                                                    \
    ROUND(name) "  store_ymm\n" LEAVE(name)

__asm__(
    ".intel_syntax noprefix\n"
    CALLING("libm_sqrt", "sqrt", "vmovq xmm0, xmm0")
    CALLING("libm_fmod", "fmod", "vmovq xmm0, xmm0")
    /* A sine is not exact: its place is taken by a constant. */
    CALLING("libm_sin", "sin", "vmovdqu ymm0, [r15]")
    ".att_syntax prefix\n");

static void prepare_call(struct Registers *in, uint64_t thread)
{
    (void)thread;
    fill_register(in, 0, 0);
    in->vector[1][0] = bits(7.25);
}

static void finish_sqrt(struct Registers *want, uint64_t thread, uint64_t rounds)
{
    (void)thread;
    want->vector[0][0] = bits(sqrt((double)(rounds - 1)));
}

static void finish_fmod(struct Registers *want, uint64_t thread, uint64_t rounds)
{
    (void)thread;
    want->vector[0][0] = bits(fmod((double)(rounds - 1), 7.25));
}

int main(int argc, char **argv)
{
    static const struct Visit visits[] = {
        {truth_libm_sqrt, 5000, 21, 4, 0, 0, prepare_call, finish_sqrt},
        {truth_libm_fmod, 5000, 22, 4, 0, 0, prepare_call, finish_fmod},
        {truth_libm_sin, 5000, 23, 4, 0, 0, NULL, NULL},
    };
    return truth_main(argc, argv, AVX2, visits, COUNT(visits));
}
