// SIGTRAPs of the program's own, while it is sampled. Modes:
//   int3 N     N breakpoint instructions with a handler
//   raise N    N times raise(SIGTRAP) with a handler
//   blocked S  S seconds of CPU time with SIGTRAP blocked, unblocked for a moment in between
//   ignored S  S seconds of CPU time with SIGTRAP ignored
// Prints how many of its own the handler got (si_code other than TRAP_PERF) and of others.
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static volatile int mine, others;

static void handler(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    if (info->si_code == 6) others++;
    else mine++;
}

static double cpu_time(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void spin(double seconds) {
    double end = cpu_time() + seconds;
    while (cpu_time() < end)
        for (volatile int i = 0; i < 100000; i++) { }
}

int main(int argc, char **argv) {
    struct sigaction action;
    sigset_t set;
    double amount = argc > 2 ? atof(argv[2]) : 10;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGTRAP, &action, 0);
    sigemptyset(&set);
    sigaddset(&set, SIGTRAP);
    if (!strcmp(argv[1], "int3")) {
        for (int i = 0; i < (int)amount; i++) { __asm__ volatile("int3"); spin(0.003); }
    } else if (!strcmp(argv[1], "raise")) {
        for (int i = 0; i < (int)amount; i++) { raise(SIGTRAP); spin(0.003); }
    } else if (!strcmp(argv[1], "blocked")) {
        sigprocmask(SIG_BLOCK, &set, 0);
        puts("ready"); fflush(stdout);
        spin(amount);
        sigprocmask(SIG_UNBLOCK, &set, 0);
        spin(0.02);
    } else if (!strcmp(argv[1], "ignored")) {
        signal(SIGTRAP, SIG_IGN);
        spin(amount);
    }
    printf("mine %d others %d\n", mine, others);
    return 0;
}
