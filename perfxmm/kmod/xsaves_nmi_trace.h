/* SPDX-License-Identifier: GPL-2.0 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM xsaves_nmi

#if !defined(_XSAVES_NMI_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _XSAVES_NMI_TRACE_H

#include <linux/sched.h>
#include <linux/tracepoint.h>

#include "xsaves_nmi.h"

/*
 * The fields and their order are the interface. No register is printed: trace buffers are read
 * by more eyes than recordings.
 */
TRACE_EVENT_FN(snapshot,

	TP_PROTO(struct xsaves_nmi_snapshot *snapshot),

	TP_ARGS(snapshot),

	TP_STRUCT__entry(
		__field(u64, ip)
		__field(u64, sp)
		__field(u32, flags)
		__field(u32, tid)
		__field(u32, tgid)
		__field(u32, len)
		__field(u64, rfbm)
		__field(u64, xstate_bv)
		__field(u64, xcomp_bv)
		__dynamic_array(u8, xsave, snapshot->len)
	),

	TP_fast_assign(
		xsaves_nmi_take(snapshot);
		__entry->ip = snapshot->regs->ip;
		__entry->sp = snapshot->regs->sp;
		__entry->flags = snapshot->flags;
		__entry->tid = current->pid;
		__entry->tgid = current->tgid;
		__entry->len = snapshot->len;
		__entry->rfbm = snapshot->rfbm;
		__entry->xstate_bv = *(const u64 *)(snapshot->image + 512);
		__entry->xcomp_bv = *(const u64 *)(snapshot->image + 520);
		memcpy(__get_dynamic_array(xsave), snapshot->image, snapshot->len);
	),

	TP_printk("ip=%#llx sp=%#llx flags=%#x tid=%u tgid=%u len=%u rfbm=%#llx xstate_bv=%#llx xcomp_bv=%#llx",
		  __entry->ip, __entry->sp, __entry->flags, __entry->tid, __entry->tgid,
		  __entry->len, __entry->rfbm, __entry->xstate_bv, __entry->xcomp_bv),

	xsaves_nmi_listen, xsaves_nmi_unlisten
);

#endif /* _XSAVES_NMI_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE xsaves_nmi_trace
#include <trace/define_trace.h>
