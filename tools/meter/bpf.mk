# SPDX-License-Identifier: GPL-2.0-or-later
# How BPF programs become C: %.skel.h has what is compiled from %.bpf.c, and
# functions that load it. Included by makefiles; BPF_ARCH is the kernel's name for
# the architecture that will run them.

BPF_CLANG ?= clang
BPFTOOL ?= $(firstword $(wildcard /usr/sbin/bpftool /usr/local/sbin/bpftool) bpftool)
BPF_ARCH ?= $(subst aarch64,arm64,$(subst x86_64,x86,$(shell uname -m)))

# The C library's headers ask for 32 bits where the target isn't known.
%.bpf.o: %.bpf.c
	$(BPF_CLANG) -std=gnu11 -O2 -g -Wall -Wextra -Wno-unused-parameter \
		-target bpf -mcpu=v3 -D__TARGET_ARCH_$(BPF_ARCH) \
		-I/usr/include/$(shell uname -m)-linux-gnu $(BPF_CPPFLAGS) \
		-c $< -o $@

%.skel.h: %.bpf.o
	$(BPFTOOL) gen skeleton $< name $(basename $(basename $(notdir $<)))_bpf >$@.new
	mv $@.new $@
