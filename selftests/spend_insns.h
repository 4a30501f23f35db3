/* SPDX-License-Identifier: GPL-2.0 */
/*
 * How a guest, or a task, keeps its CPU at work.
 */
#ifndef SPEND_INSNS_H
#define SPEND_INSNS_H

/**
 * spend_insns() - execute a hundred instructions
 *
 * Straight ahead: the emulator of vm/vm translates up to the next jump, and what it does
 * there takes longer than all of them.
 */
static inline void spend_insns(void)
{
	asm volatile(".rept 100\n\tnop\n\t.endr");
}

#endif /* SPEND_INSNS_H */
