// SPDX-License-Identifier: GPL-2.0
/*
 * Which hits are taken. Every hit is counted once as written or under the first reason that
 * dropped it. All of this runs in NMI: no locks, nothing that sleeps, nothing that is not this
 * CPU's own.
 */
#include "xsaves_nmi.h"

#include <linux/sched.h>
#include <linux/timekeeping.h>
#include <asm/special_insns.h>

#include "xsaves_nmi_compat.h"

DEFINE_PER_CPU(struct xsaves_nmi_stats, xsaves_nmi_stats);

struct pace {
	u64	earliest_ns;	/* by the shortest period */
	u64	rested_ns;	/* by the cost of the last hit */
};

static DEFINE_PER_CPU(struct pace, pace);

static bool task_needs_load(void)
{
	return test_thread_flag(TIF_NEED_FPU_LOAD);
}

static void count_worst(u64 *worst, u64 cycles)
{
	if (cycles > *worst)
		*worst = cycles;
}

static u32 flags_of(struct pt_regs *regs, unsigned int source)
{
	u32 flags = xsaves_nmi_insn_flags() | source << XSAVES_NMI_SOURCE_SHIFT;

	if (user_mode(regs))
		flags |= XSAVES_NMI_F_USER;
	if (task_needs_load())
		flags |= XSAVES_NMI_F_NEED_LOAD;
	if (in_nmi())
		flags |= XSAVES_NMI_F_IN_NMI;
	if (current->flags & PF_KTHREAD)
		flags |= XSAVES_NMI_F_KTHREAD;
	return flags;
}

/* Whose registers would they be? True, and counted, where that is not for us to take. */
static bool not_ours(struct pt_regs *regs)
{
	if (!user_mode(regs)) {
		if (is_idle_task(current)) {
			xsaves_nmi_count(dropped_idle);
			return true;
		}
		if (!xsaves_nmi_config.kernel_hits) {
			xsaves_nmi_count(dropped_kernel);
			/* In a section that uses the registers, or behind one. */
			if (task_needs_load())
				xsaves_nmi_count(dropped_kernel_fpu);
			return true;
		}
	} else if (task_needs_load()) {
		xsaves_nmi_count(dropped_not_loaded);
		return true;
	}
	/*
	 * A guest's registers stay in the processor while KVM runs in kernel mode, and none of
	 * the flags above says so.
	 */
	if (current->flags & PF_VCPU || xsaves_nmi_virtualization_on()) {
		xsaves_nmi_count(dropped_guest);
		return true;
	}
	return false;
}

static bool too_soon(u64 now_ns)
{
	struct pace *p = this_cpu_ptr(&pace);

	if (now_ns < p->earliest_ns) {
		xsaves_nmi_count(dropped_period);
		return true;
	}
	if (now_ns < p->rested_ns) {
		xsaves_nmi_count(throttled);
		return true;
	}
	p->earliest_ns = now_ns + XSAVES_NMI_MIN_PERIOD_NS;
	return false;
}

/**
 * xsaves_nmi_take() - fill in the image of a snapshot, once
 * @snapshot: of this CPU, this NMI
 *
 * Called by a probe of the tracepoint, which is when somebody listens on this CPU and to this
 * task: no register is saved for nobody.
 */
void xsaves_nmi_take(struct xsaves_nmi_snapshot *snapshot)
{
	void *buffer = xsaves_nmi_buffer();
	u64 start;
	int error;

	if (snapshot->image)
		return;
	start = rdtsc_ordered();
	error = xsaves_nmi(buffer, snapshot->rfbm);
	snapshot->save_cycles = rdtsc_ordered() - start;
	if (error) {
		xsaves_nmi_count(errors);
		snapshot->rfbm = 0;
	}
	snapshot->image = buffer;
}

static void account(const struct xsaves_nmi_snapshot *snapshot, u64 start_cycles, u64 start_ns)
{
	struct xsaves_nmi_stats *stats = this_cpu_ptr(&xsaves_nmi_stats);
	u64 cycles = rdtsc_ordered() - start_cycles;
	u64 now_ns = ktime_get_mono_fast_ns();

	stats->written++;
	stats->cycles += cycles;
	stats->save_cycles += snapshot->save_cycles;
	count_worst(&stats->worst_cycles, cycles);
	count_worst(&stats->worst_save_cycles, snapshot->save_cycles);
	this_cpu_write(pace.rested_ns, now_ns + XSAVES_NMI_REST * (now_ns - start_ns));
}

/**
 * xsaves_nmi_hit() - an NMI of ours has come
 * @regs: what it interrupted
 * @source: number of the source
 */
void xsaves_nmi_hit(struct pt_regs *regs, unsigned int source)
{
	u64 start_cycles = rdtsc_ordered();
	u64 now_ns = ktime_get_mono_fast_ns();
	struct xsaves_nmi_snapshot snapshot = { .regs = regs };

	if (!in_nmi())
		return;
	xsaves_nmi_count(hits);
	if (!xsaves_nmi_running()) {
		xsaves_nmi_count(dropped_late);
		return;
	}
	if (not_ours(regs))
		return;
	/* Nobody loads registers lazily since 4.14; a set TS would make XSAVES fault. */
	if (native_read_cr0() & X86_CR0_TS) {
		xsaves_nmi_count(dropped_ts);
		return;
	}
	if (too_soon(now_ns))
		return;

	snapshot.flags = flags_of(regs, source);
	snapshot.rfbm = xsaves_nmi_rfbm(user_mode(regs));
	snapshot.len = xsaves_nmi_length(snapshot.rfbm);
	xsaves_nmi_emit(&snapshot);
	if (snapshot.image)
		account(&snapshot, start_cycles, now_ns);
	else
		xsaves_nmi_count(dropped_nobody);
}
