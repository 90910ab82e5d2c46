/* SPDX-License-Identifier: GPL-2.0 */
/*
 * xsaves_nmi: vector registers at the instant of an NMI, as tracepoint records.
 *
 * One concept a file:
 *   xsaves_nmi_main.c    parameters, start and stop, CPU hotplug, suspend
 *   xsaves_nmi_source.c  who sends the NMIs
 *   xsaves_nmi_hit.c     which hits are taken, and which are dropped and counted
 *   xsaves_nmi_save.c    components, buffers, and the XSAVES itself
 *   xsaves_nmi_trace.c   the tracepoint
 *   xsaves_nmi_sysfs.c   /sys/kernel/xsaves_nmi
 */
#ifndef _XSAVES_NMI_H
#define _XSAVES_NMI_H

#undef pr_fmt
#define pr_fmt(fmt) "xsaves_nmi: " fmt

#include <linux/bits.h>
#include <linux/percpu.h>
#include <linux/ptrace.h>
#include <linux/types.h>

#define XSAVES_NMI_VERSION	"1.0"

/* Flags of a record; the number of the source stands above them. */
#define XSAVES_NMI_F_USER	BIT(0)	/* user mode was interrupted */
#define XSAVES_NMI_F_NEED_LOAD	BIT(1)	/* TIF_NEED_FPU_LOAD: not the task's registers */
#define XSAVES_NMI_F_COMPACTED	BIT(2)
#define XSAVES_NMI_F_XSAVES	BIT(3)
#define XSAVES_NMI_F_IN_NMI	BIT(4)
#define XSAVES_NMI_F_KTHREAD	BIT(5)
#define XSAVES_NMI_SOURCE_SHIFT	8

/* Numbers of the file format: never renumber. */
enum xsaves_nmi_source {
	XSAVES_NMI_PMU = 1,
	XSAVES_NMI_IPI = 2,
	XSAVES_NMI_SELF = 3,
};

enum xsaves_nmi_insn {
	XSAVES_NMI_XSAVES,
	XSAVES_NMI_XSAVEC,
	XSAVES_NMI_XSAVE,
};

/* Hits of one CPU come one after the other, and NMIs do not nest. */
#define XSAVES_NMI_MIN_PERIOD_NS	100000
/* After a hit that took c, the next is taken no earlier than this many c later. */
#define XSAVES_NMI_REST			8

struct xsaves_nmi_stats {
	u64 hits;
	u64 written;
	u64 dropped_kernel;
	u64 dropped_kernel_fpu;	/* of these: where the registers are not the task's */
	u64 dropped_guest;
	u64 dropped_idle;
	u64 dropped_nobody;
	u64 dropped_late;
	u64 dropped_not_loaded;
	u64 dropped_ts;
	u64 dropped_period;
	u64 throttled;
	u64 errors;
	u64 ipis_busy;
	u64 ipis_lost;
	u64 nmis_late;
	u64 cycles;		/* of the written ones, all of the handler */
	u64 save_cycles;	/* of these: for the instruction and the clearing before it */
	u64 worst_cycles;
	u64 worst_save_cycles;
};

DECLARE_PER_CPU(struct xsaves_nmi_stats, xsaves_nmi_stats);

/* Written by the CPU itself, in NMI or with interrupts off: no atomics. */
#define xsaves_nmi_count(name)	__this_cpu_inc(xsaves_nmi_stats.name)

/* A hit on its way to those who listen. The image is there once somebody asked for it. */
struct xsaves_nmi_snapshot {
	struct pt_regs	*regs;		/* what was interrupted */
	const void	*image;		/* NULL: not saved yet */
	u64		rfbm;		/* 0: the save failed, the image is all zero */
	u64		save_cycles;
	u32		flags;
	u32		len;		/* bytes */
};

struct xsaves_nmi_component {
	u32	size;		/* bytes, 0: not on this CPU */
	u32	offset;		/* in the standard layout, 0 for supervisor components */
	u32	alignment;	/* in the compacted layout: 64 or 1 */
};

/* Parameters, as checked; constant once the module is loaded. */
struct xsaves_nmi_config {
	enum xsaves_nmi_source	source;
	unsigned int		hz;
	u64			period;		/* events of the PMU, 0: by hz */
	bool			ssp;
	bool			kernel_hits;
};

extern struct xsaves_nmi_config xsaves_nmi_config;

/* main */
int xsaves_nmi_listen(void);
void xsaves_nmi_unlisten(void);
bool xsaves_nmi_running(void);
bool xsaves_nmi_virtualization_on(void);

/* source */
const char *xsaves_nmi_source_name(enum xsaves_nmi_source source);
int xsaves_nmi_source_parse(const char *name);
int xsaves_nmi_source_init(void);
void xsaves_nmi_source_exit(void);
int xsaves_nmi_source_start_cpu(unsigned int cpu);
void xsaves_nmi_source_stop_cpu(unsigned int cpu);
void xsaves_nmi_source_stop(void);

/* hit */
void xsaves_nmi_hit(struct pt_regs *regs, unsigned int source);
void xsaves_nmi_take(struct xsaves_nmi_snapshot *snapshot);

/* save */
int xsaves_nmi_save_init(u64 mask, const char *insn, bool ssp);
void xsaves_nmi_save_exit(void);
void *xsaves_nmi_buffer(void);
int xsaves_nmi(void *buffer, u64 mask);
u64 xsaves_nmi_rfbm(bool user);
u64 xsaves_nmi_xcr0(void);
u32 xsaves_nmi_length(u64 rfbm);
u32 xsaves_nmi_insn_flags(void);
const char *xsaves_nmi_insn_name(void);
const struct xsaves_nmi_component *xsaves_nmi_component(unsigned int nr);

/* trace */
void xsaves_nmi_emit(struct xsaves_nmi_snapshot *snapshot);
int xsaves_nmi_listeners(void);

/* sysfs */
int xsaves_nmi_sysfs_init(void);
void xsaves_nmi_sysfs_exit(void);

#endif /* _XSAVES_NMI_H */
