// SPDX-License-Identifier: GPL-2.0
/*
 * Parameters, start and stop with the first and last listener, CPU hotplug, suspend.
 */
#include "xsaves_nmi.h"

#include <linux/capability.h>
#include <linux/cpu.h>
#include <linux/cpuhotplug.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/security.h>
#include <linux/suspend.h>
#include <linux/workqueue.h>
#include <asm/cpufeature.h>

#include "xsaves_nmi_compat.h"

#define HZ_MAX		10000
#define PERIOD_MIN	100000

static char *nmi = "pmu";
module_param(nmi, charp, 0444);
MODULE_PARM_DESC(nmi, "who sends the NMIs: pmu, ipi (another CPU), self (tests); default pmu");

static unsigned int hz = 999;
module_param(hz, uint, 0444);
MODULE_PARM_DESC(hz, "hits a second and CPU, 1 to 10000; default 999");

static unsigned long long period;
module_param(period, ullong, 0444);
MODULE_PARM_DESC(period, "nmi=pmu: cycles between hits instead of hz, at least 100000");

static unsigned long long mask;
module_param(mask, ullong, 0444);
MODULE_PARM_DESC(mask, "XSAVE components; default all vector registers and opmasks");

static char *instruction = "auto";
module_param(instruction, charp, 0444);
MODULE_PARM_DESC(instruction, "auto, xsaves, xsavec or xsave; default auto, the first there is");

static bool ssp;
module_param(ssp, bool, 0444);
MODULE_PARM_DESC(ssp, "the user's shadow stack pointer as well; default off");

static bool kernel_hits;
module_param(kernel_hits, bool, 0444);
MODULE_PARM_DESC(kernel_hits, "hits in kernel mode as well: they may hold keys; default off");

struct xsaves_nmi_config xsaves_nmi_config;

static DEFINE_MUTEX(state_mutex);	/* inside of the hotplug lock */
static bool running;
static bool ready;
static bool listening;
static bool suspended;
static int hotplug_state;

bool xsaves_nmi_running(void)
{
	return READ_ONCE(running);
}

/**
 * xsaves_nmi_virtualization_on() - may this CPU have run a guest?
 *
 * KVM turns it on with the first guest, from 6.12 on when it is loaded. NMI-safe.
 */
bool xsaves_nmi_virtualization_on(void)
{
	if (boot_cpu_has(X86_FEATURE_VMX) && native_read_cr4() & X86_CR4_VMXE)
		return true;
	return boot_cpu_has(X86_FEATURE_SVM) && __rdmsr(MSR_EFER) & EFER_SVME;
}

static void look_for_guests(void *found)
{
	if (xsaves_nmi_virtualization_on())
		WRITE_ONCE(*(bool *)found, true);
}

static int refuse_guests(void)
{
	bool found = false;

	on_each_cpu(look_for_guests, &found, 1);
	if (!found)
		return 0;
	pr_err("KVM is in use here, and nobody has shown yet that guests are safe: unload kvm_intel or kvm_amd first\n");
	return -EBUSY;
}

static void stop(void)
{
	WRITE_ONCE(running, false);
	xsaves_nmi_source_stop();
}

static int start(void)
{
	unsigned int cpu;
	int error;

	WRITE_ONCE(running, true);
	for_each_online_cpu(cpu) {
		error = xsaves_nmi_source_start_cpu(cpu);
		if (error) {
			pr_err("CPU %u cannot be started (%d); none is\n", cpu, error);
			stop();
			return error;
		}
	}
	return 0;
}

/* Makes what runs what is wanted. */
static void update(struct work_struct *unused)
{
	bool wanted;

	cpus_read_lock();
	mutex_lock(&state_mutex);
	wanted = READ_ONCE(listening) && READ_ONCE(ready) && !suspended;
	if (wanted && !running)
		start();
	else if (!wanted && running)
		stop();
	mutex_unlock(&state_mutex);
	cpus_read_unlock();
}

static DECLARE_WORK(update_work, update);

/*
 * The tracepoint's first listener. perf holds locks here that counters take as well: the work is
 * left to a work queue.
 */
int xsaves_nmi_listen(void)
{
	int error;

	if (!READ_ONCE(ready))
		return -EAGAIN;
	error = refuse_guests();
	if (error)
		return error;
	WRITE_ONCE(listening, true);
	schedule_work(&update_work);
	return 0;
}

void xsaves_nmi_unlisten(void)
{
	WRITE_ONCE(listening, false);
	if (READ_ONCE(ready))
		schedule_work(&update_work);
}

static int cpu_comes(unsigned int cpu)
{
	int error = 0;

	mutex_lock(&state_mutex);
	if (running)
		error = xsaves_nmi_source_start_cpu(cpu);
	mutex_unlock(&state_mutex);
	if (error)
		pr_warn("CPU %u came online and cannot be sampled (%d)\n", cpu, error);
	/* No reason to refuse the CPU. */
	return 0;
}

static int cpu_goes(unsigned int cpu)
{
	mutex_lock(&state_mutex);
	if (running)
		xsaves_nmi_source_stop_cpu(cpu);
	mutex_unlock(&state_mutex);
	return 0;
}

static int power(struct notifier_block *unused, unsigned long action, void *data)
{
	switch (action) {
	case PM_SUSPEND_PREPARE:
	case PM_HIBERNATION_PREPARE:
		suspended = true;
		break;
	case PM_POST_SUSPEND:
	case PM_POST_HIBERNATION:
		suspended = false;
		break;
	default:
		return NOTIFY_DONE;
	}
	update(NULL);
	return NOTIFY_OK;
}

static struct notifier_block power_notifier = { .notifier_call = power };

static int check_kernel_hits(void)
{
	if (!kernel_hits)
		return 0;
	if (!perfmon_capable()) {
		pr_err("kernel_hits=1: needs CAP_PERFMON\n");
		return -EPERM;
	}
	if (security_locked_down(LOCKDOWN_PERF)) {
		pr_err("kernel_hits=1: the kernel is locked down (confidentiality)\n");
		return -EPERM;
	}
	pr_warn("kernel_hits=1: registers of the kernel may hold keys and go into recordings\n");
	return 0;
}

static int check_parameters(void)
{
	int source = xsaves_nmi_source_parse(nmi);

	if (source < 0) {
		pr_err("nmi=%s: say pmu, ipi or self\n", nmi);
		return -EINVAL;
	}
	if (hz < 1 || hz > HZ_MAX) {
		pr_err("hz=%u: say 1 to %u\n", hz, HZ_MAX);
		return -EINVAL;
	}
	if (period && source != XSAVES_NMI_PMU) {
		pr_err("period=%llu: nmi=%s goes by hz\n", period, nmi);
		return -EINVAL;
	}
	if (period && (period < PERIOD_MIN || period > S64_MAX)) {
		pr_err("period=%llu: say at least %u\n", period, PERIOD_MIN);
		return -EINVAL;
	}
	xsaves_nmi_config = (struct xsaves_nmi_config){
		.source = source,
		.hz = hz,
		.period = period,
		.ssp = ssp,
		.kernel_hits = kernel_hits,
	};
	return check_kernel_hits();
}

static int __init xsaves_nmi_init(void)
{
	int error;

	error = check_parameters();
	if (error)
		return error;
	error = refuse_guests();
	if (error)
		return error;
	error = xsaves_nmi_save_init(mask, instruction, ssp);
	if (error)
		return error;
	error = xsaves_nmi_source_init();
	if (error)
		goto no_source;
	error = cpuhp_setup_state_nocalls(CPUHP_AP_ONLINE_DYN, "x86/xsaves_nmi:online",
					  cpu_comes, cpu_goes);
	if (error < 0)
		goto no_hotplug;
	hotplug_state = error;
	error = register_pm_notifier(&power_notifier);
	if (error)
		goto no_power;
	error = xsaves_nmi_sysfs_init();
	if (error)
		goto no_sysfs;
	WRITE_ONCE(ready, true);
	pr_info("version %s: %s by nmi=%s, components %#llx, %u bytes\n",
		XSAVES_NMI_VERSION, xsaves_nmi_insn_name(), nmi, xsaves_nmi_rfbm(true),
		xsaves_nmi_length(xsaves_nmi_rfbm(true)));
	return 0;

no_sysfs:
	unregister_pm_notifier(&power_notifier);
no_power:
	cpuhp_remove_state_nocalls(hotplug_state);
no_hotplug:
	xsaves_nmi_source_exit();
no_source:
	xsaves_nmi_save_exit();
	return error;
}

static void __exit xsaves_nmi_exit(void)
{
	WRITE_ONCE(ready, false);
	xsaves_nmi_sysfs_exit();
	unregister_pm_notifier(&power_notifier);
	cancel_work_sync(&update_work);
	update(NULL);
	cpuhp_remove_state_nocalls(hotplug_state);
	xsaves_nmi_source_exit();
	xsaves_nmi_save_exit();
}

module_init(xsaves_nmi_init);
module_exit(xsaves_nmi_exit);

MODULE_DESCRIPTION("Vector registers at the instant of an NMI, as tracepoint records");
MODULE_AUTHOR("perfxmm");
MODULE_LICENSE("GPL");
MODULE_VERSION(XSAVES_NMI_VERSION);
