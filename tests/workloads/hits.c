/* Calls hit() as often as told; its argument points at what a tracepoint there is to carry. */
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

struct said {
	uint32_t flags, tid, tgid, len;
	uint64_t rfbm, xstate_bv, xcomp_bv;
	char none[8];
};

__attribute__((noinline, noclone)) void hit(struct said *said)
{
	__asm__ volatile("nop; nop; nop; nop; nop" : : "r"(said) : "memory");
}

int main(int argc, char **argv)
{
	struct said said = {
		.flags = 1 | 16 | 2 << 8, .tid = (uint32_t)syscall(SYS_gettid),
		.tgid = (uint32_t)getpid(), .rfbm = 0xe6,
	};

	for (int left = argc > 1 ? atoi(argv[1]) : 1; left > 0; left--)
		hit(&said);
	return 0;
}
