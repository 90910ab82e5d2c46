// SPDX-License-Identifier: GPL-2.0
/* /sys/kernel/xsaves_nmi: what was agreed on at load, and what has happened since. */
#include "xsaves_nmi.h"

#include <linux/kobject.h>
#include <linux/sysfs.h>

static struct kobject *directory;

#define SHOW(name, ...)								\
static ssize_t name##_show(struct kobject *kobj, struct kobj_attribute *attr,	\
			   char *buf)						\
{										\
	return sysfs_emit(buf, __VA_ARGS__);					\
}										\
static struct kobj_attribute name##_attribute = __ATTR_RO(name)

SHOW(version, "%s\n", XSAVES_NMI_VERSION);
SHOW(nmi, "%s\n", xsaves_nmi_source_name(xsaves_nmi_config.source));
SHOW(hz, "%u\n", xsaves_nmi_config.hz);
SHOW(period, "%llu\n", xsaves_nmi_config.period);
SHOW(instruction, "%s\n", xsaves_nmi_insn_name());
SHOW(rfbm, "%#llx\n", xsaves_nmi_rfbm(true));
SHOW(xcr0, "%#llx\n", xsaves_nmi_xcr0());
SHOW(length, "%u\n", xsaves_nmi_length(xsaves_nmi_rfbm(true)));
SHOW(listeners, "%d\n", xsaves_nmi_listeners());
SHOW(running, "%d\n", xsaves_nmi_running());
SHOW(ssp, "%d\n", xsaves_nmi_config.ssp);
SHOW(kernel_hits, "%d\n", xsaves_nmi_config.kernel_hits);

static ssize_t components_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	const struct xsaves_nmi_component *c;
	ssize_t at = sysfs_emit(buf, "nr size offset alignment\n");
	unsigned int nr;

	for (nr = 0; nr < 64; nr++) {
		c = xsaves_nmi_component(nr);
		if (c)
			at += sysfs_emit_at(buf, at, "%u %u %u %u\n", nr, c->size, c->offset,
					    c->alignment);
	}
	return at;
}

static struct kobj_attribute components_attribute = __ATTR_RO(components);

static struct attribute *attributes[] = {
	&version_attribute.attr,
	&nmi_attribute.attr,
	&hz_attribute.attr,
	&period_attribute.attr,
	&instruction_attribute.attr,
	&rfbm_attribute.attr,
	&xcr0_attribute.attr,
	&length_attribute.attr,
	&listeners_attribute.attr,
	&running_attribute.attr,
	&ssp_attribute.attr,
	&kernel_hits_attribute.attr,
	&components_attribute.attr,
	NULL
};

struct stat_attribute {
	struct kobj_attribute	attribute;
	unsigned int		offset;		/* in struct xsaves_nmi_stats */
	bool			worst;		/* the largest of all CPUs, not their sum */
};

static ssize_t stat_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	struct stat_attribute *stat = container_of(attr, struct stat_attribute, attribute);
	unsigned int cpu;
	u64 all = 0, one;

	for_each_possible_cpu(cpu) {
		one = READ_ONCE(*(u64 *)((void *)per_cpu_ptr(&xsaves_nmi_stats, cpu) +
					 stat->offset));
		all = stat->worst ? max(all, one) : all + one;
	}
	return sysfs_emit(buf, "%llu\n", all);
}

#define STAT(field, is_worst)							\
static struct stat_attribute stat_##field = {					\
	.attribute = __ATTR(field, 0444, stat_show, NULL),			\
	.offset = offsetof(struct xsaves_nmi_stats, field),			\
	.worst = is_worst,							\
}

STAT(hits, false);
STAT(written, false);
STAT(dropped_kernel, false);
STAT(dropped_kernel_fpu, false);
STAT(dropped_guest, false);
STAT(dropped_idle, false);
STAT(dropped_nobody, false);
STAT(dropped_late, false);
STAT(dropped_not_loaded, false);
STAT(dropped_ts, false);
STAT(dropped_period, false);
STAT(throttled, false);
STAT(errors, false);
STAT(ipis_busy, false);
STAT(ipis_lost, false);
STAT(nmis_late, false);
STAT(cycles, false);
STAT(save_cycles, false);
STAT(worst_cycles, true);
STAT(worst_save_cycles, true);

static struct attribute *stat_attributes[] = {
	&stat_hits.attribute.attr,
	&stat_written.attribute.attr,
	&stat_dropped_kernel.attribute.attr,
	&stat_dropped_kernel_fpu.attribute.attr,
	&stat_dropped_guest.attribute.attr,
	&stat_dropped_idle.attribute.attr,
	&stat_dropped_nobody.attribute.attr,
	&stat_dropped_late.attribute.attr,
	&stat_dropped_not_loaded.attribute.attr,
	&stat_dropped_ts.attribute.attr,
	&stat_dropped_period.attribute.attr,
	&stat_throttled.attribute.attr,
	&stat_errors.attribute.attr,
	&stat_ipis_busy.attribute.attr,
	&stat_ipis_lost.attribute.attr,
	&stat_nmis_late.attribute.attr,
	&stat_cycles.attribute.attr,
	&stat_save_cycles.attribute.attr,
	&stat_worst_cycles.attribute.attr,
	&stat_worst_save_cycles.attribute.attr,
	NULL
};

static const struct attribute_group group = { .attrs = attributes };
static const struct attribute_group stat_group = { .name = "stats", .attrs = stat_attributes };

int xsaves_nmi_sysfs_init(void)
{
	int error;

	directory = kobject_create_and_add("xsaves_nmi", kernel_kobj);
	if (!directory)
		return -ENOMEM;
	error = sysfs_create_group(directory, &group);
	if (!error)
		error = sysfs_create_group(directory, &stat_group);
	if (error)
		kobject_put(directory);
	return error;
}

void xsaves_nmi_sysfs_exit(void)
{
	kobject_put(directory);
}
