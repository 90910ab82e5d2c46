/* Threads with names, a child that execs, children that only work, page faults, switches, and a
 * variable to watch: something for every kind of event without a PMU, in about 30 ms. */
#define _GNU_SOURCE
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGES (1 << 16)

volatile unsigned long sink;
volatile int watched;

/* By the thread's own clock: what a kind of event needs to happen does so on a fast machine too. */
static void work(int milliseconds)
{
    struct timespec used;
    do {
        for (long i = 0; i < 1000; i++)
            sink += i * i;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    } while (used.tv_sec * 1000 + used.tv_nsec / 1000000 < milliseconds);
}

static void *thread(void *number)
{
    char name[16] = "thread-x";
    name[7] = '0' + (long)number;
    prctl(PR_SET_NAME, name);
    work(3);
    for (int i = 0; i < 3; i++) {
        watched++;
        usleep(200);
    }
    char *memory = mmap(0, PAGES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(memory, 1, PAGES);
    munmap(memory, PAGES);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1) {
        work(3);
        return 0;
    }
    pthread_t threads[3];
    for (long i = 0; i < 3; i++)
        pthread_create(&threads[i], 0, thread, (void *)i);
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_NAME, "a child");
        work(3);
        execl("/proc/self/exe", "relatives", "again", (char *)0);
    }
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], 0);
    waitpid(child, 0, 0);
    for (int i = 0; i < 3; i++)
        if (fork() == 0) {
            work(2);
            _exit(0);
        }
    while (wait(0) > 0)
        ;
    return 0;
}
