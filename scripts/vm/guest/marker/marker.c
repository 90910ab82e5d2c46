// SPDX-License-Identifier: GPL-2.0
/*
 * A trap for the machine room: reading /dev/xmm_marker fills all vector registers with a marker
 * between kernel_fpu_begin() and kernel_fpu_end() and stays there a while. A recording that holds
 * the marker has taken registers that were the kernel's.
 */
#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <asm/cpufeature.h>
#include <asm/fpu/api.h>

#define MARKER 0x4b52414d4e52454bULL	/* "KERNMARK" in memory order */

static unsigned int stay_us = 400;
module_param(stay_us, uint, 0444);
MODULE_PARM_DESC(stay_us, "microseconds spent inside kernel_fpu_begin()");

static atomic_long_t reads;

static u64 pattern[8] __aligned(64) = {
	MARKER, MARKER, MARKER, MARKER, MARKER, MARKER, MARKER, MARKER
};

static int reads_get(char *buffer, const struct kernel_param *kp)
{
	return sysfs_emit(buffer, "%ld\n", atomic_long_read(&reads));
}

static const struct kernel_param_ops reads_ops = { .get = reads_get };
module_param_cb(reads, &reads_ops, NULL, 0444);

/* The compiler is told nothing of the registers: kernel code keeps nothing in them. */
static void fill_avx512(void)
{
	asm volatile(".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,"
		     "26,27,28,29,30,31\n\t"
		     "vmovdqu64 (%0), %%zmm\\n\n\t"
		     ".endr\n\t"
		     ".irp n, 0,1,2,3,4,5,6,7\n\t"
		     "kmovq (%0), %%k\\n\n\t"
		     ".endr"
		     : : "r" (pattern) : "memory");
}

static void fill_avx(void)
{
	asm volatile(".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n\t"
		     "vmovdqu (%0), %%ymm\\n\n\t"
		     ".endr"
		     : : "r" (pattern) : "memory");
}

static ssize_t marker_read(struct file *file, char __user *to, size_t size, loff_t *at)
{
	kernel_fpu_begin();
	if (boot_cpu_has(X86_FEATURE_AVX512BW))
		fill_avx512();
	else if (boot_cpu_has(X86_FEATURE_AVX))
		fill_avx();
	udelay(stay_us);
	kernel_fpu_end();
	atomic_long_inc(&reads);
	return 0;
}

static const struct file_operations marker_fops = {
	.owner = THIS_MODULE,
	.read = marker_read,
};

static struct miscdevice marker_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "xmm_marker",
	.fops = &marker_fops,
	.mode = 0444,
};

module_misc_device(marker_device);
MODULE_DESCRIPTION("fills vector registers with a marker inside kernel_fpu_begin()");
MODULE_LICENSE("GPL");
