// SPDX-License-Identifier: GPL-2.0
/*
 * Who sends the NMIs: a counter of the PMU, another CPU, or (for tests) the CPU itself.
 */
#include "xsaves_nmi.h"

#include <linux/cpu.h>
#include <linux/cpumask.h>
#include <linux/delay.h>
#include <linux/interrupt.h>
#include <linux/perf_event.h>
#include <linux/prandom.h>
#include <linux/random.h>
#include <linux/rcupdate.h>
#include <linux/smp.h>
#include <linux/string.h>
#include <asm/apic.h>
#include <asm/io.h>
#include <asm/irq_regs.h>
#include <asm/nmi.h>

#include "xsaves_nmi_compat.h"

/*
 * An NMI that was sent is given up after this long. Processors lose none; a virtual one may have
 * been away for a while, and then has two of them coming.
 */
#define LOST_NS		(10ULL * NSEC_PER_SEC)
/* How long after an NMI of ours another may still be ours, see nmi(). */
#define LATE_NS		(100ULL * NSEC_PER_USEC)
#define DRAIN_MS	1000

/* Port 0x61 tells NMIs of the chipset: bit 7 a memory error, bit 6 an I/O check. */
#define REASON_PORT	0x61
#define REASON_MASK	0xc0

enum { IDLE, SENT, CLAIMED };

/* What was sent to this CPU. */
struct inbox {
	atomic_t	state;
	u64		since_ns;
	u64		late_ns;	/* how long one more may come after the next */
};

struct sender {
	struct hrtimer		timer;
	struct rnd_state	dice;
};

static DEFINE_PER_CPU(struct inbox, inboxes);
static DEFINE_PER_CPU(struct sender, senders);
static DEFINE_PER_CPU(struct perf_event *, counters);
static struct cpumask targets;

static const char * const names[] = {
	[XSAVES_NMI_PMU] = "pmu",
	[XSAVES_NMI_IPI] = "ipi",
	[XSAVES_NMI_SELF] = "self",
};

const char *xsaves_nmi_source_name(enum xsaves_nmi_source source)
{
	return names[source];
}

int xsaves_nmi_source_parse(const char *name)
{
	int i;

	for (i = XSAVES_NMI_PMU; i < ARRAY_SIZE(names); i++)
		if (!strcmp(name, names[i]))
			return i;
	return -EINVAL;
}

static void send_nmi(unsigned int cpu)
{
	struct inbox *inbox = per_cpu_ptr(&inboxes, cpu);
	u64 now_ns = ktime_get_mono_fast_ns();
	u64 late_ns = LATE_NS;
	int state = atomic_read(&inbox->state);

	if (state == SENT) {
		/* A second one would be merged with it, or come as an NMI of nobody. */
		if (now_ns < READ_ONCE(inbox->since_ns) + LOST_NS) {
			xsaves_nmi_count(ipis_busy);
			return;
		}
		xsaves_nmi_count(ipis_lost);
		late_ns = LOST_NS;
	}
	WRITE_ONCE(inbox->late_ns, late_ns);
	WRITE_ONCE(inbox->since_ns, now_ns);
	if (atomic_cmpxchg(&inbox->state, state, SENT) != state)
		return;
	apic->send_IPI_mask(cpumask_of(cpu), NMI_VECTOR);
}

/*
 * NMIs carry no name. Ours is the first after one was sent. If somebody else's came in between,
 * it was taken for ours, and ours follows at once, as an NMI of nobody: that one is claimed, too,
 * unless the chipset says that it is its own.
 */
static int nmi(unsigned int type, struct pt_regs *regs)
{
	struct inbox *inbox = this_cpu_ptr(&inboxes);
	unsigned int source = xsaves_nmi_config.source;

	if (atomic_cmpxchg(&inbox->state, SENT, CLAIMED) == SENT) {
		/* Sent within the timer's interrupt: what that interrupted is meant. */
		if (source == XSAVES_NMI_SELF && !user_mode(regs) && get_irq_regs())
			regs = get_irq_regs();
		xsaves_nmi_hit(regs, source);
		WRITE_ONCE(inbox->since_ns, ktime_get_mono_fast_ns());
		return NMI_HANDLED;
	}
	if (atomic_read(&inbox->state) == CLAIMED &&
	    ktime_get_mono_fast_ns() < READ_ONCE(inbox->since_ns) + READ_ONCE(inbox->late_ns) &&
	    !(inb(REASON_PORT) & REASON_MASK) &&
	    atomic_cmpxchg(&inbox->state, CLAIMED, IDLE) == CLAIMED) {
		xsaves_nmi_count(nmis_late);
		return NMI_HANDLED;
	}
	return NMI_DONE;
}

/* A fixed period locks on to the kernel's tick, and then hits nothing else: 12.5 % either way. */
static ktime_t next_period(struct sender *sender)
{
	u32 period_ns = NSEC_PER_SEC / xsaves_nmi_config.hz;
	u32 jitter_ns = period_ns / 4;

	return ns_to_ktime(period_ns - jitter_ns / 2 +
			   prandom_u32_state(&sender->dice) % (jitter_ns + 1));
}

static unsigned int target_of(unsigned int cpu)
{
	unsigned int target;

	if (xsaves_nmi_config.source == XSAVES_NMI_SELF)
		return cpu;
	target = cpumask_next(cpu, &targets);
	return target < nr_cpu_ids ? target : cpumask_first(&targets);
}

static enum hrtimer_restart tick(struct hrtimer *timer)
{
	struct sender *sender = container_of(timer, struct sender, timer);
	unsigned int cpu = smp_processor_id();
	unsigned int target = target_of(cpu);

	if (target < nr_cpu_ids &&
	    (target != cpu || xsaves_nmi_config.source == XSAVES_NMI_SELF))
		send_nmi(target);
	hrtimer_forward_now(timer, next_period(sender));
	return HRTIMER_RESTART;
}

static void start_timer(void *unused)
{
	struct sender *sender = this_cpu_ptr(&senders);

	hrtimer_start(&sender->timer, next_period(sender), HRTIMER_MODE_REL_PINNED_HARD);
}

static bool in_flight(unsigned int cpu)
{
	return atomic_read(per_cpu_ptr(&inboxes.state, cpu)) == SENT;
}

/* Waits until what was sent to a CPU has come. Its handler is still there to take it. */
static void drain(unsigned int cpu)
{
	unsigned int waited_ms;

	for (waited_ms = 0; in_flight(cpu) && waited_ms < DRAIN_MS; waited_ms++)
		usleep_range(1000, 2000);
	if (in_flight(cpu))
		pr_warn("an NMI that was sent to CPU %u has not come\n", cpu);
}

static void overflow(struct perf_event *event, struct perf_sample_data *data, struct pt_regs *regs)
{
	xsaves_nmi_hit(regs, XSAVES_NMI_PMU);
}

static struct perf_event *create_counter(unsigned int cpu)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_HARDWARE,
		.config = PERF_COUNT_HW_CPU_CYCLES,
		.size = sizeof(attr),
		.exclude_kernel = !xsaves_nmi_config.kernel_hits,
		.exclude_hv = 1,
		.exclude_guest = 1,
		.exclude_idle = 1,
	};

	if (xsaves_nmi_config.period) {
		attr.sample_period = xsaves_nmi_config.period;
	} else {
		attr.freq = 1;
		attr.sample_freq = xsaves_nmi_config.hz;
	}
	return perf_event_create_kernel_counter(&attr, cpu, NULL, overflow, NULL);
}

/* Is there a counter at all? Asked at load, so that nobody waits for samples in vain. */
static int try_counter(void)
{
	struct perf_event *event;

	cpus_read_lock();
	event = create_counter(cpumask_first(cpu_online_mask));
	cpus_read_unlock();
	if (IS_ERR(event)) {
		/* insmod takes ENOENT for an unknown symbol or parameter. */
		if (PTR_ERR(event) == -ENOENT) {
			pr_err("nmi=pmu: there is no hardware PMU that counts cycles; nmi=ipi needs none\n");
			return -ENODEV;
		}
		pr_err("nmi=pmu: no counter of cycles (%ld)\n", PTR_ERR(event));
		return PTR_ERR(event);
	}
	perf_event_release_kernel(event);
	return 0;
}

static int init_senders(void)
{
	unsigned int cpu;

	if (xsaves_nmi_config.source == XSAVES_NMI_IPI && num_online_cpus() < 2) {
		pr_err("nmi=ipi: another CPU sends the NMIs, and there is only one\n");
		return -ENODEV;
	}
	for_each_possible_cpu(cpu) {
		struct sender *sender = per_cpu_ptr(&senders, cpu);

		prandom_seed_state(&sender->dice, get_random_u64());
		hrtimer_setup(&sender->timer, tick, CLOCK_MONOTONIC, HRTIMER_MODE_REL_PINNED_HARD);
	}
	return register_nmi_handler(NMI_LOCAL, nmi, 0, "xsaves_nmi");
}

int xsaves_nmi_source_init(void)
{
	if (xsaves_nmi_config.source == XSAVES_NMI_PMU)
		return try_counter();
	return init_senders();
}

void xsaves_nmi_source_exit(void)
{
	if (xsaves_nmi_config.source == XSAVES_NMI_PMU)
		return;
	/* One that was mistaken for somebody else's may still come: let it find its handler. */
	usleep_range(1000, 2000);
	unregister_nmi_handler(NMI_LOCAL, "xsaves_nmi");
}

/* For an online CPU, with the hotplug lock held. */
int xsaves_nmi_source_start_cpu(unsigned int cpu)
{
	struct perf_event *event;

	if (xsaves_nmi_config.source == XSAVES_NMI_PMU) {
		event = create_counter(cpu);
		if (IS_ERR(event))
			return PTR_ERR(event);
		per_cpu(counters, cpu) = event;
		return 0;
	}
	cpumask_set_cpu(cpu, &targets);
	return smp_call_function_single(cpu, start_timer, NULL, 1);
}

static void stop_counter(unsigned int cpu)
{
	struct perf_event *event = per_cpu(counters, cpu);

	per_cpu(counters, cpu) = NULL;
	if (event)
		perf_event_release_kernel(event);
}

/* One CPU goes: when it returns, nothing comes from there or is on its way to there. */
void xsaves_nmi_source_stop_cpu(unsigned int cpu)
{
	if (xsaves_nmi_config.source == XSAVES_NMI_PMU) {
		stop_counter(cpu);
		return;
	}
	hrtimer_cancel(&per_cpu_ptr(&senders, cpu)->timer);
	cpumask_clear_cpu(cpu, &targets);
	/* Timers run with interrupts off: whoever has chosen this CPU has sent when it returns. */
	synchronize_rcu();
	drain(cpu);
}

/* All of them. Does no harm to those that were not started. */
void xsaves_nmi_source_stop(void)
{
	unsigned int cpu;

	if (xsaves_nmi_config.source == XSAVES_NMI_PMU) {
		for_each_possible_cpu(cpu)
			stop_counter(cpu);
		return;
	}
	for_each_possible_cpu(cpu)
		hrtimer_cancel(&per_cpu_ptr(&senders, cpu)->timer);
	cpumask_clear(&targets);
	for_each_online_cpu(cpu)
		drain(cpu);
}
