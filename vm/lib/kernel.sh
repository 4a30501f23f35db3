# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The kernel under test: the root's own, or one that is built from its source
# with vm/kernels/$KERNEL.config.
#
# Part of vm/vm.

# shellcheck disable=SC2034,SC2154 # variables of other parts

kernel_key()
{
	{
		cat "$here/kernels"/{base,"$kernel_name"}.config
		echo "${root##*/}"
		declare -f build_kernel
	} | sha256sum | cut -c1-12
}

# Runs inside the root: builds a kernel in /build/linux, and puts it and its
# modules where the root has them, but below /build/kernel.
build_kernel()
{
	local source release

	set -euo pipefail
	rm -rf /build/linux /build/kernel /build/src /build/sources
	mkdir /build/linux
	source=$(readlink /usr/src/linux-source)
	tar -xf "/usr/src/$source".tar.* -C /build/linux --strip-components=1 --no-same-owner \
		--exclude="$source"/drivers/gpu/drm/amd/include
	cd /build/linux
	# Debian exports it, upstream doesn't: compat.h has a way without.
	sed -i '/^EXPORT_SYMBOL.*(task_work_add);/d' kernel/task_work.c
	# For fail_function: failslab doesn't meet allocations that don't need a new chunk.
	sed -i -e '1i #include <linux/error-injection.h>' \
		-e 's/^EXPORT_SYMBOL.*(pcpu_alloc\w*);/&\nALLOW_ERROR_INJECTION(pcpu_alloc_noprof, NULL);/' \
		mm/percpu.c

	cat /src/vm/kernels/{base,"$1"}.config >wanted
	make -s KCONFIG_ALLCONFIG=wanted allnoconfig
	# An option that silently isn't there would be a test that can't fail.
	if grep '^CONFIG_' wanted | grep -vxF -f .config; then
		echo "the options above can't be set in this kernel"
		return 1
	fi

	make -s -j"$(nproc)" bzImage modules
	release=$(make -s kernelrelease)
	make -s INSTALL_MOD_PATH=/build/kernel modules_install
	mkdir /build/kernel/boot
	mv "$(make -s image_name)" "/build/kernel/boot/vmlinuz-$release"
	# Nothing is compiled from these any more, nor linked again.
	find . -name '*.[ao]' ! -path './scripts/*' ! -path './tools/*' -delete
	rm -rf vmlinux.unstripped .tmp_vmlinux*
}

make_kernel()
{
	local log

	log=$cache/log/$build_name-build.log
	mkdir -p "${log%/*}"
	rm -f "$build/kernel.key"
	say "building the kernel $kernel_name for $variant (once; 10 to 20 minutes)"
	in_root "$root" ro nice bash -c "$(declare -f build_kernel); build_kernel $kernel_name" \
		>"$log" 2>&1 </dev/null || {
		tail -n 25 "$log" | sed 's/^/  /' >&2
		die "could not build the kernel $kernel_name ($log)"
	}
	kernel_key >"$build/kernel.key"
}

# Sets $kernel, its release; $kernel_root, what /boot and /lib/modules are in,
# and $kernel_base, that from inside the root.
cmd_kernel()
{
	local lock

	cmd_root
	kernel_root=$booted kernel_base=$inside
	if [[ $kernel_name ]]; then
		exec {lock}>"$build.kernel-lock"
		flock "$lock"
		[[ $(cat "$build/kernel.key" 2>/dev/null) = "$(kernel_key)" ]] || make_kernel
		exec {lock}>&-
		kernel_root=$build/kernel kernel_base=/build/kernel
	fi
	kernel=$(find "$kernel_root/lib/modules/" -mindepth 1 -maxdepth 1 -printf '%f\n' |
		sort -V | tail -n 1)
	[[ $kernel ]] || die "no kernel in $kernel_root: run 'vm/vm clean' and try again"
}
