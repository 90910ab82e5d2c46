/* Single-steps stretches of a program and writes its registers before every instruction.
 *
 *   steps STRETCHES INSTRUCTIONS PAUSE_US COMMAND...
 *
 * Descriptor 3 gets a record for each boundary: user_regs_struct, 32 vector registers of 64 bytes,
 * 8 opmasks; a record of all ones ends a stretch. The process id goes to stderr first. Between
 * stretches the program runs on by itself, once a byte comes from stdin (its mappings are read
 * meanwhile). */
#define _GNU_SOURCE
#include <cpuid.h>
#include <elf.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

struct record {
    struct user_regs_struct general;
    uint8_t vectors[32][64];
    uint64_t masks[8];
};

static unsigned char image[16384];

/* Where a state component lies in the standard format: CPUID leaf 0xD. */
static unsigned place(int component) {
    unsigned a = 0, b = 0, c = 0, d = 0;
    __cpuid_count(0xd, component, a, b, c, d);
    return b;
}

static int look(pid_t pid, struct record *to) {
    struct iovec whole = {image, sizeof image};
    if (ptrace(PTRACE_GETREGS, pid, 0, &to->general) < 0 ||
        ptrace(PTRACE_GETREGSET, pid, (void *)NT_X86_XSTATE, &whole) < 0)
        return -1;
    for (int n = 0; n < 16; n++) {
        memcpy(to->vectors[n], image + 160 + 16 * n, 16);
        memcpy(to->vectors[n] + 16, image + place(2) + 16 * n, 16);
        memcpy(to->vectors[n] + 32, image + place(6) + 32 * n, 32);
        memcpy(to->vectors[16 + n], image + place(7) + 64 * n, 64);
    }
    memcpy(to->masks, image + place(5), 64);
    return 0;
}

/* The signal that a stop is about, 0 where it is the tracer's own. */
static int signal_of(int status) {
    if (status >> 16 || WSTOPSIG(status) == SIGTRAP)
        return 0;
    return WSTOPSIG(status);
}

int main(int argc, char **argv) {
    if (argc < 5)
        return 2;
    long stretches = atol(argv[1]), instructions = atol(argv[2]), pause_us = atol(argv[3]);
    pid_t pid = fork();
    if (pid == 0) {
        close(3);
        raise(SIGSTOP);
        execvp(argv[4], argv + 4);
        _exit(127);
    }
    int status = 0;
    waitpid(pid, &status, WUNTRACED);
    if (ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL) < 0)
        return 3;
    kill(pid, SIGCONT);
    for (;;) {
        if (waitpid(pid, &status, 0) < 0 || !WIFSTOPPED(status))
            return 1;
        if (status >> 8 == (SIGTRAP | PTRACE_EVENT_EXEC << 8))
            break;
        ptrace(PTRACE_CONT, pid, 0, 0);
    }
    fprintf(stderr, "%d\n", pid);
    FILE *out = fdopen(3, "w");
    static struct record here;
    ptrace(PTRACE_CONT, pid, 0, 0);
    for (long stretch = 0; stretch < stretches; stretch++) {
        usleep(pause_us);
        ptrace(PTRACE_INTERRUPT, pid, 0, 0);
        if (waitpid(pid, &status, 0) < 0 || !WIFSTOPPED(status))
            break;
        int signal = signal_of(status);
        for (long n = 0; n < instructions; n++) {
            if (look(pid, &here) < 0)
                break;
            fwrite(&here, sizeof here, 1, out);
            if (ptrace(PTRACE_SINGLESTEP, pid, 0, signal) < 0)
                break;
            if (waitpid(pid, &status, 0) < 0 || !WIFSTOPPED(status)) {
                fclose(out);
                return 0;
            }
            signal = signal_of(status);
        }
        memset(&here, 0xff, sizeof here);
        fwrite(&here, sizeof here, 1, out);
        fflush(out);
        if (getchar() == EOF)
            break;
        ptrace(PTRACE_CONT, pid, 0, signal);
    }
    fclose(out);
    kill(pid, SIGKILL);
    return 0;
}
