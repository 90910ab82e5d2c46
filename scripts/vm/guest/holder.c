/*
 * Holds known constants in every vector register and opmask, and says which.
 *
 *   holder FAMILY WAY SECONDS CPU [THREADS]
 *
 * WAY: spin, upper, init, yield, getpid, marker, signals. Each thread has a family of its own
 * (FAMILY, FAMILY + 1, ...). Each prints one line of JSON at the end: its thread id, the regions of
 * code with what the registers hold there, and how often it found another value itself.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "hold.h"

#define HANDLER_FAMILY 0x80 /* or-ed to the family while the signal handler runs */

typedef void holding(const struct registers *, struct registers *, uint64_t, const struct call *,
		     uint64_t);

static int wide;
static const char *way;
static double seconds;
static int cpu;
static struct call call = { -1, { 0, 0, 0 } };
static enum upkeep upkeep = KEEP;

struct holder {
	unsigned int family;
	struct registers in, out, handler_in, handler_out;
	unsigned long rounds, failures, handled;
} __attribute__((aligned(64)));

static __thread struct holder *self;

/* What register number holds in one qword; truth.py computes the same. */
static uint64_t constant(unsigned int family, unsigned int number, unsigned int qword)
{
	return (uint64_t)family << 56 | 0xa5ULL << 48 | (uint64_t)number << 32 | qword << 16 | 0x5a5a;
}

static void fill(struct registers *regs, unsigned int family)
{
	for (unsigned int number = 0; number < 32; number++)
		for (unsigned int qword = 0; qword < 8; qword++)
			regs->vector[number][qword] = constant(family, number, qword);
	for (unsigned int number = 0; number < 8; number++)
		regs->opmask[number] = constant(family, 0x40 + number, 0);
}

static int same(const struct registers *want, const struct registers *got)
{
	unsigned int vectors = wide ? 32 : 16, qwords = wide ? 8 : 4;

	for (unsigned int number = 0; number < vectors; number++) {
		for (unsigned int qword = 0; qword < qwords; qword++) {
			uint64_t expected = want->vector[number][qword];

			if (upkeep == INIT || (upkeep == UPPER && number < 16 && qword >= 2))
				expected = 0;
			if (got->vector[number][qword] != expected)
				return 0;
		}
	}
	for (unsigned int number = 0; wide && number < 8; number++)
		if (got->opmask[number] != (upkeep == INIT ? 0 : want->opmask[number]))
			return 0;
	return 1;
}

static void on_signal(int number)
{
	static const struct call none = { -1, { 0, 0, 0 } };
	struct holder *holder = self;

	(void)number;
	(wide ? handle_avx512 : handle_avx)(&holder->handler_in, &holder->handler_out, 4000, &none, KEEP);
	holder->failures += !same(&holder->handler_in, &holder->handler_out);
	holder->handled++;
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static void *hold(void *argument)
{
	struct holder *holder = argument;
	cpu_set_t cpus;
	double end = now() + seconds;
	/* A system call is some thousand times a turn of the counted loop. */
	uint64_t turns = call.number < 0 ? 200000 : strcmp(way, "marker") ? 500 : 20;
	const char *begin = wide ? hold_avx512_begin : hold_avx_begin;
	const char *finish = wide ? hold_avx512_end : hold_avx_end;

	self = holder;
	CPU_ZERO(&cpus);
	CPU_SET((unsigned int)cpu, &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		perror("sched_setaffinity");
	fill(&holder->in, holder->family);
	fill(&holder->handler_in, holder->family | HANDLER_FAMILY);
	if (!strcmp(way, "signals")) {
		struct sigaction action = { .sa_handler = on_signal };
		struct itimerval each = { { 0, 5000 }, { 0, 5000 } };

		sigaction(SIGALRM, &action, NULL);
		setitimer(ITIMER_REAL, &each, NULL);
	}
	do {
		(wide ? hold_avx512 : hold_avx)(&holder->in, &holder->out, turns, &call, upkeep);
		holder->failures += !same(&holder->in, &holder->out);
		holder->rounds++;
	} while (now() < end);
	if (!strcmp(way, "signals")) {
		struct itimerval never = { { 0, 0 }, { 0, 0 } };

		setitimer(ITIMER_REAL, &never, NULL);
	}
	printf("{\"tid\": %ld, \"pid\": %d, \"family\": %u, \"way\": \"%s\", \"upkeep\": %d, "
	       "\"wide\": %d, \"cpu\": %d, \"rounds\": %lu, \"handled\": %lu, \"failures\": %lu, "
	       "\"regions\": [[%lu, %lu, %u, %d], [%lu, %lu, %u, 0]]}\n",
	       (long)syscall(SYS_gettid), getpid(), holder->family, way, upkeep, wide, cpu, holder->rounds,
	       holder->handled, holder->failures, (unsigned long)begin, (unsigned long)finish,
	       holder->family, upkeep,
	       (unsigned long)(wide ? handle_avx512_begin : handle_avx_begin),
	       (unsigned long)(wide ? handle_avx512_end : handle_avx_end),
	       holder->family | HANDLER_FAMILY);
	return NULL;
}

int main(int count, char **words)
{
	static struct holder holders[8];
	pthread_t threads[8];
	int wanted;

	if (count < 5) {
		fprintf(stderr, "holder FAMILY WAY SECONDS CPU [THREADS]\n");
		return 2;
	}
	way = words[2];
	seconds = atof(words[3]);
	cpu = atoi(words[4]);
	wanted = count > 5 ? atoi(words[5]) : 1;
	wide = !!__builtin_cpu_supports("avx512bw");
	if (!strcmp(way, "upper"))
		upkeep = UPPER;
	else if (!strcmp(way, "init"))
		upkeep = INIT;
	else if (!strcmp(way, "yield"))
		call.number = SYS_sched_yield;
	else if (!strcmp(way, "getpid"))
		call.number = SYS_getpid;
	else if (!strcmp(way, "marker")) {
		static char answer[8];

		call.number = SYS_read;
		call.argument[0] = (uint64_t)open("/dev/xmm_marker", O_RDONLY);
		call.argument[1] = (uint64_t)answer;
		call.argument[2] = sizeof(answer);
		if ((int64_t)call.argument[0] < 0) {
			perror("/dev/xmm_marker");
			return 1;
		}
	}
	for (int nr = 0; nr < wanted && nr < 8; nr++) {
		holders[nr].family = (unsigned int)atoi(words[1]) + (unsigned int)nr;
		if (nr + 1 == wanted)
			hold(&holders[nr]);
		else if (pthread_create(&threads[nr], NULL, hold, &holders[nr]))
			return 1;
	}
	for (int nr = 0; nr + 1 < wanted && nr < 8; nr++)
		pthread_join(threads[nr], NULL);
	return 0;
}
