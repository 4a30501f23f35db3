/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How a guest that guest.S has brought to main() starts its other vCPUs. */
#ifndef APIC_H
#define APIC_H

#include "guest.h"

#define APIC_SPURIOUS	((volatile unsigned int *)0xfee000f0)
#define APIC_ENABLE	(1 << 8)
#define APIC_ICR	((volatile unsigned int *)0xfee00300)
#define APIC_ICR_TO	((volatile unsigned int *)0xfee00310)
#define ICR_INIT	0x4500
#define ICR_STARTUP	0x4600

static inline void start_vcpu(unsigned int id)
{
	*APIC_SPURIOUS |= APIC_ENABLE;
	*APIC_ICR_TO = id << 24;
	*APIC_ICR = ICR_INIT;
	*APIC_ICR_TO = id << 24;
	*APIC_ICR = ICR_STARTUP | IMAGE / PAGE;
}

#endif
