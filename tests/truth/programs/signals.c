/* Signals interrupt a region; their handlers hold other values in all registers. */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/syscall.h>

#include "truth.h"

Region truth_signals_main, truth_signals_handler, truth_signals_masked;

#define CHAINS(name)                                                                               \
    FUNCTION(name) "  load_ymm\n"                                                                  \
    AT(name, "begin")                                                                              \
    "  vpaddq ymm0, ymm0, ymm1\n" AT(name, "1")                                                    \
    "  vpxor ymm2, ymm2, ymm3\n" AT(name, "2")                                                     \
    "  inc rbx\n" AT(name, "3")                                                                    \
    ROUND(name) "  store_ymm\n" LEAVE(name)

__asm__(
    ".intel_syntax noprefix\n"
    CHAINS("signals_main")
    CHAINS("signals_handler")
    CHAINS("signals_masked")
    ".att_syntax prefix\n");

/* The rounds are even: 2 is back where it was. */
static void finish_chains(struct Registers *want, uint64_t thread, uint64_t rounds)
{
    (void)thread;
    add_register(want, 0, 1, rounds);
}

static const struct Visit main_visit = {truth_signals_main, 400000, 24, 4, 1, 0, NULL, finish_chains};
static const struct Visit handler_visit = {
    truth_signals_handler, 60000, 25, 4, 1, 0, NULL, finish_chains};
static const struct Visit masked_visit = {
    truth_signals_masked, 60000, 26, 4, 1, 0, NULL, finish_chains};

static volatile sig_atomic_t handler_wrong;

static void handle(int number)
{
    const struct Visit *which = number == SIGRTMIN ? &handler_visit : &masked_visit;
    if (visit(which, ++own_visits << 8 | own_number))
        handler_wrong = 1;
}

/* The kernel's own number of the field: older C libraries have no name for it. */
#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

static __thread timer_t timers[2];
static __thread char other_stack[65536];

/* Two timers for each thread: SIGRTMIN, and SIGRTMIN + 1 whose handler blocks every signal. */
static void begin(uint64_t number)
{
    static const long period_ns[2] = {700000, 1100000};
    if (number & 1) {
        stack_t stack = {.ss_sp = other_stack, .ss_size = sizeof other_stack};
        sigaltstack(&stack, NULL);
    }
    for (int i = 0; i < 2; i++) {
        struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN + i};
        struct itimerspec often = {{0, period_ns[i]}, {0, period_ns[i]}};
        event.sigev_notify_thread_id = (pid_t)syscall(SYS_gettid);
        if (timer_create(CLOCK_MONOTONIC, &event, &timers[i]) == 0)
            timer_settime(timers[i], 0, &often, NULL);
    }
}

static void end(void)
{
    timer_delete(timers[0]);
    timer_delete(timers[1]);
}

int main(int argc, char **argv)
{
    struct sigaction plain = {.sa_handler = handle, .sa_flags = SA_RESTART | SA_ONSTACK};
    struct sigaction masked = plain;
    sigfillset(&masked.sa_mask);
    sigaction(SIGRTMIN, &plain, NULL);
    sigaction(SIGRTMIN + 1, &masked, NULL);
    thread_begins = begin;
    thread_ends = end;
    return truth_main(argc, argv, AVX2, &main_visit, 1) | handler_wrong;
}
