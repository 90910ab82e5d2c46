/* SPDX-License-Identifier: GPL-2.0 */
/* What has changed its name between 5.10 and 7.3. */
#ifndef _XSAVES_NMI_COMPAT_H
#define _XSAVES_NMI_COMPAT_H

#include <linux/hrtimer.h>
#include <linux/version.h>
#include <asm/msr.h>
#include <asm/processor.h>
#include <asm/tsc.h>

/* cpuid_count() moved out of processor.h in 6.16. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 16, 0)
#include <asm/cpuid/api.h>
#endif

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 16, 0)
#define rdmsrq_safe(msr, value)	rdmsrl_safe(msr, value)
#endif

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 13, 0)
static inline void
hrtimer_setup(struct hrtimer *timer,
	      enum hrtimer_restart (*function)(struct hrtimer *),
	      clockid_t clock, enum hrtimer_mode mode)
{
	hrtimer_init(timer, clock, mode);
	timer->function = function;
}
#endif

#endif /* _XSAVES_NMI_COMPAT_H */
