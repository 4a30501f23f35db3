# SPDX-License-Identifier: GPL-2.0-or-later
# kvm_throttle: everything starts here; `make help` lists what can be made.

# Without KDIR, the module is for the running kernel.
ifndef KDIR
running := $(shell uname -r)
KDIR := /lib/modules/$(running)/build
endif
PREFIX ?= /usr/local
SUITE ?= trixie
export SUITE

# What clang compiled takes clang's flags only.
llvm = $(if $(LLVM),,$(if $(shell grep -s '^CONFIG_CC_IS_CLANG=y' \
	$(or $(O),$(KDIR))/include/config/auto.conf),LLVM=1))
KBUILD = $(MAKE) -C $(KDIR) M=$(CURDIR) $(llvm)

# Its headers may be gone by the time that the module is removed.
release = $(or $(shell cat $(or $(O),$(KDIR))/include/config/kernel.release 2>/dev/null),$(running))

##@ Building and installing (seconds)

.PHONY: all modules probe
all: modules			## the module, for the running kernel or KDIR
modules:
	@compat/check-tree $(or $(O),$(KDIR)) $(running)
	+$(KBUILD) modules
probe:				## just find out what the kernel has (kvt_chosen.h)
	@compat/check-tree $(or $(O),$(KDIR)) $(running)
	+$(KBUILD) KVT_PROBE=y modules

.PHONY: tools
tools:				## the kvm-throttle command, its tests, the example
	$(MAKE) -C tools all tests
	$(MAKE) -C tools/meter
	$(MAKE) -C examples

.PHONY: selftests
selftests:			## the kselftests (KSRC: a kernel source tree)
	$(MAKE) -C selftests

.PHONY: migration-guest
migration-guest:
	$(MAKE) -C bench/migration

.PHONY: simulator
simulator:
	$(MAKE) -C bench/converge

.PHONY: bench-peers
bench-peers: selftests
	$(MAKE) -C bench/peers

rules := $(DESTDIR)$(PREFIX)/lib/udev/rules.d/60-kvm-throttle.rules

.PHONY: install uninstall
install: modules		## install the module, and the command if it was made
	+$(KBUILD) INSTALL_MOD_DIR=updates modules_install
	install -D -m 644 udev/60-kvm-throttle.rules $(rules)
	$(if $(wildcard tools/kvm-throttle),$(MAKE) -C tools install)
	$(if $(wildcard tools/meter/kvm-throttle-meter),$(MAKE) -C tools/meter install)
uninstall:			## remove what install has installed, for the same kernel
	@test "$(release)" || { echo "there is no kernel in KDIR=$(KDIR): give the one that it was installed for" >&2; exit 1; }
	rm -f $(INSTALL_MOD_PATH)/lib/modules/$(release)/updates/kvm_throttle.ko*
	$(if $(INSTALL_MOD_PATH),,depmod $(release))
	rm -f $(rules)
	$(MAKE) -C tools uninstall
	$(MAKE) -C tools/meter uninstall

.PHONY: install-tools
install-tools:			## install the command alone; needs no kernel headers
	$(MAKE) -C tools install
	$(if $(wildcard tools/meter/kvm-throttle-meter),$(MAKE) -C tools/meter install)

.PHONY: clean
clean:				## remove what was made here, but nothing in .cache
	$(if $(wildcard $(KDIR)/Makefile),+$(KBUILD) clean)
	$(MAKE) -C tools clean
	$(MAKE) -C tools/meter clean
	$(MAKE) -C bench/migration clean
	$(MAKE) -C bench/converge clean
	$(MAKE) -C bench/peers clean
	$(MAKE) -C selftests clean
	$(MAKE) -C examples clean

##@ Testing; all but `test` make a Debian root and QEMU in .cache once (3 GB, 10 to 20 minutes)

.PHONY: test
test:				## what needs no VM: the command, the example (seconds)
	$(MAKE) -C tools check
	$(MAKE) -C examples check

.PHONY: vm
vm:
	vm/vm build

.PHONY: check
check: vm			## all tests (half an hour): ends in N passed, N failed
	vm/check

.PHONY: check-smp
check-smp: vm			## tests on four CPUs, in lockstep
	vm/check smp

.PHONY: check-exact check-seeds
check-exact: vm			## whether two runs on four CPUs are the same, byte for byte
	vm/check-exact

check-seeds: vm			## random operations on four CPUs, in ten orders
	vm/check-seeds

.PHONY: qemu
qemu:				## QEMU with the patches of qemu/ (30 minutes, once)
	qemu/build

.PHONY: check-kvm
check-kvm: vm			## KVM's own selftests, each also with its VMs throttled
	vm/check-kvm

.PHONY: check-guest
check-guest: vm			## what a throttled Linux guest sees: steal time, warnings
	vm/check-guest

.PHONY: check-debug
check-debug:			## selftests on debug kernels (1 to 2 hours)
	vm/check-debug

.PHONY: lint
lint:				## static analysis, licences; part of check (minutes)
	vm/vm build
	vm/vm chroot /src/vm/lint

.PHONY: deb check-packages
deb: vm				## Debian packages, made and checked in the VM's root (minutes)
	vm/vm chroot /src/vm/build-packages
.PHONY: rpm
rpm: vm				## RPM packages, made and checked in the VM's root
	vm/vm chroot /src/vm/build-rpm
check-packages: vm		## tests of DKMS and of the packages
	vm/check-packages

##@ Demonstrations and measurements, in the same machine (made once: 3 GB, 10 to 20 minutes)

.PHONY: demo
demo: vm			## how exact it is, with a Linux guest (3 minutes)
	vm/demo

.PHONY: check-migration demo-migration bench-migration
check-migration: vm qemu	## tests of the patched QEMU and of live migration with it
	vm/check migration
demo-migration: vm qemu	## a migration with it and with stock QEMU: a table and a picture
	bench/migration/run demo
bench-migration: vm qemu	## three of those, and the goals
	bench/migration/run bench

.PHONY: simulate-converge bench-converge
simulate-converge:		## when and how much to throttle, simulated (seconds)
	bench/converge/run simulate
bench-converge: vm		## kvm-throttle converge against auto-converge (half an hour)
	bench/converge/run bench --runs 3

.PHONY: bench
bench: vm			## all ways to throttle a VM (1 to 2 hours; QUICK=1: 10 minutes)
	bench/peers/run $(if $(QUICK),--quick)

.PHONY: help
help:				## this list
	@sed -nE -e 's/^##@ (.*)/\n\1/p' -e 's/^([a-z-]+):[^#]*## /  \1\t/p' Makefile | \
		expand -t 22
