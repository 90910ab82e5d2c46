/* What the holder's assembly and C share. */
#ifndef HOLD_H
#define HOLD_H

#include <stdint.h>

/* Vectors low qword first, then the opmasks: the order in which hold.S loads and stores them. */
struct registers {
	uint64_t vector[32][8];
	uint64_t opmask[8];
} __attribute__((aligned(64)));

/* A system call made over and over; number -1: none, only a counted loop. */
struct call {
	int64_t number;
	uint64_t argument[3];
};

enum upkeep { KEEP, UPPER, INIT }; /* after loading: nothing, vzeroupper, all components initial */

#define HOLD(name)                                                                               \
	extern void name(const struct registers *in, struct registers *out, uint64_t turns,       \
			 const struct call *call, uint64_t upkeep);                               \
	extern const char name##_begin[], name##_end[]

HOLD(hold_avx);
HOLD(hold_avx512);
HOLD(handle_avx);    /* the same code at other addresses, for the signal handler */
HOLD(handle_avx512);

#endif
