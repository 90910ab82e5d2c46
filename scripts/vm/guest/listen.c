/*
 * A recorder small enough to start a thousand times: opens xsaves_nmi:snapshot on every CPU, listens
 * for a while, and prints how many samples and bytes the rings held.
 *
 *   listen MILLISECONDS
 */
#define _GNU_SOURCE
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CPUS 16
#define RING (64 * 4096)

int main(int count, char **words)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_TRACEPOINT, .size = sizeof(attr), .sample_period = 1, .disabled = 1,
		.sample_type = PERF_SAMPLE_IP | PERF_SAMPLE_TID | PERF_SAMPLE_TIME | PERF_SAMPLE_RAW,
	};
	FILE *id = fopen("/sys/kernel/tracing/events/xsaves_nmi/snapshot/id", "r");
	struct perf_event_mmap_page *rings[CPUS];
	unsigned long long number, samples = 0, bytes = 0;
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	int fds[CPUS];

	if (count < 2 || !id || fscanf(id, "%llu", &number) != 1) {
		fprintf(stderr, "listen: no tracepoint\n");
		return 1;
	}
	fclose(id);
	attr.config = number;
	for (long cpu = 0; cpu < cpus && cpu < CPUS; cpu++) {
		fds[cpu] = (int)syscall(SYS_perf_event_open, &attr, -1, (int)cpu, -1, 0UL);
		if (fds[cpu] < 0) {
			perror("perf_event_open");
			return 1;
		}
		rings[cpu] = mmap(NULL, 4096 + RING, PROT_READ | PROT_WRITE, MAP_SHARED, fds[cpu], 0);
		if (rings[cpu] == MAP_FAILED) {
			perror("mmap");
			return 1;
		}
		ioctl(fds[cpu], PERF_EVENT_IOC_ENABLE, 0);
	}
	usleep((useconds_t)atoi(words[1]) * 1000);
	for (long cpu = 0; cpu < cpus && cpu < CPUS; cpu++) {
		const char *data = (const char *)rings[cpu] + 4096;
		unsigned long long at = 0, end;

		ioctl(fds[cpu], PERF_EVENT_IOC_DISABLE, 0);
		end = __atomic_load_n(&rings[cpu]->data_head, __ATOMIC_ACQUIRE);
		while (at < end && at < RING) {
			struct perf_event_header header;

			/* Headers are aligned to 8 bytes and so never cut by the ring's end. */
			memcpy(&header, data + at, sizeof(header));
			if (header.size < sizeof(header))
				return 1;
			samples += header.type == PERF_RECORD_SAMPLE;
			at += header.size;
		}
		bytes += end;
		close(fds[cpu]);
		munmap(rings[cpu], 4096 + RING);
	}
	printf("%llu %llu\n", samples, bytes);
	return 0;
}
