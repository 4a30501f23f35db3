/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How a vCPU of the guest comes from reset to main(): it is in real mode, in the
 * ROM at the end of the address space, or if it isn't the first one in the copy
 * of the image that the first one has made in memory.
 */
#include "guest.h"

#define MSR_APIC_BASE		0x1b
#define APIC_BASE_BSP		(1 << 8)
#define CR0_PE			1
#define CODE			8
#define DATA			16

/* Where it is in the ROM. */
#define IN_ROM(symbol)		(symbol - IMAGE + ROM)

	.section .start, "ax"
	.code16
start:
	cli
	lgdtl	%cs:gdt_register - start
	movl	%cr0, %eax
	orl	$CR0_PE, %eax
	movl	%eax, %cr0
	ljmpl	$CODE, $IN_ROM(start32)

	.code32
start32:
	movl	$DATA, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss
	movl	$MSR_APIC_BASE, %ecx
	rdmsr
	testl	$APIC_BASE_BSP, %eax
	jz	1f
	cld
	movl	$ROM, %esi
	movl	$IMAGE, %edi
	movl	$(IMAGE_SIZE / 4), %ecx
	rep movsl
1:
	/* Each has a page of stack, by its APIC ID. */
	movl	$1, %eax
	cpuid
	shrl	$24, %ebx
	movl	%ebx, %eax
	incl	%eax
	shll	$12, %eax
	leal	STACKS(%eax), %esp
	pushl	%ebx
	pushl	$0
	movl	$main, %eax
	jmp	*%eax

	.balign 8
gdt:
	.quad	0
	.quad	0x00cf9b000000ffff
	.quad	0x00cf93000000ffff
gdt_register:
	.word	. - gdt - 1
	.long	IN_ROM(gdt)

	.section .reset, "ax"
	.code16
	jmp	start
	.balign	16

	.section .note.GNU-stack, "", @progbits
