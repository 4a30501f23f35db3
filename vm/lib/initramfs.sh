# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What the kernel boots into: vm/init, with the modules without which the root
# cannot be mounted.
#
# Part of vm/vm.

# shellcheck disable=SC2034,SC2154 # variables of other parts

# Runs inside the root; writes the initramfs to standard output. The modules of
# the kernel $2 below $1 go in with all that they depend on, unpacked, in the
# order to load them: $4 and so on; busybox is that of the root $3.
pack_initramfs()
{
	local dir module path

	set -euo pipefail
	dir=$(mktemp -d)
	mkdir -p "$dir"/{bin,dev,proc,sys,modules,lower,upper,new}
	cp "$3/bin/busybox" "$dir/bin"
	cat >"$dir/init"
	chmod 755 "$dir/init"
	cd "$1/lib/modules/$2"
	for module in "${@:4}"; do
		# One line a module: its file, then what it needs, nearest first.
		# Not there: built in.
		awk -v m="$module" -F '[: ]+' '{
			name = $1; sub(/.*\//, "", name); sub(/\..*/, "", name); gsub(/-/, "_", name)
			if (name == m) for (i = NF; i >= 1; i--) if ($i) print $i }' modules.dep
	done | awk '!seen[$0]++' | while read -r path; do
		module=$(basename "$path")
		case $path in
		*.xz) xz -dc "$path" ;;
		*.zst) zstd -qdc "$path" ;;
		*) cat "$path" ;;
		esac >"$dir/modules/${module%%.*}.ko"
		# Drops the signature: checking it takes 0.3 s a module in emulation.
		"${CROSS_COMPILE-}objcopy" "$dir/modules/${module%%.*}.ko"
		echo "${module%%.*}.ko"
	done >"$dir/modules/load"
	cd "$dir"
	find . | cpio --quiet -o -H newc
	rm -rf "$dir"
}

# Sets $initramfs.
make_initramfs()
{
	local key temp

	key=$( { cat "$here/init"; declare -f pack_initramfs; echo "${machine_modules[@]}"; } | sha256sum | cut -c1-12)
	initramfs=$kernel_root.initramfs${host:+-$host}-$key
	[[ ! -e $initramfs ]] || return 0
	temp=$(mktemp "$run_dir/initramfs.XXXXXX")
	in_root "$root" ro env "${cross[@]}" bash -c \
		"$(declare -f pack_initramfs); pack_initramfs '$kernel_base' $kernel '$inside' ${machine_modules[*]}" \
		<"$here/init" >"$temp" || die "could not make the initramfs"
	mv "$temp" "$initramfs"
	# Another run may make this one too: never be without it.
	find "${kernel_root%/*}" -maxdepth 1 -path "${initramfs%-*}-????????????" \
		! -path "$initramfs" -delete
}
