// SPDX-License-Identifier: GPL-2.0
/*
 * The components of this CPU, the buffers, and the XSAVES itself.
 *
 * Intel SDM volume 1, chapter 13 (release 85): layouts 13.4, XSAVES 13.11; CPUID leaf 0xD.
 */
#include "xsaves_nmi.h"

#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/preempt.h>
#include <linux/smp.h>
#include <linux/string.h>
#include <linux/trace_events.h>
#include <asm/asm.h>
#include <asm/cpufeature.h>
#include <asm/fpu/xcr.h>

#include "xsaves_nmi_compat.h"

#define HEADER_OFFSET	512
#define HEADER_BYTES	64
#define LEGACY_BYTES	(HEADER_OFFSET + HEADER_BYTES)
#define XCOMP_COMPACTED	BIT_ULL(63)

#define X87		BIT_ULL(0)
#define SSE		BIT_ULL(1)
#define AVX		BIT_ULL(2)
#define OPMASK		BIT_ULL(5)
#define ZMM_HI256	BIT_ULL(6)
#define HI16_ZMM	BIT_ULL(7)
#define PKRU		BIT_ULL(9)
#define CET_USER	BIT_ULL(11)
#define APX		BIT_ULL(19)

#define VECTORS		(SSE | AVX | OPMASK | ZMM_HI256 | HI16_ZMM | APX)
/*
 * What a mask may name. Never a supervisor component (CET_USER has its own switch: a mask with
 * its bit would really save it), never AMX: 8 KiB of tiles, behind XFD.
 */
#define ALLOWED		(VECTORS | X87 | PKRU)

/* Room for the fields of the record and perf's own beside the image. */
#define LENGTH_MAX	(PERF_MAX_TRACE_SIZE - 256)

#ifndef MSR_IA32_XSS
#define MSR_IA32_XSS	0x00000da0
#endif

static struct xsaves_nmi_component components[64];
static enum xsaves_nmi_insn insn;
static u64 xcr0;
static u64 rfbm_user, rfbm_kernel;
static u32 buffer_bytes;
static void __percpu *buffers;

static const char * const insn_names[] = {
	[XSAVES_NMI_XSAVES] = "xsaves",
	[XSAVES_NMI_XSAVEC] = "xsavec",
	[XSAVES_NMI_XSAVE] = "xsave",
};

const char *xsaves_nmi_insn_name(void)
{
	return insn_names[insn];
}

u64 xsaves_nmi_xcr0(void)
{
	return xcr0;
}

u64 xsaves_nmi_rfbm(bool user)
{
	return user ? rfbm_user : rfbm_kernel;
}

const struct xsaves_nmi_component *xsaves_nmi_component(unsigned int nr)
{
	return nr < ARRAY_SIZE(components) && components[nr].size ? &components[nr] : NULL;
}

u32 xsaves_nmi_insn_flags(void)
{
	switch (insn) {
	case XSAVES_NMI_XSAVES:
		return XSAVES_NMI_F_COMPACTED | XSAVES_NMI_F_XSAVES;
	case XSAVES_NMI_XSAVEC:
		return XSAVES_NMI_F_COMPACTED;
	default:
		return 0;
	}
}

/* Bytes of an image: those of the last component requested, whatever is in its initial state. */
u32 xsaves_nmi_length(u64 rfbm)
{
	bool compacted = insn != XSAVES_NMI_XSAVE;
	u32 end = LEGACY_BYTES;
	unsigned int nr;

	for (nr = 2; nr < ARRAY_SIZE(components); nr++) {
		const struct xsaves_nmi_component *c = &components[nr];

		if (!(rfbm & BIT_ULL(nr)))
			continue;
		if (compacted)
			end = ALIGN(end, c->alignment) + c->size;
		else
			end = max(end, c->offset + c->size);
	}
	return ALIGN(end, sizeof(u64));
}

void *xsaves_nmi_buffer(void)
{
	return this_cpu_ptr(buffers);
}

/*
 * A fault skips to behind the instruction and leaves the error: no fixup section, which kernels
 * from 5.17 on no longer have.
 */
#define SAVE(mnemonic, image, mask)					\
({									\
	int error = -EFAULT;						\
									\
	asm volatile("1:	" mnemonic " (%[at])\n"			\
		     "	xorl %[error], %[error]\n"			\
		     "2:\n"						\
		     _ASM_EXTABLE(1b, 2b)				\
		     : [error] "+r" (error)				\
		     : [at] "r" (image), "a" (lower_32_bits(mask)),	\
		       "d" (upper_32_bits(mask))			\
		     : "memory", "cc");					\
	error;								\
})

static int save(void *buffer, u64 mask)
{
	/*
	 * XSAVES leaves out what is in its initial state, and never writes the reserved part of
	 * the header: what an earlier task had there would leave with this record.
	 */
	memset(buffer, 0, xsaves_nmi_length(mask));

	switch (insn) {
	case XSAVES_NMI_XSAVES:
		return SAVE("xsaves64", buffer, mask);
	case XSAVES_NMI_XSAVEC:
		return SAVE("xsavec64", buffer, mask);
	default:
		return SAVE("xsave64", buffer, mask);
	}
}

/**
 * xsaves_nmi() - save the vector registers as they are in this NMI
 * @buffer: 64-byte aligned, xsaves_nmi_length(@mask) bytes, cleared first
 * @mask: components; those that were not agreed on at load are left out
 *
 * The registers are those of the processor: they are the current task's as long as
 * TIF_NEED_FPU_LOAD is clear.
 *
 * Return: 0, -EPERM outside of NMI, -EINVAL for a mask or buffer that will not do, -EFAULT where
 * the instruction faulted. The buffer is all zero after an error of the instruction.
 */
int xsaves_nmi(void *buffer, u64 mask)
{
	int error;

	if (!in_nmi())
		return -EPERM;
	mask &= rfbm_user;
	if (!mask || !IS_ALIGNED((unsigned long)buffer, 64))
		return -EINVAL;
	error = save(buffer, mask);
	if (error)
		memset(buffer, 0, xsaves_nmi_length(mask));
	return error;
}

static void read_component(unsigned int nr)
{
	struct xsaves_nmi_component *c = &components[nr];
	u32 eax, ebx, ecx, edx;

	cpuid_count(0xd, nr, &eax, &ebx, &ecx, &edx);
	c->size = eax;
	c->offset = ecx & BIT(0) ? 0 : ebx;
	c->alignment = ecx & BIT(1) ? 64 : 1;
}

static void read_components(u64 present)
{
	unsigned int nr;

	/* x87 and SSE live in the legacy region, which CPUID does not list. */
	components[0] = (struct xsaves_nmi_component){ .size = 160, .offset = 0, .alignment = 1 };
	components[1] = (struct xsaves_nmi_component){ .size = 256, .offset = 160, .alignment = 1 };
	for (nr = 2; nr < 63; nr++)
		if (present & BIT_ULL(nr))
			read_component(nr);
}

static int choose_insn(const char *asked)
{
	u32 eax, ebx, ecx, edx;
	bool has[3] = { };
	int i;

	cpuid_count(0xd, 1, &eax, &ebx, &ecx, &edx);
	/* The kernel's own word first: "noxsaves" and the like hold for us as well. */
	has[XSAVES_NMI_XSAVES] = boot_cpu_has(X86_FEATURE_XSAVES) && eax & BIT(3);
	has[XSAVES_NMI_XSAVEC] = boot_cpu_has(X86_FEATURE_XSAVEC) && eax & BIT(1);
	has[XSAVES_NMI_XSAVE] = true;

	for (i = 0; i < ARRAY_SIZE(insn_names); i++) {
		if (strcmp(asked, "auto") && strcmp(asked, insn_names[i]))
			continue;
		if (has[i]) {
			insn = i;
			return 0;
		}
		if (strcmp(asked, "auto")) {
			pr_err("instruction=%s: this CPU or kernel does not have it\n", asked);
			return -EOPNOTSUPP;
		}
	}
	pr_err("instruction=%s: say auto, xsaves, xsavec or xsave\n", asked);
	return -EINVAL;
}

static int choose_mask(u64 asked, bool ssp)
{
	u64 xss = 0;

	if (asked & CET_USER) {
		pr_err("mask=%#llx: component 11 is saved with ssp=1, and by no mask\n", asked);
		return -EINVAL;
	}
	if (asked & ~ALLOWED) {
		pr_err("mask=%#llx: components %#llx are not saved by this module\n",
		       asked, asked & ~ALLOWED);
		return -EINVAL;
	}
	rfbm_kernel = (asked ? asked : VECTORS) & xcr0;
	if (!rfbm_kernel) {
		pr_err("mask=%#llx: none of it is enabled here (XCR0 %#llx)\n", asked, xcr0);
		return -EOPNOTSUPP;
	}
	rfbm_user = rfbm_kernel;
	if (!ssp)
		return 0;
	if (insn != XSAVES_NMI_XSAVES) {
		pr_err("ssp=1: a supervisor component needs XSAVES, not %s\n", insn_names[insn]);
		return -EOPNOTSUPP;
	}
	if (rdmsrq_safe(MSR_IA32_XSS, &xss) || !(xss & CET_USER)) {
		pr_err("ssp=1: user shadow stacks are not enabled here (IA32_XSS %#llx)\n", xss);
		return -EOPNOTSUPP;
	}
	read_component(11);
	rfbm_user |= CET_USER;
	return 0;
}

struct trial {
	atomic_t	error;
};

/* A CPU that disagrees about the image is found here, and not in an NMI. */
static void try_save(void *argument)
{
	struct trial *trial = argument;
	void *buffer = this_cpu_ptr(buffers);
	u64 *header = buffer + HEADER_OFFSET;
	int error;

	error = xgetbv(XCR_XFEATURE_ENABLED_MASK) == xcr0 ? save(buffer, rfbm_user) : -ENXIO;
	if (!error && insn != XSAVES_NMI_XSAVE && header[1] != (rfbm_user | XCOMP_COMPACTED))
		error = -ENXIO;
	if (!error && header[0] & ~rfbm_user)
		error = -ENXIO;
	memset(buffer, 0, buffer_bytes);
	if (error)
		atomic_set(&trial->error, error);
}

int xsaves_nmi_save_init(u64 mask, const char *asked_insn, bool ssp)
{
	struct trial trial = { .error = ATOMIC_INIT(0) };
	int error;

	if (boot_cpu_has(X86_FEATURE_XENPV)) {
		pr_err("a paravirtual Xen guest does not own its registers\n");
		return -EOPNOTSUPP;
	}
	if (!boot_cpu_has(X86_FEATURE_OSXSAVE)) {
		pr_err("this CPU or kernel has no XSAVE\n");
		return -EOPNOTSUPP;
	}
	xcr0 = xgetbv(XCR_XFEATURE_ENABLED_MASK);
	error = choose_insn(asked_insn);
	if (error)
		return error;
	read_components(xcr0 & ALLOWED);
	error = choose_mask(mask, ssp);
	if (error)
		return error;

	buffer_bytes = xsaves_nmi_length(rfbm_user);
	if (buffer_bytes > LENGTH_MAX) {
		pr_err("an image of %u bytes does not fit into a record\n", buffer_bytes);
		return -E2BIG;
	}
	buffers = __alloc_percpu(ALIGN(buffer_bytes, 64), 64);
	if (!buffers)
		return -ENOMEM;
	on_each_cpu(try_save, &trial, 1);
	error = atomic_read(&trial.error);
	if (error) {
		pr_err("%s of %#llx fails in a trial, or CPUs disagree about it (%d)\n",
		       insn_names[insn], rfbm_user, error);
		xsaves_nmi_save_exit();
	}
	return error;
}

void xsaves_nmi_save_exit(void)
{
	unsigned int cpu;

	for_each_possible_cpu(cpu)
		memzero_explicit(per_cpu_ptr(buffers, cpu), buffer_bytes);
	free_percpu(buffers);
	buffers = NULL;
}
