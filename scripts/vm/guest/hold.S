/*
 * Registers loaded from a table, held through a loop between NAME_begin and NAME_end, and stored.
 * Between the two labels no instruction writes a vector register or an opmask: what a snapshot
 * holds whose IP lies there is known to the bit.
 *
 * rdi in, rsi out, rdx turns, rcx call, r8 upkeep (hold.h)
 */
	.section .rodata
	.balign 64
initial:	/* an XSAVE area whose header names no component: XRSTOR makes all initial */
	.fill 24, 1, 0
	.long 0x1f80, 0xffff	/* MXCSR is loaded from here all the same (SDM 13.8.1) */
	.fill 512 - 32 + 64, 1, 0
	.fill 4096, 1, 0

	.macro load_avx base
	.irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	vmovdqu 64 * \i(\base), %ymm\i
	.endr
	.endm

	.macro store_avx base
	.irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	vmovdqu %ymm\i, 64 * \i(\base)
	.endr
	.endm

	.macro load_avx512 base
	.irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
	vmovdqu64 64 * \i(\base), %zmm\i
	.endr
	.irp i, 0, 1, 2, 3, 4, 5, 6, 7
	kmovq 2048 + 8 * \i(\base), %k\i
	.endr
	.endm

	.macro store_avx512 base
	.irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
	vmovdqu64 %zmm\i, 64 * \i(\base)
	.endr
	.irp i, 0, 1, 2, 3, 4, 5, 6, 7
	kmovq %k\i, 2048 + 8 * \i(\base)
	.endr
	.endm

	.macro body name, isa
	.text
	.globl \name, \name\()_begin, \name\()_end
	.type \name, @function
\name:
	load_\isa %rdi
	cmp	$1, %r8
	jb	3f
	je	2f
	mov	%rdx, %r9
	mov	$0xe6, %eax
	xor	%edx, %edx
	xrstor64 initial(%rip)
	mov	%r9, %rdx
	jmp	3f
2:	vzeroupper
3:	mov	%rdx, %r9
	mov	%rcx, %r10
	mov	%rsi, %r8
	cmpq	$0, (%r10)
	jge	5f
\name\()_begin:
4:	add	$1, %rax
	lea	(%rax, %rax, 2), %rcx
	xor	%rcx, %rax
	dec	%r9
	jnz	4b
	jmp	6f
5:	mov	(%r10), %rax
	mov	8(%r10), %rdi
	mov	16(%r10), %rsi
	mov	24(%r10), %rdx
	syscall			/* keeps all but rax, rcx, r11 */
	dec	%r9
	jnz	5b
	nop
\name\()_end:
6:	nop
	store_\isa %r8
	vzeroupper
	ret
	.size \name, . - \name
	.endm

	body hold_avx, avx
	body hold_avx512, avx512
	body handle_avx, avx
	body handle_avx512, avx512

	.section .note.GNU-stack, "", @progbits
