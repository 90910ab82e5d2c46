/* Makes code at run time and tells of it: in a perf map, in a jitdump, or in both.
 *
 *     jit map|dump|both DIRECTORY ROUNDS
 *
 * Two functions take turns at one address, `first` and `second`; a third, `steady`, stays. DIRECTORY
 * is where the dump goes; the map goes to /tmp, where perf looks. Prints the address and the pid.
 * Layouts: tools/perf/Documentation/jit-interface.txt and jitdump-specification.txt, Linux 6.1.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { CODE_BYTES = 64, STEADY_AT = 2048 };

/* mov $N,%ecx; 1: dec %ecx; jnz 1b; ret */
static const unsigned char spin[] = {0xb9, 0, 0, 0, 0x04, 0xff, 0xc9, 0x75, 0xfc, 0xc3};

static FILE *map, *dump;
static uint64_t made;

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void put(uint64_t value, int bytes) { fwrite(&value, bytes, 1, dump); }

static void tell(const char *name, unsigned char *at) {
    if (map) {
        fprintf(map, "%lx %x %s\n", (unsigned long)at, CODE_BYTES, name);
        fflush(map);
    }
    if (dump) {
        put(0, 4);
        put(16 + 40 + strlen(name) + 1 + CODE_BYTES, 4);
        put(now(), 8);
        put(getpid(), 4);
        put(getpid(), 4);
        put((uintptr_t)at, 8);
        put((uintptr_t)at, 8);
        put(CODE_BYTES, 8);
        put(made++, 8);
        fwrite(name, strlen(name) + 1, 1, dump);
        fwrite(at, CODE_BYTES, 1, dump);
        fflush(dump);
    }
}

int main(int count, char **words) {
    if (count < 4) return 2;
    char path[512];
    if (strcmp(words[1], "dump")) {
        snprintf(path, sizeof path, "/tmp/perf-%d.map", getpid());
        map = fopen(path, "w");
    }
    if (strcmp(words[1], "map")) {
        snprintf(path, sizeof path, "%s/jit-%d.dump", words[2], getpid());
        int fd = open(path, O_CREAT | O_TRUNC | O_RDWR, 0600);
        dump = fdopen(fd, "w+");
        put(0x4A695444, 4);
        put(1, 4);
        put(40, 4);
        put(62, 4);
        put(0, 4);
        put(getpid(), 4);
        put(now(), 8);
        put(0, 8);
        fflush(dump);
        if (mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0) == MAP_FAILED) return 3;
    }
    unsigned char *code = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (code == MAP_FAILED) return 4;
    printf("%lx %d\n", (unsigned long)code, getpid());
    fflush(stdout);
    memcpy(code + STEADY_AT, spin, sizeof spin);
    tell("steady", code + STEADY_AT);
    for (int round = 0; round < atoi(words[3]); round++) {
        memcpy(code, spin, sizeof spin);
        tell(round % 2 ? "second" : "first", code);
        for (int turn = 0; turn < 3; turn++) ((void (*)(void))code)();
        ((void (*)(void))(code + STEADY_AT))();
    }
    if (dump) {
        put(3, 4);
        put(16, 4);
        put(now(), 8);
        fflush(dump);
    }
    return 0;
}
