// Threads and processes that come and go. Modes:
//   churn N     N short threads, four at a time
//   leader      the first thread ends, a second one goes on
//   fork        a child that spins, waited for
//   spawn PROG  posix_spawn of PROG with argument "spin"
//   exec PROG   a second thread executes PROG with argument "spin"
//   spin [S]    S seconds of CPU time
//   wait        four threads that spin until killed; prints "ready"
//   guard       the same, with handlers that count every signal; SIGTERM ends it with the counts
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static double cpu_time(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void spin(double seconds) {
    double end = cpu_time() + seconds;
    while (cpu_time() < end)
        for (volatile int i = 0; i < 20000; i++) { }
}

static void *brief(void *arg) { (void)arg; spin(0.004); return 0; }
static void *longer(void *arg) { (void)arg; spin(0.4); exit(3); }
static volatile int signals, traps, ending;

static void count(int number) {
    if (number == SIGTERM) { ending = 1; return; }
    __atomic_fetch_add(number == SIGTRAP ? &traps : &signals, 1, __ATOMIC_RELAXED);
}

// Ends with its parent too: a test that is killed leaves nothing running.
static pid_t parent;
static void *until_told(void *arg) {
    (void)arg;
    while (!ending && getppid() == parent) spin(0.01);
    return 0;
}

static void *forever(void *arg) { until_told(arg); exit(0); }

static char *program;
static void *executes(void *arg) {
    char *argv[] = {program, "spin", "0.3", 0};
    (void)arg;
    execv(program, argv);
    exit(99);
}

int main(int argc, char **argv) {
    pthread_t ids[4];
    int status = 0;
    const char *mode = argv[1];
    parent = getppid();
    if (!strcmp(mode, "spin")) {
        spin(argc > 2 ? atof(argv[2]) : 0.3);
        return 5;
    }
    if (!strcmp(mode, "churn")) {
        for (int n = atoi(argv[2]); n > 0; n -= 4) {
            for (int i = 0; i < 4; i++) pthread_create(&ids[i], 0, brief, 0);
            for (int i = 0; i < 4; i++) pthread_join(ids[i], 0);
        }
        return 0;
    }
    if (!strcmp(mode, "leader")) {
        pthread_create(&ids[0], 0, longer, 0);
        pthread_exit(0);
    }
    if (!strcmp(mode, "fork")) {
        pid_t pid = fork();
        if (!pid) { spin(0.3); _exit(4); }
        waitpid(pid, &status, 0);
        return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
    }
    if (!strcmp(mode, "spawn")) {
        pid_t pid;
        char *args[] = {argv[2], "spin", "0.3", 0};
        if (posix_spawn(&pid, argv[2], 0, 0, args, environ)) return 98;
        waitpid(pid, &status, 0);
        return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
    }
    if (!strcmp(mode, "exec")) {
        program = argv[2];
        pthread_create(&ids[0], 0, executes, 0);
        spin(2);
        return 97;
    }
    if (!strcmp(mode, "wait")) {
        for (int i = 1; i < 4; i++) pthread_create(&ids[i], 0, forever, 0);
        puts("ready");
        fflush(stdout);
        forever(0);
    }
    if (!strcmp(mode, "guard")) {
        for (int n = 1; n < 32; n++)
            if (n != SIGSEGV && n != SIGBUS && n != SIGILL && n != SIGFPE && n != SIGABRT)
                signal(n, count);
        for (int i = 1; i < 4; i++) pthread_create(&ids[i], 0, until_told, 0);
        puts("ready");
        fflush(stdout);
        until_told(0);
        for (int i = 1; i < 4; i++) pthread_join(ids[i], 0);
        printf("traps %d signals %d\n", traps, signals);
        return 0;
    }
    return 96;
}
