/*
 * A program whose shadow stack pointer is known: it turns its own shadow stack on (kernel 6.6 and
 * later, CONFIG_X86_USER_SHADOW_STACK, a processor with CET), then loops at two call depths.
 *
 *   shadow SECONDS CPU
 *
 * Prints one line of JSON with the two regions and the shadow stack pointer in each. Exit status 3
 * where the kernel or the processor refuses.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* asm/prctl.h of Linux 6.6 */
#define ARCH_SHSTK_ENABLE 0x5001
#define ARCH_SHSTK_SHSTK 1UL

extern uint64_t shadow_outer(uint64_t turns), shadow_inner(uint64_t turns);
extern const char shadow_outer_begin[], shadow_outer_end[], shadow_inner_begin[], shadow_inner_end[];

/* Both return the pointer that RDSSPQ (f3 48 0f 1e c8: rax) gave inside. */
__asm__(".text\n"
	".globl shadow_outer, shadow_inner, shadow_outer_begin, shadow_outer_end\n"
	".globl shadow_inner_begin, shadow_inner_end\n"
	"shadow_outer:\n"
	"	.byte 0xf3, 0x48, 0x0f, 0x1e, 0xc8\n"
	"	mov %rdi, %rcx\n"
	"shadow_outer_begin:\n"
	"1:	lea 1(%rdx), %rdx\n"
	"	dec %rcx\n"
	"	jnz 1b\n"
	"	nop\n"
	"shadow_outer_end:\n"
	"	ret\n"
	"shadow_inner:\n"
	"	call 2f\n"
	"	ret\n"
	"2:	.byte 0xf3, 0x48, 0x0f, 0x1e, 0xc8\n"
	"	mov %rdi, %rcx\n"
	"shadow_inner_begin:\n"
	"3:	lea 1(%rdx), %rdx\n"
	"	dec %rcx\n"
	"	jnz 3b\n"
	"	nop\n"
	"shadow_inner_end:\n"
	"	ret\n");


static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

int main(int count, char **words)
{
	uint64_t outer = 0, inner = 0;
	unsigned long moved = 0;
	cpu_set_t cpus;
	double end;
	long answer;

	if (count < 3) {
		fprintf(stderr, "shadow SECONDS CPU\n");
		return 2;
	}
	CPU_ZERO(&cpus);
	CPU_SET((unsigned int)atoi(words[2]), &cpus);
	sched_setaffinity(0, sizeof(cpus), &cpus);
	end = now() + atof(words[1]);
	/*
	 * From here on main must not return: its own return address is on no shadow stack. The call is
	 * inline for the same reason: a function that turns the shadow stack on cannot return either.
	 */
	__asm__ volatile("syscall"
			 : "=a"(answer)
			 : "0"((long)SYS_arch_prctl), "D"(ARCH_SHSTK_ENABLE), "S"(ARCH_SHSTK_SHSTK)
			 : "rcx", "r11", "memory");
	if (answer) {
		fprintf(stderr, "no shadow stack here: arch_prctl answered %ld\n", answer);
		_exit(3);
	}
	do {
		uint64_t here = shadow_outer(200000), deeper = shadow_inner(200000);

		if (!here || (outer && (here != outer || deeper != inner)))
			moved++;
		outer = here;
		inner = deeper;
	} while (now() < end);
	printf("{\"tid\": %ld, \"pid\": %d, \"way\": \"shadow\", \"moved\": %lu, "
	       "\"ssp\": [[%lu, %lu, %lu], [%lu, %lu, %lu]]}\n",
	       (long)syscall(SYS_gettid), getpid(), moved,
	       (unsigned long)shadow_outer_begin, (unsigned long)shadow_outer_end, (unsigned long)outer,
	       (unsigned long)shadow_inner_begin, (unsigned long)shadow_inner_end, (unsigned long)inner);
	fflush(stdout);
	_exit(moved ? 1 : 0);
}
