# SPDX-License-Identifier: GPL-2.0-or-later
# How BPF programs become C: x.bpf.c is compiled to x.bpf.o, and of that x.skel.h
# is made, which has it and functions that load it. Included by makefiles.
#
# BPF_ARCH is the kernel's name for the architecture that will run them. bpf_works
# is empty if what it takes isn't here.

BPF_CLANG ?= clang
BPFTOOL ?= $(firstword $(wildcard /usr/sbin/bpftool /usr/local/sbin/bpftool) bpftool)
BPF_ARCH ?= $(subst aarch64,arm64,$(subst x86_64,x86,$(or $(ARCH),$(shell uname -m))))
PKG_CONFIG ?= pkg-config

bpf_works := $(and $(shell $(PKG_CONFIG) --exists libbpf && echo yes),\
	$(shell command -v $(BPF_CLANG)),$(shell command -v $(BPFTOOL)))

# clang's default for this target has none of this machine's headers.
bpf_compile = $(BPF_CLANG) -std=gnu11 -O2 -g -Wall -Wextra -Wno-unused-parameter \
	-target bpf -mcpu=v3 -D__TARGET_ARCH_$(BPF_ARCH) \
	-I/usr/include/$(shell uname -m)-linux-gnu -c $< -o $@
bpf_skeleton = $(BPFTOOL) gen skeleton $< name $(*F)_bpf >$@.new && mv $@.new $@
