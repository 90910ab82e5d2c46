// SPDX-License-Identifier: GPL-2.0
/* The tracepoint, with the interrupted registers as those of its perf events. */
#include "xsaves_nmi.h"

#include <linux/module.h>
#include <linux/perf_event.h>
#include <linux/trace_events.h>

/*
 * perf takes the registers of a tracepoint's caller, which would be ours. The samples of this
 * one belong to what was interrupted: their IP, call chain, mode, and what exclude_user and
 * exclude_kernel ask about.
 */
#define perf_fetch_caller_regs(to)	(*(to) = *snapshot->regs)

#define CREATE_TRACE_POINTS
#include "xsaves_nmi_trace.h"

void xsaves_nmi_emit(struct xsaves_nmi_snapshot *snapshot)
{
	trace_snapshot(snapshot);
}

/* perf events that are open on the tracepoint, anywhere. */
int xsaves_nmi_listeners(void)
{
	return READ_ONCE(event_snapshot.perf_refcount);
}
